"""The real clock; tests inject their own (see `tests/fakes/clock.py`)."""

from __future__ import annotations

import time
from typing import Final

_UPTIME: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Where there is no CLOCK_BOOTTIME a sleep looks as if the clock had been set: mail then waits on from where it was."""


class SystemClock:
    """Time as the operating system tells it."""

    __slots__ = ()

    monotonic = staticmethod(time.monotonic)

    @staticmethod
    def uptime() -> float:
        """Seconds since the machine started, those of its sleep among them."""
        return time.clock_gettime(_UPTIME)

    @staticmethod
    def wall_us() -> int:
        """Microseconds since 1970."""
        return time.time_ns() // 1000
