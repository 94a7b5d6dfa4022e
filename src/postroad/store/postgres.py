"""PostgreSQL behind the engine port, through psycopg (the `postgres` extra). Version 15 or later.

Statements are written once, in SQLite's words with `?`; placeholders are turned into psycopg's and cached. The server
must be set to `synchronous_commit = on` or stronger, which is its default: COMMIT then returns after the disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, cast

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from postroad.store.engine import Params, Row, StatementFailed
from postroad.values.errors import StoreBroken, StoreFull

STATEMENTS: Final = 512
"""Translated statements kept: more than the store has."""


_FAILURES: Final = (psycopg.Error, TypeError, ValueError, OverflowError)
"""What a statement raises; those that are not psycopg's come from values no column can hold."""


class PostgresConnection:
    """One connection. Raises what `engine.Connection` says."""

    __slots__ = ("_db",)

    def __init__(self, dsn: str) -> None:
        try:
            self._db = psycopg.connect(dsn, autocommit=True, prepare_threshold=2)
        except psycopg.Error as error:
            raise translated(error) from error

    row_lock: Final = " FOR UPDATE"

    def skip_locked(self, alias: str) -> str:
        """Locks the rows of `alias` that are read, and passes over those another writer has locked."""
        return f" FOR UPDATE OF {alias} SKIP LOCKED"

    def execute(self, sql: str, params: Params = ()) -> list[Row]:
        """See `engine.Connection.execute`."""
        try:
            cursor = self._db.execute(cast(Any, placeholders(sql)), params or None)
            return cursor.fetchall() if cursor.description else []
        except _FAILURES as error:
            raise translated(error) from error

    def executemany(self, sql: str, rows: Iterable[Params]) -> None:
        """See `engine.Connection.executemany`; the rows travel in one pipeline."""
        try:
            with self._db.cursor() as cursor:
                cursor.executemany(cast(Any, placeholders(sql)), rows)
        except _FAILURES as error:
            raise translated(error) from error

    def begin(self) -> None:
        """Starts a transaction; rows are locked as they are written, by their own order."""
        self.execute("BEGIN")

    def commit(self) -> None:
        """Returns when the server says that its log is on disk."""
        self.execute("COMMIT")

    def rollback(self) -> None:
        """Undoes the open transaction, also one that the server has already given up."""
        if self._db.info.transaction_status != TransactionStatus.IDLE:
            self.execute("ROLLBACK")

    def close(self) -> None:
        """Ends the connection."""
        self._db.close()


@lru_cache(STATEMENTS)
def placeholders(sql: str) -> str:
    """The statement with psycopg's placeholders; no statement of the store has a question mark in a literal."""
    return sql.replace("%", "%%").replace("?", "%s") if "?" in sql else sql


def translated(error: Exception) -> Exception:
    """The store's word for an error of psycopg: see `engine.Connection`."""
    words = f"{type(error).__name__}: {str(error).strip()}"
    if isinstance(error, errors.DiskFull):
        return StoreFull(words)
    if isinstance(error, (errors.SerializationFailure, errors.DeadlockDetected)):
        return StatementFailed(words)
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return StoreBroken(words)
    return StatementFailed(words)
