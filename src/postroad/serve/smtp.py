"""An SMTP session: what each command means here, answered through the machine.

The machine has already checked syntax, sequence and limits. The session asks the directory and the store and acts. The
transaction is one object that is thrown away after every end, reset or refusal, so nothing of it can leak into the
next (Postfix 20260724, Exim CVE-2020-28019).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from postroad.flow.dsn import without_success
from postroad.flow.intake import Arrival
from postroad.flow.submission import Submission
from postroad.rules.gate import Gate
from postroad.serve.admission import GOING_DOWN
from postroad.serve.conversation import Conversation
from postroad.serve.greeting import EarlyTalkers
from postroad.serve.logins import LoggedIn, Trouble
from postroad.serve.logs import log_line
from postroad.serve.sasl_exchange import Circumstances
from postroad.serve.smtp_login import CHALLENGE, SmtpLogin
from postroad.serve.smtp_message import Kept, keep
from postroad.serve.smtp_service import Service
from postroad.serve.smtp_transaction import TARGETS_MAX, Planned, Transaction
from postroad.serve.smtp_xclient import speak_for
from postroad.serve.tarpit import hold_s, pays
from postroad.store.account_records import Account
from postroad.values.address import Address
from postroad.values.envelope import Envelope, Recipient
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.facts import Content, Facts, Stage
from postroad.values.reply import Reply
from postroad.values.verdict import Ruling, Verdict
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
FULL_ENVELOPE: Final = Reply(
    452, "4.5.3", "The recipients so far lead to many others. Send to the rest in another transaction."
)
"""RFC 5321 section 4.5.3.1.10: who hears 452 behind a RCPT sends to the recipients it has, and then to the others."""
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
TOO_SLOW: Final = Reply(421, "4.4.2", "This transfer is too slow. Please reconnect and retry.")
TIMEOUT: Final = Reply(421, "4.4.2", "Timeout: nothing came for too long. Please reconnect.")
FULL: Final = Reply(452, "4.3.1", "Not enough space. Please retry later; nothing was lost.")
BUG: Final = Reply(421, "4.3.0", "Internal problem, nothing was lost. Please reconnect and retry.")
NOT_DURABLE: Final = Reply(451, "4.3.0", "The message could not be made safe on disk. Please retry; nothing was kept.")
OVERDUE: Final = Reply(421, "4.3.0", "This takes too long here: the storage does not answer. Please retry later.")


class SmtpSession:
    """One client at one of our doors (mx, submission, submissions)."""

    __slots__ = (
        "_account",
        "_auth",
        "_client",
        "_doubts",
        "_draining",
        "_end_point",
        "_gone",
        "_helo",
        "_line_since",
        "_mechanism",
        "_number",
        "_opened",
        "_paid",
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
        self._auth: SmtpLogin | None = None
        # Taken with the handshake: a certificate that is loaded later is not the one this client has seen.
        self._end_point = service.tls.end_point if wire.tls else b""
        self._opened = service.clock.monotonic()
        self._draining = False
        self._line_since = 0.0
        self._paid = 0
        self._client: on.XClient | None = None
        self._gone = False
        wire.work_s = FINAL_DOT_S

    # -- for the driver ----------------------------------------------------------------------------------------------

    def opened(self) -> Coroutine[Any, Any, None] | None:
        """Greet (RFC 5321 section 4.3.1), with no product and no version; or what has to be done first."""
        self.service.counters.session_opened(self.door)
        early = self.service.early
        if early is not None and self.door == "mx" and (seconds := early.wait_s(self._wire.peer)):
            return self._let_wait(early, seconds)
        if self.gate.asks(Stage.CONNECT):
            return self._welcome()
        self.machine.greet(self._greeting())
        return None

    async def _let_wait(self, early: EarlyTalkers, seconds: float) -> None:
        """Rows S13 and S15: who speaks now has been refused by the machine when the time is over."""
        await asyncio.sleep(seconds)
        if self.machine.closed or self._wire.over:
            return
        early.passed(self._wire.peer)
        await self._welcome()

    async def _welcome(self) -> None:
        greeting = await self._first_word("")
        if not self.machine.closed:
            self.machine.greet(greeting)

    async def _first_word(self, command: str) -> Reply:
        """220, or what the gate says instead: 554 to whom we are of no service (RFC 5321 section 3.1)."""
        if self.gate.asks(Stage.CONNECT):
            verdict = await self.ask(Stage.CONNECT)
            if verdict.say is not None:
                # RFC 5321 section 3.8: 421 is how a server says that it cannot serve for now.
                say = replace(verdict.say, code=421) if verdict.say.temporary else verdict.say
                return self.refused(say, verdict.why, command, evidence=verdict.evidence)
        return self._greeting()

    def _greeting(self) -> Reply:
        return Reply(220, "", f"{self.service.hostname} ESMTP")

    def penalty_s(self) -> float:
        """What a stranger pays for errors; users who have logged in and listed networks pay nothing."""
        errors, paid = self.machine.errors, self._paid
        if errors == paid:
            return 0.0
        self._paid = errors
        peer, service = self._wire.peer, self.service
        stranger = service.tarpit and not self.login and not service.may_relay(peer) and pays(peer)
        return hold_s(paid, errors) if stranger else 0.0

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
        self._gone = True
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
        before, self._helo = self._helo, event if self._client is None else self._client.hello(event)
        if self.gate.asks(Stage.HELLO) and not await self._passes(Stage.HELLO, f"{event.verb} {event.name}"):
            # RFC 5321 section 4.1.4: "The SMTP server MUST stay in the same state after transmitting these replies that
            # it was in before the EHLO was received."
            self._helo = before
            return
        self._drop_transaction()
        self.machine.answer(HELO_OK)

    async def start_tls(self, event: on.StartTls) -> None:
        self._drop_transaction()
        self.machine.answer(TLS_GO)
        self._end_point = self.service.tls.end_point
        try:
            await self._wire.start_tls(self.service.tls.of(self.door))
        except OSError as error:
            self.service.counters.refused(self.door, 0, "tls handshake")
            raise ConnectionResetError(f"TLS handshake failed: {error}") from None
        # RFC 3207 section 4.2: nothing that was learnt in the clear counts any more.
        self._begin_anew()
        self.machine.tls_started()

    def _begin_anew(self) -> None:
        self._helo = on.Hello("HELO", "")
        self._account, self.login, self._mechanism = 0, "", ""

    async def become(self, client: on.XClient, account: Account | None) -> Reply:
        """Begin anew as the session of a client that a listed peer names; the reply says whether it is let in."""
        if client.address is not None and (away := self._wire.become(client.address, client.port or 0)) is not None:
            return self.refused(away, "too many connections", f"XCLIENT ADDR={client.address}")
        self._begin_anew()
        self._client = client
        if account is not None:
            self._account, self.login, self._mechanism = account.id, account.address, "XCLIENT"
        # What judges remember of the peer that speaks must not be taken for its client's.
        self.service.gates.ended(self._number)
        self._number = next(self.service.numbers)
        word = await self._first_word("XCLIENT")
        # A refused client must not go on as if nothing had been said: 421 ends the connection, 554 all but QUIT.
        return word if word.code in (220, 421) else replace(word, code=554)

    async def auth(self, event: on.Auth) -> None:
        """Begin an exchange (RFC 4954); it is offered under TLS only."""
        where = Circumstances("smtp", self._wire.peer, self._end_point)
        self._auth = SmtpLogin(self.service.logins, event.mechanism, where, self.refused)
        await self._auth_take(event.initial)

    async def auth_response(self, event: on.AuthResponse) -> None:
        """Go on with an exchange."""
        await self._auth_take(event.octets)

    async def auth_cancel(self, event: on.AuthCancel) -> None:
        """The client gave up, or the machine did."""
        self._auth = None
        self.machine.answer(event.reply)

    async def _auth_take(self, octets: bytes | None) -> None:
        exchange = self._auth
        assert exchange is not None
        reply, found = await exchange.take(octets)
        if self.machine.closed:
            return
        if reply.code != CHALLENGE:
            self._auth = None
        if isinstance(found, LoggedIn) and not await self._let_in(found, exchange.mechanism):
            return
        if found is not None:
            self.service.counters.logged_in("smtp", found.kind if isinstance(found, Trouble) else "ok")
        self.machine.answer(reply)

    async def _let_in(self, found: LoggedIn, mechanism: str) -> bool:
        """Keep who has proved a login, unless policy refuses, which then is answered."""
        self._account, self.login, self._mechanism = found.account, found.address, mechanism
        gate = self.service.gates.submission
        if gate.asks(Stage.AUTH) and not await self._passes(Stage.AUTH, f"AUTH as {self.login}"):
            self._account, self.login, self._mechanism = 0, "", ""
            return False
        self.machine.authenticated(self.login)
        return True

    # -- the transaction ---------------------------------------------------------------------------------------------

    async def mail(self, event: on.Mail) -> None:
        service = self.service
        if self._draining:
            self.machine.answer(GOING_DOWN)
            return
        if self.door not in WORLD and not self.login and not service.may_relay(self._wire.peer):
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
            release_us=params.hold_until_us,
            requiretls=params.requiretls,
        )
        self._transaction = Transaction(envelope, self.submission())
        if self.gate.asks(Stage.MAIL) and not await self._passes(Stage.MAIL, f"MAIL FROM:<{envelope.sender_text}>"):
            self._transaction = None
            return
        self.machine.answer(MAIL_OK)

    async def rcpt(self, event: on.Rcpt) -> None:
        transaction = self._transaction
        assert transaction is not None
        if transaction.targets >= TARGETS_MAX:  # before planning, which costs a read for each of them
            self.machine.answer(self.refused(FULL_ENVELOPE, "too many targets", "RCPT", event.address))
            return
        plan = await self.service.planner.plan(
            event.address, size=transaction.envelope.declared_size, may_relay=self.ours, peer=self._wire.peer
        )
        if plan.refusal is not None and (told := self.service.gates.refused) is not None:
            await told(self._facts(Stage.RCPT, transaction, event.address, 0, None), plan.refusal)
        if self.machine.closed:
            return
        if plan.refusal is not None:
            command = f"RCPT TO:<{event.address}>"
            self.machine.answer(self.refused(plan.refusal, plan.why, command, event.address, plan.evidence))
            return
        address, params = event.address, event.params
        if self.gate.asks(Stage.RCPT) and not await self._passes(Stage.RCPT, f"RCPT TO:<{address}>", recipient=address):
            return
        notify = params.notify
        if "SUCCESS" in notify and self.door == "mx" and not self.ours:
            # Reports of success to whomever a stranger names would be backscatter.
            notify = without_success(notify)
        transaction.add(Recipient(address, notify, params.orcpt), plan)
        self.machine.answer(RCPT_OK)

    async def data(self, event: on.DataStart) -> None:
        self._begin_content()
        self.machine.answer(GO_AHEAD)

    def _begin_content(self) -> Transaction:
        transaction = self._transaction
        assert transaction is not None
        if transaction.draft is None:
            signed = self.ours and self.service.intake.signs
            transaction.begin(self.service.spool.draft(), self.service.clock.monotonic(), signed=signed)
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
        if transaction.submission is not None:
            transaction.submission.update(chunk)
        draft.write(chunk)
        if draft.needs_flush:
            try:
                await draft.flush_to_disk()
            except StoreFull:
                self._refuse_content(transaction, FULL, "no space")
            except StoreBroken:
                self._refuse_content(transaction, NOT_DURABLE, "store broken")
        elif self.service.spool.crowded:
            self._refuse_content(transaction, FULL, "no space")

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
        given = tuple(transaction.planned) if self.machine.lmtp else ()  # policy may change the envelope
        kept = await keep(self, transaction)
        if self.machine.closed:
            return
        self._answer_kept(kept, given)
        if self._draining:
            self.machine.close_with(GOING_DOWN)

    def submission(self) -> Submission | None:
        """What a message of this client is known again by and counted as; None for mail from the world."""
        return self.service.submissions.begin(self._account) if self._account else None

    def arrival(self, transaction: Transaction) -> Arrival:
        """How this message came, for its Received line and its story."""
        return Arrival(
            protocol=self._protocol(transaction.envelope.smtputf8),
            door=self.door,
            peer=self._wire.peer,
            via=self._wire.via,
            helo=self._helo.name,
            tls=self._wire.tls_text(),
            login=self.login,
            ours=self.ours,
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
    def ours(self) -> bool:
        """Whether this client may send elsewhere and in our names: it has logged in, or its network is listed."""
        return bool(self.login) or self.service.may_relay(self._wire.peer)

    @property
    def completes(self) -> bool:
        """Whether what a mail program left out of a message is added: RFC 6409 section 8 lets submission servers."""
        return self.door not in WORLD and self.door != "local"

    def _answer_kept(self, kept: Kept, given: tuple[Planned, ...]) -> None:
        """Say what became of the message; `given` are the recipients at a door that answers each of them."""
        self.machine.answer(kept.reply)

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
        try:
            verdict = await self.gate.ask(self._facts(stage, transaction, recipient, message, content))
        finally:
            if self._gone:  # whoever was asked behind its end keeps nothing for it either
                self.service.gates.ended(self._number)
        if verdict.ruling is Ruling.COULD_NOT_TELL:
            log_line("warning", "policy could not tell", why=verdict.why, found=verdict.evidence, door=self.door)
            if verdict.passes:
                doubts = self._doubts if transaction is None else transaction.doubts
                doubts.append((verdict.why, verdict.evidence))
        return verdict

    async def _passes(self, stage: Stage, command: str, recipient: Address | None = None) -> bool:
        """Whether a command goes on; where not, it is answered."""
        transaction = self._transaction if stage is not Stage.HELLO else None  # which ends the one that is open
        verdict = await self.ask(stage, transaction, recipient=recipient)
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
    on.XClient: speak_for,
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
