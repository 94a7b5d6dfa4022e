"""The grammar's own promises: total, and the same way there and back."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.wire.smtp import grammar
from postroad.wire.smtp.commands import read_mail, read_rcpt
from postroad.wire.smtp.extensions import Door
from postroad.wire.smtp.grammar import CommandError

EVERYTHING = Door("submission", dsn=True, binarymime=True, future_release_s=86_400)
NOW_US = 1_795_760_285_000_000
"""2026-11-27T06:18:05Z."""


@given(st.text("ab+=@ ;~", max_size=20))
def test_xtext_round_trip(text: str) -> None:
    encoded = grammar.encode_xtext(text)
    assert grammar.decode_xtext(encoded) == text
    assert not {" ", "="} & set(encoded)


@given(st.one_of(st.binary(max_size=60), st.text('<>@:,=+"\\ .abSIZE[]12', max_size=40).map(str.encode)))
def test_any_argument_gives_a_value_or_a_reply(argument: bytes) -> None:
    """And no address that comes out holds a character that could end a line."""
    for line in (b"MAIL FROM:" + argument, b"MAIL FROM:<" + argument + b"> SMTPUTF8", b"MAIL " + argument):
        with suppress(CommandError):
            sender, _ = read_mail(line, EVERYTHING, lambda: NOW_US)
            assert sender is None or not set("\r\n\0") & set(str(sender))
    for line in (b"RCPT TO:" + argument, b"RCPT TO:<" + argument + b">", b"RCPT TO:<a@b.test> " + argument):
        with suppress(CommandError):
            rcpt = read_rcpt(line, True, "mx.test")
            assert not set("\r\n\0") & set(str(rcpt.address) + rcpt.params.orcpt)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("12", 12),
        ("9" * 20, 10**20 - 1),
        ("9" * 21, None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1_0", None),
        ("٣", None),
    ],
)
def test_decimal(text: str, number: int | None) -> None:
    assert grammar.decimal(text) == number


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"BDAT 10", (10, False)),
        (b"bdat 10 last", (10, True)),
        (b"BDAT 010", (10, False)),
        (b"BDAT", None),
        (b"BDAT 10 ", None),
        (b"BDAT  10", None),
        (b"BDAT 10 LAST ", None),
        (b"BDAT 10\n", None),
    ],
)
def test_bdat(line: bytes, read: tuple[int, bool] | None) -> None:
    assert grammar.read_bdat(line) == read
