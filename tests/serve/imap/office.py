"""An IMAP service over an in-process store, and a client that speaks lines to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from postroad.serve.imap import ImapService
from postroad.serve.imap_watch import MailboxWatch
from postroad.store.mailbox_reads import Mailboxes
from postroad.store.sqlite import SqliteConnection
from postroad.values.clock import SystemClock
from postroad.values.errors import StoreBroken
from postroad.values.ids import IdMaker
from tests.imaptest.runner import Connection, Reply
from tests.serve.harness import ANNA, PASSWORD, House, KnownLogins, open_house


class Desk:
    """The store as one worker's client sees it: calls, and hints after each."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.watch: MailboxWatch | None = None
        self.broken = False
        self.calls: list[str] = []

    async def call(self, unit: Any, args: Any) -> Any:
        self.calls.append(unit.__name__)
        if self.broken:
            raise StoreBroken("no disk")
        result = self.house.store.run(unit, args)
        self.tell_hints()
        return result

    def tell_hints(self) -> None:
        """Passes on what the writer hinted."""
        writer = self.house.store.writer
        hints, writer.hints = writer.hints, []
        for kind, key in hints:
            if kind == "mailbox" and self.watch is not None:
                self.watch.hint(key)


@dataclass
class Client(Connection):
    """A client's connection: lines out, replies in."""

    def write(self, octets: bytes) -> None:
        """Sends octets as they are."""
        self.writer.write(octets)

    async def line(self) -> bytes:
        """The next line without its CRLF; empty at the end of the connection."""
        return (await self.reader.readline()).removesuffix(b"\r\n")

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        return await self.reader.read()

    async def ask(self, *segments: bytes) -> list[Reply]:
        """Sends one command (text, literal, text, ...); returns all replies up to the tagged one."""
        replies: list[Reply] = []
        tag = await self.send(list(segments), replies.append)
        while not replies or replies[-1].tag != tag:
            replies.append(await self.reply())
        return replies

    async def word(self, *segments: bytes) -> bytes:
        """The status of one command with its code: `OK`, `NO [OVERQUOTA]`."""
        words = (await self.ask(*segments))[-1].arguments
        text = [word for word in words if isinstance(word, bytes)]
        end = next((at for at, word in enumerate(text) if word.endswith(b"]")), 0)
        return b" ".join(text[: end + 1])


class Office:
    """One account with its INBOX, and an IMAP service."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.account = house.store.account(ANNA)
        self.desk = Desk(house)
        self.logins = KnownLogins({ANNA: self.account})
        self.tls = SimpleNamespace(context=None, end_point=b"")
        self.mailboxes = Mailboxes(house.store)
        self.watch = self.desk.watch = MailboxWatch(self.mailboxes)
        self.service = ImapService(
            store=self.desk,
            mailboxes=self.mailboxes,
            directory=house.store.directory,
            bodies=house.spool,
            ids=IdMaker(1),
            clock=SystemClock(),
            logins=self.logins,  # type: ignore[arg-type]
            refusals=house.refusals,  # type: ignore[arg-type]
            counters=house.counters,
            lifecycle=house.lifecycle,
            tls=self.tls,  # type: ignore[arg-type]
            watch=self.watch,
            message_size=50_000_000,
            insecure_auth=True,
        )

    async def connect(self) -> Client:
        """A connection that has been greeted."""
        peer = await self.house.connect(self.service.session)
        client = Client(peer.reader, peer.writer)
        await client.reply()
        return client

    async def login(self, mailbox: bytes = b"") -> Client:
        """A session of anna's, with a mailbox selected if one is named."""
        client = await self.connect()
        said = await client.word(b'LOGIN "%b" "%b"' % (ANNA.encode(), PASSWORD.encode()))
        assert said.startswith(b"OK [CAPABILITY")
        if mailbox:
            assert (await client.word(b"SELECT " + mailbox)).startswith(b"OK")
        return client

    def deliver(self, raw: bytes, *, mailbox: str = "INBOX", prefix: bytes = b"") -> None:
        """New mail, as the accepting transaction files it."""
        self.house.deliver(self.account, raw, mailbox=mailbox, prefix=prefix)
        self.desk.tell_hints()


@asynccontextmanager
async def open_office(folder: Path) -> AsyncIterator[Office]:
    """An office over a fresh store."""
    connection = SqliteConnection(folder / "store.db")
    connection.execute("PRAGMA synchronous=OFF")
    house = open_house(folder, connection)
    try:
        yield Office(house)
    finally:
        await house.close()
