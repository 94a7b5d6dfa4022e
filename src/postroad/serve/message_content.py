"""One message of a mailbox, read where it stands: header in memory, a large body in its file.

IMAP and POP3 send messages of any size from here in pieces, so no session ever holds a whole large body. A file's
pages that the kernel has at hand are read on the loop; for the others a thread waits.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, cast

from postroad.store.mailbox_records import Located
from postroad.wire.mime.tree import Tree, read_tree

PIECE: Final = 64 * 1024
"""Octets read and written at once: under 0.1 ms of the loop, and the height of the write buffer."""

LARGE: Final = 1024 * 1024
"""Octets of a body from which on its tree is read in a thread: 2 ms of searching."""


class Bodies(Protocol):
    """Where body files stand and who waits for the disk: `store.spool.Spool`."""

    def body_path(self, body_file: str) -> Path: ...
    def start(self, work: Callable[[], Any]) -> Future[Any]: ...


class BodyUnreadable(Exception):
    """The body's file cannot be read; `postroad verify` tells more."""


class MessageContent:
    """A message as prefix and header (`head`) and a body that may stand in a file; offsets count octets.

    Use it as a context manager: a body's file stays open only inside the block.
    """

    __slots__ = ("_bodies", "_body", "_descriptor", "body_size", "head", "id", "size")

    def __init__(self, located: Located, bodies: Bodies) -> None:
        """Opens what `located` names; raises `BodyUnreadable`."""
        self.id = located.message
        self.head = located.prefix + located.header
        self._bodies = bodies
        self._body = located.body
        self._descriptor = -1
        if located.body is not None:
            self.body_size = len(located.body)
        else:
            self._open(bodies.body_path(located.body_file))
        self.size = len(self.head) + self.body_size

    def _open(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.body_size = os.fstat(self._descriptor).st_size
        except OSError as error:
            self.close()
            raise BodyUnreadable(f"message {self.id}: {error}") from error

    def __enter__(self) -> MessageContent:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the body's file, if there is one."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    async def body(self, start: int, end: int) -> bytes:
        """Octets of the body, fewer when it ends before `end`; raises `BodyUnreadable`."""
        end = min(end, self.body_size)
        if start >= end:
            return b""
        if self._body is not None:
            return self._body[start:end]
        octets = self._at_hand(start, end)
        if len(octets) < end - start:
            octets += await self._wait(lambda: self._read(start + len(octets), end))
        return octets

    async def octets(self, start: int, end: int) -> bytes:
        """Octets of the whole message; raises `BodyUnreadable`."""
        cut = len(self.head)
        if end <= cut:
            return self.head[start:end]
        if start >= cut:
            return await self.body(start - cut, end - cut)
        return self.head[start:] + await self.body(0, end - cut)

    async def body_pieces(self) -> AsyncIterator[bytes]:
        """The body in pieces of at most `PIECE` octets; raises `BodyUnreadable`."""
        for start in range(0, self.body_size, PIECE):
            yield await self.body(start, start + PIECE)

    async def tree(self) -> Tree:
        """The MIME parts, as offsets into the body; raises `BodyUnreadable`."""
        if self._body is not None:
            return read_tree(self.head, self._body)
        if not self.body_size:
            return read_tree(self.head, b"")
        if self.body_size < LARGE:
            return read_tree(self.head, await self.body(0, self.body_size))
        tree: Tree = await self._wait(self._large_tree)
        return tree

    def sliceable(self) -> bytes:
        """The body as something to cut small pieces from, whether or not it stands in memory."""
        return self._body if self._body is not None else cast(bytes, FileSlices(self._descriptor))

    # -- the file ----------------------------------------------------------------------------------------------------

    def _at_hand(self, start: int, end: int) -> bytes:
        """What of the file can be read without waiting for the disk."""
        buffer = bytearray(end - start)
        try:
            count = os.preadv(self._descriptor, [buffer], start, os.RWF_NOWAIT)
        except OSError:  # not at hand, or a file system that cannot tell: the thread finds out
            return b""
        return bytes(buffer[:count])

    def _read(self, start: int, end: int) -> bytes:
        pieces = []
        while start < end:
            piece = os.pread(self._descriptor, end - start, start)
            if not piece:
                raise OSError(f"ends at {start} instead of {end}")
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)

    def _large_tree(self) -> Tree:
        # Reading first brings the file into memory while other threads run; a page fault would hold them all up.
        for start in range(0, self.body_size, LARGE):
            os.pread(self._descriptor, LARGE, start)
        with MappedBody(self._descriptor, 0, access=mmap.ACCESS_READ) as body:
            return read_tree(self.head, body)  # type: ignore[arg-type]  # it has what the reader uses of bytes

    async def _wait(self, work: Callable[[], Any]) -> Any:
        try:
            return await asyncio.wrap_future(self._bodies.start(work))
        except OSError as error:
            raise BodyUnreadable(f"message {self.id}: {error}") from error


class FileSlices:
    """An open file from which `[start:end]` reads; for the few octets of an inner message's header."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __getitem__(self, place: slice) -> bytes:
        return os.pread(self._descriptor, place.stop - place.start, place.start)


class MappedBody(mmap.mmap):
    """A file seen as octets, with the two methods of bytes that the MIME reader uses besides mmap's own."""

    def startswith(self, prefix: bytes, start: int = 0) -> bool:
        """As `bytes.startswith`."""
        return self[start : start + len(prefix)] == prefix

    def count(self, octet: bytes, start: int, end: int) -> int:
        """As `bytes.count` for one octet, a piece at a time."""
        return sum(self[at : min(at + PIECE, end)].count(octet) for at in range(start, end, PIECE))
