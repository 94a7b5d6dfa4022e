"""What was refused, in a file of its own: `refusals.db`, written without waiting for the disk.

Nothing of ours depends on a refusal, so a power cut may take the last ones, and an attacker who is refused a thousand
times a second costs neither a commit nor a row each: above `PER_SOURCE` of one source in one minute they are counted,
and the count becomes one row when the minute is over.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import apsw
import msgspec

from postroad.store.records import Refusal
from postroad.store.sqlite import BUSY_MS, translated
from postroad.values.event import Event, pack

log = logging.getLogger(__name__)

PER_SOURCE: Final = 20
"""Refusals of one source written down singly in one minute."""
SOURCES_MAX: Final = 10_000
"""Sources counted in one minute; a flood from more is written down as one source, "elsewhere"."""
MINUTE_US: Final = 60_000_000
WAIT_S: Final = 0.5
"""How long a refusal may wait to be written."""
KEEP_US: Final = 7 * 86_400_000_000
"""Refusals are kept for a week: long enough to be asked about, too short to fill a disk."""
DELETE_SLICE: Final = 1000

_SCHEMA: Final = (
    (
        "CREATE TABLE IF NOT EXISTS refusals"
        " (reference INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, times INTEGER NOT NULL,"
        " source TEXT NOT NULL, why TEXT NOT NULL, keys TEXT NOT NULL, events BLOB NOT NULL) STRICT"
    ),
    "CREATE INDEX IF NOT EXISTS refusals_at ON refusals (at_us)",
    "CREATE INDEX IF NOT EXISTS refusals_source ON refusals (source, at_us)",
)
_INSERT: Final = (
    "INSERT OR IGNORE INTO refusals (reference, at_us, times, source, why, keys, events) VALUES (?, ?, ?, ?, ?, ?, ?)"
)

_decode: Final = msgspec.msgpack.Decoder(Refusal).decode


class Refusals:
    """The writing side, a chore of the store process. A failure to write is logged and costs only the rows."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file; raises `StoreBroken`."""
        try:
            self._db = apsw.Connection(str(path))
            self._db.set_busy_timeout(BUSY_MS)
            for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=NORMAL"):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            for statement in _SCHEMA:
                self._db.execute(statement)
        except apsw.Error as error:
            raise translated(error) from error
        self._rows: list[tuple[int, int, int, str, str, str, bytes]] = []
        self._minute = 0
        self._counts: dict[str, int] = {}
        self._more: dict[str, tuple[int, Refusal]] = {}
        self._gathering = False
        self.due = float("inf")
        """Monotonic time of the next write: soon after the first refusal that waits, otherwise never."""

    def take(self, args: msgspec.Raw) -> None:
        """Takes a refusal from the socket; one that cannot be decoded is dropped with a log line."""
        try:
            self.add(_decode(args))
        except msgspec.DecodeError as error:
            log.error("a refusal was not understood: %s", error)

    def add(self, refusal: Refusal) -> None:
        """Keeps a refusal until the next write, or only counts it."""
        minute = refusal.at_us // MINUTE_US
        if minute != self._minute:
            self._close_minute()
            self._minute = minute
        source = refusal.source
        count = self._counts.get(source, 0) + 1
        if count == 1 and len(self._counts) >= SOURCES_MAX:
            source = "elsewhere"
            count = self._counts.get(source, 0) + 1
        self._counts[source] = count
        if count > PER_SOURCE:
            self._more[source] = (count - PER_SOURCE, refusal)
        else:
            self._rows.append((refusal.reference, refusal.at_us, 1, source, refusal.why, refusal.keys, refusal.events))
        if self._rows and not self._gathering:
            self._gathering = True
            self.due = 0.0

    def _close_minute(self) -> None:
        """Turns what was only counted into one row per source, under the reference of the last one."""
        for source, (times, last) in self._more.items():
            cause = f"{times} more refusals from {source} in this minute, written down as one"
            events = pack([Event(kind="refused", at_us=last.at_us, cause=cause, by=last.why)])
            self._rows.append((last.reference, last.at_us, times, source, last.why, last.keys, events))
        self._counts.clear()
        self._more.clear()

    def step(self, now: float) -> None:
        """Writes what waits; called as a chore. After the first refusal it lets `WAIT_S` pass, to gather more; a
        minute with more than `PER_SOURCE` of one source is closed a minute later, also when nobody calls again."""
        if self.due == 0.0:
            self.due = now + WAIT_S
            return
        if not self._gathering:
            self._close_minute()
        self._gathering = False
        self.flush()
        self.due = now + 60.0 if self._more else float("inf")

    def flush(self) -> None:
        """Writes what waits now."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        try:
            with self._db:
                self._db.executemany(_INSERT, rows)
                self._forget(rows[-1][1] - KEEP_US)
        except apsw.Error as error:
            log.error("%d refusals were not written down: %s", len(rows), error)

    def _forget(self, before_us: int) -> None:
        self._db.execute(
            "DELETE FROM refusals WHERE reference IN"
            " (SELECT reference FROM refusals WHERE at_us < ? ORDER BY at_us LIMIT ?)",
            (before_us, DELETE_SLICE),
        )

    def close(self) -> None:
        """Writes what waits, counts included, and ends the connection."""
        self._close_minute()
        self.flush()
        self._db.close()
