"""Drafts and body files: where a body is at each size, what is durable when, and what every failing call leads to."""

from __future__ import annotations

import asyncio
import errno
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from postroad.store import folder, syscalls
from postroad.store.records import HEADER_MAX, INLINE_BODY_MAX
from postroad.store.spool import DRAFT_MEMORY, Draft, Spool
from postroad.values.errors import StoreBroken, StoreFull
from tests.fakes.clock import FakeClock

HEADER = b"Subject: a large one\r\nFrom: <a@example.org>\r\n\r\n"


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    folder.prepare(tmp_path)
    made = Spool(tmp_path, 7, FakeClock(), message_size=1 << 20)
    yield made
    made.close()


async def fill(draft: Draft, content: bytes, step: int = 8192) -> None:
    for start in range(0, len(content), step):
        draft.write(content[start : start + step])
        if draft.needs_flush:
            await draft.flush_to_disk()


def files(tmp_path: Path) -> list[str]:
    spool = tmp_path / folder.SPOOL
    return sorted(str(path.relative_to(spool)) for path in spool.rglob("*") if path.is_file())


async def test_a_small_body_stays_in_memory(spool: Spool, tmp_path: Path) -> None:
    draft = spool.draft()
    await fill(draft, HEADER + b"x" * INLINE_BODY_MAX)
    assert await draft.settle() == (HEADER, b"x" * INLINE_BODY_MAX, "")
    assert draft.size == len(HEADER) + INLINE_BODY_MAX
    assert files(tmp_path) == []
    assert spool.in_memory == 0


@pytest.mark.parametrize("size", [INLINE_BODY_MAX + 1, DRAFT_MEMORY, DRAFT_MEMORY + 8192, 1_000_003])
async def test_a_large_body_is_a_file_and_reads_back_alike(spool: Spool, tmp_path: Path, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    draft = spool.draft()
    await fill(draft, HEADER + body)
    header, inline, body_file = await draft.settle()
    assert (header, inline) == (HEADER, None)
    assert files(tmp_path) == [body_file]
    assert b"".join([piece async for piece in spool.read(body_file)]) == body
    assert spool.in_memory == 0


async def test_memory_is_bounded_while_a_body_streams(spool: Spool) -> None:
    draft = spool.draft()
    highest = 0
    for _ in range(200):
        draft.write(b"x" * 32768)
        highest = max(highest, spool.in_memory)
        if draft.needs_flush:
            await draft.flush_to_disk()
    assert highest <= DRAFT_MEMORY + 32768
    draft.discard()


async def test_when_all_drafts_together_are_large_each_goes_to_disk_early(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroad.store.spool.ALL_DRAFTS_MEMORY", 100_000)
    one, two = spool.draft(), spool.draft()
    for draft in (one, two):
        draft.write(HEADER + b"x" * 70_000)
    assert one.needs_flush
    one.discard()
    two.discard()


@pytest.mark.parametrize(
    ("content", "header"),
    [
        (b"A: 1\r\n\r\nbody", b"A: 1\r\n\r\n"),
        (b"A: 1\r\n\r\n", b"A: 1\r\n\r\n"),
        (b"A: 1\r\n", b"A: 1\r\n"),
        (b"\r\nbody\r\n\r\nmore", b"\r\n"),
        (b"", b""),
        (b"A: 1\r\n\r\n\r\n\r\n", b"A: 1\r\n\r\n"),
    ],
)
async def test_the_header_ends_with_the_first_empty_line_at_every_split(
    spool: Spool, content: bytes, header: bytes
) -> None:
    for first, second in itertools.combinations_with_replacement(range(len(content) + 1), 2):
        draft = spool.draft()
        for piece in (content[:first], content[first:second], content[second:]):
            draft.write(piece)
        assert await draft.settle() == (header, content[len(header) :], ""), (first, second)
    draft = spool.draft()
    for octet in content:
        draft.write(bytes([octet]))
    assert (await draft.settle())[0] == header


async def test_a_header_without_end_is_not_kept(spool: Spool) -> None:
    draft = spool.draft()
    for _ in range(100):
        draft.write(b"x" * 65536)
    assert draft.header_too_large
    assert draft.size == 6_553_600
    fits = spool.draft()
    fits.write(b"x" * (HEADER_MAX - 4) + b"\r\n\r\n")
    assert not fits.header_too_large


async def test_discarding_removes_every_trace(spool: Spool, tmp_path: Path) -> None:
    settled, open_one, small = spool.draft(), spool.draft(), spool.draft()
    await fill(settled, HEADER + b"x" * 300_000)
    await settled.settle()
    await fill(open_one, HEADER + b"x" * 300_000)
    small.write(b"x")
    assert len(files(tmp_path)) == 2
    for draft in (settled, open_one, small):
        draft.discard()
        draft.discard()
    spool.close()
    assert files(tmp_path) == []
    assert spool.in_memory == 0


@pytest.mark.parametrize("end", ["settle", "discard"])
async def test_whoever_still_reads_a_draft_that_has_ended_breaks_nothing(spool: Spool, end: str) -> None:
    """A judge whose time was over reads on while the message is kept or thrown away."""
    body = bytes(range(256)) * 4096
    draft = spool.draft()
    await fill(draft, HEADER + body)
    reading = draft.read_body()
    read = await anext(reading)
    if end == "settle":
        await draft.settle()
    else:
        draft.discard()
        while draft._descriptor >= 0:
            await asyncio.sleep(0.001)
    async for piece in reading:
        read += piece
    assert read == body[: len(read)], "of this message, or nothing"
    with pytest.raises(StoreBroken, match="ended"):
        await anext(draft.read_body())
    assert not spool.broken


async def test_discarding_while_a_thread_writes_waits_for_it(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session is cancelled in the middle of a write: the descriptor is closed after the write, not under it."""
    began, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    write = syscalls.write

    def slow(descriptor: int, octets: bytes | memoryview) -> int:
        loop.call_soon_threadsafe(began.set)
        go_on.wait(5)
        return write(descriptor, octets)

    monkeypatch.setattr(syscalls, "write", slow)
    draft = spool.draft()
    draft.write(HEADER + b"x" * 300_000)
    flushing = asyncio.ensure_future(draft.flush_to_disk())
    await began.wait()
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    draft.discard()
    go_on.set()
    spool.close()
    assert files(tmp_path) == []


async def test_the_order_that_makes_a_body_durable(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Write, fsync, rename, fsync of the folder: any other order may leave a name without its octets."""
    calls: list[str] = []
    for name in ("create", "write", "fsync", "rename", "fsync_folder", "close"):
        monkeypatch.setattr(syscalls, name, recorded(name, getattr(syscalls, name), calls))
    draft = spool.draft()
    draft.write(HEADER + b"x" * 100_000)
    await draft.settle()
    assert calls == ["create", "write", "fsync", "rename", "fsync_folder", "fsync", "close"]


def recorded(name: str, call: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def record(*args: Any) -> Any:
        calls.append(name)
        return call(*args)

    return record


@pytest.mark.parametrize("failing", ["create", "write", "fsync", "rename", "fsync_folder"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
async def test_no_failing_call_ends_in_a_settled_draft(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, number: int
) -> None:
    real = getattr(syscalls, failing)

    def fail(*args: Any) -> Any:
        raise OSError(number, "injected")

    monkeypatch.setattr(syscalls, failing, fail)
    draft = spool.draft()
    draft.write(HEADER + b"x" * 100_000)
    with pytest.raises(StoreFull if number == errno.ENOSPC else StoreBroken):
        await draft.settle()
    draft.discard()
    monkeypatch.setattr(syscalls, failing, real)
    following = spool.draft()
    following.write(HEADER + b"x" * 100_000)
    if number == errno.ENOSPC:
        assert (await following.settle())[2]
    else:
        with pytest.raises(StoreBroken):
            await following.settle()
        assert "injected" in spool.broken


async def test_free_space_keeps_a_reserve_and_is_asked_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    spool = Spool(tmp_path, 7, clock, message_size=50_000_000, free_space_share=0.05)
    free = [400_000_000]
    asked: list[int] = []

    def space(path: Path) -> tuple[int, int]:
        asked.append(1)
        return free[0], 1_000_000_000

    monkeypatch.setattr(syscalls, "free_space", space)
    assert spool.free_enough()
    assert not spool.free_enough(150_000_000)
    free[0] = 299_999_999
    assert spool.free_enough()
    assert len(asked) == 1
    clock.advance(1.1)
    assert not spool.free_enough()
    free[0] = 300_000_000
    clock.advance(1.1)
    assert spool.free_enough()
    spool.close()
