"""SASL on the wire: strict base64 and the messages of PLAIN and LOGIN, for SMTP, IMAP and POP3 alike.

Values only: whether a password is right is decided elsewhere.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

# RFC 4954 section 4: "12288 octets is considered to be a sufficient line length limit"
MAX_ENCODED: Final = 12_288
"""Octets of one base64 line, without its CRLF."""

MAX_FIELD: Final = 255
"""Octets of an authorization identity, a user name or a password (RFC 4616 section 2)."""

SCRAM: Final = "SCRAM-SHA-256"
SCRAM_PLUS: Final = "SCRAM-SHA-256-PLUS"
MAIL_MECHANISMS: Final = (SCRAM_PLUS, SCRAM, "PLAIN")
"""What IMAP and POP3 offer, the best first; they have a LOGIN of their own. CRAM-MD5 needs the password in clear."""

LOGIN_USER_PROMPT: Final = b"Username:"
LOGIN_PASSWORD_PROMPT: Final = b"Password:"


class SaslError(ValueError):
    """A response that is not well formed; the text is for the log and holds nothing of the response."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client claims: who it is, and the password that shall prove it."""

    user: str
    password: str = field(repr=False)
    on_behalf_of: str = ""
    """Authorization identity of PLAIN (RFC 4616); empty when it is the user itself."""


def offered(mechanisms: Sequence[str], *, binding: bool) -> tuple[str, ...]:
    """The mechanisms to announce on a connection; those with PLUS need one whose channel can be bound to."""
    return tuple(mechanism for mechanism in mechanisms if binding or not mechanism.endswith("-PLUS"))


def decode_base64(octets: bytes) -> bytes:
    """The octets behind one base64 line; raises `SaslError` for anything but canonical base64.

    RFC 4954 section 4: "=" alone stands for an empty initial response, which the caller knows before it comes here.
    """
    if len(octets) > MAX_ENCODED:
        raise SaslError("base64 line is too long")
    try:
        decoded = base64.b64decode(octets, validate=True)
    except (binascii.Error, ValueError):
        raise SaslError("not base64") from None
    # One meaning, one spelling: stray bits behind the last octet are refused.
    if base64.b64encode(decoded) != octets:
        raise SaslError("not canonical base64")
    return decoded


def encode_base64(octets: bytes) -> bytes:
    """One base64 line without CRLF."""
    return base64.b64encode(octets)


def decode_plain(message: bytes) -> Credentials:
    """The credentials of a PLAIN message (RFC 4616 section 2); raises `SaslError`."""
    parts = message.split(b"\0")
    if len(parts) != 3:
        raise SaslError("PLAIN needs two NULs")
    behalf, user, password = parts
    if not user or not password:
        raise SaslError("PLAIN without user or password")
    return Credentials(_text(user), _text(password), _text(behalf))


def decode_login(user: bytes, password: bytes) -> Credentials:
    """The credentials of the two LOGIN responses; raises `SaslError`."""
    if not user or not password:
        raise SaslError("LOGIN without user or password")
    return Credentials(_text(user), _text(password))


def encode_plain(credentials: Credentials) -> bytes:
    """The PLAIN message of a client, not yet in base64; raises `SaslError` when a field has a NUL."""
    fields = (credentials.on_behalf_of, credentials.user, credentials.password)
    if any("\0" in field for field in fields):
        raise SaslError("NUL in credentials")
    return "\0".join(fields).encode()


def encode_login(credentials: Credentials) -> tuple[bytes, bytes]:
    """The two LOGIN responses of a client, not yet in base64."""
    return credentials.user.encode(), credentials.password.encode()


def _text(octets: bytes) -> str:
    if len(octets) > MAX_FIELD:
        raise SaslError("field is too long")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise SaslError("field is not UTF-8") from None
    if "\0" in text:
        raise SaslError("NUL in field")
    return text
