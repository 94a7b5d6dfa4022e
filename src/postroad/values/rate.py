"""A limit of so many in a span of time: arithmetic on monotonic seconds, exact in every span.

The first few may go at once (`burst`), the others keep a distance. The distance is so chosen that no half-open span of
the given length ever holds more than the limit, wherever it begins: `burst` at once and then one each
`span / (limit - burst + 1)` seconds make `limit` at most.
"""

from __future__ import annotations

from typing import Final

BURST_SHARE: Final = 10
"""One in so many of a limit may go at once."""

SLACK_S: Final = 1e-9
"""Time that arithmetic may lose; distances are longer by more than that."""


class Rate:
    """At most `limit` in any `span_s` seconds; what goes is taken with `take`, after `wait` said 0.

    Invariant: `_full_at` is the time at which all of the burst is free again; it never goes back.
    """

    __slots__ = ("_apart_s", "_burst_s", "_full_at", "limit", "span_s")

    def __init__(self, limit: int, span_s: float) -> None:
        self.limit = limit
        self.span_s = span_s
        burst = max(1, limit // BURST_SHARE)
        self._apart_s = span_s / (limit - burst + 1) + 4 * SLACK_S
        self._burst_s = (burst - 1) * self._apart_s
        self._full_at = 0.0

    def wait(self, now: float) -> float:
        """Seconds until one more may go; 0: now."""
        wait_s = self._full_at - self._burst_s - now
        return wait_s if wait_s > SLACK_S else 0.0

    def free(self, now: float) -> int:
        """How many may go now."""
        slack_s = now + self._burst_s - max(self._full_at, now)
        return int((slack_s + SLACK_S) / self._apart_s) + 1 if slack_s >= -SLACK_S else 0

    def take(self, now: float) -> None:
        """One goes now."""
        self._full_at = max(self._full_at, now) + self._apart_s
