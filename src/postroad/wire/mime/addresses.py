"""Address lists as IMAP's ENVELOPE shows them: tolerant, linear, and never a reason to refuse anything.

RFC 5322 section 3.4 with its obsolete forms (section 4.4) and UTF-8 (RFC 6532). The result follows RFC 3501
section 7.4.2: groups are a start marker (mailbox is the group's name, host is None), the members, and an end
marker (mailbox and host None). Whether an address is *valid* is not decided here.

    >>> read_addresses(b'"Doe, J." <j@example.org>, team: a@example.org;')
    [ListedAddress(display=b'Doe, J.', route=None, mailbox=b'j', host=b'example.org'),
     ListedAddress(display=None, route=None, mailbox=b'team', host=None),
     ListedAddress(display=None, route=None, mailbox=b'a', host=b'example.org'),
     ListedAddress(display=None, route=None, mailbox=None, host=None)]
"""

from __future__ import annotations

import re
from typing import NamedTuple

from postroad.wire.mime.lexing import read_comment, read_quoted

MAX_ADDRESSES = 10_000
"""Addresses and group markers read from one value; Postfix stops at 10,240 tokens."""

_TOKEN = re.compile(rb'[ \t\r\n]+|[^\s"(),:;<>@\[\]]+|\[[^\]]*\]?|.', re.S)
_BLANK = b" "


class ListedAddress(NamedTuple):
    """One entry of an address list, as octets: encoded words and 8-bit are left as they came."""

    display: bytes | None
    route: bytes | None
    """The obsolete source route (`@a,@b`), which IMAP still shows."""
    mailbox: bytes | None
    """Local part without quoting; a group's name at its start; None at a group's end."""
    host: bytes | None
    """Domain or literal; empty when the address had none; None only for group markers."""


GROUP_END = ListedAddress(None, None, None, None)


def read_addresses(value: bytes) -> list[ListedAddress]:
    """Every address and group marker of an unfolded header value, in order; an empty list for an empty value."""
    simple = _SIMPLE.fullmatch(value)
    if simple:
        display = simple[1] or simple[2]
        return [ListedAddress(display, None, simple[3] or simple[5], simple[4] or simple[6])]
    reader = _Reader()
    position, length = 0, len(value)
    while position < length and len(reader.found) < MAX_ADDRESSES:
        position = reader.take(value, position)
    reader.finish()
    return reader.found


# One address in its commonest spellings; each alternative fixes the class of its first octet.
_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+"
_SIMPLE = re.compile(
    rb'(?:(?:"([^"\\]+)"|([A-Za-z0-9][A-Za-z0-9 ]*[A-Za-z0-9])) ?<(%b)@([A-Za-z0-9.-]+)>|(%b)@([A-Za-z0-9.-]+))'
    % (_ATOM, _ATOM)
)


class _Reader:
    """Collects words until a separator tells what they were.

    Invariant: `phrase` holds what stands before an angle bracket (or the bare address), `angle` what stands in
    it (None outside); `at` is the position of the last "@" in whichever of the two is being read.
    """

    __slots__ = ("angle", "angle_at", "at", "comment", "found", "in_group", "phrase", "route")

    def __init__(self) -> None:
        self.found: list[ListedAddress] = []
        self.in_group = False
        self._clear()

    def _clear(self) -> None:
        self.phrase: list[bytes] = []
        self.angle: list[bytes] | None = None
        self.at = -1
        self.angle_at = -1
        self.comment = b""
        self.route: bytes | None = None

    def take(self, value: bytes, position: int) -> int:
        """Read one token; returns the offset after it."""
        token = _TOKEN.match(value, position)
        assert token is not None, "the expression matches any octet"
        text = token[0]
        after = token.end()
        first = text[0]
        if first == 0x22:  # "
            quoted, after = read_quoted(value, position)
            self._word(quoted)
        elif first == 0x28:  # (
            comment, after = read_comment(value, position)
            if self.angle is None:
                self.comment = comment
            self._word(_BLANK)
        elif first in b" \t\r\n":
            self._word(_BLANK)
        elif first in b",;:<>@" and len(text) == 1:
            self._separator(text)
        else:
            self._word(text)
        return after

    def _word(self, text: bytes) -> None:
        words = self.phrase if self.angle is None else self.angle
        if text == _BLANK and (not words or words[-1] == _BLANK):
            return
        words.append(text)

    def _separator(self, text: bytes) -> None:
        if self.angle is not None:
            self._separator_in_angle(text)
        elif text == b"<":
            self.angle = []
        elif text == b"@":
            self.at = len(self.phrase)
            self.phrase.append(text)
        elif text == b",":
            self._end_address()
        elif text == b":" and not self.in_group:
            self.found.append(ListedAddress(None, None, _phrase(self.phrase), None))
            self.in_group = True
            self._clear()
        elif text == b";":
            self._end_address()
            self._end_group()
        else:
            self.phrase.append(text)

    def _separator_in_angle(self, text: bytes) -> None:
        angle = self.angle
        assert angle is not None
        if text == b">":
            self._end_address()
        elif text == b"@":
            self.angle_at = len(angle)
            angle.append(text)
        elif text == b":" and angle and angle[0] == b"@" and self.route is None:
            # RFC 5322 section 4.4: obs-route = obs-domain-list ":"
            self.route = _tight(angle)
            self.angle = []
            self.angle_at = -1
        else:
            angle.append(text)

    def _end_address(self) -> None:
        """What has been read is one address (or nothing); RFC 5322 section 4.4 allows empty list elements."""
        phrase, angle = self.phrase, self.angle
        if angle is not None:
            display = _phrase(phrase) or self.comment.strip() or None
            local, host = _split(angle, self.angle_at)
            self.found.append(ListedAddress(display, self.route, local, host))
        elif self.at >= 0:
            local, host = _split(phrase, self.at)
            self.found.append(ListedAddress(self.comment.strip() or None, None, local, host))
        elif _phrase(phrase):
            self.found.append(ListedAddress(None, None, _phrase(phrase), b""))
        self._clear()

    def _end_group(self) -> None:
        if self.in_group:
            self.found.append(GROUP_END)
            self.in_group = False

    def finish(self) -> None:
        """The value is at its end: close what is open."""
        self._end_address()
        self._end_group()


def _phrase(words: list[bytes]) -> bytes:
    return b"".join(words).strip()


def _tight(words: list[bytes]) -> bytes:
    return b"".join(word for word in words if word != _BLANK)


def _split(words: list[bytes], at: int) -> tuple[bytes, bytes]:
    if at < 0:
        return _phrase(words), b""
    return _join_local(words[:at]), _tight(words[at + 1 :])


def _join_local(words: list[bytes]) -> bytes:
    """A local part: blanks beside its dots go (RFC 5322 section 4.4, obs-local-part), others between words stay."""
    kept = [
        word
        for at, word in enumerate(words)
        if word != _BLANK
        or not (words[at - 1].endswith(b".") or (at + 1 < len(words) and words[at + 1].startswith(b".")))
    ]
    return b"".join(kept).strip()
