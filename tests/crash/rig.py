"""A whole server in one process: the store's loop in a thread, a real worker on the loop of the test, real sockets.

It starts in a tenth of a second, so that a run can be repeated for every call that may fail.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from postroad.app.worker import Parts, build_worker
from postroad.config.load import load
from postroad.serve.worker import Errand
from postroad.store import folder
from postroad.store.opening import OpenStore
from postroad.store.server import Server
from postroad.values.clock import SystemClock
from postroad.values.errors import StoreBroken, StoreFull
from tests.crash.scene import REMOTE, USERS, make_server
from tests.fakes.ledger import Ledger
from tests.fakes.sink import CALM, Sink
from tests.live import LiveServer


class StoreThread:
    """The store process's parts in a thread; raises what opening raises."""

    def __init__(self, data_dir: Path, vfs: str | None = None) -> None:
        self.store = OpenStore(data_dir, vfs=vfs)
        self._lifeline, self._end = os.pipe()
        self._listener = folder.listen(data_dir)
        store = self.store
        self.server = Server(
            self._listener, store.writer, SystemClock(), tend=store.tend, chores=store.chores, aside=store.aside
        )
        self.server.on_death = store.worker_died
        self.server.stop_with(self._lifeline)
        self._thread = threading.Thread(target=self.server.serve, name="store")
        self._thread.start()

    def stop(self) -> None:
        """End as the process does at SIGTERM; raises what closing raises."""
        os.close(self._end)
        self._thread.join()
        os.close(self._lifeline)
        self._listener.close()
        try:
            self.store.close()
        except (StoreBroken, StoreFull):
            # The process would end here, and the kernel would let go of what it held.
            with suppress(StoreBroken, StoreFull):
                self.store.connection.close()
            os.close(self.store._lock)
            raise


@dataclass
class Template:
    """A data folder with its users, copied for every run, and the configuration that goes with it."""

    server: LiveServer
    sinks: list[Sink]

    @classmethod
    async def make(cls, where: Path) -> Template:
        """Makes the folder by the command line; the sinks are started and calm."""
        nobody = Ledger()
        sinks = [await Sink(nobody, number, CALM).__aenter__() for number in range(len(REMOTE))]
        where.mkdir()
        server = await asyncio.to_thread(make_server, where, sinks)
        await asyncio.to_thread(server.start)  # makes the certificate
        await asyncio.to_thread(server.stop)
        return cls(server, sinks)

    async def close(self) -> None:
        """Stops the sinks."""
        for sink in self.sinks:
            await sink.__aexit__()

    def copy_to(self, where: Path) -> Path:
        """A fresh data folder."""
        shutil.copytree(self.server.data_dir, where, ignore=shutil.ignore_patterns("store.sock"))
        return where

    def written_to(self, ledger: Ledger) -> None:
        """From now on the sinks write into this ledger."""
        for sink in self.sinks:
            sink.ledger = ledger


class InProcess:
    """A worker and its store on a data folder."""

    def __init__(self, template: Template, data_dir: Path, vfs: str | None = None) -> None:
        self.data_dir = data_dir
        self._template = template
        self.store = StoreThread(data_dir, vfs)
        self.parts: Parts | None = None
        self.port = 0
        self.pop3 = 0

    async def start(self) -> None:
        """Build the worker; raises what its parts raise."""
        config = load(self._template.server.config_file)
        tls = self._template.server.data_dir / "tls"
        config = config.with_tls(str(tls / "self-signed.pem"), str(tls / "self-signed.key"))
        config = msgspec.structs.replace(config, data_dir=str(self.data_dir))
        doors = {service: socket.create_server(("127.0.0.1", 0)) for service in ("mx", "pop3")}
        self.port, self.pop3 = (door.getsockname()[1] for door in doors.values())
        for door in doors.values():
            door.setblocking(False)
        listeners = {service: [door.detach()] for service, door in doors.items()}
        self.parts = await build_worker(Errand(config, self.data_dir, 0, 1, listeners))

    async def stop(self) -> None:
        """Drain the worker, then end the store; raises what closing the store raises."""
        if self.parts is not None:
            await self.parts.drain(0.2)
            await asyncio.sleep(0)
        await asyncio.to_thread(self.store.stop)

    async def idle(self, patience: float) -> bool:
        """Wait until nothing is open in the worker; False when that takes longer."""
        assert self.parts is not None
        end = time.monotonic() + patience
        while self.parts.runner.in_flight or self._queued():
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.005)
        return True

    def _queued(self) -> int:
        assert self.parts is not None
        [(count,)] = self.parts.reader.rows_now("SELECT count(*) FROM deliveries")
        return int(count)


__all__ = ["InProcess", "StoreThread", "Template", "USERS"]
