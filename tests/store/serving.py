"""A store process's loop in a thread of the test: real sockets, a real database, no process to start."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from postroad.store import folder
from postroad.store.opening import OpenStore
from postroad.store.server import Server
from postroad.values.clock import SystemClock


class ServedStore:
    """Serves a data folder until the `with` block ends; `store` may be looked at but belongs to the thread."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.store = OpenStore(data_dir)
        self._lifeline, self._end = os.pipe()
        listener = folder.listen(data_dir)
        self.server = Server(
            listener,
            self.store.writer,
            SystemClock(),
            tend=self.store.tend,
            chores=self.store.chores,
            aside=self.store.aside,
            beside=self.store.beside,
        )
        self.server.on_death = self.store.worker_died
        self.server.stop_with(self._lifeline)
        self._listener = listener
        self._thread = threading.Thread(target=self.server.serve, name="store")

    def __enter__(self) -> ServedStore:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends the loop as SIGTERM does."""
        if self._end >= 0:
            os.close(self._end)
            self._end = -1
            self._thread.join()
            os.close(self._lifeline)
            self._listener.close()
            self.store.close()

    def __exit__(self, *_: object) -> None:
        self.stop()
