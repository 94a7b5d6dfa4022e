"""What a part contains: its transfer encoding undone, and its text.

Decoding is tolerant and linear (RFC 2045 section 6): junk between base64 letters is skipped, a broken
quoted-printable escape stays as it is, an unknown encoding means the bytes as they stand. Nothing here raises.

    >>> decode_transfer(b"aGVs!bG8=\\r\\n", b"base64")
    b'hello'
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator

from postroad.wire.mime.params import parameter
from postroad.wire.mime.tree import Part
from postroad.wire.mime.words import decode_charset

MAX_TEXT_OCTETS = 4 * 1024 * 1024
"""Encoded octets of one part that are read as text; search and preview need no more."""

_BASE64_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_NOT_BASE64 = bytes(octet for octet in range(256) if octet not in _BASE64_LETTERS)


def decode_transfer(octets: bytes, encoding: bytes) -> bytes:
    """`octets` with the transfer encoding undone; encodings other than base64 and quoted-printable change nothing."""
    if encoding == b"base64":
        return _decode_base64(octets)
    if encoding == b"quoted-printable":
        return binascii.a2b_qp(octets)
    return octets


def _decode_base64(octets: bytes) -> bytes:
    """All base64 letters up to the first padding, as whole octets."""
    # RFC 2045 section 6.8: "All line breaks or other characters not found in Table 1 must be ignored".
    letters = octets.translate(None, _NOT_BASE64).partition(b"=")[0]
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))


def part_content(body: bytes, part: Part, limit: int | None = None) -> bytes:
    """The decoded content of a leaf; with `limit`, of its first `limit` encoded octets."""
    end = part.body_end if limit is None else min(part.body_end, part.body_start + limit)
    return decode_transfer(body[part.body_start : end], part.encoding)


def part_text(body: bytes, part: Part, limit: int = MAX_TEXT_OCTETS) -> str:
    """A text leaf as text by its charset; control characters stay (it is text with lines, to be shown or searched)."""
    return decode_charset(part_content(body, part, limit), parameter(part.parameters, b"charset"))


def walk(root: Part) -> Iterator[Part]:
    """Every part in the order of the message, containers before what is in them."""
    waiting = [root]
    while waiting:
        part = waiting.pop()
        yield part
        waiting.extend(reversed(part.children))
