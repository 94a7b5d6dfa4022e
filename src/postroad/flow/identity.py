"""What a domain must say in DNS so that others find its mail server and believe the mail it sends.

`wanted` is the one list of records; `postroad domain dns` prints it as zone text and `flow.identity_check` compares it
with what the domain's servers say.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from postroad.trust.dkim.keys import key_record
from postroad.trust.mta_sts import url_of_policy

TTL_S: Final = 3600
"""An hour: an error is gone soon, and nobody asks so often that it costs anything."""

POLICY_AGE_S: Final = 604_800
"""RFC 8461 section 3.2, max_age: a week, the least that protects between two mails of one sender."""

TXT_OCTETS: Final = 255
"""RFC 1035 section 3.3: octets of one character-string; a longer text is several of them."""

SERVICES: Final = (
    # RFC 8314 section 3.3 and RFC 6186 section 3: what clients look for, the ports with TLS from the start first.
    ("submissions", "_submissions._tcp", 0),
    ("submission", "_submission._tcp", 10),
    ("imaps", "_imaps._tcp", 0),
    ("imap", "_imap._tcp", 10),
    ("pop3s", "_pop3s._tcp", 20),
    ("pop3", "_pop3._tcp", 30),
)
"""Service as the configuration names it, its label, and the priority of its record."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public half of a DKIM key."""

    selector: str
    algorithm: str
    public: bytes
    state: str = "active"


@dataclass(frozen=True, slots=True)
class Identity:
    """A domain and the server that works for it."""

    domain: str
    """A-labels, lower case."""
    hostname: str
    sources: tuple[str, ...] = ()
    """Addresses that mail leaves from, where the configuration names them; else those of `hostname`."""
    keys: tuple[PublicKey, ...] = ()
    """Those that sign or will."""
    ports: tuple[tuple[str, int], ...] = ()
    """Services for mail programs that are offered, with their ports."""
    next_hop: str = ""
    """The host that all mail leaves through, where there is one."""

    @property
    def public_sources(self) -> list[str]:
        """Those of `sources` that others can see."""
        return [source for source in self.sources if is_public(source)]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One record that should be there."""

    record: str
    """What it is for, as `identity_check.JUDGES` knows it."""
    name: str
    kind: str
    value: str
    note: str = ""
    """What it is good for, for people."""


def is_public(address: str) -> bool:
    """Whether an address can be seen by others; documentation's own (RFC 5737) pass for public ones."""
    ip = ipaddress.ip_address(address)
    return not (ip.is_loopback or ip.is_link_local or _is_inside(ip))


_INSIDE: Final = [
    ipaddress.ip_network(network) for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
]


def _is_inside(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return any(ip in network for network in _INSIDE)


# -- the records -------------------------------------------------------------------------------------------------------


def wanted(identity: Identity) -> list[Wanted]:
    """Every record, in the order in which a person would enter them."""
    return [record for group in _GROUPS for record in group(identity)]


def _mx(identity: Identity) -> Iterator[Wanted]:
    yield Wanted("mx", identity.domain, "MX", f"10 {identity.hostname}", "Mail for the domain comes to this server.")


def _address(identity: Identity) -> Iterator[Wanted]:
    for source in identity.public_sources:
        kind = "AAAA" if ":" in source else "A"
        yield Wanted("address", identity.hostname, kind, source, "Where this server is.")
    if not identity.public_sources:
        yield Wanted("address", identity.hostname, "A", "", "Where this server is: its public address, IPv6 as AAAA.")


def _spf(identity: Identity) -> Iterator[Wanted]:
    # RFC 7208 section 5; "~all" and not "-all": a forwarded message would be refused before anybody looks at DKIM.
    own = [f"ip{6 if ':' in source else 4}:{source}" for source in identity.public_sources]
    words = ["v=spf1", "mx", *(own or [f"a:{identity.hostname}"]), "~all"]
    note = "Which hosts send for the domain. Add what else sends for it, before ~all."
    if identity.next_hop:
        note += f" Mail leaves through {identity.next_hop}: add what its operator tells you, such as include:NAME."
    yield Wanted("spf", identity.domain, "TXT", " ".join(words), note)
    if identity.hostname.endswith(f".{identity.domain}"):
        # RFC 7208 section 2.4: with the null sender of reports the name in EHLO is what is looked up.
        value = " ".join(["v=spf1", *(own or ["a"]), "-all"])
        yield Wanted("spf-host", identity.hostname, "TXT", value, "The same for the name of the server: its reports.")


def _dkim(identity: Identity) -> Iterator[Wanted]:
    for key in identity.keys:
        value = key_record(key.algorithm, key.public)
        note = f"The key for its signatures ({key.algorithm}, {key.state})."
        yield Wanted("dkim", f"{key.selector}._domainkey.{identity.domain}", "TXT", value, note)


def _dmarc(identity: Identity) -> Iterator[Wanted]:
    value = f"v=DMARC1; p=none; rua=mailto:postmaster@{identity.domain}"
    note = "What others do with mail that only claims to be ours. When the reports show that all of yours passes:"
    yield Wanted("dmarc", f"_dmarc.{identity.domain}", "TXT", value, f"{note} p=quarantine, then p=reject.")


def _mta_sts(identity: Identity) -> Iterator[Wanted]:
    name, host = f"_mta-sts.{identity.domain}", f"mta-sts.{identity.domain}"
    note = f"Others send to us by TLS only (RFC 8461); needs the policy below at https://{host}/."
    yield Wanted("mta-sts", name, "TXT", f"v=STSv1; id={policy_id(identity)}", note)
    yield Wanted("policy-host", host, "CNAME", identity.hostname, "The web server that has the policy.")


def _tls_rpt(identity: Identity) -> Iterator[Wanted]:
    value = f"v=TLSRPTv1; rua=mailto:postmaster@{identity.domain}"
    note = "Others report when TLS to us fails (RFC 8460)."
    yield Wanted("tls-rpt", f"_smtp._tls.{identity.domain}", "TXT", value, note)


def _ptr(identity: Identity) -> Iterator[Wanted]:
    note = "The name of the address. Whoever gave you the address enters it."
    for source in identity.sources:
        yield Wanted("ptr", reverse_name(source), "PTR", identity.hostname, note)
    if not identity.sources:
        yield Wanted("ptr", "", "PTR", identity.hostname, note)


def _srv(identity: Identity) -> Iterator[Wanted]:
    offered = dict(identity.ports)
    for service, label, priority in SERVICES:
        if service in offered:
            value = f"{priority} 1 {offered[service]} {identity.hostname}"
            yield Wanted("srv", f"{label}.{identity.domain}", "SRV", value, "Mail programs find their server.")


def _autoconfig(identity: Identity) -> Iterator[Wanted]:
    for label, who in (("autoconfig", "Thunderbird asks"), ("autodiscover", "Outlook asks")):
        yield Wanted("autoconfig", f"{label}.{identity.domain}", "CNAME", identity.hostname, f"{who} there.")


_GROUPS: Final = (_mx, _address, _spf, _dkim, _dmarc, _mta_sts, _tls_rpt, _ptr, _srv, _autoconfig)


def reverse_name(address: str) -> str:
    """The name at which the PTR record of an address stands (RFC 1035 section 3.5, RFC 3596 section 2.5)."""
    return ipaddress.ip_address(address).reverse_pointer


# -- the MTA-STS policy ------------------------------------------------------------------------------------------------


def policy_text(identity: Identity) -> str:
    """The file at https://mta-sts.DOMAIN/.well-known/mta-sts.txt (RFC 8461 section 3.2)."""
    return f"version: STSv1\r\nmode: testing\r\nmx: {identity.hostname}\r\nmax_age: {POLICY_AGE_S}\r\n"


def wanted_policy(identity: Identity) -> Wanted:
    """The policy as `identity_check` compares it, beside the records."""
    note = "The policy that the record announces; any web server may hand it out."
    return Wanted("policy", url_of_policy(identity.domain), "HTTPS", policy_text(identity), note)


def policy_id(identity: Identity) -> str:
    """An id that changes with the policy and only then: RFC 8461 section 3.1 allows 32 letters and digits."""
    return hashlib.sha256(policy_text(identity).encode()).hexdigest()[:20]


# -- zone text ---------------------------------------------------------------------------------------------------------


def zone_text(identity: Identity) -> str:
    """All records as a zone file has them (RFC 1035 section 5), with a remark above each; remarks alone for what stands
    in the zone of somebody else."""
    lines = [f"; Mail of {identity.domain} on {identity.hostname}"]
    for record in wanted(identity):
        lines += ["", *(f"; {line}" for line in _remark(record)), *_lines(identity, record)]
    lines += ["", "; The MTA-STS policy, a text file with exactly these lines:"]
    lines += [f";   {line}" for line in policy_text(identity).split("\r\n") if line]
    return "\n".join(lines) + "\n"


def _remark(record: Wanted) -> list[str]:
    words, lines = record.note.split(" "), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 100:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def _lines(identity: Identity, record: Wanted) -> list[str]:
    inside = f".{record.name}".endswith(f".{identity.domain}")
    if not record.value or not record.name:
        return [f"; {record.name or 'ADDRESS'} {record.kind} {absolute(record.kind, record.value) or 'ADDRESS'}"]
    head = f"{record.name}. {TTL_S} IN {record.kind}"
    if not inside:
        return [f"; {head} {absolute(record.kind, record.value)}"]
    if record.kind != "TXT":
        return [f"{head} {absolute(record.kind, record.value)}"]
    strings = [quoted(part) for part in split_text(record.value)]
    if len(strings) == 1:
        return [f"{head} {strings[0]}"]
    return [f"{head} (", *(f"    {part}" for part in strings[:-1]), f"    {strings[-1]} )"]


def absolute(kind: str, value: str) -> str:
    """The rdata with the final dot that a name in a zone file needs."""
    return f"{value}." if value and kind in ("MX", "CNAME", "PTR", "SRV") else value


def split_text(text: str) -> list[str]:
    """The character-strings of a TXT record."""
    return [text[at : at + TXT_OCTETS] for at in range(0, len(text), TXT_OCTETS)] or [""]


def quoted(text: str) -> str:
    """One character-string in quotes (RFC 1035 section 5.1)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def offered_ports(listen: Iterable[tuple[str, Iterable[str]]]) -> tuple[tuple[str, int], ...]:
    """The first port of each service that mail programs use, from the addresses it listens on ("host:port")."""
    found = []
    for service, addresses in listen:
        for address in addresses:
            port = address.rpartition(":")[2]
            if port.isdecimal() and int(port):
                found.append((service, int(port)))
                break
    return tuple(found)
