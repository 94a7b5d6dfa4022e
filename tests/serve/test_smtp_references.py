"""Every refusal of a session carries a reference that `postroad why` finds, those of the machine itself too."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from postroad.store.migrate import migrate
from postroad.store.sqlite import SqliteConnection
from postroad.values.ids import parse_id
from postroad.wire.smtp.limits import MachineLimits
from tests.serve.harness import open_house
from tests.serve.post_office import PostOffice, open_post_office


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[PostOffice]:
    connection = SqliteConnection(tmp_path / "postroad.db")
    migrate(connection, 1_800_000_000_000_000)
    house = open_house(tmp_path, connection)
    try:
        yield open_post_office(house, tmp_path)
    finally:
        await house.close()


def reference(reply: bytes) -> int:
    found = re.search(rb" Ref ([0-9A-Z]{13})\Z", reply)
    assert found is not None, reply
    ident = parse_id(found[1].decode())
    assert ident is not None
    return ident


@pytest.mark.parametrize(
    ("command", "code", "why"),
    [
        (b"MAIL FROM:<a@b.test> SIZE=99999999999", b"552", "protocol"),
        (b"RCPT TO:<anna@example.com>", b"503", "protocol"),
        (b"MAIL FROM:<a@b", b"501", "protocol"),
        (b"MAIL FROM:<a@b.test> FOO=1", b"555", "protocol"),
        (b"NONSENSE", b"500", "protocol"),
        (b"GET / HTTP/1.1", b"521", "protocol"),
    ],
)
async def test_what_the_machine_refuses_has_a_reference(
    office: PostOffice, command: bytes, code: bytes, why: str
) -> None:
    client = await office.greeted()
    reply = await client.ask(command)
    assert reply[:3] == code
    [refusal] = office.store.refusals
    assert refusal.reference == reference(reply)
    [event] = office.refused()
    assert event.cause == why
    assert command.decode() in event.evidence


async def test_content_that_is_too_large_is_noted_once_with_its_reason(office: PostOffice) -> None:
    office.limits = MachineLimits(size=2000)
    client = await office.greeted()
    for command in (b"MAIL FROM:<a@sender.test>", b"RCPT TO:<anna@example.com>", b"DATA"):
        await client.ask(command)
    client.send(b"x\r\n" * 1000 + b".\r\n")
    reply = await client.line()
    assert reply.startswith(b"552 5.3.4 ")
    assert [refusal.reference for refusal in office.store.refusals] == [reference(reply)]
    assert office.refused()[0].cause == "content refused, from <a@sender.test>"


async def test_who_talks_before_the_greeting_is_noted_as_such(office: PostOffice) -> None:
    from postroad.serve.greeting import EarlyTalkers
    from postroad.values.networks import Networks

    office.service.early = EarlyTalkers(0.1, lambda: 0.0, Networks(()))
    client = await office.connect()
    client.send(b"EHLO early\r\n")
    reply = await client.line()
    assert reply.startswith(b"521 5.5.1 ")
    reference(reply)
    assert office.refused()[0].cause == "talked before the greeting"
