"""Replies that milters word: what may reach a client, and what may not."""

from __future__ import annotations

import pytest

from postroad.values.reply import Reply
from postroad.wire.milter.replies import MAX_REPLY_LINES, read_reply


@pytest.mark.parametrize(
    "octets, meaning",
    [
        (b"550 5.7.1 No", Reply(550, "5.7.1", "No")),
        (b"451 4.7.1 Later, 100%% sure", Reply(451, "4.7.1", "Later, 100% sure")),
        (b"550", Reply(550, "5.7.1", "")),
        (b"450 no status", Reply(450, "4.7.1", "no status")),
        (b"421 4.3.2", Reply(421, "4.3.2", "")),
        (b"550 5.7.1x", Reply(550, "5.7.1", "5.7.1x")),
        (b"550-5.7.1 one\r\n550-5.7.1 two\r\n550 5.7.1 three", Reply(550, "5.7.1", "three", ("one", "two"))),
        (b"550 5.7.1 one\r\n", Reply(550, "5.7.1", "one")),
        ("554 5.7.1 gelöscht".encode(), Reply(554, "5.7.1", "gel??scht")),
    ],
)
def test_replies_are_read(octets: bytes, meaning: Reply) -> None:
    assert read_reply(octets) == meaning
    assert meaning.wire().endswith(b"\r\n")


@pytest.mark.parametrize(
    "octets",
    [
        b"", b"250 2.0.0 fine", b"354 go", b"650 x", b"560 x", b"55 x", b"5500 x", b"abc", b"550x",
        b"550 4.7.1 classes differ", b"450 5.7.1 classes differ", b"550 2.0.0 classes differ",
        b"550 5.7.1 one\r\n451 4.7.1 two", b"550-5.7.1 one\r\nMAIL FROM:<a@b.test>", b"550 a\nb", b"550 a\rb",
        b"550 a\tb", b"550 a\x1b[1m", b"550 5.7.1 one\r\n\r\n", b"550 a\r\n" * (MAX_REPLY_LINES + 1),
    ],
)  # fmt: skip
def test_what_a_client_must_not_read_is_refused(octets: bytes) -> None:
    """Class E5: no milter writes into the SMTP stream past its own lines."""
    with pytest.raises(ValueError, match=r"line|control|lines|agree"):
        read_reply(octets)
