"""Invariant: a SASL response is refused by `SaslError`, or encodes back to exactly the octets it was read from."""

from __future__ import annotations

from postroad.wire.sasl import (
    MAX_FIELD,
    Credentials,
    SaslError,
    decode_base64,
    decode_login,
    decode_plain,
    encode_base64,
    encode_login,
    encode_plain,
)

SEEDS = (
    encode_base64(b"\0anna@example.org\0secret"),
    encode_base64("behalf\0änna\0geheim".encode()),
    b"AHVzZXIAc2VjcmV0",
    b"=",
    b"*",
    b"\0user\0password",
)
WORDS = (b"\0", b"=", b"==", b"A", b"\t", b"\r", b"\xc3\xa4", b"\xff", b"AAAA")


def check(octets: bytes) -> None:
    """Octets as a base64 line, and as the message behind one."""
    for message in (octets, _decoded(octets)):
        if message is not None:
            _plain(message)
            _login(message)


def _decoded(octets: bytes) -> bytes | None:
    try:
        decoded = decode_base64(octets)
    except SaslError:
        return None
    assert encode_base64(decoded) == octets
    return decoded


def _plain(message: bytes) -> None:
    try:
        claim = decode_plain(message)
    except SaslError:
        return
    assert encode_plain(claim) == message
    _bounded(claim)


def _login(message: bytes) -> None:
    user, _, password = message.partition(b"\0")
    try:
        claim = decode_login(user, password)
    except SaslError:
        return
    assert encode_login(claim) == (user, password)
    _bounded(claim)


def _bounded(claim: Credentials) -> None:
    for field in (claim.user, claim.password, claim.on_behalf_of):
        assert len(field.encode()) <= MAX_FIELD
    assert claim.user
    assert claim.password
    assert claim.password not in repr(claim) or claim.password in repr(Credentials(claim.user, "", claim.on_behalf_of))
