"""A next hop that somebody configured: the host that mail for a domain is handed to, and in which protocol.

host  host:port  [v6]  [v6]:port            SMTP
smtps:host  smtps:host:port  smtps:[v6]     SMTP with TLS from the first octet (RFC 8314), port 465 if none is named
lmtp:host:port  lmtp:[v6]:port  lmtp:/path  LMTP (RFC 2033), over TCP or a unix socket
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

_LMTP: Final = "lmtp:"
_SMTPS: Final = "smtps:"
_SMTP_PORT: Final = 25
_SMTPS_PORT: Final = 465


class NextHop(NamedTuple):
    """Where to, and how. A unix socket's path is its host, and its port is 0."""

    host: str
    port: int
    lmtp: bool = False
    tls_first: bool = False

    @property
    def is_socket(self) -> bool:
        """Whether the host is a unix socket on this machine."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        if self.is_socket:
            return f"{_LMTP}{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{_LMTP if self.lmtp else _SMTPS if self.tls_first else ''}{host}:{self.port}"


def parse_next_hop(text: str, port: int = _SMTP_PORT) -> NextHop:
    """Reads one of the forms above; `port` is the default of SMTP. Raises ValueError with words for people."""
    lmtp, tls_first = text.startswith(_LMTP), text.startswith(_SMTPS)
    rest = text.removeprefix(_LMTP) if lmtp else text.removeprefix(_SMTPS)
    if lmtp and rest.startswith("/"):
        if not rest.isprintable() or " " in rest:
            raise ValueError(f'next hop "{text}" is no path of a socket. Write it without spaces')
        return NextHop(rest, 0, lmtp=True)
    host, digits = _split(rest)
    number = int(digits) if digits.isdecimal() and len(digits) <= 5 else 0
    if not _is_host(host) or (digits and not 0 < number < 65536):
        raise ValueError(f'next hop "{text}" is not host:port. Write "mail.example.org:25" or "lmtp:/run/lmtp.sock"')
    # RFC 2033 section 1: "it MUST NOT be used on TCP port 25", and no other port is its own.
    if lmtp and number in (0, _SMTP_PORT):
        raise ValueError(f'next hop "{text}" has no port for LMTP. Name one; 25 is that of SMTP alone')
    return NextHop(host.lower().rstrip("."), number or (_SMTPS_PORT if tls_first else port), lmtp, tls_first)


def _split(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, behind = text[1:].partition("]")
        # What stands behind the bracket is a port or nothing.
        return host, behind[1:] or behind if behind.startswith(":") or not behind else "?"
    if text.count(":") == 1:
        host, _, digits = text.partition(":")
        return host, digits or "?"
    return text, ""


def _is_host(host: str) -> bool:
    """Whether the text may name a host at all: what DNS says of it is found out when mail goes there."""
    if ":" in host:
        try:
            return ipaddress.ip_address(host).version == 6
        except ValueError:
            return False
    return bool(host) and host.isascii() and all(char.isalnum() or char in "-._" for char in host)
