"""What people do to the queue: try deliveries now, or drop them. In slices, each a unit of its own."""

from __future__ import annotations

from typing import Any, Final

from postroad.store.journal import note_events
from postroad.store.records import Record
from postroad.store.units import ROWS_PER_UNIT, Tx, unit
from postroad.values.event import Event


class Selection(Record, frozen=True):
    """Which open deliveries are meant: those that fit every condition given; `every` must be said when none is."""

    by: str
    """Who asks, for the journal."""
    message: int = 0
    delivery: int = 0
    domain: str = ""
    every: bool = False
    after: int = 0
    """Where this slice begins: 0, then the `following` of the slice before."""


class Selected(Record, frozen=True):
    """How many deliveries of this slice were touched, and where the next slice begins (0: there is none)."""

    count: int
    following: int


_FIRST: Final = "SELECT id, message, recipient FROM deliveries WHERE id > ?"


@unit
def retry_now(tx: Tx, args: Selection) -> Selected:
    """Makes deliveries due at once, except those a living worker has in its hands."""
    living = sorted(tx.live)
    rows = _chosen(tx, args, f" AND owner NOT IN ({', '.join('?' * len(living))})" if living else "", living)
    tx.executemany("UPDATE deliveries SET owner = 0, due_us = ? WHERE id = ?", [(tx.now_us, row[0]) for row in rows])
    _tell(tx, rows, "retried", args.by)
    if rows:
        tx.hint("queue")
    return _answer(rows)


@unit
def drop(tx: Tx, args: Selection) -> Selected:
    """Ends deliveries without an attempt and without a report; an attempt that runs now ends unrecorded."""
    rows = _chosen(tx, args, "", [])
    tx.executemany("DELETE FROM deliveries WHERE id = ?", [(row[0],) for row in rows])
    _tell(tx, rows, "dropped", args.by)
    for _, message, _ in rows:
        tx.release(message)
    return _answer(rows)


def _chosen(tx: Tx, args: Selection, condition: str, values: list[Any]) -> list[Any]:
    if not (args.message or args.delivery or args.domain or args.every):
        return []
    tx.flush()
    sql, params = _FIRST, [args.after]
    for column, value in (("message", args.message), ("id", args.delivery), ("domain", args.domain)):
        if value:
            sql += f" AND {column} = ?"
            params.append(value)  # type: ignore[arg-type]  # text for a domain, numbers otherwise
    sql += condition + " ORDER BY id LIMIT ?"
    return tx.execute(sql, [*params, *values, ROWS_PER_UNIT])


def _tell(tx: Tx, rows: list[Any], kind: str, by: str) -> None:
    events: dict[int, list[Event]] = {}
    for _, message, recipient in rows:
        event = Event(kind=kind, at_us=tx.now_us, recipient=recipient, by=by)
        events.setdefault(message, []).append(event)
    for message, own in events.items():
        note_events(tx, message, own)


def _answer(rows: list[Any]) -> Selected:
    return Selected(len(rows), rows[-1][0] if len(rows) == ROWS_PER_UNIT else 0)
