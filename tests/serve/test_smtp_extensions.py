"""What is announced really works in a session: BINARYMIME, FUTURERELEASE, DSN."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from postroad.serve.conversions import Conversions
from postroad.serve.doors import smtp_sessions
from postroad.store.migrate import migrate
from postroad.store.spool import Draft
from postroad.store.sqlite import SqliteConnection
from tests.serve.harness import ANNA, Peer, breathe, open_house
from tests.serve.post_office import PostOffice, ehlo, open_post_office
from tests.serve.test_smtp import MESSAGE, log_in, send

BINARY = (
    b"From: a@sender.test\r\nSubject: picture\r\nMIME-Version: 1.0\r\nContent-Type: image/png\r\n"
    b"Content-Transfer-Encoding: binary\r\n\r\n\x89PNG\r\n\x1a\n\x00\r\r\n.\r\n\xff"
)


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[PostOffice]:
    connection = SqliteConnection(tmp_path / "postroad.db")
    migrate(connection, 1_800_000_000_000_000)
    house = open_house(tmp_path, connection)
    try:
        yield open_post_office(house, tmp_path)
    finally:
        await house.close()


async def chunked(client: Peer, mail: bytes, content: bytes) -> bytes:
    """One message by BDAT; the last reply."""
    for command in (mail, f"RCPT TO:<{ANNA}>".encode()):
        assert (await client.ask(command)).startswith(b"250 ")
    client.send(b"BDAT %d LAST\r\n" % len(content) + content)
    return await client.line()


async def test_binary_content_becomes_ordinary_mail(office: PostOffice) -> None:
    client = await office.greeted()
    reply = await chunked(client, b"MAIL FROM:<a@sender.test> BODY=BINARYMIME", BINARY)
    assert reply.startswith(b"250 2.0.0 Queued as ")
    header, body = office.house.store.sql("SELECT header, body FROM messages")[0]
    assert b"Content-Transfer-Encoding: base64\r\n" in header
    assert b"binary" not in header
    assert body == b"iVBORw0KGgoADQ0KLg0K/w==\r\n"


async def test_binary_content_that_cannot_be_made_into_mail_is_refused(office: PostOffice) -> None:
    client = await office.greeted()
    broken = b"From: a@sender.test\r\nSubject: \x00\r\n\r\nx\r\n"
    reply = await chunked(client, b"MAIL FROM:<a@sender.test> BODY=BINARYMIME", broken)
    assert reply.startswith(b"554 5.6.0 ")
    assert office.count("messages") == 0
    assert office.house.spool.in_memory == 0


async def test_binary_messages_that_wait_for_their_turn_are_not_in_memory(
    office: PostOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers may send BINARYMIME: ten of them with 50 MB each would take a gigabyte."""
    converting, go_on = asyncio.Event(), asyncio.Event()
    read: list[Draft] = []
    read_body = Draft.read_body

    class Slow(Conversions):
        async def unbinary(self, header: bytes, body: bytes) -> tuple[bytes, bytes]:
            converting.set()
            await go_on.wait()
            return await super().unbinary(header, body)

    def noted(draft: Draft) -> AsyncIterator[bytes]:
        read.append(draft)
        return read_body(draft)

    monkeypatch.setattr(Draft, "read_body", noted)
    office.service.conversions = Slow()
    clients = [await office.greeted() for _ in range(3)]
    sending = [
        asyncio.create_task(chunked(client, b"MAIL FROM:<a@sender.test> BODY=BINARYMIME", BINARY)) for client in clients
    ]
    await converting.wait()
    for _ in range(20):
        await breathe()
    assert len(read) == 1
    go_on.set()
    assert all([(await one).startswith(b"250 ") for one in sending])


async def test_text_that_was_announced_as_binary_is_kept_as_it_came(office: PostOffice) -> None:
    client = await office.greeted()
    await chunked(client, b"MAIL FROM:<a@sender.test> BODY=BINARYMIME", MESSAGE)
    header, body = office.house.store.sql("SELECT header, body FROM messages")[0]
    assert (header + body).endswith(MESSAGE)


async def test_a_message_is_held_until_its_time(office: PostOffice) -> None:
    make = smtp_sessions(office.service, limits=office.limits, hold_s=86_400)["submission"]
    client = await office.house.connect(make)
    assert (await client.line()).startswith(b"220 ")
    assert any(line.startswith(b"FUTURERELEASE 86400 ") for line in await ehlo(client))
    await log_in(client, office)
    assert (await client.ask(f"MAIL FROM:<{ANNA}> HOLDFOR=3600".encode())).startswith(b"250 ")
    client.send(f"RCPT TO:<{ANNA}>\r\nRCPT TO:<x@else.test>\r\nDATA\r\n".encode())
    assert [(await client.line())[:3] for _ in range(3)] == [b"250", b"250", b"354"]
    before = office.service.clock.wall_us()
    client.send(MESSAGE + b".\r\n")
    assert (await client.line()).startswith(b"250 ")
    due = [row[0] for row in office.house.store.sql("SELECT due_us FROM deliveries")]
    assert len(due) == 2
    assert all(abs(one - before - 3_600_000_000) < 60_000_000 for one in due)
    assert office.count("mailbox_messages") == 0
    assert {event.kind for event in office.events()} >= {"received", "held"}


async def test_strangers_are_offered_no_reports_and_success_is_not_told_to_them(office: PostOffice) -> None:
    """P19: no mail to whomever a stranger names as sender."""
    client = await office.connect()
    await client.line()
    assert b"DSN" not in await ehlo(client)
    assert (await client.ask(b"MAIL FROM:<victim@else.test>")).startswith(b"250 ")
    assert (await client.ask(f"RCPT TO:<{ANNA}> NOTIFY=SUCCESS,FAILURE".encode())).startswith(b"250 ")
    client.send(b"DATA\r\n")
    await client.line()
    client.send(MESSAGE + b".\r\n")
    assert (await client.line()).startswith(b"250 ")
    assert office.count("messages") == 1
    assert office.count("deliveries") == 0


async def test_listed_networks_and_users_are_offered_reports(office: PostOffice) -> None:
    listed = await office.connect(peer="10.0.0.7")
    await listed.line()
    assert b"DSN" in await ehlo(listed)
    user = await office.connect("submission")
    await user.line()
    assert b"DSN" in await ehlo(user)


async def test_the_reply_to_a_sender_of_many_is_cached_by_what_is_offered(office: PostOffice) -> None:
    client = await office.greeted()
    assert (await send(client)).startswith(b"250 ")
    assert await ehlo(client) == await ehlo(client)
