"""Outages and clocks: what goes wrong for hours neither bounces mail nor lets it loose all at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from postroad.flow.shaping import State
from tests.fakes.lookup import FAILED
from tests.fakes.smtp_server import FakeSmtp, Step
from tests.flow.yard import Yard, until

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


@pytest_asyncio.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(tmp_path, delays_s=(300.0, 900.0, 3600.0))
    made.runner.start()
    yield made
    await made.runner.drain(0.0)
    made.store.connection.close()


async def test_promise_p9_six_hours_without_dns_bounce_nothing(yard: Yard) -> None:
    """And the first delivery comes with the first attempt after its return."""
    yard.dns.mx_records["x.test"] = FAILED
    sent = [yard.send(f"b{n}@x.test") for n in range(5)]
    await yard.settled()
    for _ in range(24):
        await yard.later(900.0)
    kinds = {kind for message in sent for kind in yard.kinds(message.id)}
    assert kinds == {"deferred"}
    assert len(yard.open()) == 5
    assert yard.reports() == []
    async with FakeSmtp() as host:
        yard.host("x.test", host)
        yard.runner.reroute()
        await yard.later(HOUR_S * 1.2)
        await until(lambda: len(host.messages) == 5)


@pytest.mark.parametrize("jump_s", [-HOUR_S, HOUR_S, DAY_S, -DAY_S])
async def test_promise_p12_a_jump_of_the_clock_neither_bounces_nor_floods(yard: Yard, jump_s: float) -> None:
    async with FakeSmtp(DOT="451 4.3.0 not now") as host:
        yard.host("x.test", host)
        for n in range(4):
            yard.send(f"b{n}@x.test")
        await yard.settled()
        before = host.commands.count("DATA")
        yard.clock.jump_wall(jump_s)
        yard.runner.wake()
        await asyncio.sleep(0.05)
        await yard.settled()
        # What became due by a jump ahead is tried once; nothing is tried twice, and nothing ends.
        assert host.commands.count("DATA") - before <= 4
        for _ in range(3):
            yard.runner.wake()
            await asyncio.sleep(0.01)
            await yard.settled()
        assert host.commands.count("DATA") - before <= 4
        assert len(yard.open()) == 4
        assert yard.reports() == []


async def test_promise_p12_a_jump_does_not_end_a_suspension(yard: Yard) -> None:
    """It is counted on the monotonic clock; the wall clock only says when people may expect its end."""
    async with FakeSmtp(DOT="421 4.7.28 flood") as host:
        yard.host("x.test", host)
        yard.send("b@x.test")
        await yard.settled()
        [site] = yard.runner._lanes.sites()
        site.shape.suspend(HOUR_S, "blocked", yard.clock.monotonic())
        yard.clock.jump_wall(DAY_S)
        before = host.connections
        yard.send("c@x.test")
        await yard.settled()
        assert (site.shape.state, host.connections) == (State.SUSPENDED, before)
        yard.clock.advance(HOUR_S)
        assert site.shape.permit(yard.clock.monotonic()).connections == 1


async def test_promise_p8_everything_accepted_is_delivered_reported_or_in_the_queue(yard: Yard) -> None:
    """Through failures, suspensions and a shared lane; nothing vanishes on the way."""
    answers = ["250 2.0.0 ok", "451 4.3.0 later", "550 5.7.1 no", "421 4.3.2 closing", "250 2.0.0 ok"]
    script: list[Step] = [*(answer for answer in answers for _ in range(8)), "250 2.0.0 ok"]
    async with FakeSmtp(DOT=script) as host:
        yard.host("x.test", host)
        yard.host("y.test", host)
        sent = [yard.send(f"b{n}@{'xy'[n % 2]}.test", sender=f"a@{'pq'[n % 2]}.test") for n in range(40)]
        await yard.settled()
        for _ in range(12):
            await yard.later(HOUR_S)
        delivered = sum("delivered" in yard.kinds(message.id) for message in sent)
        bounced = sum("bounced" in yard.kinds(message.id) for message in sent)
        waiting = len([1 for recipient, _, _ in yard.open() if recipient.startswith("b")])
        assert delivered + bounced + waiting == 40
        assert delivered == len(host.messages)
        assert bounced > 0
