"""ENVELOPE, BODY and BODYSTRUCTURE as octets (RFC 3501 section 7.4.2).

Both come out as valid syntax whatever the message: a multipart without parts gets one empty text part, an opaque part
is application/octet-stream, a header that cannot be read gives NIL fields. The result depends only on the message, so
a store may keep it.

    >>> envelope(HeaderIndex(b"From: Ada <a@example.org>\\r\\nSubject: hi\\r\\n"))[:46]
    b'(NIL "hi" (("Ada" NIL "a" "example.org")) (("A'
"""

from __future__ import annotations

from typing import Final

from postroad.wire.imap.responses import nstring, string
from postroad.wire.mime.addresses import read_addresses
from postroad.wire.mime.headers import HeaderIndex, HeaderTooLarge
from postroad.wire.mime.params import Parameters
from postroad.wire.mime.tree import Part, Tree

_EMPTY_ENVELOPE: Final = b"(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)"
_EMPTY_PART: Final = b'("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 0 0)'
_EMPTY_PART_EXTENDED: Final = b'("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 0 0 NIL NIL NIL NIL)'
_DEFAULT_CHARSET: Final[Parameters] = ((b"CHARSET", b"US-ASCII"),)


def envelope(index: HeaderIndex) -> bytes:
    """ENVELOPE from a header; an absent field is NIL, and Sender and Reply-To fall back to From as the RFC demands."""
    sender = _addresses(index, b"from")
    fields = (
        nstring(index.first(b"date")),
        nstring(index.first(b"subject")),
        sender,
        # RFC 3501 section 7.4.2: "If the Sender or Reply-To lines are absent ... or are present but empty, the server
        # sets the corresponding member of the envelope to be the same value as the from member".
        _or_nil(_addresses(index, b"sender"), sender),
        _or_nil(_addresses(index, b"reply-to"), sender),
        _addresses(index, b"to"),
        _addresses(index, b"cc"),
        _addresses(index, b"bcc"),
        nstring(index.first(b"in-reply-to")),
        nstring(index.first(b"message-id")),
    )
    return b"(" + b" ".join(fields) + b")"


def envelope_of(header: bytes) -> bytes:
    """As `envelope`, from the header's octets; every member NIL when the header is over its limits."""
    try:
        return envelope(HeaderIndex(header))
    except HeaderTooLarge:
        return _EMPTY_ENVELOPE


def _or_nil(addresses: bytes, fallback: bytes) -> bytes:
    return fallback if addresses == b"NIL" else addresses


def _addresses(index: HeaderIndex, name: bytes) -> bytes:
    shown = [
        b"(" + b" ".join(map(nstring, address)) + b")" for value in index.all(name) for address in read_addresses(value)
    ]
    return b"(" + b"".join(shown) + b")" if shown else b"NIL"


def body_structure(tree: Tree, body: bytes, *, extended: bool = True) -> bytes:
    """BODYSTRUCTURE (or BODY, when not `extended`) of a message; `body` is what the tree was read from.

    Only headers of inner messages are looked at in `body`.
    """
    out: list[bytes] = []
    waiting: list[bytes | Part] = [tree.root]
    while waiting:
        next_one = waiting.pop()
        if isinstance(next_one, bytes):
            out.append(next_one)
        elif next_one.is_multipart:
            waiting.append(_multipart_end(next_one, extended))
            if next_one.children:
                waiting.extend(reversed(next_one.children))
            else:
                waiting.append(_EMPTY_PART_EXTENDED if extended else _EMPTY_PART)
            out.append(b"(")
        elif next_one.is_message and next_one.children:
            inner = next_one.children[0]
            waiting.append(b" %d%b)" % (next_one.lines, _extension(next_one) if extended else b""))
            waiting.append(inner)
            out.append(_basic(next_one) + b" " + envelope_of(body[inner.header_start : inner.header_end]) + b" ")
        else:
            out.append(_leaf(next_one, extended))
    return b"".join(out)


def _leaf(part: Part, extended: bool) -> bytes:
    lines = b" %d" % part.lines if part.main == b"text" else b""
    return _basic(part) + lines + (_extension(part) if extended else b"") + b")"


def _basic(part: Part) -> bytes:
    """The fields that every single part begins with, without a closing parenthesis."""
    parameters = part.parameters
    if part.main == b"text" and not any(name == b"charset" for name, _ in parameters):
        parameters = parameters + _DEFAULT_CHARSET
    return b"(%b %b %b %b %b %b %d" % (
        string(part.main.upper()),
        string(part.sub.upper()),
        _parameters(parameters),
        nstring(part.content_id),
        nstring(part.description),
        string(part.encoding.upper()),
        part.size,
    )


def _multipart_end(part: Part, extended: bool) -> bytes:
    subtype = b" " + string(part.sub.upper())
    if not extended:
        return subtype + b")"
    return subtype + b" " + _parameters(part.parameters) + _disposition_and_more(part) + b")"


def _extension(part: Part) -> bytes:
    return b" " + nstring(part.md5) + _disposition_and_more(part)


def _disposition_and_more(part: Part) -> bytes:
    disposition = b"NIL"
    if part.disposition is not None:
        disposition = b"(" + string(part.disposition) + b" " + _parameters(part.disposition_parameters) + b")"
    languages = part.languages
    shown = b"(" + b" ".join(map(string, languages)) + b")" if languages else b"NIL"
    return b" " + disposition + b" " + shown + b" " + nstring(part.location)


def _parameters(parameters: Parameters) -> bytes:
    if not parameters:
        return b"NIL"
    return b"(" + b" ".join(string(name.upper()) + b" " + string(value) for name, value in parameters) + b")"
