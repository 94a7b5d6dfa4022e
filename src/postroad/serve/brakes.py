"""Brakes on guessing passwords: how long an answer is held back, and which network is not listened to for a while.

Failures are counted by the client's address (IPv6: its /64), by the wider network (IPv4: its /24, IPv6: its
/48), and by the login.
An address or network with too many is refused for a while. A login is never refused: failures that come from many
networks slow only strangers to it, so that nobody can lock its owner out. A network is no stranger to a login that has
once succeeded from there; then only what that one address did wrong with that login counts, and the same wrong
password again (a telephone that nobody told of the new one) counts once.

Programs on this machine are counted by login only. A success takes nothing back from the counters of an address or
network: one account of his own helps a guesser nothing.

Invariant: the rule has no clock and no I/O of its own, and holds at most `BUCKETS_MAX` buckets of each kind.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

PAUSE_FIRST_S: Final = 1.0
"""The first pause; each further failure doubles it."""
PAUSE_MAX_S: Final = 10.0
"""The longest: a client waits for a reply, and a person too."""
REFUSED_S: Final = 900.0
"""How long an address or network is refused: a quarter of an hour costs a guesser his day, and a person a coffee."""
BUCKETS_MAX: Final = 10_000
"""Addresses, networks and logins remembered, of each kind; about 4 MB altogether."""
TRIED_MAX: Final = 8
"""Wrong passwords remembered per bucket, as keyed hashes, to know one that comes again."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What failures of one kind do."""

    free: int
    """Failures without a pause."""
    refuse_at: int
    """Failures at which it is refused; 0: never."""
    fade_s: float
    """Seconds in which one failure is forgotten."""


RULES: Final = {
    "address": Rule(free=0, refuse_at=20, fade_s=180.0),
    "network": Rule(free=20, refuse_at=100, fade_s=36.0),
    "login": Rule(free=10, refuse_at=0, fade_s=360.0),
    "own": Rule(free=1, refuse_at=50, fade_s=180.0),
}
"""By what failures are counted: a stranger's by the first three, those of a known network by "own"."""

KNOWN: Final = ("own",)
STRANGER: Final = ("address", "network", "login")
LOCAL: Final = ("login",)
"""What counts for a stranger, and for one on this machine: a webmail there speaks for everybody."""


class Brake(NamedTuple):
    """What holds an attempt back."""

    pause_s: float
    refused: bool


@dataclass(slots=True)
class Bucket:
    """Failures of one address, network or login, fading."""

    failures: float = 0.0
    at: float = 0.0
    refused_until: float = 0.0
    tried: list[bytes] = field(default_factory=list)


class Source(NamedTuple):
    """Where an attempt comes from, in the sizes that are counted and remembered."""

    address: str
    """An IPv4 address, or the /64 of an IPv6 address."""
    network: str
    """The /24 or /64: where a login is known from."""
    local: bool = False
    """On this machine."""
    wide: str = ""
    """The /48 of an IPv6 address, which one customer has whole; empty: as `network`."""

    def kinds(self, known: bool) -> tuple[str, ...]:
        """By what an attempt from here is counted."""
        if self.local:
            return LOCAL
        return KNOWN if known else STRANGER


@lru_cache(maxsize=4096)
def source_of(peer: str) -> Source:
    """The source of a peer's address; what is no address counts by its own text."""
    try:
        ip = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return Source(peer, peer)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if isinstance(ip, ipaddress.IPv4Address):
        return Source(str(ip), str(ipaddress.ip_network((ip, 24), strict=False)), ip.is_loopback)
    near = str(ipaddress.ip_network((ip, 64), strict=False))
    return Source(near, near, ip.is_loopback, str(ipaddress.ip_network((ip, 48), strict=False)))


class Brakes:
    """The counters of one worker; every method is told the time (monotonic seconds)."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[str, OrderedDict[str, Bucket]] = {kind: OrderedDict() for kind in RULES}

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def clear_for(self, source: Source, login: str) -> bool:
        """Whether nothing is counted here, so that nobody needs to ask whether the network is known."""
        keys = _keys(source, login)
        return not any(keys[kind] in self._buckets[kind] for kind in RULES)

    def brake(self, source: Source, login: str, now: float, *, known: bool) -> Brake:
        """What holds the next answer back; `known`: this login has succeeded from this network before."""
        keys = _keys(source, login)
        pause, refused = 0.0, False
        for kind in source.kinds(known):
            bucket = self._buckets[kind].get(keys[kind])
            if bucket is not None:
                refused = refused or bucket.refused_until > now
                pause = max(pause, _pause(RULES[kind], _faded(RULES[kind], bucket, now)))
        return Brake(pause, refused)

    def failed(self, source: Source, login: str, now: float, *, known: bool, tried: bytes = b"") -> None:
        """Count a failure; `tried` is a keyed hash of the wrong password, empty when there is none."""
        keys = _keys(source, login)
        for kind in source.kinds(known):
            self._count(kind, keys[kind], now, tried)

    def succeeded(self, source: Source, login: str) -> None:
        """Forget what this address did wrong with this login; every other counter stays."""
        self._buckets["own"].pop(_keys(source, login)["own"], None)

    def _count(self, kind: str, key: str, now: float, tried: bytes) -> None:
        rule, buckets = RULES[kind], self._buckets[kind]
        bucket = buckets.setdefault(key, Bucket(at=now))
        buckets.move_to_end(key)
        if len(buckets) > BUCKETS_MAX:
            buckets.popitem(last=False)
        if tried and tried in bucket.tried:
            return
        if tried:
            bucket.tried = [*bucket.tried[1 - TRIED_MAX :], tried]
        bucket.failures = _faded(rule, bucket, now) + 1
        bucket.at = now
        if rule.refuse_at and bucket.failures >= rule.refuse_at:
            bucket.refused_until = now + REFUSED_S


def _keys(source: Source, login: str) -> dict[str, str]:
    return {
        "address": source.address,
        "network": source.wide or source.network,
        "login": login,
        "own": f"{source.address} {login}",
    }


def _faded(rule: Rule, bucket: Bucket, now: float) -> float:
    return max(0.0, bucket.failures - (now - bucket.at) / rule.fade_s)


def _pause(rule: Rule, failures: float) -> float:
    """The pause behind so many failures: nothing, 1, 2, 4, 8, then 10 seconds."""
    # Rounded up: a failure that has half faded still counts, and the first one at once.
    over = -int(-failures // 1) - rule.free
    return 0.0 if over <= 0 else min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** min(over - 1, 16))
