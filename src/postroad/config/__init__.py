"""The configuration file as typed structs: every key, its default and its meaning stand here once.

`config.load` reads a file into them, `config.rules` and `config.machine` know what no type can say, and
`docs/configuration.md` explains every key to the person who writes the file (a test compares).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Allowance = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Common shape of all sections: immutable, unknown keys are errors."""


class Listen(Section, frozen=True):
    """Addresses ("host:port", "[::]:25", ":25" for all of both families) of every service; empty list: not offered."""

    mx: tuple[str, ...] = (":25",)
    submission: tuple[str, ...] = (":587",)
    submissions: tuple[str, ...] = (":465",)
    imap: tuple[str, ...] = (":143",)
    imaps: tuple[str, ...] = (":993",)
    pop3: tuple[str, ...] = (":110",)
    pop3s: tuple[str, ...] = (":995",)
    local: tuple[str, ...] = ()
    """Paths of unix sockets for programs on this machine (`postroad-sendmail`)."""
    proxy_from: tuple[str, ...] = ()
    """Networks of proxies, whose connections must begin with a PROXY header that names the client."""
    xclient_from: tuple[str, ...] = ()
    """Networks of SMTP proxies that may name the client by XCLIENT."""
    lmtp: tuple[str, ...] = ()
    """Addresses or paths of unix sockets where neighbours deliver to our mailboxes (RFC 2033)."""
    metrics: str = "127.0.0.1:9925"
    """Prometheus page; empty: not offered."""


class Tls(Section, frozen=True):
    """Certificate of the listeners; without one a self-signed certificate is made at first start."""

    certificate: str = ""
    key: str = ""


class Acme(Section, frozen=True):
    """Certificates from an authority, renewed by themselves (RFC 8555); see docs/certificates.md."""

    names: tuple[str, ...] = ()
    """Host names of the certificate; empty: ACME is not used."""
    agree_terms: bool = False
    directory: str = "https://acme-v02.api.letsencrypt.org/directory"
    contact: str = ""
    http: str = ":80"
    """Where HTTP-01 is answered; empty: not offered."""
    alpn: str = ""
    """Where TLS-ALPN-01 is answered, such as ":443"; empty: not offered."""
    keep_key: bool = False
    """The same private key at every renewal."""
    ca_file: str = ""
    """Authorities that vouch for the directory's own certificate, besides those of the system."""
    binding_id: str = ""
    """RFC 8555 section 7.3.4: the key identifier of an external account."""
    binding_key_file: str = ""


class Local(Section, frozen=True):
    """Programs on this machine that send mail without a login: docs/sendmail.md."""

    maildrop: str = ""
    """Folder where they leave mail while the server is down; empty: not offered."""
    trusted_users: tuple[str, ...] = ()
    """Users besides root who may use any envelope sender."""
    senders: dict[str, str] = {}
    """More senders of a user: {"www-data" = "shop@example.org @shop.example.org"}."""


class Milter(Section, frozen=True):
    """Mail filters of others that speak the milter protocol: docs/milters.md."""

    mx: tuple[str, ...] = ()
    """Asked in this order about mail from the world: "inet:host:port" or "unix:/path"."""
    submission: tuple[str, ...] = ()
    """Asked about mail from our users: `submission`, `submissions` and `local`."""
    on_failure: str = "tempfail"
    """What becomes of a message about which a milter could not be asked: "tempfail", "accept" or "reject"."""
    timeout_connect_s: Seconds = 10.0
    timeout_command_s: Seconds = 20.0
    timeout_content_s: Seconds = 20.0


class Relay(Section, frozen=True):
    """How mail for other domains leaves, and who may hand it in without a login."""

    relay_from: tuple[str, ...] = ()
    """Networks (CIDR) that may relay without a login."""
    port: Port = 25
    next_hop: str = ""
    """"host:port" that takes all mail for other domains; empty: MX by DNS."""
    routes: dict[str, str] = {}
    """Fixed next hop per recipient domain, before `next_hop`: {"example.org" = "10.0.0.7:2525"}."""
    routes_file: str = ""
    """Path of a file of routes by recipient, sender or user, before all of these; empty: there is none."""
    allow_private: tuple[str, ...] = ()
    """Private or loopback networks that an MX may lead to; without them such addresses are skipped."""
    bind: tuple[str, ...] = ()
    """Source addresses for outgoing connections; of several of one family each sender's domain keeps one."""
    ehlo_names: dict[str, str] = {}
    """How the server calls itself from a source address: {"192.0.2.10" = "out1.example.org"}."""
    return_paths: tuple[str, ...] = ()
    """Domains of ours whose mail is sent with signed return paths."""
    tls: bool = True
    """STARTTLS; without it nothing that a domain publishes about TLS counts."""
    tls_policy: dict[str, str] = {}
    """What must hold of TLS, by recipient domain or ".domain": "none", "may", "encrypt" or "verify"."""
    mta_sts: bool = True
    """Fetch and obey the MTA-STS policies of other domains (RFC 8461)."""
    tls_reports: str = ""
    """Address that TLS reports are sent from (RFC 8460); empty: none are sent."""
    ca_file: str = ""
    """Extra CA bundle by which other servers may prove their names."""
    providers_file: str = ""
    """Facts about providers, laid over those that come with Postroad; see docs/providers.md."""
    connections_per_lane: Count = 20
    """To one site, over all workers."""
    messages_per_connection: Count = 100
    idle_s: Seconds = 5.0
    """How long a connection without mail is kept for the next message."""
    connect_timeout_s: Seconds = 30.0


class Sending(Section, frozen=True):
    """How much one logged-in user may send; 0 is no limit. Accounts may have limits of their own (`postroad user`)."""

    messages_per_hour: Allowance = 200
    recipients_per_day: Allowance = 2000
    first_time_recipients_per_day: Allowance = 200
    """Recipients that the account has never sent to."""
    recipients_per_message: Allowance = 200
    future_release_s: Annotated[int, Meta(ge=0, le=999_999_999)] = 30 * 86400
    """How long a client may have us hold a message (RFC 4865); 0: not offered."""
    hide_client: bool = False
    """Received lines of users' mail do not say from where it was submitted."""


class Dkim(Section, frozen=True):
    """Signatures of outgoing mail (RFC 6376); the keys are in the store: `postroad domain dkim`."""

    sign: bool = True
    """Off only where the next hop signs instead."""


class Retry(Section, frozen=True):
    """When a deferred delivery is tried again and when it ends."""

    delays_s: tuple[Seconds, ...] = (120, 300, 600, 1200, 2400, 3600, 7200, 14400)
    """Waiting time before the 2nd, 3rd, ... attempt; the last one repeats."""
    lifetime_s: Seconds = 5 * 86400.0
    """RFC 5321 section 4.5.4.1: "the give-up time generally needs to be at least 4-5 days"."""
    warn_after_s: Annotated[float, Meta(ge=0)] = 4 * 3600.0
    """When the sender is told that a delivery is late (RFC 3461 section 5.2.5), once per recipient; 0: never."""


class Dns(Section, frozen=True):
    """Whom to ask; empty: the servers of /etc/resolv.conf."""

    nameservers: tuple[str, ...] = ()
    """"address" or "address:port"."""
    trust_ad: bool = False
    """The named servers run on this machine and validate (DNSSEC): what they mark as authentic is, and DANE is used."""
    timeout_s: Seconds = 5.0


class Policy(Section, frozen=True):
    """The administrator's own rules in Python: docs/policy.md."""

    file: str = ""
    """Path of a `policy.py`; empty: there is none."""
    undecided: str = "defer"
    """What becomes of mail when it hangs or fails: "defer" (it waits) or "accept" (it is only noted)."""
    timeout_s: Seconds = 2.0


class Limits(Section, frozen=True):
    """Every limit a peer can meet; `docs/limits.md` says the reason of each."""

    message_size: Annotated[int, Meta(ge=1024)] = 52_428_800
    recipients: Annotated[int, Meta(ge=100)] = 1000
    """RFC 5321 section 4.5.3.1.8: at least 100 MUST be accepted."""
    hops: Count = 50
    connections: Count = 10_000
    connections_per_address: Count = 500
    """At the doors for users: one address, or /64 of IPv6, can be a whole office."""
    connections_per_network: Count = 2000
    """The same for a /24, or /48 of IPv6."""
    connections_per_minute: Count = 1200
    """The same for new connections of one address."""
    mx_per_address: Count = 20
    """At the door for the world."""
    mx_per_network: Count = 100
    mx_per_minute: Count = 300
    greeting_wait_s: Annotated[float, Meta(ge=0, le=30)] = 1.0
    """How long a client the MX has not met waits for its greeting; 0: not at all."""
    tarpit: bool = True
    """Hold back the replies to errors of strangers."""
    command_timeout_s: Seconds = 300
    """RFC 5321 section 4.5.3.2.7."""
    data_timeout_s: Seconds = 600
    data_rate_min: Annotated[int, Meta(ge=0)] = 500
    """Octets per second; a body slower than this ends in 421."""
    session_s: Seconds = 3600
    idle_imap_s: Seconds = 1800
    """RFC 3501 section 5.4: at least 30 minutes."""
    idle_pop3_s: Seconds = 600
    """RFC 1939 section 3: at least 10 minutes."""
    queue_messages: Count = 5_000_000
    free_space_share: Annotated[float, Meta(ge=0, lt=1)] = 0.05


class Log(Section, frozen=True):
    """Where events go besides the journal."""

    format: str = "auto"
    """"text", "json" or "auto": readable on a terminal, JSON otherwise."""
    events: bool = True


class Config(Section, frozen=True):
    """A whole configuration file."""

    hostname: str = ""
    """Name of this machine in greetings and Received lines; empty: what the system says."""
    data_dir: str = "/var/lib/postroad"
    user: str = ""
    """Account to run as after the sockets are open; empty: whoever started us."""
    workers: Annotated[int, Meta(ge=0)] = 0
    """Number of worker processes; 0: one per core."""
    listen: Listen = Listen()
    tls: Tls = Tls()
    acme: Acme = Acme()
    local: Local = Local()
    milter: Milter = Milter()
    relay: Relay = Relay()
    sending: Sending = Sending()
    dkim: Dkim = Dkim()
    retry: Retry = Retry()
    dns: Dns = Dns()
    policy: Policy = Policy()
    limits: Limits = Limits()
    log: Log = Log()
    recipient_delimiter: str = "+"
    insecure_auth: bool = False
    """Only for tests on loopback: offer AUTH and LOGIN without TLS."""

    def with_tls(self, certificate: str, key: str) -> Config:
        """The same configuration with another certificate."""
        return msgspec.structs.replace(self, tls=Tls(certificate=certificate, key=key))
