"""What a worker makes of suspensions that stand in the store, or do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from postroad.flow.lanes import Site
from postroad.flow.shaping import State
from postroad.flow.suspensions import Suspensions
from postroad.store.suspensions import Suspended
from tests.fakes.clock import FakeClock
from tests.flow.test_lanes import A, make_lanes, plan


class Told:
    """A store that keeps nothing."""

    async def call(self, unit: Callable[..., Any], args: Any) -> Any:
        return None


class Bench:
    """One site, and the rows that stand in the store."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.rows: list[Suspended] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.opened: list[Site] = []
        lanes = make_lanes()
        store: Any = Told()
        self.suspensions = Suspensions(store, self._read, lanes, self.clock, self._spawn)
        self.suspensions.on_change = self.opened.append
        self.site = lanes.lane(plan(A)).site

    async def _read(self) -> list[Suspended]:
        return self.rows

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    async def look(self) -> None:
        self.suspensions.look()
        await asyncio.gather(*self.tasks)

    def state(self) -> State:
        return self.site.shape.state

    def row(self) -> Suspended:
        return Suspended(self.site.key, self.clock.wall_us() + 1000_000_000, "blocked")


async def test_what_was_never_written_down_is_not_taken_for_ended() -> None:
    """Mail that somebody moved to a host by hand says nothing of its domain, so no row can stand for it."""
    bench = Bench()
    bench.site.shape.suspend(1000.0, "blocked", bench.clock.monotonic())
    bench.suspensions.learnt(bench.site, "blocked", [])
    await bench.look()
    assert bench.site.shape.state is State.SUSPENDED
    assert bench.opened == []


async def test_what_another_worker_wrote_down_ends_when_it_is_gone() -> None:
    bench = Bench()
    bench.rows = [bench.row()]
    await bench.look()
    assert bench.state() is State.SUSPENDED
    bench.rows = []
    await bench.look()
    assert bench.state() is State.OPEN
    assert bench.opened == [bench.site, bench.site]


async def test_a_site_is_suspended_again_after_its_row_was_gone() -> None:
    bench = Bench()
    for _ in range(2):
        bench.rows = [bench.row()]
        await bench.look()
        assert bench.state() is State.SUSPENDED
        bench.rows = []
        await bench.look()
        assert bench.state() is State.OPEN
