"""What a submission server adds to a message and takes away from it before it is kept (RFC 6409 section 8).

A mail program may leave out what its server knows better: the date, an id, the author it has logged in as. Bcc goes,
because the others must not learn who else gets the message. Everything else stays octet by octet.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from typing import Final

from postroad.values.ids import id_text
from postroad.wire.mime.headers import HeaderIndex, HeaderTooLarge
from postroad.wire.mime.submitted import Author, from_field, without_bcc

_BEGINS_WITH_FIELD: Final = re.compile(rb"[!-9;-~]+[ \t]*:").match


def completed(header: bytes, *, author: str, hostname: str, ident: int, now_us: int) -> bytes | None:
    """The header block with Date, Message-ID and From where they were missing and without Bcc; None when it is fine.

    `header` is the block with the empty line that ends it, if the message had one; `author` an address, or empty when
    nobody is known to have written it. A text that has no header at all becomes the body of a message.
    """
    if not _BEGINS_WITH_FIELD(header) and header != b"\r\n":
        return _added(frozenset(), author, hostname, ident, now_us) + b"\r\n" + header
    try:
        index = HeaderIndex(header)
    except HeaderTooLarge:
        return None
    names = frozenset(index.names)
    added = _added(names, author, hostname, ident, now_us)
    hidden = not names.isdisjoint((b"bcc", b"resent-bcc"))
    if not added and not hidden:
        return None
    fields = header.removesuffix(b"\r\n") if header == b"\r\n" or header.endswith(b"\r\n\r\n") else header
    if fields and not fields.endswith(b"\r\n"):
        fields += b"\r\n"  # a last chunk may end anywhere
    return (without_bcc(fields) if hidden else fields) + added + b"\r\n"


def _added(names: frozenset[bytes], author: str, hostname: str, ident: int, now_us: int) -> bytes:
    added = b""
    # RFC 5322 section 3.6: "The only required header fields are the origination date field and the originator
    # address field(s)."
    if b"from" not in names and author:
        added += from_field(Author(author))
    if b"date" not in names:
        added += f"Date: {formatdate(now_us // 1_000_000, localtime=True)}\r\n".encode()
    # RFC 5322 section 3.6.4: every message SHOULD have one; threads, and `postroad why`, find it by that
    if b"message-id" not in names:
        added += f"Message-ID: <{id_text(ident).lower()}@{hostname}>\r\n".encode()
    return added
