"""What a server says, as octets: strings in their safest spelling, flags, dates, and FETCH responses in pieces.

RFC 3501 section 9. A large body is never put together here: a FETCH response is a list of octets and of `Slice`s that
the driver reads from the stored body and sends in between.

    >>> quoted(b'say "hi"'), string("ä".encode()), astring(b"INBOX"), nstring(None)
    (b'"say \\\\"hi\\\\""', b'{2}\\r\\n\\xc3\\xa4', b'INBOX', b'NIL')
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

MAX_QUOTED_OCTETS: Final = 1_000
"""Octets of a string that is still quoted and not a literal; some clients read lines into small buffers."""

_ASTRING = re.compile(rb"[^\x00-\x20\x7f-\xff(){%*\"\\]+")
# RFC 3501 section 9: QUOTED-CHAR is a TEXT-CHAR: 7-bit without NUL, CR and LF; other controls become literals too.
_QUOTABLE = re.compile(rb"[\x20-\x7e\t]*")
_TO_ESCAPE = re.compile(rb'(["\\])')
_MONTHS: Final = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_CODE_UNSAFE = bytes(octet for octet in range(256) if octet < 32 or octet > 126)


class Slice(NamedTuple):
    """Octets `start` to `end` of the stored body, to be sent as they are."""

    start: int
    end: int


Piece = bytes | Slice


def without_nul(octets: bytes) -> bytes:
    """`octets` with every NUL, which no IMAP string may hold (RFC 3501 section 4.3), as 0x80; the length stays."""
    return octets.replace(b"\0", b"\x80") if b"\0" in octets else octets


def literal(octets: bytes) -> bytes:
    """A literal: any octets, NUL replaced."""
    return b"{%d}\r\n" % len(octets) + without_nul(octets)


def string(octets: bytes) -> bytes:
    """A quoted string where that is safe, else a literal."""
    if len(octets) <= MAX_QUOTED_OCTETS and _QUOTABLE.fullmatch(octets):
        return quoted(octets)
    return literal(octets)


def quoted(octets: bytes) -> bytes:
    """A quoted string; the caller knows that the octets may be quoted."""
    if b'"' in octets or b"\\" in octets:
        octets = _TO_ESCAPE.sub(rb"\\\1", octets)
    return b'"' + octets + b'"'


def nstring(octets: bytes | None) -> bytes:
    """NIL for None, else a string."""
    return b"NIL" if octets is None else string(octets)


def astring(octets: bytes) -> bytes:
    """An atom where it can be one (but never the atom NIL), else a string."""
    if _ASTRING.fullmatch(octets) and octets.upper() != b"NIL":
        return octets
    return string(octets)


def response_text(text: str) -> bytes:
    """Human text for a status response: printable ASCII, never empty, never beginning like a response code."""
    octets = text.encode("ascii", "replace").translate(None, _CODE_UNSAFE)
    return octets.lstrip(b"[ ") or b"done"


def flag_list(flags: Iterable[bytes]) -> bytes:
    """Flags in parentheses."""
    return b"(" + b" ".join(flags) + b")"


def internal_date(moment_us: int) -> bytes:
    """INTERNALDATE of a moment (microseconds since 1970), always in UTC: RFC 3501 lets the server choose the zone."""
    days, second_of_day = divmod(moment_us // 1_000_000, 86_400)
    year, month, day = _civil(max(min(days, 2_932_896), -719_162))
    hour, rest = divmod(second_of_day, 3_600)
    return b'"%2d-%b-%04d %02d:%02d:%02d +0000"' % (day, _MONTHS[month - 1], year, hour, *divmod(rest, 60))


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month, day of a day number of the Gregorian calendar."""
    era, of_era = divmod(days + 719_468, 146_097)
    year_of_era = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + era * 400 + (month <= 2), month, of_year - (153 * shifted + 2) // 5 + 1


def size_of(pieces: Iterable[Piece]) -> int:
    """Octets that the pieces make together."""
    return sum(piece.end - piece.start if isinstance(piece, Slice) else len(piece) for piece in pieces)


def cut(pieces: Sequence[Piece], first: int, count: int) -> list[Piece]:
    """Octets `first` to `first + count` of what the pieces make together; past the end there is nothing."""
    kept: list[Piece] = []
    end = first + count
    position = 0
    for piece in pieces:
        length = size_of((piece,))
        low, high = max(first - position, 0), min(end - position, length)
        if low < high:
            kept.append(Slice(piece.start + low, piece.start + high) if isinstance(piece, Slice) else piece[low:high])
        position += length
    return kept


def literal_pieces(pieces: Sequence[Piece]) -> list[Piece]:
    """A literal whose content is the pieces, NULs in octets at hand replaced; those in a `Slice` are the driver's."""
    kept: list[Piece] = [piece if isinstance(piece, Slice) else without_nul(piece) for piece in pieces]
    return [b"{%d}\r\n" % size_of(pieces), *kept]


def fetch_response(number: int, items: Sequence[tuple[bytes, bytes | Sequence[Piece]]]) -> list[Piece]:
    """One FETCH response, neighbouring octets joined, with its CRLF.

    `items` are (name, value): octets that already are an IMAP value, or pieces that become a literal.

        >>> fetch_response(1, [(b"UID", b"7"), (b"BODY[]", [b"A: b", Slice(0, 9)])])
        [b'* 1 FETCH (UID 7 BODY[] {13}\\r\\nA: b', Slice(start=0, end=9), b')\\r\\n']
    """
    out: list[Piece] = []
    waiting = [b"* %d FETCH (" % number]
    for at, (name, value) in enumerate(items):
        waiting.append(b"%b%b " % (b" " if at else b"", name))
        for piece in (value,) if isinstance(value, bytes) else literal_pieces(value):
            if isinstance(piece, Slice):
                out.append(b"".join(waiting))
                out.append(piece)
                waiting = []
            else:
                waiting.append(piece)
    waiting.append(b")\r\n")
    out.append(b"".join(waiting))
    return out
