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

from postroad.flow.local import Plan, delivered_before
from postroad.store.client import StoreClient
from postroad.store.queue import accept as accept_unit
from postroad.store.records import TLS_BY_POLICY, TLS_OPTIONAL, TLS_REQUIRED, Accept, Copy, Leg
from postroad.values.envelope import Envelope, Recipient
from postroad.values.event import Event
from postroad.values.ids import IdMaker, id_text
from postroad.values.ports import Clock
from postroad.values.reply import Reply

QUEUE_FULL: Final = Reply(452, "4.3.1", "The queue is full. Please retry later; nothing was lost.")
DISK_FULL: Final = Reply(452, "4.3.1", "Not enough disk space. Please retry later; nothing was lost.")
TOO_MANY_HOPS: Final = Reply(554, "5.4.6", "Too many hops: this message runs in a circle. Check the forwardings.")
LOOP: Final = Reply(554, "5.4.6", "This message was delivered to the same mailbox before: a forwarding loop.")
HEADER_TOO_LARGE: Final = Reply(552, "5.3.4", "The header is larger than 256 kB. Send fewer or shorter header fields.")

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
    hidden: bool = False
    """The Received line does not say where it came from; the journal does."""
    doubts: tuple[tuple[str, str], ...] = ()
    """Checks that could not tell and held nothing up: stable word, and what was found."""
    discarded: str = ""
    """Why nobody gets it although it is acknowledged."""
    quarantine: str = ""
    """Why it is held instead of delivered."""


@dataclass(slots=True)
class Destinations:
    """Where the accepted recipients of one message go, merged over all of them."""

    copies: list[tuple[str, int, str]] = field(default_factory=list)
    """Recipient text, account, mailbox."""
    remotes: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Recipient text, A-label domain, NOTIFY, ORCPT."""
    expansions: list[tuple[str, str]] = field(default_factory=list)
    """Recipient as given, and what it was turned into, for the journal."""
    seen: set[str | tuple[int, str]] = field(default_factory=set)
    """Addresses and mailboxes that are in the lists: a thousand recipients of a large list are a million looks."""

    def add(self, recipient: Recipient, plan: Plan) -> None:
        """Adds where one recipient's mail goes; a mailbox or address that is there already is not added twice."""
        text, seen = str(recipient.address), self.seen
        for account, mailbox, reached_by in plan.copies:
            if (account, mailbox) not in seen:
                seen.add((account, mailbox))
                self.copies.append((reached_by, account, mailbox))
        for target in plan.remotes:
            to = str(target)
            # RFC 3461 section 5.2.7.2: what an alias sends on keeps the wishes of the one who sent it.
            if to not in seen:
                seen.add(to)
                self.remotes.append((to, target.domain_ascii, recipient.notify, recipient.orcpt))
        for was, now in plan.expansions:
            self.expansions.append((was or text, now))


@dataclass(frozen=True, slots=True)
class Taken:
    """The message is ours; `id` is its queue id."""

    id: int
    size: int


class Draft(Protocol):
    """A message being received (`store.spool`)."""

    size: int
    header_too_large: bool

    async def settle(self) -> tuple[bytes, bytes | None, str]:
        """Header block, inline body or None, and the name of the durable body file."""
        ...

    def discard(self) -> None: ...


class Story(Protocol):
    """The journal's single entrance (`flow.journal`)."""

    def note(self, message: int, events: Sequence[Event]) -> bytes: ...


class Outbound(Protocol):
    """The worker's runner: takes freshly accepted legs into memory."""

    def room_for(self, legs: int, size: int) -> bool: ...
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
    ) -> None:
        self._hostname = hostname
        self._store = store
        self._story = story
        self._runner = runner
        self._ids = ids
        self._clock = clock
        self._first_retry_us = int(first_retry_s * 1e6)
        self._lifetime_us = int(lifetime_s * 1e6)
        self._max_hops = max_hops
        self._date = (0, "")

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
    ) -> Taken | Reply:
        """Make the message ours, or say why not; nothing of a refused one stays. `ident` is its id where the caller
        has already made one.

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
        received = self._received(ident, now_us, envelope, arrival)
        size = draft.size + len(received)
        content = (received + header, body, body_file, size)
        tls = tls_wish(envelope, lowered)
        accept = self._compose(ident, now_us, content, envelope, destinations, arrival, eightbit, tls)
        await self._store.call(accept_unit, accept)
        if accept.legs and accept.legs[0].owner:
            self._runner.enqueue_fresh(accept)
        return Taken(ident, size)

    # -- checks that need the header ---------------------------------------------------------------------------------

    def _look_at(self, header: bytes, lowered: bytes, destinations: Destinations) -> Reply | None:
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
        tls: int,
    ) -> Accept:
        header, body, body_file, size = content
        sender = envelope.sender_text
        legs = self._legs(destinations, now_us, size, tls)
        copies = [
            Copy(
                recipient=recipient,
                account=account,
                prefix=f"Return-Path: <{sender}>\r\nDelivered-To: {recipient}\r\n".encode(),
                mailbox=mailbox,
            )
            for recipient, account, mailbox in destinations.copies
        ]
        events = self._events(now_us, envelope, destinations, arrival, legs, size, tls)
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
            expires_us=now_us + self._lifetime_us,
            keys=search_keys(header, sender, envelope, destinations),
            events=self._story.note(ident, events),
            smtputf8=envelope.smtputf8,
            eightbit=eightbit,
            # RFC 8689 section 5: "the RET=FULL parameter MUST be disregarded"
            ret="HDRS" if envelope.requiretls and envelope.ret else envelope.ret,
            envid=envelope.envid,
            login=arrival.login,
        )

    def _legs(self, destinations: Destinations, now_us: int, size: int, tls: int) -> list[Leg]:
        remotes = destinations.remotes
        if not remotes:
            return []
        # Born leased: the first attempt starts from memory right after the commit, and the second one's time is
        # part of the commit. Beyond the window mail is left to whoever has room.
        mine = self._runner.room_for(len(remotes), size)
        owner = self._store.incarnation if mine else 0
        due_us = now_us + self._first_retry_us if mine else now_us
        make = self._ids.make
        return [
            Leg(make(now_us), recipient, domain, due_us=due_us, owner=owner, notify=notify, orcpt=orcpt, tls=tls)
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
        tls: int = TLS_BY_POLICY,
    ) -> list[Event]:
        where = f"{client_text(arrival.helo, arrival.peer)} {arrival.tls or arrival.user}".strip()
        by = f"login {arrival.login}" if arrival.login else arrival.door
        events = [
            Event(
                kind="received",
                at_us=now_us,
                by=by,
                where=where,
                cause=f"from <{envelope.sender_text}>, {size} bytes{_WISHES[tls]}",
            )
        ]
        events += [Event(kind="checked", at_us=now_us, cause=why, evidence=found) for why, found in arrival.doubts]
        if arrival.discarded:
            events.append(Event(kind="discarded", at_us=now_us, cause=arrival.discarded, by="policy"))
        events += [
            Event(kind="expanded", at_us=now_us, recipient=was, cause=now) for was, now in destinations.expansions
        ]
        events += [
            Event(kind="delivered", at_us=now_us, recipient=recipient, by="local delivery", where=f"mailbox {mailbox}")
            for recipient, _, mailbox in destinations.copies
        ]
        cause = "first attempt at once" if legs and legs[0].owner else "waits for a worker with room"
        events += [
            Event(kind="queued", at_us=now_us, recipient=leg.recipient, cause=cause, next_us=now_us) for leg in legs
        ]
        return events

    def _received(self, ident: int, now_us: int, envelope: Envelope, arrival: Arrival) -> bytes:
        """The trace line of RFC 5321 section 4.4; the recipient is named only when there is one, so no Bcc leaks."""
        peer = arrival.peer
        # RFC 5321 section 4.1.3: an address literal of IPv6 says so.
        literal = f"IPv6:{peer}" if ":" in peer else peer
        who = f"from {host_word(arrival.helo)} ([{literal}])\r\n\t" if peer and not arrival.hidden else ""
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


def find_message_id(header: bytes) -> str:
    """The Message-ID without brackets, in lower case; empty when there is none that can be read."""
    lowered = header.lower()
    at = lowered.find(b"\nmessage-id:")
    if at < 0:
        if not lowered.startswith(b"message-id:"):
            return ""
        at = -1
    end = lowered.find(b"\r\n", at + 1)
    raw = lowered[at + 12 : end if end >= 0 else None]
    if not raw.strip() and end >= 0:  # folded right behind the name
        raw = lowered[end + 2 : lowered.find(b"\r\n", end + 2)]
    return raw.strip().strip(b"<>").decode("ascii", "replace")[:998]
