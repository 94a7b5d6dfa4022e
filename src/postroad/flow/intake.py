"""The only door into the queue: everything that becomes mail enters through `Intake.accept`.

SMTP sessions, reports and the command line all come here. A message is ours when `accept` returns `Taken`, and not
before: its body is durable, and one transaction holds its row, its copies in mailboxes, its open deliveries and the
beginning of its story (state S3 or S3m of docs/internals/states.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Final, Protocol

from msgspec import structs

from postroad.flow.allowance import denied
from postroad.flow.at_once import AtOnce, local_leg
from postroad.flow.bounce import Reporter
from postroad.flow.destinations import Destinations
from postroad.flow.local import delivered_before, delivery_lines
from postroad.flow.returns import Returns
from postroad.flow.routing import Routes
from postroad.flow.sign import UNSIGNED, Signed, Signer
from postroad.flow.submission import Submission, key_taken
from postroad.store.client import StoreClient
from postroad.store.queue import accept as accept_unit
from postroad.store.records import (
    FILED,
    NEVER_US,
    TLS_BY_POLICY,
    TLS_OPTIONAL,
    TLS_REQUIRED,
    Accept,
    Accepted,
    Copy,
    Leg,
    Sending,
)
from postroad.trust.dkim.canonical import BodyHash
from postroad.values.envelope import Envelope
from postroad.values.event import Event, unpack
from postroad.values.ids import IdMaker, id_text
from postroad.values.ports import Clock
from postroad.values.reply import Reply
from postroad.wire.mime.headers import MAX_HEADER_LINES
from postroad.wire.mime.message_id import find_message_id

QUEUE_FULL: Final = Reply(452, "4.3.1", "The queue is full. Please retry later; nothing was lost.")
DISK_FULL: Final = Reply(452, "4.3.1", "Not enough disk space. Please retry later; nothing was lost.")
TOO_MANY_HOPS: Final = Reply(554, "5.4.6", "Too many hops: this message runs in a circle. Check the forwardings.")
LOOP: Final = Reply(554, "5.4.6", "This message was delivered to the same mailbox before: a forwarding loop.")
HEADER_TOO_LARGE: Final = Reply(552, "5.3.4", "The header is larger than 256 kB. Send fewer or shorter header fields.")
HEADER_TOO_LONG: Final = Reply(552, "5.3.4", "The header has more than 2,000 lines. Send fewer header fields.")

LATER: Final = "its sender asked for delivery at a later time"
"""Why a message is held that names the time of its release."""

KEYS_MAX: Final = 64
"""Recipients that `why` finds a message by; the rest of a long list is in the journal."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a message came to us: what the Received line and the journal tell."""

    protocol: str
    """The "with" word of RFC 3848: ESMTP, ESMTPS, ESMTPSA, LMTP, HTTP, LOCAL."""
    door: str
    """Which of our services took it: mx, submission, submissions, local, report, cli."""
    peer: str = ""
    helo: str = ""
    tls: str = ""
    login: str = ""
    user: str = ""
    """Who on this machine handed it in, where the kernel said so: "uid 1000 (anna)"."""
    via: str = ""
    """Address of the proxy that passed the client on."""
    hidden: bool = False
    """The Received line does not say where it came from; the journal does."""
    doubts: tuple[tuple[str, str], ...] = ()
    """Checks that could not tell and held nothing up: stable word, and what was found."""
    discarded: str = ""
    """Why nobody gets it although it is acknowledged."""
    ours: bool = False
    """Handed in by somebody who may use our names: a login, a program of this machine, a listed network."""
    answered: bool = False
    """The client hears of every recipient by itself, so nothing waits for a mailbox that is full."""
    quarantine: str = ""
    """Why it is held until somebody releases it, instead of delivered."""
    above: bytes = b""
    """Fields that go above our Received line, each with its CRLF."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The message is ours; `id` is its queue id."""

    id: int
    size: int
    unfiled: dict[tuple[int, str], int] = field(default_factory=dict)
    """Where every recipient is answered: accounts and mailboxes whose copy could not be filed, and the store's word."""
    repeated: bool = False
    """It was ours before: this was the same submission again."""


class Draft(Protocol):
    """A message being received (`store.spool`)."""

    size: int
    header_too_large: bool
    body_hash: BodyHash | None

    async def settle(self) -> tuple[bytes, bytes | None, str]:
        """Header block, inline body or None, and the name of the durable body file."""
        ...

    def discard(self) -> None: ...


class Story(Protocol):
    """The journal's single entrance (`flow.journal`)."""

    def note(self, message: int, events: Sequence[Event]) -> bytes: ...
    def pack(self, events: Sequence[Event]) -> bytes: ...


class Outbound(Protocol):
    """The worker's runner: takes freshly accepted legs into memory."""

    def room_for(self, legs: int, size: int, user: str = "") -> bool: ...
    def enqueue_fresh(self, accepted: Accept) -> None: ...


class Intake:
    """Turns a received draft and its envelope into a durable message."""

    def __init__(
        self,
        *,
        hostname: str,
        store: StoreClient,
        story: Story,
        runner: Outbound,
        ids: IdMaker,
        clock: Clock,
        first_retry_s: float,
        lifetime_s: float,
        max_hops: int,
        warn_after_s: float = 0.0,
        reporter: Reporter | None = None,
        signer: Signer | None = None,
        returns: Returns | None = None,
        routes: Routes | None = None,
    ) -> None:
        self._hostname = hostname
        self._returns = returns
        self._routes = routes if routes is not None and any(route.hold for route in routes.routes) else None
        self._store = store
        self._story = story
        self._runner = runner
        self._ids = ids
        self._clock = clock
        self._first_retry_us = int(first_retry_s * 1e6)
        self._lifetime_us = int(lifetime_s * 1e6)
        self._max_hops = max_hops
        self._warn_after_us = int(warn_after_s * 1e6)
        self._at_once = AtOnce(store=store, story=story, ids=ids, reporter=reporter)
        self._signer = signer
        self._date = (0, "")

    @property
    def signs(self) -> bool:
        """Whether mail that leaves may be signed: whoever receives a draft may then hash its body meanwhile."""
        return self._signer is not None

    async def signs_for(self, domain: str) -> bool:
        """Whether mail of ours whose author's domain this is leaves with a signature."""
        return self._signer is not None and await self._signer.signs_for(domain)

    def make_id(self) -> int:
        """A fresh id for a message that is asked about before it is accepted."""
        return self._ids.make(self._clock.wall_us())

    async def accept(
        self,
        draft: Draft,
        envelope: Envelope,
        destinations: Destinations,
        arrival: Arrival,
        *,
        eightbit: bool = False,
        ident: int = 0,
        submission: Submission | None = None,
    ) -> Taken | Reply:
        """Make the message ours, or say why not; nothing of a refused one stays. `ident` is its id where the caller
        has already made one; with a `submission` it is known again, and counted.

        Raises StoreFull and StoreBroken; then too nothing is acknowledged, and what is on the disk is swept.
        """
        header, body, body_file = await draft.settle()
        lowered = header.lower()
        refusal = HEADER_TOO_LARGE if draft.header_too_large else self._look_at(header, lowered, destinations)
        if refusal is not None:
            draft.discard()
            return refusal
        now_us = self._clock.wall_us()
        ident = ident or self._ids.make(now_us)
        received = arrival.above + self._received(ident, now_us, envelope, arrival)
        size = draft.size + len(received)
        sending = submission.sending(self._repetition(now_us, arrival)) if submission is not None else None
        signed = UNSIGNED
        if arrival.ours and destinations.remotes and self._signer is not None:
            # All but Received: no trace field is signed (RFC 6376 section 5.4.1).
            signed = await self._signer.sign(arrival.above + header, body, body_file, draft.body_hash)
        content = (received + header, body, body_file, size)
        tls = tls_wish(envelope, lowered)
        accept = self._compose(ident, now_us, content, envelope, destinations, arrival, eightbit, sending, signed, tls)
        # Nobody is told of a message that somebody may yet drop.
        if (destinations.wishes or destinations.expanded) and not arrival.quarantine:
            accept, accepted = await self._at_once.accept(accept, destinations, now_us)
        else:
            accepted = await self._store.call(accept_unit, accept)
        if sending is not None:
            if accepted.first or accepted.short is not None:
                draft.discard()
                return self._instead(accepted, sending, size)
            self._story.note(ident, unpack(accept.events))
        if accept.reports:
            self._at_once.note(accept)
        if accept.legs and accept.legs[0].owner:
            self._runner.enqueue_fresh(accept)
        if destinations.returned and self._returns is not None:
            await self._returns.take(destinations.returned, ident, header, body, body_file)
        return Taken(ident, size, unfiled(accept, accepted) if arrival.answered else {})

    def _instead(self, accepted: Accepted, sending: Sending, size: int) -> Taken | Reply:
        """The answer to a submission that was not stored."""
        if accepted.short is not None:
            return denied(accepted.short)
        if accepted.other:
            return key_taken(id_text(accepted.first))
        self._story.note(accepted.first, unpack(sending.repeated))
        return Taken(accepted.first, size, repeated=True)

    # -- checks that need the header ---------------------------------------------------------------------------------

    def _look_at(self, header: bytes, lowered: bytes, destinations: Destinations) -> Reply | None:
        # Nobody behind us could read it: whose it is, and for whom, would be anybody's guess.
        if header.count(b"\n") > MAX_HEADER_LINES:
            return HEADER_TOO_LONG
        # RFC 5321 section 6.3: count Received header fields to find loops.
        hops = lowered.count(b"\nreceived:") + lowered.startswith(b"received:")
        if hops > self._max_hops:
            return TOO_MANY_HOPS
        if delivered_before(header, (recipient for recipient, _, _ in destinations.copies)):
            return LOOP
        return None

    # -- building ----------------------------------------------------------------------------------------------------

    def _compose(
        self,
        ident: int,
        now_us: int,
        content: tuple[bytes, bytes | None, str, int],
        envelope: Envelope,
        destinations: Destinations,
        arrival: Arrival,
        eightbit: bool,
        sending: Sending | None,
        signed: Signed,
        tls: int,
    ) -> Accept:
        header, body, body_file, size = content
        sender = envelope.sender_text
        release_us = envelope.release_us if envelope.release_us > now_us else 0
        begin_us = release_us or now_us
        # Null senders are told of nothing.
        warn_us = begin_us + self._warn_after_us if self._warn_after_us and sender else 0
        held_until_us = NEVER_US if arrival.quarantine else release_us
        # As `flow.parcels.Letter` names the user.
        user = arrival.login or sender.rpartition("@")[2]
        legs = self._legs(destinations, now_us, size, held_until_us, warn_us, signed.fields, user)
        copies = self._copies(destinations, sender, warn_us)
        if held_until_us:
            # RFC 4865 section 4: nothing reaches a recipient before the time that the sender named.
            legs += [local_leg(self._ids.make(now_us), copy, held_until_us) for copy in copies]
            copies = []
            # A release by hand gives it the lifetime that it would have had.
            held, left_us = arrival.quarantine or LATER, self._lifetime_us
            legs = [structs.replace(leg, held=held, left_us=left_us) for leg in legs]
        elif self._routes is not None:
            legs = held_by_route(self._routes, legs, sender, arrival.login, self._lifetime_us)
        events = self._events(now_us, envelope, destinations, arrival, legs, size, release_us, signed, tls)
        return Accept(
            id=ident,
            received_us=now_us,
            sender=sender,
            header=header,
            body=body,
            body_file=body_file,
            size=size,
            copies=copies,
            legs=legs,
            expires_us=begin_us + self._lifetime_us,
            keys=search_keys(header, sender, envelope, destinations),
            # What is submitted by a user may turn out to be a repetition, so its story is told after the commit.
            events=self._story.note(ident, events) if sending is None else self._story.pack(events),
            smtputf8=envelope.smtputf8,
            eightbit=eightbit,
            # RFC 8689 section 5: "the RET=FULL MUST be disregarded"
            ret="HDRS" if envelope.requiretls and envelope.ret else envelope.ret,
            envid=envelope.envid,
            login=arrival.login,
            tls=tls,
            sending=sending,
            answered=arrival.answered,
        )

    def _copies(self, destinations: Destinations, sender: str, warn_us: int) -> list[Copy]:
        copies = [
            Copy(
                recipient=recipient,
                account=account,
                prefix=delivery_lines(sender, recipient),
                mailbox=mailbox,
                warn_us=warn_us,
            )
            for recipient, account, mailbox in destinations.copies
        ]
        for at in destinations.wishes:
            wish = destinations.wish(at)
            if wish is not None:
                copies[at] = structs.replace(copies[at], notify=wish.notify, orcpt=wish.orcpt)
        return copies

    def _repetition(self, now_us: int, arrival: Arrival) -> bytes:
        """The event that a repetition adds to the story of the first message."""
        event = Event(
            kind="repeated",
            at_us=now_us,
            by=who_text(arrival),
            where=where_text(arrival),
            cause="submitted again and answered with this id; nothing was sent twice",
        )
        return self._story.pack([event])

    def _legs(
        self,
        destinations: Destinations,
        now_us: int,
        size: int,
        held_until_us: int,
        warn_us: int,
        prefix: bytes,
        user: str,
    ) -> list[Leg]:
        remotes = destinations.remotes
        if not remotes:
            return []
        # Born leased: the first attempt starts from memory right after the commit, and the second one's time is
        # part of the commit. Beyond the window mail is left to whoever has room.
        mine = not held_until_us and self._runner.room_for(len(remotes), size, user)
        owner = self._store.incarnation if mine else 0
        due_us = now_us + self._first_retry_us if mine else held_until_us or now_us
        make = self._ids.make
        return [
            Leg(
                make(now_us),
                recipient,
                domain,
                due_us=due_us,
                owner=owner,
                prefix=prefix,
                notify=notify,
                orcpt=orcpt,
                warn_us=warn_us,
            )
            for recipient, domain, notify, orcpt in remotes
        ]

    def _events(
        self,
        now_us: int,
        envelope: Envelope,
        destinations: Destinations,
        arrival: Arrival,
        legs: list[Leg],
        size: int,
        release_us: int,
        signed: Signed,
        tls: int,
    ) -> list[Event]:
        events = [
            Event(
                kind="received",
                at_us=now_us,
                by=who_text(arrival),
                where=where_text(arrival),
                cause=f"from <{envelope.sender_text}>, {size} bytes{_WISHES[tls]}",
            )
        ]
        events += [Event(kind="checked", at_us=now_us, cause=why, evidence=found) for why, found in arrival.doubts]
        if signed.words:
            events.append(Event(kind="signed", at_us=now_us, cause=signed.words))
        if arrival.discarded:
            events.append(Event(kind="discarded", at_us=now_us, cause=arrival.discarded, by="policy"))
        events += [
            Event(kind="expanded", at_us=now_us, recipient=was, cause=now) for was, now in destinations.expansions
        ]
        if arrival.quarantine or release_us:
            by = "policy" if arrival.quarantine else who_text(arrival)
            # What is quarantined waits for a hand, whatever its sender asked for.
            next_us = 0 if arrival.quarantine else release_us
            return events + [
                Event(kind="held", at_us=now_us, recipient=leg.recipient, cause=leg.held, by=by, next_us=next_us)
                for leg in legs
            ]
        events += [
            Event(kind="delivered", at_us=now_us, recipient=recipient, by="local delivery", where=f"mailbox {mailbox}")
            for recipient, _, mailbox in destinations.copies
        ]
        cause = "first attempt at once" if legs and legs[0].owner else "waits for a worker with room"
        events += [
            Event(kind="held", at_us=now_us, recipient=leg.recipient, cause=leg.held, by="routes file")
            if leg.held
            else Event(kind="queued", at_us=now_us, recipient=leg.recipient, cause=cause, next_us=now_us)
            for leg in legs
        ]
        return events

    def _received(self, ident: int, now_us: int, envelope: Envelope, arrival: Arrival) -> bytes:
        """The trace line of RFC 5321 section 4.4; the recipient is named only when there is one, so no Bcc leaks."""
        peer = arrival.peer
        # RFC 5321 section 4.1.3: an address literal of IPv6 says so.
        literal = f"IPv6:{peer}" if ":" in peer else peer
        via = f" (via {arrival.via})" if arrival.via and arrival.via != peer else ""
        who = f"from {host_word(arrival.helo)} ([{literal}]){via}\r\n\t" if peer and not arrival.hidden else ""
        tls = f"\r\n\t({arrival.tls})" if arrival.tls else f"\r\n\t(by {arrival.user})" if arrival.user else ""
        recipients = envelope.recipients
        whom = f"\r\n\tfor <{recipients[0].address}>" if len(recipients) == 1 else ""
        return (
            f"Received: {who}by {self._hostname} with {arrival.protocol} id {id_text(ident)}{tls}{whom};\r\n"
            f"\t{self._date_text(now_us)}\r\n"
        ).encode()

    def _date_text(self, now_us: int) -> str:
        second = now_us // 1_000_000
        if self._date[0] != second:
            self._date = (second, formatdate(second, localtime=True))
        return self._date[1]


def unfiled(accept: Accept, accepted: Accepted) -> dict[tuple[int, str], int]:
    """Accounts and mailboxes whose copies the store did not file and did not leave open either."""
    left = zip(accept.copies, accepted.copies, accepted.legs, strict=True)
    return {(copy.account, copy.mailbox): outcome for copy, outcome, leg in left if outcome != FILED and not leg}


_WISHES: Final = ("", ", REQUIRETLS", ", TLS-Required: No")
"""How the journal tells what the sender wishes of TLS, by the number of the wish."""


def tls_wish(envelope: Envelope, lowered: bytes) -> int:
    """What the sender wishes of TLS on the way, from the envelope and the header block in small letters.

    RFC 8689 section 4.1: with REQUIRETLS "the TLS-Required header field MUST be ignored".
    """
    if envelope.requiretls:
        return TLS_REQUIRED
    at = lowered.find(b"\ntls-required:") + 1
    if not at and not lowered.startswith(b"tls-required:"):
        return TLS_BY_POLICY
    return TLS_OPTIONAL if _tls_required_no(lowered, at) else TLS_BY_POLICY


_tls_required_no: Final = re.compile(rb"tls-required:(?:[ \t]|\r\n[ \t])*no(?:[ \t]|\r\n[ \t])*\r\n").match


def host_word(helo: str) -> str:
    """What a client called itself, as one word of a Received line.

    Whatever could end the word, look like the address that we saw, or is no ASCII becomes a question mark: the line is
    read by programs that trust what stands behind the name.
    """
    return helo if _host_word(helo) else _NO_HOST.sub("?", helo)


_host_word: Final = re.compile(r"[A-Za-z0-9._-]+|\[[A-Za-z0-9.:]+\]").fullmatch
_NO_HOST: Final = re.compile(r"[^A-Za-z0-9._:-]")


def literal(peer: str) -> str:
    """An IP address as mail writes it (RFC 5321 section 4.1.3): [192.0.2.1] or [IPv6:2001:db8::1]."""
    return f"[IPv6:{peer}]" if ":" in peer else f"[{peer}]"


def client_text(helo: str, peer: str) -> str:
    """A client for people: what it called itself and its address; the address once when it named only that."""
    address = literal(peer) if peer else ""
    return address if helo in ("", address) else f"{helo} {address}".rstrip()


def who_text(arrival: Arrival) -> str:
    """Who handed a message in, for the journal."""
    return f"login {arrival.login}" if arrival.login else arrival.door


def where_text(arrival: Arrival) -> str:
    """From where, and how the connection was protected."""
    via = f"via {literal(arrival.via)}" if arrival.via else ""
    words = (client_text(arrival.helo, arrival.peer), via, arrival.tls or arrival.user)
    return " ".join(word for word in words if word)


def search_keys(header: bytes, sender: str, envelope: Envelope, destinations: Destinations) -> str:
    """What `why` may be asked for: Message-ID, sender and recipients in lower case, one a line."""
    keys = {sender.lower(): None}
    for recipient in envelope.recipients[:KEYS_MAX]:
        keys[str(recipient.address).lower()] = None
    for text, _, _ in destinations.copies[:KEYS_MAX]:
        keys[text.lower()] = None
    for text, _, _, _ in destinations.remotes[:KEYS_MAX]:
        keys[text.lower()] = None
    message_id = find_message_id(header)
    if message_id:
        keys[message_id] = None
    keys.pop("", None)
    return "\n".join(keys)


def held_by_route(routes: Routes, legs: Sequence[Leg], sender: str, login: str, lifetime_us: int) -> list[Leg]:
    """Deliveries of a message that is accepted, those held that a route holds; they come behind the others."""
    free: list[Leg] = []
    held: list[Leg] = []
    for leg in legs:
        route = routes.find(leg.recipient, leg.domain, sender, login)
        if route is None or not route.hold:
            free.append(leg)
        else:
            reason = route.reason
            held.append(structs.replace(leg, due_us=NEVER_US, owner=0, held=reason, left_us=lifetime_us))
    return free + held
