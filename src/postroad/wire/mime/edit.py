"""Changes to a header block, byte for byte: what is not named stays exactly as it came.

Positions are those of libmilter (smfi_insheader, smfi_chgheader, with what Postfix and sendmail make of them): our own
Received line, which is not in the block, stands at place 0. A field inserted at 0 goes above it, one inserted at 1 goes
right below it, before the first field that the client sent. Changing and removing count the fields of one name from 1
as they stand at that moment, and never see our Received line.

    >>> header = EditedHeader(b"From: a@example.org\\r\\nSubject: hi\\r\\n\\r\\n")
    >>> header.change(1, b"subject", b" bye")
    >>> header.insert(1, b"X-Checked", b" yes")
    >>> header.block
    b'X-Checked: yes\\r\\nFrom: a@example.org\\r\\nsubject: bye\\r\\n\\r\\n'
"""

from __future__ import annotations

import re
from typing import Final

from postroad.wire.mime.headers import MAX_HEADER_LINES, MAX_HEADER_OCTETS, HeaderIndex

_name = re.compile(rb"[!-9;-~]{1,200}").fullmatch
_FOLD: Final = re.compile(rb"\r?\n")


class UnsafeEdit(ValueError):
    """A change that would not leave a header behind (class E5): the text says what is wrong, without the value."""


def field_octets(name: bytes, value: bytes) -> bytes:
    """One field with its CRLF; `value` is everything behind the colon, folded with CRLF or LF and a blank.

    Raises UnsafeEdit for a name that is none (RFC 5322 section 2.2) and for a value with a CR or LF that does not fold,
    a NUL, or a folded line of blanks only.
    """
    if not _name(name):
        raise UnsafeEdit("this is no field name")
    lines = _FOLD.split(value)
    for number, line in enumerate(lines):
        if b"\r" in line or b"\0" in line:
            raise UnsafeEdit("a bare CR or a NUL")
        # RFC 5322 section 2.2.3: a line goes on where a blank follows its end. Without one a field would begin here,
        # or the body.
        if number and (line[:1] not in (b" ", b"\t") or not line.strip(b" \t")):
            raise UnsafeEdit("a line end that does not fold")
    return b"%b:%b\r\n" % (name, b"\r\n".join(lines))


class EditedHeader:
    """A header block that is being changed. Raises `HeaderTooLarge` for a block that cannot be indexed."""

    __slots__ = ("_above", "_end", "_fields", "_names", "_size")

    def __init__(self, block: bytes) -> None:
        index = HeaderIndex(block)
        self._fields = [index.raw_field(at) for at in range(len(index))]
        self._names = list(index.names)
        self._end = block[index.ends[-1] if index.ends else 0 :]
        self._above: list[tuple[bytes, bytes]] = []
        self._size = len(block)

    def copy(self) -> EditedHeader:
        """The same header, to be changed apart from this one."""
        other = object.__new__(EditedHeader)
        other._fields, other._names, other._above = self._fields[:], self._names[:], self._above[:]
        other._end, other._size = self._end, self._size
        return other

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def block(self) -> bytes:
        """The fields below our Received line and what ends the header, as the block came."""
        return b"".join([*self._fields, self._end])

    @property
    def above(self) -> bytes:
        """The fields that go above our Received line."""
        return b"".join(octets for _, octets in self._above)

    def fields(self) -> list[tuple[bytes, bytes]]:
        """Name and value of every field from the top, without our Received line.

        Names are in the letters that they came in; values are everything behind the colon with LF for each line end,
        without the last one. A line that is no field is left out.
        """
        octets = [*(field for _, field in self._above), *self._fields]
        names = [*(name for name, _ in self._above), *self._names]
        return [_parted(field) for name, field in zip(names, octets, strict=True) if name]

    def end(self) -> None:
        """Gives the block its empty line where it has none: a body will follow."""
        if not self._end:
            if self._fields and not self._fields[-1].endswith(b"\n"):
                self._fields[-1] += b"\r\n"
            self._end = b"\r\n"

    # -- changing ----------------------------------------------------------------------------------------------------

    def add(self, name: bytes, value: bytes) -> None:
        """A field behind all others; raises UnsafeEdit, as all changes do."""
        self._put(len(self._fields), name, value)

    def insert(self, index: int, name: bytes, value: bytes) -> None:
        """A field before the one at `index`; behind all others where there are fewer."""
        above = len(self._above)
        if index <= above:
            octets = field_octets(name, value)
            self._grow(len(octets))
            self._above.insert(index, (name.lower(), octets))
            return
        # Lines that are no fields were not shown, so they do not count.
        real = [at for at, known in enumerate(self._names) if known]
        wanted = index - above - 1
        self._put(real[wanted] if wanted < len(real) else len(self._fields), name, value)

    def change(self, index: int, name: bytes, value: bytes) -> None:
        """Another value for the `index`th field of this name; a new field at the end where there are fewer.

        An empty value removes the field, or does nothing where there is none. 0 counts as 1.
        """
        if not value:
            self._remove(max(index, 1), name.lower())
            return
        found = self._find(max(index, 1), name.lower())
        if found is None:
            self.add(name, value)
            return
        octets = field_octets(name, value)
        above, at = found
        self._grow(len(octets) - len(self._above[at][1] if above else self._fields[at]))
        if above:
            self._above[at] = (name.lower(), octets)
        else:
            self._fields[at] = octets

    def _remove(self, index: int, lowered: bytes) -> None:
        found = self._find(index, lowered)
        if found is None:
            return
        above, at = found
        if above:
            self._size -= len(self._above.pop(at)[1])
        else:
            self._size -= len(self._fields.pop(at))
            del self._names[at]

    def _put(self, at: int, name: bytes, value: bytes) -> None:
        octets = field_octets(name, value)
        self._grow(len(octets))
        if at and not self._fields[at - 1].endswith(b"\n"):
            self._fields[at - 1] += b"\r\n"
        self._fields.insert(at, octets)
        self._names.insert(at, name.lower())

    def _find(self, index: int, lowered: bytes) -> tuple[bool, int] | None:
        """Where the `index`th field of a name is: above our Received line or not, and its place there."""
        for at, (known, _) in enumerate(self._above):
            if known == lowered:
                index -= 1
                if not index:
                    return True, at
        for at, known in enumerate(self._names):
            if known == lowered:
                index -= 1
                if not index:
                    return False, at
        return None

    def _grow(self, octets: int) -> None:
        self._size += octets
        if self._size > MAX_HEADER_OCTETS or len(self._fields) + len(self._above) >= MAX_HEADER_LINES:
            raise UnsafeEdit("the header becomes too large")


def _parted(field: bytes) -> tuple[bytes, bytes]:
    name, _, value = field.partition(b":")
    return name.rstrip(b" \t"), _FOLD.sub(b"\n", value).removesuffix(b"\n")
