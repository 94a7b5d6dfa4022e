"""Mailboxes and their messages as they travel to the store and back: arguments and results of units and reads.

A message in a mailbox is prefix + header + body, in this order, and its size counts all three.
Flags are a bit mask of the five system flags; keywords are one text, sorted and separated by spaces.
"""

from __future__ import annotations

from typing import Final

from postroad.store.records import Record

# RFC 3501 section 2.3.2
SEEN: Final = 1
ANSWERED: Final = 2
FLAGGED: Final = 4
DELETED: Final = 8
DRAFT: Final = 16
ALL_FLAGS: Final = SEEN | ANSWERED | FLAGGED | DELETED | DRAFT

SEPARATOR: Final = "/"
"""Between the levels of a mailbox name, for every account."""
NAME_MAX: Final = 1000
"""Octets of a whole mailbox name: an IMAP line holds it several times over."""
DEPTH_MAX: Final = 32
"""Levels of one name; deeper trees are made by mistake or malice."""
MAILBOXES_MAX: Final = 10_000
"""Mailboxes of one account: LIST stays one read of a few milliseconds."""
KEYWORDS_MAX: Final = 100
"""Different keywords of one mailbox: they stand in every FLAGS answer."""
KEYWORD_LENGTH_MAX: Final = 100
"""Octets of one keyword."""

INBOX: Final = "INBOX"
# RFC 6154 section 2
SPECIAL_MAILBOXES: Final = (
    (INBOX, ""),
    ("Sent", "\\Sent"),
    ("Drafts", "\\Drafts"),
    ("Trash", "\\Trash"),
    ("Junk", "\\Junk"),
    ("Archive", "\\Archive"),
)
"""What every account begins with: names and their special use."""

DONE: Final = "done"
NO_MAILBOX: Final = "no such mailbox"
EXISTS: Final = "mailbox exists"
BAD_NAME: Final = "not a mailbox name"
NOT_INBOX: Final = "not possible with INBOX"
TOO_MANY: Final = "too many mailboxes"
OVER_QUOTA: Final = "over quota"
TOO_MANY_KEYWORDS: Final = "too many keywords"
INTERRUPTED: Final = "interrupted"
"""A copy in slices was given up, because it stood still for too long; nothing of it is left."""


class MailboxDone(Record, frozen=True):
    """Answer of the units that change the tree of mailboxes: a word, and the mailbox's id."""

    word: str
    mailbox: int = 0

    @property
    def done(self) -> bool:
        """Whether the change was made."""
        return self.word == DONE


# -- the tree --------------------------------------------------------------------------------------------------------


class MailboxCreate(Record, frozen=True):
    """Make a mailbox and those above it that are missing (RFC 3501 section 6.3.3)."""

    account: int
    name: str
    special_use: str = ""


class MailboxDelete(Record, frozen=True):
    """Remove a mailbox; those below it stay. Its messages are erased afterwards by `sweep_mailboxes`."""

    account: int
    name: str


class MailboxRename(Record, frozen=True):
    """Give a mailbox and those below it another name; INBOX itself stays and its messages move (RFC 3501 6.3.5)."""

    account: int
    name: str
    new_name: str


class MailboxSubscribe(Record, frozen=True):
    """Set or take the mark that LSUB lists; a name that is no mailbox can be subscribed too (RFC 3501 6.3.6)."""

    account: int
    name: str
    subscribed: bool = True


class Mailbox(Record, frozen=True):
    """One mailbox in a list."""

    id: int
    name: str
    special_use: str
    subscribed: bool


class Status(Record, frozen=True):
    """What STATUS tells of a mailbox, at one moment."""

    id: int
    name: str
    uidvalidity: int
    uidnext: int
    modseq: int
    """Highest modification sequence to continue from with `changes_since`."""
    messages: int
    unseen: int
    recent: int
    size: int
    """Octets of all messages."""
    keywords: str
    recent_from: int
    """Messages from this uid on are \\Recent for the session that claims them."""


# -- messages --------------------------------------------------------------------------------------------------------


Entry = tuple[int, int, int, str]
"""One message as a session remembers it: uid, modseq, flags, keywords."""


class Snapshot(Record, frozen=True):
    """A mailbox at SELECT: its numbers, and its messages in ascending order of uid."""

    status: Status
    entries: list[Entry]


class Changes(Record, frozen=True):
    """What happened in a mailbox after a modification sequence; a change may be told twice, never left out."""

    modseq: int
    """Where to continue from."""
    uidnext: int
    recent_from: int
    keywords: str
    changed: list[Entry]
    """New messages and those whose flags changed, ascending by uid."""
    expunged: list[int]
    """Uids, ascending; some may never have been seen by the asker."""
    complete: bool = True
    """False when the log of removals does not reach back so far: compare with the list of all uids."""


class Described(Record, frozen=True):
    """What is known of one message without reading it."""

    uid: int
    message: int
    size: int
    """RFC822.SIZE."""
    internal_us: int
    modseq: int
    flags: int
    keywords: str


class Located(Record, frozen=True):
    """Where the parts of one message are: RFC822.SIZE is len(prefix) + size of the message."""

    uid: int
    message: int
    prefix: bytes
    header: bytes
    body: bytes | None
    """None when the body stands in a file."""
    body_file: str
    size: int


class Append(Record, frozen=True):
    """A message handed in by a mail client (APPEND); the body is in `body`, or durable in `body_file`."""

    id: int
    """Of the new message, from the worker's `IdMaker`."""
    account: int
    mailbox: str
    header: bytes
    body: bytes | None
    body_file: str
    size: int
    """Octets of header and body together."""
    flags: int = 0
    keywords: str = ""
    internal_us: int = 0
    """Date of the message; 0: now."""
    message_id: str = ""
    """As `why` is asked for it: in lower case, without brackets."""


class Appended(Record, frozen=True):
    """Where an appended message stands, or why it was not taken."""

    word: str
    mailbox: int = 0
    uidvalidity: int = 0
    uid: int = 0


REPLACE: Final = 0
ADD: Final = 1
REMOVE: Final = 2


class FlagsStore(Record, frozen=True):
    """Change flags of at most `ROWS_PER_UNIT` messages.

    With `unchanged_since` only messages whose modseq is at most that are changed (RFC 7162 section 3.1.3).
    """

    mailbox: int
    uids: list[int]
    mode: int
    flags: int
    keywords: str = ""
    unchanged_since: int = -1
    """-1: no condition."""


class FlagsStored(Record, frozen=True):
    """The messages as they are now, ascending by uid; absent uids were expunged meanwhile."""

    word: str
    entries: list[Entry]
    modified: list[int]
    """Uids that failed `unchanged_since`."""


class Expunge(Record, frozen=True):
    """Remove messages for good: all that carry \\Deleted, or those among `uids` that do."""

    mailbox: int
    uids: list[int] | None = None
    """None: the whole mailbox, at most `ROWS_PER_UNIT` a call."""


class Expunged(Record, frozen=True):
    """Which messages are gone."""

    uids: list[int]
    modseq: int = 0
    more: bool = False
    """There are more: call again."""


class Copied(Record, frozen=True):
    """What one slice of a copy or move did; the pairs of uids are what COPYUID tells (RFC 4315)."""

    word: str
    job: int = 0
    """Names the copy in its next slice; 0 when it is finished."""
    mailbox: int = 0
    uidvalidity: int = 0
    source_uids: list[int] = []
    target_uids: list[int] = []


class CopySlice(Record, frozen=True):
    """Copy at most `ROWS_PER_UNIT` messages; all slices of one copy become visible together with the last."""

    account: int
    source: int
    target: str
    uids: list[int]
    job: int = 0
    """0 begins a copy; then what the slice before answered."""
    last: bool = True


class CopyAbandon(Record, frozen=True):
    """Give up an unfinished copy: `sweep_mailboxes` removes what its slices placed."""

    job: int


class MoveSlice(Record, frozen=True):
    """Move at most `ROWS_PER_UNIT` messages; each slice is done when it returns (RFC 6851 section 3.3)."""

    account: int
    source: int
    target: str
    uids: list[int]


class RecentClaim(Record, frozen=True):
    """Take the \\Recent marks of a mailbox for one session (SELECT, not EXAMINE)."""

    mailbox: int


class RecentClaimed(Record, frozen=True):
    """From which uid on messages are \\Recent for the session that claimed them."""

    first_recent: int


class Sweep(Record, frozen=True):
    """Ask for one slice of the work that interrupted or large operations left behind."""

    jobs: int = 1


class Swept(Record, frozen=True):
    """Whether another slice is due now."""

    more: bool


# -- POP3 ------------------------------------------------------------------------------------------------------------


class Drop(Record, frozen=True):
    """One message of a maildrop: its place is its number in the list, its UIDL `uidvalidity.uid`."""

    uid: int
    size: int


class Maildrop(Record, frozen=True):
    """An account's INBOX as POP3 sees it, frozen at login."""

    mailbox: int
    uidvalidity: int
    drops: list[Drop]


class PopDelete(Record, frozen=True):
    """Part of what a POP3 session removes at QUIT; all parts of a job happen together with the last, or not at all."""

    mailbox: int
    uids: list[int]
    job: int = 0
    last: bool = True


class PopDeleted(Record, frozen=True):
    """How far a removal is; with the last part it is decided and durable."""

    word: str
    job: int = 0
    removed: int = 0
