"""Replies: one line each, never longer than RFC 5321 allows, and never without the end that somebody needs."""

from __future__ import annotations

import pytest

from postroad.values.reply import MAX_REPLY_LINE, Reply


@pytest.mark.parametrize("letter", ["x", "ü", "\U0001f600"])
@pytest.mark.parametrize("length", [1, 470, 490, 600, 5000])
def test_what_a_reply_ends_with_is_never_cut(letter: str, length: int) -> None:
    wire = Reply(550, "5.7.1", letter * length).ending("Ref 0ADJX0WR2PM02").wire()
    assert len(wire) <= MAX_REPLY_LINE
    assert wire.startswith(f"550 5.7.1 {letter}".encode())
    assert wire.endswith(b" Ref 0ADJX0WR2PM02\r\n")
    wire.decode()


def test_a_short_reply_keeps_its_text_and_its_other_lines() -> None:
    reply = Reply(550, "5.7.1", "Second.", ("First.",)).ending("Ref 1")
    assert reply.wire() == b"550-5.7.1 First.\r\n550 5.7.1 Second. Ref 1\r\n"


def test_no_text_holds_the_end_of_a_line() -> None:
    """Class E5."""
    assert Reply(550, "5.7.1", "a\r\n250 ok\0").wire() == b"550 5.7.1 a250 ok\r\n"


def test_a_line_without_an_enhanced_code_is_cut_too() -> None:
    assert len(Reply(220, "", "x" * 1000).wire()) == MAX_REPLY_LINE
