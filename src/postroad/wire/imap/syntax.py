"""The lexical layer of IMAP commands: a cursor over one complete command with its literals in place.

RFC 3501 section 9. The cursor only moves forward; whatever does not fit raises `BadSyntax`, which the machine turns
into one tagged BAD.

    >>> cursor = Cursor(b'LOGIN ada {6}\\r\\nsecret')
    >>> cursor.word(), cursor.space(), cursor.astring(), cursor.space(), cursor.astring(), cursor.at_end
    (b'LOGIN', None, b'ada', None, b'secret', True)
"""

from __future__ import annotations

import re
from typing import Final

from postroad.wire.mime.dates import days_from_civil, is_date, month_number

MAX_NUMBER: Final = 4_294_967_295
"""RFC 3501 section 9: a number is an unsigned 32-bit integer."""

MAX_MODSEQ: Final = 9_223_372_036_854_775_807
"""RFC 7162 section 7: a mod-sequence is a positive 63-bit integer."""

MAX_DEPTH: Final = 50
"""Parentheses (and NOT, OR in SEARCH) inside each other."""

MAX_FLAGS: Final = 100
"""Flags in one list."""

MAX_FLAG_OCTETS: Final = 200

_WORD = re.compile(rb"[A-Za-z0-9.\-]+")
# atom-specials = "(" / ")" / "{" / SP / CTL / list-wildcards / quoted-specials / resp-specials
_ATOM = re.compile(rb"[^\x00-\x20\x7f-\xff(){%*\"\\\]]+")
_ASTRING = re.compile(rb"[^\x00-\x20\x7f-\xff(){%*\"\\]+")
_LIST_MAILBOX = re.compile(rb"[^\x00-\x20\x7f-\xff(){\"\\]+")
_QUOTED = re.compile(rb'"([^"\\\r\n]*(?:\\["\\][^"\\\r\n]*)*)"')
_QUOTED_PAIR = re.compile(rb'\\(["\\])')
_LITERAL = re.compile(rb"\{(\d{1,10})\+?\}\r\n")
_NUMBER = re.compile(rb"\d{1,20}")
_SET = re.compile(rb"[0-9*:,]+")
_FLAG = re.compile(rb"\\?[^\x00-\x20\x7f-\xff(){%*\"\\\]]+")
_DATE = re.compile(rb'("?)(\d{1,2})-([A-Za-z]{3})-(\d{4})\1')
_DATE_TIME = re.compile(rb'"([ \d]\d)-([A-Za-z]{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)"')


class BadSyntax(Exception):
    """The command cannot be read; the text is for the client and holds nothing of what it sent."""


class Cursor:
    """A place in one command."""

    __slots__ = ("at", "octets")

    def __init__(self, octets: bytes, at: int = 0) -> None:
        self.octets = octets
        self.at = at

    @property
    def at_end(self) -> bool:
        """Whether nothing is left."""
        return self.at >= len(self.octets)

    def peek(self) -> bytes:
        """The next octet, or nothing at the end."""
        return self.octets[self.at : self.at + 1]

    def skip(self, text: bytes) -> bool:
        """Step over `text` if it comes next; tells whether it did."""
        if not self.octets.startswith(text, self.at):
            return False
        self.at += len(text)
        return True

    def expect(self, text: bytes) -> None:
        """Step over `text`, which must come next."""
        if not self.skip(text):
            raise BadSyntax(f"expected {text.decode('ascii')!r}")

    def space(self) -> None:
        """Step over the one blank that must come next."""
        if not self.skip(b" "):
            raise BadSyntax("expected a space")

    def end(self) -> None:
        """Nothing may be left."""
        if not self.at_end:
            raise BadSyntax("unexpected text at the end")

    def word(self) -> bytes:
        """A keyword of letters, digits, dots and hyphens, in upper case."""
        return self._take(_WORD, "a word").upper()

    def atom(self) -> bytes:
        """An atom as it stands."""
        return self._take(_ATOM, "an atom")

    def astring(self) -> bytes:
        """An atom (with "]"), quoted string or literal."""
        if self.peek() in (b'"', b"{"):
            return self.string()
        return self._take(_ASTRING, "a string")

    def list_mailbox(self) -> bytes:
        """As `astring`, but an unquoted one may hold the wildcards of LIST."""
        if self.peek() in (b'"', b"{"):
            return self.string()
        return self._take(_LIST_MAILBOX, "a mailbox pattern")

    def string(self) -> bytes:
        """A quoted string or a literal."""
        if self.peek() == b'"':
            match = _QUOTED.match(self.octets, self.at)
            if match is None:
                raise BadSyntax("bad quoted string")
            self.at = match.end()
            return _QUOTED_PAIR.sub(rb"\1", match[1]) if b"\\" in match[1] else match[1]
        return self._literal()

    def _literal(self) -> bytes:
        match = _LITERAL.match(self.octets, self.at)
        if match is None:
            raise BadSyntax("expected a string")
        end = match.end() + int(match[1])
        if end > len(self.octets):
            raise BadSyntax("literal is cut short")
        self.at = end
        text = self.octets[match.end() : end]
        # RFC 3501 section 9: literal = "{" number "}" CRLF *CHAR8, and CHAR8 is any octet except NUL.
        if b"\0" in text:
            raise BadSyntax("NUL in a literal")
        return text

    def nstring(self) -> bytes | None:
        """A string, or None for NIL."""
        if self.peek() not in (b'"', b"{"):
            if self.octets[self.at : self.at + 3].upper() == b"NIL":
                self.at += 3
                return None
            raise BadSyntax("expected a string or NIL")
        return self.string()

    def number(self, limit: int = MAX_NUMBER) -> int:
        """A number of at most `limit`."""
        value = int(self._take(_NUMBER, "a number"))
        if value > limit:
            raise BadSyntax("number too large")
        return value

    def nonzero(self, limit: int = MAX_NUMBER) -> int:
        """A number of at least 1."""
        value = self.number(limit)
        if value == 0:
            raise BadSyntax("number must not be 0")
        return value

    def set_text(self) -> bytes:
        """The characters of a sequence set, for `sets.read_set`."""
        return self._take(_SET, "a sequence set")

    def flag(self) -> bytes:
        """One flag or keyword as it stands."""
        flag = self._take(_FLAG, "a flag")
        if len(flag) > MAX_FLAG_OCTETS:
            raise BadSyntax("flag too long")
        return flag

    def flag_list(self) -> tuple[bytes, ...]:
        """Flags in parentheses, possibly none."""
        self.expect(b"(")
        if self.skip(b")"):
            return ()
        return self._flags_to(b")")

    def flags(self) -> tuple[bytes, ...]:
        """A flag list, or at least one flag without parentheses, up to the end of the command."""
        return self.flag_list() if self.peek() == b"(" else self._flags_to(b"")

    def _flags_to(self, closing: bytes) -> tuple[bytes, ...]:
        found = [self.flag()]
        while self.skip(b" "):
            found.append(self.flag())
            if len(found) > MAX_FLAGS:
                raise BadSyntax("too many flags")
        self.expect(closing)
        return tuple(found)

    def date_day(self) -> int:
        """A date (`1-Feb-1994`, quoted or not) as days since 1970-01-01."""
        match = _DATE.match(self.octets, self.at)
        month = month_number(match[3]) if match else None
        if match is None or month is None or not is_date(int(match[4]), month, int(match[2])):
            raise BadSyntax("bad date")
        self.at = match.end()
        return days_from_civil(int(match[4]), month, int(match[2]))

    def date_time_us(self) -> int:
        """A quoted date-time (`" 1-Feb-1994 21:52:25 -0800"`) as microseconds since 1970 UTC."""
        match = _DATE_TIME.match(self.octets, self.at)
        month = month_number(match[2]) if match else None
        if match is None or month is None:
            raise BadSyntax("bad date-time")
        day, year, hour, minute, second, zone_hours, zone_minutes = (int(match[n]) for n in (1, 3, 4, 5, 6, 8, 9))
        if (
            not is_date(year, month, day)
            or hour > 23
            or minute > 59
            or second > 60
            or zone_hours > 23
            or zone_minutes > 59
        ):
            raise BadSyntax("no such date-time")
        self.at = match.end()
        offset = (zone_hours * 60 + zone_minutes) * 60
        local = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + min(second, 59)
        return (local + offset if match[7] == b"-" else local - offset) * 1_000_000

    def _take(self, pattern: re.Pattern[bytes], what: str) -> bytes:
        match = pattern.match(self.octets, self.at)
        if match is None:
            raise BadSyntax(f"expected {what}")
        self.at = match.end()
        return match[0]
