"""What one connection does: everything in one flight, chunks that nobody wants, and its end when mail runs out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from postroad.net.dial import Link
from tests.fakes.smtp_server import OK, FakeSmtp
from tests.flow.yard import Yard, only, until

CHUNKING = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING")


@pytest_asyncio.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(tmp_path, idle_s=0.05)
    made.runner.start()
    yield made
    await made.runner.drain(0.0)
    made.store.connection.close()


async def test_a_refusal_of_the_content_itself_is_final_whatever_its_code(yard: Yard) -> None:
    """CHUNKING without PIPELINING is not made use of: the content went by DATA, and 500 is what the host says of it."""
    async with FakeSmtp(("CHUNKING",), DOT="500 5.6.0 cannot read this") as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        assert "DATA" in host.commands
        assert "bounced" in yard.kinds(sent.id)


async def test_a_host_that_announces_chunks_and_does_not_know_them_gets_the_mail_by_data(yard: Yard) -> None:
    """It may take the octets of the message for commands, so the connection ends there and nothing bounces."""
    async with FakeSmtp(("PIPELINING", "CHUNKING"), DOT=["500 5.5.1 what?", OK]) as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        [deferred] = [event for event in yard.events(sent.id) if event.kind == "deferred"]
        assert deferred.cause == "the host announces CHUNKING and answers BDAT with 500"
        assert host.commands[-1].startswith("BDAT")
        await yard.later(400.0)
        assert host.recipients == ["b@x.test"]
        assert host.commands.count("DATA") == 1


@pytest.mark.parametrize(
    "script, fates",
    [
        ({}, {"b@far.test": "delivered", "c@far.test": "delivered"}),
        (
            {"RCPT": ["550 5.1.1 no such user", "250 2.1.5 ok"]},
            {"b@far.test": "bounced", "c@far.test": "delivered"},
        ),
        ({"RCPT": ["550 5.1.1 no", "450 4.2.0 later", "250 ok"]}, {"b@far.test": "bounced", "c@far.test": "deferred"}),
    ],
)
async def test_row_d14_a_chunk_is_sent_whoever_is_refused_and_the_connection_goes_on(
    yard: Yard, script: dict[str, str | list[str]], fates: dict[str, str]
) -> None:
    """RFC 3030 section 2: the octets of a chunk follow BDAT whatever its answer; RSET comes behind a failure."""
    async with FakeSmtp(CHUNKING, **script) as host:  # type: ignore[arg-type]
        yard.host("far.test", host)
        sent = yard.send("b@far.test", "c@far.test")
        await yard.settled()
        told = {event.recipient: event.kind for event in yard.events(sent.id) if event.recipient in fates}
        assert told == fates
        yard.send("d@far.test")
        await yard.settled()
        assert host.messages[-1].recipients == ["d@far.test"]
        assert host.connections == 1
        assert not any(line.startswith("DATA") for line in host.commands)


async def test_a_host_that_answers_in_pieces_is_not_kept_waiting(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Postfix tells of sender and recipient first, and of the chunk when it has read it (`Link.acknowledge`)."""
    pieces: list[Link] = []
    monkeypatch.setattr(Link, "acknowledge", lambda link: pieces.append(link))
    async with FakeSmtp(CHUNKING) as host:
        yard.host("far.test", host)
        yard.send("b@far.test")
        await yard.settled()
        in_one = len(pieces)
        host.hold = asyncio.Event()
        yard.send("c@far.test")
        await until(lambda: len(pieces) > in_one)
        host.hold.set()
        await yard.settled()
        assert host.recipients == ["b@far.test", "c@far.test"]


async def test_a_connection_without_mail_says_goodbye(yard: Yard) -> None:
    async with FakeSmtp() as host:
        yard.host("far.test", host)
        yard.send("b@far.test")
        await yard.settled()
        yard.clock.advance(1.0)
        await until(lambda: host.open == 0)
        assert host.commands[-1] == "QUIT"
        assert only(host.messages).recipients == ["b@far.test"]


async def test_domains_of_one_site_share_a_connection(yard: Yard) -> None:
    async with FakeSmtp() as host:
        for domain in ("far.test", "near.test"):
            yard.host(domain, host)
        yard.send("b@far.test")
        await yard.settled()
        yard.send("c@near.test")
        await yard.settled()
        assert host.connections == 1
