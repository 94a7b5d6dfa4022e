"""The store process itself: it starts, says ready, stops cleanly, and survives being killed at any moment."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from postroad.store import folder
from postroad.store.client import StoreClient, UnitFailed
from postroad.store.opening import OpenStore
from postroad.store.process import EXIT_BROKEN, EXIT_UNUSABLE
from postroad.store.queue import DELIVERIES, MESSAGES, accept, claim, record
from postroad.store.reader import Reader
from postroad.store.records import Claim, Done, Recorded
from postroad.store.spool import Spool
from postroad.store.units import Tx
from postroad.store.verify import verify
from postroad.values.clock import SystemClock
from postroad.values.errors import StoreBroken
from postroad.values.ids import IdMaker
from tests.store.stores import START_US, leg, sample

Start = Callable[..., "subprocess.Popen[bytes]"]

pytestmark = pytest.mark.slow


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts store processes that say ready; those still alive are killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def run(data_dir: Path, *options: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "postroad.store.process", "--data", str(data_dir), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=pass_fds)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


async def test_it_gives_signs_of_life_to_whoever_holds_its_lifeline(tmp_path: Path, start: Start) -> None:
    read_end, write_end = os.pipe()
    process = start(tmp_path, "--lifeline", str(read_end), pass_fds=(read_end,))
    os.close(read_end)
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.read, 1) == b"."
    os.close(write_end)
    assert await asyncio.to_thread(process.wait, 10) == 0


async def test_sigterm_ends_it_with_an_empty_log(tmp_path: Path, start: Start) -> None:
    process = start(tmp_path)
    client = await StoreClient.connect(tmp_path, name="worker")
    await client.call(accept, sample(1))
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 10) == 0
    await client.closed
    assert not (tmp_path / "postroad.db-wal").exists()
    assert verify(tmp_path) == []


async def test_it_ends_with_whoever_started_it(tmp_path: Path, start: Start) -> None:
    lifeline, end = os.pipe()
    process = start(tmp_path, "--lifeline", str(lifeline), pass_fds=(lifeline,))
    os.close(lifeline)
    os.close(end)
    assert await asyncio.to_thread(process.wait, 10) == 0


async def test_a_call_that_cannot_be_sent_fails_alone(tmp_path: Path, start: Start) -> None:
    start(tmp_path)
    client = await StoreClient.connect(tmp_path, name="worker")
    delays = [60.0]
    good, no_text, no_number, other = await asyncio.gather(
        client.call(claim, Claim(client.incarnation, 10, delays)),
        client.call(claim, Claim(client.incarnation, 10, delays, domains_not=["\udc80"])),
        client.call(claim, Claim(client.incarnation, 1 << 70, delays)),
        client.call(accept, sample(1)),
        return_exceptions=True,
    )
    assert not isinstance(good, BaseException)
    assert not isinstance(other, BaseException)
    assert isinstance(no_text, UnitFailed)
    assert isinstance(no_number, UnitFailed)
    client.close()


async def test_calls_too_long_for_one_frame_go_in_several(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path)
    client = await StoreClient.connect(tmp_path, name="worker")
    monkeypatch.setattr("postroad.store.client.FRAME_MAX", 100)
    await asyncio.gather(*(client.call(accept, sample(number)) for number in range(1, 6)))
    client.close()


def test_a_second_one_says_why_it_cannot_start(tmp_path: Path, start: Start) -> None:
    start(tmp_path)
    second = subprocess.run(
        [sys.executable, "-m", "postroad.store.process", "--data", str(tmp_path)], capture_output=True, check=False
    )
    assert second.returncode == EXIT_UNUSABLE
    assert b"another process writes" in second.stderr


async def test_a_broken_store_tells_the_supervisor_by_its_status(tmp_path: Path, start: Start) -> None:
    process = start(tmp_path)
    client = await StoreClient.connect(tmp_path, name="worker")
    client.post("break_off", "spool: Input/output error")
    with pytest.raises(StoreBroken):
        await client.call(accept, sample(1))
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 10) == EXIT_BROKEN


def test_the_socket_is_for_the_owner_alone(tmp_path: Path, start: Start) -> None:
    start(tmp_path / "data")
    assert (tmp_path / "data" / folder.SOCKET).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


@pytest.mark.crash
async def test_killed_at_any_moment_it_keeps_all_it_acknowledged(tmp_path: Path, start: Start) -> None:
    """Five kills under load: what was answered stands after the restart, whole, and the table of states holds."""
    kept: dict[int, int] = {}
    ended: set[int] = set()
    unsure: set[int] = set()
    for round_number in range(5):
        process = start(tmp_path)
        load = asyncio.ensure_future(submit(tmp_path, kept, ended, unsure))
        await asyncio.sleep(0.05 + 0.03 * round_number)
        process.kill()
        await load
        await asyncio.to_thread(process.wait)
    start(tmp_path)
    reader = Reader(tmp_path)
    for ident, size in kept.items():
        message = await reader.message(ident)
        if ident in unsure:
            continue
        assert (message is None) == (ident in ended), ident
        if message is not None and message.body is not None:
            assert len(message.header) + len(message.body) == message.size == size
    reader.close()
    assert len(kept) > 100
    assert len(ended) > 20
    assert verify(tmp_path) == []


async def submit(data_dir: Path, kept: dict[int, int], ended: set[int], unsure: set[int]) -> None:
    """Ten submitters: each message is accepted, every second one then ends; stops when the store dies."""
    client = await StoreClient.connect(data_dir, name="worker")
    ids = IdMaker(client.incarnation, client.last_id)
    spool = Spool(data_dir, client.incarnation, SystemClock(), message_size=1 << 20)

    async def one(number: int) -> None:
        ident, delivery = ids.make(START_US), ids.make(START_US)
        body = b"x" * (100_000 if number % 7 == 0 else 3000)
        draft = spool.draft()
        draft.write(b"Subject: load\r\n\r\n" + body)
        header, inline, body_file = await draft.settle()
        owned = [leg(delivery, owner=client.incarnation, due_us=START_US)]
        message = sample(ident, header=header, body=inline, body_file=body_file, size=draft.size, legs=owned)
        await client.call(accept, message)
        kept[ident] = draft.size
        if number % 2:
            unsure.add(ident)
            await client.call(record, Recorded(client.incarnation, [Done(delivery)], [], []))
            unsure.discard(ident)
            ended.add(ident)

    async def many() -> None:
        number = 0
        while True:
            number += 1
            await one(number)

    outcomes = await asyncio.gather(*(many() for _ in range(10)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreBroken] * 10
    spool.close()


async def test_a_start_rewrites_no_row_of_deferred_mail(tmp_path: Path, start: Start) -> None:
    """Ownership is a question to the set of the living, so 20,000 rows of a dead owner cost a start nothing."""
    store = OpenStore(tmp_path)
    later = START_US * 2
    rows = [
        (n, 1, later, 5, 3, 0, 0, "example.net", "b@example.net", "", "", b"", "451", 0, 0, "")
        for n in range(1, 20_001)
    ]

    def fill(tx: Tx) -> None:
        tx.append(MESSAGES, (1, START_US, START_US, 3, 0, 0, "", "", "", "", "", b"A:\r\n\r\n", b""))
        for row in rows:
            tx.append(DELIVERIES, row)

    store.writer.transact(fill)
    store.close()
    start(tmp_path)
    client = await StoreClient.connect(tmp_path, name="worker")
    found = await client.call(claim, Claim(client.incarnation, 10, [60.0]))
    assert (found.deliveries, found.next_due_us) == ([], later)
    reader = Reader(tmp_path)
    assert reader.rows_now("SELECT count(*) FROM deliveries WHERE owner = 5 AND due_us = ?", (later,)) == [(20_000,)]
    reader.close()
    client.close()
