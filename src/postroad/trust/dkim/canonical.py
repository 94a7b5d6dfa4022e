"""The two canonical forms of RFC 6376 section 3.4, for header fields and for a body that comes in pieces.

`simple` changes nothing but the end of the body; `relaxed` forgives what relays do to blanks. A body is hashed while it
streams, whole and never a part of it: the l= tag lets anybody append to signed mail (RFC 6376 section 8.2).

    >>> relaxed_field(b"subject", b" two\\r\\n\\t lines \\r\\n")
    b'subject:two lines\\r\\n'
"""

from __future__ import annotations

import hashlib
from typing import Final

LINES_AT_ONCE: Final = 32_768
"""Empty lines hashed at once (64 kB): those that were held back may be a whole message."""

CRLF: Final = b"\r\n"


def squeezed(octets: bytes) -> bytes:
    """Every run of blanks and tabs as one blank; in steps that each halve the longest run, so linear."""
    if b"\t" in octets:
        octets = octets.replace(b"\t", b" ")
    while b"  " in octets:
        octets = octets.replace(b"  ", b" ")
    return octets


def relaxed_field(name: bytes, value: bytes) -> bytes:
    """One field as "relaxed" (RFC 6376 section 3.4.2); `name` in lower case, `value` raw with its line end."""
    # "Unfold all header field continuation lines [...] Convert all sequences of one or more WSP characters to a single
    # SP character [...] Delete all WSP characters at the end of each unfolded header field value [...] Delete any WSP
    # characters remaining before and after the colon".
    return b"%b:%b\r\n" % (name, squeezed(value.replace(CRLF, b"")).strip(b" "))


def simple_field(raw: bytes) -> bytes:
    """One field as "simple" (RFC 6376 section 3.4.1): as it stands, with the line end that it has on its way."""
    return raw if raw.endswith(CRLF) else raw + CRLF


class BodyHash:
    """SHA-256 over the canonical form of a body that is fed in pieces, cut anywhere.

    Invariant: what is not hashed yet is exactly what the next octets may still change - empty lines, which count only
    when something follows (`_lines`), and a last blank or CR (`_tail`).
    """

    __slots__ = ("_begun", "_hash", "_lines", "_relaxed", "_tail")

    def __init__(self, *, relaxed: bool = True) -> None:
        self._relaxed = relaxed
        self._hash = hashlib.sha256()
        self._begun = False
        """Something that is no empty line has been hashed."""
        self._lines = 0
        """Line ends held back."""
        self._tail = b""

    def update(self, piece: bytes) -> None:
        """Takes the next octets of the body."""
        octets = self._tail + piece if self._tail else piece
        self._tail = b""
        if self._relaxed:
            octets = squeezed(octets)
            # RFC 6376 section 3.4.4: "Ignore all whitespace at the end of lines."
            if b" \r\n" in octets:
                octets = octets.replace(b" \r\n", CRLF)
        if octets.endswith((b" ", b"\r")):
            octets = self._hold_back(octets)
        lines = _line_ends(octets)
        text = octets[: len(octets) - 2 * lines] if lines else octets
        if text:
            self._write_lines()
            self._hash.update(text)
            self._begun = True
        self._lines += lines

    def _hold_back(self, octets: bytes) -> bytes:
        cut = len(octets)
        if octets.endswith(b"\r"):
            cut -= 1
        if self._relaxed and octets.endswith(b" ", 0, cut):
            cut -= 1
        self._tail = octets[cut:]
        return octets[:cut]

    def _write_lines(self) -> None:
        lines, self._lines = self._lines, 0
        while lines > 0:
            self._hash.update(CRLF * min(lines, LINES_AT_ONCE))
            lines -= LINES_AT_ONCE

    def digest(self) -> bytes:
        """The hash of what was fed, as of a whole body; nothing may be fed afterwards."""
        tail = self._tail
        if self._relaxed and tail == b" ":
            tail = b""  # blanks at the end of a last line without a line end
        if tail:
            self._write_lines()
            self._hash.update(tail)
            self._begun = True
        self._tail, self._lines = b"", 0
        # Section 3.4.3, simple: "If there is no body or no trailing CRLF on the message body, a CRLF is added." Section
        # 3.4.4, relaxed: "If the body is non-empty but does not end with a CRLF, a CRLF is added."
        if self._begun or not self._relaxed:
            self._hash.update(CRLF)
            self._begun, self._relaxed = False, True
        return self._hash.digest()


def _line_ends(octets: bytes) -> int:
    """How many CRLF stand at the end."""
    end = octets[len(octets.rstrip(CRLF)) :]
    pairs = len(end) // 2
    if end == CRLF * pairs:
        return pairs
    # A bare CR or LF is among them.
    cut = len(end)
    while end.endswith(CRLF, 0, cut):
        cut -= 2
    return (len(end) - cut) // 2


def body_hash(body: bytes, *, relaxed: bool = True) -> bytes:
    """SHA-256 over the canonical form of a whole body."""
    hashing = BodyHash(relaxed=relaxed)
    hashing.update(body)
    return hashing.digest()
