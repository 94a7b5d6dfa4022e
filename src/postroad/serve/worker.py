"""A worker process: one event loop with every listener and its own outbound runner.

Its standard input is a pipe from the supervisor: first an errand in one JSON line, then words ("drain", "reload").
When the pipe ends, the supervisor is gone, and so is the worker. On standard output it says "ready" and then a dot
every two seconds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import msgspec

from postroad.config import Config
from postroad.serve.logs import log_line, setup_logs
from postroad.store.client import StoreClient

HEARTBEAT_S: Final = 2.0
"""A sign of life this often; the supervisor waits five of them."""

COLLECT_AFTER: Final = 20_000
"""Objects made and not yet gone before Python looks for rings among them."""

LOST_STORE: Final = 75
"""Exit status (EX_TEMPFAIL) when the store is gone: with the socket our lease ended, so nothing here is ours."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What the supervisor wants of this worker."""

    config: Config
    data_dir: Path
    number: int
    workers: int
    listeners: dict[str, list[int]]
    tally: int = -1
    """Descriptor of the memory in which all workers count their connections."""

    @classmethod
    def read(cls, line: bytes) -> Errand:
        """From the first line of standard input."""
        raw = json.loads(line)
        return cls(
            config=msgspec.convert(raw["config"], Config),
            data_dir=Path(raw["data_dir"]),
            number=raw["number"],
            workers=raw["workers"],
            listeners=raw["listeners"],
            tally=raw["tally"],
        )


class Parts(Protocol):
    """What the composition root makes of an errand."""

    store: StoreClient
    grace: float

    def reload(self) -> None:
        """Use new certificates."""
        ...

    async def drain(self, grace: float) -> None:
        """Stop listening, finish what is going on, end."""
        ...

    async def abandon(self) -> None:
        """The store is gone: promise and attempt nothing more."""
        ...


Build = Callable[[Errand], Awaitable[Parts]]


class Control(asyncio.Protocol):
    """Words from the supervisor, one a line."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._worker.told(line.decode())

    def connection_lost(self, exc: Exception | None) -> None:
        self._worker.told("orphaned")


class Worker:
    """Serves until told to drain; `run` returns the exit status."""

    def __init__(self, errand: Errand, build: Build) -> None:
        self._errand = errand
        self._build = build
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._parts: Parts | None = None

    def told(self, word: str) -> None:
        """A word from the supervisor or a signal."""
        if word == "reload":
            if self._parts is not None:  # else what is being built reads the new files anyway
                self._parts.reload()
        elif word in ("drain", "orphaned", "store lost") and not self._end.done():
            self._end.set_result(word)

    async def run(self) -> int:
        """Build everything, serve, drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.told, "drain")
        await loop.connect_read_pipe(lambda: Control(self), os.fdopen(0, "rb", buffering=0))
        self._parts = parts = await self._build(self._errand)
        parts.store.closed.add_done_callback(lambda _: self.told("store lost"))
        # What stands now stands as long as the worker, and what a session leaves behind forms no rings.
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, 20, 20)
        beat = loop.create_task(self._beat())
        word = await self._end
        if word == "store lost":
            log_line("error", "the store is gone: this worker ends and is started again")
            await parts.abandon()
            return LOST_STORE
        await parts.drain(0.0 if word == "orphaned" else parts.grace)
        beat.cancel()
        return 0

    async def _beat(self) -> None:
        say(b"ready\n")
        while True:
            say(b".")
            await asyncio.sleep(HEARTBEAT_S)


def say(sign: bytes) -> None:
    """Write a sign of life; a pipe nobody reads any more is found out by its other end."""
    try:
        os.write(1, sign)
    except OSError:
        return


def adopt(listeners: dict[str, list[int]]) -> dict[str, list[socket.socket]]:
    """The inherited descriptors as sockets."""
    return {service: [socket.socket(fileno=fd) for fd in fds] for service, fds in listeners.items()}


def main(build: Build) -> int:
    """Run a worker process from its errand on standard input to its end; returns the exit status."""
    line = b""
    while not line.endswith(b"\n"):  # byte by byte: what follows belongs to the event loop
        byte = os.read(0, 1)
        if not byte:
            return 0
        line += byte
    errand = Errand.read(line)
    lines = setup_logs(errand.config.log, f"worker-{errand.number}")
    try:
        return run_loop(errand, build)
    finally:
        lines.close()


def run_loop(errand: Errand, build: Build) -> int:
    """Run a worker on uvloop, or on plain asyncio where uvloop is absent."""

    async def work() -> int:
        return await Worker(errand, build).run()

    try:
        import uvloop
    except ImportError:
        return asyncio.run(work())
    return uvloop.run(work())
