"""Connections that have no mail for the moment: kept for the next message, ended when they grow old or others need the
place.

Invariant: a parcel that is handed to a connection is carried by it or returned to the queue of its lane; and a lane
stands here while it has a connection without mail.
"""

from __future__ import annotations

import asyncio
from typing import Final

from postroad.flow.lanes import Lane, Site
from postroad.flow.parcels import Parcel
from postroad.values.ports import Clock

SWEEP_S: Final = 0.5
"""How often connections without mail are looked at."""


class _Waiter:
    """A connection that waits for mail."""

    __slots__ = ("future", "since")

    def __init__(self, future: asyncio.Future[Parcel | None], since: float) -> None:
        self.future = future
        self.since = since


class Idle:
    """All of a worker's; `wait` is called by a connection, everything else by the pool."""

    __slots__ = ("_keep_s", "_now", "_sweeper", "_waiters")

    def __init__(self, clock: Clock, keep_s: float) -> None:
        """`keep_s`: how long a connection may be without mail."""
        self._now = clock.monotonic
        self._keep_s = keep_s
        self._waiters: dict[Lane, list[_Waiter]] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    async def wait(self, lane: Lane) -> Parcel | None:
        """The next parcel of the lane; None when the connection is to end."""
        future: asyncio.Future[Parcel | None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(lane, []).append(_Waiter(future, self._now()))
        if self._sweeper is None:
            self._sweep_later()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and (parcel := future.result()) is not None:
                lane.queue.put_back(parcel)
            raise

    def hand(self, lane: Lane, parcel: Parcel) -> bool:
        """Gives a parcel to a connection of its lane; False when none waits."""
        waiters = self._waiters.get(lane)
        while waiters:
            # The one that waited least: those at the bottom grow old and end.
            waiter = waiters.pop()
            if not waiters:
                del self._waiters[lane]
            # One that was cut off in this moment takes nothing any more.
            if not waiter.future.done():
                waiter.future.set_result(parcel)
                return True
        return False

    def make_way_in(self, site: Site, count: int = 1) -> None:
        """Others wait for connections to the site: so many that have no mail give up their places."""
        # A site may have thousands of lanes, and this is asked for at every message: few of them have a connection.
        for lane in [lane for lane in self._waiters if lane.site is site]:
            while count and lane in self._waiters:
                self._end_oldest(lane)
                count -= 1

    def make_way(self) -> None:
        """Others wait for a connection: the one that has been without mail longest gives up its place."""
        lane = min(self._waiters, key=lambda lane: self._waiters[lane][0].since, default=None)
        if lane is not None:
            self._end_oldest(lane)

    def _end_oldest(self, lane: Lane) -> None:
        waiters = self._waiters[lane]
        future = waiters.pop(0).future
        if not future.done():
            future.set_result(None)
        if not waiters:
            del self._waiters[lane]

    def end_all(self) -> None:
        """Ends every connection that waits, for good."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        waiting, self._waiters = self._waiters, {}
        for waiters in waiting.values():
            for waiter in waiters:
                if not waiter.future.done():
                    waiter.future.set_result(None)

    def _sweep_later(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(min(SWEEP_S, self._keep_s), self._sweep)

    def _sweep(self) -> None:
        """Ends connections that have waited long enough."""
        self._sweeper = None
        oldest = self._now() - self._keep_s
        for lane, waiters in list(self._waiters.items()):
            kept = []
            for waiter in waiters:
                if waiter.since <= oldest and not waiter.future.done():
                    waiter.future.set_result(None)
                else:
                    kept.append(waiter)
            if kept:
                self._waiters[lane] = kept
            else:
                del self._waiters[lane]
        if self._waiters:
            self._sweep_later()
