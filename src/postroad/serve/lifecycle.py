"""What a worker is doing that must not be cut off, and how it comes to an orderly end."""

from __future__ import annotations

import asyncio
from collections import Counter


class Activity:
    """One thing going on, from entering the block to leaving it."""

    __slots__ = ("_idle", "_label", "_running")

    def __init__(self, running: Counter[str], idle: asyncio.Event, label: str) -> None:
        self._running = running
        self._idle = idle
        self._label = label

    def __enter__(self) -> None:
        self._running[self._label] += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self._running[self._label] -= 1
        if not self._running[self._label]:
            del self._running[self._label]
        if not self._running:
            self._idle.set()


class Lifecycle:
    """Counts activities by label; `drain` waits for them."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()

    def activity(self, label: str) -> Activity:
        """Mark a body transfer, a commit or an attempt as going on inside a `with` block."""
        return Activity(self._running, self._idle, label)

    def busy(self) -> str:
        """Who is still busy, for people: "2 transfers, 1 attempt"; empty when nobody is."""
        return ", ".join(f"{count} {label}" for label, count in sorted(self._running.items()))

    async def drain(self, grace: float) -> str:
        """Wait up to `grace` seconds until nothing is going on; returns who still is busy, empty when all is done."""
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            return self.busy()
        return ""
