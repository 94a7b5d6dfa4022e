"""What the tests of the store share: a database on either engine, a writer that runs single units, sample mail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from postroad.store.engine import Connection
from postroad.store.queue import accept
from postroad.store.records import Accept, Accepted, Copy, Leg
from postroad.store.units import UNITS, Tx, load_units
from postroad.store.writer import OK, Call, Result, Writer
from postroad.values.event import Event, pack
from tests.fakes.clock import FakeClock

A = TypeVar("A")
R = TypeVar("R")

load_units()

START_US = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z."""


class Desk:
    """A writer and what a test asks of it: one unit, several at once, plain rows."""

    def __init__(self, connection: Connection, clock: FakeClock) -> None:
        self.connection = connection
        self.clock = clock
        self.removed: list[str] = []
        self.writer = Writer(connection, remove_body=self.removed.append, clock=clock)

    def run(self, unit: Callable[[Tx, A], R], args: A, owner: int = 0) -> R:
        """The result of one unit that must succeed."""
        [result] = self.batch([(unit, args)], owner)
        assert result.status == OK, result
        return result.value  # type: ignore[no-any-return]

    def batch(self, units: Sequence[tuple[Callable[[Tx, Any], Any], Any]], owner: int = 0) -> list[Result]:
        """What became of several units of one batch, their arguments and results sent through the wire's types."""
        return self.writer.run([Call(UNITS[unit.__name__], args, owner) for unit, args in units])

    def rows(self, sql: str, *params: Any) -> list[Any]:
        """Rows as they are committed."""
        return self.connection.execute(sql, params)

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])

    def accept(self, ident: int = 1, **changes: Any) -> Accepted:
        """Accepts a sample message that must be taken."""
        return self.run(accept, sample(ident, **changes))


def empty_postgres(dsn: str) -> Connection:
    """A connection to the test database with nothing in it."""
    from postroad.store.postgres import PostgresConnection

    connection = PostgresConnection(dsn)
    connection.execute("DROP SCHEMA public CASCADE")
    connection.execute("CREATE SCHEMA public")
    return connection


def leg(ident: int, recipient: str = "b@example.net", **changes: Any) -> Leg:
    """An open delivery that nobody owns and that is due."""
    return Leg(ident, recipient, recipient.rpartition("@")[2], **changes)


def sample(ident: int = 1, **changes: Any) -> Accept:
    """A small message with one open delivery whose id is the message's plus 1000."""
    header, body = b"Subject: hello\r\n\r\n", b"Good day.\r\n"
    fields: dict[str, Any] = {
        "id": ident,
        "received_us": START_US,
        "sender": "a@example.org",
        "header": header,
        "body": body,
        "body_file": "",
        "size": len(header) + len(body),
        "copies": [],
        "legs": [leg(ident + 1000)],
        "expires_us": START_US + 432_000_000_000,
        "keys": "a@example.org\nb@example.net",
        "events": pack([Event(kind="received", at_us=START_US)]),
    }
    return Accept(**(fields | changes))


def copy_for(account: int, recipient: str = "user@dev.test") -> Copy:
    """A copy for a local mailbox."""
    return Copy(recipient, account)
