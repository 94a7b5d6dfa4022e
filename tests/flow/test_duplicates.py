"""Promise P7: a message arrives twice only when its receiver lost the last reply, and then once more for each loss.

Between the final dot and the 250 nobody can know whether the host has the message (RFC 1047); everywhere else mail
arrives exactly once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from email.parser import BytesHeaderParser
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from postroad.values.ids import id_text
from tests.fakes.smtp_server import OK, Drop, FakeSmtp, Step
from tests.flow.yard import Yard

HOUR_S = 3600.0
ODDS = 0.1
"""Of a lost final reply."""


@pytest_asyncio.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(tmp_path, delays_s=(300.0, 900.0, 3600.0))
    made.runner.start()
    yield made
    await made.runner.drain(0.0)
    made.store.connection.close()


class Forgetful:
    """By its seed a host stores a message and is gone before it says so; it counts how often."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.lost = 0

    def __call__(self, line: str) -> Step:
        if self.rng.random() < ODDS:
            self.lost += 1
            return Drop()
        return OK


def post(yard: Yard, number: int) -> str:
    """Sends a message that carries its queue id in its trace line, as every message of ours does; returns that id."""
    message = yard.compose(f"b{number}@x.test")
    ident = id_text(message.id)
    header = f"Received: from here by mail.ours.test with ESMTPA id {ident}\r\nMessage-ID: <{number}@ours.test>\r\n\r\n"
    ready = yard.compose(f"b{number}@x.test", id=message.id, header=header.encode())
    yard.admit(ready)
    return ident


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed, messages, chunking",
    [
        (1, 2000, False),
        (2, 2000, True),
        pytest.param(3, 10_000, False, marks=[pytest.mark.nightly, pytest.mark.timeout(600)]),
    ],
)
async def test_promise_p7_as_many_copies_too_many_as_final_replies_were_lost(
    yard: Yard, seed: int, messages: int, chunking: bool
) -> None:
    forgetful = Forgetful(seed)
    extensions = ("PIPELINING", "8BITMIME", *(["CHUNKING"] if chunking else []))
    async with FakeSmtp(extensions, DOT=forgetful) as host:
        yard.host("x.test", host)
        sent: dict[str, str] = {}
        for number in range(messages):
            sent[f"<{number}@ours.test>"] = post(yard, number)
            if number % 500 == 499:
                await yard.settled()
        await yard.settled()
        for _ in range(200):
            if not yard.open():
                break
            await yard.later(HOUR_S)
        assert yard.open() == [], f"seed {seed}"
        arrived: Counter[str] = Counter()
        copies: dict[str, set[bytes]] = {}
        for got in host.messages:
            fields = BytesHeaderParser().parsebytes(got.content)
            ident = fields["Message-ID"]
            assert fields["Received"].endswith(f" id {sent[ident]}"), f"seed {seed}"
            arrived[ident] += 1
            copies.setdefault(ident, set()).add(got.content)
        assert arrived.keys() == sent.keys(), f"seed {seed}"
        assert forgetful.lost > messages * ODDS / 2
        assert sum(arrived.values()) - messages == forgetful.lost, f"seed {seed}"
        assert all(len(content) == 1 for content in copies.values()), f"seed {seed}"
        assert yard.reports() == []


async def test_promise_p7_a_connection_lost_before_the_end_of_the_content_makes_no_copy(yard: Yard) -> None:
    """The host has nothing yet, and says so by having gone: the same message arrives once."""
    for stage in ("MAIL", "RCPT", "DATA"):
        script: dict[str, Any] = {stage: [Drop(), Drop(), Drop(), OK if stage != "DATA" else "354 go on"]}
        async with FakeSmtp(**script) as host:
            yard.host("x.test", host)
            yard.runner.reroute()
            yard.send("b@x.test")
            await yard.settled()
            for _ in range(6):
                await yard.later(HOUR_S)
            assert host.recipients == ["b@x.test"]
            assert yard.open() == []
