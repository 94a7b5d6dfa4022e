"""The queue as people read it: what waits for which destination, and each delivery with its reason and next time.

Every read is one statement on a read-only connection and slices its own size, so it never holds up the writer.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from postroad.store.reader import Reader

PAGE: Final = 1000
"""Deliveries of one page."""
DESTINATIONS_MAX: Final = 1000
"""Destinations of one overview, those with most mail."""


class Destination(NamedTuple):
    """All open deliveries to one domain."""

    domain: str
    deliveries: int
    due: int
    """Of these, how many may be tried now or are being tried."""
    oldest: int
    """Id of the message that waits longest (`values.ids.made_at_us` tells since when)."""
    next_us: int
    """When the next of them may be tried."""
    last_reply: str
    """One of the replies that made them wait; empty before the first attempt ended."""


class Waiting(NamedTuple):
    """One open delivery with what a list shows of its message."""

    id: int
    message: int
    recipient: str
    attempts: int
    due_us: int
    last_reply: str
    sender: str
    size: int


def destinations(reader: Reader, now_us: int) -> list[Destination]:
    """What waits for each destination, the fullest first; reads the whole queue (about a second per million)."""
    rows = reader.rows_now(
        "SELECT domain, count(*), sum(CASE WHEN due_us <= ? THEN 1 ELSE 0 END), min(message), min(due_us),"
        " max(last_reply) FROM deliveries GROUP BY domain ORDER BY count(*) DESC, domain LIMIT ?",
        (now_us, DESTINATIONS_MAX),
    )
    return [Destination(*row) for row in rows]


def waiting(reader: Reader, *, message: int = 0, domain: str = "", after: int = 0) -> list[Waiting]:
    """A page of open deliveries in the order they came, of one message or domain or all; `after` is the last id
    of the page before."""
    sql = (
        "SELECT d.id, d.message, d.recipient, d.attempts, d.due_us, d.last_reply, m.sender, m.size"
        " FROM deliveries d JOIN messages m ON m.id = d.message WHERE d.id > ?"
    )
    params: list[object] = [after]
    for column, value in (("message", message), ("domain", domain)):
        if value:
            sql += f" AND d.{column} = ?"
            params.append(value)
    rows = reader.rows_now(f"{sql} ORDER BY d.id LIMIT {PAGE}", params)
    return [Waiting(*row) for row in rows]


def count(reader: Reader, *, message: int = 0, domain: str = "") -> int:
    """How many open deliveries there are of one message or domain, or altogether."""
    sql, params = "SELECT count(*) FROM deliveries WHERE 1 = 1", []
    for column, value in (("message", message), ("domain", domain)):
        if value:
            sql += f" AND {column} = ?"
            params.append(value)
    number: int = reader.rows_now(sql, params)[0][0]
    return number


def outlook(reader: Reader, domain: str) -> tuple[int, int]:
    """How many deliveries to a domain wait, and the wall time of the next of them; zeros when none does."""
    number, next_us = reader.rows_now("SELECT count(*), min(due_us) FROM deliveries WHERE domain = ?", [domain])[0]
    return number, next_us or 0
