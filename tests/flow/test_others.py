"""A user whose backlog fills a lane does not keep the due mail of others in the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from msgspec import structs

from postroad.flow.lanes import WAITING_MAX
from postroad.store.queue import accept
from tests.fakes.smtp_server import FakeSmtp
from tests.flow.yard import Yard, until


@pytest_asyncio.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(tmp_path, connections_per_lane=1)
    yield made
    await made.runner.drain(0.0)
    made.store.connection.close()


def store_due(yard: Yard, login: str, recipient: str) -> None:
    """A message in the queue that nobody has in hand and that is due."""
    message = yard.compose(recipient, login=login)
    [leg] = message.legs
    message = structs.replace(message, legs=[structs.replace(leg, owner=0, due_us=yard.clock.wall_us())])
    yard.store.run(accept, message)


async def test_the_due_mail_of_others_passes_a_backlog(yard: Yard) -> None:
    async with FakeSmtp() as host:
        yard.host("x.test", host)
        host.hold = asyncio.Event()
        # The way is known from here on.
        yard.send("first@x.test")
        await until(lambda: host.messages)
        for number in range(3 * WAITING_MAX):
            store_due(yard, "bulk", f"b{number}@x.test")
        store_due(yard, "anna", "anna@x.test")
        yard.runner.start()
        # The lane has enough of it, and nothing more to that domain is claimed by time.
        await until(lambda: "claim_others" in yard.store.calls)
        assert yard.runner.in_flight < 2 * WAITING_MAX + 2
        host.hold.set()
        await until(lambda: "anna@x.test" in host.recipients)
        # One round of the other: what a user may send before the next one's turn.
        assert host.recipients.index("anna@x.test") < WAITING_MAX // 2


async def test_nobody_is_sought_for_lanes_that_have_room(yard: Yard) -> None:
    async with FakeSmtp() as host:
        yard.host("x.test", host)
        for number in range(20):
            store_due(yard, "bulk", f"b{number}@x.test")
        yard.runner.start()
        await until(lambda: len(host.recipients) == 20)
        await yard.settled()
        assert "claim_others" not in yard.store.calls
