"""Log lines never block, never mix and never carry a password."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from postroad.flow import loglines
from postroad.flow.loglines import WAITING_MAX, LineWriter, redact, time_text


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def test_without_a_loop_lines_are_written_at_once() -> None:
    with pipe() as (reading, writing):
        LineWriter(writing).add(b"one\n")
        assert os.read(reading, 100) == b"one\n"


async def test_lines_gather_and_are_written_together() -> None:
    with pipe() as (reading, writing):
        lines = LineWriter(writing)
        lines.add(b"one\n", b"two\n")
        with pytest.raises(BlockingIOError):
            os.read(reading, 100)
        await asyncio.sleep(loglines.FLUSH_AFTER_S * 2)
        assert os.read(reading, 100) == b"one\ntwo\n"
        lines.close()


async def test_a_hundred_lines_do_not_wait() -> None:
    with pipe() as (reading, writing):
        lines = LineWriter(writing)
        for _ in range(loglines.FLUSH_LINES):
            lines.add(b"x\n")
        assert os.read(reading, 1000) == b"x\n" * loglines.FLUSH_LINES
        lines.close()


async def test_full_pipe_does_not_hang_and_what_waits_comes_later_in_order() -> None:
    with pipe() as (reading, writing):
        lines = LineWriter(writing)
        expected = [b"%05d %s\n" % (number, b"x" * 200) for number in range(1000)]  # three pipes full
        lines.add(*expected)
        lines.flush()
        got = b""
        for _ in range(200):
            try:
                got += os.read(reading, 1 << 16)
            except BlockingIOError:
                await asyncio.sleep(0.001)
            if len(got) >= sum(map(len, expected)):
                break
            lines._retry()
        assert got == b"".join(expected)
        assert lines.dropped == 0
        lines.close()


async def test_lines_beyond_the_limit_are_dropped_and_counted() -> None:
    with pipe() as (reading, writing):
        lines = LineWriter(writing)
        line = b"x" * 1023 + b"\n"
        for _ in range(3 * WAITING_MAX // len(line)):
            lines.add(line)
        lines.flush()
        assert lines.dropped > 0
        kept = lines._waiting_size
        assert kept <= WAITING_MAX
        assert os.read(reading, 1 << 20).endswith(b"\n")
        lines.close()


async def test_blocking_mode_of_the_shared_descriptor_is_left_alone() -> None:
    with pipe() as (_, writing):
        LineWriter(writing).close()
        assert os.get_blocking(writing)


async def test_socket_nobody_reads_does_not_hang() -> None:
    left, right = socket.socketpair()
    with left, right:
        lines = LineWriter(left.fileno())
        for _ in range(2000):
            lines.add(b"y" * 999 + b"\n")
        lines.flush()
        assert lines._waiting
        assert right.recv(10) == b"y" * 10
        lines.close()


async def test_reader_that_went_away_costs_lines_only() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    lines = LineWriter(writing)
    lines.add(b"one\n", b"two\n")
    lines.flush()
    assert lines.dropped == 2
    lines.close()
    os.close(writing)


def test_chunks_hold_whole_lines() -> None:
    lines = [b"a" * 3000 + b"\n", b"b" * 3000 + b"\n", b"c" * 9000 + b"\n", b"d\n"]
    chunks = loglines._chunks(lines)
    assert b"".join(chunks) == b"".join(lines)
    assert all(chunk.endswith(b"\n") for chunk in chunks)
    assert len(chunks) == 4


def test_where_the_pipe_may_not_be_opened_again_it_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    with pipe() as (reading, writing):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            lines = LineWriter(writing)
        for _ in range(100):
            lines.add(b"z" * 4000 + b"\n")
        assert lines._waiting
        assert os.read(reading, 4) == b"zzzz"
        lines.close()


def test_file_is_written_to_the_end(tmp_path: Path) -> None:
    handle = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    LineWriter(handle).add(b"one\n", b"two\n")
    os.close(handle)
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize(
    "said, shown",
    [
        ("AUTH PLAIN AGFubmEAc2VjcmV0", "AUTH PLAIN [hidden]"),
        ("a1 LOGIN anna hunter2", "a1 LOGIN anna [hidden]"),
        ("PASS hunter2 with spaces", "PASS [hidden]"),
        ("a AUTHENTICATE PLAIN AGFubmEA", "a AUTHENTICATE PLAIN [hidden]"),
        ("password: hunter2", "password:[hidden]"),
        ("password=hunter2", "password=[hidden]"),
        ("SPF pass for example.org", "SPF pass for example.org"),
        ("pass hunter2", "pass [hidden]"),
        ("client said PASS hunter2", "client said PASS [hidden]"),
        ("AUTH failed for anna", "AUTH failed for anna"),
        ("login anna@dev.test was wrong three times", "login anna@dev.test was wrong three times"),
        ("authentication failed", "authentication failed"),
        ("RCPT TO:<pass@example.org> -> 550 5.1.1 No mailbox", "RCPT TO:<pass@example.org> -> 550 5.1.1 No mailbox"),
    ],
)
def test_what_follows_a_login_command_is_hidden(said: str, shown: str) -> None:
    assert redact(said) == shown


def test_times_are_utc_with_milliseconds() -> None:
    assert time_text(1_790_158_272_345_999) == "2026-09-23T10:11:12.345Z"
    assert time_text(1_790_158_272_000_000) == "2026-09-23T10:11:12.000Z"
