"""An SMTP session: what each command means here, answered through the machine.

The machine has already checked syntax, sequence and limits. The session asks the directory and the store and acts. The
transaction is one object that is thrown away after every end, reset or refusal, so nothing of it can leak into the
next (Postfix 20260724, Exim CVE-2020-28019).
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from postroad.flow.intake import Arrival, Intake
from postroad.flow.local import Planner
from postroad.net.tls import ServerTls
from postroad.rules.gate import Gate
from postroad.serve.admission import GOING_DOWN
from postroad.serve.conversation import Conversation
from postroad.serve.counters import SessionCounters
from postroad.serve.lifecycle import Lifecycle
from postroad.serve.logs import log_line
from postroad.serve.passwords import Passwords, Trouble
from postroad.serve.refusals import Refusals
from postroad.serve.smtp_message import keep
from postroad.serve.smtp_transaction import Transaction
from postroad.store.spool import Spool
from postroad.values.address import Address
from postroad.values.envelope import Envelope, Recipient
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.facts import Content, Facts, Stage
from postroad.values.ports import Clock
from postroad.values.reply import Reply
from postroad.values.verdict import Ruling, Verdict
from postroad.wire import sasl
from postroad.wire.smtp import events as on
from postroad.wire.smtp.mode import Mode
from postroad.wire.smtp.server import ServerMachine

WORLD: Final = frozenset(("mx", "lmtp"))
"""Doors for mail of others; all other doors are for our own users."""

DRAIN_PATIENCE_S: Final = 5.0
"""How long a client may keep us waiting once we go down: those who are at it finish, those who idle do not hold us."""

DATA_GRACE_S: Final = 20.0
"""A transfer this young is not yet held to the minimum rate: a slow start is no attack."""

FINAL_DOT_S: Final = 30.0
"""Final dot to reply takes at most this; RFC 1047 tells why a late 250 makes duplicates."""

NO_ENVELOPE: Final = Envelope(None)
"""What facts know of an envelope before MAIL; never changed."""

HELO_OK: Final = Reply(250, "", "")
MAIL_OK: Final = Reply(250, "2.1.0", "Sender OK")
RCPT_OK: Final = Reply(250, "2.1.5", "Recipient OK")
RESET: Final = Reply(250, "2.0.0", "Reset")
NOOP: Final = Reply(250, "2.0.0", "OK")
GO_AHEAD: Final = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
CHUNK_OK: Final = Reply(250, "2.0.0", "Chunk received")
BYE: Final = Reply(221, "2.0.0", "Bye")
VRFY: Final = Reply(252, "2.5.2", "Send some mail, we will do our best")
NO_EXPN: Final = Reply(502, "5.5.1", "EXPN is not offered")
HELP: Final = Reply(214, "2.0.0", "Commands: EHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP STARTTLS AUTH")
TLS_GO: Final = Reply(220, "2.0.0", "Ready to start TLS")
LOG_IN: Final = Reply(530, "5.7.0", "Authentication required. Log in with your mail address and password.")
AUTH_OK: Final = Reply(235, "2.7.0", "Authentication successful")
AUTH_WRONG: Final = Reply(535, "5.7.8", "Wrong user name or password.")
AUTH_BUSY: Final = Reply(454, "4.7.0", "Too many logins at once. Please retry in a minute.")
AUTH_SYNTAX: Final = Reply(501, "5.5.2", "That is not what this mechanism expects")
TOO_SLOW: Final = Reply(421, "4.4.2", "This transfer is too slow. Please reconnect and retry.")
TIMEOUT: Final = Reply(421, "4.4.2", "Timeout: nothing came for too long. Please reconnect.")
FULL: Final = Reply(452, "4.3.1", "Not enough space. Please retry later; nothing was lost.")
BUG: Final = Reply(421, "4.3.0", "Internal problem, nothing was lost. Please reconnect and retry.")
NOT_DURABLE: Final = Reply(451, "4.3.0", "The message could not be made safe on disk. Please retry; nothing was kept.")
OVERDUE: Final = Reply(421, "4.3.0", "This takes too long here: the storage does not answer. Please retry later.")


@dataclass(slots=True)
class Gates:
    """Who is asked about mail: one list of rules for the world, one for our own users."""

    inbound: Gate
    submission: Gate
    ended: Callable[[int], None] = lambda session: None
    """Told the number of each session that is over."""


@dataclass(slots=True)
class Service:
    """Everything that the SMTP sessions of one worker share."""

    hostname: str
    intake: Intake
    planner: Planner
    passwords: Passwords
    spool: Spool
    refusals: Refusals
    counters: SessionCounters
    lifecycle: Lifecycle
    tls: ServerTls
    clock: Clock
    relay_networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]
    data_timeout_s: float
    data_rate_min: int
    session_s: float
    full: Callable[[int], Reply | None]
    """Says early that there is no room for a message of this size (disk, queue, drafts)."""
    gates: Gates
    hide_clients: bool = False
    """Received lines of users' mail do not name the address it came from."""
    relayers: dict[str, bool] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    """Numbers sessions for those who keep something for one."""

    def may_relay(self, peer: str) -> bool:
        """Whether an address may relay without a login; remembered per address."""
        known = self.relayers.get(peer)
        if known is None:
            if len(self.relayers) > 10_000:
                self.relayers.clear()
            known = self.relayers[peer] = self._in_networks(peer)
        return known

    def _in_networks(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self.relay_networks)


class SmtpSession:
    """One client at one of our doors (mx, submission, submissions)."""

    __slots__ = (
        "_account",
        "_auth",
        "_doubts",
        "_draining",
        "_helo",
        "_line_since",
        "_mechanism",
        "_number",
        "_opened",
        "_transaction",
        "_wire",
        "door",
        "login",
        "machine",
        "service",
    )

    def __init__(self, wire: Conversation, machine: ServerMachine, service: Service, door: str) -> None:
        self._wire = wire
        self.machine = machine
        self.service = service
        self.door = door
        self._helo = on.Hello("HELO", "")
        self.login = ""
        self._account = 0
        self._mechanism = ""
        self._number = next(service.numbers)
        self._doubts: list[tuple[str, str]] = []
        self._transaction: Transaction | None = None
        self._auth: tuple[str, list[bytes]] | None = None
        self._opened = service.clock.monotonic()
        self._draining = False
        self._line_since = 0.0
        wire.work_s = FINAL_DOT_S

    # -- for the driver ----------------------------------------------------------------------------------------------

    def opened(self) -> Coroutine[Any, Any, None] | None:
        """Greet (RFC 5321 section 4.3.1), with no product and no version; or what has to be done first."""
        self.service.counters.session_opened(self.door)
        if self.gate.asks(Stage.CONNECT):
            return self._welcome()
        self._greet()
        return None

    async def _welcome(self) -> None:
        verdict = await self.ask(Stage.CONNECT)
        if verdict.say is None:
            self._greet()
        elif not self.machine.closed:
            # RFC 5321 section 3.1: a server that is of no service to a client greets it with 554.
            self.machine.greet(self.refused(verdict.say, verdict.why, "", evidence=verdict.evidence))

    def _greet(self) -> None:
        self.machine.greet(Reply(220, "", f"{self.service.hostname} ESMTP"))

    def handle(self, event: on.Event) -> Coroutine[Any, Any, None]:
        """Carry out one event; a command among them is answered."""
        return HANDLERS[type(event)](self, event)

    def deadline(self, now: float) -> float:
        """The machine's patience, but never beyond the end of a transfer or of the whole session."""
        machine = self.machine
        patience = DRAIN_PATIENCE_S if self._draining else machine.patience
        if not machine.in_line:
            self._line_since = 0.0
            until = min(now + patience, self._opened + self.service.session_s)
        else:
            # Row S60: the patience is for a whole command, not for each octet of it.
            self._line_since = self._line_since or now
            until = min(self._line_since + patience, self._opened + self.service.session_s)
        transaction = self._transaction
        if transaction is not None and transaction.began:
            until = min(until, transaction.began + self.service.data_timeout_s, self._rate_deadline(transaction, now))
        return until

    def _rate_deadline(self, transaction: Transaction, now: float) -> float:
        """When the minimum rate is missed if nothing more comes: size / rate after the start, with a grace."""
        size = transaction.draft.size if transaction.draft is not None else 0
        return transaction.began + DATA_GRACE_S + size / self.service.data_rate_min

    def timed_out(self) -> None:
        """Say 421 and close; while a command is being carried out it is we who are late (`FINAL_DOT_S`)."""
        if self._wire.busy:
            self._overdue()
            return
        transaction = self._transaction
        slow = transaction is not None and transaction.began > 0
        self._drop_transaction()
        self.machine.close_with(GOING_DOWN if self._draining else TOO_SLOW if slow else TIMEOUT)

    def _overdue(self) -> None:
        """Give up waiting for our own work: a message whose commit still comes goes its way, but is not acknowledged.

        A handshake has a limit of its own.
        """
        if self.machine.mode is not Mode.HANDSHAKE:
            self.machine.close_with(self.refused(OVERDUE, "answer overdue", ""))

    def failed(self) -> None:
        """After a bug of ours: nothing of the open transaction stays, the connection ends."""
        self._drop_transaction()
        self.machine.close_with(BUG)

    def lost(self) -> None:
        """The peer is gone; a message handed to the intake goes its way, everything else is dropped."""
        self.service.counters.session_closed(self.door)
        self.service.gates.ended(self._number)
        self._write_refusals_down()
        self._drop_transaction()

    def drain(self) -> None:
        """We are going down: 421 now between transactions, else behind the open one."""
        self._draining = True
        if self._wire.busy:
            return
        if self._transaction is None:
            self.machine.close_with(GOING_DOWN)
            self._wire.turn_soon()
        else:
            self._wire.due = self.deadline(self.service.clock.monotonic())

    # -- greeting, TLS and login -------------------------------------------------------------------------------------

    async def hello(self, event: on.Hello) -> None:
        self._helo = event
        self._drop_transaction()
        if self.gate.asks(Stage.HELLO) and not await self._passes(Stage.HELLO, f"{event.verb} {event.name}"):
            return
        self.machine.answer(HELO_OK)

    async def start_tls(self, event: on.StartTls) -> None:
        self._drop_transaction()
        self._helo = on.Hello("HELO", "")
        self.machine.answer(TLS_GO)
        try:
            await self._wire.start_tls(self.service.tls.context)
        except OSError as error:
            self.service.counters.refused(self.door, 0, "tls handshake")
            raise ConnectionResetError(f"TLS handshake failed: {error}") from None
        # RFC 3207 section 4.2: nothing that was learnt in the clear counts any more.
        self._account, self.login, self._mechanism = 0, "", ""
        self.machine.tls_started()

    async def auth(self, event: on.Auth) -> None:
        """Begin an exchange (RFC 4954); PLAIN and LOGIN are offered under TLS only."""
        self._auth = (event.mechanism, [])
        if event.initial is not None:
            await self._auth_take(event.initial)
        else:
            self._ask_more()

    async def auth_response(self, event: on.AuthResponse) -> None:
        """Go on with an exchange."""
        await self._auth_take(event.octets)

    async def auth_cancel(self, event: on.AuthCancel) -> None:
        """The client gave up, or the machine did."""
        self._auth = None
        self.machine.answer(event.reply)

    def _ask_more(self) -> None:
        assert self._auth is not None
        mechanism, said = self._auth
        prompt = b"" if mechanism == "PLAIN" else (sasl.LOGIN_PASSWORD_PROMPT if said else sasl.LOGIN_USER_PROMPT)
        self.machine.answer(Reply(334, "", sasl.encode_base64(prompt).decode()))

    async def _auth_take(self, octets: bytes) -> None:
        assert self._auth is not None
        mechanism, said = self._auth
        said.append(octets)
        if mechanism == "LOGIN" and len(said) == 1:
            self._ask_more()
            return
        self._auth = None
        try:
            credentials = sasl.decode_plain(octets) if mechanism == "PLAIN" else sasl.decode_login(said[0], said[1])
        except sasl.SaslError:
            self.machine.answer(AUTH_SYNTAX)
            return
        # RFC 4616 section 2: acting on behalf of somebody else is not offered to anybody.
        if credentials.on_behalf_of not in ("", credentials.user):
            self._refuse_login(Trouble.WRONG, credentials.user)
            return
        found = await self.service.passwords.verify(credentials.user, credentials.password)
        if self.machine.closed:
            return
        if isinstance(found, Trouble):
            self._refuse_login(found, credentials.user)
            return
        if not await self._let_in(found.id, found.address, mechanism):
            return
        self.service.counters.logged_in("smtp", "ok")
        self.machine.authenticated(found.address)
        self.machine.answer(AUTH_OK)

    async def _let_in(self, account: int, login: str, mechanism: str) -> bool:
        """Keep who has proved a login, unless policy refuses, which then is answered."""
        self._account, self.login, self._mechanism = account, login, mechanism
        gate = self.service.gates.submission
        if gate.asks(Stage.AUTH) and not await self._passes(Stage.AUTH, f"AUTH as {login}"):
            self._account, self.login, self._mechanism = 0, "", ""
            return False
        return True

    def _refuse_login(self, trouble: Trouble, user: str) -> None:
        busy = trouble is Trouble.BUSY
        self.service.counters.logged_in("smtp", "busy" if busy else "wrong")
        reply, why = (AUTH_BUSY, "logins busy") if busy else (AUTH_WRONG, "wrong password")
        self.machine.answer(self.refused(reply, why, f"AUTH as {user[:80]}"))

    # -- the transaction ---------------------------------------------------------------------------------------------

    async def mail(self, event: on.Mail) -> None:
        service = self.service
        if self._draining:
            self.machine.answer(GOING_DOWN)
            return
        if self.door != "mx" and not self.login and not service.may_relay(self._wire.peer):
            self.machine.answer(self.refused(LOG_IN, "login required", "MAIL"))
            return
        params = event.params
        full = service.full(params.size)
        if full is not None:
            self.machine.answer(self.refused(full, "no space", "MAIL"))
            return
        envelope = Envelope(
            event.sender,
            declared_size=params.size,
            body=params.body,
            smtputf8=params.smtputf8,
            ret=params.ret,
            envid=params.envid,
            requiretls=params.requiretls,
        )
        self._transaction = Transaction(envelope)
        if self.gate.asks(Stage.MAIL) and not await self._passes(Stage.MAIL, f"MAIL FROM:<{envelope.sender_text}>"):
            self._transaction = None
            return
        self.machine.answer(MAIL_OK)

    async def rcpt(self, event: on.Rcpt) -> None:
        transaction = self._transaction
        assert transaction is not None
        relay = bool(self.login) or self.service.may_relay(self._wire.peer)
        plan = await self.service.planner.plan(
            event.address, size=transaction.envelope.declared_size, may_relay=relay, peer=self._wire.peer
        )
        if self.machine.closed:
            return
        if plan.refusal is not None:
            command = f"RCPT TO:<{event.address}>"
            self.machine.answer(self.refused(plan.refusal, plan.why, command, event.address, plan.evidence))
            return
        address, params = event.address, event.params
        if self.gate.asks(Stage.RCPT) and not await self._passes(Stage.RCPT, f"RCPT TO:<{address}>", recipient=address):
            return
        transaction.add(Recipient(address, params.notify, params.orcpt), plan)
        self.machine.answer(RCPT_OK)

    async def data(self, event: on.DataStart) -> None:
        self._begin_content()
        self.machine.answer(GO_AHEAD)

    def _begin_content(self) -> Transaction:
        transaction = self._transaction
        assert transaction is not None
        if transaction.draft is None:
            transaction.draft = self.service.spool.draft()
            transaction.began = self.service.clock.monotonic()
        return transaction

    async def content(self, event: on.Content) -> None:
        transaction = self._begin_content()
        draft = transaction.draft
        assert draft is not None
        if transaction.refusal is not None:
            return
        chunk = event.chunk
        if not transaction.eightbit and not chunk.isascii():
            transaction.eightbit = True
        draft.write(chunk)
        if draft.needs_flush:
            try:
                await draft.flush_to_disk()
            except StoreFull:
                self._refuse_content(transaction, FULL, "no space")
            except StoreBroken:
                self._refuse_content(transaction, NOT_DURABLE, "store broken")

    @staticmethod
    def _refuse_content(transaction: Transaction, reply: Reply, why: str) -> None:
        """Nothing more is kept; what still comes is read to its end, which is where the answer belongs."""
        transaction.refusal = (reply, why)
        if transaction.draft is not None:
            transaction.draft.discard()

    async def chunk_end(self, event: on.ChunkEnd) -> None:
        transaction = self._begin_content()
        if transaction.refusal is None:
            self.machine.answer(CHUNK_OK)
            return
        reply = self.refused(*transaction.refusal, "BDAT")
        self._transaction = None
        self.machine.answer(reply)

    async def content_refused(self, event: on.ContentRefused) -> None:
        self.refused(event.reply, "content refused", "")
        self._drop_transaction()

    async def content_end(self, event: on.ContentEnd) -> None:
        # From here on the message goes its way, whatever becomes of the client.
        transaction = self._begin_content()
        self._transaction = None
        reply = await keep(self, transaction)
        if self.machine.closed:
            return
        self.machine.answer(reply)
        if self._draining:
            self.machine.close_with(GOING_DOWN)

    def arrival(self, transaction: Transaction) -> Arrival:
        """How this message came, for its Received line and its story."""
        return Arrival(
            protocol=self._protocol(transaction.envelope.smtputf8),
            door=self.door,
            peer=self._wire.peer,
            helo=self._helo.name,
            tls=self._wire.tls_text(),
            login=self.login,
            hidden=self.service.hide_clients and self.completes,
            doubts=(*self._doubts, *transaction.doubts),
        )

    def _protocol(self, utf8: bool) -> str:
        """The "with" word of the Received line (RFC 3848); `utf8` says whether SMTPUTF8 was asked for."""
        if self._helo.verb != "EHLO":
            return "SMTP"
        # RFC 6531 section 4.3
        word = "UTF8SMTP" if utf8 else "ESMTP"
        return word + ("S" if self._wire.tls else "") + ("A" if self.login else "")

    def _drop_transaction(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.discard()

    @property
    def completes(self) -> bool:
        """Whether what a mail program left out of a message is added: RFC 6409 section 8 lets submission servers."""
        return self.door not in WORLD and self.door != "local"

    # -- policy ------------------------------------------------------------------------------------------------------

    @property
    def gate(self) -> Gate:
        """The rules that count for this client."""
        gates, service = self.service.gates, self.service
        # RFC 6409 section 4.3 keeps submission apart from the mail of the world; a listed network submits at any door.
        return gates.inbound if self.door in WORLD and not service.may_relay(self._wire.peer) else gates.submission

    async def ask(
        self,
        stage: Stage,
        transaction: Transaction | None = None,
        *,
        recipient: Address | None = None,
        message: int = 0,
        content: Content | None = None,
    ) -> Verdict:
        """What policy says at a stage, with what the stage has learnt; doubts that hold nothing up are kept."""
        verdict = await self.gate.ask(self._facts(stage, transaction, recipient, message, content))
        if verdict.ruling is Ruling.COULD_NOT_TELL:
            log_line("warning", "policy could not tell", why=verdict.why, found=verdict.evidence, door=self.door)
            if verdict.passes:
                doubts = self._doubts if transaction is None else transaction.doubts
                doubts.append((verdict.why, verdict.evidence))
        return verdict

    async def _passes(self, stage: Stage, command: str, recipient: Address | None = None) -> bool:
        """Whether a command goes on; where not, it is answered."""
        verdict = await self.ask(stage, self._transaction, recipient=recipient)
        if self.machine.closed:
            return False
        if verdict.say is not None:
            said = self.refused(verdict.say, verdict.why, command, recipient, verdict.evidence)
            self.machine.answer(said)
        return verdict.passes

    def _facts(
        self,
        stage: Stage,
        transaction: Transaction | None,
        recipient: Address | None,
        message: int,
        content: Content | None,
    ) -> Facts:
        wire = self._wire
        envelope = transaction.envelope if transaction is not None else NO_ENVELOPE
        return Facts(
            stage,
            session=self._number,
            door=self.door,
            peer=wire.peer,
            port=wire.port,
            helo=self._helo.name,
            esmtp=self._helo.verb != "HELO",
            tls=wire.tls_text(),
            trusted=self.service.may_relay(wire.peer),
            login=self.login,
            account=self._account,
            mechanism=self._mechanism,
            sender=envelope.sender,
            size=envelope.declared_size,
            smtputf8=envelope.smtputf8,
            recipient=recipient,
            recipients=tuple(one.address for one in envelope.recipients) if content is not None else (),
            message=message,
            content=content,
        )

    # -- small commands ----------------------------------------------------------------------------------------------

    async def reset(self, event: on.Rset) -> None:
        self._drop_transaction()
        self.machine.answer(RESET)

    async def noop(self, event: on.Noop) -> None:
        self.machine.answer(NOOP)

    async def help(self, event: on.Help) -> None:
        self.machine.answer(HELP)

    async def verify(self, event: on.Verify) -> None:
        # RFC 5321 section 7.3: 252 says nothing about who exists here.
        self.machine.answer(VRFY if event.verb == "VRFY" else NO_EXPN)

    async def quit(self, event: on.Quit) -> None:
        self.machine.answer(BYE)

    async def end_of_stream(self, event: on.EndOfStream) -> None:
        """The last event: what the machine refused by itself is written down, nothing of a transaction stays."""
        self._write_refusals_down()
        self._drop_transaction()

    def _write_refusals_down(self) -> None:
        """Once, at the end, however it came: by QUIT, a broken connection or a timeout."""
        refusals, self.machine.refusals = self.machine.refusals, []
        for line, reply in refusals:
            self.refused(reply, "protocol", line.decode("utf-8", "backslashreplace"))

    # -- refusals ----------------------------------------------------------------------------------------------------

    def refused(
        self,
        reply: Reply,
        why: str,
        command: str,
        recipient: Address | None = None,
        evidence: str = "",
        transaction: Transaction | None = None,
    ) -> Reply:
        """Write a refusal down and return the reply with the reference that `postroad why` finds."""
        self.service.counters.refused(self.door, reply.code, why)
        transaction = transaction or self._transaction
        return self.service.refusals.note(
            reply,
            why=why,
            command=command,
            door=self.door,
            peer=self._wire.peer,
            helo=self._helo.name,
            sender=transaction.envelope.sender_text if transaction is not None else "",
            recipient=str(recipient) if recipient is not None else "",
            login=self.login,
            found=evidence,
        )


Handler = Callable[[SmtpSession, Any], Coroutine[Any, Any, None]]

HANDLERS: Final[dict[type, Handler]] = {
    on.Hello: SmtpSession.hello,
    on.Mail: SmtpSession.mail,
    on.Rcpt: SmtpSession.rcpt,
    on.DataStart: SmtpSession.data,
    on.Content: SmtpSession.content,
    on.ContentEnd: SmtpSession.content_end,
    on.ChunkEnd: SmtpSession.chunk_end,
    on.ContentRefused: SmtpSession.content_refused,
    on.StartTls: SmtpSession.start_tls,
    on.Auth: SmtpSession.auth,
    on.AuthResponse: SmtpSession.auth_response,
    on.AuthCancel: SmtpSession.auth_cancel,
    on.Rset: SmtpSession.reset,
    on.Noop: SmtpSession.noop,
    on.Help: SmtpSession.help,
    on.Verify: SmtpSession.verify,
    on.Quit: SmtpSession.quit,
    on.EndOfStream: SmtpSession.end_of_stream,
}
