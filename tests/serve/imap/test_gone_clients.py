"""A client that goes away in the middle: nothing of it stays, and nothing half stands in a mailbox."""

from __future__ import annotations

import asyncio
import threading

import pytest

from postroad.store import syscalls
from tests.serve.harness import breathe
from tests.serve.imap.office import Office

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 20_000


@pytest.mark.parametrize("size", [len(LARGE), 100_000])
async def test_a_body_made_durable_for_nobody_is_whole_or_not_there(
    office: Office, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    client = await office.login()
    reached, go_on = threading.Event(), threading.Event()

    def slow_fsync(descriptor: int) -> None:
        reached.set()
        go_on.wait(5)

    monkeypatch.setattr(syscalls, "fsync", slow_fsync)
    client.write(b"a APPEND INBOX {%d}\r\n" % size)
    await client.line()
    client.write(LARGE[: size - 2] + b"\r\n\r\n")
    while not reached.is_set():
        await asyncio.sleep(0.001)
    office.house.conversations[-1].transport.abort()
    await breathe()
    go_on.set()
    while office.house.lifecycle.busy():
        await asyncio.sleep(0.001)
    office.house.spool.close()
    spool = office.house.spool.body_path("bodies")
    named = {name for (name,) in office.house.store.sql("SELECT body_file FROM messages")}
    kept = {str(path.relative_to(spool.parent)) for path in spool.rglob("*-*")}
    assert named == kept


async def test_a_mailbox_opened_for_nobody_is_not_watched(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await office.login()
    snapshot, gone = office.mailboxes.snapshot, asyncio.Event()

    async def slow_snapshot(account: int, name: str) -> object:
        await gone.wait()
        return await snapshot(account, name)

    monkeypatch.setattr(type(office.mailboxes), "snapshot", lambda self, *args: slow_snapshot(*args))
    client.write(b"a SELECT INBOX\r\n")
    await breathe()
    office.house.conversations[-1].transport.abort()
    await breathe()
    gone.set()
    await breathe()
    assert not office.watch._watchers


async def test_a_long_fetch_for_nobody_ends_without_a_bug(
    office: Office, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    office.deliver(b"Subject: one\r\n\r\nbody\r\n")
    client = await office.login(b"INBOX")
    call, gone = office.desk.call, asyncio.Event()

    async def slow_call(unit: object, args: object) -> object:
        await gone.wait()
        return await call(unit, args)

    monkeypatch.setattr(office.desk, "call", slow_call)
    for command in (b"FETCH 1 BODY[]",):
        client.write(b"a " + command + b"\r\n")
        await breathe()
        office.house.conversations[-1].transport.abort()
        await breathe()
        gone.set()
        await breathe()
    assert "Traceback" not in "".join(capfd.readouterr())
