"""Header blocks: offsets, malformed lines, limits, and the end of the header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.wire.mime.headers import (
    MAX_HEADER_LINES,
    MAX_HEADER_OCTETS,
    HeaderIndex,
    HeaderOddity,
    HeaderTooLarge,
    split_header,
    unfold,
)

BLOCK = b"From: a@example.org\r\nTo: b@example.org,\r\n\tc@example.org\r\nto:  d@example.org \r\nX-Empty:\r\n\r\n"


def test_each_field_lies_where_the_index_says() -> None:
    index = HeaderIndex(BLOCK)
    assert [(field.name, BLOCK[field.value_start : field.end]) for field in index] == [
        (b"from", b" a@example.org\r\n"),
        (b"to", b" b@example.org,\r\n\tc@example.org\r\n"),
        (b"to", b"  d@example.org \r\n"),
        (b"x-empty", b"\r\n"),
    ]
    assert b"".join(index.raw_field(at) for at in range(len(index))) + b"\r\n" == BLOCK
    assert index.oddities == HeaderOddity.NONE


def test_values_are_unfolded_and_found_by_name() -> None:
    index = HeaderIndex(BLOCK)
    assert index.first(b"to") == b"b@example.org, c@example.org"
    assert index.all(b"to") == [b"b@example.org, c@example.org", b"d@example.org"]
    assert (index.count(b"to"), index.first(b"x-empty"), index.first(b"cc"), index.all(b"cc")) == (2, b"", None, [])


@pytest.mark.parametrize(
    "block, oddity",
    [
        (b"From : a\r\n", HeaderOddity.BLANK_BEFORE_COLON),
        (b"From\t: a\r\n", HeaderOddity.BLANK_BEFORE_COLON),
        (b" From: a\r\nTo: b\r\n", HeaderOddity.LEADING_CONTINUATION | HeaderOddity.NO_COLON),
        (b"From a\r\nTo: b\r\n", HeaderOddity.NO_COLON),
        (b": nameless\r\n", HeaderOddity.NO_COLON),
        (b"A: b\rFrom: evil@example.org\r\n", HeaderOddity.BARE_CR),
        (b"A: b\nB: c\r\n", HeaderOddity.BARE_LF),
        (b"A: b\0\r\n", HeaderOddity.NUL),
        ("A: ä\r\n".encode(), HeaderOddity.EIGHT_BIT),
    ],
)
def test_what_is_malformed_is_marked_and_read_on(block: bytes, oddity: HeaderOddity) -> None:
    assert HeaderIndex(block).oddities == oddity


def test_a_bare_cr_begins_no_field() -> None:
    index = HeaderIndex(b"Subject: a\rFrom: evil@example.org\r\n")
    assert index.first(b"from") is None
    assert index.first(b"subject") == b"a From: evil@example.org"


@pytest.mark.parametrize("block", [b"A: " + b"b" * MAX_HEADER_OCTETS, b"A: b\r\n" * (MAX_HEADER_LINES + 1)])
def test_a_block_over_the_limits_is_not_read(block: bytes) -> None:
    with pytest.raises(HeaderTooLarge):
        HeaderIndex(block)


@pytest.mark.parametrize(
    "message, header_end, body_start",
    [
        (b"A: b\r\n\r\nbody", 6, 8),
        (b"A: b\n\nbody", 5, 6),
        (b"A: b\r\n c\r\n\r\nbody\r\n\r\n", 10, 12),
        (b"\r\nbody", 0, 2),
        (b"", 0, 0),
        (b"A: b\r\n", 6, 6),
        (b"A: b", 4, 4),
        (b"A: b\r\nno field here\r\nC: d\r\n\r\n", 6, 6),
        (b"From x Mon Jan  1 2024\r\nA: b\r\n\r\nbody", 30, 32),
        (b" leading\r\nA: b\r\n\r\nbody", 16, 18),
        (b"A: b\r\r\nbody", 7, 7),
        (b"A: b\n\rbody", 5, 5),
        (b"body at once", 0, 0),
    ],
)
def test_where_the_header_ends(message: bytes, header_end: int, body_start: int) -> None:
    assert split_header(message) == (header_end, body_start)


@given(st.binary(max_size=300) | st.text("A: \r\n\tb\0", max_size=80).map(str.encode))
def test_no_octets_are_lost_and_no_line_end_survives_unfolding(octets: bytes) -> None:
    header_end, body_start = split_header(octets)
    assert 0 <= header_end <= body_start <= len(octets)
    index = HeaderIndex(octets)
    position = 0
    for field in index:
        assert field.start == position <= field.value_start <= field.end
        position = field.end
    assert all(octet >= 32 for at in range(len(index)) for octet in unfold(index.raw_value(at)))
