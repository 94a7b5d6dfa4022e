"""Submission through real sessions and units: sent once however often it is repeated, and no more than allowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from postroad.app.gates import make_gates
from postroad.flow.allowance import Allowances
from postroad.flow.local_users import LocalUser, SenderRules
from postroad.flow.submission import Submissions
from postroad.rules.ports import Ports
from postroad.serve.conversation import Conversation
from postroad.serve.local_submission import LOCAL, LocalSession
from postroad.store.allowances import Spendings
from postroad.store.migrate import migrate
from postroad.store.records import Allowed
from postroad.store.sqlite import SqliteConnection
from postroad.store.verify import verify
from postroad.wire.smtp.server import ServerMachine
from tests.serve.harness import ANNA, Peer, open_house
from tests.serve.post_office import PostOffice, ehlo, open_post_office
from tests.serve.test_smtp import log_in, send

MESSAGE = (
    b"From: anna@example.com\r\nDate: Fri, 27 Nov 2026 06:00:00 +0000\r\nSubject: hello\r\n"
    b"Message-ID: <one@example.com>\r\n\r\nA line\r\n"
)
KEYED = b"X-Postroad-Key: order-4711\r\n"


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[PostOffice]:
    connection = SqliteConnection(tmp_path / "postroad.db")
    migrate(connection, 1_800_000_000_000_000)
    house = open_house(tmp_path, connection)
    try:
        yield open_post_office(house, tmp_path)
    finally:
        await house.close()


async def anna(office: PostOffice) -> Peer:
    """A new session of hers, logged in."""
    client = await office.greeted("submission")
    await log_in(client, office)
    return client


async def submit(client: Peer, message: bytes = MESSAGE, to: str = "b@else.test") -> bytes:
    return await send(client, to, message, ANNA)


def allow(office: PostOffice, **limits: int) -> None:
    allowed = Allowed(**limits)
    office.service.submissions = Submissions(allowed)
    port = Allowances(Spendings(office.house.store), allowed, office.house.store.clock)
    office.service.gates = make_gates(Ports(allowances=port))


# -- once ------------------------------------------------------------------------------------------------------------


async def test_a_repetition_gets_the_same_answer_and_is_sent_once(office: PostOffice) -> None:
    first = await submit(await anna(office))
    assert first.startswith(b"250 2.0.0 Queued as ")
    other = await anna(office)
    assert await submit(other) == first
    assert (office.count("messages"), office.count("deliveries"), len(office.runner.fresh)) == (1, 1, 1)
    assert [event.kind for event in office.events()] == ["received", "queued", "repeated"]
    again = office.events()[-1]
    assert again.by == f"login {ANNA}"
    assert "client.test [192.0.2.9]" in again.where
    assert await submit(other, MESSAGE.replace(b"one@", b"two@")) != first


async def test_chunks_and_data_of_one_message_are_one(office: PostOffice) -> None:
    first = await submit(await anna(office))
    client = await anna(office)
    await client.ask(b"MAIL FROM:<anna@example.com>")
    await client.ask(b"RCPT TO:<b@else.test>")
    for piece in (MESSAGE[:20], MESSAGE[20:50]):
        client.send(b"BDAT %d\r\n" % len(piece) + piece)
        assert (await client.line()).startswith(b"250")
    client.send(b"BDAT %d LAST\r\n" % len(MESSAGE[50:]) + MESSAGE[50:])
    assert await client.line() == first


@pytest.mark.parametrize("body", [b"x" * 100, b"y" * 98 + b"\r\n" + b"z" * 300_000 + b"\r\n"], ids=["small", "large"])
async def test_a_large_repetition_leaves_no_file(office: PostOffice, body: bytes) -> None:
    message = MESSAGE + b"\r\n".join(body[at : at + 900] for at in range(0, len(body), 900)) + b"\r\n"
    client = await anna(office)
    assert await submit(client, message) == await submit(client, message)
    office.house.spool._threads.shutdown()
    spool = office.house.spool.body_path("bodies")
    assert len([path for path in spool.rglob("*") if path.is_file()]) == office.count("messages") - (len(body) == 100)
    assert list((spool.parent / "drafts").iterdir()) == []


async def test_what_differs_or_does_not_name_itself_is_sent_each_time(office: PostOffice) -> None:
    client = await anna(office)
    nameless = MESSAGE.replace(b"Message-ID: <one@example.com>\r\n", b"")
    replies = [
        await submit(client),
        await submit(client, MESSAGE + b"more\r\n"),
        await submit(client, to="c@else.test"),
        await submit(client, nameless),
        await submit(client, nameless),
    ]
    assert len(set(replies)) == 5
    assert office.count("messages") == 5


async def test_what_we_add_to_a_message_makes_it_no_other(office: PostOffice) -> None:
    dateless = MESSAGE.replace(b"Date: Fri, 27 Nov 2026 06:00:00 +0000\r\n", b"Bcc: c@else.test\r\n")
    first = await submit(await anna(office), dateless)
    assert await submit(await anna(office), dateless) == first
    [(header,)] = office.house.store.sql("SELECT header FROM messages")
    assert b"\r\nDate: " in header


async def test_mail_from_the_world_is_never_taken_for_a_repetition(office: PostOffice) -> None:
    message = KEYED + MESSAGE
    one, two = await office.greeted(), await office.greeted(peer="10.1.2.3")
    replies = {await send(client, ANNA, message) for client in (one, one, two, two)}
    assert len(replies) == 4
    assert office.count("submissions") == 0


async def test_a_key_is_kept_from_everybody_else(office: PostOffice, tmp_path: Path) -> None:
    first = await submit(await anna(office), KEYED + MESSAGE)
    assert await submit(await anna(office), KEYED + MESSAGE) == first
    [(header, size, body)] = office.house.store.sql("SELECT header, size, body FROM messages")
    assert b"ostroad" not in header
    assert b"order-4711" not in header
    assert header.endswith(MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    assert size == len(header) + len(body)
    assert [finding for finding in verify(tmp_path) if finding.rule == "body"] == []


async def test_a_key_of_another_message_is_refused_with_its_id(office: PostOffice) -> None:
    client = await anna(office)
    first = await submit(client, KEYED + MESSAGE)
    reply = await submit(client, KEYED + MESSAGE + b"more\r\n")
    assert reply.startswith(b"554 5.6.0 This X-Postroad-Key belongs to another message of the last 24 hours, ")
    assert first[-13:] in reply
    assert (await submit(client, KEYED + KEYED + MESSAGE)).startswith(b"554 5.6.0 X-Postroad-Key must stand once")
    assert office.count("messages") == 1


async def test_two_at_the_same_moment_are_one(office: PostOffice) -> None:
    clients = [await anna(office) for _ in range(5)]
    replies = await asyncio.gather(*(submit(client) for client in clients))
    assert len(set(replies)) == 1
    assert office.count("messages") == 1


async def test_a_user_of_this_machine_submits_once_too(office: PostOffice) -> None:
    rules = SenderRules("mx.example.com")

    async def program(uid: int, name: str) -> Peer:
        def make(conversation: Conversation) -> LocalSession:
            machine = ServerMachine(hostname="mx.example.com", door=LOCAL, limits=office.limits)
            conversation.peer = f"uid {uid}"
            return LocalSession(conversation, machine, office.service, LocalUser(uid, name), rules)

        client = await office.house.connect(make)
        await client.line()
        await ehlo(client)
        return client

    first = await send(await program(1000, "ben"), "b@else.test", MESSAGE, "ben@mx.example.com")
    assert first.startswith(b"250")
    assert await send(await program(1000, "ben"), "b@else.test", MESSAGE, "ben@mx.example.com") == first
    assert await send(await program(0, "root"), "b@else.test", MESSAGE, "ben@mx.example.com") != first


# -- and not too much ------------------------------------------------------------------------------------------------


async def test_above_the_limit_mail_is_refused_before_it_is_transferred(office: PostOffice) -> None:
    allow(office, messages_per_hour=1)
    client = await anna(office)
    first = await submit(client)
    reply = await client.ask(b"MAIL FROM:<anna@example.com>")
    assert reply.startswith(b"452 4.7.1 Your limit is 1 message an hour, and 1 were sent. Try again after ")
    assert [event.cause for event in office.refused()] == ["too many messages, from <anna@example.com>"]
    assert first.startswith(b"250")


async def test_a_recipient_too_many_is_refused_and_the_others_get_the_message(office: PostOffice) -> None:
    allow(office, first_time_recipients_per_day=2)
    client = await anna(office)
    await client.ask(b"MAIL FROM:<anna@example.com>")
    replies = [await client.ask(b"RCPT TO:<%b@else.test>" % name) for name in (b"b", b"c", b"d", b"B")]
    assert [reply[:3] for reply in replies] == [b"250", b"250", b"452", b"250"]
    assert office.refused()[0].cause.startswith("too many new recipients")
    await client.ask(b"DATA")
    client.send(MESSAGE + b".\r\n")
    assert (await client.line()).startswith(b"250")
    assert office.house.store.sql("SELECT messages, recipients, first_time FROM sending") == [(1, 2, 2)]
    assert (await submit(client, MESSAGE + b"again\r\n", "c@else.test")).startswith(b"250")


async def test_the_last_place_goes_to_one_of_two_sessions(office: PostOffice) -> None:
    """Both were let through at MAIL and RCPT; the transaction that accepts decides."""
    allow(office, messages_per_hour=1)
    one, two = await anna(office), await anna(office)
    for client in (one, two):
        for command in (b"MAIL FROM:<anna@example.com>", b"RCPT TO:<b@else.test>", b"DATA"):
            assert (await client.ask(command))[:1] in (b"2", b"3")
    one.send(MESSAGE + b".\r\n")
    assert (await one.line()).startswith(b"250")
    two.send(MESSAGE.replace(b"one@", b"two@") + b".\r\n")
    assert (await two.line()).startswith(b"452 4.7.1 Your limit is 1 message an hour")
    assert [event.cause for event in office.refused()] == ["too many messages, from <anna@example.com>"]
    assert office.count("messages") == 1


async def test_a_repetition_at_the_limit_is_still_answered_with_its_id(office: PostOffice) -> None:
    allow(office, messages_per_hour=1)
    one, two = await anna(office), await anna(office)
    for command in (b"MAIL FROM:<anna@example.com>", b"RCPT TO:<b@else.test>", b"DATA"):
        await two.ask(command)
    first = await submit(one)
    two.send(MESSAGE + b".\r\n")
    assert await two.line() == first


async def test_networks_that_may_relay_are_not_counted(office: PostOffice) -> None:
    allow(office, messages_per_hour=1)
    client = await office.greeted(peer="10.1.2.3")
    assert [(await send(client, "b@else.test"))[:3] for _ in range(3)] == [b"250"] * 3
    assert office.count("sending") == 0


async def test_a_header_of_more_lines_than_can_be_read_is_refused_before_anybody_has_to_judge_it(
    office: PostOffice,
) -> None:
    # Row S46: with one line too many neither From was looked at nor Bcc taken out.
    client = await anna(office)
    forged = b"From: boss@bank.test\r\nBcc: secret@else.test\r\n" + b"X:\r\n" * 2000 + b"\r\nx\r\n"
    assert (await submit(client, forged)).startswith(b"552 5.3.4 The header has more than 2,000 lines.")
    assert office.count("messages") == 0
    assert office.house.spool.in_memory == 0
    assert (await submit(client)).startswith(b"250 ")
