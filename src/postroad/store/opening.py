"""A data folder opened for writing: lock, database, writer and housekeeping, for the store process and for the
command line when no store process runs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from postroad.store import folder
from postroad.store.actions import Finishing
from postroad.store.clock_steps import KeptWaits
from postroad.store.dayfiles import Mover
from postroad.store.dkim import MissingKeys
from postroad.store.grants import Authority
from postroad.store.mailbox_sweep import MailboxSweep
from postroad.store.migrate import migrate
from postroad.store.refusals import Refusals
from postroad.store.server import Chore
from postroad.store.sites import ForgottenSites
from postroad.store.sqlite import SqliteConnection
from postroad.store.submissions import Forgetting
from postroad.store.sweep import GiveBack, Orphans, Reclaim
from postroad.store.units import load_units
from postroad.store.writer import Writer
from postroad.values.clock import SystemClock
from postroad.values.ports import Clock

log = logging.getLogger(__name__)


class OpenStore:
    """Everything that writes in one data folder. Raises `StoreLocked`, `WrongUser`, `StoreBroken` or OSError."""

    def __init__(self, data_dir: Path, *, vfs: str | None = None, clock: Clock | None = None) -> None:
        load_units()
        clock = clock or SystemClock()
        folder.prepare(data_dir)
        self._data_dir = data_dir
        self._lock = folder.lock(data_dir)
        try:
            folder.make_private(data_dir / folder.DATABASE)
            folder.make_private(data_dir / folder.REFUSALS)
            self.connection = SqliteConnection(data_dir / folder.DATABASE, vfs=vfs)
            migrate(self.connection, clock.wall_us())
            self.writer = Writer(self.connection, remove_body=self.remove_body, clock=clock)
        except BaseException:
            os.close(self._lock)
            raise
        self.refusals = Refusals(data_dir / folder.REFUSALS)
        reclaim, orphans = Reclaim(self.writer), Orphans(data_dir, self.writer)
        self._mover = Mover(data_dir, self.writer, clock, vfs=vfs)
        self._sweeps = (reclaim, orphans)
        self._authority = Authority(clock, lambda kind: self.writer.hints.append((kind, 0)))
        self.chores: list[Chore] = [
            self.refusals,
            KeptWaits(self.writer),
            reclaim,
            orphans,
            self._mover,
            MailboxSweep(self.writer),
            Forgetting(self.writer),
            Finishing(self.writer),
            ForgottenSites(self.writer),
            GiveBack(self.connection),
            self._authority,
            MissingKeys(self.connection, self.writer, clock),
        ]
        self.aside: dict[str, Callable[[msgspec.Raw], None]] = {
            "refuse": self.refusals.take,
            "break_off": self._break_off,
        }
        self.beside: dict[str, Callable[[int, Any], Any]] = {"lease": self._authority.ask}

    def worker_died(self, incarnation: int) -> None:
        """Begins to set right what a dead worker left."""
        for sweep in self._sweeps:
            sweep.worker_died(incarnation)
        self._authority.died(incarnation)

    def _break_off(self, why: msgspec.Raw) -> None:
        """A worker's disk failed to keep a body: nobody writes any more."""
        self.writer.break_off(str(msgspec.msgpack.decode(why)))

    def remove_body(self, name: str) -> None:
        """Unlinks a body file after the commit that ended its message; one that stays is swept later."""
        try:
            os.unlink(self._data_dir / folder.SPOOL / name)
        except OSError as error:
            log.warning("body file %s was not removed: %s", name, error.strerror)

    def tend(self, idle: bool) -> None:
        """Between two batches: checkpoints when it is time."""
        self.connection.tend(idle=idle)

    def close(self) -> None:
        """Empties the log into the main file and lets go of the folder."""
        self._mover.close()
        self.refusals.close()
        if not self.writer.broken:
            self.connection.checkpoint(truncate=True)
        self.connection.close()
        os.close(self._lock)
