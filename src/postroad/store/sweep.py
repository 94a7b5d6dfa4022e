"""Sweeping: what dead incarnations left behind is found and set right, a slice at a time.

Two sweeps. `Reclaim` gives back deliveries whose owner died during the first attempt. `Orphans` removes draft files and
durable bodies that no message names (rows S1 and S2 of docs/internals/states.md): a file of a living incarnation is
never touched, and one of a dead incarnation only when no row refers to it; the dead add no rows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from postroad.store import folder
from postroad.store.records import HELD
from postroad.store.sqlite import SqliteConnection
from postroad.store.units import Tx
from postroad.store.writer import Writer

log = logging.getLogger(__name__)

SLICE: Final = 2000
"""Rows looked at in one slice of a sweep: under 1 ms."""
NEVER: Final = float("inf")
ORPHANS_EVERY_S: Final = 3600.0
VACUUM_SLICE: Final = 256
"""Pages returned in one slice: 1 MB."""
PAGES_KEPT: Final = 16 * 1024
"""Free pages a busy queue keeps for its next messages (64 MB): returning and asking again would cost twice."""
VACUUM_EVERY_S: Final = 60.0


class Reclaim:
    """Deliveries of dead owners, made due again.

    Mail is born leased: until its first attempt is recorded its next time lies minutes ahead. When the owner dies this
    walk makes such deliveries due at once, but only those on their first attempt: a message whose attempt kills the
    worker is then tried again by the schedule and not in a loop. The rows of deferred mail are read, never written.
    """

    def __init__(self, writer: Writer) -> None:
        """Begins with a walk at once: at the start every earlier owner is dead."""
        self._writer = writer
        self._after = 0
        self.due = 0.0

    def worker_died(self, incarnation: int) -> None:
        """Begins a new walk from the first row."""
        self._after = 0
        self.due = 0.0

    def step(self, now: float) -> None:
        """One slice of the walk."""
        self._writer.transact(self._slice)

    def _slice(self, tx: Tx) -> None:
        rows = tx.execute(
            "SELECT id, owner, attempts, due_us, state FROM deliveries WHERE id > ? ORDER BY id LIMIT ?",
            (self._after, SLICE),
        )
        lost = [
            (tx.now_us, ident, owner)
            for ident, owner, attempts, due_us, state in rows
            # What was held or dropped meanwhile waits for a hand.
            if owner and owner not in tx.live and attempts <= 1 and due_us > tx.now_us and state < HELD
        ]
        if lost:
            tx.executemany("UPDATE deliveries SET owner = 0, due_us = ? WHERE id = ? AND owner = ?", lost)
            tx.hint("queue")
        if len(rows) < SLICE:
            self.due = NEVER
        else:
            self._after = rows[-1][0]


class Orphans:
    """Files in the spool that belong to nobody: looked for at the start, after a worker's death, and every hour."""

    def __init__(self, data_dir: Path, writer: Writer) -> None:
        self._data_dir = data_dir
        self._writer = writer
        self._walk: Iterator[None] | None = None
        self.due = 0.0

    def worker_died(self, incarnation: int) -> None:
        """Looks again from the beginning."""
        self._walk = None
        self.due = 0.0

    def step(self, now: float) -> None:
        """One folder; afterwards the next."""
        if self._walk is None:
            self._walk = self._folders()
        try:
            next(self._walk)
        except StopIteration:
            self._walk = None
            self.due = now + ORPHANS_EVERY_S

    def _folders(self) -> Iterator[None]:
        drafts = self._data_dir / folder.DRAFTS
        for name in self._of_the_dead(drafts):
            self._remove(drafts / name)
        for number in range(folder.BODY_FOLDERS):
            yield
            self._sweep_bodies(f"{number:02x}")

    def _sweep_bodies(self, name: str) -> None:
        bodies = self._data_dir / folder.BODIES / name
        dead = self._of_the_dead(bodies)
        if not dead:
            return
        unnamed: list[str] = []

        def look(tx: Tx) -> None:
            for each in dead:
                if not tx.execute("SELECT 1 FROM messages WHERE body_file = ?", (f"bodies/{name}/{each}",)):
                    unnamed.append(each)

        self._writer.transact(look)
        for each in unnamed:
            self._remove(bodies / each)

    def _of_the_dead(self, where: Path) -> list[str]:
        """Names of files whose incarnation is not alive, by the number they begin with."""
        live = self._writer.live
        names = []
        for name in os.listdir(where):
            number = name.partition("-")[0]
            if number.isdigit() and int(number) not in live:
                names.append(name)
        return names

    def _remove(self, path: Path) -> None:
        try:
            path.unlink()
            log.info("%s was left by a dead process and removed", path.name)
        except OSError as error:
            log.warning("%s was not removed: %s", path, error.strerror)


class GiveBack:
    """Free pages of the database, returned to the file system when there are many."""

    def __init__(self, connection: SqliteConnection) -> None:
        self._connection = connection
        self.due = 0.0

    def step(self, now: float) -> None:
        """One slice; again at once while there is much to return."""
        left = self._connection.give_back(VACUUM_SLICE, keep=PAGES_KEPT)
        self.due = now if left > PAGES_KEPT else now + VACUUM_EVERY_S
