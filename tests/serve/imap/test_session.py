"""Login, TLS, IDLE, time and endings of an IMAP session."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from postroad.serve.logins import Trouble
from tests.serve.harness import ANNA, PASSWORD, Peer, breathe, own_tls, real_logins, scram_exchange, trusting
from tests.serve.imap.office import Office

MAIL = b"Subject: one\r\n\r\nbody\r\n"
PLAIN = base64.b64encode(b"\0" + ANNA.encode() + b"\0" + PASSWORD.encode())


async def test_the_capabilities_are_what_works(office: Office) -> None:
    client = await office.login()
    said = (await client.ask(b"CAPABILITY"))[0].arguments
    assert said[0] == b"CAPABILITY"
    assert set(said[1:]) == {
        b"IMAP4rev1", b"LITERAL-", b"SASL-IR", b"ID", b"NAMESPACE", b"IDLE", b"UIDPLUS", b"UNSELECT", b"MOVE",
        b"ENABLE", b"CHILDREN", b"SPECIAL-USE",
    }  # fmt: skip


async def test_authenticate_plain_both_ways(office: Office) -> None:
    client = await office.connect()
    assert (await client.word(b"AUTHENTICATE PLAIN " + PLAIN)).startswith(b"OK")
    client = await office.connect()
    client.write(b"x AUTHENTICATE PLAIN\r\n")
    assert await client.line() == b"+ "
    client.write(PLAIN + b"\r\n")
    assert (await client.line()).startswith(b"x OK")


async def test_acting_for_somebody_else_is_refused(office: Office) -> None:
    client = await office.connect()
    other = base64.b64encode(b"root\0" + ANNA.encode() + b"\0" + PASSWORD.encode())
    assert await client.word(b"AUTHENTICATE PLAIN " + other) == b"NO [AUTHORIZATIONFAILED]"


async def test_three_wrong_logins_end_the_session(office: Office) -> None:
    client = await office.connect()
    for _ in range(3):
        assert await client.word(b"LOGIN %b wrong" % ANNA.encode()) == b"NO [AUTHENTICATIONFAILED]"
    assert (await client.rest()).startswith(b"* BYE")
    assert office.house.counters.logins == [("imap", "wrong")] * 3
    assert office.house.refusals.noted == [("wrong password", f"login as {ANNA} by LOGIN", "imap")] * 3


@pytest.mark.parametrize(
    "mechanism, password, word",
    [
        ("SCRAM-SHA-256", PASSWORD, b"x OK [CAPABILITY "),
        ("SCRAM-SHA-256-PLUS", PASSWORD, b"x OK [CAPABILITY "),
        ("SCRAM-SHA-256", "wrong", b"x NO [AUTHENTICATIONFAILED]"),
    ],
)
async def test_scram_over_tls(office: Office, tmp_path: Path, mechanism: str, password: str, word: bytes) -> None:
    office.service.tls = own_tls(tmp_path)
    office.service.logins = real_logins(office.house, ANNA)
    client = await office.connect()
    before = (await client.ask(b"CAPABILITY"))[0].arguments
    assert b"AUTH=SCRAM-SHA-256" in before
    assert b"AUTH=SCRAM-SHA-256-PLUS" not in before, "without TLS there is nothing to bind to"
    assert (await client.word(b"STARTTLS")).startswith(b"OK")
    await client.writer.start_tls(trusting())
    assert b"AUTH=SCRAM-SHA-256-PLUS" in (await client.ask(b"CAPABILITY"))[0].arguments
    peer = Peer(client.reader, client.writer)
    assert (await scram_exchange(peer, b"x AUTHENTICATE", mechanism, password)).startswith(word)


async def test_a_network_that_guesses_is_told_and_hung_up_on(office: Office) -> None:
    office.logins.trouble = Trouble.BRAKED
    client = await office.connect()
    assert await client.word(b"LOGIN %b x" % ANNA.encode()) == b"NO [UNAVAILABLE]"
    assert (await client.rest()).startswith(b"* BYE too many failed logins")


async def test_a_busy_password_pool_is_said_and_counts_as_no_try(office: Office) -> None:
    office.logins.trouble = Trouble.BUSY
    client = await office.connect()
    for _ in range(5):
        assert await client.word(b"LOGIN %b x" % ANNA.encode()) == b"NO [UNAVAILABLE]"


async def test_a_store_that_fails_is_unavailable_and_the_session_lives(office: Office) -> None:
    client = await office.login()
    office.desk.broken = True
    assert await client.word(b"CREATE a") == b"NO [UNAVAILABLE]"
    office.desk.broken = False
    assert await client.word(b"CREATE a") == b"OK"


async def test_idle_tells_what_comes_and_what_goes(office: Office) -> None:
    office.deliver(MAIL)
    client, other = await office.login(b"INBOX"), await office.login(b"INBOX")
    client.write(b"x IDLE\r\n")
    assert await client.line() == b"+ idling"
    office.deliver(MAIL)
    assert await client.line() == b"* 2 EXISTS"
    assert await client.line() == b"* 2 RECENT"
    await other.ask(b"STORE 1 +FLAGS.SILENT (\\Deleted)")
    assert (await client.line()).startswith(b"* 1 FETCH (FLAGS (")
    await other.ask(b"EXPUNGE")
    assert await client.line() == b"* 1 EXPUNGE"
    while not (line := await client.line()).startswith(b"x "):
        client.write(b"DONE\r\n")
    assert line.startswith(b"x OK")


async def test_idle_costs_no_query_while_nothing_happens(office: Office) -> None:
    office.deliver(MAIL)
    client = await office.login(b"INBOX")
    client.write(b"x IDLE\r\n")
    await client.line()
    before = len(office.desk.calls)
    asked: list[str] = []
    read = office.house.store.rows

    async def counting(sql: str, params: object = ()) -> object:
        asked.append(sql)
        return await read(sql, params)  # type: ignore[arg-type]

    office.mailboxes._rows = counting  # type: ignore[assignment]
    await breathe()
    assert (asked, len(office.desk.calls)) == ([], before)
    await office.watch.sweep()
    assert len(asked) == 1, "one query for all watched mailboxes"


async def test_a_lost_hint_is_made_up_for_by_the_sweep(office: Office) -> None:
    client = await office.login(b"INBOX")
    client.write(b"x IDLE\r\n")
    await client.line()
    office.house.deliver(office.account, MAIL)
    office.house.store.writer.hints.clear()
    await breathe()
    await office.watch.sweep()
    assert await client.line() == b"* 1 EXISTS"


async def test_noop_looks_without_any_hint(office: Office) -> None:
    client = await office.login(b"INBOX")
    office.house.deliver(office.account, MAIL)
    office.house.store.writer.hints.clear()
    assert [b"1", b"EXISTS"] in [reply.arguments for reply in await client.ask(b"NOOP")]
    office.house.deliver(office.account, MAIL)
    office.house.store.writer.hints.clear()
    assert [b"2", b"EXISTS"] in [reply.arguments for reply in await client.ask(b"CHECK")]


async def test_idle_ends_with_bad_when_the_client_says_something_else(office: Office) -> None:
    client = await office.login(b"INBOX")
    client.write(b"x IDLE\r\n")
    await client.line()
    client.write(b"NOOP\r\n")
    assert (await client.line()).startswith(b"x BAD")
    assert await client.word(b"NOOP") == b"OK"


async def test_idle_with_a_failing_store_waits_for_better_days(office: Office) -> None:
    client = await office.login(b"INBOX")
    office.house.deliver(office.account, MAIL)
    office.desk.broken = True
    client.write(b"x IDLE\r\n")
    assert await client.line() == b"+ idling"
    office.desk.broken = False
    await breathe()
    await office.watch.sweep()
    assert await client.line() == b"* 1 EXISTS"


async def test_a_deleted_mailbox_ends_the_sessions_that_have_it_open(office: Office) -> None:
    first, second = await office.login(), await office.login()
    await first.ask(b"CREATE box")
    await second.ask(b"SELECT box")
    await first.ask(b"DELETE box")
    second.write(b"x NOOP\r\n")
    assert (await second.rest()).startswith(b"* BYE")


async def test_deleting_the_selected_mailbox_deselects_it(office: Office) -> None:
    client = await office.login()
    await client.ask(b"CREATE box")
    await client.ask(b"SELECT box")
    assert await client.word(b"DELETE box") == b"OK"
    assert await client.word(b"FETCH 1 FLAGS") == b"BAD"
    assert await client.word(b"NOOP") == b"OK"


async def test_a_renamed_mailbox_stays_open(office: Office) -> None:
    client = await office.login()
    await client.ask(b"CREATE box")
    await client.ask(b"SELECT box")
    await client.ask(b"RENAME box other")
    office.deliver(MAIL, mailbox="other")
    assert (await client.ask(b"NOOP"))[0].arguments == [b"1", b"EXISTS"]


async def test_draining_says_bye_to_whoever_waits(office: Office) -> None:
    client = await office.login(b"INBOX")
    office.house.conversations[0].session.drain()
    assert (await client.rest()).startswith(b"* BYE")


async def test_a_client_that_goes_away_leaves_nothing(office: Office) -> None:
    client = await office.login(b"INBOX")
    client.write(b"x APPEND INBOX {1000}\r\n")
    await client.line()
    client.write(b"Subject: half\r\n")
    await breathe()
    client.writer.close()
    await breathe()
    assert office.house.counters.open == 0
    assert office.watch._watchers == {}
    assert office.house.spool.in_memory == 0
    assert office.house.store.sql("SELECT * FROM mailbox_messages") == []


async def test_promise_p11_deadlines_count_from_the_clients_last_word(office: Office) -> None:
    client = await office.login(b"INBOX")
    [conversation] = office.house.conversations
    session = conversation.session
    client.write(b"x IDLE\r\n")
    await client.line()
    due = conversation.due
    office.deliver(MAIL)
    await client.line()
    await breathe()
    assert conversation.due == pytest.approx(due), "news keep no dead client alive"
    session.timed_out()
    conversation.turn_soon()
    assert b"* BYE" in await client.rest()


async def test_promise_p11_an_octet_now_and_then_does_not_lengthen_a_command(office: Office) -> None:
    client = await office.connect()
    [conversation] = office.house.conversations
    client.write(b"a")
    await breathe()
    first = conversation.due
    await asyncio.sleep(0.01)
    client.write(b" NO")
    await breathe()
    assert conversation.due == first
    client.write(b"OP\r\n")
    assert (await client.line()).startswith(b"a OK")
    assert conversation.due > first


async def test_promise_p11_strangers_get_less_patience_than_clients(office: Office) -> None:
    client = await office.connect()
    [conversation] = office.house.conversations
    now = asyncio.get_running_loop().time
    assert conversation.due - now() <= 60.0
    await client.ask(b'LOGIN %b "%b"' % (ANNA.encode(), PASSWORD.encode()))
    assert conversation.due - now() == pytest.approx(office.service.idle_s, abs=30.0)


async def test_half_closed_connection_gets_its_answers(office: Office) -> None:
    client = await office.login(b"INBOX")
    client.write(b"x NOOP\r\ny CHECK\r\n")
    client.writer.write_eof()
    assert await client.rest() == b"x OK done\r\ny OK done\r\n"


async def test_pipelined_commands_are_answered_in_order(office: Office) -> None:
    client = await office.login()
    client.write(b"a CREATE x\r\nb SELECT x\r\nc STATUS x (MESSAGES)\r\nd LOGOUT\r\n")
    lines = (await client.rest()).split(b"\r\n")
    tagged = [line.split()[0] for line in lines if line and not line.startswith(b"*")]
    assert tagged == [b"a", b"b", b"c", b"d"]


async def test_many_sessions_at_once(office: Office) -> None:
    office.deliver(MAIL)
    clients = await asyncio.gather(*(office.login(b"INBOX") for _ in range(20)))
    answers = await asyncio.gather(*(client.word(b"FETCH 1 BODY[]") for client in clients))
    assert answers == [b"OK"] * 20
