"""Who must wait for our greeting: clients nobody here has met yet, so that those who cannot wait show themselves.

RFC 5321 section 3.1 makes the server speak first. Programs that only push mail out do not wait for that, and honest
ones never notice a second (rows S13 and S15). A client that waited once is known for a day, by its network: large
senders come from many addresses of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from postroad.values.networks import Networks, parse_ip

KNOWN_S: Final = 86_400.0
"""A client that passed is not tried again for a day."""

KNOWN_MAX: Final = 20_000
"""Networks remembered by one worker, about 200 octets each; then the one met longest ago is forgotten."""


class EarlyTalkers:
    """Remembers who can wait. Invariant: `_known` holds at most KNOWN_MAX networks, in the order they passed."""

    __slots__ = ("_known", "_monotonic", "_trusted", "_wait_s")

    def __init__(self, wait_s: float, monotonic: Callable[[], float], trusted: Networks | None = None) -> None:
        """`trusted` never wait; this machine itself does not either. No wait at all with 0."""
        self._wait_s = wait_s
        self._monotonic = monotonic
        self._trusted = trusted or Networks()
        self._known: dict[tuple[int, int], float] = {}

    def wait_s(self, peer: str) -> float:
        """Seconds to keep this client waiting for its greeting; 0.0 for most."""
        if not self._wait_s:
            return 0.0
        network = _network(peer)
        if network is None or peer in self._trusted:
            return 0.0
        until = self._known.get(network)
        return 0.0 if until is not None and self._monotonic() < until else self._wait_s

    def passed(self, peer: str) -> None:
        """A client waited without a word: its network is known from now on."""
        network = _network(peer)
        if network is None:
            return
        self._known.pop(network, None)
        while len(self._known) >= KNOWN_MAX:
            del self._known[next(iter(self._known))]
        self._known[network] = self._monotonic() + KNOWN_S


def _network(peer: str) -> tuple[int, int] | None:
    """The /24 or /64 of a peer; None for this machine and for what has no address."""
    ip = parse_ip(peer)
    if ip is None or ip.is_loopback:
        return None
    return ip.version, int(ip) >> (8 if ip.version == 4 else 64)
