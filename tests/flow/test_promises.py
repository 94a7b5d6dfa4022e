"""Promises about what time and DNS may do to mail that waits: nothing, but make it wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from postroad.flow.route import read_signposts
from tests.fakes.lookup import FAILED, FakeLookup
from tests.fakes.smtp_server import FakeSmtp
from tests.flow.yard import Yard, only

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


@pytest_asyncio.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(tmp_path)
    made.runner.start()
    yield made
    await made.runner.drain(0.0)
    made.store.connection.close()


@pytest.mark.slow
async def test_promise_p9_six_hours_without_dns_bounce_nothing(yard: Yard) -> None:
    """Row D2: a resolver that cannot tell ends nothing; mail that came meanwhile leaves when it can again."""
    async with FakeSmtp() as host:
        yard.runner._signposts = read_signposts(port=host.port, allow_private=["127.0.0.0/8"])
        yard.runner._lookup = yard.dns = FakeLookup({"far.test": FAILED, "ours.test": FAILED}, {"mx.far.test": FAILED})
        sent = []
        for _ in range(12):
            sent.append(yard.send("b@far.test"))
            await yard.settled()
            await yard.later(HOUR_S / 2)
        kinds = {kind for message in sent for kind in yard.kinds(message.id)}
        assert kinds == {"deferred"}
        assert yard.reports() == []
        yard.runner._lookup = FakeLookup({"far.test": [(10, "mx.far.test")]}, {"mx.far.test": ["127.0.0.1"]})
        fresh = yard.send("c@far.test")
        await yard.settled()
        assert yard.kinds(fresh.id) == ["delivered"]
        await yard.later(HOUR_S * 1.1)
        assert len(host.messages) == 13
        assert yard.open() == []


@pytest.mark.parametrize("jump_s", [-HOUR_S, HOUR_S, 6 * DAY_S, -6 * DAY_S, 400 * DAY_S])
async def test_promise_p12_a_jump_of_the_clock_bounces_nothing(yard: Yard, jump_s: float) -> None:
    async with FakeSmtp(RCPT="450 4.2.0 later") as host:
        yard.host("far.test", host)
        message = yard.send("b@far.test")
        await yard.settled()
        await yard.later(10)
        tried = len(host.commands)
        yard.clock.jump_wall(jump_s)
        for _ in range(3):
            yard.runner.wake()
            await yard.settled()
        # At most one attempt more comes of it: its next time is counted from the clock as it is then.
        assert sum(line.startswith("RCPT") for line in host.commands[tried:]) <= 1
        assert "bounced" not in yard.kinds(message.id)
        yard.clock.jump_wall(-jump_s)
        assert yard.reports() == []
        assert len(yard.open()) == 1


async def test_promise_p12_a_server_that_was_down_for_a_week_bounces_nothing_at_once(yard: Yard) -> None:
    async with FakeSmtp(RCPT=["450 4.2.0 later", "450 4.2.0 later", "250 ok"]) as host:
        yard.host("far.test", host)
        yard.send("b@far.test")
        await yard.settled()
        yard.clock.advance(7 * DAY_S)
        await yard.later(1)
        assert yard.reports() == []
        await yard.later(HOUR_S)
        assert only(host.messages).recipients == ["b@far.test"]
