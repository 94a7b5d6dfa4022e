"""Who may open a connection now: limits per address, per network, per minute and altogether."""

from __future__ import annotations

import ipaddress
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from postroad.config import Limits
from postroad.serve.tally import Tally
from postroad.values.networks import Networks, parse_ip
from postroad.values.reply import Reply

TOO_MANY_FROM_YOU: Final = Reply(421, "4.7.0", "Too many connections from your address. Close some and retry.")
TOO_OFTEN: Final = Reply(421, "4.7.0", "Too many new connections from your address. Please wait a minute.")
TOO_MANY: Final = Reply(421, "4.3.2", "Too busy right now. Please retry in a minute.")
GOING_DOWN: Final = Reply(421, "4.3.2", "Going down for a moment. Please reconnect; nothing was lost.")

FILES_APART: Final = 1000
"""Descriptors kept for others than clients: 500 outgoing connections, files of large messages, databases, the store's
socket. A message that finds none gets 452."""

KNOWN_MAX: Final = 4096
"""Clients whose place in the count is remembered: each is looked for when it comes and when it goes."""

_WORLD: Final = frozenset(("mx", "lmtp"))


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one client may have at doors of one kind."""

    per_address: int
    """Open connections of an IPv4 address, or of a /64 of IPv6."""
    per_network: int
    """Open connections of the /24 of an IPv4 address, or of a /48 of IPv6."""
    per_minute: int
    """New connections of an address (or /64) within a minute."""


@dataclass(frozen=True, slots=True)
class Clients:
    """Where a client is counted: by address and by network; both -1 for who is not counted singly."""

    address: int = -1
    network: int = -1


class Admission:
    """Counts connections in and out. `own` is the most that this worker holds, `total` what all workers hold."""

    __slots__ = ("_exempt", "_known", "_login", "_monotonic", "_open", "_tally", "_world", "draining", "own", "total")

    def __init__(
        self,
        *,
        total: int,
        world: Allowance,
        login: Allowance,
        tally: Tally,
        monotonic: Callable[[], float],
        own: int | None = None,
        exempt: Networks | None = None,
    ) -> None:
        self.total = total
        self.own = total if own is None else own
        self._world = world
        self._login = login
        self._tally = tally
        self._monotonic = monotonic
        self._exempt = exempt or Networks()
        self._known: dict[tuple[str, str], Clients | None] = {}
        self._open = 0
        self.draining = False

    @property
    def open(self) -> int:
        """Connections of this worker admitted and not yet left."""
        return self._open

    def admit(self, address: str, door: str = "mx") -> Reply | None:
        """Count a new connection in and return None, or say why it is turned away."""
        if self.draining:
            return GOING_DOWN
        tally = self._tally
        if self._open >= self.own or tally.all_open >= self.total:
            return TOO_MANY
        now = self._monotonic()
        at = self._clients(address, door)
        if at is None:
            tally.enter(now)
        else:
            refusal = self._refusal(at, door, now)
            if refusal is not None:
                return refusal
            tally.enter(now, at.address, at.network, arrives=at.address)
        self._open += 1
        return None

    def _refusal(self, at: Clients, door: str, now: float) -> Reply | None:
        allowance, tally = self._world if door in _WORLD else self._login, self._tally
        if tally.open(at.address) >= allowance.per_address or tally.open(at.network) >= allowance.per_network:
            return TOO_MANY_FROM_YOU
        return TOO_OFTEN if tally.arrivals(at.address, now) >= allowance.per_minute else None

    def leave(self, address: str, door: str = "mx") -> None:
        """Count a connection out that was admitted with the same words."""
        self._open -= 1
        at = self._clients(address, door)
        if at is None:
            self._tally.leave()
        else:
            self._tally.leave(at.address, at.network)

    def _clients(self, address: str, door: str) -> Clients | None:
        """Where a client counts; None for this machine itself, for listed networks and for what has no address."""
        known = self._known
        try:
            return known[address, door]
        except KeyError:
            if len(known) >= KNOWN_MAX:
                known.clear()
            found = known[address, door] = self._find(address, door)
            return found

    def _find(self, address: str, door: str) -> Clients | None:
        ip = parse_ip(address)
        if ip is None or ip.is_loopback or address in self._exempt:
            return None
        kind = "world" if door in _WORLD else "login"
        near, wide = (32, 24) if ip.version == 4 else (64, 48)
        slot = self._tally.slot
        return Clients(slot(f"{kind} {network_of(ip, near)}"), slot(f"{kind} {network_of(ip, wide)}"))


def network_of(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int) -> str:
    """The network of that prefix length around an address, as text that names no other network."""
    host = ip.max_prefixlen - length
    return f"{ip.version} {int(ip) >> host:x}/{length}"


def allowances(limits: Limits) -> tuple[Allowance, Allowance]:
    """What the configuration allows at the door for the world, and at those for our users."""
    world = Allowance(limits.mx_per_address, limits.mx_per_network, limits.mx_per_minute)
    return world, Allowance(
        limits.connections_per_address, limits.connections_per_network, limits.connections_per_minute
    )


def room_for_clients(files: int | None = None) -> int:
    """How many clients this process can hold with `files` descriptors; by itself it asks what it may have."""
    if files is None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(1, files - min(FILES_APART, files // 2))
