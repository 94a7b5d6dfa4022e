"""Patterns of replies: what they find, and that none can be made to take long."""

from __future__ import annotations

import time

import pytest

from postroad.config.patterns import PATTERN_MAX, TEXT_MAX, Pattern


@pytest.mark.parametrize(
    "pattern, text, found",
    [
        ("rate limit", "421 Rate Limit reached", True),
        ("rate limit", "421 rate-limit", False),
        ("rate ?-?limit", "421 rate-limit", True),
        ("too many.*connections", "too many of your connections", True),
        ("too many.*connections", "connections: too many", False),
        ("a.+b", "ab", False),
        ("a.+b", "axb", True),
        ("^451", "451 later", True),
        ("^451", "x 451 later", False),
        ("later$", "try later", True),
        ("later$", "later on", False),
        (r"\[TSS?04\]", "[TS04] later", True),
        (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", "from 192.0.2.1 blocked", True),
        (r"10\.*", "10...", False),
        ("(grey|gray)list", "you were graylisted", True),
        ("[.*]+x".replace("+", "{1,9}"), "*.x", True),
        ("one|two.*three|four", "two and three", True),
        ("one|two.*three|four", "three and two", False),
        ("one|two.*three|four", "four", True),
        ("", "anything", True),
        (".*", "", True),
    ],
)
def test_what_a_pattern_finds(pattern: str, text: str, found: bool) -> None:
    if pattern == r"10\.*":
        with pytest.raises(ValueError, match="no end"):
            Pattern(pattern)
        return
    assert Pattern(pattern).is_in(text) is found


def test_only_the_beginning_of_a_long_text_is_looked_at() -> None:
    assert not Pattern("end").is_in("x" * TEXT_MAX + "end")


@pytest.mark.parametrize(
    "pattern, what",
    [
        ("a*", "no end"),
        ("a+", "no end"),
        ("a{3,}", "no end"),
        ("a{1,65}", "no end"),
        ("(a+)+b", "no end"),
        ("(ab){2}", "a group is repeated"),
        ("(a{1,9}){1,9}", "a group is repeated"),
        ("(a|ab){9}", "a group is repeated"),
        (r"(a)\1", "not offered"),
        ("(?=a)", "not offered"),
        ("(?<!a)b", "not offered"),
        ("(?>a)b", "not offered"),
        ("a(b.*c)d", "no end"),
        ("x{0,20}y{0,20}", "too many ways"),
        ("(aa|bb|cc|dd|ee)" * 6, "too many ways"),
        ("a?" * 30, "too many ways"),
        ("(a", "no pattern"),
        ("[a", "no pattern"),
        ("a" * (PATTERN_MAX + 1), "characters"),
    ],
)
def test_what_might_take_long_is_refused(pattern: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Pattern(pattern)


@pytest.mark.parametrize(
    "pattern, text",
    [
        ("a.*a.*a.*a.*a.*a.*b", "a" * TEXT_MAX),
        ("x{0,15}y{0,15}z", "x" * TEXT_MAX),
        ("(a|a|a|a)(a|a|a|a)(a|a|a|a)(a|a|a|a)b", "a" * TEXT_MAX),
        ("a?a?a?a?a?a?a?a?aaaaaaaab", "a" * TEXT_MAX),
        ("[^b]{0,63}b", "a" * TEXT_MAX),
        (".{0,15}.{0,15}b", "a" * TEXT_MAX),
    ],
)
def test_the_worst_that_is_allowed_ends_soon(pattern: str, text: str) -> None:
    known = Pattern(pattern)
    began = time.process_time()
    assert not known.is_in(text)
    # Its cost is bounded by arithmetic (see the module); this only shows that the arithmetic is not off by powers.
    assert time.process_time() - began < 1.0
