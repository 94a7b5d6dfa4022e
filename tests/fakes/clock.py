"""A clock that stands still until the test lets it jump."""

from __future__ import annotations


class FakeClock:
    """All kinds of time, moved together by `advance`; `jump_wall` moves only what people read off the wall, `sleep` is
    what a suspended machine does not live through."""

    def __init__(self, wall_us: int = 1_800_000_000_000_000, monotonic: float = 1000.0) -> None:
        self._wall_us = wall_us
        self._monotonic = monotonic
        self._slept = 0.0

    def monotonic(self) -> float:
        return self._monotonic

    def uptime(self) -> float:
        return self._monotonic + self._slept

    def wall_us(self) -> int:
        return self._wall_us

    def advance(self, seconds: float) -> None:
        """Time goes by."""
        self._monotonic += seconds
        self._wall_us += round(seconds * 1_000_000)

    def sleep(self, seconds: float) -> None:
        """Time goes by while the machine is suspended: intervals do not notice."""
        self._slept += seconds
        self._wall_us += round(seconds * 1_000_000)

    def jump_wall(self, seconds: float) -> None:
        """Somebody sets the clock of the machine; intervals do not notice."""
        self._wall_us += round(seconds * 1_000_000)
