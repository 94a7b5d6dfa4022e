"""The worker's side of the store's socket: calls from one event loop, gathered per tick into one write.

Invariant: a call returns only what the store answered. When the connection ends, every open call raises `StoreBroken`:
whether its unit was committed is then unknown, and nothing may be acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast, overload

import msgspec

from postroad.store import folder
from postroad.store.frames import FRAME_MAX, Unframer, decode_answers, frame
from postroad.store.register import Register, register
from postroad.store.units import UNITS, Tx, load_units
from postroad.store.writer import FAILED, FULL, OK
from postroad.values.errors import StoreBroken, StoreFull

log = logging.getLogger(__name__)

A = TypeVar("A")
R = TypeVar("R")

POST_BUFFER_MAX: Final = 1024 * 1024
"""Octets waiting for the socket above which posted calls are dropped: they are worth less than memory."""

FRAME_CALLS: Final = 500
"""Calls in one frame: as many as the store takes into one transaction."""


class UnitFailed(Exception):
    """The unit itself raised; the message says what. Nothing of it happened."""


class StoreClient(asyncio.Protocol):
    """One connection to the store process, used by one event loop; made by `connect`."""

    def __init__(self, on_hint: Callable[[str, int], None] | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_hint = on_hint
        self._transport: asyncio.Transport | None = None
        self._unframer = Unframer()
        self._open: dict[int, tuple[asyncio.Future[Any], str]] = {}
        self._outgoing: list[tuple[int, str, Any]] = []
        self._number = 0
        self._writable: asyncio.Future[None] | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done when the connection has ended, for whatever reason."""
        self.incarnation = 0
        """The number this process owns deliveries under; 0 without registration."""
        self.last_id = 0
        self.dropped = 0
        """Posted calls that were dropped because the socket was full."""

    @classmethod
    async def connect(
        cls, data_dir: Path, *, on_hint: Callable[[str, int], None] | None = None, name: str = ""
    ) -> StoreClient:
        """Connects to the store process of a data folder and, with a name, registers as a worker.

        `on_hint(kind, key)` is called for every hint. Raises `StoreBroken` when nobody listens.
        """
        load_units()
        loop = asyncio.get_running_loop()
        sock = folder.connect(data_dir)
        sock.setblocking(False)
        _, client = await loop.create_unix_connection(lambda: cls(on_hint), sock=sock)
        if name:
            registered = await client.call(register, Register(name))
            client.incarnation, client.last_id = registered.incarnation, registered.last_id
        return client

    @overload
    async def call(self, unit: Callable[[Tx, A], R], args: A) -> R: ...
    @overload
    async def call(self, unit: str, args: object) -> Any: ...
    async def call(self, unit: Callable[[Tx, Any], Any] | str, args: Any) -> Any:
        """Runs a unit, given as its function or its name, and returns its result once its transaction is on disk.

        Raises `StoreBroken` (nothing is known to have happened), `StoreFull` (nothing happened), or `UnitFailed`.
        """
        while self._writable is not None:
            await asyncio.shield(self._writable)
        if self.closed.done():
            raise StoreBroken("the connection to the store has ended")
        self._number = number = self._number + 1
        future: asyncio.Future[Any] = self._loop.create_future()
        name = unit if isinstance(unit, str) else unit.__name__
        self._open[number] = (future, name)
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append((number, name, args))
        return await future

    def post(self, name: str, args: Any) -> None:
        """Sends a call that nobody waits for; dropped, and counted in `dropped`, when the socket is full."""
        transport = self._transport
        if transport is None or self.closed.done() or transport.get_write_buffer_size() > POST_BUFFER_MAX:
            self.dropped += 1
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append((0, name, args))

    def close(self) -> None:
        """Ends the connection; open calls raise `StoreBroken`."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def _flush(self) -> None:
        outgoing = self._outgoing
        if not outgoing:
            return
        self._outgoing = []
        transport = self._transport
        if transport is None or self.closed.done():
            return
        for start in range(0, len(outgoing), FRAME_CALLS):
            calls = outgoing[start : start + FRAME_CALLS]
            try:
                octets = frame(calls)
            except (ValueError, TypeError, OverflowError):
                self._write_singly(transport, calls)
                continue
            if len(octets) <= FRAME_MAX:
                transport.write(octets)
            else:
                self._write_singly(transport, calls)

    def _write_singly(self, transport: asyncio.Transport, calls: list[tuple[int, str, Any]]) -> None:
        """Together these calls are too long for a frame, or one cannot be put into octets: that one alone fails."""
        for call in calls:
            try:
                transport.write(frame([call]))
            except (ValueError, TypeError, OverflowError) as error:
                number, name, _ = call
                log.error("a call of %s cannot be sent: %s", name, error)
                waiting = self._open.pop(number, None)
                if waiting is not None and not waiting[0].done():
                    waiting[0].set_exception(UnitFailed(f"{name}: {error}"))

    # -- called by the loop ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hands every answer to whoever waits for it."""
        for content in self._unframer.feed(data):
            self._take(content)

    def _take(self, content: bytes) -> None:
        answers = decode_answers(content)
        waiting = self._open
        for answer in answers.answers:
            future, name = waiting.pop(answer.number)
            if future.done():
                continue
            if answer.status == OK:
                future.set_result(UNITS[name].decode_result(answer.value))
            else:
                future.set_exception(failure(answer.status, str(msgspec.msgpack.decode(answer.value))))
        if self._on_hint is not None:
            for kind, key in answers.hints:
                self._on_hint(kind, key)

    def pause_writing(self) -> None:
        """Makes new calls wait: the store is behind."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Lets them go on."""
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails every open call: it is unknown whether its unit was committed."""
        self.resume_writing()
        waiting, self._open = self._open, {}
        if not self.closed.done():
            self.closed.set_result(None)
        for future, name in waiting.values():
            if not future.done():
                future.set_exception(StoreBroken(f"the connection to the store ended during {name}"))


def failure(status: int, words: str) -> Exception:
    """The exception that stands for a status other than OK."""
    if status == FULL:
        return StoreFull(words)
    if status == FAILED:
        return UnitFailed(words)
    return StoreBroken(words)
