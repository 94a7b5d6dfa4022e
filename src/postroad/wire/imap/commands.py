"""What the IMAP machine says to its driver.

A command stays open until the driver completes it with one tagged response (`ok`, `no`, `bad`, or the method named in
its text). `AppendContent` and `AppendFailed` are no commands and need no answer. CAPABILITY, ID, NAMESPACE and LOGOUT
never appear: the machine answers them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from postroad.wire.imap.fetch import FetchItem
from postroad.wire.imap.search import Node
from postroad.wire.imap.sets import SequenceSet

# --- any state


@dataclass(frozen=True, slots=True)
class Noop:
    """NOOP: a good moment to report changes."""


@dataclass(frozen=True, slots=True)
class StartTls:
    """STARTTLS: `begin_tls`, send the output, make the handshake, `tls_started`."""


# --- before login


@dataclass(frozen=True, slots=True)
class Login:
    """LOGIN: `logged_in`, or `login_failed`."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authenticate:
    """AUTHENTICATE: `challenge`, `logged_in`, or `login_failed`."""

    mechanism: str
    """Upper case, one of those offered."""
    initial: bytes | None = field(repr=False)
    """Initial response (RFC 4959) decoded from base64; None when there was none."""


@dataclass(frozen=True, slots=True)
class SaslResponse:
    """The answer to a `challenge`, decoded from base64; answered like AUTHENTICATE."""

    octets: bytes = field(repr=False)


# --- after login


@dataclass(frozen=True, slots=True)
class QResync:
    """The QRESYNC parameter of SELECT (RFC 7162 section 3.2.5)."""

    uidvalidity: int
    modseq: int
    known_uids: SequenceSet = ()
    sequence_match: tuple[SequenceSet, SequenceSet] | None = None


@dataclass(frozen=True, slots=True)
class Select:
    """SELECT or EXAMINE: `selected`, or `no`, which leaves no mailbox selected."""

    mailbox: str
    read_only: bool
    condstore: bool = False
    qresync: QResync | None = None


@dataclass(frozen=True, slots=True)
class Create:
    """CREATE; a trailing separator has been removed."""

    mailbox: str


@dataclass(frozen=True, slots=True)
class Delete:
    """DELETE."""

    mailbox: str


@dataclass(frozen=True, slots=True)
class Rename:
    """RENAME; of INBOX it moves the messages and keeps INBOX (RFC 3501 section 6.3.5)."""

    mailbox: str
    new_name: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """SUBSCRIBE, also of a mailbox that does not exist (any more)."""

    mailbox: str


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """UNSUBSCRIBE."""

    mailbox: str


@dataclass(frozen=True, slots=True)
class List:
    """LIST or LSUB: `mailboxes.list_names`, then `mailboxes.list_response` for each.

    The empty pattern the machine answers by itself.
    """

    reference: str
    pattern: str
    subscribed: bool
    """LSUB."""


@dataclass(frozen=True, slots=True)
class Status:
    """STATUS."""

    mailbox: str
    items: tuple[str, ...]
    """Upper case, of MESSAGES, RECENT, UIDNEXT, UIDVALIDITY, UNSEEN, SIZE, DELETED, HIGHESTMODSEQ."""


@dataclass(frozen=True, slots=True)
class AppendStart:
    """APPEND up to its literal: `accept_append`, or `no` (`TRYCREATE`, `OVERQUOTA`), and nothing of it comes."""

    mailbox: str
    flags: tuple[bytes, ...]
    """Each once; system flags as the RFC spells them (`\\Seen`), keywords as the client did."""
    moment_us: int | None
    """The date given, in microseconds since 1970; None when there was none."""
    size: int


@dataclass(frozen=True, slots=True)
class AppendContent:
    """Octets of the message to append; needs no answer."""

    chunk: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AppendEnd:
    """The message has come whole, as many octets as `AppendStart` said: store it, then `ok`."""


@dataclass(frozen=True, slots=True)
class AppendFailed:
    """The command turned out wrong behind its literal and has been answered: forget the message. Needs no answer."""


@dataclass(frozen=True, slots=True)
class Enable:
    """ENABLE (RFC 5161): `untagged` ENABLED with those that are now on, then `ok`."""

    capabilities: tuple[str, ...]
    """Upper case."""


@dataclass(frozen=True, slots=True)
class Idle:
    """IDLE (RFC 2177) has begun, and the client knows: report changes as they come, until `IdleDone`. No answer yet."""


@dataclass(frozen=True, slots=True)
class IdleDone:
    """IDLE is over: `ok`. (If the client said anything but DONE, that `ok` goes out as BAD.)"""


# --- with a mailbox selected


@dataclass(frozen=True, slots=True)
class Check:
    """CHECK: like NOOP."""


@dataclass(frozen=True, slots=True)
class Close:
    """CLOSE removes messages marked \\Deleted without saying so, UNSELECT does not: `unselected`, then `ok`."""

    expunge: bool


@dataclass(frozen=True, slots=True)
class Expunge:
    """EXPUNGE, or UID EXPUNGE of some (RFC 4315)."""

    uids: SequenceSet | None


@dataclass(frozen=True, slots=True)
class Search:
    """SEARCH or UID SEARCH: judge with `matching.Matcher`, `untagged` SEARCH with the numbers."""

    keys: Node
    uid: bool
    charset: str = "US-ASCII"


@dataclass(frozen=True, slots=True)
class Fetch:
    """FETCH or UID FETCH; for the latter `items` always hold UID."""

    numbers: SequenceSet
    items: tuple[FetchItem, ...]
    uid: bool
    changed_since: int | None = None
    """Only messages changed after this mod-sequence (RFC 7162 section 3.1.4.1)."""
    vanished: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    """STORE or UID STORE."""

    numbers: SequenceSet
    mode: str
    """"+" adds, "-" removes, "" replaces."""
    flags: tuple[bytes, ...]
    silent: bool
    uid: bool
    unchanged_since: int | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """COPY or UID COPY, MOVE or UID MOVE (RFC 6851)."""

    numbers: SequenceSet
    mailbox: str
    uid: bool
    move: bool


Command = (
    Noop
    | StartTls
    | Login
    | Authenticate
    | SaslResponse
    | Select
    | Create
    | Delete
    | Rename
    | Subscribe
    | Unsubscribe
    | List
    | Status
    | AppendStart
    | AppendEnd
    | Enable
    | Idle
    | IdleDone
    | Check
    | Close
    | Expunge
    | Search
    | Fetch
    | Store
    | Copy
)
Event = Command | AppendContent | AppendFailed
