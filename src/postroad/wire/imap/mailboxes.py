"""Mailbox names: modified UTF-7, what may be a name, and the patterns of LIST.

RFC 3501 sections 5.1 and 6.3.8. Inside the server names are Unicode text in NFC with "/" between levels; only here do
they meet their wire form.

    >>> decode_name(b"p&AOQA5A-"), encode_name("pää"), decode_name(b"inbox")
    ('pää', b'p&AOQA5A-', 'INBOX')
    >>> Pattern("a/%").matches("a/b"), Pattern("a/%").matches("a/b/c"), Pattern("*b*").matches("a/b/c")
    (True, False, True)
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from postroad.wire.imap.responses import astring

SEPARATOR: Final = "/"
MAX_NAME_OCTETS: Final = 1_000
"""Octets of a name on the wire."""

MAX_LEVELS: Final = 32
MAX_PATTERN_OCTETS: Final = 1_000

_SHIFT = re.compile(rb"&([^-]*)-")
_DIRECT = re.compile(r"[ -~]+")
_UNSAFE_CATEGORIES: Final = frozenset(("Cc", "Cs", "Zl", "Zp"))


class BadName(ValueError):
    """No mailbox can have this name; the text says why and goes to the client as NO."""


def decode_name(octets: bytes) -> str:
    """A name from the wire as text in NFC, INBOX in capitals. Raises `BadName` for what is not its own encoding."""
    return _fold_inbox(unicodedata.normalize("NFC", decode_utf7(octets)))


def encode_name(name: str) -> bytes:
    """A name as modified UTF-7 (RFC 3501 section 5.1.3)."""
    pieces: list[bytes] = []
    position = 0
    for direct in _DIRECT.finditer(name):
        pieces.append(_shifted(name[position : direct.start()]))
        pieces.append(direct[0].encode("ascii").replace(b"&", b"&-"))
        position = direct.end()
    pieces.append(_shifted(name[position:]))
    return b"".join(pieces)


def _shifted(text: str) -> bytes:
    if not text:
        return b""
    letters = binascii.b2a_base64(text.encode("utf-16-be", "surrogatepass"), newline=False).rstrip(b"=")
    return b"&" + letters.replace(b"/", b",") + b"-"


def decode_utf7(octets: bytes) -> str:
    """Modified UTF-7 as text; raises `BadName` unless `octets` is the one canonical spelling of that text.

    RFC 3501 section 5.1.3: "Modified BASE64 MUST NOT be used to represent any printing US-ASCII character which can
    represent itself"; two spellings of one name would be two mailboxes for a client and one for us.
    """
    if len(octets) > MAX_NAME_OCTETS:
        raise BadName("name too long")
    pieces: list[str] = []
    position = 0
    try:
        for shift in _SHIFT.finditer(octets):
            pieces.append(octets[position : shift.start()].decode("ascii"))
            pieces.append(_unshifted(shift[1]))
            position = shift.end()
        pieces.append(octets[position:].decode("ascii"))
    except (UnicodeDecodeError, binascii.Error, ValueError):
        raise BadName("not modified UTF-7") from None
    text = "".join(pieces)
    if encode_name(text) != octets:
        raise BadName("not modified UTF-7")
    return text


def _unshifted(letters: bytes) -> str:
    if not letters:
        return "&"
    padded = letters.replace(b",", b"/") + b"=" * (-len(letters) % 4)
    return binascii.a2b_base64(padded, strict_mode=True).decode("utf-16-be")


def _fold_inbox(name: str) -> str:
    # RFC 3501 section 5.1: "The case-insensitive mailbox name INBOX is a special name"
    first, slash, rest = name.partition(SEPARATOR)
    return "INBOX" + slash + rest if first.upper() == "INBOX" else name


def check_new_name(name: str) -> None:
    """Raises `BadName` when no mailbox may be created (or renamed to) with this name."""
    levels = name.split(SEPARATOR)
    if len(encode_name(name)) > MAX_NAME_OCTETS:
        raise BadName("name too long")
    if len(levels) > MAX_LEVELS:
        raise BadName("too many levels")
    if any(level in ("", ".", "..") or level != level.strip() for level in levels):
        raise BadName("a level of the name is empty, a dot, or begins or ends with a blank")
    if any(character in "%*\\" or unicodedata.category(character) in _UNSAFE_CATEGORIES for character in name):
        raise BadName("a character that cannot be in a name")


class Pattern:
    """One LIST pattern: "*" stands for anything, "%" for anything without a separator.

    The pattern is a row of literal characters with a gap before each and after the last; a gap is closed, open for
    one level ("%") or open ("*"). `matches` keeps the set of gaps it may stand in as the bits of an integer, so its
    cost is one step per character of the name however many wildcards there are.
    """

    __slots__ = ("_accept", "_literals", "_one_level", "_open", "_prefix", "text")

    def __init__(self, text: str) -> None:
        self.text = _fold_inbox(text) if text.upper() == "INBOX" else text
        self._literals: dict[str, int] = {}
        self._open = 0
        self._one_level = 0
        bit = 1
        for character in self.text:
            if character == "*":
                self._open |= bit
            elif character == "%":
                self._one_level |= bit
            else:
                self._literals[character] = self._literals.get(character, 0) | bit
                bit <<= 1
        self._accept = bit
        self._prefix = re.split(r"[*%]", self.text, maxsplit=1)[0]

    def matches(self, name: str) -> bool:
        """Whether the whole name fits."""
        if not name.startswith(self._prefix):
            return False
        literals, is_open, one_level = self._literals, self._open, self._one_level
        state = 1
        for character in name:
            stay = is_open if character == SEPARATOR else is_open | one_level
            state = (state & literals.get(character, 0)) << 1 | state & stay
            if not state:
                return False
        return bool(state & self._accept)


class Listed(NamedTuple):
    """A name that a LIST shows."""

    name: str
    exists: bool
    """False for a level that only has mailboxes below it: \\Noselect."""
    has_children: bool


def list_names(names: Iterable[str], reference: str, pattern: str) -> list[Listed]:
    """What LIST (or LSUB) shows of `names`, sorted; levels above a name count as names that do not exist.

    RFC 3501 section 6.3.8: the pattern is read behind the reference. The caller answers an empty pattern itself.
    """
    wanted = Pattern(_fold_inbox(reference + pattern))
    known = set(names)
    parents = {name[:at] for name in known for at in _separators(name)}
    return [Listed(name, name in known, name in parents) for name in sorted(known | parents) if wanted.matches(name)]


def list_response(listed: Listed, *, subscribed: bool = False) -> bytes:
    """The untagged LIST (or LSUB) response, for `untagged`.

    >>> list_response(Listed("a", exists=False, has_children=True))
    b'LIST (\\\\Noselect \\\\HasChildren) "/" a'
    """
    attributes = b"" if listed.exists else b"\\Noselect "
    # RFC 3348: the CHILDREN attributes.
    attributes += b"\\HasChildren" if listed.has_children else b"\\HasNoChildren"
    word = b"LSUB" if subscribed else b"LIST"
    return word + b" (" + attributes + b') "/" ' + astring(encode_name(listed.name))


def status_response(mailbox: str, values: Mapping[str, int]) -> bytes:
    """The untagged STATUS response, for `untagged`.

    >>> status_response("INBOX", {"MESSAGES": 3, "UNSEEN": 1})
    b'STATUS INBOX (MESSAGES 3 UNSEEN 1)'
    """
    shown = " ".join(f"{word} {number}" for word, number in values.items())
    return b"STATUS " + astring(encode_name(mailbox)) + b" (" + shown.encode("ascii") + b")"


def _separators(name: str) -> list[int]:
    return [at for at, character in enumerate(name) if character == SEPARATOR]
