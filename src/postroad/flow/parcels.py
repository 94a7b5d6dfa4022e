"""What travels: letters, their deliveries, and the parcels that carry several of them in one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from postroad.flow.routing import USUAL, Course
from postroad.store.records import INLINE_BODY_MAX, MOVED, THROTTLED, TLS_BY_POLICY, TLS_REQUIRED, Accept, Due, Leg
from postroad.values.reply import Reply

RECIPIENTS_MAX: Final = 100
"""RFC 5321 section 4.5.3.1.8: what every server must take in one transaction."""

CLAIMED_WEIGHT: Final = INLINE_BODY_MAX + 8 * 1024
"""Octets that a message out of the queue is taken to need in memory: its body is inline, or stays in its file."""


class Letter:
    """One message as far as sending it needs it; `header` is None until it has been read from the store."""

    __slots__ = (
        "body", "body_file", "eightbit", "envid", "expires_us", "fresh", "header", "id", "login", "open", "received_us",
        "ret", "sender", "size", "smtputf8", "tls", "user", "weight",
    )  # fmt: skip

    def __init__(
        self, source: Accept | Due, ident: int, *, header: bytes | None = None, body: bytes | None = None
    ) -> None:
        self.id = ident
        self.sender = source.sender
        self.login = source.login
        """Who submitted it; empty for mail without a login."""
        self.user = source.login or source.sender.rpartition("@")[2]
        """Whose mail it is, where users share a lane: a login, else the sender's domain."""
        self.received_us = source.received_us
        self.expires_us = source.expires_us
        self.size = source.size
        self.smtputf8 = source.smtputf8
        self.eightbit = source.eightbit
        self.ret = source.ret
        self.envid = source.envid
        self.tls = source.tls
        """What the sender wishes of TLS on the way (`store.records`)."""
        self.body_file = source.body_file
        self.header = header
        self.body = body
        self.fresh = header is not None
        """It came straight from acceptance, not out of the queue."""
        self.open = 0
        """Deliveries of it that this worker holds and whose results are not in the store."""
        self.weight = len(header) + len(body or b"") if header is not None else min(source.size, CLAIMED_WEIGHT)
        """Octets it takes in memory, or will when it is read."""


class Delivery:
    """One recipient of a letter that is ours to deliver now."""

    __slots__ = (
        "account", "attempt", "course", "detour", "domain", "due_us", "id", "kind", "last_reply", "letter", "next_hop",
        "notify", "opens", "orcpt", "prefix", "recipient", "target", "throttled", "warn_us", "way", "wishes",
    )  # fmt: skip

    def __init__(self, letter: Letter, source: Leg | Due, attempt: int, last_reply: str = "") -> None:
        self.letter = letter
        self.id = source.id
        self.recipient = source.recipient
        self.domain = source.domain
        self.kind = source.kind
        self.account = source.account
        self.due_us = source.due_us
        self.prefix = source.prefix
        self.notify = source.notify
        self.orcpt = source.orcpt
        self.warn_us = source.warn_us
        self.next_hop = source.next_hop if isinstance(source, Due) else ""
        """Where somebody moved it to."""
        self.throttled = isinstance(source, Due) and source.state == THROTTLED
        """It was put off before without an attempt, and its story says so."""
        self.target = f"{MOVED}{self.next_hop}" if self.next_hop else source.domain
        """Where it goes: its domain, or the next hop behind MOVED."""
        self.way = self.target
        """What the way is looked up by: the target, the wish for TLS where the sender has one, and the course."""
        self.course: Course = USUAL
        self.detour = ""
        """Why it does not take the course it was given first; empty once the journal has been told."""
        self.opens = 0.0
        """When the first of the source addresses that it was turned aside from may be welcome again; 0 for none."""
        # RFC 8689 section 5: REQUIRETLS of a report SHOULD NOT keep it from a host that does not know it.
        self.wishes = letter.tls != TLS_BY_POLICY and (letter.sender != "" or letter.tls != TLS_REQUIRED)
        """Whether its sender has a wish for TLS of his own."""
        if self.wishes:
            self.way = f"{self.target} {letter.tls}"
        self.attempt = attempt
        """Number of the attempt that is to be made now; the first is 1."""
        self.last_reply = last_reply

    def steer(self, course: Course) -> None:
        """Sets how it travels in this attempt, once."""
        if self.course is not USUAL:
            return
        self.course = course
        if course.key:
            self.way = f"{self.way} {course.key}"

    def turn_aside(self, course: Course, why: str, until: float) -> None:
        """Takes another course in this attempt than the one it was given, which is closed until then."""
        self.course = course
        self.way = " ".join(filter(None, (self.target, str(self.letter.tls) if self.wishes else "", course.key)))
        self.detour = f"{self.detour}, {why}" if self.detour else why
        self.opens = min(self.opens or until, until)


class Remark(NamedTuple):
    """What a reply did to its lane, for the journal of the message that got it."""

    kind: str
    """A word of `values.event.KINDS`: "slowed", "suspended"."""
    rule: str
    cause: str
    """Signal, meaning and action in words."""
    reply: Reply
    where: str
    until: float
    """When it ends, on the monotonic clock."""
    by_source: bool = False
    """It is about the source address alone: mail may leave from another."""


class Parcel:
    """Deliveries of one letter that travel in one transaction."""

    __slots__ = ("deliveries", "letter", "remarks", "returned", "shut_s", "started", "trail", "unfit")

    def __init__(self, letter: Letter, deliveries: list[Delivery]) -> None:
        self.letter = letter
        self.deliveries = deliveries
        self.returned = 0
        """How often a connection handed it back because of its host."""
        self.started = 0.0
        """When its attempt began, on the monotonic clock; 0 while it waits."""
        self.trail: list[tuple[str, str]] = []
        """Hosts that failed in this attempt: where, and why."""
        self.remarks: list[Remark] = []
        """What this attempt told about the lane."""
        self.shut_s = 0.0
        """For how long its site has taken nothing, as its lane knew when it was given up for now."""
        self.unfit: frozenset[str] = frozenset()
        """Hosts that cannot carry it, as this attempt has found out."""


def parcels(letter: Letter, deliveries: Iterable[Delivery]) -> list[Parcel]:
    """Deliveries to one site in as few transactions as they fit: same prefix, at most RECIPIENTS_MAX each."""
    made: list[Parcel] = []
    for delivery in deliveries:
        for parcel in reversed(made):
            same = parcel.deliveries
            if same[0].prefix == delivery.prefix and len(same) < RECIPIENTS_MAX:
                same.append(delivery)
                break
        else:
            made.append(Parcel(letter, [delivery]))
    return made
