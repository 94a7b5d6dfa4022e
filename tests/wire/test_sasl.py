"""SASL messages: strict both ways, and nothing secret in what is printed."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.wire.sasl import (
    MAX_ENCODED,
    Credentials,
    SaslError,
    decode_base64,
    decode_login,
    decode_plain,
    encode_base64,
    encode_login,
    encode_plain,
)


@pytest.mark.parametrize(
    "junk",
    [
        b"!!!!",
        b"YQ",
        b"YQ=",
        b"YR==",
        b"YQ==\r",
        b"Y Q=",
        b"Y\tQ=",
        b"====",
        b"=",
        b"YQ==YQ==",
        b"\xff",
        b"A" * (MAX_ENCODED + 1),
    ],
)
def test_s44_what_is_not_canonical_base64_is_refused(junk: bytes) -> None:
    with pytest.raises(SaslError):
        decode_base64(junk)


def test_the_longest_line_is_read() -> None:
    assert len(decode_base64(b"A" * MAX_ENCODED)) == MAX_ENCODED * 3 // 4


@given(st.binary(max_size=60))
def test_base64_round_trip(octets: bytes) -> None:
    assert decode_base64(encode_base64(octets)) == octets


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"user\0secret",
        b"\0user\0sec\0ret",
        b"\0\0secret",
        b"\0user\0",
        b"\0\xff\0secret",
        b"\0" + b"u" * 256 + b"\0s",
    ],
)
def test_s44_bad_plain_messages(message: bytes) -> None:
    with pytest.raises(SaslError):
        decode_plain(message)


def test_plain_names_everybody() -> None:
    assert decode_plain(b"boss\0user\0secret") == Credentials("user", "secret", "boss")
    assert decode_plain("\0jürgen\0geheim ß".encode()) == Credentials("jürgen", "geheim ß")


def test_login() -> None:
    assert decode_login(b"user", b"secret") == Credentials("user", "secret")
    assert encode_login(Credentials("user", "secret")) == (b"user", b"secret")
    for user, password in ((b"", b"x"), (b"x", b""), (b"a\0b", b"x"), (b"x", b"\xff")):
        with pytest.raises(SaslError):
            decode_login(user, password)


fields = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(fields, fields, fields)
def test_plain_round_trip(user: str, password: str, behalf: str) -> None:
    claim = Credentials(user, password, behalf)
    assert decode_plain(encode_plain(claim)) == claim


def test_a_nul_cannot_be_sent() -> None:
    with pytest.raises(SaslError):
        encode_plain(Credentials("user", "a\0b"))


def test_no_password_in_what_is_printed() -> None:
    assert "secret" not in repr(Credentials("user", "secret"))
    with pytest.raises(SaslError) as error:
        decode_plain(base64.b64decode("c2VjcmV0"))
    assert "secret" not in str(error.value)
