"""SMTP sessions with the real planner, intake and store: who may send what to whom, and what is durable after 250."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from postroad.flow.destinations import Destinations
from postroad.flow.local import Plan
from postroad.serve.logins import Trouble
from postroad.store.migrate import migrate
from postroad.store.sqlite import SqliteConnection
from postroad.values.address import Address
from postroad.values.envelope import Recipient
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.ids import parse_id
from postroad.values.reply import Reply
from tests.serve.harness import ANNA, PASSWORD, Peer, breathe, open_house
from tests.serve.post_office import PostOffice, ehlo, open_post_office

MESSAGE = b"From: a@sender.test\r\nSubject: hello\r\nMessage-ID: <one@sender.test>\r\n\r\nA line\r\n..dots\r\n"


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[PostOffice]:
    connection = SqliteConnection(tmp_path / "postroad.db")
    migrate(connection, 1_800_000_000_000_000)
    house = open_house(tmp_path, connection)
    try:
        yield open_post_office(house, tmp_path)
    finally:
        await house.close()


async def send(client: Peer, to: str = ANNA, message: bytes = MESSAGE, sender: str = "a@sender.test") -> bytes:
    """One whole transaction; returns the last reply."""
    for command in (f"MAIL FROM:<{sender}>", f"RCPT TO:<{to}>", "DATA"):
        reply = await client.ask(command.encode())
        if reply[:1] not in (b"2", b"3"):
            return reply
    client.send(message + b".\r\n")
    return await client.line()


async def over_tls(client: Peer, office: PostOffice) -> None:
    """STARTTLS from the client's side."""
    assert (await client.ask(b"STARTTLS")).startswith(b"220 ")
    context = ssl.create_default_context(cafile=str(office.service.tls.certificate))
    await client.writer.start_tls(context, server_hostname="mx.example.com")
    await ehlo(client)


async def log_in(client: Peer, office: PostOffice) -> None:
    import base64

    await over_tls(client, office)
    token = base64.b64encode(f"\0{ANNA}\0{PASSWORD}".encode())
    assert (await client.ask(b"AUTH PLAIN " + token)).startswith(b"235 2.7.0")


# -- accepting ---------------------------------------------------------------------------------------------------------


async def test_mail_for_a_mailbox_is_filed_byte_for_byte_before_the_250(office: PostOffice) -> None:
    client = await office.greeted()
    reply = await send(client)
    assert re.fullmatch(rb"250 2\.0\.0 Queued as [0-9A-Z]{13}", reply)
    ident = parse_id(reply[-13:].decode())
    header, body = office.house.store.sql("SELECT header, body FROM messages WHERE id = ?", (ident,))[0]
    received, _, rest = header.partition(b"From: a@sender.test")
    assert (b"From: a@sender.test" + rest + body).replace(b".dots", b"..dots") == MESSAGE
    assert received.startswith(b"Received: from client.test ([192.0.2.9])\r\n\tby mx.example.com with ESMTP id ")
    assert b"for <anna@example.com>" in received
    prefix = office.house.store.sql("SELECT prefix FROM mailbox_messages")[0][0]
    assert prefix == b"Return-Path: <a@sender.test>\r\nDelivered-To: anna@example.com\r\n"
    assert [event.kind for event in office.events()] == ["received", "delivered"]
    assert office.count("deliveries") == 0


@pytest.mark.parametrize(
    ("helo", "peer", "line"),
    [
        ("client_1.test", "192.0.2.9", "from client_1.test ([192.0.2.9])"),
        ("[192.0.2.1]", "192.0.2.9", "from [192.0.2.1] ([192.0.2.9])"),
        ("client.test", "2001:db8::9", "from client.test ([IPv6:2001:db8::9])"),
        ("bank.test ([192.0.2.1]) by x", "192.0.2.9", "from bank.test???192.0.2.1???by?x ([192.0.2.9])"),
        ("b\u00fccher.test", "192.0.2.9", "from b?cher.test ([192.0.2.9])"),
    ],
)
async def test_a_client_cannot_write_into_its_received_line(
    office: PostOffice, helo: str, peer: str, line: str
) -> None:
    client = await office.connect(peer=peer)
    await client.line()
    client.send(f"HELO {helo}\r\n".encode())
    assert (await client.line()).startswith(b"250 ")
    assert (await send(client)).startswith(b"250 ")
    header = office.house.store.sql("SELECT header FROM messages")[0][0]
    assert header.startswith(f"Received: {line}\r\n\tby mx.example.com with SMTP id ".encode())


async def test_received_says_that_smtputf8_was_asked_for(office: PostOffice) -> None:
    client = await office.greeted()
    assert (await client.ask(b"MAIL FROM:<a@sender.test> SMTPUTF8")).startswith(b"250 ")
    client.send(b"RCPT TO:<anna@example.com>\r\nDATA\r\n")
    assert [(await client.line())[:3] for _ in range(2)] == [b"250", b"354"]
    client.send(MESSAGE + b".\r\n")
    assert (await client.line()).startswith(b"250 ")
    # RFC 6531 section 4.3
    assert b" with UTF8SMTP id " in office.house.store.sql("SELECT header FROM messages")[0][0]


async def test_a_message_is_found_by_its_addresses_and_message_id(office: PostOffice) -> None:
    await send(await office.greeted())
    keys = office.house.store.sql("SELECT keys FROM history")[0][0].split("\n")
    assert set(keys) == {"a@sender.test", "anna@example.com", "one@sender.test"}


async def test_two_recipients_are_one_body_and_no_recipient_is_named_in_received(office: PostOffice) -> None:
    office.house.store.account("ben@example.com")
    client = await office.greeted()
    client.send(b"MAIL FROM:<>\r\nRCPT TO:<anna@example.com>\r\nRCPT TO:<ben@example.com>\r\nDATA\r\n")
    assert [(await client.line())[:3] for _ in range(4)] == [b"250", b"250", b"250", b"354"]
    client.send(MESSAGE + b".\r\n")
    assert (await client.line()).startswith(b"250 ")
    assert office.count("messages") == 1
    assert office.count("mailbox_messages") == 2
    assert b"for <" not in office.house.store.sql("SELECT header FROM messages")[0][0]


async def test_a_large_message_goes_to_a_file_and_arrives_whole(office: PostOffice) -> None:
    line = b"x" * 76 + b"\r\n"
    message = b"Subject: large\r\n\r\n" + line * 10_000
    client = await office.greeted()
    assert (await send(client, message=message)).startswith(b"250 ")
    header, body, file = office.house.store.sql("SELECT header, body, body_file FROM messages")[0]
    assert body is None
    assert office.house.spool.body_path(file).read_bytes() == line * 10_000
    assert header.endswith(b"Subject: large\r\n\r\n")


async def test_bdat_in_two_chunks(office: PostOffice) -> None:
    client = await office.greeted()
    client.send(b"MAIL FROM:<>\r\nRCPT TO:<anna@example.com>\r\n")
    await client.line(), await client.line()
    client.send(b"BDAT 17\r\nSubject: chunky\r\n")
    assert (await client.line()).startswith(b"250 2.0.0 Chunk")
    client.send(b"BDAT 9 LAST\r\n\r\nhello\r\n")
    assert (await client.line()).startswith(b"250 2.0.0 Queued as")
    header, body = office.house.store.sql("SELECT header, body FROM messages")[0]
    assert header.endswith(b"Subject: chunky\r\n\r\n")
    assert body == b"hello\r\n"


async def test_commands_behind_the_final_dot_are_answered_in_order(office: PostOffice) -> None:
    client = await office.greeted()
    client.send(b"MAIL FROM:<>\r\nRCPT TO:<anna@example.com>\r\nDATA\r\n")
    for _ in range(3):
        await client.line()
    client.send(MESSAGE + b".\r\nNOOP\r\nQUIT\r\n")
    assert [(await client.line())[:9] for _ in range(3)] == [b"250 2.0.0", b"250 2.0.0", b"221 2.0.0"]
    assert await client.rest() == b""


# -- refusing ----------------------------------------------------------------------------------------------------------


async def test_an_unknown_user_is_refused_with_a_reference_that_is_written_down(office: PostOffice) -> None:
    reply = await send(await office.greeted(), to="nobody@example.com")
    assert re.fullmatch(
        rb"550 5\.1\.1 No mailbox nobody@example\.com here\. Check the spelling\. Ref [0-9A-Z]{13}", reply
    )
    (event,) = office.refused()
    assert office.store.refusals[0].reference == parse_id(reply[-13:].decode())
    assert (event.recipient, event.by, event.where) == ("nobody@example.com", "mx", "client.test [192.0.2.9]")
    assert "RCPT TO:<nobody@example.com> -> 550 5.1.1" in event.evidence
    assert office.count("messages") == 0


async def test_the_world_may_not_relay(office: PostOffice) -> None:
    reply = await send(await office.greeted(), to="x@elsewhere.test")
    assert reply.startswith(b"550 5.7.1 We do not relay to elsewhere.test from 192.0.2.9. Log in on port 465 or 587.")


async def test_a_listed_network_may_relay_and_its_leg_is_born_leased(office: PostOffice) -> None:
    client = await office.greeted(peer="10.1.2.3")
    assert (await send(client, to="x@elsewhere.test")).startswith(b"250 ")
    ((owner, attempts, domain),) = office.house.store.sql("SELECT owner, attempts, domain FROM deliveries")
    assert (owner, attempts, domain) == (7, 1, "elsewhere.test")
    assert [accepted.legs[0].recipient for accepted in office.runner.fresh] == ["x@elsewhere.test"]


async def test_beyond_the_window_mail_is_left_to_whoever_has_room(office: PostOffice) -> None:
    office.runner.room = False
    client = await office.greeted(peer="10.1.2.3")
    assert (await send(client, to="x@elsewhere.test")).startswith(b"250 ")
    assert office.house.store.sql("SELECT owner, attempts FROM deliveries") == [(0, 0)]
    assert office.runner.fresh == []


async def test_submission_wants_tls_and_a_login(office: PostOffice) -> None:
    client = await office.greeted("submission")
    assert (await client.ask(b"MAIL FROM:<anna@example.com>")).startswith(b"530 5.7.0")
    assert (await client.ask(b"AUTH PLAIN AGEAYg==")).startswith(b"538 5.7.11")


async def test_who_logged_in_may_send_anywhere_and_the_journal_says_who(office: PostOffice) -> None:
    client = await office.greeted("submission")
    await log_in(client, office)
    assert (await send(client, to="x@elsewhere.test", sender=ANNA)).startswith(b"250 ")
    header = office.house.store.sql("SELECT header FROM messages")[0][0]
    assert b" with ESMTPSA id " in header
    assert b"(TLSv1.3 " in header
    assert office.events()[0].by == f"login {ANNA}"


@pytest.mark.parametrize(("user", "password"), [(ANNA, "wrong"), ("nobody@example.com", PASSWORD)])
async def test_wrong_logins_get_one_text(office: PostOffice, user: str, password: str) -> None:
    import base64

    client = await office.greeted("submission")
    await over_tls(client, office)
    assert await client.ask(b"AUTH LOGIN") == b"334 VXNlcm5hbWU6"
    assert await client.ask(base64.b64encode(user.encode()) or b"=") in (b"334 UGFzc3dvcmQ6",)
    reply = await client.ask(base64.b64encode(password.encode()))
    assert reply.startswith((b"535 5.7.8 Wrong user name or password.", b"501 5.5.2"))
    assert PASSWORD.encode() not in repr(office.store.refusals).encode()


async def test_too_many_logins_at_once_is_for_now(office: PostOffice) -> None:
    office.logins.trouble = Trouble.BUSY
    client = await office.greeted("submission")
    await over_tls(client, office)
    assert (await client.ask(b"AUTH PLAIN AGEAYg==")).startswith(b"454 4.7.0")


@pytest.mark.parametrize(("failure", "code"), [(StoreBroken("disk"), b"451 4.3.0"), (StoreFull("disk"), b"452 4.3.1")])
async def test_what_is_not_durable_is_never_250(office: PostOffice, failure: Exception, code: bytes) -> None:
    office.store.fail = failure
    client = await office.greeted()
    assert (await send(client)).startswith(code)
    assert office.count("messages") == 0
    office.store.fail = None
    assert (await send(client)).startswith(b"250 ")


async def test_a_full_disk_is_said_at_mail(office: PostOffice) -> None:
    office.service.full = lambda size: Reply(452, "4.3.1", "Not enough disk space.") if size > 1000 else None
    client = await office.greeted()
    assert (await client.ask(b"MAIL FROM:<a@b.test> SIZE=2000")).startswith(b"452 4.3.1")
    assert (await client.ask(b"MAIL FROM:<a@b.test> SIZE=900")).startswith(b"250 ")


async def test_row_s55_promise_p17_a_forwarding_loop_ends(office: PostOffice) -> None:
    """Row S55."""
    hops = b"Received: from a by b; Mon, 1 Jan 2026 00:00:00 +0000\r\n"
    client = await office.greeted()
    assert (await send(client, message=hops * 50 + MESSAGE)).startswith(b"250 ")
    assert (await send(client, message=hops * 51 + MESSAGE)).startswith(b"554 5.4.6 Too many hops")
    looped = b"Delivered-To: anna@example.com\r\n" + MESSAGE
    assert (await send(client, message=looped)).startswith(b"554 5.4.6 This message was delivered")


async def test_who_exists_is_told_to_nobody(office: PostOffice) -> None:
    """RFC 5321 section 7.3: 252 for VRFY says nothing, EXPN is refused, and HELP names what there is."""
    client = await office.greeted()
    assert (await client.ask(b"VRFY anna")).startswith(b"252 2.5.2 ")
    assert (await client.ask(b"EXPN staff")).startswith(b"502 5.5.1 ")
    assert (await client.ask(b"ETRN example.com")).startswith(b"502 5.5.1 ")
    assert (await client.ask(b"HELP")).startswith(b"214 2.0.0 Commands: EHLO MAIL RCPT DATA")


async def test_a_header_beyond_its_limit_is_refused(office: PostOffice) -> None:
    many = b"X-Filler: " + b"x" * 60 + b"\r\n"
    client = await office.greeted()
    assert (await send(client, message=many * 4000 + MESSAGE)).startswith(b"552 5.3.4 The header")
    assert (await send(client)).startswith(b"250 ")


# -- ends --------------------------------------------------------------------------------------------------------------


async def test_hanging_up_before_the_dot_keeps_nothing(office: PostOffice) -> None:
    client = await office.greeted()
    client.send(b"MAIL FROM:<>\r\nRCPT TO:<anna@example.com>\r\nDATA\r\n" + b"x" * 50)
    await breathe()
    await client.hang_up()
    assert office.count("messages") == 0
    assert office.house.spool.in_memory == 0


async def test_promise_p11_a_silent_client_is_told_421(office: PostOffice) -> None:
    client = await office.greeted()
    (conversation,) = office.house.conversations
    conversation.check_time(asyncio.get_running_loop().time())
    assert (await client.line()).startswith(b"421 4.4.2 Timeout")
    assert await client.rest() == b""


async def test_row_s60_promise_p11_a_slow_transfer_is_told_so(office: PostOffice) -> None:
    """Row S60: the body has a deadline of its own."""
    client = await office.greeted()
    client.send(b"MAIL FROM:<>\r\nRCPT TO:<anna@example.com>\r\n")
    await client.line(), await client.line()
    assert (await client.ask(b"DATA")).startswith(b"354")
    client.send(b"x\r\n")
    await breathe()
    (conversation,) = office.house.conversations
    now = asyncio.get_running_loop().time()
    assert conversation.due <= now + 30  # far sooner than the patience for a command
    conversation.check_time(now)
    assert (await client.line()).startswith(b"421 4.4.2 This transfer is too slow")


async def test_draining_says_goodbye_between_transactions(office: PostOffice) -> None:
    client = await office.greeted()
    (conversation,) = office.house.conversations
    conversation.session.drain()
    assert (await client.line()).startswith(b"421 4.3.2 Going down")
    assert await client.rest() == b""


async def test_draining_lets_an_open_transaction_finish(office: PostOffice) -> None:
    client = await office.greeted()
    await client.ask(b"MAIL FROM:<a@b.test>")
    (conversation,) = office.house.conversations
    conversation.session.drain()
    assert (await client.ask(b"RCPT TO:<anna@example.com>")).startswith(b"250 ")
    assert (await client.ask(b"DATA")).startswith(b"354 ")
    client.send(MESSAGE + b".\r\n")
    assert (await client.line()).startswith(b"250 ")
    assert (await client.line()).startswith(b"421 4.3.2")


def test_a_thousand_targets_merged_a_hundred_times_are_in_once() -> None:
    targets = [Address("user", f"host{number}.test") for number in range(1000)]
    destinations = Destinations()
    for number in range(100):
        plan = Plan([(number % 2, "INBOX", ANNA)], list(targets))
        destinations.add(Recipient(Address(f"list+{number}", "example.com")), plan)
    assert [recipient for recipient, _, _, _ in destinations.remotes] == [str(target) for target in targets]
    assert destinations.copies == [(ANNA, 0, "INBOX"), (ANNA, 1, "INBOX")]


async def test_recipients_that_lead_to_many_others_are_told_to_come_in_another_transaction(office: PostOffice) -> None:
    class Lists:
        """Every address is a list of 900 others."""

        planned = 0

        async def plan(self, address: Address, **circumstances: object) -> Plan:
            self.planned += 1
            return Plan(remotes=[Address(f"member{number}", "else.test") for number in range(900)])

    lists = Lists()
    office.service.planner = lists  # type: ignore[assignment]
    client = await office.greeted()
    await client.ask(b"MAIL FROM:<a@sender.test>")
    for number in range(6):
        assert (await client.ask(b"RCPT TO:<list+%d@example.com>" % number)).startswith(b"250 ")
    for number in range(6, 9):
        reply = await client.ask(b"RCPT TO:<list+%d@example.com>" % number)
        assert reply.startswith(b"452 4.5.3 The recipients so far lead to many others.")
    assert lists.planned == 6, "what is refused costs nothing"
    # RFC 5321 section 4.5.3.1.10: the transaction goes on with those it has
    await client.ask(b"DATA")
    client.send(MESSAGE + b".\r\n")
    assert (await client.line()).startswith(b"250 ")
    assert office.count("deliveries") == 900


# -- the sender's wish for TLS -----------------------------------------------------------------------------------------


async def wish(office: PostOffice, client: Peer, message: bytes, *, parameter: bytes = b"") -> tuple[int, str]:
    """What is written down of a message's wish: its number, and RET."""
    assert (await client.ask(b"MAIL FROM:<" + ANNA.encode() + b"> RET=FULL" + parameter)).startswith(b"250 ")
    assert (await client.ask(b"RCPT TO:<x@elsewhere.test>")).startswith(b"250 ")
    assert (await client.ask(b"DATA")).startswith(b"354")
    client.send(message + b".\r\n")
    assert (await client.line()).startswith(b"250 ")
    sql = "SELECT d.tls, m.ret FROM deliveries d JOIN messages m ON m.id = d.message ORDER BY d.id DESC LIMIT 1"
    ((tls, ret),) = office.house.store.sql(sql)
    return tls, ret


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        (b"", 0),
        (b"TLS-Required: No\r\n", 2),
        (b"tls-required:no\r\n", 2),
        (b"TLS-Required:\r\n NO \r\n", 2),
        (b"TLS-Required: Yes\r\n", 0),
        (b"TLS-Required: None\r\n", 0),
        (b"X-TLS-Required: No\r\n", 0),
    ],
)
async def test_tls_required_no_is_a_wish(office: PostOffice, field: bytes, wanted: int) -> None:
    """RFC 8689 section 3; also as the first field, and never in the body."""
    client = await office.greeted("submission")
    await log_in(client, office)
    assert (await wish(office, client, b"Subject: a\r\n" + field + b"\r\n"))[0] == wanted
    assert (await wish(office, client, field + b"Subject: a\r\n\r\n"))[0] == wanted
    assert (await wish(office, client, b"Subject: a\r\n\r\n" + field))[0] == 0


async def test_requiretls_comes_before_the_field_and_returns_headers_only(office: PostOffice) -> None:
    """RFC 8689 sections 4.1 and 5."""
    client = await office.greeted("submission")
    await log_in(client, office)
    message = b"TLS-Required: No\r\n\r\n"
    assert await wish(office, client, message, parameter=b" REQUIRETLS") == (1, "HDRS")
    assert office.events()[0].cause.endswith(", REQUIRETLS")
    assert await wish(office, client, message) == (2, "FULL")


async def test_many_clients_that_each_begin_a_long_header_are_refused_before_they_fill_memory(
    office: PostOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroad.store.spool.DRAFTS_MAX", 500_000)
    clients = [await office.greeted() for _ in range(5)]
    for client in clients:
        for command in (b"MAIL FROM:<a@sender.test>", b"RCPT TO:<anna@example.com>", b"DATA"):
            assert (await client.ask(command))[:1] in (b"2", b"3")
        client.send((b"X: " + b"y" * 900 + b"\r\n") * 200)
        await breathe()
    assert office.house.spool.in_memory <= 500_000 + 200_000
    for client in clients:
        client.send(b"\r\nx\r\n.\r\n")
    replies = [(await client.line())[:9] for client in clients]
    assert replies == [b"250 2.0.0", b"250 2.0.0", b"452 4.3.1", b"452 4.3.1", b"452 4.3.1"]
    assert office.house.spool.in_memory == 0
