"""A byte-offset index over a header block, and the place where a header block ends.

The index never copies or changes the header: it keeps offsets, so a field can be shown, hashed or removed
exactly as it came. Lines end with LF (a CR before it belongs to the line end); SMTP has already refused bare
CR and bare LF, but a header may also come from a file or an IMAP client, so here they are only marked.

    >>> index = HeaderIndex(b"From: a@example.org\\r\\nSubject: two\\r\\n lines\\r\\n\\r\\n")
    >>> index.first(b"subject")
    b'two lines'
    >>> [field.name for field in index]
    [b'from', b'subject']
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntFlag
from typing import NamedTuple

MAX_HEADER_OCTETS = 256 * 1024
"""Octets of one header block; the store keeps header blocks in the database, and no honest mail comes near."""

MAX_HEADER_LINES = 2_000
"""Lines of one header block; long Received and ARC chains stay below 500."""

# RFC 5322 section 2.2: a name is printable US-ASCII without the colon; section 4.5: obsolete blanks before it.
# Every branch can only succeed, so the expression never backtracks further than one name.
_LOGICAL_LINE = re.compile(rb"(?:([!-9;-~]+)([ \t]*):)?[^\n]*\n?(?:[ \t][^\n]*\n?)*")
_FIELD_LINE = re.compile(rb"[!-9;-~]+[ \t]*:[^\n]*\n?(?:[ \t][^\n]*\n?)*")
_BLANK_LINE = re.compile(rb"\r?\n")
_FIRST_LINE_JUNK = re.compile(rb"(?:>?From |[ \t])[^\n]*\n?(?:[ \t][^\n]*\n?)*")
_LINE_END = re.compile(rb"\r?\n")
_DISPLAY_CONTROLS = bytes(32 if octet < 32 or octet == 127 else octet for octet in range(256))


class HeaderOddity(IntFlag):
    """What is wrong with a header block; facts for policy, never an error by themselves."""

    NONE = 0
    NO_COLON = 1
    BLANK_BEFORE_COLON = 2
    LEADING_CONTINUATION = 4
    BARE_CR = 8
    BARE_LF = 16
    NUL = 32
    EIGHT_BIT = 64


class HeaderTooLarge(ValueError):
    """The block has more than `MAX_HEADER_OCTETS` octets or `MAX_HEADER_LINES` lines; it was not read."""


class Field(NamedTuple):
    """One header field by offsets: the field is `block[start:end]` and its raw value `block[value_start:end]`."""

    name: bytes
    """Lower case, without blanks; empty for a line that is no field."""
    start: int
    value_start: int
    end: int
    """After the line end of the last line of the field."""


class HeaderIndex:
    """Every field of one header block, in order, by offset.

    `block` may end with the blank line that ends a header, or not. Raises `HeaderTooLarge` past the limits and
    nothing else, whatever the bytes. Lines that are no field are kept as fields with an empty name.
    """

    __slots__ = ("_oddities", "block", "ends", "names", "starts", "value_starts")

    def __init__(self, block: bytes) -> None:
        if len(block) > MAX_HEADER_OCTETS or block.count(b"\n") > MAX_HEADER_LINES:
            raise HeaderTooLarge
        self.block = block
        self.names: list[bytes] = []
        self.starts: list[int] = []
        self.value_starts: list[int] = []
        self.ends: list[int] = []
        self._oddities: HeaderOddity | None = None
        self._index(block, _end_of_fields(block))

    def _index(self, block: bytes, stop: int) -> None:
        add_name, add_start = self.names.append, self.starts.append
        add_value, add_end = self.value_starts.append, self.ends.append
        position = 0
        read = _LOGICAL_LINE.match
        while position < stop:
            line = read(block, position, stop)
            assert line is not None, "the expression matches any bytes"
            name = line[1]
            add_start(position)
            if name is None:
                add_name(b"")
                add_value(position)
            else:
                add_name(name.lower())
                add_value(line.end(2) + 1)
            position = line.end()
            add_end(position)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Field]:
        return map(Field, self.names, self.starts, self.value_starts, self.ends)

    @property
    def oddities(self) -> HeaderOddity:
        """What is malformed in this block; computed on first use and kept."""
        if self._oddities is None:
            self._oddities = self._find_oddities()
        return self._oddities

    def _find_oddities(self) -> HeaderOddity:
        block = self.block
        found = HeaderOddity.NONE
        crlf = block.count(b"\r\n")
        if block.count(b"\r") != crlf:
            found |= HeaderOddity.BARE_CR
        if block.count(b"\n") != crlf:
            found |= HeaderOddity.BARE_LF
        if b"\0" in block:
            found |= HeaderOddity.NUL
        if not block.isascii():
            found |= HeaderOddity.EIGHT_BIT
        if block[:1] in (b" ", b"\t"):
            found |= HeaderOddity.LEADING_CONTINUATION
        for name, start, value_start in zip(self.names, self.starts, self.value_starts, strict=True):
            if not name:
                found |= HeaderOddity.NO_COLON
            elif value_start - start != len(name) + 1:
                found |= HeaderOddity.BLANK_BEFORE_COLON
        return found

    def first(self, name: bytes) -> bytes | None:
        """The unfolded value of the first field called `name` (lower case), blanks at both ends removed; or None."""
        try:
            at = self.names.index(name)
        except ValueError:
            return None
        return unfold(self.block[self.value_starts[at] : self.ends[at]])

    def all(self, name: bytes) -> list[bytes]:
        """The unfolded values of every field called `name` (lower case), in order."""
        if name not in self.names:
            return []
        return [unfold(self.raw_value(at)) for at, other in enumerate(self.names) if other == name]

    def count(self, name: bytes) -> int:
        """How many fields are called `name` (lower case)."""
        return self.names.count(name)

    def raw_value(self, at: int) -> bytes:
        """The value of field number `at` as it stands, with its folding and line end."""
        return self.block[self.value_starts[at] : self.ends[at]]

    def raw_field(self, at: int) -> bytes:
        """Field number `at` whole: name, colon, value and line end, as they stand."""
        return self.block[self.starts[at] : self.ends[at]]


def _end_of_fields(block: bytes) -> int:
    """Where the fields stop: the blank line if there is one at a line start, else the end of the block."""
    blank = _BLANK_LINE.match(block)
    if blank:
        return 0
    crlf = block.find(b"\n\r\n")
    bare = block.find(b"\n\n", 0, crlf + 1 if crlf >= 0 else len(block))
    at = bare if bare >= 0 else crlf
    return at + 1 if at >= 0 else len(block)


def unfold(value: bytes) -> bytes:
    """A field value on one line, blanks at both ends removed; any other control octet becomes a blank.

    RFC 5322 section 2.2.3: unfolding removes a CRLF that a blank follows. A bare CR, a NUL and the like become a
    blank each, so that what comes out can stand on one line of any protocol.
    """
    if b"\n" in value:
        value = _LINE_END.sub(b"", value)
    return value.translate(_DISPLAY_CONTROLS).strip(b" ")


def split_header(message: bytes, start: int = 0, stop: int | None = None) -> tuple[int, int]:
    """Where the header of `message[start:stop]` ends and where its body begins, as offsets into `message`.

    The first number is the end of the last field, the second the first octet after the blank line, so
    `message[start:second]` is the header block with its blank line. Without a blank line the body begins at the
    first line that is no header field, and both numbers are equal. A first line that begins with a blank or is
    a mailbox separator (`From `) counts as a malformed header line. Never raises; linear.
    """
    stop = len(message) if stop is None else stop
    position = start
    junk = _FIRST_LINE_JUNK.match(message, position, stop)
    if junk:
        position = junk.end()
    read = _FIELD_LINE.match
    while True:
        field = read(message, position, stop)
        if field is None:
            break
        position = field.end()
    blank = _BLANK_LINE.match(message, position, stop)
    return position, blank.end() if blank else position
