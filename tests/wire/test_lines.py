"""The strict line splitter gives one verdict, however the octets arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.wire.lines import Fault, LineBuffer, LineError

LIMIT = 8


def read(pieces: list[bytes]) -> list[bytes | Fault]:
    """Every line and fault; a bare LF ends the reading, other faulty lines are skipped."""
    lines = LineBuffer()
    seen: list[bytes | Fault] = []
    for piece in pieces:
        lines.receive(piece)
        while True:
            try:
                line = lines.next_line(LIMIT)
            except LineError as error:
                seen.append(error.fault)
                if error.fault is Fault.BARE_LF:
                    return seen
                lines.skip_line()
                continue
            if line is None:
                break
            seen.append(line)
    return seen


@pytest.mark.parametrize(
    ("octets", "seen"),
    [
        (b"one\r\ntwo\r\n", [b"one", b"two"]),
        (b"\r\n\r\n", [b"", b""]),
        (b"123456\r\n", [b"123456"]),
        (b"1234567\r\nx\r\n", [Fault.TOO_LONG, b"x"]),
        (b"12345678901234567890\r\nx\r\n", [Fault.TOO_LONG, b"x"]),
        (b"a\nb\r\n", [Fault.BARE_LF]),
        (b"a\rb\r\nx\r\n", [Fault.BARE_CR, b"x"]),
        (b"a\r\r\nx\r\n", [Fault.BARE_CR, b"x"]),
        (b"a\0b\r\nx\r\n", [Fault.NUL, b"x"]),
        (b"12345678901\nx\r\n", [Fault.TOO_LONG, Fault.BARE_LF]),
        (b"\x0b\x0c\x1c\x85\r\n", [b"\x0b\x0c\x1c\x85"]),
        (b"open", []),
    ],
)
def test_lines_and_faults_at_every_cut(octets: bytes, seen: list[bytes | Fault]) -> None:
    assert read([octets]) == seen
    assert read([octets[at : at + 1] for at in range(len(octets))]) == seen
    for cut in range(len(octets)):
        assert read([octets[:cut], octets[cut:]]) == seen


@given(st.lists(st.text("ab\r\n\0", max_size=9).map(str.encode), max_size=8))
def test_cuts_do_not_matter(pieces: list[bytes]) -> None:
    assert read(pieces) == read([b"".join(pieces)])


def test_a_fault_is_told_as_soon_as_it_is_certain() -> None:
    lines = LineBuffer()
    lines.receive(b"x" * LIMIT)
    with pytest.raises(LineError) as error:
        lines.next_line(LIMIT)
    assert error.value.fault is Fault.TOO_LONG
    lines = LineBuffer()
    lines.receive(b"ab\n")
    with pytest.raises(LineError) as error:
        lines.next_line(LIMIT)
    assert (error.value.fault, error.value.before) == (Fault.BARE_LF, b"ab")


def test_the_rest_can_be_taken_whole() -> None:
    lines = LineBuffer()
    lines.receive(b"one\r\nrest")
    assert lines.next_line(LIMIT) == b"one"
    assert (lines.unread, lines.peek(2)) == (4, b"re")
    assert lines.take_all() == b"rest"
    assert lines.unread == 0


def test_a_line_that_is_skipped_takes_no_memory() -> None:
    lines = LineBuffer()
    lines.receive(b"x" * 100)
    with pytest.raises(LineError):
        lines.next_line(LIMIT)
    lines.skip_line()
    for _ in range(1000):
        lines.receive(b"x" * 1000)
        assert lines.next_line(LIMIT) is None
        assert lines.unread == 0
