"""The spool: bodies on their way in (rows S1 and S2 of docs/internals/states.md) and large bodies that are ours.

A body is in memory first, then in `drafts/INC-N`, and when it is complete and large it is made durable: write, fsync,
rename into `bodies/HH/INC-N`, fsync of the folder. INC is the incarnation of the worker that received it, N its own
count, so what a dead worker left can be told from what a living one still writes. Used by one event loop; whatever may
wait for the disk runs in threads named "spool".
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from postroad.store import folder, syscalls
from postroad.store.records import HEADER_MAX, INLINE_BODY_MAX
from postroad.trust.dkim.canonical import BodyHash
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.ports import Clock

log = logging.getLogger(__name__)

T = TypeVar("T")

DRAFT_MEMORY: Final = 256 * 1024
"""Octets of one body kept in memory before it goes to a file, and between two writes of that file."""

ALL_DRAFTS_MEMORY: Final = 64 * 1024 * 1024
"""Octets of all bodies of one worker in memory; above it every body goes straight to its file."""

DRAFTS_MAX: Final = 256 * 1024 * 1024
"""Octets of all drafts of one worker in memory, headers too; above it what cannot go to a file is refused: ten thousand
clients that each begin a header of 256 kB would take ten times as much."""

CHUNK: Final = 256 * 1024
"""Octets read of a body file at a time."""

THREADS: Final = 4
"""Bodies written or synced at the same time; one disk has no more to give."""

SPACE_RESERVE: Final = 200 * 1000 * 1000
"""Octets kept free beside two messages of the largest size: the log, the journal and the reports still to come."""

SPACE_AGE_S: Final = 1.0
"""How old the answer about free space may be."""

_PASSING: Final = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors that pass by themselves: the message is refused for now and the spool goes on."""


class Spool:
    """The body files of one worker.

    `on_broken(why)` is called once, when the disk has failed to keep something; from then on every draft ends in
    `StoreBroken`, because a repeated fsync may lie.
    """

    def __init__(
        self,
        data_dir: Path,
        incarnation: int,
        clock: Clock,
        *,
        message_size: int,
        free_space_share: float = 0.05,
        on_broken: Callable[[str], None] = lambda why: None,
    ) -> None:
        if incarnation <= 0:
            raise ValueError("a spool needs the number of a registered, living process: the sweep takes all others")
        self._folder = data_dir / folder.SPOOL
        self._drafts = data_dir / folder.DRAFTS
        self._incarnation = incarnation
        self._clock = clock
        self._reserve = 2 * message_size + SPACE_RESERVE
        self._share = free_space_share
        self._on_broken = on_broken
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="spool")
        self._count = 0
        self._space = (-SPACE_AGE_S * 2, 0, 0)
        self.in_memory = 0
        """Octets of drafts in memory, headers and bodies."""
        self.broken = ""

    def draft(self) -> Draft:
        """A new empty draft."""
        self._count += 1
        return Draft(self, f"{self._incarnation}-{self._count}", self._count % folder.BODY_FOLDERS)

    @property
    def crowded(self) -> bool:
        """Whether drafts hold so much memory that none may take more."""
        return self.in_memory > DRAFTS_MAX

    def free_enough(self, size: int = 0) -> bool:
        """Whether a message of `size` octets still leaves the reserve: max(share of the disk, 2 messages + 200 MB)."""
        now = self._clock.monotonic()
        asked, free, total = self._space
        if now - asked > SPACE_AGE_S:
            free, total = syscalls.free_space(self._folder)
            self._space = (now, free, total)
        return free - size >= max(total * self._share, self._reserve)

    async def read(self, body_file: str) -> AsyncIterator[bytes]:
        """The octets of a body file in pieces of `CHUNK`; raises `StoreBroken` when it cannot be read."""
        descriptor = await self.wait(lambda: syscalls.open_to_read(self._folder / body_file))
        try:
            while piece := await self.wait(lambda: syscalls.read(descriptor, CHUNK)):
                yield piece
        finally:
            syscalls.close(descriptor)

    def close(self) -> None:
        """Waits for the threads; drafts that are still open are swept with this incarnation."""
        self._threads.shutdown()

    # -- for drafts --------------------------------------------------------------------------------------------------

    def start(self, work: Callable[[], T]) -> Future[T]:
        """Runs something that may wait for the disk in a thread."""
        return self._threads.submit(work)

    async def wait(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.wrap_future(self.start(work))
        except OSError as error:
            raise self.judged(error) from error

    def draft_path(self, name: str) -> Path:
        """Where a draft of that name is written."""
        return self._drafts / name

    def body_path(self, body_file: str) -> Path:
        """Where a body file named in a message row stands."""
        return self._folder / body_file

    def require_sound(self) -> None:
        """Raises `StoreBroken` once the disk has failed to keep something."""
        if self.broken:
            raise StoreBroken(self.broken)

    def judged(self, error: OSError) -> StoreFull | StoreBroken:
        """The store's word for a failed call; anything that does not pass by itself breaks the spool."""
        if error.errno in _PASSING:
            return StoreFull(f"spool: {error.strerror}")
        if not self.broken:
            self.broken = f"spool: {error}"
            log.critical("no message is taken until the store is restarted and checked: %s", self.broken)
            self._on_broken(self.broken)
        return StoreBroken(self.broken)


class Draft:
    """One message being received: header block in memory, body in memory or in a file.

    Invariant: at most one thread works for a draft at a time (`_job`), and `discard` lets it end before it removes.
    """

    __slots__ = (
        "_body",
        "_descriptor",
        "_ended",
        "_header",
        "_header_counted",
        "_header_size",
        "_hex",
        "_in_body",
        "_in_memory",
        "_job",
        "_name",
        "_settled",
        "_spool",
        "body_hash",
        "header_too_large",
        "size",
    )

    def __init__(self, spool: Spool, name: str, number: int) -> None:
        self._spool = spool
        self._name = name
        self._hex = f"{number:02x}"
        self._header: list[bytes] = []
        self._header_size = 0
        self._header_counted = 0
        self._body: list[bytes] = []
        self._in_body = False
        self._in_memory = 0
        self._descriptor = -1
        self._job: Future[None] | None = None
        self._settled = ""
        self._ended = False
        self.size = 0
        """Octets written so far, header and body."""
        self.body_hash: BodyHash | None = None
        """Fed with a body that goes to a file, where somebody set it before: it need not be read a second time. A small
        body is in memory at the end, and hashed there by whoever wants it."""
        self.header_too_large = False
        """The header block has passed HEADER_MAX: the message must be refused; its octets are no longer kept."""

    # -- while it is received ----------------------------------------------------------------------------------------

    def write(self, chunk: bytes) -> None:
        """Takes the next octets into memory; afterwards the caller looks at `needs_flush`."""
        self.size += len(chunk)
        if self._in_body:
            self._keep(chunk)
        elif not self.header_too_large:
            self._write_header(chunk)

    def _write_header(self, chunk: bytes) -> None:
        """Splits at the first empty line, which belongs to the header block and may lie across two chunks."""
        tail = self._header_tail()
        joined = tail + chunk
        if self._header_size < 2 and joined.startswith(b"\r\n"):
            end = 2 - len(tail)
        else:
            at = joined.find(b"\r\n\r\n")
            end = at + 4 - len(tail) if at >= 0 else -1
        if end < 0:
            self._keep_header(chunk)
        else:
            self._keep_header(chunk[:end])
            self._in_body = True
            if end < len(chunk):
                self._keep(chunk[end:])

    def _header_tail(self) -> bytes:
        """The last three octets of the header so far: an empty line that began there ends in the next chunk."""
        tail = b""
        for piece in reversed(self._header):
            tail = piece[-(3 - len(tail)) :] + tail
            if len(tail) == 3:
                break
        return tail

    def _keep_header(self, octets: bytes) -> None:
        self._header_size += len(octets)
        if self._header_size > HEADER_MAX:
            self.header_too_large = True
            self._header.clear()
            self._count_header(0)
        else:
            self._header.append(octets)
            self._count_header(self._header_size)

    def _count_header(self, octets: int) -> None:
        self._spool.in_memory += octets - self._header_counted
        self._header_counted = octets

    def _keep(self, octets: bytes) -> None:
        self._body.append(octets)
        self._in_memory += len(octets)
        self._spool.in_memory += len(octets)

    @property
    def needs_flush(self) -> bool:
        """Whether `flush_to_disk` must be awaited before the next `write`."""
        held = self._in_memory
        return held > DRAFT_MEMORY or (held > INLINE_BODY_MAX and self._spool.in_memory > ALL_DRAFTS_MEMORY)

    async def flush_to_disk(self) -> None:
        """Writes the body so far to the draft's file. Raises `StoreFull` or `StoreBroken`."""
        await self._work(lambda pieces: self._append(pieces))

    # -- before its end ----------------------------------------------------------------------------------------------

    @property
    def header(self) -> bytes:
        """The header block so far, with the empty line that ends it."""
        if len(self._header) > 1:
            self._header = [b"".join(self._header)]
        return self._header[0] if self._header else b""

    def replace_header(self, header: bytes) -> None:
        """Puts another header block, with the empty line that ends it, in the place of the one that came."""
        self.size += len(header) - self._header_size
        self._header = [header]
        self._header_size = len(header)
        self._in_body = True
        self.header_too_large = self.header_too_large or len(header) > HEADER_MAX
        if self.header_too_large:
            self._header.clear()
        self._count_header(0 if self.header_too_large else len(header))

    async def read_body(self) -> AsyncIterator[bytes]:
        """The body so far from its beginning, in pieces; nothing may be written meanwhile.

        Raises `StoreFull` and `StoreBroken`. Whoever still reads when the draft ends reads on: what is read belongs to
        the reader.
        """
        if self._ended:
            raise StoreBroken("this draft has ended")
        rest = list(self._body)
        if self._descriptor >= 0:
            async for piece in self._read_file():
                yield piece
        for piece in rest:
            yield piece

    async def _read_file(self) -> AsyncIterator[bytes]:
        try:
            descriptor = syscalls.duplicate(self._descriptor)
        except OSError as error:
            raise self._spool.judged(error) from error
        offset, end = 0, self.size - self._header_size - self._in_memory  # the end of the draft writes the rest there
        try:
            while piece := await self._read_at(descriptor, offset, min(CHUNK, end - offset)):
                offset += len(piece)
                yield piece
        finally:
            syscalls.close(descriptor)

    async def _read_at(self, descriptor: int, offset: int, count: int) -> bytes:
        return await self._spool.wait(lambda: syscalls.read_at(descriptor, count, offset))

    # -- its end -----------------------------------------------------------------------------------------------------

    async def settle(self) -> tuple[bytes, bytes | None, str]:
        """Ends the draft; returns the header block with its empty line, the body when it is small, and otherwise the
        name of the file that now holds it durably (S2). Raises `StoreFull` or `StoreBroken`; then discard it."""
        self._spool.require_sound()
        self._ended = True
        header = b"".join(self._header)
        self._count_header(0)
        if self._descriptor < 0 and self._in_memory <= INLINE_BODY_MAX:
            body = b"".join(self._body)
            self._forget_memory()
            return header, body, ""
        await self._work(self._make_durable)
        return header, None, self._settled

    def discard(self) -> None:
        """Removes everything of the draft, a settled body file too.

        After `settle` only before the store was asked to accept the message, or when it answered that it did not: a
        message whose acceptance failed in any way but `StoreFull` may be ours, and its body file must stay.
        """
        self._ended = True
        self._count_header(0)
        self._forget_memory()
        if self._job is not None and not self._job.done():
            self._job.add_done_callback(lambda _: self._remove())
        elif self._descriptor >= 0 or self._settled:
            self._job = self._spool.start(self._remove)

    def _forget_memory(self) -> None:
        self._spool.in_memory -= self._in_memory
        self._in_memory = 0
        self._body = []

    # -- in a thread -------------------------------------------------------------------------------------------------

    async def _work(self, work: Callable[[list[bytes]], None]) -> None:
        self._spool.require_sound()
        pieces = self._body
        if self.body_hash is not None:
            for piece in pieces:
                self.body_hash.update(piece)
        self._forget_memory()
        self._job = self._spool.start(lambda: work(pieces))
        try:
            await asyncio.wrap_future(self._job)
        except OSError as error:
            raise self._spool.judged(error) from error

    def _append(self, pieces: list[bytes]) -> None:
        if self._descriptor < 0:
            self._descriptor = syscalls.create(self._spool.draft_path(self._name))
        left = memoryview(b"".join(pieces))
        while left:
            left = left[syscalls.write(self._descriptor, left) :]

    def _make_durable(self, pieces: list[bytes]) -> None:
        self._append(pieces)
        syscalls.fsync(self._descriptor)
        body_file = f"bodies/{self._hex}/{self._name}"
        target = self._spool.body_path(body_file)
        syscalls.rename(self._spool.draft_path(self._name), target)
        self._settled = body_file
        syscalls.fsync_folder(target.parent)
        descriptor, self._descriptor = self._descriptor, -1
        syscalls.close(descriptor)

    def _remove(self) -> None:
        """Best effort: what stays is swept when this incarnation is dead."""
        descriptor, self._descriptor = self._descriptor, -1
        settled, self._settled = self._settled, ""
        path = self._spool.body_path(settled) if settled else self._spool.draft_path(self._name)
        try:
            if descriptor >= 0:
                syscalls.close(descriptor)
            syscalls.unlink(path)
        except OSError as error:
            log.warning("%s was not removed: %s", path, error.strerror)
