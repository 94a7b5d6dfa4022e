"""A POP3 session: one account's INBOX, listed at login, read message by message, emptied at QUIT.

The machine keeps the numbers and marks; the session asks the store. The lock on the maildrop is taken with the login
and let go with the connection, however it ends. It keeps other POP3 sessions out (RFC 1939 section 4) and nobody else:
mail is delivered and IMAP goes on meanwhile, and this session's list stays what it was at login.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from postroad.net.tls import ServerTls
from postroad.serve.conversation import Conversation
from postroad.serve.lifecycle import Lifecycle
from postroad.serve.logins import LoggedIn, Logins, Trouble
from postroad.serve.logs import log_line
from postroad.serve.mailstore import Mailstore
from postroad.serve.message_content import BodyUnreadable, MessageContent
from postroad.serve.outgoing import drained
from postroad.serve.refusals import Refusals
from postroad.serve.sasl_exchange import Challenge, Circumstances, Exchange, begin
from postroad.store.mailbox_records import Maildrop
from postroad.values.errors import StoreBroken, StoreFull
from postroad.wire import pop3 as on
from postroad.wire import sasl
from postroad.wire.pop3 import MaildropEntry, Pop3Machine

# RFC 3206: AUTH is about the credentials, SYS/TEMP about this server
REFUSED: Final = {
    "wrong": ("wrong user or password", "AUTH"),
    "busy": ("too many logins at once, try again in a minute", "SYS/TEMP"),
    "braked": ("too many failed logins from your network, try again in a quarter of an hour", "SYS/TEMP"),
}
"""What is said by the kind of trouble, with its response code."""
IN_USE: Final = "another POP3 session has this mailbox open"
NOT_NOW: Final = "the mailbox cannot be read right now, try again later"


class Counters(Protocol):
    """What mail sessions count (`serve.counters.SessionCounters`)."""

    def session_opened(self, door: str) -> None: ...
    def session_closed(self, door: str) -> None: ...
    def logged_in(self, service: str, result: str) -> None: ...


@dataclass(slots=True)
class Pop3Service:
    """What the POP3 sessions of one worker share."""

    mailstore: Mailstore
    logins: Logins
    refusals: Refusals
    counters: Counters
    lifecycle: Lifecycle
    tls: ServerTls
    insecure_auth: bool = False
    """Take passwords without TLS too: loopback and tests."""
    idle_s: float = 600.0

    def session(self, wire: Conversation) -> Pop3Session:
        """A session for a connection that has just been made; TLS is on already when `wire.tls`."""
        machine = Pop3Machine(
            tls_active=wire.tls,
            tls_offered=True,
            plaintext_login=self.insecure_auth,
            mechanisms=sasl.offered(sasl.MAIL_MECHANISMS, binding=bool(self.tls.end_point)),
        )
        return Pop3Session(wire, machine, self)


class Pop3Session:
    """One POP3 client; the invariant of its lock: `_locked` is the account whose lock we hold, or 0."""

    __slots__ = (
        "_end_point",
        "_exchange",
        "_line_since",
        "_locked",
        "_maildrop",
        "_mechanism",
        "_service",
        "_wire",
        "door",
        "machine",
    )

    def __init__(self, wire: Conversation, machine: Pop3Machine, service: Pop3Service) -> None:
        self._wire = wire
        self.machine = machine
        self._service = service
        self.door = "pop3s" if wire.tls else "pop3"
        self._line_since = 0.0
        self._locked = 0
        self._maildrop = Maildrop(0, 0, [])
        self._exchange: Exchange | None = None
        self._mechanism = ""
        # Taken with the handshake: a certificate that is loaded later is not the one this client has seen.
        self._end_point = service.tls.end_point if wire.tls else b""

    # -- for the driver ----------------------------------------------------------------------------------------------

    def opened(self) -> None:
        """The machine has its greeting ready."""
        self._service.counters.session_opened(self.door)

    async def handle(self, event: on.Event) -> None:
        """Carry out one event and answer it."""
        self._line_since = 0.0
        await HANDLERS[type(event)](self, event)

    def penalty_s(self) -> float:
        """Nothing is held back here: the machine ends a session after a few errors."""
        return 0.0

    def deadline(self, now: float) -> float:
        """A stranger gets the machine's patience, a client that logged in the configured one: for a whole command,
        not for each octet of it (promise P11)."""
        self._line_since = (self._line_since or now) if self.machine.in_line else 0.0
        patience = self._service.idle_s if self.machine.logged_in else self.machine.patience
        return (self._line_since or now) + patience

    def timed_out(self) -> None:
        """Close without a word and without deleting anything (RFC 1939 section 3)."""
        self.machine.closed = True

    def failed(self) -> None:
        """After a bug of ours: nothing is deleted, the connection ends."""
        self.machine.shut_down("internal problem, nothing was deleted")

    def lost(self) -> None:
        """The connection is gone: without QUIT nothing is deleted (RFC 1939 section 6)."""
        self._service.counters.session_closed(self.door)
        self._unlock()

    def drain(self) -> None:
        """We are going down: say so now unless a command is being carried out."""
        if not self._wire.busy:
            self.machine.shut_down("going down for a moment, please reconnect")
            self._wire.turn_soon()

    # -- TLS and login -----------------------------------------------------------------------------------------------

    async def start_tls(self, event: on.StartTls) -> None:
        self.machine.begin_tls()
        self._end_point = self._service.tls.end_point
        try:
            await self._wire.start_tls(self._service.tls.of("pop3"))
        except OSError as error:
            raise ConnectionResetError(f"TLS handshake failed: {error}") from None
        self.machine.tls_started()

    async def login(self, event: on.Login) -> None:
        try:
            given = sasl.decode_login(event.user, event.password)
        except sasl.SaslError:
            self._refuse_login(Trouble.WRONG, "login by PASS")
            return
        await self._settle(
            await self._service.logins.verify(given.user, given.password, "pop3", self._wire.peer),
            f"login as {given.user} by PASS",
        )

    async def authenticate(self, event: on.Authenticate) -> None:
        where = Circumstances("pop3", self._wire.peer, self._end_point)
        self._mechanism, self._exchange = event.mechanism, begin(self._service.logins, event.mechanism, where)
        await self._go_on(event.initial)

    async def sasl_response(self, event: on.SaslResponse) -> None:
        await self._go_on(event.octets)

    async def _go_on(self, octets: bytes | None) -> None:
        exchange = self._exchange
        assert exchange is not None
        try:
            step = await exchange.take(octets)
        except sasl.SaslError as error:
            self._refuse_login(Trouble.WRONG, f"login by {self._mechanism}: {error}")
            return
        if isinstance(step, Challenge):
            self.machine.challenge(step.octets)
            return
        await self._settle(step, f"login as {exchange.user} by {self._mechanism}")

    async def _settle(self, found: LoggedIn | Trouble, command: str) -> None:
        if isinstance(found, Trouble):
            self._refuse_login(found, command)
            return
        try:
            await self._open(found.account)
        except (StoreBroken, StoreFull) as error:
            log_line("error", f"POP3: the mailbox of {found.address} could not be opened: {error}")
            self._unlock()
            self.machine.refuse_login(NOT_NOW, "SYS/TEMP")

    def _refuse_login(self, trouble: Trouble, command: str) -> None:
        service = self._service
        service.counters.logged_in("pop3", trouble.kind)
        text, code = REFUSED[trouble.kind]
        said = service.refusals.login_failed(text, trouble.value, command, self.door, self._wire.peer)
        self.machine.refuse_login(said, code)
        if trouble is Trouble.BRAKED:
            self.machine.closed = True

    async def _open(self, account: int) -> None:
        mailstore = self._service.mailstore
        if not await mailstore.lock_maildrop(account):
            self._service.counters.logged_in("pop3", "in use")
            self.machine.refuse_login(IN_USE, "IN-USE")
            return
        self._locked = account
        maildrop = self._maildrop = await mailstore.maildrop(account)
        if self._wire.transport.is_closing():
            self._unlock()
            return
        self._service.counters.logged_in("pop3", "ok")
        # A UID is never used twice below one UIDVALIDITY, so the pair is a UIDL for ever (RFC 1939 section 7).
        self.machine.open_maildrop(
            [MaildropEntry(drop.size, b"%d.%d" % (maildrop.uidvalidity, drop.uid)) for drop in maildrop.drops]
        )

    def _unlock(self) -> asyncio.Task[None] | None:
        account, self._locked = self._locked, 0
        return self._service.mailstore.unlock_maildrop(account) if account else None

    # -- messages ----------------------------------------------------------------------------------------------------

    async def retrieve(self, event: on.Retrieve) -> None:
        """Send a message in pieces, each when the client has read what came before."""
        uid = self._maildrop.drops[event.number - 1].uid
        try:
            message = await self._service.mailstore.open_message(self._maildrop.mailbox, uid)
        except (StoreBroken, BodyUnreadable) as error:
            log_line("error", f"POP3: message {uid} of mailbox {self._maildrop.mailbox} cannot be read: {error}")
            self.machine.refuse(NOT_NOW)
            return
        if message is None:
            self.machine.refuse("another client removed this message", "")
            return
        with message, self._service.lifecycle.activity("transfers"):
            await self._send(message)

    async def _send(self, message: MessageContent) -> None:
        machine = self.machine
        machine.begin_message()
        machine.send_header(message.head)
        try:
            async for piece in message.body_pieces():
                if not machine.send_body(piece):
                    break
                await drained(self._wire, self._service.idle_s)
        except BodyUnreadable as error:
            # The client must not take what it has for the whole message: no final dot, the connection ends.
            log_line("error", f"POP3: {error}")
            raise ConnectionResetError("the body cannot be read") from None
        machine.end_message()

    async def quit(self, event: on.Quit) -> None:
        """Delete what was marked, all or nothing, and only then say goodbye."""
        drops = self._maildrop.drops
        complete = True
        if event.deleted:
            uids = [drops[number - 1].uid for number in event.deleted]
            try:
                with self._service.lifecycle.activity("commits"):
                    complete = await self._service.mailstore.empty_maildrop(self._maildrop.mailbox, uids)
            except (StoreBroken, StoreFull) as error:
                log_line("error", f"POP3: nothing was deleted at QUIT: {error}")
                complete = False
        unlocked = self._unlock()
        if unlocked is not None:
            # Before the goodbye: whoever reconnects at once must not find its own lock.
            await asyncio.shield(unlocked)
        self.machine.finish_quit(complete)


Handler = Callable[[Pop3Session, Any], Awaitable[None]]

HANDLERS: Final[dict[type, Handler]] = {
    on.StartTls: Pop3Session.start_tls,
    on.Login: Pop3Session.login,
    on.Authenticate: Pop3Session.authenticate,
    on.SaslResponse: Pop3Session.sasl_response,
    on.Retrieve: Pop3Session.retrieve,
    on.Quit: Pop3Session.quit,
}
