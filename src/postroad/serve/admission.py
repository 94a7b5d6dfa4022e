"""Who may open a connection now: limits per address and altogether, counted per worker."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Final

from postroad.values.reply import Reply

TOO_MANY_FROM_YOU: Final = Reply(421, "4.7.0", "Too many connections from your address. Close some and retry.")
TOO_MANY: Final = Reply(421, "4.3.2", "Too busy right now. Please retry in a minute.")
GOING_DOWN: Final = Reply(421, "4.3.2", "Going down for a moment. Please reconnect; nothing was lost.")


class Admission:
    """Counts open connections of one worker; `limit` and `per_address` are this worker's shares."""

    __slots__ = ("_by_address", "_open", "draining", "limit", "per_address")

    def __init__(self, limit: int, per_address: int) -> None:
        self.limit = limit
        self.per_address = per_address
        self.draining = False
        self._open = 0
        self._by_address: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """Connections admitted and not yet left."""
        return self._open

    def admit(self, address: str) -> Reply | None:
        """Count a new connection in and return None, or say why it is turned away."""
        if self.draining:
            return GOING_DOWN
        if self._open >= self.limit:
            return TOO_MANY
        group = network_of(address)
        if self._by_address[group] >= self.per_address:
            return TOO_MANY_FROM_YOU
        self._open += 1
        self._by_address[group] += 1
        return None

    def leave(self, address: str) -> None:
        """Count a connection out that was admitted before."""
        group = network_of(address)
        self._open -= 1
        left = self._by_address[group] - 1
        if left > 0:
            self._by_address[group] = left
        else:
            del self._by_address[group]


def network_of(address: str) -> str:
    """The unit that limits count by: an IPv4 address, or the /64 of an IPv6 address (one customer's usual share)."""
    if ":" not in address:
        return address
    ip = ipaddress.IPv6Address(address.partition("%")[0])
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(ip) >> 64 << 64)}/64"
