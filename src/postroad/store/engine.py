"""The small port between the store and a database: seven calls, one SQL dialect, three kinds of failure.

Every statement is plain SQL with `?` placeholders and runs on both engines. `store.sqlite` and `store.postgres` make
connections; nothing else on this shelf imports a database module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

Row = tuple[Any, ...]
Params = Sequence[Any]


class StatementFailed(Exception):
    """The database refused one statement (a constraint, a type, bad SQL); the connection itself is sound."""


class Connection(Protocol):
    """One connection to one database; used by one thread.

    Failures are told apart because they lead to different answers: `StatementFailed` is the unit's own fault,
    `values.errors.StoreFull` passes when there is space again, `values.errors.StoreBroken` means that what the disk
    holds is unknown until somebody checks.
    """

    def skip_locked(self, alias: str) -> str:
        """What follows a SELECT so that this transaction alone takes the rows of the table named `alias` in it; empty
        where there is only one writer."""
        ...

    @property
    def row_lock(self) -> str:
        """What follows a SELECT so that nobody else changes its rows until the end of this transaction; empty where
        there is only one writer."""
        ...

    def execute(self, sql: str, params: Params = ()) -> list[Row]:
        """Runs one statement; returns its rows, none for a statement without a result."""
        ...

    def executemany(self, sql: str, rows: Iterable[Params]) -> None:
        """Runs one statement once per row of parameters."""
        ...

    def begin(self) -> None:
        """Starts a writing transaction."""
        ...

    def commit(self) -> None:
        """Makes the transaction durable: when this returns, a power cut does not take it back."""
        ...

    def rollback(self) -> None:
        """Undoes the open transaction; without one it does nothing. Never raises for a sound connection."""
        ...

    def close(self) -> None:
        """Ends the connection, after which no call is allowed."""
        ...
