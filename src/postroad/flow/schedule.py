"""When a deferred delivery is tried again and when it ends: pure arithmetic on wall times.

RFC 5321 section 4.5.4.1: "the sender MUST delay retrying a particular destination after one attempt has failed".
A delivery never ends without an attempt made after its time was up, nor before half of its lifetime was spent waiting
between attempts: a clock that jumped ends nothing, and neither does a server that was down (promise P12).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

JITTER: Final = 0.1
"""Share of a delay that is added by the delivery's number, as if by chance: what failed together does not come back
together, and the same attempt of the same delivery is always made at the same time."""

MAX_DELAY_S: Final = 86_400.0
"""No delivery waits longer, whatever was configured: it would look lost."""


def delay_s(attempts: int, delays_s: Sequence[float]) -> float:
    """Seconds between attempt number `attempts` (1 is the first) and the next one; the last delay repeats."""
    return min(delays_s[min(max(attempts, 1), len(delays_s)) - 1], MAX_DELAY_S)


def jitter(delivery: int, attempts: int) -> float:
    """A number from 0 to 1 that looks like chance and is always the same for an attempt of a delivery."""
    drawn = blake2b(delivery.to_bytes(8) + attempts.to_bytes(4), digest_size=4).digest()
    return int.from_bytes(drawn) / 0xFFFF_FFFF


def next_time(delivery: int, attempts: int, now_us: int, expires_us: int, delays_s: Sequence[float]) -> int:
    """Wall time of the attempt after number `attempts`; the last one of all comes when the time is up, not later."""
    wait_s = delay_s(attempts, delays_s) * (1 + JITTER * jitter(delivery, attempts))
    due_us = now_us + int(wait_s * 1_000_000)
    if due_us > expires_us > now_us:
        return expires_us
    return due_us


def is_over(attempts: int, now_us: int, expires_us: int, lifetime_s: float, delays_s: Sequence[float]) -> bool:
    """Whether attempt number `attempts`, which failed just now, was the last one of a delivery."""
    return now_us >= expires_us and has_waited(attempts, lifetime_s / 2, delays_s)


def has_waited(attempts: int, wanted_s: float, delays_s: Sequence[float]) -> bool:
    """Whether the delays before attempt number `attempts` add up to so many seconds.

    An attempt that came when its time was up, and so ended its delay early, counts with all of it.
    """
    waited_s = 0.0
    for attempt in range(1, attempts):
        waited_s += delay_s(attempt, delays_s)
        if waited_s >= wanted_s:
            return True
    return wanted_s <= 0.0


def is_late(attempts: int, now_us: int, warn_us: int, warn_after_s: float, delays_s: Sequence[float]) -> bool:
    """Whether the sender is to be told that a delivery is late, once attempt number `attempts` has failed too.

    `warn_us` is the wall time of that (0: never), `warn_after_s` how long after its beginning it lies. At least half of
    that time must have been spent waiting between attempts, so that a clock that jumped forward warns nobody.
    """
    if not warn_us or not warn_after_s or now_us < warn_us:
        return False
    return has_waited(attempts, warn_after_s / 2, delays_s)


def count_hops(header: bytes) -> int:
    """Received fields of a header block (RFC 5321 section 6.3: loops are found by counting them)."""
    lowered = header.lower()
    return lowered.count(b"\nreceived:") + lowered.startswith(b"received:")
