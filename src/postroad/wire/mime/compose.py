"""Writing messages: headers, text bodies and multiparts that cannot be broken by what is put into them.

Everything the product writes itself (delivery reports, `postroad send`, the playground) goes through here. The rule
that matters: no field name or value with CR, LF, NUL or another control character becomes a header (`UnsafeHeader`),
encoded or not; CVE-2024-6923 and CVE-2026-1299 in Python's own composer show why.

    >>> mail = Composer()
    >>> mail.add("From", address("Jörg", "j@example.org"))
    >>> mail.add("Subject", "Grüße")
    >>> message = mail.text("Hallo\\n")
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

from postroad.wire.mime.words import encode_words

FOLD_AT = 78
"""Characters of a header line at which we fold (RFC 5322 section 2.1.1)."""

MAX_LINE_OCTETS = 998
"""Octets of a line that must not be exceeded (RFC 5322 section 2.1.1)."""

_NAME = re.compile(r"[!-9;-~]{1,76}")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+")
_ADDRESS = re.compile(r"[^\s<>(),;:\\\"\[\]@\x00-\x1f\x7f]+@[^\s<>(),;:\\\"@\x00-\x1f\x7f]+")
_ANY_LINE_END = re.compile(rb"\r\n|\r|\n")


class UnsafeHeader(ValueError):
    """A header name, value or address that would not stay what it is on the wire; the text names the field."""


def header(name: str, value: str) -> bytes:
    """One complete header field, folded, with CRLF; non-ASCII in `value` becomes encoded words.

    Raises `UnsafeHeader` for a name that is no field name and for a value with control characters.
    """
    return _field(name, encode_words(_safe(name, value)))


def structured_header(name: str, value: str) -> bytes:
    """As `header` for a value that is already in its wire form (addresses, ids, a media type with parameters).

    Non-ASCII stays as UTF-8 (RFC 6532); it appears only in addresses that themselves need SMTPUTF8.
    """
    return _field(name, _safe(name, value))


def _safe(name: str, value: str) -> str:
    if not _NAME.fullmatch(name):
        raise UnsafeHeader("field name")
    if _UNSAFE.search(value):
        raise UnsafeHeader(name)
    return value


def _field(name: str, value: str) -> bytes:
    lines = fold(f"{name}: {value}")
    if any(len(line) > MAX_LINE_OCTETS for line in lines):
        raise UnsafeHeader(name)
    return b"\r\n".join(lines) + b"\r\n"


def fold(line: str) -> list[bytes]:
    """A header line as the lines it takes, cut only before blanks, each at most `FOLD_AT` long where possible."""
    folded: list[bytes] = []
    current = ""
    first, *rest = re.findall(r" *[^ ]+", line.rstrip(" "))
    current = first
    for word in rest:
        # The first word after the name stays on its line: a line of blanks only is obsolete (RFC 5322 section 4.2).
        if len(current) + len(word) > FOLD_AT and not (not folded and current == first):
            folded.append(current.encode("utf-8"))
            current = word
        else:
            current += word
    return [*folded, current.encode("utf-8")]


def address(display: str, addr_spec: str) -> str:
    """`display <addr_spec>` in wire form; `addr_spec` alone when there is no display name.

    Raises `UnsafeHeader` when `addr_spec` is not of the plain form local@domain, or a control character is in either.
    """
    if not _ADDRESS.fullmatch(addr_spec):
        raise UnsafeHeader("address")
    _safe("display-name", display)
    if not display.strip():
        return addr_spec
    return f"{phrase(display)} <{addr_spec}>"


def phrase(display: str) -> str:
    """A display name in wire form: atoms, a quoted string, or encoded words (RFC 5322 section 3.2.5)."""
    if not display.isascii() or "=?" in display:
        return encode_words(display)
    if _ATOMS.fullmatch(display):
        return display
    return '"' + re.sub(r'(["\\])', r"\\\1", display) + '"'


def parameter(name: str, value: str) -> str:
    """`; name=value` for a structured header: token, quoted string, or RFC 2231 for anything not ASCII."""
    if _UNSAFE.search(value) or not _TOKEN.fullmatch(name):
        raise UnsafeHeader(name)
    if not value.isascii():
        octets = value.encode("utf-8", "replace")
        text = "".join(
            chr(octet) if _TOKEN.fullmatch(chr(octet)) and octet not in b"*'%" else f"%{octet:02X}" for octet in octets
        )
        return f"; {name}*=utf-8''{text}"
    if _TOKEN.fullmatch(value):
        return f"; {name}={value}"
    return f'; {name}="' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def text_octets(text: str) -> bytes:
    """`text` as UTF-8 with every line end a CRLF and one at the end."""
    octets = _ANY_LINE_END.sub(b"\r\n", text.encode("utf-8", "replace"))
    return octets if not octets or octets.endswith(b"\r\n") else octets + b"\r\n"


def text_part(text: str, subtype: str = "plain") -> bytes:
    """A text part with its MIME header: 7bit where that can carry it, else quoted-printable."""
    octets = text_octets(text)
    plain = (
        octets.isascii() and b"\0" not in octets and all(len(line) <= MAX_LINE_OCTETS for line in octets.split(b"\r\n"))
    )
    charset = "us-ascii" if octets.isascii() else "utf-8"
    media_type = f"text/{subtype}; charset={charset}"
    return raw_part(octets, media_type) if plain else quoted_part(octets, media_type)


def quoted_part(octets: bytes, media_type: str) -> bytes:
    """A text part of any octets as quoted-printable, with its MIME header; every line end becomes a CRLF."""
    encoded = _ANY_LINE_END.sub(b"\r\n", binascii.b2a_qp(octets, istext=True))
    head = structured_header("Content-Type", media_type)
    return head + structured_header("Content-Transfer-Encoding", "quoted-printable") + b"\r\n" + encoded


def attachment_part(octets: bytes, media_type: str, filename: str | None = None) -> bytes:
    """Any bytes as a base64 part with its MIME header; `media_type` is `type/subtype`."""
    named = parameter("filename", filename) if filename else ""
    encoded = base64.encodebytes(octets).replace(b"\n", b"\r\n")
    return (
        structured_header("Content-Type", media_type)
        + structured_header("Content-Disposition", f"attachment{named}")
        + structured_header("Content-Transfer-Encoding", "base64")
        + b"\r\n"
        + encoded
    )


def raw_part(octets: bytes, media_type: str, **parameters: str) -> bytes:
    """A part whose content stands as it is (message/rfc822, message/delivery-status); 8bit when it needs to be."""
    encoding = "7bit" if octets.isascii() else "8bit"
    named = "".join(parameter(name, value) for name, value in parameters.items())
    head = structured_header("Content-Type", media_type + named)
    return head + structured_header("Content-Transfer-Encoding", encoding) + b"\r\n" + octets


def join_multipart(boundary: bytes, parts: Sequence[bytes]) -> bytes:
    """The body of a multipart: `parts` (each header, blank line, content) between delimiters.

    Raises `UnsafeHeader` when the boundary occurs in a part as a delimiter; `free_boundary` finds another.
    """
    delimiter = b"--" + boundary
    if any(part.startswith(delimiter) or b"\n" + delimiter in part for part in parts):
        raise UnsafeHeader("boundary")
    return b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts) + delimiter + b"--\r\n"


def free_boundary(seed: bytes, parts: Sequence[bytes]) -> bytes:
    """A boundary made from `seed` (letters and digits) that no part contains."""
    for number in range(len(parts) + 1_000_000):
        boundary = b"=_%b_%d" % (seed[:40], number)
        if not any(boundary in part for part in parts):
            return boundary
    raise UnsafeHeader("boundary")


class Composer:
    """Collects header fields in order and then makes the message."""

    __slots__ = ("_fields",)

    def __init__(self) -> None:
        self._fields: list[bytes] = []

    def add(self, name: str, value: str) -> None:
        """Append an unstructured field (Subject, comments, X-...); see `header`."""
        self._fields.append(header(name, value))

    def add_structured(self, name: str, value: str) -> None:
        """Append a field whose value is already in wire form (From, To, Date, Message-ID); see `structured_header`."""
        self._fields.append(structured_header(name, value))

    def header_block(self) -> bytes:
        """The fields so far, without the blank line."""
        return b"".join(self._fields)

    def text(self, text: str) -> bytes:
        """The whole message with one plain text body."""
        return self.header_block() + structured_header("MIME-Version", "1.0") + text_part(text)

    def multipart(self, subtype: str, parts: Sequence[bytes], seed: bytes, **parameters: str) -> bytes:
        """The whole message with a multipart body; `seed` makes the boundary (see `free_boundary`)."""
        boundary = free_boundary(seed, parts)
        named = "".join(parameter(name.replace("_", "-"), value) for name, value in parameters.items())
        named += parameter("boundary", boundary.decode("ascii"))
        return (
            self.header_block()
            + structured_header("MIME-Version", "1.0")
            + structured_header("Content-Type", f"multipart/{subtype}{named}")
            + b"\r\n"
            + join_multipart(boundary, parts)
        )
