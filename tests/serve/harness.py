"""Mail sessions on socket pairs over an in-process store: no process, no port, a few milliseconds a test."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scramp import ScramClient

from postroad.net.tls import ServerTls, ensure_self_signed
from postroad.serve.conversation import Conversation, Watch
from postroad.serve.lifecycle import Lifecycle
from postroad.serve.logins import LoggedIn, Logins, Trouble
from postroad.serve.passwords import Passwords, hash_password
from postroad.store import folder
from postroad.store.account_records import SetPassword
from postroad.store.accounts import set_password
from postroad.store.credentials import Credentials
from postroad.store.migrate import migrate
from postroad.store.records import Copy
from postroad.store.spool import Spool
from postroad.values.clock import SystemClock
from tests.store.small_store import File, SmallStore, file_one

ANNA = "anna@example.com"
PASSWORD = "fahrt ins blaue"


class KnownLogins:
    """Logins by address that all have one password, without the slow proof."""

    def __init__(self, accounts: dict[str, int]) -> None:
        self.accounts = accounts
        self.trouble: Trouble | None = None
        """What every login ends with, if anything."""

    async def verify(self, login: str, password: str, service: str, peer: str) -> LoggedIn | Trouble:
        if self.trouble is not None:
            return self.trouble
        if password != PASSWORD or login not in self.accounts:
            return Trouble.WRONG
        return LoggedIn(self.accounts[login], login)


def real_logins(house: House, address: str) -> Logins:
    """Logins over the store of a house, where the address has `PASSWORD`; nobody waits for a pause."""
    house.store.run(set_password, SetPassword(address, hash_password(PASSWORD)))
    passwords = Passwords(SystemClock(), proves=lambda argon2, prepared: prepared == PASSWORD)
    store = SimpleNamespace(post=lambda name, args: None)
    return Logins(
        Credentials(house.store), passwords, store=store, clock=SystemClock(), secret=b"s" * 32, sleep=_no_pause
    )


async def _no_pause(seconds: float) -> None:
    """The tarpit, without waiting."""


async def scram_exchange(peer: Peer, command: bytes, mechanism: str, password: str) -> bytes:
    """One exchange as IMAP and POP3 carry it, with scramp as the client; the line that ends it."""
    tls = peer.writer.get_extra_info("ssl_object")
    seen = hashlib.sha256(tls.getpeercert(binary_form=True)).digest()
    binding = ("tls-server-end-point", seen) if mechanism.endswith("PLUS") else None
    client = ScramClient([mechanism], ANNA, password, channel_binding=binding)
    assert await peer.ask(command + b" " + mechanism.encode()) == b"+ "
    client.set_server_first(_said(await peer.ask(base64.b64encode(client.get_client_first().encode()))))
    reply = await peer.ask(base64.b64encode(client.get_client_final().encode()))
    if not reply.startswith(b"+ "):
        return reply
    client.set_server_final(_said(reply))
    return await peer.ask(b"")


def _said(challenge: bytes) -> str:
    return base64.b64decode(challenge.removeprefix(b"+ ")).decode()


class NotedLogins:
    """Refused logins, remembered."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str, str]] = []

    def login_failed(self, text: str, why: str, command: str, door: str, peer: str) -> str:
        self.noted.append((why, command, door))
        return text


class Counted:
    """Counters that remember."""

    def __init__(self) -> None:
        self.logins: list[tuple[str, str]] = []
        self.open = 0

    def session_opened(self, door: str) -> None:
        self.open += 1

    def session_closed(self, door: str) -> None:
        self.open -= 1

    def message_received(self, door: str, size: int) -> None: ...

    def refused(self, door: str, code: int, why: str) -> None: ...

    def logged_in(self, service: str, result: str) -> None:
        self.logins.append((service, result))


@dataclass
class Peer:
    """The client's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def line(self) -> bytes:
        """The next line without its CRLF; empty at the end of the connection."""
        return (await self.reader.readline()).removesuffix(b"\r\n")

    async def lines(self, until: bytes = b".") -> list[bytes]:
        """Lines up to one that is exactly `until`, without it."""
        found: list[bytes] = []
        while (line := await self.line()) != until:
            assert line or not self.reader.at_eof(), found
            found.append(line)
        return found

    def send(self, octets: bytes) -> None:
        """Sends octets as they are."""
        self.writer.write(octets)

    async def ask(self, command: bytes) -> bytes:
        """Sends one line and returns the next one."""
        self.send(command + b"\r\n")
        return await self.line()

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        return await self.reader.read()

    async def hang_up(self) -> None:
        """Closes without a word and lets the server notice."""
        self.writer.close()
        await breathe()


def own_tls(folder: Path) -> ServerTls:
    """A listener's TLS with a certificate of its own."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    ensure_self_signed(["mail.example.com"], certificate, key, SystemClock().wall_us())
    return ServerTls(certificate, key)


def trusting() -> ssl.SSLContext:
    """A client's TLS that asks for no name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def breathe() -> None:
    """Lets everything that is ready to run, run."""
    for _ in range(20):
        await asyncio.sleep(0)


@dataclass
class House:
    """A store with a spool, and connections to the sessions a test makes over it."""

    store: SmallStore
    spool: Spool
    watch: Watch
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    counters: Counted = field(default_factory=Counted)
    refusals: NotedLogins = field(default_factory=NotedLogins)
    conversations: list[Conversation] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(5000))

    def deliver(self, account: int, raw: bytes, *, mailbox: str = "INBOX", prefix: bytes = b"") -> None:
        """Files one message as the accepting transaction does; a large body goes to a file."""
        end = raw.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in raw else len(raw)
        number = next(self.numbers)
        copy = Copy("", account, prefix, mailbox)
        header, body, body_file = raw[:end], raw[end:], ""
        if len(body) > 64 * 1024:
            body_file = f"bodies/00/{number}"
            path = self.spool.body_path(body_file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        file_args = File(number, len(raw), [copy], body_file)
        self.store.run(file_one, file_args)
        self.store.connection.begin()
        self.store.connection.execute(
            "UPDATE messages SET header = ?, body = ? WHERE id = ?", (header, None if body_file else body, number)
        )
        self.store.connection.commit()

    async def connect(self, make_session: Callable[[Conversation], Any], *, tls: ssl.SSLContext | None = None) -> Peer:
        """A new connection to a new session."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)

        def accept() -> Conversation:
            conversation = Conversation(self.watch, loop, make_session)
            self.conversations.append(conversation)
            return conversation

        await loop.connect_accepted_socket(accept, ours)
        reader, writer = await asyncio.open_connection(sock=theirs, limit=64 * 1024 * 1024)
        peer = Peer(reader, writer)
        self.peers.append(peer)
        return peer

    async def close(self) -> None:
        """Ends all connections."""
        for peer in self.peers:
            peer.writer.close()
        for conversation in self.conversations:
            conversation.transport.abort()
        await breathe()
        self.spool.close()


def open_house(data_dir: Path, connection: Any) -> House:
    """A house over a fresh database connection; call it with a running loop."""
    folder.prepare(data_dir)
    migrate(connection, 0)
    store = SmallStore(connection)
    spool = Spool(data_dir, 1, SystemClock(), message_size=50_000_000)
    return House(store, spool, Watch(asyncio.get_running_loop()))
