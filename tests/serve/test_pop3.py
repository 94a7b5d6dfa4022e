"""POP3 from the client's side of a socket, over a real store. Rows P-1 to P-8 of the list of bad inputs by name."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from postroad.serve.logins import Trouble
from postroad.serve.mailstore import Mailstore
from postroad.serve.pop3 import Pop3Service
from postroad.store.mailbox_records import PopDelete, PopDeleted
from postroad.store.pop_lock import PopLock, pop_lock
from postroad.store.sqlite import SqliteConnection
from postroad.values.errors import StoreBroken
from tests.serve.harness import (
    ANNA,
    PASSWORD,
    House,
    KnownLogins,
    Peer,
    breathe,
    open_house,
    own_tls,
    real_logins,
    scram_exchange,
    trusting,
)

WORKER, OTHER_WORKER = 7, 8
MESSAGES = [b"Subject: %d\r\n\r\nline one\r\nline two\r\n" % number for number in range(1, 4)]
DOTS = b"Subject: dots\r\n\r\n.\r\n..\r\n.hidden\r\nno end"


class Desk:
    """The store as one worker's client sees it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.broken = False
        self.calls: list[str] = []

    async def call(self, unit: Any, args: Any) -> Any:
        self.calls.append(unit.__name__)
        if self.broken:
            raise StoreBroken("no disk")
        return self.house.store.run(unit, args, owner=WORKER)


class Pop:
    """A house with one account and a POP3 service."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.account = house.store.account(ANNA)
        house.store.writer.live |= {WORKER, OTHER_WORKER}
        self.desk = Desk(house)
        self.logins = KnownLogins({ANNA: self.account})
        self.tls = SimpleNamespace(context=None, end_point=b"")
        self.service = Pop3Service(
            mailstore=Mailstore(self.desk, house.store, house.spool),
            logins=self.logins,  # type: ignore[arg-type]
            refusals=house.refusals,  # type: ignore[arg-type]
            counters=house.counters,
            lifecycle=house.lifecycle,
            tls=self.tls,  # type: ignore[arg-type]
            insecure_auth=True,
        )

    async def connect(self) -> Peer:
        """A connection that has been greeted."""
        peer = await self.house.connect(self.service.session)
        assert (await peer.line()).startswith(b"+OK")
        return peer

    async def login(self) -> Peer:
        """A session of anna's."""
        peer = await self.connect()
        assert (await peer.ask(b"USER " + ANNA.encode())).startswith(b"+OK")
        assert (await peer.ask(b"PASS " + PASSWORD.encode())).startswith(b"+OK")
        return peer

    def uids(self) -> list[int]:
        """What stands in the INBOX."""
        rows = self.house.store.sql("SELECT uid FROM mailbox_messages ORDER BY uid")
        return [uid for (uid,) in rows]


@pytest.fixture
async def pop(tmp_path: Path) -> AsyncIterator[Pop]:
    connection = SqliteConnection(tmp_path / "store.db")
    connection.execute("PRAGMA synchronous=OFF")
    house = open_house(tmp_path, connection)
    made = Pop(house)
    for raw in MESSAGES:
        house.deliver(made.account, raw, prefix=b"Return-Path: <>\r\n")
    yield made
    await house.close()


SIZE = len(b"Return-Path: <>\r\n" + MESSAGES[0])


async def test_a_whole_session(pop: Pop) -> None:
    peer = await pop.login()
    assert await peer.ask(b"STAT") == b"+OK 3 %d" % (3 * SIZE)
    assert (await peer.ask(b"LIST")).startswith(b"+OK")
    assert await peer.lines() == [b"%d %d" % (number, SIZE) for number in (1, 2, 3)]
    assert (await peer.ask(b"UIDL")).startswith(b"+OK")
    uidls = await peer.lines()
    assert len({line.split()[1] for line in uidls}) == 3
    assert (await peer.ask(b"RETR 2")) == b"+OK %d octets" % SIZE
    assert await peer.lines() == [b"Return-Path: <>", b"Subject: 2", b"", b"line one", b"line two"]
    assert (await peer.ask(b"TOP 2 1")).startswith(b"+OK")
    assert await peer.lines() == [b"Return-Path: <>", b"Subject: 2", b"", b"line one"]
    assert (await peer.ask(b"DELE 1")).startswith(b"+OK")
    assert await peer.ask(b"STAT") == b"+OK 2 %d" % (2 * SIZE)
    assert (await peer.ask(b"QUIT")).startswith(b"+OK")
    assert await peer.rest() == b""
    assert pop.uids() == [2, 3]
    again = await pop.login()
    assert await again.ask(b"UIDL 1") == b"+OK 1 " + uidls[1].split()[1]


async def test_rset_takes_marks_back(pop: Pop) -> None:
    peer = await pop.login()
    await peer.ask(b"DELE 1")
    assert (await peer.ask(b"RSET")).startswith(b"+OK")
    assert (await peer.ask(b"QUIT")).startswith(b"+OK")
    assert pop.uids() == [1, 2, 3]


async def test_auth_plain_with_and_without_initial_response(pop: Pop) -> None:
    message = base64.b64encode(b"\0" + ANNA.encode() + b"\0" + PASSWORD.encode())
    peer = await pop.connect()
    assert (await peer.ask(b"AUTH PLAIN " + message)).startswith(b"+OK")
    await peer.ask(b"QUIT")
    peer = await pop.connect()
    assert await peer.ask(b"AUTH PLAIN") == b"+ "
    assert (await peer.ask(message)).startswith(b"+OK")


async def test_acting_for_somebody_else_is_refused(pop: Pop) -> None:
    message = base64.b64encode(b"root\0" + ANNA.encode() + b"\0" + PASSWORD.encode())
    peer = await pop.connect()
    assert (await peer.ask(b"AUTH PLAIN " + message)).startswith(b"-ERR [AUTH]")


async def test_no_password_without_tls(pop: Pop) -> None:
    pop.service.insecure_auth = False
    peer = await pop.connect()
    assert (await peer.ask(b"USER " + ANNA.encode())).startswith(b"-ERR")
    assert (await peer.ask(b"AUTH PLAIN AGEAYg==")).startswith(b"-ERR")


async def test_promise_p11_an_octet_now_and_then_does_not_lengthen_a_command(pop: Pop) -> None:
    peer = await pop.connect()
    (conversation,) = pop.house.conversations
    peer.send(b"C")
    await breathe()
    first = conversation.due
    await asyncio.sleep(0.01)
    peer.send(b"AP")
    await breathe()
    assert conversation.due == first
    assert (await peer.ask(b"A")).startswith(b"+OK")
    await peer.lines()
    assert conversation.due > first


async def test_three_wrong_logins_end_the_session(pop: Pop) -> None:
    peer = await pop.connect()
    for _ in range(3):
        await peer.ask(b"USER " + ANNA.encode())
        assert (await peer.ask(b"PASS wrong")).startswith(b"-ERR [AUTH]")
    assert await peer.rest() == b""
    assert pop.house.counters.logins == [("pop3", "wrong")] * 3
    assert pop.house.refusals.noted == [("wrong password", f"login as {ANNA} by PASS", "pop3")] * 3


async def test_a_busy_password_pool_is_said(pop: Pop) -> None:
    pop.logins.trouble = Trouble.BUSY
    peer = await pop.connect()
    await peer.ask(b"USER " + ANNA.encode())
    assert (await peer.ask(b"PASS " + PASSWORD.encode())).startswith(b"-ERR [SYS/TEMP]")


async def test_mail_that_comes_meanwhile_is_hidden_and_not_held_up(pop: Pop) -> None:
    peer = await pop.login()
    pop.house.deliver(pop.account, MESSAGES[0])
    assert pop.uids() == [1, 2, 3, 4]
    assert (await peer.ask(b"STAT")).startswith(b"+OK 3 ")
    assert (await peer.ask(b"RETR 4")).startswith(b"-ERR")
    await peer.ask(b"DELE 3")
    await peer.ask(b"QUIT")
    assert pop.uids() == [1, 2, 4]


async def test_a_message_removed_by_another_client(pop: Pop) -> None:
    peer = await pop.login()
    pop.house.store.run_all()
    pop.house.store.connection.execute("DELETE FROM mailbox_messages WHERE uid = 2")
    assert (await peer.ask(b"RETR 2")).startswith(b"-ERR")
    await peer.ask(b"DELE 1")
    await peer.ask(b"DELE 2")
    assert (await peer.ask(b"QUIT")).startswith(b"+OK")
    assert pop.uids() == [3]


async def test_a_large_body_comes_from_its_file_octet_for_octet(pop: Pop) -> None:
    raw = b"Subject: large\r\n\r\n" + b"".join(b".%06d 0123456789abcdef\r\n" % n for n in range(20_000))
    pop.house.deliver(pop.account, raw)
    peer = await pop.login()
    peer.send(b"RETR 4\r\nNOOP\r\n")
    assert await peer.line() == b"+OK %d octets" % len(raw)
    got = b"".join(line.removeprefix(b".") + b"\r\n" for line in await peer.lines())
    assert got == raw
    assert (await peer.line()).startswith(b"+OK")


async def test_a_client_that_never_reads_loses_the_connection_and_the_lock(pop: Pop) -> None:
    pop.house.deliver(pop.account, b"Subject: large\r\n\r\n" + b"x" * 8_000_000)
    peer = await pop.login()
    pop.service.idle_s = 0.01
    peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
    peer.send(b"RETR 4\r\n")
    while pop.house.counters.open:
        await asyncio.sleep(0.001)
    await breathe()
    assert pop.house.store.sql("SELECT * FROM pop_locks") == []


async def test_a_missing_body_file_is_an_error_and_no_empty_message(pop: Pop) -> None:
    pop.house.deliver(pop.account, b"Subject: large\r\n\r\n" + b"x" * 100_000)
    for path in pop.house.spool.body_path("bodies/00").iterdir():
        path.unlink()
    peer = await pop.login()
    assert (await peer.ask(b"RETR 4")).startswith(b"-ERR [SYS/TEMP]")
    assert (await peer.ask(b"NOOP")).startswith(b"+OK")


async def test_half_closed_connection_gets_its_answers(pop: Pop) -> None:
    peer = await pop.login()
    peer.send(b"RETR 1\r\nQUIT\r\n")
    peer.writer.write_eof()
    assert (await peer.rest()).endswith(b"line two\r\n.\r\n+OK bye\r\n")


async def test_the_connection_counter_comes_back_to_zero(pop: Pop) -> None:
    peer = await pop.login()
    assert pop.house.counters.open == 1
    await peer.hang_up()
    assert pop.house.counters.open == 0


async def test_draining_says_so_between_commands(pop: Pop) -> None:
    peer = await pop.login()
    pop.house.conversations[0].session.drain()
    assert (await peer.line()).startswith(b"-ERR [SYS/TEMP]")
    assert await peer.rest() == b""


# -- rows P-1 to P-8 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", [b"x" * 10_000, b"a\0b", b"a\rb"])
async def test_p1_user_junk(pop: Pop, argument: bytes) -> None:
    peer = await pop.connect()
    assert (await peer.ask(b"USER " + argument)).startswith(b"-ERR")
    assert b"fahrt" not in await peer.ask(b"QUIT")


@pytest.mark.parametrize("argument", [b"", b"0", b"-1", b"4", b"18446744073709551616", b"1 1", b"x"])
async def test_p2_retr_junk(pop: Pop, argument: bytes) -> None:
    peer = await pop.login()
    assert (await peer.ask(b"RETR " + argument)).startswith(b"-ERR")
    await peer.ask(b"DELE 1")
    assert (await peer.ask(b"RETR 1")).startswith(b"-ERR")
    assert (await peer.ask(b"RETR 2")).startswith(b"+OK")


async def test_p3_connection_lost_after_dele(pop: Pop) -> None:
    peer = await pop.login()
    await peer.ask(b"DELE 1")
    await peer.hang_up()
    assert pop.uids() == [1, 2, 3]
    assert "pop_delete" not in pop.desk.calls


async def test_p4_quit_deletes_all_or_none(pop: Pop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removals come in parts of few messages; the store dies before the last part: nothing is gone."""
    monkeypatch.setattr("postroad.serve.mailstore.ROWS_PER_UNIT", 2)
    peer = await pop.login()
    for number in (1, 2, 3):
        await peer.ask(b"DELE %d" % number)
    parts: list[PopDelete] = []
    real = pop.desk.call

    async def second_part_fails(unit: Any, args: Any) -> Any:
        if isinstance(args, PopDelete):
            parts.append(args)
            if len(parts) == 2:
                raise StoreBroken("killed")
        return await real(unit, args)

    monkeypatch.setattr(pop.desk, "call", second_part_fails)
    assert (await peer.ask(b"QUIT")).startswith(b"-ERR [SYS/TEMP]")
    assert pop.uids() == [1, 2, 3]
    again = await pop.login()
    assert (await again.ask(b"STAT")).startswith(b"+OK 3 ")


async def test_p4_many_deletions_are_decided_with_the_last_part(pop: Pop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroad.serve.mailstore.ROWS_PER_UNIT", 2)
    peer = await pop.login()
    for number in (1, 2, 3):
        await peer.ask(b"DELE %d" % number)
    assert (await peer.ask(b"QUIT")).startswith(b"+OK")
    again = await pop.login()
    assert (await again.ask(b"STAT")) == b"+OK 0 0"


async def test_p4_a_removal_given_up_by_the_store_is_said(pop: Pop, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = await pop.login()
    await peer.ask(b"DELE 1")

    async def interrupted(unit: Any, args: Any) -> Any:
        return PopDeleted("interrupted")

    monkeypatch.setattr(pop.desk, "call", interrupted)
    assert (await peer.ask(b"QUIT")).startswith(b"-ERR [SYS/TEMP]")


async def test_p5_dot_lines_come_back_exactly(pop: Pop) -> None:
    pop.house.deliver(pop.account, DOTS)
    peer = await pop.login()
    await peer.ask(b"RETR 4")
    assert await peer.lines() == [b"Subject: dots", b"", b"..", b"...", b"..hidden", b"no end"]


async def test_p6_top_of_more_lines_than_there_are(pop: Pop) -> None:
    peer = await pop.login()
    await peer.ask(b"RETR 1")
    whole = await peer.lines()
    assert (await peer.ask(b"TOP 1 999999999")).startswith(b"+OK")
    assert await peer.lines() == whole


async def test_p7_second_session_in_this_worker(pop: Pop) -> None:
    first = await pop.login()
    second = await pop.connect()
    await second.ask(b"USER " + ANNA.encode())
    asked = len(pop.desk.calls)
    assert (await second.ask(b"PASS " + PASSWORD.encode())).startswith(b"-ERR [IN-USE]")
    assert len(pop.desk.calls) == asked, "this worker knows by itself"
    await first.hang_up()
    await second.ask(b"USER " + ANNA.encode())
    assert (await second.ask(b"PASS " + PASSWORD.encode())).startswith(b"+OK 3")


async def test_p7_second_session_in_another_worker(pop: Pop) -> None:
    assert pop.house.store.run(pop_lock, PopLock(pop.account), owner=OTHER_WORKER).taken
    peer = await pop.connect()
    await peer.ask(b"USER " + ANNA.encode())
    assert (await peer.ask(b"PASS " + PASSWORD.encode())).startswith(b"-ERR [IN-USE]")
    pop.house.store.writer.live.discard(OTHER_WORKER)
    await peer.ask(b"USER " + ANNA.encode())
    assert (await peer.ask(b"PASS " + PASSWORD.encode())).startswith(b"+OK 3"), "the lock died with its worker"


async def test_p7_the_lock_is_free_before_the_goodbye(pop: Pop) -> None:
    for _ in range(3):
        peer = await pop.login()
        assert (await peer.ask(b"QUIT")).startswith(b"+OK")
    assert pop.house.store.sql("SELECT * FROM pop_locks") == []


async def test_p7_a_store_that_fails_leaves_no_lock_here(pop: Pop) -> None:
    pop.desk.broken = True
    peer = await pop.connect()
    await peer.ask(b"USER " + ANNA.encode())
    assert (await peer.ask(b"PASS " + PASSWORD.encode())).startswith(b"-ERR [SYS/TEMP]")
    pop.desk.broken = False
    await pop.login()


async def test_p8_stls_drops_what_came_before_tls(pop: Pop, tmp_path: Path) -> None:
    pop.service.tls = own_tls(tmp_path)
    pop.service.insecure_auth = False
    peer = await pop.connect()
    peer.send(b"STLS\r\nUSER " + ANNA.encode() + b"\r\nQUIT\r\n")
    assert (await peer.line()).startswith(b"+OK")
    await peer.writer.start_tls(trusting())
    assert (await peer.ask(b"PASS " + PASSWORD.encode())).startswith(b"-ERR"), "no user was named under TLS"
    await peer.ask(b"USER " + ANNA.encode())
    assert (await peer.ask(b"PASS " + PASSWORD.encode())).startswith(b"+OK 3")
    assert (await peer.ask(b"STLS")).startswith(b"-ERR")


async def test_a_failed_handshake_ends_the_connection(pop: Pop, tmp_path: Path) -> None:
    pop.service.tls = own_tls(tmp_path)
    peer = await pop.connect()
    assert (await peer.ask(b"STLS")).startswith(b"+OK")
    peer.send(b"this is no TLS\r\n" * 10)
    await peer.rest()
    await breathe()
    assert pop.house.counters.open == 0


@pytest.mark.parametrize(
    "mechanism, password, word",
    [
        ("SCRAM-SHA-256", PASSWORD, b"+OK 3 messages"),
        ("SCRAM-SHA-256-PLUS", PASSWORD, b"+OK 3 messages"),
        ("SCRAM-SHA-256", "wrong", b"-ERR [AUTH]"),
    ],
)
async def test_scram_over_tls(pop: Pop, tmp_path: Path, mechanism: str, password: str, word: bytes) -> None:
    pop.service.tls = own_tls(tmp_path)
    pop.service.logins = real_logins(pop.house, ANNA)
    peer = await pop.connect()
    assert b"SASL SCRAM-SHA-256 PLAIN" in await capabilities(peer), "without TLS there is nothing to bind to"
    assert (await peer.ask(b"STLS")).startswith(b"+OK")
    await peer.writer.start_tls(trusting())
    assert b"SASL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN" in await capabilities(peer)
    assert (await scram_exchange(peer, b"AUTH", mechanism, password)).startswith(word)


async def test_a_network_that_guesses_is_told_and_hung_up_on(pop: Pop) -> None:
    pop.logins.trouble = Trouble.BRAKED
    peer = await pop.connect()
    await peer.ask(b"USER " + ANNA.encode())
    assert (await peer.ask(b"PASS " + PASSWORD.encode())).startswith(b"-ERR [SYS/TEMP] too many failed logins")
    assert await peer.rest() == b""


async def capabilities(peer: Peer) -> list[bytes]:
    peer.send(b"CAPA\r\n")
    return await peer.lines()
