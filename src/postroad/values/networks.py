"""Lists of networks as the configuration names them, asked for single addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

REMEMBERED: Final = 4096
"""Answers kept by one list; the busiest peers ask again and again."""


class Networks:
    """Networks in CIDR form: `"10.1.2.3" in networks`. What is no IP address is in none of them.

    >>> "::ffff:10.1.2.3" in Networks(["10.0.0.0/8"])
    True
    """

    __slots__ = ("_known", "_networks")

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """Raises ValueError when a text is no network."""
        self._networks = [ipaddress.ip_network(text) for text in texts]
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            ip = parse_ip(address)
            known = self._known[address] = ip is not None and any(ip in network for network in self._networks)
        return known


def parse_ip(text: str) -> Address | None:
    """The address a socket or a header names, IPv4 also where it comes as IPv6 (RFC 4291 section 2.5.5.2); else None.

    A zone ("fe80::1%eth0") is left out: it names an interface of ours, not a peer.
    """
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip
