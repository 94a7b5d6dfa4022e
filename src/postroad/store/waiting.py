"""One message of the queue as people read it: its envelope, and each delivery that is still open."""

from __future__ import annotations

from typing import Final, NamedTuple

from postroad.store.reader import Reader
from postroad.store.records import NEVER_US
from postroad.store.selection import Chosen, Selection, pages

DELIVERIES_SHOWN: Final = 1000
"""Deliveries of one message that are read at a time; the rest is counted."""


class Envelope(NamedTuple):
    """What is known of a message that waits."""

    id: int
    sender: str
    login: str
    size: int
    received_us: int
    expires_us: int
    ret: str
    envid: str
    smtputf8: bool
    eightbit: bool
    deliveries: int
    """Open ones."""


class Action(NamedTuple):
    """Something that somebody did to the queue."""

    number: int
    at_us: int
    what: str
    by: str
    selection: str
    detail: str
    deliveries: int
    until_us: int
    """Until when it can be taken back; 0: it is final."""
    undone: bool


def envelope(reader: Reader, message: int) -> Envelope | None:
    """The message; None when it is finished or never was."""
    rows = reader.rows_now(
        "SELECT id, sender, login, size, received_us, expires_us, ret, envid, smtputf8, eightbit,"
        " (SELECT count(*) FROM deliveries WHERE message = messages.id) FROM messages WHERE id = ?",
        (message,),
    )
    if not rows:
        return None
    found = Envelope(*rows[0])
    return found._replace(smtputf8=bool(found.smtputf8), eightbit=bool(found.eightbit))


def deliveries(reader: Reader, message: int, now_us: int) -> list[Chosen]:
    """The first DELIVERIES_SHOWN open deliveries of a message."""
    every = Selection(message=message, dropped=True)
    return next(pages(reader, every, now_us, most=DELIVERIES_SHOWN), [])


def actions(reader: Reader, most: int, *, number: int = 0) -> list[Action]:
    """The newest actions first, or the one of a number."""
    wanted, values = ("WHERE number = ? ", (number,)) if number else ("", ())
    rows = reader.rows_now(
        "SELECT number, at_us, what, by_whom, selection, detail, deliveries, until_us, undone FROM queue_actions"
        f" {wanted}ORDER BY number DESC LIMIT {most}",
        values,
    )
    return [Action(*row)._replace(undone=bool(row[-1])) for row in rows]


def last_undoable(reader: Reader, now_us: int) -> int:
    """The number of the newest action that can be taken back; 0 when there is none."""
    rows = reader.rows_now(
        "SELECT max(number) FROM queue_actions WHERE until_us > ? OR (until_us > 0 AND undone = 1)", (now_us,)
    )
    return rows[0][0] or 0


def outlook(reader: Reader, domain: str) -> tuple[int, int]:
    """How many deliveries to a domain wait, and the wall time of the next of them; zeros when none does."""
    # Without an owner and held by nobody: what `deliveries_waiting` is the index of.
    sql = "SELECT count(*), min(due_us) FROM deliveries WHERE domain = ? AND owner = 0 AND due_us < ?"
    number, next_us = reader.rows_now(sql, (domain, NEVER_US))[0]
    return number, next_us or 0
