"""Where everything of the playground stands: names, addresses, ports, files, zones and the server's configuration.

Pure: nothing here opens, writes or asks. Other organisations live on other loopback addresses, which need no root on
Linux; since an MX record names no port, one port of the playground plays the part that 25 plays in the world.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

DOMAIN: Final = "dev.test"
"""RFC 2606 section 2: "test" is never delegated, so none of these names can be a real one."""
FRIENDS: Final = "friends.test"
GRUMPY: Final = "grumpy.test"

HERE: Final = "127.0.0.1"
HERE_IPV6: Final = "::1"
ADDRESSES: Final[Mapping[str, str]] = {DOMAIN: HERE, FRIENDS: "127.0.0.2", GRUMPY: "127.0.0.3"}
"""IPv4 address of each domain's mail server."""

PASSWORD: Final = "dev"
DEV: Final = f"dev@{DOMAIN}"
ANNA: Final = f"anna@{DOMAIN}"
USERS: Final = (DEV, ANNA)

FIRST_RETRY_S: Final = 2.0
DELAYS_S: Final = (FIRST_RETRY_S, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Retries fast enough to watch; a production server waits minutes."""
LIFETIME_S: Final = 3600.0
"""Mail that cannot be delivered comes back within the hour, so that this too can be watched."""


CONFIG_HEAD: Final = "# Written by postroad dev at each start; it shows how small a configuration can be."
"""First line of the configuration; a folder is known by it."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port of the playground before an offset: the usual one plus 1000, as other development servers do."""

    smtp: int = 1025
    submission: int = 1587
    submissions: int = 1465
    imap: int = 1143
    imaps: int = 1993
    pop3: int = 1110
    pop3s: int = 1995
    metrics: int = 10925
    dns: int = 1053
    world: int = 2525
    """What 25 is in the world: the port of the other organisations' servers."""

    def moved(self, offset: int) -> Ports:
        """All ports higher by `offset`; raises ValueError, with the range allowed, when one would be no port."""
        if not 0 <= offset <= OFFSET_MAX:
            raise ValueError(f"an offset between 0 and {OFFSET_MAX} leaves every port below 65536")
        return Ports(*(getattr(self, field.name) + offset for field in fields(self)))


OFFSET_MAX: Final = 65535 - Ports().metrics

SERVICES: Final = {
    "mx": "smtp",
    "submission": "submission",
    "submissions": "submissions",
    "imap": "imap",
    "imaps": "imaps",
    "pop3": "pop3",
    "pop3s": "pop3s",
}
"""Our server's services by their names in the configuration, with the field of `Ports` each listens on."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One playground: its folder, its ports, and whether the machine has an IPv6 loopback."""

    root: Path
    ports: Ports
    ipv6: bool = False

    @property
    def data_dir(self) -> Path:
        """The server's data folder: what `postroad why --data` is given."""
        return self.root / "data"

    @property
    def config_file(self) -> Path:
        """The configuration our server runs with, an example of a small one."""
        return self.root / "postroad.toml"

    @property
    def ca_file(self) -> Path:
        """The certificate that mail clients must trust."""
        return self.root / "ca.pem"

    @property
    def log_file(self) -> Path:
        """What our server logs, one JSON object a line."""
        return self.root / "server.log"

    def certificate(self, domain: str) -> Path:
        """Certificate file of a domain's mail server."""
        return self.root / "tls" / f"{domain}.pem"

    def key(self, domain: str) -> Path:
        """Key file of a domain's mail server."""
        return self.root / "tls" / f"{domain}.key"

    def listeners(self) -> dict[str, list[str]]:
        """Our server's addresses by service, as the configuration writes them."""
        hosts = [HERE, f"[{HERE_IPV6}]"] if self.ipv6 else [HERE]
        listen = {
            service: [f"{host}:{getattr(self.ports, field)}" for host in hosts] for service, field in SERVICES.items()
        }
        return listen | {"metrics": [f"{HERE}:{self.ports.metrics}"]}

    def wanted(self) -> list[tuple[str, str]]:
        """Every TCP address the playground will listen on, as (what for, "host:port")."""
        ours = [(service, address) for service, addresses in self.listeners().items() for address in addresses]
        theirs = [(domain, f"{ADDRESSES[domain]}:{self.ports.world}") for domain in (FRIENDS, GRUMPY)]
        return [*ours, *theirs, ("dns", f"{HERE}:{self.ports.dns}")]

    def config_text(self) -> str:
        """The TOML file that our server is started with."""
        listen = self.listeners()
        trusted = [f"{HERE}/32", f"{HERE_IPV6}/128"] if self.ipv6 else [f"{HERE}/32"]
        lines = [
            CONFIG_HEAD,
            _line("hostname", mail_host(DOMAIN)),
            _line("data_dir", str(self.data_dir)),
            _line("workers", 1),
            "",
            "[listen]",
            *(_line(service, addresses) for service, addresses in listen.items() if service != "metrics"),
            _line("metrics", listen["metrics"][0]),
            "",
            "[tls]",
            _line("certificate", str(self.certificate(DOMAIN))),
            _line("key", str(self.key(DOMAIN))),
            "",
            "[relay]",
            "# Programs on this machine may send to anybody by the SMTP port, without a login.",
            _line("relay_from", trusted),
            "# An MX record names no port; in the world this is 25.",
            _line("port", self.ports.world),
            "# Mail never goes to loopback addresses unless this allows it.",
            _line("allow_private", ["127.0.0.0/8"]),
            _line("ca_file", str(self.ca_file)),
            "",
            "[retry]",
            _line("delays_s", list(DELAYS_S)),
            _line("lifetime_s", LIFETIME_S),
            "",
            "[dns]",
            _line("nameservers", [f"{HERE}:{self.ports.dns}"]),
            "",
            "[limits]",
            "# A developer's disk is often nearly full; 300 MB of free space are enough to play.",
            _line("free_space_share", 0.0),
            "",
            "[log]",
            _line("format", "json"),
        ]
        return "\n".join(lines) + "\n"


def _line(key: str, value: object) -> str:
    # JSON texts, numbers and lists of these are TOML too, but for the one control character JSON leaves alone.
    return f"{key} = {json.dumps(value)}".replace("\x7f", "\\u007f")


def mail_host(domain: str) -> str:
    """Name of a domain's mail server."""
    return f"mx.{domain}"


def zones() -> dict[str, dict[str, Sequence[str]]]:
    """Everything the private DNS server knows: per domain an MX, and the address of the host it names."""
    records: dict[str, dict[str, Sequence[str]]] = {}
    for domain, address in ADDRESSES.items():
        host = mail_host(domain)
        records[domain] = {"MX": [f"10 {host}."]}
        records[host] = {"A": [address]}
    return records


def certificate_names(domain: str) -> list[str]:
    """Names and addresses that a domain's mail server is reached by."""
    names = [mail_host(domain), ADDRESSES[domain]]
    return [*names, "localhost", HERE_IPV6] if domain == DOMAIN else names
