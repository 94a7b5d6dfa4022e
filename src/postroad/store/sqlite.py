"""SQLite behind the engine port, through apsw alone: its wheel carries a current library (the system's may be one with
the WAL-reset corruption bug, and one file must never be open through two libraries).

The file is in WAL mode with `synchronous=FULL`: every COMMIT waits for the disk. Nothing checkpoints by itself; the
store process calls `SqliteConnection.tend` between two batches, so no commit ever pays for one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import apsw

from postroad.store.engine import Params, Row, StatementFailed
from postroad.values.errors import StoreBroken, StoreFull

log = logging.getLogger(__name__)

PAGE_SIZE: Final = 4096
"""Octets. A 5 kB message fills one overflow page and a third of another; larger pages write more per commit."""

CACHE_KIB: Final = 32 * 1024
"""The writer's page cache: the open queue of a busy machine, about 10,000 messages."""

READER_CACHE_KIB: Final = 4 * 1024
"""A worker's page cache; the kernel holds the rest."""

WAL_MAX: Final = 32 * 1024 * 1024
"""Octets of log after which the next pause between batches checkpoints: mail that came and went in between costs the
main file nothing, and a restart reads this much at most twice."""

WAL_KEPT: Final = 2 * WAL_MAX
"""Octets the log's file keeps when it starts again from its beginning: a backup may have made it much longer."""

BUSY_MS: Final = 5000
"""How long a statement waits for another process; only the command line and backups ever stand in the way."""

STATEMENTS: Final = 256
"""Prepared statements kept per connection: more than the store has."""


_NO_VALUE: Final = (TypeError, ValueError, OverflowError)
"""What a value raises that no column can hold: a lone surrogate, 2^63."""
_FAILURES: Final = (apsw.Error, OSError, *_NO_VALUE)


class SqliteConnection:
    """The writing connection. Raises what `engine.Connection` says; after `StoreBroken` it must not be used again."""

    __slots__ = ("_checkpoint_at", "_db", "_in_wal", "_run")

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        """Opens or creates the file; `vfs` names a registered apsw VFS, through which every octet then goes."""
        try:
            self._db = apsw.Connection(str(path), vfs=vfs, statementcachesize=STATEMENTS)
            self._run = self._db.execute
            self._in_wal = 0
            self._checkpoint_at = WAL_MAX // PAGE_SIZE
            self._prepare()
        except (apsw.Error, OSError) as error:
            raise translated(error) from error

    def _prepare(self) -> None:
        self._db.set_busy_timeout(BUSY_MS)
        # Page size and auto_vacuum only take effect while the file is empty.
        for pragma in (
            f"page_size={PAGE_SIZE}",
            "auto_vacuum=INCREMENTAL",
            "journal_mode=WAL",
            "synchronous=FULL",
            "wal_autocheckpoint=0",
            "foreign_keys=ON",
            "temp_store=MEMORY",
            f"cache_size=-{CACHE_KIB}",
            f"journal_size_limit={WAL_KEPT}",
        ):
            self._run(f"PRAGMA {pragma}").fetchall()
        self._db.set_wal_hook(self._count_wal)

    def _count_wal(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._in_wal = pages
        return apsw.SQLITE_OK

    row_lock: Final = ""

    def skip_locked(self, alias: str) -> str:
        """Nothing: there is one writer."""
        return ""

    def execute(self, sql: str, params: Params = ()) -> list[Row]:
        """See `engine.Connection.execute`."""
        try:
            return self._run(sql, params).fetchall()
        except _FAILURES as error:
            raise translated(error) from error

    def executemany(self, sql: str, rows: Iterable[Params]) -> None:
        """See `engine.Connection.executemany`."""
        try:
            self._db.executemany(sql, rows)
        except _FAILURES as error:
            raise translated(error) from error

    def begin(self) -> None:
        """Takes the write lock at once, so that nothing later in the transaction can be turned away as busy."""
        self.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Writes the log and waits for the disk."""
        self.execute("COMMIT")

    def rollback(self) -> None:
        """Undoes the open transaction, if SQLite has not already done so itself."""
        if self._db.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        """Checkpoints what is left and ends the connection."""
        try:
            self._db.close()
        except (apsw.Error, OSError) as error:
            raise translated(error) from error

    # -- housekeeping, called between batches ------------------------------------------------------------------------

    def tend(self, *, idle: bool) -> None:
        """Checkpoints when the log has grown past `WAL_MAX`, or past an eighth of it when nobody waits.

        One that could not be finished, because a reader still needs what is in the log or the disk is full, is not
        tried again before the log has grown by another eighth: each try waits for the disk twice.
        Raises `StoreBroken`: a checkpoint that failed may have torn the main file, and only a check can tell.
        """
        step = (WAL_MAX >> 3) // PAGE_SIZE
        if self._in_wal <= (min(step, self._checkpoint_at) if idle else self._checkpoint_at):
            return
        try:
            finished = self.checkpoint()
        except StoreFull as error:
            log.warning("the log stays long: %s", error)
            finished = False
        self._checkpoint_at = WAL_MAX // PAGE_SIZE if finished else self._in_wal + step

    def checkpoint(self, *, truncate: bool = False) -> bool:
        """Copies the log into the main file, and says whether all of it; `truncate` also empties it and waits for
        readers."""
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if truncate else apsw.SQLITE_CHECKPOINT_PASSIVE
        try:
            in_log, copied = self._db.wal_checkpoint(mode=mode)
        except apsw.BusyError:
            return False
        except (apsw.Error, OSError) as error:
            raise translated(error) from error
        if copied < in_log:
            return False
        self._in_wal = 0
        return True

    def give_back(self, pages: int, *, keep: int) -> int:
        """Returns up to `pages` free pages to the file system while more than `keep` are free; returns how many are."""
        free = int(self.execute("PRAGMA freelist_count")[0][0])
        if free > keep:
            self.execute(f"PRAGMA incremental_vacuum({min(pages, free - keep)})")
        return free

    def copy_to(self, path: Path) -> None:
        """A consistent copy of the whole database as a new file, taken while others go on reading."""
        self.execute("VACUUM INTO ?", (str(path),))

    def check(self) -> list[str]:
        """What SQLite itself finds wrong with the file; empty when it is sound."""
        found = [str(row[0]) for row in self.execute("PRAGMA integrity_check(100)")]
        return [] if found == ["ok"] else found


def open_reader(path: Path, *, vfs: str | None = None) -> apsw.Connection:
    """A read-only connection; raises `StoreBroken` when there is no such database."""
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs, statementcachesize=STATEMENTS)
        db.set_busy_timeout(BUSY_MS)
        db.execute(f"PRAGMA cache_size=-{READER_CACHE_KIB}").fetchall()
    except (apsw.Error, OSError) as error:
        raise translated(error) from error
    return db


_UNITS_OWN: Final = (apsw.ConstraintError, apsw.SQLError, apsw.MismatchError, apsw.TooBigError, apsw.RangeError)


def translated(error: Exception) -> Exception:
    """The store's word for an error of apsw or of a file system in Python: see `engine.Connection`."""
    if isinstance(error, apsw.FullError):
        return StoreFull(str(error))
    if isinstance(error, (*_UNITS_OWN, *_NO_VALUE)):
        return StatementFailed(str(error))
    return StoreBroken(f"{type(error).__name__}: {error}")
