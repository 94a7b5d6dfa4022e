"""Connections that wait for mail, at the moment in which they are cut off."""

from __future__ import annotations

import asyncio

from postroad.flow.idle import Idle
from tests.fakes.clock import FakeClock
from tests.flow.test_lanes import A, make_lanes, parcel, plan


async def test_no_parcel_is_handed_to_a_connection_that_was_cut_off() -> None:
    lane = make_lanes().lane(plan(A))
    idle = Idle(FakeClock(), 5.0)
    gone, waits = (asyncio.create_task(idle.wait(lane)) for _ in range(2))
    await asyncio.sleep(0)
    # It was the last to come, so it would be the first to get one.
    waits, gone = gone, waits
    gone.cancel()
    one = parcel("b")
    assert idle.hand(lane, one)
    assert await waits is one
    assert not idle.hand(lane, parcel("c"))
    idle.end_all()


async def test_a_connection_that_was_cut_off_is_not_ended_again() -> None:
    lane = make_lanes().lane(plan(A))
    idle = Idle(FakeClock(), 5.0)
    gone = asyncio.create_task(idle.wait(lane))
    await asyncio.sleep(0)
    gone.cancel()
    idle.make_way()
    idle.make_way_in(lane.site)
    idle.end_all()
