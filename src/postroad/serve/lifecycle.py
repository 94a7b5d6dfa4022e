"""What a worker is doing that must not be cut off, and how it comes to an orderly end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Lifecycle:
    """Counts activities by label; `drain` waits for them."""

    def __init__(self) -> None:
        self.draining = False
        self._running: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def activity(self, label: str) -> Iterator[None]:
        """Mark a body transfer, a commit or an attempt as going on inside the block."""
        self._running[label] += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running[label] -= 1
            if not self._running[label]:
                del self._running[label]
            if not self._running:
                self._idle.set()

    def busy(self) -> str:
        """Who is still busy, for people: "2 transfers, 1 attempt"; empty when nobody is."""
        return ", ".join(f"{count} {label}" for label, count in sorted(self._running.items()))

    async def drain(self, grace: float) -> str:
        """Wait up to `grace` seconds until nothing is going on; returns who still is busy, empty when all is done."""
        self.draining = True
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            return self.busy()
        return ""
