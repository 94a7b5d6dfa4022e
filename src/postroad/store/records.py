"""What travels between a worker and the store: arguments and results of units, as msgspec structs.

Every struct is plain (ints, text, bytes, lists of structs), encoded as msgpack arrays on the store's socket.
Times are microseconds since 1970, sizes are octets, ids are 63-bit (`values.ids`).
"""

from __future__ import annotations

from typing import Final

import msgspec


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Common shape: immutable, positional on the wire, and left alone by the collector: records form no cycles."""


# -- acceptance ------------------------------------------------------------------------------------------------------

KIND_SMTP: Final = 0
"""A delivery to another host."""
KIND_LOCAL: Final = 1
"""A delivery into a mailbox that could not be made inside the accepting transaction."""

QUEUED: Final = 0
DEFERRED: Final = 1
"""A host said not now, or could not be reached."""
THROTTLED: Final = 2
"""A lane of ours has enough: nothing was tried."""
HELD: Final = 3
"""Nothing is tried before its time, or before somebody releases it."""
DROPPED: Final = 4
"""Somebody dropped it and may still take that back."""
STATES: Final = ("queued", "deferred", "throttled", "held", "dropped")
"""Why a delivery waits, by its number."""

MOVED: Final = ">"
"""Before the next hop of a delivery that somebody moved, where a domain stands otherwise; no domain begins so."""

NEVER_US: Final = 1 << 62
"""When a delivery is due that waits for a hand: after every time there is."""
TLS_BY_POLICY: Final = 0
"""The sender has no wish: what the domain publishes and the configuration says decides."""
TLS_REQUIRED: Final = 1
"""REQUIRETLS: only to hosts that have proved who they are and promise the same (RFC 8689 section 2)."""
TLS_OPTIONAL: Final = 2
"""The header field "TLS-Required: No": delivery counts more than what the domain publishes (RFC 8689 section 3)."""

INLINE_BODY_MAX: Final = 64 * 1024
"""Bodies up to here stand in the database, larger ones in a file: the measured crossover is 50-100 kB."""

HEADER_MAX: Final = 256 * 1024
"""A header block above this is refused (row M23): it is always held in the database and edited in memory."""


class Copy(Record, frozen=True):
    """One copy of a message for one local mailbox, to be filed inside the accepting transaction."""

    recipient: str
    """The address as accepted, for the journal."""
    account: int
    prefix: bytes = b""
    """Header lines of this copy alone (Return-Path, Delivered-To), each ending in CRLF."""
    mailbox: str = "INBOX"
    notify: str = ""
    orcpt: str = ""
    warn_us: int = 0
    """The wishes and the time of a warning that its open delivery gets if it cannot be filed now (see `Leg`)."""


class Leg(Record, frozen=True):
    """One open delivery: one recipient of one message that still has to go somewhere."""

    id: int
    recipient: str
    domain: str
    """A-label domain in lower case: what routes and lanes are looked up by."""
    kind: int = KIND_SMTP
    due_us: int = 0
    """When the next attempt may start. For a born-leased leg this is already the time of the second attempt."""
    owner: int = 0
    """Incarnation that owns the first attempt; 0 leaves it to whoever claims it."""
    account: int = 0
    """Account of a KIND_LOCAL leg."""
    prefix: bytes = b""
    notify: str = ""
    orcpt: str = ""
    warn_us: int = 0
    """From when on its sender is told that it is late; 0 for never."""
    held: str = ""
    """Why it is held until somebody releases it; then `due_us` is NEVER_US."""
    left_us: int = 0
    """The lifetime that a held one has from its release on."""


class Allowed(Record, frozen=True):
    """How much an account may send; 0 is no limit. None stands in an account's own: as the configuration says."""

    messages_per_hour: int | None = None
    recipients_per_day: int | None = None
    first_time_recipients_per_day: int | None = None
    recipients_per_message: int | None = None


class Sending(Record, frozen=True):
    """What a submission by one of our users is known again by, and what it counts as."""

    key: bytes = b""
    """Hash of who submitted what; empty: it is not known again."""
    content: bytes = b""
    """Hash of envelope and content."""
    repeated: bytes = b""
    """Packed events for the story of the first message, should this be a repetition of it."""
    account: int = 0
    """Whose allowance it counts against; 0: nobody's."""
    recipients: list[bytes] = []
    """Hashes of the recipients of the envelope, each once."""
    allowed: Allowed = Allowed()
    """What the configuration allows everybody."""


class Accept(Record, frozen=True):
    """A whole message with everything that becomes durable in its accepting transaction."""

    id: int
    received_us: int
    sender: str
    """Reverse-path without brackets; empty for the null sender."""
    header: bytes
    body: bytes | None
    """The body, when it stands in the database."""
    body_file: str
    """Name of the body's file below the spool folder, already durable; empty when inline."""
    size: int
    """Octets of header and body together."""
    copies: list[Copy]
    legs: list[Leg]
    expires_us: int
    """When open deliveries end undelivered."""
    keys: str
    """What `why` finds this message by: lines of Message-ID, sender and recipients, lower case."""
    events: bytes
    """Packed events (`values.event.pack`) of this transaction."""
    smtputf8: bool = False
    eightbit: bool = False
    ret: str = ""
    envid: str = ""
    login: str = ""
    """Who submitted it; empty for mail from the world."""
    tls: int = TLS_BY_POLICY
    """What the sender wishes of TLS on the way: TLS_BY_POLICY, TLS_REQUIRED or TLS_OPTIONAL."""
    sending: Sending | None = None
    """Of mail that one of our users submitted."""
    reports: list[Accept] = []
    """What the sender is told of it at once: delivered, expanded. They tell that every copy was filed, so when one is
    not, nothing at all is accepted (`Accepted.withdrawn`)."""
    answered: bool = False
    """The client hears of every recipient (LMTP): a copy that cannot be filed is not left open, and the result says
    so."""


class Shortfall(Record, frozen=True):
    """Which part of its allowance an account has used up."""

    why: str
    """A stable word of `store.allowances`."""
    limit: int = 0
    used: int = 0
    wanted: int = 0
    free_us: int = 0
    """When the count begins again; 0: waiting does not help."""


FILED: Final = 0
NO_MAILBOX: Final = 1
OVER_QUOTA: Final = 2


class Accepted(Record, frozen=True):
    """Per copy, in order, whether it was filed; a copy that was not became an open KIND_LOCAL delivery
    with the id given in the same place of `legs`."""

    copies: list[int]
    legs: list[int]
    first: int = 0
    """When not 0, nothing was stored: the message of this id came with the same key before."""
    other: bool = False
    """That message is another one than this."""
    short: Shortfall | None = None
    """Why nothing was stored: this account may not send it now."""
    withdrawn: bool = False
    """Nothing was accepted, because reports would not have been true: leave the copies that were not filed to open
    deliveries, and ask again."""


# -- the queue -------------------------------------------------------------------------------------------------------


class Due(Record, frozen=True):
    """One claimed delivery, with what an attempt needs to know before it reads the message."""

    id: int
    message: int
    recipient: str
    domain: str
    kind: int
    attempts: int
    """Attempts begun before this one."""
    due_us: int
    """The next time already written for it."""
    received_us: int
    expires_us: int
    sender: str
    size: int
    account: int
    prefix: bytes
    notify: str
    orcpt: str
    smtputf8: bool
    eightbit: bool
    ret: str
    envid: str
    body_file: str
    last_reply: str = ""
    warn_us: int = 0
    tls: int = TLS_BY_POLICY
    next_hop: str = ""
    """Where somebody moved it to; empty for the way that DNS and configuration say."""
    login: str = ""
    """Who submitted it; empty for mail without a login."""
    state: int = QUEUED
    """What it waited as: QUEUED, DEFERRED or THROTTLED, or HELD until a time that has come."""


class Claim(Record, frozen=True):
    """Ask for due deliveries that nobody living owns.

    `delays_s` is the retry schedule in seconds: a claimed delivery's next time is written as
    now + delays_s[min(attempts, last)] before its attempt starts.
    """

    owner: int
    limit: int
    delays_s: list[float]
    domains_not: list[str] = []
    """Lanes that are full right now: leave the mail of these domains, and what was moved to a host (behind MOVED)."""


class Crowd(Record, frozen=True):
    """A domain of which a worker has enough mail, and whose mail that is."""

    domain: str
    users: list[str]
    """Logins; empty text for mail without one."""


class ClaimOthers(Record, frozen=True):
    """Ask for due deliveries to these domains of users who have none in the worker's hands; see `Claim`."""

    owner: int
    delays_s: list[float]
    crowds: list[Crowd]


class Claimed(Record, frozen=True):
    """What was claimed, and when to ask again (0: nothing is waiting)."""

    deliveries: list[Due]
    next_due_us: int


class Done(Record, frozen=True):
    """One delivery's end: delivered, bounced (its report is in `reports`), discarded or dropped."""

    delivery: int


class Later(Record, frozen=True):
    """A delivery that stays open: tried again at `due_us`."""

    delivery: int
    due_us: int
    last_reply: str
    warned: bool = False
    """The sender is told of the delay in this transaction, and not again."""
    throttled: bool = False
    """No host was asked: a lane of ours has enough for now."""
    untried: bool = False
    """No attempt was made: it does not count as one."""


class Noted(Record, frozen=True):
    """Packed events of one message, to be journaled in this transaction."""

    message: int
    events: bytes


class Recorded(Record, frozen=True):
    """The results of attempts, of one or several messages, with the reports they cause: one transaction."""

    owner: int
    done: list[Done]
    later: list[Later]
    notes: list[Noted]
    reports: list[Accept] = []
    """Delivery status notifications; a report and the end it reports stand or fall together."""


class Unrecorded(Record, frozen=True):
    """Deliveries for which nothing was recorded because they are not the caller's any more; empty: all is recorded.

    When it is not empty, none of the call was recorded: take these out, with their notes and reports, and call again.
    """

    deliveries: list[int]


class FileLocal(Record, frozen=True):
    """Another try of an open KIND_LOCAL delivery: file its copy and end it, in one transaction."""

    owner: int
    delivery: int
    copy: Copy
    events: bytes
    """Packed events of success; journaled only then."""
    reports: list[Accept] = []
    """What the sender is told of it; accepted only when it was filed."""


class Refusal(Record, frozen=True):
    """One refused command or session, for the refusals file."""

    reference: int
    """An id of the same kind as a message's, shown to the peer."""
    at_us: int
    source: str
    """IP address of the peer."""
    why: str
    keys: str
    events: bytes
