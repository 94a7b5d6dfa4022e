"""Sequence sets, mailbox names, LIST patterns, strings and dates."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.wire.imap import responses, sets
from postroad.wire.imap.mailboxes import (
    BadName,
    Listed,
    Pattern,
    check_new_name,
    decode_name,
    encode_name,
    list_names,
)
from postroad.wire.imap.sets import STAR, read_set, resolve
from postroad.wire.imap.syntax import BadSyntax, Cursor
from tests.wire.imap.reply_reader import read_value

# --- sets


@pytest.mark.parametrize(
    "text, largest, expected",
    [
        (b"1", 5, [(1, 1)]),
        (b"4:2", 5, [(2, 4)]),
        (b"1:3,5", 5, [(1, 3), (5, 5)]),
        (b"*", 5, [(5, 5)]),
        (b"*:3", 5, [(3, 5)]),
        (b"7:*", 5, [(5, 5)]),
        (b"6", 5, []),
        (b"6:4294967295", 5, []),
        (b"1:4294967295", 5, [(1, 5)]),
        (b"3,1,2,2:2,5:4", 9, [(1, 5)]),
        (b"*:*", 0, []),
        (b"1:*", 0, []),
    ],
)
def test_sets_against_a_mailbox(text: bytes, largest: int, expected: list[tuple[int, int]]) -> None:
    assert resolve(read_set(text), largest) == expected


@pytest.mark.parametrize(
    "text",
    [b"", b"0", b"01", b"1,", b",1", b"1:", b":1", b"1:2:3", b"*:*:*", b"4294967296", b"-1", b"1,,2", b"a", b"1 2"],
)
def test_what_is_no_set_is_refused(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        read_set(text)


def test_a_set_of_many_ranges_is_merged_in_linear_time() -> None:
    """Row I12."""
    text = b",".join(b"%d" % number for number in range(40_000, 1, -2))
    before = time.process_time()
    ranges = resolve(read_set(text), 50_000)
    assert len(ranges) == 20_000
    assert time.process_time() - before < 0.5
    with pytest.raises(BadSyntax):
        read_set(b",".join([b"1"] * 100_000))


RANGES = st.lists(st.tuples(st.integers(1, 40) | st.just(STAR), st.integers(1, 40) | st.just(STAR)), max_size=8)


@given(RANGES, st.integers(0, 30))
def test_a_resolved_set_holds_what_the_rfc_says(numbers: list[tuple[int, int]], largest: int) -> None:
    expected = set()
    for ends in numbers:
        low, high = sorted(largest if end == STAR else end for end in ends)
        expected |= set(range(low, high + 1)) & set(range(1, largest + 1))
    ranges = resolve(tuple(numbers), largest)
    assert sorted(expected) == list(sets.pick(ranges, range(1, 50)))
    assert {number for number in range(50) if sets.contains(ranges, number)} == expected
    written = sets.format_numbers(sorted(expected))
    assert written == sets.format_ranges(ranges)
    assert not written or resolve(read_set(written), 50) == ranges


# --- names


@pytest.mark.parametrize(
    "octets, name",
    [
        (b"INBOX", "INBOX"),
        (b"iNbOx", "INBOX"),
        (b"inbox/sub", "INBOX/sub"),
        (b"inboxes", "inboxes"),
        (b"p&AOQA5A-", "pää"),
        (b"a&-b", "a&b"),
        (b"~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語"),
        (b"&2D3eAA-", "😀"),
    ],
)
def test_names_from_the_wire(octets: bytes, name: str) -> None:
    assert decode_name(octets) == name
    assert decode_name(encode_name(name)) == name


@pytest.mark.parametrize(
    "octets",
    [
        b"&",
        b"&A",
        b"&AOQ",
        b"&AOR-",
        b"&AGE-",
        b"&AOQ-&AOQ-",
        b"p\xc3\xa4",
        b"&!!!!-",
        b"&2D0-",
        b"&AOQ=-",
        b"x" * 10_000,
    ],
)
def test_modified_utf7_junk_is_refused(octets: bytes) -> None:
    with pytest.raises(BadName):
        decode_name(octets)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a//b",
        "../x",
        "a/../../b",
        "a/.",
        "%",
        "a*",
        "a\\b",
        "a\x00",
        "a\rb",
        "a\n",
        " a",
        "a /b",
        "a\u2028b",
        "a/" * 40 + "b",
        "ä" * 500,
    ],
)
def test_names_that_no_mailbox_can_have(name: str) -> None:
    """Row I8."""
    with pytest.raises(BadName):
        check_new_name(name)


def test_two_spellings_of_one_letter_are_one_name() -> None:
    assert decode_name(encode_name("a\u0308")) == "ä"


@given(st.text(max_size=30))
def test_any_name_survives_the_wire(name: str) -> None:
    try:
        name.encode("utf-16")
    except UnicodeEncodeError:
        return
    from postroad.wire.imap.mailboxes import decode_utf7

    assert decode_utf7(encode_name(name)) == name
    assert encode_name(name).isascii()


@given(st.binary(max_size=30) | st.text("&-+,aAOQ/", max_size=12).map(str.encode))
def test_no_octets_break_the_reading_of_names(octets: bytes) -> None:
    try:
        name = decode_name(octets)
    except BadName:
        return
    assert len(encode_name(name)) <= len(octets) * 3 + 3


# --- patterns


@pytest.mark.parametrize(
    "pattern, yes, no",
    [
        ("*", ["a", "a/b", "INBOX"], []),
        ("%", ["a", "INBOX"], ["a/b"]),
        ("a/%", ["a/b"], ["a", "a/b/c"]),
        ("a/%/%", ["a/b/c"], ["a/b", "a/b/c/d"]),
        ("%/%3/%", ["x/a3/y"], ["x/a4/y", "x/3y/z"]),
        ("a%b*c", ["abc", "a1bc", "ab/x/c"], ["a/bc", "abd"]),
        ("inbox", ["INBOX"], ["inbox2"]),
        ("", [""], ["a"]),
        ("*%", ["a/b"], []),
        ("%*", ["a/b"], []),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    wanted = Pattern(pattern)
    assert [name for name in yes + no if wanted.matches(name)] == yes


def slow_match(pattern: str, name: str) -> bool:
    """The definition, for small cases."""
    if not pattern:
        return not name
    if pattern[0] not in "*%":
        return name[:1] == pattern[0] and slow_match(pattern[1:], name[1:])
    if slow_match(pattern[1:], name):
        return True
    return bool(name) and (pattern[0] == "*" or name[0] != "/") and slow_match(pattern, name[1:])


@given(st.text("ab/*%", max_size=6), st.text("ab/", max_size=7))
def test_patterns_do_what_their_definition_says(pattern: str, name: str) -> None:
    assert Pattern(pattern).matches(name) == slow_match(pattern, name)


def test_many_wildcards_on_many_names_take_no_long() -> None:
    """Row I9: backtracking would not finish."""
    names = [f"folder/{number}/" + "a" * 20 for number in range(10_000)]
    before = time.process_time()
    assert list_names(names, "", "*%*%*%*%*%a*%a*%a*%b") == []
    assert list_names(names, "", "%" * 500) != []
    assert time.process_time() - before < 1.5


def test_levels_without_a_mailbox_are_listed_as_such() -> None:
    names = ["a/b/c", "INBOX", "d"]
    assert list_names(names, "", "%") == [
        Listed("INBOX", True, False),
        Listed("a", False, True),
        Listed("d", True, False),
    ]
    assert list_names(names, "a/", "%") == [Listed("a/b", False, True)]
    assert list_names(names, "", "inbox") == [Listed("INBOX", True, False)]


# --- strings, dates


@given(st.binary(max_size=60))
def test_any_octets_make_a_valid_string(octets: bytes) -> None:
    seen = octets.replace(b"\0", b"\x80")
    for write in (responses.string, responses.nstring, responses.literal):
        assert read_value(write(octets)) == seen
    assert Cursor(responses.astring(octets)).astring() == seen


def test_long_strings_and_nil_are_literals_or_quoted() -> None:
    assert responses.string(b"a" * 2_000).startswith(b"{2000}\r\n")
    assert responses.astring(b"nil") == b'"nil"'
    assert responses.astring(b"") == b'""'


@given(st.integers(-62_135_596_800, 253_402_300_799))
def test_an_internal_date_reads_back(seconds: int) -> None:
    written = responses.internal_date(seconds * 1_000_000)
    assert Cursor(written).date_time_us() == seconds * 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        b'"31-Feb-2024 00:00:00 +0000"',
        b'"1-Jan-2024 00:00:00 +0000"',
        b'" 1-Jan-0000 00:00:00 +0000"',
        b'" 1-Foo-2024 00:00:00 +0000"',
        b'" 1-Jan-2024 24:00:00 +0000"',
        b'" 1-Jan-2024 00:00:00 +2460"',
        b"1-Jan-2024",
        b'""',
    ],
)
def test_dates_that_are_none_are_refused(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        Cursor(text).date_time_us()


def test_response_text_cannot_break_the_line_or_look_like_a_code() -> None:
    assert responses.response_text("a\r\n* BYE\0ä") == b"a* BYE?"
    assert responses.response_text("[ALERT] x") == b"ALERT] x"
    assert responses.response_text("") == b"done"
