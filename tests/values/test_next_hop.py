"""Next hops as somebody writes them."""

from __future__ import annotations

import pytest

from postroad.values.next_hop import NextHop, parse_next_hop


@pytest.mark.parametrize(
    "text, hop, written",
    [
        ("mail.test", NextHop("mail.test", 25), "mail.test:25"),
        ("Mail.Test.:2525", NextHop("mail.test", 2525), "mail.test:2525"),
        ("192.0.2.1", NextHop("192.0.2.1", 25), "192.0.2.1:25"),
        ("[2001:db8::1]", NextHop("2001:db8::1", 25), "[2001:db8::1]:25"),
        ("2001:db8::1", NextHop("2001:db8::1", 25), "[2001:db8::1]:25"),
        ("[2001:db8::1]:2525", NextHop("2001:db8::1", 2525), "[2001:db8::1]:2525"),
        ("lmtp:mail.test:24", NextHop("mail.test", 24, lmtp=True), "lmtp:mail.test:24"),
        ("lmtp:[::1]:24", NextHop("::1", 24, lmtp=True), "lmtp:[::1]:24"),
        ("lmtp:/run/dovecot/lmtp", NextHop("/run/dovecot/lmtp", 0, lmtp=True), "lmtp:/run/dovecot/lmtp"),
    ],
)
def test_a_next_hop_is_read_and_written_back(text: str, hop: NextHop, written: str) -> None:
    assert parse_next_hop(text) == hop
    assert str(hop) == written
    assert parse_next_hop(written) == hop


@pytest.mark.parametrize(
    "text",
    [
        "", ":25", "host:0", "host:x", "host:65536", "host:", "host:123456", "[::1]:x", "[::1]:", "[::1]25", "ho st",
        "host\r\n", "/run/lmtp", "lmtp:", "lmtp:host", "lmtp:host:25", "lmtp:/run/a b", "lmtp:/run/\n", "smtp:host:25",
    ],
)  # fmt: skip
def test_what_is_no_next_hop(text: str) -> None:
    with pytest.raises(ValueError, match="next hop"):
        parse_next_hop(text)
