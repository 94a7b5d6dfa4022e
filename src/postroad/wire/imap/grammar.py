"""What stands behind each command word, read into the command's value.

RFC 3501 section 9, with the forms of RFC 3691, 4315, 5161, 6851 and 7162. `READERS` says for each word in which states
it may come and who reads the rest; a reader gets the cursor right behind the word.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from postroad.wire.imap.commands import (
    AppendStart,
    Check,
    Close,
    Command,
    Copy,
    Create,
    Delete,
    Enable,
    Expunge,
    Fetch,
    Idle,
    List,
    Login,
    Noop,
    QResync,
    Rename,
    Search,
    Select,
    Status,
    Store,
    Subscribe,
    Unsubscribe,
)
from postroad.wire.imap.fetch import Attribute, FetchItem, read_items
from postroad.wire.imap.mailboxes import MAX_PATTERN_OCTETS, SEPARATOR, BadName, check_new_name, decode_name
from postroad.wire.imap.search import UnknownCharset, read_search
from postroad.wire.imap.sets import SequenceSet, read_set
from postroad.wire.imap.syntax import MAX_MODSEQ, BadSyntax, Cursor

MAX_ID_PAIRS: Final = 30
"""RFC 2971 section 3.3: "Implementations MUST NOT send more than 30 field-value pairs"."""

MAX_ENABLED: Final = 20

STATUS_ITEMS: Final = frozenset(
    ("MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "SIZE", "DELETED", "HIGHESTMODSEQ")
)


class State(Enum):
    """RFC 3501 section 3."""

    NOT_AUTHENTICATED = "not authenticated"
    AUTHENTICATED = "authenticated"
    SELECTED = "selected"
    LOGOUT = "logout"


class Refused(Exception):
    """The command is well formed and refused all the same: one tagged NO."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.code = code


Reader = Callable[[Cursor], Command]


def _mailbox(cursor: Cursor) -> str:
    try:
        return decode_name(cursor.astring())
    except BadName as error:
        raise Refused(str(error), "CANNOT") from None


def _argument(cursor: Cursor) -> str:
    cursor.space()
    return _mailbox(cursor)


def _new_mailbox(cursor: Cursor) -> str:
    # RFC 3501 section 6.3.3: a trailing separator declares that names will be created below; it is no part of the name.
    name = _argument(cursor)
    name = name[:-1] if len(name) > 1 and name.endswith(SEPARATOR) else name
    try:
        check_new_name(name)
    except BadName as error:
        raise Refused(str(error), "CANNOT") from None
    return name


def _nothing(make: Callable[[], Command]) -> Reader:
    return lambda cursor: make()


def _login(cursor: Cursor) -> Command:
    cursor.space()
    user = cursor.astring()
    cursor.space()
    password = cursor.astring()
    try:
        return Login(user.decode("utf-8"), password.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadSyntax("not UTF-8") from None


def _select(read_only: bool) -> Reader:
    def read(cursor: Cursor) -> Command:
        mailbox = _argument(cursor)
        condstore, qresync = False, None
        if cursor.skip(b" "):
            cursor.expect(b"(")
            condstore, qresync = _select_parameters(cursor)
        return Select(mailbox, read_only, condstore, qresync)

    return read


def _select_parameters(cursor: Cursor) -> tuple[bool, QResync | None]:
    condstore, qresync = False, None
    while True:
        word = cursor.word()
        if word == b"CONDSTORE":
            condstore = True
        elif word == b"QRESYNC" and qresync is None:
            qresync = _qresync(cursor)
        else:
            raise BadSyntax("unknown SELECT parameter")
        if cursor.skip(b")"):
            return condstore, qresync
        cursor.space()


def _qresync(cursor: Cursor) -> QResync:
    """RFC 7162 section 7: SP "(" uidvalidity SP mod-sequence [SP known-uids] [SP "(" set SP set ")"] ")"."""
    cursor.space()
    cursor.expect(b"(")
    uidvalidity = cursor.nonzero()
    cursor.space()
    modseq = cursor.nonzero(MAX_MODSEQ)
    known: SequenceSet = ()
    match = None
    if cursor.skip(b" ") and cursor.peek() != b"(":
        known = read_set(cursor.set_text())
        cursor.skip(b" ")
    if cursor.skip(b"("):
        sequences = read_set(cursor.set_text())
        cursor.space()
        match = (sequences, read_set(cursor.set_text()))
        cursor.expect(b")")
    cursor.expect(b")")
    return QResync(uidvalidity, modseq, known, match)


def _rename(cursor: Cursor) -> Command:
    return Rename(_argument(cursor), _new_mailbox(cursor))


def _list(subscribed: bool) -> Reader:
    def read(cursor: Cursor) -> Command:
        cursor.space()
        reference = cursor.astring()
        cursor.space()
        pattern = cursor.list_mailbox()
        if len(reference) + len(pattern) > MAX_PATTERN_OCTETS:
            raise BadSyntax("pattern too long")
        return List(_pattern_text(reference), _pattern_text(pattern), subscribed)

    return read


def _pattern_text(octets: bytes) -> str:
    """A pattern as text; what is no modified UTF-7 can still match plain names."""
    try:
        return decode_name(octets)
    except BadName:
        return octets.decode("ascii", "replace")


def _status(cursor: Cursor) -> Command:
    mailbox = _argument(cursor)
    cursor.space()
    cursor.expect(b"(")
    items = [cursor.word()]
    while cursor.skip(b" ") and len(items) <= len(STATUS_ITEMS):
        items.append(cursor.word())
    cursor.expect(b")")
    words = tuple(dict.fromkeys(item.decode("ascii") for item in items))
    if not STATUS_ITEMS.issuperset(words):
        raise BadSyntax("unknown STATUS item")
    return Status(mailbox, words)


def read_append(cursor: Cursor, size: int) -> AppendStart:
    """APPEND from behind its word up to the "{" of the message, where the cursor's octets end."""
    mailbox = _argument(cursor)
    cursor.space()
    flags: tuple[bytes, ...] = ()
    moment_us = None
    if cursor.peek() == b"(":
        flags = cursor.flag_list()
        cursor.space()
    if cursor.peek() == b'"':
        moment_us = cursor.date_time_us()
        cursor.space()
    cursor.end()
    return AppendStart(mailbox, _settable(flags), moment_us, size)


_SYSTEM_FLAGS: Final = {
    flag.lower(): flag for flag in (b"\\Answered", b"\\Flagged", b"\\Deleted", b"\\Seen", b"\\Draft")
}


def _settable(flags: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Flags each once (names compare without case), system flags in their usual spelling."""
    found: dict[bytes, bytes] = {}
    for flag in flags:
        name = flag.lower()
        # RFC 3501 section 2.3.2: \Recent cannot be set by a client; other names with a backslash are reserved.
        if flag.startswith(b"\\") and name not in _SYSTEM_FLAGS:
            raise BadSyntax("flag cannot be set")
        found.setdefault(name, _SYSTEM_FLAGS.get(name, flag))
    return tuple(found.values())


def _enable(cursor: Cursor) -> Command:
    names: list[str] = []
    while cursor.skip(b" "):
        names.append(cursor.atom().decode("ascii").upper())
        if len(names) > MAX_ENABLED:
            raise BadSyntax("too many capabilities")
    if not names:
        raise BadSyntax("ENABLE needs a capability")
    return Enable(tuple(names))


def read_id(cursor: Cursor) -> None:
    """The argument of ID (RFC 2971): NIL, or pairs of strings; nothing of it is kept."""
    cursor.space()
    if not cursor.skip(b"("):
        if cursor.nstring() is not None:
            raise BadSyntax("ID needs a list or NIL")
        return
    count = 0
    while not cursor.skip(b")"):
        if count:
            cursor.space()
        cursor.string()
        cursor.space()
        cursor.nstring()
        count += 1
        if count > MAX_ID_PAIRS:
            raise BadSyntax("too many ID fields")


def _uid_expunge(cursor: Cursor) -> Command:
    cursor.space()
    return Expunge(read_set(cursor.set_text()))


def _search(uid: bool) -> Reader:
    def read(cursor: Cursor) -> Command:
        cursor.space()
        try:
            keys, charset = read_search(cursor)
        except UnknownCharset:
            raise Refused("charset is not known", "BADCHARSET (US-ASCII UTF-8)") from None
        return Search(keys, uid, charset.decode("ascii"))

    return read


def _set(cursor: Cursor) -> SequenceSet:
    cursor.space()
    numbers = read_set(cursor.set_text())
    cursor.space()
    return numbers


def _fetch(uid: bool) -> Reader:
    def read(cursor: Cursor) -> Command:
        numbers = _set(cursor)
        items = read_items(cursor)
        changed_since, vanished = None, False
        if cursor.skip(b" "):
            changed_since, vanished = _fetch_modifiers(cursor)
        if uid and Attribute.UID not in items:
            # RFC 3501 section 6.4.8: "server implementations MUST implicitly include the UID message data item".
            items = (Attribute.UID, *items)
        return Fetch(numbers, _with_modseq(items, changed_since), uid, changed_since, vanished and uid)

    return read


def _with_modseq(items: tuple[FetchItem, ...], changed_since: int | None) -> tuple[FetchItem, ...]:
    # RFC 7162 section 3.1.4.1: CHANGEDSINCE "causes the server to return ... MODSEQ" too.
    return items if changed_since is None or Attribute.MODSEQ in items else (*items, Attribute.MODSEQ)


def _fetch_modifiers(cursor: Cursor) -> tuple[int | None, bool]:
    cursor.expect(b"(")
    changed_since, vanished = None, False
    while True:
        word = cursor.word()
        if word == b"CHANGEDSINCE":
            cursor.space()
            changed_since = cursor.number(MAX_MODSEQ)
        elif word == b"VANISHED":
            vanished = True
        else:
            raise BadSyntax("unknown FETCH modifier")
        if cursor.skip(b")"):
            return changed_since, vanished
        cursor.space()


def _store(uid: bool) -> Reader:
    def read(cursor: Cursor) -> Command:
        numbers = _set(cursor)
        unchanged_since = None
        if cursor.skip(b"("):
            if cursor.word() != b"UNCHANGEDSINCE":
                raise BadSyntax("unknown STORE modifier")
            cursor.space()
            unchanged_since = cursor.number(MAX_MODSEQ)
            cursor.expect(b")")
            cursor.space()
        mode = "+" if cursor.skip(b"+") else "-" if cursor.skip(b"-") else ""
        word = cursor.word()
        if word not in (b"FLAGS", b"FLAGS.SILENT"):
            raise BadSyntax("expected FLAGS")
        cursor.space()
        flags = _settable(cursor.flags())
        return Store(numbers, mode, flags, word == b"FLAGS.SILENT", uid, unchanged_since)

    return read


def _copy(uid: bool, move: bool) -> Reader:
    def read(cursor: Cursor) -> Command:
        return Copy(_set(cursor), _mailbox(cursor), uid, move)

    return read


_LOGGED_IN = frozenset((State.AUTHENTICATED, State.SELECTED))
_SELECTED = frozenset((State.SELECTED,))
_ALWAYS = frozenset((State.NOT_AUTHENTICATED, State.AUTHENTICATED, State.SELECTED))

READERS: Final[dict[bytes, tuple[frozenset[State], Reader]]] = {
    b"NOOP": (_ALWAYS, _nothing(Noop)),
    b"LOGIN": (frozenset((State.NOT_AUTHENTICATED,)), _login),
    b"SELECT": (_LOGGED_IN, _select(read_only=False)),
    b"EXAMINE": (_LOGGED_IN, _select(read_only=True)),
    b"CREATE": (_LOGGED_IN, lambda cursor: Create(_new_mailbox(cursor))),
    b"DELETE": (_LOGGED_IN, lambda cursor: Delete(_argument(cursor))),
    b"RENAME": (_LOGGED_IN, _rename),
    b"SUBSCRIBE": (_LOGGED_IN, lambda cursor: Subscribe(_argument(cursor))),
    b"UNSUBSCRIBE": (_LOGGED_IN, lambda cursor: Unsubscribe(_argument(cursor))),
    b"LIST": (_LOGGED_IN, _list(subscribed=False)),
    b"LSUB": (_LOGGED_IN, _list(subscribed=True)),
    b"STATUS": (_LOGGED_IN, _status),
    b"ENABLE": (_LOGGED_IN, _enable),
    b"IDLE": (_LOGGED_IN, _nothing(Idle)),
    b"CHECK": (_SELECTED, _nothing(Check)),
    b"CLOSE": (_SELECTED, _nothing(lambda: Close(expunge=True))),
    b"UNSELECT": (_SELECTED, _nothing(lambda: Close(expunge=False))),
    b"EXPUNGE": (_SELECTED, _nothing(lambda: Expunge(None))),
    b"SEARCH": (_SELECTED, _search(uid=False)),
    b"FETCH": (_SELECTED, _fetch(uid=False)),
    b"STORE": (_SELECTED, _store(uid=False)),
    b"COPY": (_SELECTED, _copy(uid=False, move=False)),
    b"MOVE": (_SELECTED, _copy(uid=False, move=True)),
    b"UID SEARCH": (_SELECTED, _search(uid=True)),
    b"UID FETCH": (_SELECTED, _fetch(uid=True)),
    b"UID STORE": (_SELECTED, _store(uid=True)),
    b"UID COPY": (_SELECTED, _copy(uid=True, move=False)),
    b"UID MOVE": (_SELECTED, _copy(uid=True, move=True)),
    b"UID EXPUNGE": (_SELECTED, _uid_expunge),
}
