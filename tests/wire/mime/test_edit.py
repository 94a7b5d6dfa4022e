"""Changes to a header block: libmilter's positions, byte for byte, and nothing that ends a field by force."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from postroad.wire.mime.edit import EditedHeader, UnsafeEdit, field_octets
from postroad.wire.mime.headers import MAX_HEADER_LINES, HeaderTooLarge

BLOCK = b"Received: a\r\nX-A: 1\r\nno field here\r\nx-a:2\r\n folded\r\nX-A : 3\r\n\r\n"


def edited(*changes: Callable[[EditedHeader], None], block: bytes = BLOCK) -> tuple[bytes, bytes]:
    header = EditedHeader(block)
    for change in changes:
        change(header)
    return header.above, header.block


@pytest.mark.parametrize(
    "block", [BLOCK, b"", b"\r\n", b"A: 1\r\n", b"A: 1\r\n\r\n", b" junk\r\nA: 1\r\n\r\n", b"A:\r\n \r\n\r\n"]
)
def test_what_is_not_changed_stays_as_it_came(block: bytes) -> None:
    assert EditedHeader(block).block == block


def test_fields_are_shown_as_libmilter_shows_them() -> None:
    assert EditedHeader(BLOCK).fields() == [
        (b"Received", b" a"),
        (b"X-A", b" 1"),
        (b"x-a", b"2\n folded"),
        (b"X-A", b" 3"),
    ]


@pytest.mark.parametrize(
    "index, above, block",
    [
        (0, b"N: v\r\n", BLOCK),
        (1, b"", b"N: v\r\n" + BLOCK),
        (2, b"", BLOCK.replace(b"X-A: 1", b"N: v\r\nX-A: 1")),
        (3, b"", BLOCK.replace(b"x-a:2", b"N: v\r\nx-a:2")),
        (4, b"", BLOCK.replace(b"X-A : 3", b"N: v\r\nX-A : 3")),
        (5, b"", BLOCK.replace(b"X-A : 3\r\n", b"X-A : 3\r\nN: v\r\n")),
        (2**32 - 1, b"", BLOCK.replace(b"X-A : 3\r\n", b"X-A : 3\r\nN: v\r\n")),
    ],
)
def test_insertion_counts_our_received_line_as_place_0(index: int, above: bytes, block: bytes) -> None:
    assert edited(lambda header: header.insert(index, b"N", b" v")) == (above, block)


def test_insertion_counts_what_was_inserted_above() -> None:
    above, block = edited(
        lambda header: header.insert(0, b"One", b" 1"),
        lambda header: header.insert(1, b"Two", b" 2"),
        lambda header: header.insert(0, b"Zero", b" 0"),
        lambda header: header.insert(4, b"Below", b" b"),
    )
    assert above == b"Zero: 0\r\nOne: 1\r\nTwo: 2\r\n"
    assert block == b"Below: b\r\n" + BLOCK


@pytest.mark.parametrize(
    "index, name, value, block",
    [
        (1, b"x-A", b" new", BLOCK.replace(b"X-A: 1", b"x-A: new")),
        (0, b"X-A", b" new", BLOCK.replace(b"X-A: 1", b"X-A: new")),
        (2, b"X-A", b" new\n\tline", BLOCK.replace(b"x-a:2\r\n folded", b"X-A: new\r\n\tline")),
        (3, b"X-A", b" new", BLOCK.replace(b"X-A : 3", b"X-A: new")),
        (4, b"X-A", b" new", BLOCK.replace(b"X-A : 3\r\n", b"X-A : 3\r\nX-A: new\r\n")),
        (1, b"X-New", b" new", BLOCK.replace(b"X-A : 3\r\n", b"X-A : 3\r\nX-New: new\r\n")),
        (1, b"Received", b" b", BLOCK.replace(b"Received: a", b"Received: b")),
        (2, b"X-A", b"", BLOCK.replace(b"x-a:2\r\n folded\r\n", b"")),
        (0, b"X-A", b"", BLOCK.replace(b"X-A: 1\r\n", b"")),
        (4, b"X-A", b"", BLOCK),
        (1, b"X-New", b"", BLOCK),
    ],
)
def test_changes_count_the_fields_of_one_name(index: int, name: bytes, value: bytes, block: bytes) -> None:
    assert edited(lambda header: header.change(index, name, value)) == (b"", block)


def test_changes_count_fields_above_our_received_line_first() -> None:
    def insert(header: EditedHeader) -> None:
        header.insert(0, b"X-A", b" 0")

    assert edited(insert, lambda header: header.change(1, b"X-A", b" new")) == (b"X-A: new\r\n", BLOCK)
    assert edited(insert, lambda header: header.change(1, b"X-A", b"")) == (b"", BLOCK)
    assert edited(insert, lambda header: header.change(2, b"X-A", b""))[1] == BLOCK.replace(b"X-A: 1\r\n", b"")


@pytest.mark.parametrize("order", [(3, 2, 1), (1, 1, 1)])
def test_every_field_of_a_name_can_be_removed(order: tuple[int, ...]) -> None:
    header = EditedHeader(BLOCK)
    for index in order:
        header.change(index, b"X-A", b"")
    assert header.block == b"Received: a\r\nno field here\r\n\r\n"


def test_field_is_added_behind_a_last_line_without_an_end() -> None:
    assert edited(lambda header: header.add(b"B", b" 2"), block=b"A: 1") == (b"", b"A: 1\r\nB: 2\r\n")
    assert edited(lambda header: header.add(b"B", b" 2"), block=b"\r\n") == (b"", b"B: 2\r\n\r\n")


def test_copy_is_changed_apart() -> None:
    header = EditedHeader(BLOCK)
    other = header.copy()
    other.add(b"B", b" 2")
    other.insert(0, b"C", b" 3")
    other.change(1, b"X-A", b"")
    assert (header.above, header.block) == (b"", BLOCK)


@pytest.mark.parametrize(
    "name, value",
    [
        (b"", b" x"), (b"A B", b" x"), (b"A:", b" x"), (b"A\r\nB", b" x"), (b"\xc3\xa4", b" x"), (b"A" * 201, b" x"),
        (b"A", b" x\r\nBcc: b@c.test"), (b"A", b" x\nBcc: b@c.test"), (b"A", b" x\rBcc"), (b"A", b" x\r\n\r\nbody"),
        (b"A", b" x\n \nB: y"), (b"A", b" x\n"), (b"A", b" x\r\n"), (b"A", b" x\0"), (b"A", b"\n"),
        (b"A", b" x\r\r\n y"),
    ],
)  # fmt: skip
def test_no_value_becomes_another_field_or_the_body(name: bytes, value: bytes) -> None:
    """Class E5: CR and LF only where a blank goes on with the same field."""
    with pytest.raises(UnsafeEdit):
        field_octets(name, value)
    header = EditedHeader(BLOCK)
    changes: list[Callable[[], None]] = [
        lambda: header.add(name, value),
        lambda: header.insert(0, name, value),
        lambda: header.insert(1, name, value),
        lambda: header.change(1, name, value),
    ]
    for change in changes:
        with pytest.raises(UnsafeEdit):
            change()
    assert (header.above, header.block) == (b"", BLOCK)


@pytest.mark.parametrize("value", [b" a\n b", b" a\r\n b", b" a\n\tb\n c", b"", b" \xc3\xa4"])
def test_folded_values_stay_one_field(value: bytes) -> None:
    octets = field_octets(b"A", value)
    header = EditedHeader(octets)
    assert header.fields() == [(b"A", value.replace(b"\r\n", b"\n"))]
    assert octets.count(b"\n") == octets.count(b"\r\n")


def test_header_does_not_outgrow_its_limits() -> None:
    header = EditedHeader(b"A: 1\r\n\r\n")
    with pytest.raises(UnsafeEdit):
        header.add(b"B", b" " + b"x" * 262_144)
    full = EditedHeader(b"A: 1\r\n" * (MAX_HEADER_LINES - 1) + b"\r\n")
    full.insert(0, b"B", b" 2")
    with pytest.raises(UnsafeEdit):
        full.insert(0, b"B", b" 2")
    with pytest.raises(HeaderTooLarge):
        EditedHeader(b"A: 1\r\n" * (MAX_HEADER_LINES + 1))
