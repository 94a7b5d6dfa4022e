"""Promise P11, outbound: destinations that are dead or slow do not keep mail for the others from its turn.

Nothing here waits for a timeout: the bad hosts are silent for as long as the test lasts, and what is measured is
whether the mail for the good one gets through meanwhile. `bench/dead_destinations.py` has the figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from postroad.flow.outbound import Manner
from postroad.flow.route import read_signposts
from postroad.store.queue import accept
from postroad.values.ports import Answer
from tests.fakes.lookup import FakeLookup
from tests.fakes.smtp_server import FakeSmtp, Silent
from tests.flow.yard import Yard, until

BAD = 300
"""Destinations that are silent, with two messages each."""


@pytest_asyncio.fixture
async def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Yard]:
    """A worker with few connections, so that the silent ones could hold them all."""
    monkeypatch.setattr("postroad.flow.runner.CONNECTIONS_MAX", 20)
    made = Yard(tmp_path, manner=Manner("mail.ours.test", None, 30.0, patience_s=30.0), idle_s=0.01)
    made.runner.start()
    yield made
    await made.runner.drain(0.0)
    made.store.connection.close()


def direct(yard: Yard, good: FakeSmtp, bad: FakeSmtp) -> None:
    """good.test to the one host, everything else to a host of its own that is the other one in truth."""
    yard.runner._signposts = read_signposts(
        allow_private=["127.0.0.0/8"],
        routes={
            "good.test": f"127.0.0.1:{good.port}",
            **{f"bad{n}.test": f"mx.bad{n}.test:{bad.port}" for n in range(BAD)},
        },
    )
    yard.dns.address_records |= {f"mx.bad{n}.test": ["127.0.0.1"] for n in range(BAD)}


async def get_known(yard: Yard, good: FakeSmtp) -> None:
    """The good host has had mail before, and no connection is open to it now."""
    yard.send("first@good.test")
    await yard.settled()
    yard.clock.advance(60)
    await until(lambda: good.open == 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage, known",
    [
        *((stage, True) for stage in ("CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "DOT")),
        ("CONNECT", False),
        ("DOT", False),
    ],
)
async def test_promise_p11_three_hundred_silent_destinations_keep_no_other_mail_waiting(
    yard: Yard, stage: str, known: bool
) -> None:
    script: dict[str, Any] = {stage: Silent()}
    async with FakeSmtp() as good, FakeSmtp(**script) as bad:
        direct(yard, good, bad)
        if known:
            await get_known(yard, good)
        for n in range(2 * BAD):
            yard.send(f"b@bad{n % BAD}.test")
        await until(lambda: bad.open >= BAD, 20.0)
        held = len(good.messages)
        for n in range(100):
            yard.send(f"c{n}@good.test")
        await until(lambda: len(good.messages) == held + 100)
        assert len(yard.open()) >= 2 * BAD, "the silent ones are still being waited for"


@pytest.mark.slow
async def test_promise_p11_mail_out_of_the_queue_passes_silent_destinations_too(yard: Yard) -> None:
    """What waited longest comes first; it must not fill the room for claimed mail for ever."""
    async with FakeSmtp() as good, FakeSmtp(CONNECT=Silent()) as bad:
        direct(yard, good, bad)
        for to in [*(f"b@bad{n % BAD}.test" for n in range(2 * BAD)), *(f"c{n}@good.test" for n in range(100))]:
            message = yard.compose(to)
            yard.store.run(accept, replace(message, legs=[replace(leg, owner=0, due_us=0) for leg in message.legs]))
        yard.runner.wake()
        await until(lambda: len(good.messages) == 100, 20.0)


class SilentNames(FakeLookup):
    """Name servers of most domains do not answer while the test lasts."""

    def __init__(self, *arguments: Any, silent: str) -> None:
        super().__init__(*arguments)
        self.silent = silent
        self.waiting = 0

    async def mx(self, domain: str) -> Answer:
        """The exchangers, or nothing ever."""
        if domain.startswith(self.silent):
            self.waiting += 1
            await asyncio.Event().wait()
        return await super().mx(domain)


async def test_promise_p11_domains_whose_name_servers_are_silent_keep_no_other_mail_waiting(yard: Yard) -> None:
    """A way is planned again every minute: it must not wait behind those that end in no plan."""
    async with FakeSmtp() as good:
        yard.runner._signposts = read_signposts(port=good.port, allow_private=["127.0.0.0/8"])
        names = SilentNames({"good.test": [(1, "mx.good.test")]}, {"mx.good.test": ["127.0.0.1"]}, silent="bad")
        yard.runner._lookup = names
        await get_known(yard, good)
        for n in range(BAD):
            yard.send(f"b@bad{n}.test")
        await until(lambda: names.waiting >= 50)
        for n in range(10):
            yard.send(f"c{n}@good.test")
        await until(lambda: len(good.messages) == 11)
