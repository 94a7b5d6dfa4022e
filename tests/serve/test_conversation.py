"""Connections under trouble: every one that was let in is let out once, none is forgotten, none waits for ever."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from postroad.net.tls_link import READ_OCTETS
from postroad.serve.conversation import WRITE_HIGH_WATER
from postroad.serve.doors import Doors, smtp_sessions, turned_away
from postroad.serve.smtp import DRAIN_PATIENCE_S, FINAL_DOT_S
from postroad.store.client import UnitFailed
from postroad.store.migrate import migrate
from postroad.store.sqlite import SqliteConnection
from postroad.values.errors import StoreBroken, StoreFull
from postroad.wire.smtp.limits import MachineLimits
from tests.serve.harness import ANNA, Peer, breathe, open_house
from tests.serve.post_office import PostOffice, ehlo, open_post_office
from tests.serve.test_admission import admission as admission_of

MESSAGE = b"Subject: hello\r\n\r\nA line\r\n"


def open_office(folder: Path) -> PostOffice:
    connection = SqliteConnection(folder / "postroad.db")
    migrate(connection, 1_800_000_000_000_000)
    return open_post_office(open_house(folder, connection), folder)


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[PostOffice]:
    office = open_office(tmp_path)
    try:
        yield office
    finally:
        await office.house.close()


async def begun(office: PostOffice) -> Peer:
    """A client whose DATA was answered 354."""
    client = await office.greeted()
    for command in (b"MAIL FROM:<a@sender.test>", b"RCPT TO:<" + ANNA.encode() + b">", b"DATA"):
        assert (await client.ask(command))[:1] in (b"2", b"3")
    return client


# -- counted in, counted out -------------------------------------------------------------------------------------------


async def break_off_at_starttls(address: tuple[str, int]) -> None:
    """A client that resets the connection right behind STARTTLS."""
    reader, writer = await asyncio.open_connection(*address)
    await reader.readline()
    await ehlo(Peer(reader, writer))
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.write(b"STARTTLS\r\n")
    writer.transport.abort()


async def talk_junk_at_starttls(address: tuple[str, int]) -> None:
    """A client that takes the 220 and then speaks no TLS."""
    reader, writer = await asyncio.open_connection(*address)
    await reader.readline()
    peer = Peer(reader, writer)
    await ehlo(peer)
    await peer.ask(b"STARTTLS")
    peer.send(b"this is no TLS at all\r\n")
    await peer.rest()
    writer.close()


Client = Callable[[tuple[str, int]], Coroutine[Any, Any, None]]


async def left_behind(folder: Path, client: Client) -> tuple[int, int]:
    """How many connections are still counted, and watched, when ten such clients have gone."""
    office = open_office(folder)
    admission = admission_of()
    doors = Doors(
        smtp_sessions(office.service, limits=office.limits),
        admission=admission,
        counters=office.service.counters,
        watch=office.house.watch,
        tls=office.service.tls,
        turn_away=turned_away(),
    )
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    address = listener.getsockname()
    await doors.open({"mx": [listener]})
    for _ in range(10):
        await client(address)
    for _ in range(100):
        if not admission.open and not office.house.watch.conversations:
            break
        await asyncio.sleep(0.01)
    doors.close()
    left = admission.open, len(office.house.watch.conversations)
    await office.house.close()
    return left


@pytest.mark.parametrize("client", [break_off_at_starttls, talk_junk_at_starttls])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_failed_handshake_is_counted_out(tmp_path: Path, run: Callable[..., Any], client: Client) -> None:
    # On uvloop the protocol never hears of the end of a connection that broke before its handshake.
    assert run(left_behind(tmp_path, client)) == (0, 0)


async def test_the_end_of_a_connection_is_told_once(office: PostOffice) -> None:
    client = await office.greeted()
    (conversation,) = office.house.conversations
    ends: list[str] = []
    conversation.on_close = lambda: ends.append("left")
    conversation.connection_lost(None)
    await client.hang_up()
    assert ends == ["left"]


async def test_one_broken_conversation_does_not_stop_the_clock_of_the_others(
    office: PostOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [await office.greeted() for _ in range(2)]
    broken, other = office.house.conversations
    broken.due = other.due = 0.0
    monkeypatch.setattr(broken, "machine", None)
    office.house.watch._sweep()
    office.house.watch.stop()
    assert (await clients[1].line()).startswith(b"421 4.4.2")


# -- a client that does not read ---------------------------------------------------------------------------------------


async def test_reading_goes_on_when_a_slow_reader_has_caught_up(office: PostOffice) -> None:
    client = await office.greeted()
    (conversation,) = office.house.conversations
    conversation.pause_writing()
    conversation.data_received(b"z" * 70_000)
    assert not conversation.transport.is_reading()
    conversation.resume_writing()
    assert (await client.line()).startswith(b"500 5.5.2")
    assert (await client.ask(b"\r\nNOOP")).startswith(b"250 ")


async def test_row_s61_replies_that_nobody_reads_stay_bounded_and_then_it_is_over(office: PostOffice) -> None:
    office.limits = MachineLimits(junk=10**9)
    client = await office.greeted()
    (conversation,) = office.house.conversations
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(300):
        client.send(b"NOOP\r\n" * 1000)
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    transport, reply = conversation.transport, len(b"250 2.0.0 OK\r\n")
    # One read brings so many commands, and their replies are written together.
    most = WRITE_HIGH_WATER + READ_OCTETS // len(b"NOOP\r\n") * reply + reply
    assert WRITE_HIGH_WATER < transport.get_write_buffer_size() <= most
    assert not transport.is_reading()
    assert conversation.machine._lines.unread <= office.limits.unread + READ_OCTETS  # type: ignore[attr-defined]
    due = conversation.due
    assert due <= asyncio.get_running_loop().time() + office.limits.command_patience
    conversation.check_time(due + 1)
    conversation.check_time(conversation.due + 1)
    await breathe()
    assert not office.house.watch.conversations


# -- time --------------------------------------------------------------------------------------------------------------


async def test_row_s60_promise_p11_an_octet_now_and_then_does_not_lengthen_a_command(office: PostOffice) -> None:
    client = await office.greeted()
    (conversation,) = office.house.conversations
    client.send(b"N")
    await breathe()
    first = conversation.due
    await asyncio.sleep(0.01)
    client.send(b"O")
    await breathe()
    assert conversation.due == first
    assert (await client.ask(b"OP")).startswith(b"250 ")
    assert conversation.due > first


async def test_a_store_that_hangs_is_answered_for_and_never_with_250(office: PostOffice) -> None:
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    run = office.store.call

    async def hang(unit: Any, args: Any) -> Any:
        await answered
        return await run(unit, args)

    office.store.call = hang  # type: ignore[method-assign]
    client = await begun(office)
    (conversation,) = office.house.conversations
    client.send(MESSAGE + b".\r\n")
    await breathe()
    now = asyncio.get_running_loop().time()
    assert conversation.busy
    assert now < conversation.due <= now + FINAL_DOT_S
    conversation.check_time(conversation.due + 1)
    assert (await client.line()).startswith(b"421 4.3.0 ")
    assert [event.cause for event in office.refused()] == ["answer overdue"]
    answered.set_result(None)
    assert await client.rest() == b""
    # What was committed after all is ours although the sender will send it again.
    assert office.count("messages") == 1
    await breathe()
    assert not office.house.watch.conversations
    assert office.house.lifecycle.busy() == ""


# -- a disk and a store that fail --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failure", "code"), [(StoreFull("disk"), b"452 4.3.1"), (StoreBroken("EIO"), b"451 4.3.0")])
async def test_a_disk_that_fails_in_the_middle_of_a_message_is_said_behind_its_end(
    office: PostOffice, monkeypatch: pytest.MonkeyPatch, failure: Exception, code: bytes
) -> None:
    from postroad.store.spool import Draft

    async def fail(draft: Draft) -> None:
        raise failure

    monkeypatch.setattr(Draft, "flush_to_disk", fail)
    client = await begun(office)
    client.send(b"Subject: big\r\n\r\n" + b"x" * 70 + b"\r\n")
    client.send((b"y" * 70 + b"\r\n") * 10_000 + b".\r\n")
    assert (await client.line()).startswith(code)
    assert office.count("messages") == 0
    assert office.house.spool.in_memory == 0
    # The connection lives, and nothing of the message does.
    assert (await client.ask(b"RCPT TO:<" + ANNA.encode() + b">")).startswith(b"503 ")


async def test_a_chunk_on_a_full_disk_is_refused(office: PostOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    from postroad.store.spool import Draft

    async def fail(draft: Draft) -> None:
        raise StoreFull("disk")

    monkeypatch.setattr(Draft, "flush_to_disk", fail)
    client = await office.greeted()
    await client.ask(b"MAIL FROM:<a@sender.test>")
    await client.ask(b"RCPT TO:<" + ANNA.encode() + b">")
    content = b"Subject: big\r\n\r\n" + (b"y" * 70 + b"\r\n") * 10_000
    client.send(b"BDAT %d\r\n" % len(content) + content)
    assert (await client.line()).startswith(b"452 4.3.1")
    assert (await client.ask(b"BDAT 0 LAST")).startswith(b"503 ")
    assert office.house.spool.in_memory == 0


async def test_a_message_the_store_takes_exception_to_is_for_now(office: PostOffice) -> None:
    office.store.fail = UnitFailed("accept: StatementFailed: no")
    client = await begun(office)
    client.send(MESSAGE + b".\r\n")
    assert (await client.line()).startswith(b"451 4.3.0")
    assert (await client.ask(b"NOOP")).startswith(b"250 ")


# -- the end of the server ---------------------------------------------------------------------------------------------


async def test_no_transaction_begins_while_we_go_down(office: PostOffice) -> None:
    client = await office.greeted()
    await client.ask(b"MAIL FROM:<a@sender.test>")
    (conversation,) = office.house.conversations
    conversation.session.drain()
    assert (await client.ask(b"RSET")).startswith(b"250 ")
    assert (await client.ask(b"MAIL FROM:<a@sender.test>")).startswith(b"421 4.3.2")
    assert await client.rest() == b""


async def test_refusals_of_a_connection_that_broke_are_written_down(office: PostOffice) -> None:
    client = await office.greeted()
    await client.ask(b"BOGUS")
    client.writer.transport.abort()
    await breathe()
    assert [event.evidence.partition(" ->")[0] for event in office.refused()] == ["BOGUS"]


async def test_who_idles_in_a_transaction_holds_us_for_seconds_only(office: PostOffice) -> None:
    client = await office.greeted()
    await client.ask(b"MAIL FROM:<a@sender.test>")
    (conversation,) = office.house.conversations
    conversation.session.drain()
    assert conversation.due <= asyncio.get_running_loop().time() + DRAIN_PATIENCE_S
    assert (await client.ask(b"RCPT TO:<" + ANNA.encode() + b">")).startswith(b"250 ")
    conversation.check_time(conversation.due + 1)
    assert (await client.line()).startswith(b"421 4.3.2")
