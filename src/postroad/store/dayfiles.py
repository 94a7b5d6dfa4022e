"""Day files: closed hours of the journal leave the database for `journal/YYYY-MM-DD.db`, where they have an index.

The live tables have none, because an index costs every message; a day file is written once, in slices, when nobody
waits. Order within a slice: copy, commit there with the disk awaited, then delete here. A crash in between leaves rows
in both places, and copying them again changes nothing, so a reader drops what it meets twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import apsw

from postroad.store import folder, syscalls
from postroad.store.engine import Row
from postroad.store.sqlite import BUSY_MS, translated
from postroad.store.units import Tx
from postroad.store.writer import Writer
from postroad.values.ports import Clock

log = logging.getLogger(__name__)

HOUR_US: Final = 3_600_000_000
SLICE: Final = 1000
"""Rows moved at once: about 10 ms, most of it the two commits."""
LOOK_EVERY_S: Final = 60.0
KEEP_DAYS: Final = 90
"""Days of journal kept; whole files are dropped."""

_SCHEMA: Final = (
    (
        "CREATE TABLE IF NOT EXISTS journal"
        " (position INTEGER PRIMARY KEY, message INTEGER NOT NULL, at_us INTEGER NOT NULL, events BLOB NOT NULL) STRICT"
    ),
    "CREATE INDEX IF NOT EXISTS journal_message ON journal (message)",
    "CREATE TABLE IF NOT EXISTS history (id INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, keys TEXT NOT NULL) STRICT",
    (
        "CREATE TABLE IF NOT EXISTS keys"
        " (key TEXT NOT NULL, message INTEGER NOT NULL, PRIMARY KEY (key, message)) STRICT, WITHOUT ROWID"
    ),
)


def day_of(at_us: int) -> date:
    """The day in UTC that a time falls on."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).date()


def day_path(data_dir: Path, day: date) -> Path:
    """Where a day's journal stands."""
    return data_dir / folder.JOURNAL / f"{day.isoformat()}.db"


def day_files(data_dir: Path) -> list[tuple[date, Path]]:
    """The day files that exist, oldest first."""
    found = []
    for path in (data_dir / folder.JOURNAL).glob("????-??-??.db"):
        try:
            found.append((date.fromisoformat(path.stem), path))
        except ValueError:
            log.warning("%s is no day of the journal", path)
    return sorted(found)


class Mover:
    """Moves closed hours into day files and drops days past their time; a chore of the store process."""

    def __init__(
        self, data_dir: Path, writer: Writer, clock: Clock, keep_days: int = KEEP_DAYS, vfs: str | None = None
    ) -> None:
        self._data_dir = data_dir
        self._writer = writer
        self._clock = clock
        self._keep_days = keep_days
        self._vfs = vfs
        self._open: tuple[date, apsw.Connection] | None = None
        self.due = 0.0

    def step(self, now: float) -> None:
        """One slice; again at once while closed hours are left, otherwise in a minute."""
        now_us = self._clock.wall_us()
        closed_us = now_us - now_us % HOUR_US
        if self._move_journal(closed_us) or self._move_history(closed_us):
            self.due = now
            return
        self.close()
        self._drop_days(day_of(now_us))
        self.due = now + LOOK_EVERY_S

    def close(self) -> None:
        """Ends the connection to the day file that was written last."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _move_journal(self, closed_us: int) -> bool:
        rows = self._closed(
            "SELECT position, message, at_us, events FROM journal ORDER BY position LIMIT ?", 2, closed_us
        )
        for day, part in by_day(rows, 2):
            self._add(day, "INSERT OR IGNORE INTO journal (position, message, at_us, events) VALUES (?, ?, ?, ?)", part)
        self._delete("journal", "position", rows)
        return len(rows) == SLICE

    def _move_history(self, closed_us: int) -> bool:
        rows = self._closed("SELECT id, at_us, keys FROM history ORDER BY id LIMIT ?", 1, closed_us)
        for day, part in by_day(rows, 1):
            keys = [(key, ident) for ident, _, lines in part for key in lines.split("\n") if key]
            self._add(day, "INSERT OR IGNORE INTO history (id, at_us, keys) VALUES (?, ?, ?)", part, keys)
        self._delete("history", "id", rows)
        return len(rows) == SLICE

    def _closed(self, sql: str, at_column: int, closed_us: int) -> list[Row]:
        """The first rows in order, up to the first that is not closed."""
        rows: list[Row] = []
        self._writer.transact(lambda tx: rows.extend(tx.execute(sql, (SLICE,))))
        for place, row in enumerate(rows):
            if row[at_column] >= closed_us:
                return rows[:place]
        return rows

    def _delete(self, table: str, column: str, rows: list[Row]) -> None:
        if not rows:
            return
        first, last = rows[0][0], rows[-1][0]

        def delete(tx: Tx) -> None:
            if table == "history":
                tx.execute("UPDATE counters SET value = ? WHERE name = 'last_id' AND value < ?", (last, last))
                # A row that was appended since with a lower id has not been copied.
                tx.executemany("DELETE FROM history WHERE id = ?", [(row[0],) for row in rows])
            else:
                tx.execute(f"DELETE FROM {table} WHERE {column} BETWEEN ? AND ?", (first, last))

        self._writer.transact(delete)

    def _add(self, day: date, sql: str, rows: list[Row], keys: list[tuple[str, int]] | None = None) -> None:
        try:
            db = self._day(day)
            with db:
                db.executemany(sql, rows)
                if keys:
                    db.executemany("INSERT OR IGNORE INTO keys (key, message) VALUES (?, ?)", keys)
        except apsw.Error as error:
            raise translated(error) from error

    def _day(self, day: date) -> apsw.Connection:
        if self._open is not None and self._open[0] == day:
            return self._open[1]
        self.close()
        path = day_path(self._data_dir, day)
        fresh = not path.exists()
        folder.make_private(path)
        db = apsw.Connection(str(path), vfs=self._vfs)
        db.set_busy_timeout(BUSY_MS)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            db.execute(f"PRAGMA {pragma}").fetchall()
        for statement in _SCHEMA:
            db.execute(statement)
        if fresh:
            syscalls.fsync_folder(path.parent)
        self._open = (day, db)
        return db

    def _drop_days(self, today: date) -> None:
        for day, path in day_files(self._data_dir):
            if day < today - timedelta(days=self._keep_days):
                for suffix in ("", "-wal", "-shm"):
                    path.with_name(path.name + suffix).unlink(missing_ok=True)
                log.info("journal of %s dropped after %d days", day, self._keep_days)


def by_day(rows: list[Row], at_column: int) -> Iterator[tuple[date, list[Row]]]:
    """Rows grouped by the day of one of their columns, each day once."""
    days: dict[date, list[Row]] = {}
    for row in rows:
        days.setdefault(day_of(row[at_column]), []).append(row)
    yield from days.items()
