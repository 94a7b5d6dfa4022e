"""One connection to one host and the mail it carries: the driver of `wire.smtp.ClientMachine`.

A `Courier` is opened, takes parcel after parcel, and says QUIT. It decides nothing: what answers mean is
`flow.judge`'s, which mail comes next and which host after a failure is `flow.pool`'s.
"""

from __future__ import annotations

import asyncio
import datetime
import secrets
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Protocol

from postroad.flow.judge import (
    NEEDS_ENCRYPTION,
    UNKNOWN_COMMAND,
    Step,
    judge,
    judge_connect,
    judge_loss,
    judge_transaction,
    unrequired,
    unsendable,
)
from postroad.flow.parcels import RECIPIENTS_MAX, Delivery, Letter, Parcel
from postroad.flow.return_path import ReturnPaths
from postroad.flow.route import Hop
from postroad.flow.routing import PLAIN_GUISE, Guise
from postroad.flow.tls_policy import OPPORTUNISTIC, Level, TlsPolicy
from postroad.net.dial import Link, TlsFailed, Unreachable, dial
from postroad.net.tls import ClientTls, peer_chain, peer_end_point, protection
from postroad.store.records import TLS_REQUIRED
from postroad.trust import dane
from postroad.values.address import Address, AddressError
from postroad.values.envelope import Recipient
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.outcome import About, Fate, Outcome
from postroad.values.reply import Reply
from postroad.wire.data import Stuffer, stuff
from postroad.wire.smtp.client import ClientMachine, TlsWish
from postroad.wire.smtp.events import (
    ClientEvent,
    Closed,
    Lost,
    Ready,
    Refused,
    SendContent,
    StartTlsRefused,
    TlsWanted,
    TransactionDone,
    TransactionResult,
)
from postroad.wire.smtp.extensions import NO_EXTENSIONS, Extensions
from postroad.wire.smtp.grammar import ascii_orcpt

TLS_HANDSHAKE_S: Final = 30.0
"""A handshake is two round trips and some arithmetic."""

QUIT_S: Final = 5.0
"""How long the answer to QUIT is waited for: nothing depends on it."""

GREETING_S: Final = 120.0
"""RFC 5321 section 4.5.3.2.1 asks for 5 minutes; a host that needs over 2 to say hello is tried again later instead,
so that dead hosts do not hold connections of the living."""

_UNREAD: Final = Reply(451, "4.3.0", "our own copy of the message could not be read")


class Bodies(Protocol):
    """Where body files are read from (`store.spool.Spool`)."""

    def read(self, body_file: str) -> AsyncIterator[bytes]:
        """The octets in pieces; raises StoreBroken."""
        ...


@dataclass(frozen=True, slots=True)
class Manner:
    """How this server speaks to others."""

    ehlo_name: str
    tls: ClientTls | None
    """None: never STARTTLS."""
    connect_timeout_s: float = 30.0
    bind: tuple[str, ...] = ()
    patience_s: float = 600.0
    """No answer is waited for longer, whatever the stage of the dialog would allow."""
    names: Mapping[str, str] = field(default_factory=dict)
    """How we call ourselves, by source address: the name that its PTR record leads to."""
    return_paths: ReturnPaths | None = None
    """Whose mail is sent with signed return paths."""

    def name_of(self, guise: Guise, address: str) -> str:
        """The EHLO name of a connection to an address."""
        source = next((own for own in guise.sources or self.bind if (":" in own) is (":" in address)), "")
        return guise.ehlo or self.names.get(source, "") or self.ehlo_name


@dataclass(slots=True)
class Trip:
    """What became of one parcel."""

    results: list[tuple[Delivery, Outcome, Step]] = field(default_factory=list)
    lost: bool = False
    """The connection is gone."""
    stale: bool = False
    """It was gone before the host had a say about this parcel: the host closed an idle connection."""
    number: int = 1
    """Which one of the connection it was."""
    unknown_chunks: bool = False
    """The host did not know BDAT, which it had announced."""


@dataclass(slots=True)
class NoCourier:
    """Why a host took no session."""

    outcome: Outcome
    try_plain: bool = False
    """TLS was the reason; the same host may do without."""
    unreached: bool = False
    """No connection came to be: the network's fault, or that of the address."""
    fault: str = ""
    """TLS was the reason, in a word of RFC 8460 section 4.3."""
    detail: str = ""
    """What the handshake met, for the report to the domain."""


class Courier:
    """A session with one host, ready for mail."""

    __slots__ = (
        "_bodies",
        "_chain",
        "_guise",
        "_link",
        "_machine",
        "_manner",
        "_session",
        "_why",
        "bypass",
        "carried",
        "chunks",
        "domains",
        "extensions",
        "fault",
        "hop",
        "limit",
        "policy",
        "reached",
        "tls",
        "unproved",
        "verified",
        "where",
    )

    def __init__(
        self,
        hop: Hop,
        link: Link,
        manner: Manner,
        bodies: Bodies,
        policy: TlsPolicy = OPPORTUNISTIC,
        guise: Guise = PLAIN_GUISE,
    ) -> None:
        self.hop = hop
        self.where = str(hop)
        self.policy = policy
        """What held when the connection was made; nothing that asks for more is sent over it."""
        self.tls = ""
        """How the connection is protected, in words; empty in the clear."""
        self.verified = False
        """Whether the host has proved who it is, by whatever the policy asks for or else by an authority."""
        self.unproved = ""
        """Why no authority vouches for the host's name, in a word of RFC 8460 section 4.3; empty when one does."""
        self.fault = ""
        """Why the connection is in the clear, in such a word."""
        self.domains: set[str] = set()
        """Domains whose mail was carried."""
        self.reached: set[str] = set()
        """Domains of recipients that were named, where the host takes only so many in a session."""
        self.carried = 0
        """Transactions so far."""
        self.chunks = True
        """BDAT may be used where it is announced."""
        self.bypass = False
        """It was opened past better hosts, for mail that those cannot carry and for no other."""
        self.extensions = NO_EXTENSIONS
        self.limit = RECIPIENTS_MAX
        """Recipients the host takes in one transaction."""
        self._link = link
        self._manner = manner
        self._bodies = bodies
        self._guise = guise
        self._session: ssl.SSLObject | None = None
        self._chain: Sequence[bytes] = ()
        self._machine = ClientMachine(ehlo_name=manner.name_of(guise, hop.address), lmtp=hop.lmtp)
        self._why = ""

    # -- opening -----------------------------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        hop: Hop,
        manner: Manner,
        bodies: Bodies,
        *,
        plain: bool = False,
        policy: TlsPolicy = OPPORTUNISTIC,
        guise: Guise = PLAIN_GUISE,
    ) -> Courier | NoCourier:
        """Connects and opens a session in which the policy holds.

        `plain` leaves STARTTLS out where the policy allows the clear.
        """
        if policy.hindrance is not None:
            return NoCourier(policy.hindrance, fault=policy.fault, detail=policy.hindrance.cause)
        assert guise.login is None or policy.level >= Level.VERIFY, "a password for whoever answers"
        where = str(hop)
        if (policy.must or hop.tls_first) and manner.tls is None:
            return NoCourier(_switched_off(policy, where))
        try:
            bind = guise.sources or manner.bind
            link = await dial(hop.address, hop.port, patience=manner.connect_timeout_s, bind=bind)
        except Unreachable as error:
            return NoCourier(judge_connect(str(error), where), unreached=True)
        courier = cls(hop, link, manner, bodies, policy, guise)
        try:
            refusal = await courier._begin(_tls_wish(policy, hop, manner, plain))
        except BaseException:
            link.abort()
            raise
        if refusal is None:
            return courier
        link.close()
        return refusal

    async def _begin(self, wish: TlsWish) -> NoCourier | None:
        """Everything from the connection to the first transaction; returns why it came to nothing."""
        end_point = b""
        if self.hop.tls_first:
            refusal = await self._start_tls()
            if refusal is not None:
                refusal.try_plain = False
                return refusal
            end_point = peer_end_point(self._session)
        nonce = secrets.token_urlsafe(18) if self._guise.login is not None else ""
        self._machine.start(
            tls=wish, login=self._guise.login, under_tls=self.hop.tls_first, nonce=nonce, end_point=end_point
        )
        return await self._open(wish)

    async def _open(self, wish: TlsWish) -> NoCourier | None:
        handshake = False
        while True:
            event = await self._next(GREETING_S)
            match event:
                case Ready(extensions):
                    self._learn(extensions)
                    if not self.tls and wish != "never":
                        self.fault = "starttls-not-supported"
                    return self._ourselves() or self._unrequired()
                case TlsWanted():
                    handshake = True
                    no_tls = await self._start_tls()
                    if no_tls is not None:
                        return no_tls
                    self._machine.tls_started(peer_end_point(self._session) if self._guise.login is not None else b"")
                case StartTlsRefused(tls_reply):
                    if wish == "must":
                        return self._no_starttls(tls_reply)
                case Refused(stage, reply):
                    return NoCourier(self._refusal(stage, reply))
                case Lost(stage, why, lost_reply):
                    outcome = judge_loss(stage, self._why or why, lost_reply, self.where, self.tls)
                    by_tls = wish != "never" and (handshake or stage == "starttls")
                    fault = "validation-failure" if by_tls else ""
                    return NoCourier(outcome, try_plain=by_tls and wish == "may", fault=fault, detail=outcome.cause)
                case _:
                    raise AssertionError(f"{event} while a session opens")

    async def _start_tls(self) -> NoCourier | None:
        """Makes the handshake and sees that the policy holds, before anything is said under TLS."""
        tls = self._manner.tls
        assert tls is not None
        # RFC 3207 section 4.2: what came in the clear counts for nothing, and behind the 220 it would pass for the
        # server's words under TLS.
        if self._link.unread:
            return self._no_tls("octets behind the 220 to STARTTLS")
        patience = min(TLS_HANDSHAKE_S, self._manner.patience_s)
        name = self.hop.address if self.hop.host.startswith("[") else self.hop.host
        try:
            # RFC 7672 section 8.1: "the SMTP client MUST send the TLS SNI extension containing the TLSA base domain".
            asked_for = self.policy.names[0] if self.policy.level is Level.DANE else name
            with tls.sessions.resuming(tls.context, asked_for, self._session_key) as asked_name:
                session: ssl.SSLObject | None = await self._link.start_tls(tls.context, asked_name, patience)
        except TlsFailed as error:
            tls.sessions.forget(self._session_key)
            return self._no_tls(str(error))
        if session is None:
            return self._no_tls("TLS handshake failed")
        refusal = self._prove(tls, session, name)
        if refusal is None:
            self._session = session
        else:
            tls.sessions.forget(self._session_key)
        return refusal

    @property
    def _session_key(self) -> str:
        """What a TLS session may be resumed for: this host at this address, under the same policy."""
        return f"{self.where} {self.policy.key}"

    def _no_tls(self, why: str) -> NoCourier:
        outcome = judge_loss("tls", why, None, self.where, "")
        if self.policy.must:
            cause = f"{why}, and {self.policy.why} requires it"
            outcome = self._insecure("4.7.5", cause)
        return NoCourier(outcome, try_plain=not self.policy.must, fault="validation-failure", detail=why)

    def _prove(self, tls: ClientTls, session: ssl.SSLObject, name: str) -> NoCourier | None:
        """Looks at the host's certificate as the policy asks."""
        policy, chain = self.policy, self._shown(tls, session)
        self.unproved = tls.fault(chain, name)
        fault = why = ""
        if policy.level is Level.DANE:
            now = datetime.datetime.now(datetime.UTC)
            why = dane.authenticate(chain, policy.tlsa, policy.names, now)
            fault = "validation-failure" if why else ""
        elif policy.level is Level.VERIFY:
            fault = self.unproved
            why = f"its certificate does not prove the name {name}: {_FAULTS[fault]}" if fault else ""
        if why:
            outcome = self._insecure("4.7.5", f"{why} ({policy.why} requires it)", protection(session))
            return NoCourier(outcome, fault=fault, detail=why)
        self.verified = policy.level is Level.DANE or not self.unproved
        self.tls = f"{protection(session)} {'verified' if self.verified else 'unverified'}"
        if policy.must:
            self.tls += f" ({policy.why})"
        return None

    def _shown(self, tls: ClientTls, session: ssl.SSLObject) -> Sequence[bytes]:
        """The host's certificates, its own first."""
        if session.session_reused:
            self._chain = tls.sessions.chain(self._session_key, session.getpeercert(binary_form=True))
        else:
            self._chain = peer_chain(session)
        return self._chain

    def _no_starttls(self, reply: Reply | None) -> NoCourier:
        how = f"answered STARTTLS with {reply}" if reply is not None else "does not offer STARTTLS"
        outcome = self._insecure("4.7.10", f"the host {how}, and {self.policy.why} requires it")
        return NoCourier(outcome, fault="starttls-not-supported", detail=outcome.cause)

    def _unrequired(self) -> NoCourier | None:
        """A host that does not promise what REQUIRETLS asks of it gets none of that mail."""
        if not self.policy.requiretls or self.extensions.requiretls:
            return None
        return NoCourier(unrequired("the host does not offer REQUIRETLS", self.where, self.tls))

    def _insecure(self, status: str, cause: str, tls: str = "") -> Outcome:
        """The outcome at a host where the policy does not hold: for now, but for REQUIRETLS for good."""
        if self.policy.requiretls:
            return unrequired(f"REQUIRETLS: {cause}", self.where, tls, NEEDS_ENCRYPTION)
        where = f"{cause} ({self.where})" if self.where else cause
        return Outcome(Fate.DEFERRED, About.HOST, where, Reply(451, status, cause), "", tls)

    def _ourselves(self) -> NoCourier | None:
        """A configured host that bears our own name is ourselves: mail would come back until its hops are used up."""
        if not self.hop.fixed or self._machine.peer != self._manner.ehlo_name.lower():
            return None
        cause = "the configured host is this server itself"
        return NoCourier(Outcome(Fate.DEFERRED, About.HOST, cause, Reply(451, "4.4.6", cause), self.where, self.tls))

    def _learn(self, extensions: Extensions) -> None:
        self.extensions = extensions
        if extensions.max_recipients:
            self.limit = min(RECIPIENTS_MAX, extensions.max_recipients)

    def _refusal(self, stage: str, reply: Reply) -> Outcome:
        meaning = judge(stage, reply)
        return Outcome(meaning.fate, meaning.about, meaning.cause, reply, self.where, self.tls)

    # -- one parcel --------------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether the host has said and done nothing since the last parcel that ends the session."""
        return not self._machine.closed and not self._link.unread

    async def carry(self, parcel: Parcel) -> Trip:
        """Sends one parcel and tells what became of every delivery in it."""
        trip = Trip()
        deliveries = self._sendable(parcel, trip)
        if not deliveries:
            return trip
        letter = parcel.letter
        head = deliveries[0].prefix + (letter.header or b"")
        machine = self._machine
        smtputf8 = self.extensions.smtputf8 and _needs_utf8(letter, deliveries)
        self.carried += 1
        trip.number = self.carried
        machine.begin(
            self._return_path(letter, deliveries),
            [_recipient(delivery, smtputf8) for delivery in deliveries],
            size=len(head) + len(letter.body) if letter.body is not None else len(deliveries[0].prefix) + letter.size,
            body8bit=letter.eightbit,
            smtputf8=smtputf8,
            ret=letter.ret,
            envid=letter.envid,
            requiretls=letter.tls == TLS_REQUIRED,
            # Worth its saved round trip only while a refused recipient costs no more than some packets.
            chunking=self.chunks and letter.body is not None,
        )
        event = await self._next()
        if type(event) is SendContent:
            try:
                if await self._send_content(letter, head, event.stuffed):
                    machine.content_sent()
            except (StoreBroken, StoreFull, ValueError) as error:
                return self._unreadable(trip, deliveries, error)
            event = await self._next()
        if type(event) is not TransactionDone:
            raise AssertionError(f"{event} in a transaction")
        self._conclude(trip, deliveries, event.result)
        return trip

    def _return_path(self, letter: Letter, deliveries: Sequence[Delivery]) -> Address | None:
        """The envelope sender of a transaction; None for the null sender, which stays what it is."""
        if not letter.sender:
            return None
        sender, paths = _address(letter.sender), self._manner.return_paths
        if paths is None or self.hop.lmtp or not paths.wants(letter.sender):
            return sender
        return paths.make(sender, letter.id, [delivery.recipient for delivery in deliveries])

    async def take_back(self) -> None:
        """Takes an open transaction back with RSET and says goodbye; never raises."""
        if self.usable:
            self._machine.reset()
            await self._next(QUIT_S)
        await self.quit()

    async def ask(self, recipients: Sequence[Address], sender: Address | None = None) -> list[Reply] | Outcome:
        """Whether the host would take mail for these, from this sender or the null one: its reply to each, without
        sending any.

        An outcome instead when it judged none of them: it refused the sender, or the connection was lost.
        """
        needs_utf8 = any(one is not None and one.needs_utf8 for one in (*recipients, sender))
        if needs_utf8 and not self.extensions.smtputf8:
            return unsendable("5.6.7", "the host cannot take this address (no SMTPUTF8)", self.where, self.tls)
        machine = self._machine
        self.carried += 1
        machine.ask(recipients, sender=sender, smtputf8=needs_utf8)
        event = await self._next()
        if type(event) is not TransactionDone:
            raise AssertionError(f"{event} in a transaction")
        result = event.result
        if result.mail is not None and not result.mail.positive:
            return self._refusal("mail", result.mail)
        if machine.closed and result.recipients[0].code == 421:
            lost = machine.next_event()
            if isinstance(lost, Lost):
                return judge_loss(lost.stage, self._why or lost.why, lost.reply, self.where, self.tls)
        return result.recipients

    def _sendable(self, parcel: Parcel, trip: Trip) -> list[Delivery]:
        """The deliveries this host's extensions can carry; the others are not offered to it."""
        sendable = parcel.deliveries
        if not self.extensions.smtputf8 and not all(delivery.recipient.isascii() for delivery in sendable):
            sendable = []
            for delivery in parcel.deliveries:
                if _address(delivery.recipient).needs_utf8:
                    # RFC 6531 section 3.5: X.6.7 "Non-ASCII addresses not permitted for that sender/recipient". Said
                    # before anything about the message: another message would not arrive there either.
                    cause = "the host cannot take this address (no SMTPUTF8)"
                    trip.results.append((delivery, unsendable("5.6.7", cause, self.where, self.tls), Step.UNFIT))
                else:
                    sendable.append(delivery)
        reason = self._hindrance(parcel.letter)
        if reason is not None:
            trip.results += [(delivery, reason, Step.UNFIT) for delivery in sendable]
            return []
        return sendable

    def _hindrance(self, letter: Letter) -> Outcome | None:
        """Why no recipient of the letter can be served by this host."""
        known = self.extensions
        if known.size and letter.size > known.size:
            # RFC 1870 section 4: what is larger than the announced size "will be rejected with a permanent failure".
            text = f"the message has {letter.size} octets, the host takes {known.size}"
            return unsendable("5.3.4", text, self.where, self.tls)
        if letter.smtputf8 and not known.smtputf8:
            if letter.sender and _address(letter.sender).needs_utf8:
                return unsendable(
                    "5.6.7", "the host cannot take the sender's address (no SMTPUTF8)", self.where, self.tls
                )
            if letter.header is not None and not letter.header.isascii():
                # RFC 6531 section 4.2: X.6.9 "UTF-8 header message cannot be transferred to one or more recipients"
                return unsendable(
                    "5.6.9", "the host cannot take UTF-8 header fields (no SMTPUTF8)", self.where, self.tls
                )
        if letter.eightbit and not known.eightbitmime:
            # RFC 6152 section 3: a server that does not announce 8BITMIME must not be sent 8-bit content.
            return unsendable("5.6.3", "the host takes no 8-bit content (no 8BITMIME)", self.where, self.tls)
        return None

    async def _send_content(self, letter: Letter, head: bytes, stuffed: bool) -> bool:
        """Writes the message as DATA or BDAT wants it; returns whether all of it was written.

        Raises StoreBroken or StoreFull when a body cannot be read, ValueError when it may not be sent.
        """
        link = self._link
        if letter.body is not None:
            octets = head + letter.body
            link.write(stuff(octets) if stuffed else octets)
            return True
        stuffer = Stuffer()
        link.write(stuffer.feed(head) if stuffed else head)
        async for piece in self._bodies.read(letter.body_file):
            link.write(stuffer.feed(piece) if stuffed else piece)
            try:
                await link.room(min(self._machine.patience, self._manner.patience_s))
            except TimeoutError:
                self._give_up("the host stopped reading")
                return False
            if link.ended:
                return False
        if stuffed:
            link.write(stuffer.finish())
        return True

    def _unreadable(self, trip: Trip, deliveries: Sequence[Delivery], error: Exception) -> Trip:
        """Our own fault: the connection is cut in the middle, so that the host keeps nothing."""
        self._link.abort()
        if isinstance(error, ValueError):
            outcome = unsendable("5.6.0", f"the message may not be sent: {error}", "", "")
        else:
            outcome = Outcome(Fate.DEFERRED, About.BODY, f"{_UNREAD.text}: {error}", _UNREAD)
        trip.results += [(delivery, outcome, Step.GO_ON) for delivery in deliveries]
        trip.lost = True
        return trip

    def _conclude(self, trip: Trip, deliveries: Sequence[Delivery], result: TransactionResult) -> None:
        lost: Lost | None = None
        if self._machine.closed:
            trip.lost = True
            event = self._machine.next_event()
            lost = event if isinstance(event, Lost) else None
        for index, delivery in enumerate(deliveries):
            outcome, step = judge_transaction(result, index, self.where, self.tls)
            reply = outcome.reply
            if lost is not None and lost.reply is None and reply is not None and reply.code == 421:
                outcome = judge_loss(lost.stage, self._why or lost.why, None, self.where, self.tls)
                step = Step.GO_ON if result.unsure else Step.OTHER_HOST
            if delivery.notify and outcome.fate is Fate.DELIVERED:
                outcome = replace(outcome, dsn=self.extensions.dsn)
            if self._machine.chunked and reply is not None and reply is result.final and reply.code in UNKNOWN_COMMAND:
                # It takes the octets behind BDAT for commands: nothing more may be said over this connection.
                trip.unknown_chunks = trip.lost = True
                cause = f"the host announces CHUNKING and answers BDAT with {reply.code}"
                outcome, step = replace(outcome, fate=Fate.DEFERRED, about=About.HOST, cause=cause), Step.OTHER_HOST
            trip.results.append((delivery, outcome, step))
        if trip.unknown_chunks:
            self.abort()
        if lost is not None and trip.number > 1 and result.mail is None:
            trip.stale = True

    # -- its end -----------------------------------------------------------------------------------------------------

    async def quit(self) -> None:
        """Says goodbye and closes; never raises."""
        if self._session is not None and self._manner.tls is not None:
            # With TLS 1.3 tickets come after the handshake, so that the last moment is the best.
            self._manner.tls.sessions.keep(self._session_key, self._session, self._chain)
        if self.usable:
            self._machine.quit()
            try:
                async with asyncio.timeout(QUIT_S):
                    while not isinstance(await self._next(QUIT_S), Closed | Lost):
                        pass
            except TimeoutError:
                pass
        self._link.close()

    def abort(self) -> None:
        """Cuts the connection: what was not answered yet is unknown to us."""
        self._link.abort()

    # -- octets ------------------------------------------------------------------------------------------------------

    async def _next(self, patience_s: float = 1e9) -> ClientEvent:
        """The machine's next event, exchanging octets with the host until there is one."""
        machine, link, time = self._machine, self._link, asyncio.get_running_loop().time
        answered, since = machine.answered, time()
        received = b""
        while True:
            event = machine.next_event()
            if machine.answered != answered:
                answered, since = machine.answered, time()
            octets = machine.take_output()
            if octets:
                link.write(octets)
            if event is not None:
                return event
            if received and not octets:
                # A part of what one flight of commands is answered with; the rest is on its way.
                link.acknowledge()
            patience = min(machine.patience, patience_s, self._manner.patience_s)
            try:
                received = await link.receive(max(0.0, since + patience - time()))
            except TimeoutError:
                self._give_up(f"timeout after {patience:g} s")
                continue
            if received:
                machine.receive(received)
            else:
                self._why = self._why or link.why
                machine.receive_eof()

    def _give_up(self, why: str) -> None:
        """The host is silent: for the machine that is the end of the connection."""
        self._why = why
        self._link.abort()
        self._machine.receive_eof()


_FAULTS: Final = {
    "certificate-expired": "it has expired or is not valid yet",
    "certificate-host-mismatch": "it is for other names",
    "certificate-not-trusted": "no known authority vouches for it",
}


def _switched_off(policy: TlsPolicy, where: str) -> Outcome:
    """The outcome where TLS must be and relay.tls says that it must not."""
    if policy.requiretls:
        return unrequired("REQUIRETLS, and relay.tls switches TLS off", where, status=NEEDS_ENCRYPTION)
    cause = f"{policy.why if policy.must else 'smtps'} requires TLS, and relay.tls switches it off"
    return Outcome(Fate.DEFERRED, About.HOST, cause, Reply(451, "4.7.5", cause), where)


def _tls_wish(policy: TlsPolicy, hop: Hop, manner: Manner, plain: bool) -> TlsWish:
    """What STARTTLS is worth to us."""
    if policy.must:
        return "must"
    # Nobody listens on a unix socket but the machine itself.
    return "never" if plain or policy.level is Level.NONE or manner.tls is None or not hop.port else "may"


def _needs_utf8(letter: Letter, deliveries: Sequence[Delivery]) -> bool:
    """Whether the transaction needs SMTPUTF8 (RFC 6531 section 3.4).

    Header fields alone ask for it only in mail that came with it: raw 8-bit in old mail was never UTF-8 by promise.
    """
    if letter.smtputf8 and letter.header is not None and not letter.header.isascii():
        return True
    return not letter.sender.isascii() or any(not delivery.recipient.isascii() for delivery in deliveries)


@lru_cache(maxsize=4096)
def _address(text: str) -> Address:
    return Address.parse(text, utf8=True)


def _recipient(delivery: Delivery, smtputf8: bool) -> Recipient | Address:
    address = _address(delivery.recipient)
    if delivery.notify or delivery.orcpt:
        # RFC 3461 section 5.2.1 (d): the original recipient goes on as it came; RFC 6533 section 3 has a form of it in
        # ASCII for hosts that take no UTF-8.
        orcpt = delivery.orcpt if smtputf8 and delivery.orcpt.isprintable() else ascii_orcpt(delivery.orcpt)
        return Recipient(address, delivery.notify, orcpt)
    return address


def is_address(text: str) -> bool:
    """Whether a stored address can be written into a command at all."""
    try:
        _address(text)
    except AddressError:
        return False
    return True
