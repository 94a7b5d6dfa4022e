"""The real clock; tests inject their own (see `tests/fakes/clock.py`)."""

from __future__ import annotations

import time


class SystemClock:
    """Time as the operating system tells it."""

    __slots__ = ()

    monotonic = staticmethod(time.monotonic)

    @staticmethod
    def wall_us() -> int:
        """Microseconds since 1970."""
        return time.time_ns() // 1000
