"""Replies that differ only in ids, addresses and numbers are one reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.values.reason import REASON_MAX, reason_number, reason_text

SAME = [
    ("450 4.2.0 <bob@x.test>: Greylisted for 300 seconds", "450 4.2.0 <eva@y.test>: Greylisted for 17 seconds"),
    ("451 4.7.1 Try again later. id 4fXk2M1sPz", "451 4.7.1 Try again later. id 9aBB2M1q77"),
    ("421 4.7.28 Rate limited [192.0.2.1]", "421 4.7.28 Rate limited [198.51.100.77]"),
    ("421 4.7.28 from 2001:db8::1 too much", "421 4.7.28 from 2001:db8:5::77 too much"),
    ("550-5.1.1 see https://a.test/1?x=2\n550 5.1.1 no", "550-5.1.1 see https://b.test/9\n550 5.1.1 no"),
    ("452 Mailbox   full", "452 Mailbox full"),
]
OTHER = [
    ("450 4.2.0 Greylisted", "450 4.2.1 Greylisted"),
    ("450 Greylisted", "451 Greylisted"),
    ("connection refused", "connection timed out"),
    ("could not look up a.test: no answer", "could not look up b.test: no answer"),
]


@pytest.mark.parametrize("one, other", SAME)
def test_what_differs_from_mail_to_mail_is_left_out(one: str, other: str) -> None:
    assert reason_text(one) == reason_text(other)
    assert reason_number(one) == reason_number(other) > 0


@pytest.mark.parametrize("one, other", OTHER)
def test_what_means_something_else_stays_apart(one: str, other: str) -> None:
    assert reason_number(one) != reason_number(other)


def test_the_text_is_read_by_people() -> None:
    assert reason_text("451 4.7.1 <b@x.test>: wait 300 s, q=4fXk2M1sPz") == "451 4.7.1 <address>: wait # s, <id>"
    assert (reason_text(""), reason_number("")) == ("", 0)


@given(st.text(max_size=3000))
def test_a_reason_is_short_printable_and_its_own_reason(reply: str) -> None:
    text = reason_text(reply)
    assert len(text) <= REASON_MAX
    assert text.isprintable()
    assert reason_number(reply) < 1 << 48
    assert reason_number(text) == reason_number(reply) or len(text) == REASON_MAX
