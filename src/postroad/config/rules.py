"""What a usable configuration must fulfil beyond its types; pure, so that any machine can judge any file.

`RULES` is read top to bottom: each rule looks at one group of keys and yields what is wrong. A complaint that is not
fatal is a hint: the server runs, but somebody will wonder.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Final

from postroad.config import Config, Limits, Retry
from postroad.config.endpoints import (
    Endpoint,
    is_address,
    is_hostname,
    parse_endpoint,
    parse_milter,
    parse_nameserver,
)
from postroad.config.problems import Complaint, closest
from postroad.values.address import Address, AddressError, domain_to_ascii
from postroad.values.next_hop import parse_next_hop

SERVICES: Final = {
    "mx": 25,
    "submission": 587,
    "submissions": 465,
    "imap": 143,
    "imaps": 993,
    "pop3": 110,
    "pop3s": 995,
}
"""Services people connect to, with their usual ports."""
LOGIN_SERVICES: Final = ("submission", "imap", "pop3")
"""Services that meet passwords before TLS, when `insecure_auth` lets them."""

_USUAL_PORTS: Final = SERVICES | {"lmtp": 24, "metrics": 9925, "http": 80, "alpn": 443}

LOG_FORMATS: Final = ("auto", "text", "json")
MILTER_FAILURES: Final = ("tempfail", "accept", "reject")
MILTER_PATIENCE_S: Final = 20.0
"""A command is answered within 30 s, for the reason of RFC 1047, and others need some of them too."""
UNDECIDED: Final = ("defer", "accept")
POLICY_MOST_S: Final = 10.0
"""A policy that may take longer would use up what a final dot may take, which other checks need too."""
DELIMITERS: Final = "+-_=.#~"
DAY_S: Final = 86400.0
RECIPIENTS_LEAST: Final = 100
"""RFC 5321 section 4.5.3.1.8: "The minimum total number of recipients that MUST be buffered is 100 recipients"."""
SOCKET_PATH_MAX: Final = 107
"""Octets that unix(7) has room for."""

Rule = Callable[[Config], Iterator[Complaint]]


def complaints(config: Config) -> Iterator[Complaint]:
    """What every rule says of a configuration, in the order of the rules."""
    for rule in RULES:
        yield from rule(config)


def _hostname(config: Config) -> Iterator[Complaint]:
    name = config.hostname
    if not name:
        return
    if is_address(name):
        yield Complaint(("hostname",), f'"{name}" is an address, not a name', "Write the name that points to it")
    elif not name.isascii():
        yield Complaint(("hostname",), f'"{name}" has letters outside ASCII', f'Write "{_idna(name)}"')
    elif not is_hostname(name):
        yield Complaint(("hostname",), f'"{name}" is not a host name', 'Write it as "mail.example.org"')
    elif "." not in name:
        yield Complaint(
            ("hostname",),
            f'"{name}" has no domain, and other servers distrust such a greeting',
            f'Write it as "{name}.example.org"',
            fatal=False,
        )


def _idna(name: str) -> str:
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        return "mail.example.org"


def _data_dir(config: Config) -> Iterator[Complaint]:
    folder = config.data_dir
    if not folder.startswith("/") or "\0" in folder:
        yield Complaint(("data_dir",), f'"{folder}" is not an absolute path', 'Write it as "/var/lib/postroad"')
    elif not folder.strip("/"):
        yield Complaint(("data_dir",), "the root folder cannot hold the mail", 'Write it as "/var/lib/postroad"')


def _listen(config: Config) -> Iterator[Complaint]:
    """Every address parses and no two services want the same one."""
    taken: dict[Endpoint, str] = {}
    for service in (*SERVICES, "metrics"):
        written = getattr(config.listen, service)
        for text in (written,) if isinstance(written, str) else written:
            if not text and service == "metrics":
                continue
            yield from _one_listener(("listen", service), text, taken)
    for name in ("http", "alpn") if config.acme.names else ():
        if getattr(config.acme, name):
            yield from _one_listener(("acme", name), getattr(config.acme, name), taken)
    for text in config.listen.lmtp:
        if text.startswith("/"):
            yield from _socket(("listen", "lmtp"), text, "lmtp.sock")
            continue
        yield from _one_listener(("listen", "lmtp"), text, taken)
        if text.endswith(":25"):
            # RFC 2033 section 5: "it MUST NOT be used on the TCP service port 25"
            yield Complaint(("listen", "lmtp"), "port 25 is that of SMTP, never of LMTP", 'Write "127.0.0.1:24"')
        if not _loopback(_host(text)):
            what = f"{text} delivers to every mailbox without a login, to whomever reaches it"
            fix = 'Write a path, or "127.0.0.1:24", unless a firewall stands before it'
            yield Complaint(("listen", "lmtp"), what, fix, fatal=False)
    if not any(getattr(config.listen, service) for service in (*SERVICES, "lmtp")):
        yield Complaint(("listen",), "no service is offered at all", 'Give at least one an address: mx = [":25"]')


def _one_listener(path: tuple[str, str], text: str, taken: dict[Endpoint, str]) -> Iterator[Complaint]:
    try:
        place = parse_endpoint(text, every_host=True, port_zero=True, example=_USUAL_PORTS[path[1]])
    except ValueError as error:
        yield _said(path, error)
        return
    if place.host not in ("", "localhost") and not is_address(place.host):
        fix = f'Write an address of this machine, or ":{place.port}" for all'
        yield Complaint(path, f'"{place.host}" is a name, and listening needs an address', fix)
        return
    for other, owner in taken.items() if place.port else ():
        if other.port == place.port and (other.host == place.host or not other.host or not place.host):
            what = f"{text} is already taken by {owner}"
            yield Complaint(path, what, "Give each service a port of its own")
            return
    taken[place] = ".".join(path)
    if path[1] == "metrics" and not _loopback(place.host):
        what = f"{text} shows the figures of this server to the network"
        yield Complaint(path, what, f'Write "127.0.0.1:{place.port}" unless a firewall stands before it', fatal=False)


def _proxies(config: Config) -> Iterator[Complaint]:
    """Who is believed about clients is listed by name, never the whole world."""
    for name in ("proxy_from", "xclient_from"):
        path = ("listen", name)
        for text in getattr(config.listen, name):
            wrong = _network(path, text)
            if wrong:
                yield wrong
            elif ipaddress.ip_network(text).prefixlen == 0:
                what = f'"{text}" believes the whole world about who it is'
                yield Complaint(path, what, "Name the addresses of your proxies only")
    yield from _proxies_that_relay(config)


def _proxies_that_relay(config: Config) -> Iterator[Complaint]:
    for text in config.listen.proxy_from:
        for other in config.relay.relay_from:
            if _network(("listen", "proxy_from"), text) or _network(("relay", "relay_from"), other):
                continue
            proxy, relay = ipaddress.ip_network(text), ipaddress.ip_network(other)
            if proxy.version == relay.version and proxy.overlaps(relay):
                what = f'"{text}" is also in relay.relay_from: a client that the proxy cannot name may relay'
                yield Complaint(("listen", "proxy_from"), what, "Keep proxies out of relay.relay_from", fatal=False)


def _passwords(config: Config) -> Iterator[Complaint]:
    """`insecure_auth` only where nobody can listen."""
    if not config.insecure_auth:
        return
    for service in LOGIN_SERVICES:
        for text in getattr(config.listen, service):
            if _loopback(_host(text)):
                continue
            what = f"passwords would cross the network unprotected on listen.{service} ({text})"
            yield Complaint(("insecure_auth",), what, f'Remove it, or let {service} listen on "127.0.0.1" only')


def _tls(config: Config) -> Iterator[Complaint]:
    for have, lack in (("certificate", "key"), ("key", "certificate")):
        if getattr(config.tls, have) and not getattr(config.tls, lack):
            yield Complaint(
                ("tls", have), f"tls.{lack} is missing", "Name both files, or neither for a self-signed one"
            )
    for name in ("certificate", "key"):
        path = getattr(config.tls, name)
        if path and not path.startswith("/"):
            yield Complaint(("tls", name), f'"{path}" is not an absolute path', f'Write it as "/etc/postroad/{path}"')


def _acme(config: Config) -> Iterator[Complaint]:
    """Names that an authority can check, and everything it needs to be told."""
    acme = config.acme
    if not acme.names:
        if acme.agree_terms:
            fix = 'Name the hosts of the certificate: names = ["mail.example.org"]'
            yield Complaint(("acme", "names"), "the list is empty, so no certificate is asked for", fix, fatal=False)
        return
    for name in acme.names:
        yield from _certifiable(name)
    if not acme.agree_terms:
        what = "a certificate is asked for, but the terms of the authority are not agreed to"
        yield Complaint(("acme", "agree_terms"), what, "Read them, then write agree_terms = true")
    if config.tls.certificate:
        what = "there is a certificate of your own, and ACME would get another one"
        yield Complaint(("tls", "certificate"), what, "Remove tls.certificate and tls.key, or acme.names")
    if not (acme.http or acme.alpn):
        what = "no challenge of the authority could be answered"
        yield Complaint(("acme", "http"), what, 'Write http = ":80", or alpn = ":443"')
    if config.hostname and config.hostname.lower() not in [name.lower() for name in acme.names]:
        what = f"{config.hostname}, the hostname, is not among them"
        yield Complaint(("acme", "names"), what, "Add it; mail programs and other servers look for it", fatal=False)
    yield from _authority(config)


def _certifiable(name: str) -> Iterator[Complaint]:
    path = ("acme", "names")
    if name.startswith("*."):
        what = f'"{name}" would need a change in DNS at each renewal, which is not offered here'
        yield Complaint(path, what, "Name each host, or get the certificate by another program and set tls.certificate")
    elif not name.isascii():
        yield Complaint(path, f'"{name}" has letters outside ASCII', f'Write "{_idna(name)}"')
    elif is_address(name) or not is_hostname(name) or "." not in name or name.endswith("."):
        yield Complaint(path, f'"{name}" is not a full host name', 'Write it as "mail.example.org"')


def _authority(config: Config) -> Iterator[Complaint]:
    acme = config.acme
    scheme, _, rest = acme.directory.partition("://")
    # RFC 8555 section 6.1: "Use of HTTPS is REQUIRED"
    if scheme != "https" or not rest.partition("/")[0]:
        fix = "Write the directory of the authority, which begins with https://"
        yield Complaint(("acme", "directory"), f'"{acme.directory}" is not the URL of an authority', fix)
    if acme.contact and ("@" not in acme.contact or ":" in acme.contact or not acme.contact.isascii()):
        what = f'"{acme.contact}" is not a mail address'
        yield Complaint(("acme", "contact"), what, 'Write it as "postmaster@example.org"')
    for name in ("ca_file", "binding_key_file"):
        path = getattr(acme, name)
        if path and not path.startswith("/"):
            yield Complaint(("acme", name), f'"{path}" is not an absolute path', f'Write it as "/etc/postroad/{path}"')
    for have, lack in (("binding_id", "binding_key_file"), ("binding_key_file", "binding_id")):
        if getattr(acme, have) and not getattr(acme, lack):
            yield Complaint(("acme", have), f"acme.{lack} is missing", "Write both, or neither without such an account")


def _socket(path: tuple[str, str], text: str, example: str) -> Iterator[Complaint]:
    if not text.startswith("/") or "\0" in text:
        fix = f'Write it as "/run/postroad/{example}"'
        yield Complaint(path, f'"{text}" is not the path of a unix socket', fix)
    elif len(os.fsencode(text)) > SOCKET_PATH_MAX:
        what = f'"{text}" is longer than the {SOCKET_PATH_MAX} octets that a unix socket may have'
        yield Complaint(path, what, f'Write a shorter one, such as "/run/postroad/{example}"')


def _local(config: Config) -> Iterator[Complaint]:
    """Paths that can be a socket and a folder, and grants that name addresses."""
    for text in config.listen.local:
        yield from _socket(("listen", "local"), text, "submit.sock")
    maildrop = config.local.maildrop
    if maildrop and (not maildrop.startswith("/") or "\0" in maildrop):
        fix = 'Write it as "/var/spool/postroad/maildrop"'
        yield Complaint(("local", "maildrop"), f'"{maildrop}" is not an absolute path', fix)
    for user, text in config.local.senders.items():
        for word in text.replace(",", " ").split() or [""]:
            try:
                domain_to_ascii(word[1:]) if word.startswith("@") else Address.parse(word, utf8=True)
            except AddressError:
                what = f'"{word}" is neither an address nor "@" and a domain'
                fix = 'Write them as "shop@example.org @shop.example.org"'
                yield Complaint(("local", "senders", user), what, fix)


def _milter(config: Config) -> Iterator[Complaint]:
    """Places that can be called, and patience that ends before the client's."""
    milter = config.milter
    for name in ("mx", "submission"):
        seen: set[str] = set()
        for text in getattr(milter, name):
            try:
                place = str(parse_milter(text))
            except ValueError as error:
                yield _said(("milter", name), error)
                continue
            if place in seen:
                yield Complaint(("milter", name), f"{text} stands there twice", "Name each milter once")
            seen.add(place)
    if milter.on_failure not in MILTER_FAILURES:
        meant = closest(milter.on_failure, MILTER_FAILURES)
        fix = f'Did you mean "{meant}"?' if meant else 'Write "tempfail", "accept" or "reject"'
        yield Complaint(("milter", "on_failure"), f'"{milter.on_failure}" is no way to go on', fix)
    for name in ("timeout_connect_s", "timeout_command_s", "timeout_content_s"):
        seconds = getattr(milter, name)
        if seconds > MILTER_PATIENCE_S:
            what = f"{seconds:g} s is longer than a client is kept waiting for the answer to one command"
            yield Complaint(("milter", name), what, f"Write {MILTER_PATIENCE_S:g} or less")


def _who_may_relay(config: Config) -> Iterator[Complaint]:
    path = ("relay", "relay_from")
    for text in config.relay.relay_from:
        wrong = _network(path, text)
        if wrong:
            yield wrong
            continue
        network = ipaddress.ip_network(text)
        if network.prefixlen == 0:
            what = f'"{text}" lets the whole world send through this server'
            yield Complaint(path, what, "Name your own networks; such a server is abused within hours")
        elif not network.is_private and network.prefixlen < (16 if network.version == 4 else 32):
            what = f'"{text}" is a large public network, and all of it may send through this server'
            yield Complaint(path, what, "Name only the addresses that are yours", fatal=False)


def _next_hops(config: Config) -> Iterator[Complaint]:
    relay = config.relay
    if relay.next_hop:
        yield from _hop(("relay", "next_hop"), relay.next_hop)
    for domain, hop in relay.routes.items():
        path = ("relay", "routes", domain)
        if not is_hostname(domain) or domain != domain.lower():
            fix = f'Write "{domain.lower()}"' if is_hostname(domain) else 'Write the part after the @: "example.org"'
            yield Complaint(path, f'"{domain}" is not a domain in small letters', fix)
        yield from _hop(path, hop)


def _hop(path: tuple[str, ...], text: str) -> Iterator[Complaint]:
    try:
        if text.startswith(("lmtp:", "smtps:")):
            parse_next_hop(text)
        else:
            parse_endpoint(text)
    except ValueError as error:
        yield _said(path, error)


def _providers_file(config: Config) -> Iterator[Complaint]:
    path = config.relay.providers_file
    if path and not path.startswith("/"):
        fix = f'Write it as "/etc/postroad/{path}"'
        yield Complaint(("relay", "providers_file"), f'"{path}" is not an absolute path', fix)


TLS_WORDS: Final = ("none", "may", "encrypt", "verify")


def _tls_policy(config: Config) -> Iterator[Complaint]:
    """Levels that exist for domains that can be meant, and a sender of reports that is an address."""
    relay = config.relay
    for domain, word in relay.tls_policy.items():
        path = ("relay", "tls_policy", domain)
        name = domain.removeprefix(".")
        if not is_hostname(name) or name != name.lower():
            fix = f'Write "{domain.lower()}"' if is_hostname(name) else 'Write the part after the @: "example.org"'
            yield Complaint(path, f'"{domain}" is not a domain in small letters', fix)
        if word not in TLS_WORDS:
            meant = closest(word, TLS_WORDS)
            fix = f'Did you mean "{meant}"?' if meant else f"Write one of {', '.join(TLS_WORDS)}"
            yield Complaint(path, f'"{word}" is no level of protection', fix)
        elif not relay.tls and word in ("encrypt", "verify"):
            what = f'"{word}" needs TLS, and relay.tls = false switches it off for all mail'
            yield Complaint(path, what, 'Write relay.tls = true, and "none" for the domains that are to do without')
    if relay.tls_reports:
        try:
            Address.parse(relay.tls_reports)
        except AddressError:
            what = f'"{relay.tls_reports}" is not a mail address'
            yield Complaint(("relay", "tls_reports"), what, 'Write it as "tls-reports@example.org"')


def _private(config: Config) -> Iterator[Complaint]:
    for text in config.relay.allow_private:
        wrong = _network(("relay", "allow_private"), text)
        if wrong:
            yield wrong


def _bind(config: Config) -> Iterator[Complaint]:
    relay = config.relay
    for text in relay.bind:
        if not is_address(text):
            what = f'"{text}" is not an IP address'
            yield Complaint(("relay", "bind"), what, "Write an address of this machine, without a port")
    for address, name in relay.ehlo_names.items():
        path = ("relay", "ehlo_names", address)
        if not is_address(address):
            yield Complaint(path, f'"{address}" is not an IP address', 'Write it as "192.0.2.10" = "out1.example.org"')
        elif relay.bind and address not in relay.bind:
            yield Complaint(path, f"{address} is not in relay.bind", "Add it there, or remove its name", fatal=False)
        if not is_hostname(name) or "." not in name:
            yield Complaint(path, f'"{name}" is not a host name', "Write the name that its PTR record leads to")


def _return_paths(config: Config) -> Iterator[Complaint]:
    for domain in config.relay.return_paths:
        if not is_hostname(domain) or domain != domain.lower():
            fix = f'Write "{domain.lower()}"' if is_hostname(domain) else 'Write the part after the @: "example.org"'
            yield Complaint(("relay", "return_paths"), f'"{domain}" is not a domain in small letters', fix)


def _retry(config: Config) -> Iterator[Complaint]:
    delays, path = config.retry.delays_s, ("retry", "delays_s")
    if not delays:
        yield Complaint(path, "the list is empty", "Write at least one waiting time in seconds: [300]")
        return
    for before, after in itertools.pairwise(delays):
        if after < before:
            yield Complaint(path, f"{after:g} follows {before:g}", "Let waiting times grow, or stay the same")
            break
    life = config.retry.lifetime_s
    if delays[0] >= life:
        what = f"the first retry after {delays[0]:g} s comes after the mail's end ({life:g} s)"
        yield Complaint(path, what, "Make the first waiting time shorter than retry.lifetime_s")
    warn = config.retry.warn_after_s
    if warn >= life and warn != Retry().warn_after_s:
        what = f"a warning after {_span(warn)} never comes: mail ends after {_span(life)}"
        yield Complaint(("retry", "warn_after_s"), what, "Make it shorter than retry.lifetime_s", fatal=False)
    if life < 4 * DAY_S:
        # RFC 5321 section 4.5.4.1: "the give-up time generally needs to be at least 4-5 days"
        what = f"mail ends after {_span(life)}; RFC 5321 asks for 4 to 5 days"
        yield Complaint(("retry", "lifetime_s"), what, f"Write {5 * DAY_S:.0f} unless you mean it", fatal=False)


def _dns(config: Config) -> Iterator[Complaint]:
    for text in config.dns.nameservers:
        try:
            parse_nameserver(text)
        except ValueError as error:
            yield _said(("dns", "nameservers"), error)
            return
    if not config.dns.trust_ad:
        return
    path = ("dns", "trust_ad")
    if not config.dns.nameservers:
        fix = 'Name it: nameservers = ["127.0.0.1"]'
        yield Complaint(path, "it is not said which nameserver is trusted", fix)
    for text in config.dns.nameservers:
        if not _loopback(parse_nameserver(text).host):
            # RFC 7672 section 2.1.3: the way to the resolver must be as safe as its answers.
            what = f"{text} is not on this machine, and anybody on the way to it could say that an answer is authentic"
            yield Complaint(path, what, "Name a validating resolver on this machine only, such as unbound at 127.0.0.1")


def _limits(config: Config) -> Iterator[Complaint]:
    """Limits that contradict each other, and those below what the protocols ask for."""
    limits = config.limits
    for name in ("connections_per_address", "connections_per_network", "mx_per_address", "mx_per_network"):
        value = getattr(limits, name)
        if value > limits.connections and value != getattr(Limits(), name):
            what = f"{value} is more than limits.connections ({limits.connections})"
            yield Complaint(("limits", name), what, f"Write {limits.connections} or less")
    for near, wide in (("connections_per_address", "connections_per_network"), ("mx_per_address", "mx_per_network")):
        value, network = getattr(limits, near), getattr(limits, wide)
        if value > network != getattr(Limits(), wide):
            what = f"{network} is less than limits.{near} ({value}), which is for a part of it"
            yield Complaint(("limits", wide), what, f"Write {value} or more")
    if limits.session_s < limits.data_timeout_s:
        what = f"a session would end after {limits.session_s:g} s, before one message may ({limits.data_timeout_s:g} s)"
        yield Complaint(("limits", "session_s"), what, f"Write {limits.data_timeout_s:g} or more")
    for name, least, source in _ASKED:
        value = getattr(limits, name)
        if value < least:
            what = f"{value:g} is less than the {least} that {source} asks for"
            yield Complaint(("limits", name), what, f"Write {least} or more unless you mean it", fatal=False)
    if limits.free_space_share > 0.5:
        what = f"{limits.free_space_share:g} keeps more than half of the disk empty"
        yield Complaint(("limits", "free_space_share"), what, "Write a share such as 0.05", fatal=False)


def _sending(config: Config) -> Iterator[Complaint]:
    most = config.sending.recipients_per_message
    if 0 < most < RECIPIENTS_LEAST:
        what = f"{most} is less than the {RECIPIENTS_LEAST} that RFC 5321 section 4.5.3.1.8 asks for"
        fix = f"Write {RECIPIENTS_LEAST} or more unless you mean it"
        yield Complaint(("sending", "recipients_per_message"), what, fix, fatal=False)


_ASKED: Final = (
    ("message_size", 65_536, "RFC 5321 section 4.5.3.1.7"),
    ("command_timeout_s", 300, "RFC 5321 section 4.5.3.2.7"),
    ("data_timeout_s", 600, "RFC 5321 section 4.5.3.2.6"),
    ("idle_imap_s", 1800, "RFC 3501 section 5.4"),
    ("idle_pop3_s", 600, "RFC 1939 section 3"),
    ("hops", 20, "experience with forwarded mail"),
)


def _policy(config: Config) -> Iterator[Complaint]:
    policy = config.policy
    if policy.file and (not policy.file.startswith("/") or "\0" in policy.file):
        fix = 'Write it as "/etc/postroad/policy.py"'
        yield Complaint(("policy", "file"), f'"{policy.file}" is not an absolute path', fix)
    if policy.undecided not in UNDECIDED:
        fix = 'Write "defer" (mail waits) or "accept" (it is only noted)'
        yield Complaint(("policy", "undecided"), f'"{policy.undecided}" says nothing about doubts', fix)
    if policy.timeout_s > POLICY_MOST_S:
        what = f"{policy.timeout_s:g} seconds are longer than a session can wait"
        yield Complaint(("policy", "timeout_s"), what, f"Write {POLICY_MOST_S:g} or less")


def _log(config: Config) -> Iterator[Complaint]:
    if config.log.format not in LOG_FORMATS:
        meant = closest(config.log.format, LOG_FORMATS)
        fix = f'Did you mean "{meant}"?' if meant else 'Write "auto", "text" or "json"'
        yield Complaint(("log", "format"), f'"{config.log.format}" is no format of log lines', fix)


def _delimiter(config: Config) -> Iterator[Complaint]:
    mark = config.recipient_delimiter
    if mark and (len(mark) > 1 or mark not in DELIMITERS):
        what = f'"{mark}" cannot separate a mailbox from its tag'
        yield Complaint(("recipient_delimiter",), what, f'Write one of {" ".join(DELIMITERS)}, or "" for none')


RULES: Final[tuple[Rule, ...]] = (
    _hostname,
    _data_dir,
    _delimiter,
    _passwords,
    _listen,
    _proxies,
    _tls,
    _local,
    _milter,
    _acme,
    _who_may_relay,
    _next_hops,
    _providers_file,
    _tls_policy,
    _private,
    _bind,
    _return_paths,
    _sending,
    _retry,
    _dns,
    _policy,
    _limits,
    _log,
)


def _said(path: tuple[str, ...], error: ValueError) -> Complaint:
    """A complaint from a parser's text "what. fix"."""
    what, _, fix = str(error).partition(". ")
    return Complaint(path, what, fix)


def _network(path: tuple[str, ...], text: str) -> Complaint | None:
    """What is wrong with a network in CIDR form, or None."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        try:
            meant = ipaddress.ip_network(text, strict=False)
        except ValueError:
            return Complaint(path, f'"{text}" is not a network', 'Write it as "192.0.2.0/24" or "2001:db8::/32"')
        return Complaint(
            path,
            f'"{text}" is an address inside a network',
            f'Write "{meant}", or one address as "/{meant.max_prefixlen}"',
        )
    return None


def _host(text: str) -> str:
    try:
        return parse_endpoint(text, every_host=True, port_zero=True).host
    except ValueError:
        return "localhost"


def _loopback(host: str) -> bool:
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def _span(seconds: float) -> str:
    return f"{seconds / DAY_S:.3g} days" if seconds >= DAY_S else f"{seconds:g} s"
