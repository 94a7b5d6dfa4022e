"""Log lines on their way out: built cheaply, written in batches, and never waiting for whoever reads them.

A log that nobody reads (a stopped `journalctl -f | less`, a full pipe) must not stop the mail. So lines gather for a
few milliseconds, are written without blocking, wait in memory up to a limit, and are then dropped and counted.
Invariant: what waits is whole lines, in order; a line once begun is finished before another starts.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from postroad.flow.meters import Counter

FLUSH_AFTER_S: Final = 0.005
"""How long a line may gather company: one write per message would cost more than the line itself."""
FLUSH_LINES: Final = 100
WAITING_MAX: Final = 1 << 20
"""Octets that wait for a slow reader; about 4,000 lines."""
RETRY_S: Final = 0.05
CHUNK: Final = 4096
"""PIPE_BUF: up to here a write to a pipe is all or nothing, so lines of several workers do not mix."""

_SECRET: Final = re.compile(
    r"((?i:\bAUTH(?:ENTICATE)?[ \t]+(?:PLAIN|LOGIN|CRAM-MD5|NTLM|EXTERNAL|X?OAUTH\w*|SCRAM-[\w-]+)[ \t])"
    r"|\bPASS[ \t]|(?i:^PASS[ \t])"
    r"|(?i:^[^\s]{1,32}[ \t]+LOGIN[ \t]+\S+[ \t])"
    r"|(?i:\b(?:password|passwd|secret|token)[\"']?[:=]))[ \t]*\S.*",
    re.MULTILINE,
)


def redact(text: str) -> str:
    """The text without what follows AUTH, PASS, LOGIN or a word like "password:"."""
    return _SECRET.sub(r"\1[hidden]", text)


_second = (-1, "")


def time_text(at_us: int) -> str:
    """A wall time as RFC 3339 writes it, in UTC with milliseconds: "2026-09-23T10:11:12.345Z"."""
    global _second
    second, micros = divmod(at_us, 1_000_000)
    if _second[0] != second:
        _second = (second, time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)))
    return f"{_second[1]}{micros // 1000:03d}Z"


class LineWriter:
    """Writes lines to one file descriptor; the descriptor stays the caller's."""

    __slots__ = (
        "_closed",
        "_handle",
        "_lines",
        "_put",
        "_retrying",
        "_scheduled",
        "_waiting",
        "_waiting_size",
        "counter",
        "dropped",
    )

    def __init__(self, fd: int) -> None:
        self._lines: list[bytes] = []
        self._waiting: deque[bytes] = deque()
        self._waiting_size = 0
        self._scheduled = False
        self._retrying: asyncio.TimerHandle | None = None
        self._closed = False
        self._handle, self._put = _open(fd)
        self.dropped = 0
        """Lines lost so far because nobody read them or the disk was full."""
        self.counter: Counter | None = None
        """Counts them on the metrics page."""

    def add(self, *lines: bytes) -> None:
        """Take lines, each of which ends in LF; they are written within a few milliseconds."""
        self._lines += lines
        if not self._scheduled:
            self._schedule()
        elif len(self._lines) >= FLUSH_LINES:
            self._write_gathered()

    def flush(self) -> None:
        """Write what has gathered, as far as the reader takes it."""
        self._scheduled = False
        if self._lines:
            self._write_gathered()

    def _write_gathered(self) -> None:
        lines, self._lines = self._lines, []
        for chunk in _chunks(lines):
            if self._waiting or not self._write(chunk):
                self._keep(chunk)
        if self._waiting and self._retrying is None:
            self._retry_later()

    def close(self) -> None:
        """Write the rest as far as it goes at once, and let go of what was opened for it."""
        if self._closed:
            return
        self.flush()
        self._retry()
        self._closed = True
        if self._retrying is not None:
            self._retrying.cancel()
            self._retrying = None
        if self._handle is not None:
            self._handle()

    def _schedule(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # before the loop, after it, or in a thread
            self.flush()
            return
        self._scheduled = True
        loop.call_later(FLUSH_AFTER_S, self.flush)

    def _write(self, chunk: bytes) -> bool:
        """Whether the chunk is dealt with; False when the reader is slow. The rest of a partial write waits first."""
        try:
            sent = self._put(chunk)
        except BlockingIOError:
            return False
        except OSError:
            self._drop(chunk)
            return True
        if sent < len(chunk):
            self._waiting.appendleft(chunk[sent:])
            self._waiting_size += len(chunk) - sent
        return True

    def _keep(self, chunk: bytes) -> None:
        if self._waiting_size + len(chunk) > WAITING_MAX:
            self._drop(chunk)
        else:
            self._waiting.append(chunk)
            self._waiting_size += len(chunk)

    def _drop(self, chunk: bytes) -> None:
        lines = chunk.count(b"\n")
        self.dropped += lines
        if self.counter is not None:
            self.counter.add(lines)

    def _retry_later(self) -> None:
        try:
            self._retrying = asyncio.get_running_loop().call_later(RETRY_S, self._retry)
        except RuntimeError:
            self._retrying = None

    def _retry(self) -> None:
        self._retrying = None
        while self._waiting:
            chunk = self._waiting.popleft()
            self._waiting_size -= len(chunk)
            if not self._write(chunk):
                self._waiting.appendleft(chunk)
                self._waiting_size += len(chunk)
                self._retry_later()
                return


def _chunks(lines: list[bytes]) -> list[bytes]:
    """Whole lines joined to pieces of at most CHUNK octets, a longer line alone."""
    joined = b"".join(lines)
    if len(joined) <= CHUNK:
        return [joined]
    chunks, piece, size = [], [lines[0]], len(lines[0])
    for line in lines[1:]:
        if size + len(line) > CHUNK:
            chunks.append(b"".join(piece))
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    chunks.append(b"".join(piece))
    return chunks


Put = Callable[[bytes], int]


def _open(fd: int) -> tuple[Callable[[], None] | None, Put]:
    """How to write to this descriptor without blocking, and what to close in the end.

    O_NONBLOCK belongs to the open file that other processes (a shell) share, so it is never set on `fd` itself: a
    socket is written with MSG_DONTWAIT, a pipe or terminal is opened a second time, and where that is not allowed it
    is asked before each write.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return None, lambda chunk: os.write(fd, chunk)
    if stat.S_ISSOCK(mode):
        sock = socket.socket(fileno=os.dup(fd))
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        return sock.close, lambda chunk: sock.send(chunk, flags)
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None, lambda chunk: _ask_first(fd, chunk)
    return lambda: os.close(own), lambda chunk: os.write(own, chunk)


def _ask_first(fd: int, chunk: bytes) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not any(events & select.POLLOUT for _, events in poll.poll(0)):
        raise BlockingIOError(errno.EAGAIN, "nobody reads")
    return os.write(fd, chunk[:CHUNK])
