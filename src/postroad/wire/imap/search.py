"""SEARCH keys: read from a command into a tree.

RFC 3501 section 6.4.4. Reading never recurses; `matching` judges messages by the tree.

    >>> keys, charset = read_search(Cursor(b'UNSEEN OR FROM ada NOT SUBJECT "x"'))
    >>> [node.op.value for node in keys.children]
    ['not', 'or']
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from postroad.wire.imap.sets import SequenceSet, read_set
from postroad.wire.imap.syntax import MAX_DEPTH, MAX_MODSEQ, BadSyntax, Cursor
from postroad.wire.mime.words import decode_charset

MAX_KEYS: Final = 1_000
"""Keys of one SEARCH."""

MAX_TEXT_OCTETS: Final = 10_000
"""Octets of one string that is searched for."""

CHARSETS: Final = frozenset((b"US-ASCII", b"UTF-8"))


class UnknownCharset(Exception):
    """The charset is none of `CHARSETS`: NO with BADCHARSET (RFC 3501 section 6.4.4)."""


class Cost(Enum):
    """What a test needs of a message."""

    NUMBERS = 0
    """Flags, numbers, dates and size, which a mailbox index holds."""
    HEADER = 1
    TEXT = 2


@dataclass(frozen=True, slots=True)
class Key:
    """One key without its negation: UNSEEN is SEEN that must not hold."""

    name: str
    cost: Cost = Cost.NUMBERS
    numbers: SequenceSet = ()
    """For SET and UID."""
    number: int = 0
    """Size, mod-sequence, or day (days since 1970-01-01)."""
    header: bytes = b""
    """For HEADER: the field name in lower case. For FLAG: the flag in lower case."""
    text: str = ""
    """Case-folded text to look for."""


class Op(Enum):
    """How a node joins its children."""

    ALL = "and"
    ANY = "or"
    NOT = "not"


@dataclass(slots=True)
class Node:
    """An inner node of the tree of keys."""

    op: Op
    children: list[Node | Key] = field(default_factory=list)
    wanted: int = -1
    """How many children make it complete; -1 for a list that a parenthesis or the end completes."""


_FLAG_KEYS: Final = {
    b"ANSWERED": (b"\\answered", True),
    b"DELETED": (b"\\deleted", True),
    b"DRAFT": (b"\\draft", True),
    b"FLAGGED": (b"\\flagged", True),
    b"RECENT": (b"\\recent", True),
    b"SEEN": (b"\\seen", True),
    b"OLD": (b"\\recent", False),
    b"UNANSWERED": (b"\\answered", False),
    b"UNDELETED": (b"\\deleted", False),
    b"UNDRAFT": (b"\\draft", False),
    b"UNFLAGGED": (b"\\flagged", False),
    b"UNSEEN": (b"\\seen", False),
}
_ADDRESS_KEYS: Final = {word: word.lower() for word in (b"BCC", b"CC", b"FROM", b"SUBJECT", b"TO")}
_DAY_KEYS: Final = frozenset((b"BEFORE", b"ON", b"SINCE", b"SENTBEFORE", b"SENTON", b"SENTSINCE"))
_SIZE_KEYS: Final = frozenset((b"LARGER", b"SMALLER"))
_TEXT_KEYS: Final = frozenset((b"BODY", b"TEXT"))


def read_search(cursor: Cursor) -> tuple[Node, bytes]:
    """The keys of a SEARCH and its charset. Raises `BadSyntax` or `UnknownCharset`."""
    charset = b"US-ASCII"
    if cursor.octets[cursor.at : cursor.at + 8].upper() == b"CHARSET ":
        cursor.at += 8
        charset = cursor.astring().upper()
        if charset not in CHARSETS:
            raise UnknownCharset
        cursor.space()
    return _Reader(cursor).read(), charset


class _Reader:
    """Reads keys with a stack of unfinished nodes; its first is the AND of the whole command."""

    __slots__ = ("cursor", "keys", "stack")

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.stack = [Node(Op.ALL)]
        self.keys = 0

    def read(self) -> Node:
        cursor = self.cursor
        while True:
            self._read_key()
            while cursor.peek() == b")":
                self._close_parenthesis()
            if cursor.at_end:
                break
            cursor.space()
        if len(self.stack) != 1:
            raise BadSyntax("a search key is incomplete")
        return self.stack[0]

    def _close_parenthesis(self) -> None:
        node = self.stack[-1]
        if len(self.stack) == 1 or node.wanted >= 0 or not node.children:
            raise BadSyntax("unbalanced parentheses")
        self.cursor.expect(b")")
        self.stack.pop()
        self._complete(node)

    def _read_key(self) -> None:
        """Read the next key, with whatever NOT, OR and parentheses open before it."""
        while True:
            self.keys += 1
            if self.keys > MAX_KEYS:
                raise BadSyntax("too many search keys")
            opened = self._open_node()
            if opened is None:
                break
            if len(self.stack) > MAX_DEPTH:
                raise BadSyntax("search keys nested too deep")
            self.stack.append(opened)
            if opened.wanted >= 0:
                self.cursor.space()
        self._complete(self._read_test())

    def _open_node(self) -> Node | None:
        cursor = self.cursor
        if cursor.skip(b"("):
            return Node(Op.ALL)
        head = cursor.octets[cursor.at : cursor.at + 4].upper()
        if head == b"NOT ":
            cursor.at += 3
            return Node(Op.NOT, wanted=1)
        if head[:3] == b"OR ":
            cursor.at += 2
            return Node(Op.ANY, wanted=2)
        return None

    def _complete(self, done: Node | Key) -> None:
        """Give a finished key to the innermost open node, which may finish that one, and so on."""
        while True:
            node = self.stack[-1]
            node.children.append(done)
            if len(node.children) != node.wanted:
                return
            done = self.stack.pop()

    def _read_test(self) -> Node | Key:
        cursor = self.cursor
        if cursor.peek() in b"0123456789*" and not cursor.at_end:
            return Key("SET", numbers=read_set(cursor.set_text()))
        name = cursor.word()
        if name in _FLAG_KEYS:
            flag, holds = _FLAG_KEYS[name]
            return _flag_test(flag, holds)
        if name == b"ALL":
            return Node(Op.ALL)
        if name == b"NEW":
            # RFC 3501 section 6.4.4: NEW is (RECENT UNSEEN)
            return Node(Op.ALL, [_flag_test(b"\\recent", True), _flag_test(b"\\seen", False)])
        return self._read_argument(name)

    def _read_argument(self, name: bytes) -> Node | Key:
        cursor = self.cursor
        cursor.space()
        text = name.decode("ascii")
        if name in (b"KEYWORD", b"UNKEYWORD"):
            return _flag_test(cursor.flag(), name == b"KEYWORD")
        if name in _DAY_KEYS:
            return Key(text, Cost.HEADER if name.startswith(b"SENT") else Cost.NUMBERS, number=cursor.date_day())
        if name in _SIZE_KEYS:
            return Key(text, number=cursor.number())
        if name == b"UID":
            return Key("UID", numbers=read_set(cursor.set_text()))
        if name in _ADDRESS_KEYS:
            return Key(text, Cost.HEADER, header=_ADDRESS_KEYS[name], text=self._text())
        if name == b"HEADER":
            field_name = cursor.astring().lower()
            cursor.space()
            return Key("HEADER", Cost.HEADER, header=field_name, text=self._text())
        if name in _TEXT_KEYS:
            return Key(text, Cost.TEXT, text=self._text())
        if name == b"MODSEQ":
            return self._read_modseq()
        raise BadSyntax("unknown search key")

    def _read_modseq(self) -> Key:
        """RFC 7162 section 3.1.5: MODSEQ [entry-name entry-type] number; the entry is ignored as the RFC allows."""
        cursor = self.cursor
        if cursor.peek() == b'"':
            cursor.string()
            cursor.space()
            cursor.word()
            cursor.space()
        return Key("MODSEQ", number=cursor.number(MAX_MODSEQ))

    def _text(self) -> str:
        octets = self.cursor.astring()
        if len(octets) > MAX_TEXT_OCTETS:
            raise BadSyntax("search text too long")
        return decode_charset(octets, b"utf-8").casefold()


def _flag_test(flag: bytes, holds: bool) -> Node | Key:
    test = Key("FLAG", header=flag.lower())
    return test if holds else Node(Op.NOT, [test])
