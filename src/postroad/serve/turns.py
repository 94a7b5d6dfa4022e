"""Turns for sessions that have much to do: one slice of such work per round of the event loop.

A session that only yields shares the loop with each other one that does the same, so a command that needs one round
trip per line waits for all of them at every line. Here they stand in line: between two slices, whoever's, the loop
looks once at every socket. Measured by `bench/busy_loop.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """The line of one event loop. Invariant: while somebody waits, `_pass_on` is scheduled exactly once."""

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def next(self) -> None:
        """Lets the loop look at everything else, and comes back when it is our turn."""
        future: asyncio.Future[None] = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._pass_on)
        self._waiting.append(future)
        await future

    def _pass_on(self) -> None:
        waiting = self._waiting
        while waiting:
            future = waiting.popleft()
            if not future.done():  # else its session was cancelled
                future.set_result(None)
                break
        if waiting:
            self._loop.call_soon(self._pass_on)
