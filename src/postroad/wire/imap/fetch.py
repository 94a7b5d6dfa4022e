"""FETCH items as values (RFC 3501 section 6.4.5, RFC 7162).

>>> read_items(Cursor(b"(UID BODY.PEEK[1.MIME]<0.10>)"))[1].label
b'BODY[1.MIME]<0>'
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from postroad.wire.imap.responses import astring
from postroad.wire.imap.syntax import BadSyntax, Cursor

MAX_ITEMS: Final = 100
"""Items of one FETCH."""

MAX_FIELDS: Final = 200
"""Names in one HEADER.FIELDS."""

MAX_PATH: Final = 100
"""Numbers in one section: the depth to which the tree of parts goes."""


class Attribute(Enum):
    """An item without arguments; the value is its name in the response."""

    ENVELOPE = b"ENVELOPE"
    FLAGS = b"FLAGS"
    INTERNALDATE = b"INTERNALDATE"
    SIZE = b"RFC822.SIZE"
    UID = b"UID"
    BODYSTRUCTURE = b"BODYSTRUCTURE"
    BODY = b"BODY"
    """BODYSTRUCTURE without extension data."""
    MODSEQ = b"MODSEQ"


class Kind(Enum):
    """Which octets of the message or part a section means."""

    ALL = b""
    HEADER = b"HEADER"
    FIELDS = b"HEADER.FIELDS"
    FIELDS_NOT = b"HEADER.FIELDS.NOT"
    TEXT = b"TEXT"
    MIME = b"MIME"


@dataclass(frozen=True, slots=True)
class Section:
    """BODY[...], BODY.PEEK[...], RFC822, RFC822.HEADER or RFC822.TEXT."""

    kind: Kind = Kind.ALL
    path: tuple[int, ...] = ()
    """Part numbers; empty for the message itself."""
    fields: tuple[bytes, ...] = ()
    """For the two FIELDS kinds: names in lower case."""
    peek: bool = False
    """Whether \\Seen stays as it is."""
    partial: tuple[int, int] | None = None
    """First octet and number of octets wanted."""
    label: bytes = b"BODY[]"
    """The name of the item in the response."""

    @property
    def needs_tree(self) -> bool:
        """Whether the tree of parts must be known; the header and the whole message can be cut without it."""
        return bool(self.path)


FetchItem = Attribute | Section

_MACROS: Final[dict[bytes, tuple[FetchItem, ...]]] = {
    b"FAST": (Attribute.FLAGS, Attribute.INTERNALDATE, Attribute.SIZE),
    b"ALL": (Attribute.FLAGS, Attribute.INTERNALDATE, Attribute.SIZE, Attribute.ENVELOPE),
    b"FULL": (Attribute.FLAGS, Attribute.INTERNALDATE, Attribute.SIZE, Attribute.ENVELOPE, Attribute.BODY),
}
_OLD_SECTIONS: Final = {
    b"RFC822": Section(label=b"RFC822"),
    b"RFC822.HEADER": Section(Kind.HEADER, peek=True, label=b"RFC822.HEADER"),
    b"RFC822.TEXT": Section(Kind.TEXT, label=b"RFC822.TEXT"),
}
_ATTRIBUTES: Final = {attribute.value: attribute for attribute in Attribute}
_NAME = re.compile(rb"[A-Za-z0-9.]+")
_PATH = re.compile(rb"([1-9]\d{0,9}(?:\.[1-9]\d{0,9})*)(?:\.(?=[A-Za-z])|(?=\]))")


def read_items(cursor: Cursor) -> tuple[FetchItem, ...]:
    """The items of a FETCH: a macro, one item, or a list in parentheses; each once."""
    if not cursor.skip(b"("):
        macro = _MACROS.get(cursor.octets[cursor.at :].partition(b" ")[0].upper())
        if macro is not None:
            cursor.word()
            return macro
        return (_read_item(cursor),)
    found = {_read_item(cursor): None}
    while cursor.skip(b" "):
        found[_read_item(cursor)] = None
        if len(found) > MAX_ITEMS:
            raise BadSyntax("too many items")
    cursor.expect(b")")
    return tuple(found)


def _read_item(cursor: Cursor) -> FetchItem:
    match = _NAME.match(cursor.octets, cursor.at)
    if match is None:
        raise BadSyntax("expected a fetch item")
    cursor.at = match.end()
    name = match[0].upper()
    if cursor.peek() == b"[" and name in (b"BODY", b"BODY.PEEK"):
        return _read_section(cursor, peek=name == b"BODY.PEEK")
    item = _OLD_SECTIONS.get(name) or _ATTRIBUTES.get(name)
    if item is None:
        raise BadSyntax("unknown fetch item")
    return item


def _read_section(cursor: Cursor, peek: bool) -> Section:
    start = cursor.at
    cursor.expect(b"[")
    path = _read_path(cursor)
    fields: tuple[bytes, ...] = ()
    kind = Kind.ALL
    if cursor.peek() != b"]":
        kind = _read_kind(cursor, path)
        if kind in (Kind.FIELDS, Kind.FIELDS_NOT):
            cursor.space()
            fields = _read_fields(cursor)
    cursor.expect(b"]")
    label = b"BODY" + _label(path, kind, fields)
    partial = _read_partial(cursor)
    if partial is not None:
        label += b"<%d>" % partial[0]
    assert cursor.at > start
    return Section(kind, path, tuple(name.lower() for name in fields), peek, partial, label)


def _read_path(cursor: Cursor) -> tuple[int, ...]:
    match = _PATH.match(cursor.octets, cursor.at)
    if match is None:
        return ()
    numbers = match[1].split(b".")
    if len(numbers) > MAX_PATH:
        raise BadSyntax("section too deep")
    cursor.at = match.end()
    return tuple(map(int, numbers))


def _read_kind(cursor: Cursor, path: tuple[int, ...]) -> Kind:
    try:
        kind = Kind(cursor.word())
    except ValueError:
        raise BadSyntax("bad section") from None
    # RFC 3501 section 6.4.5: "The MIME part specifier MUST be prefixed by one or more numeric part specifiers."
    if kind is Kind.MIME and not path:
        raise BadSyntax("MIME needs a part number")
    return kind


def _read_fields(cursor: Cursor) -> tuple[bytes, ...]:
    cursor.expect(b"(")
    fields = [cursor.astring()]
    while cursor.skip(b" "):
        fields.append(cursor.astring())
        if len(fields) > MAX_FIELDS:
            raise BadSyntax("too many header names")
    cursor.expect(b")")
    return tuple(fields)


def _label(path: tuple[int, ...], kind: Kind, fields: tuple[bytes, ...]) -> bytes:
    words = [b"%d" % number for number in path]
    if kind is not Kind.ALL:
        words.append(kind.value)
    names = b" (" + b" ".join(map(astring, fields)) + b")" if fields else b""
    return b"[" + b".".join(words) + names + b"]"


def _read_partial(cursor: Cursor) -> tuple[int, int] | None:
    if not cursor.skip(b"<"):
        return None
    first = cursor.number()
    cursor.expect(b".")
    count = cursor.nonzero()
    cursor.expect(b">")
    return first, count
