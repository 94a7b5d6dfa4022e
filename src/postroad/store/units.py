"""Units: the named functions that change the store, and the transaction they are given.

The contract of a unit, which the writer relies on:
- it changes the database through its `Tx` and has no effect outside the transaction; what must happen outside
  (unlinking a file) is left with the `Tx` and happens after the commit;
- it may run twice, because a failed batch is rolled back and its units run again;
- it touches at most `ROWS_PER_UNIT` rows, so that nobody waits long behind it; larger jobs are several units;
- rows it only adds are left with `Tx.append` and reach the database as one statement per table at the end of the batch.

A module declares its tables and units like this:

    FLAGS = Table("flags", "message flag set_us")

    @unit
    def set_flag(tx: Tx, args: SetFlag) -> None:
        tx.append(FLAGS, (args.message, args.flag, tx.now_us))

and its name stands in `MODULES`, by which every process knows every unit.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar, get_type_hints

import msgspec

from postroad.store.engine import Connection, Params, Row
from postroad.values.ids import IdMaker

ROWS_PER_UNIT: Final = 500
"""What one unit may touch: about 5 ms of the writer's time. Accepting one message with more recipients is exempt."""

MODULES: Final = [
    "queue", "actions", "amendments", "sites", "journal", "register", "accounts", "credentials", "dkim", "gateways",
    "mailbox", "pop", "pop_lock", "tls", "suspensions", "grants", "shares",
]  # fmt: skip
"""Modules of this package that declare units; `load_units` imports them."""

A = TypeVar("A")
R = TypeVar("R")


class Withdrawn(Exception):
    """Raised by a unit that finds, after it began, that nothing of it may happen: a guard said no.

    The transaction is rolled back and the rest of the batch runs again; `result` goes to the unit's caller as a normal
    result. For guards that rarely fail: a unit that can look first should look first.
    """

    def __init__(self, result: Any) -> None:
        super().__init__("withdrawn")
        self.result = result


class Table:
    """A table that units append to: its name, and its columns in the order of the appended tuples.

    `order` sorts the tables of one flush, so that a row stands before those that refer to it: messages 0, all others 50
    unless they say otherwise. `holds` names the column, if any, by which a row keeps a message alive.
    """

    __slots__ = ("columns", "holds", "insert", "name", "order")

    def __init__(self, name: str, columns: str, *, order: int = 50, holds: str = "") -> None:
        self.name = name
        self.columns = tuple(columns.split())
        self.order = order
        self.holds = holds
        marks = ", ".join("?" * len(self.columns))
        self.insert = f"INSERT INTO {name} ({', '.join(self.columns)}) VALUES ({marks})"
        if holds:
            HOLDERS[name] = holds
            _DELETE_UNHELD.clear()

    def __repr__(self) -> str:
        return f"Table({self.name})"


HOLDERS: Final[dict[str, str]] = {}
"""Tables whose rows keep a message alive, with the column that names it; each has an index on that column."""

_DELETE_UNHELD: Final[dict[int, str]] = {}
"""By number of ids: the statement that deletes those of them that no holder names."""


class Tx:
    """One writing transaction, shared by all units of a batch.

    Invariant: until `flush`, appended rows are in no table; a unit that must read what it or an earlier unit of the
    batch appended calls `flush` first. `owner` is the caller of the unit that runs now.
    """

    __slots__ = (
        "_after",
        "_connection",
        "_hints",
        "_ids",
        "_next_position",
        "_released",
        "_rows",
        "changed",
        "live",
        "now_us",
        "owner",
        "veil",
    )

    def __init__(
        self,
        connection: Connection,
        now_us: int,
        live: frozenset[int],
        ids: IdMaker,
        first_position: int = 0,
        veil: tuple[int, int] = (0, 0),
    ) -> None:
        self._connection = connection
        self.now_us = now_us
        """Wall time of the batch."""
        self.owner = 0
        """Incarnation of the caller; 0 for the command line and the store itself."""
        self.live = live
        """Incarnations whose workers are alive: a delivery owned by any other is free."""
        self.veil = veil
        """Due times between these two are past only because the clock was set."""
        self._rows: dict[Table, list[Row]] = {}
        self._hints: dict[tuple[str, int], None] = {}
        self._after: list[Callable[[], None]] = []
        self._released: set[int] = set()
        self._next_position = first_position
        self._ids = ids
        self.changed = False
        """Whether there is anything to commit: a batch that only looked does not wait for the disk."""

    def skip_locked(self, alias: str) -> str:
        """What follows a SELECT whose rows of `alias` this transaction alone may take (see `engine.Connection`)."""
        return self._connection.skip_locked(alias)

    @property
    def row_lock(self) -> str:
        """What follows a SELECT whose rows no other writer may change before this transaction ends."""
        return self._connection.row_lock

    def append(self, table: Table, row: Row) -> None:
        """Adds a row at the end of the batch; its values stand in the order of `table.columns`."""
        self.changed = True
        rows = self._rows.get(table)
        if rows is None:
            self._rows[table] = [row]
        else:
            rows.append(row)

    def execute(self, sql: str, params: Params = ()) -> list[Row]:
        """Runs one statement now and returns its rows: reads and guarded updates.

        "UPDATE ... WHERE used + ? <= quota RETURNING uid": no row back means the guard said no.
        """
        if not sql.startswith("SELECT"):
            self.changed = True
        return self._connection.execute(sql, params)

    def executemany(self, sql: str, rows: Iterable[Params]) -> None:
        """Runs one statement now for each row of parameters."""
        self.changed = True
        self._connection.executemany(sql, rows)

    def flush(self) -> None:
        """Brings all appended rows into their tables, one statement per table."""
        rows = self._rows
        if not rows:
            return
        self._rows = {}
        connection = self._connection
        for table in sorted(rows, key=_order) if len(rows) > 1 else rows:
            connection.executemany(table.insert, rows[table])

    def hint(self, kind: str, key: int = 0) -> None:
        """Tells every connected client after the commit that something changed: ("mailbox", 7), ("queue", 0)."""
        self._hints[kind, key] = None

    def after_commit(self, call: Callable[[], None]) -> None:
        """Leaves an effect outside the transaction for after its commit; it must not raise."""
        self._after.append(call)

    def release(self, message: int) -> None:
        """Says that a message may have lost the last row that kept it; call it after deleting such a row.

        At the end of the batch messages that nothing holds any more are deleted, and their body files after the commit.
        """
        self._released.add(message)

    def position(self) -> int:
        """The next place in the journal: the writer's number above the count of what it wrote."""
        position = self._next_position
        self._next_position = position + 1
        return position

    def make_id(self) -> int:
        """A fresh id of the writer's own, for rows that no worker named."""
        return self._ids.make(self.now_us)

    # -- for the writer ----------------------------------------------------------------------------------------------

    def finish(self) -> list[str]:
        """Flushes, deletes released messages that nothing holds; returns their body files, due after the commit."""
        self.flush()
        if not self._released:
            return []
        released = sorted(self._released)
        self._released = set()
        files: list[str] = []
        for start in range(0, len(released), ROWS_PER_UNIT):
            files += self._delete_unheld(released[start : start + ROWS_PER_UNIT])
        return files

    def _delete_unheld(self, messages: list[int]) -> list[str]:
        # Counts are padded to a power of two, so that few different statements are ever prepared.
        width = 1 << (len(messages) - 1).bit_length()
        padded = messages + messages[-1:] * (width - len(messages))
        sql = _DELETE_UNHELD.get(width)
        if sql is None:
            held = "".join(
                f" AND NOT EXISTS (SELECT 1 FROM {table} WHERE {table}.{column} = messages.id)"
                for table, column in sorted(HOLDERS.items())
            )
            marks = ", ".join("?" * width)
            sql = f"DELETE FROM messages WHERE id IN ({marks}){held} RETURNING body_file"
            _DELETE_UNHELD[width] = sql
        lock = self._connection.row_lock
        if lock:
            # Two writers that each end one of the last two deliveries see the other's still standing; the second to
            # get the row looks again after the first has committed.
            marks = ", ".join("?" * len(messages))
            self._connection.execute(f"SELECT id FROM messages WHERE id IN ({marks}) ORDER BY id{lock}", messages)
        return [file for (file,) in self._connection.execute(sql, padded) if file]

    def hints(self) -> list[tuple[str, int]]:
        """What the units of this batch hinted, each once, in order."""
        return list(self._hints)

    def effects(self) -> list[Callable[[], None]]:
        """What the units left for after the commit, in order."""
        return self._after

    def next_position(self) -> int:
        """Where the next transaction goes on in the journal."""
        return self._next_position


def _order(table: Table) -> int:
    return table.order


class Unit:
    """A registered unit: its name on the socket, its function, and the types that cross the socket."""

    __slots__ = ("decode", "decode_result", "name", "run")

    def __init__(self, run: Callable[[Tx, Any], Any], args: Any, result: Any) -> None:
        self.name: str = run.__name__
        self.run = run
        self.decode: Callable[[msgspec.Raw | bytes], Any] = msgspec.msgpack.Decoder(args).decode
        self.decode_result: Callable[[msgspec.Raw | bytes], Any] = msgspec.msgpack.Decoder(result).decode


UNITS: Final[dict[str, Unit]] = {}


def unit(function: Callable[[Tx, A], R]) -> Callable[[Tx, A], R]:
    """Registers `(tx, args) -> result` under its own name; both types must be msgspec structs, lists, text or numbers.

    The function itself is returned unchanged, so that one unit can call another inside the same transaction.
    """
    hints = get_type_hints(function)
    result = hints.pop("return")
    args = [hint for name, hint in hints.items() if name != "tx"]
    if len(args) != 1 or hints.get("tx") is not Tx:
        raise TypeError(f"unit {function.__name__} must look like (tx: Tx, args: SomeRecord) -> SomeRecord | None")
    registered = Unit(function, args[0], result)
    if registered.name in UNITS:
        raise TypeError(f"two units are named {registered.name}")
    UNITS[registered.name] = registered
    return function


def load_units() -> None:
    """Imports every module of this package that declares units; a process that runs units calls it first."""
    for name in MODULES:
        importlib.import_module(f"postroad.store.{name}")
