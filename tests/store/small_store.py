"""A store of one database and one writer, as the tests of accounts and mailboxes need it: units in, rows out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from postroad.store.account_records import DomainAdd, UserAdd
from postroad.store.accounts import domain_add, user_add
from postroad.store.directory import Directory
from postroad.store.engine import Connection, Params, Row
from postroad.store.mailbox import file_copy
from postroad.store.queue import MESSAGES
from postroad.store.records import Copy, Record
from postroad.store.units import UNITS, Tx, load_units, unit
from postroad.store.writer import OK, Call, Writer

A = TypeVar("A")
R = TypeVar("R")

NOW_US = 1_800_000_000_000_000


class File(Record, frozen=True):
    """Arguments of `file_one`: one message with its copies."""

    message: int
    size: int
    copies: list[Copy]
    body_file: str = ""


@unit
def file_one(tx: Tx, args: File) -> list[int]:
    """Accepts one message for mailboxes only, as `accept` does, without queue and journal."""
    header = b"Subject: %d\r\n\r\n" % args.message
    body = None if args.body_file else b"x" * (args.size - len(header))
    now = tx.now_us
    tx.append(MESSAGES, (args.message, now, now, args.size, 0, 0, "", "", "", "", args.body_file, header, body))
    tx.release(args.message)
    return [file_copy(tx, args.message, now, args.size, copy) for copy in args.copies]


class SteppingClock:
    """Wall time that moves one millisecond a look, and as far as a test says."""

    def __init__(self) -> None:
        self.now_us = NOW_US

    def monotonic(self) -> float:
        return self.now_us / 1e6

    def uptime(self) -> float:
        return self.now_us / 1e6

    def wall_us(self) -> int:
        self.now_us += 1000
        return self.now_us


class SmallStore:
    """One writer and the reads beside it; `removed` are the body files it unlinked."""

    def __init__(self, connection: Connection) -> None:
        load_units()
        self.connection = connection
        self.clock = SteppingClock()
        self.removed: list[str] = []
        self.writer = Writer(connection, remove_body=self.removed.append, clock=self.clock)
        self.directory = Directory(self)
        self._message = 1000

    async def rows(self, sql: str, params: Params = ()) -> list[Row]:
        """The port of a worker's reads, here on the writer's own connection between its transactions."""
        return self.connection.execute(sql, params)

    async def call(self, function: Callable[[Tx, A], R], args: A) -> R:
        """The port of a worker's calls."""
        return self.run(function, args)

    def run(self, function: Callable[[Tx, A], R], args: A, owner: int = 0) -> R:
        """Runs one unit as a transaction of its own; its result crossed the socket's encoding."""
        return self.run_all((function, args), owner=owner)[0]  # type: ignore[no-any-return]

    def run_all(self, *calls: tuple[Callable[[Tx, Any], Any], Any], owner: int = 0) -> list[Any]:
        """Runs units as one batch."""
        batch = [Call(UNITS[function.__name__], args, owner) for function, args in calls]
        results = self.writer.run(batch)
        for result in results:
            assert result.status == OK, result.value
        return [result.value for result in results]

    def sql(self, statement: str, params: Params = ()) -> list[Row]:
        """Rows as they stand."""
        return self.connection.execute(statement, params)

    def account(self, address: str = "anna@example.com", quota: int = 0) -> int:
        """An account, with its domain when that is missing."""
        self.run(domain_add, DomainAdd(address.rpartition("@")[2]))
        made = self.run(user_add, UserAdd(address, quota))
        assert made.done, made.word
        return made.id

    def message_id(self) -> int:
        self._message += 1
        return self._message

    def deliver(
        self, account: int, count: int = 1, *, size: int = 100, prefix: bytes = b"", mailbox: str = "INBOX"
    ) -> list[int]:
        """Files messages, each of its own; returns what became of each."""
        copy = Copy("", account, prefix, mailbox)
        return [self.run(file_one, File(self.message_id(), size, [copy]))[0] for _ in range(count)]
