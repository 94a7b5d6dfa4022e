"""What local programs write, and what becomes of it: nothing that could end a message or begin a command."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.wire.mime.submitted import (
    Author,
    Unclear,
    Unsendable,
    claimed_addresses,
    completed,
    is_wire_form,
    mailbox,
    named_recipients,
    qualified,
    spelled_addresses,
    taken_in,
    without_bcc,
)

INPUT = [
    ("header and body", b"To: a\nSubject: s\n\nhi\n", b"To: a\r\nSubject: s\r\n", b"hi\r\n"),
    ("CRLF already", b"To: a\r\n\r\nhi\r\n", b"To: a\r\n", b"hi\r\n"),
    ("both", b"To: a\r\n\nhi\n", b"To: a\r\n", b"hi\r\n"),
    ("translated twice", b"To: a\r\r\n\r\r\nhi\r\r\n", b"To: a\r\n", b"hi\r\n"),
    ("no end", b"To: a\n\nhi", b"To: a\r\n", b"hi\r\n"),
    ("no body", b"To: a\n", b"To: a\r\n", b""),
    ("no header", b"hello\nworld\n", b"", b"hello\r\nworld\r\n"),
    ("empty header", b"\nhello\n", b"", b"hello\r\n"),
    ("nothing", b"", b"", b""),
    ("header without an empty line", b"To: a\nhello\n", b"To: a\r\n", b"hello\r\n"),
    ("mailbox separator", b"From anna Mon Nov 23\nTo: a\n\nhi\n", b"To: a\r\n", b"hi\r\n"),
    ("begins with a blank", b" To: a\n\nhi\n", b"", b" To: a\r\n\r\nhi\r\n"),
    ("folded", b"To: a,\n b\n\nhi\n", b"To: a,\r\n b\r\n", b"hi\r\n"),
    ("bare CR in the header", b"Subject: x\rBcc: evil@x\n\nhi\n", b"Subject: x Bcc: evil@x\r\n", b"hi\r\n"),
    ("bare CR in the body", b"To: a\n\n10%\r20%\rdone\n", b"To: a\r\n", b"10%\r\n20%\r\ndone\r\n"),
    ("smuggled end", b"To: a\n\nhi\r.\rMAIL FROM:<x>\r\n", b"To: a\r\n", b"hi\r\n.\r\nMAIL FROM:<x>\r\n"),
]


@pytest.mark.parametrize("raw, header, body", [row[1:] for row in INPUT], ids=[row[0] for row in INPUT])
def test_taken_in(raw: bytes, header: bytes, body: bytes) -> None:
    assert taken_in(raw) == (header, body)


def test_nul_is_refused() -> None:
    with pytest.raises(Unsendable, match="NUL"):
        taken_in(b"To: a\n\nx\0y\n")


@pytest.mark.parametrize("raw", [b"X: 1\n" * 2001, b"X: " + b"y" * 262_144], ids=["lines", "octets"])
def test_a_header_nobody_could_keep_is_refused(raw: bytes) -> None:
    with pytest.raises(Unsendable, match="too large"):
        taken_in(raw)


@given(st.binary(max_size=200).map(lambda raw: raw.replace(b"\0", b"\r")))
def test_whatever_comes_in_is_in_wire_form_afterwards(raw: bytes) -> None:
    assert is_wire_form(taken_in(raw).octets)


@given(st.text(alphabet="ab:, \r\n", max_size=60).map(str.encode))
def test_a_header_line_never_grows_out_of_a_carriage_return(raw: bytes) -> None:
    assert taken_in(raw).header.count(b"\n") <= raw.count(b"\n") + 1


@pytest.mark.parametrize(
    "octets, good",
    [
        (b"a\r\nb\r\n", True), (b"\r\n", True), (b"a\nb\r\n", False), (b"a\rb\r\n", False), (b"a\r\n\0\r\n", False),
        (b"a", False), (b"", False), (b"\n\r", False),
    ],
)  # fmt: skip
def test_wire_form(octets: bytes, good: bool) -> None:
    assert is_wire_form(octets) is good


LISTS = [
    (b"root", [b"root"]),
    (b'anna, bob (the one) , "Doe, J" <j@x>,<c>', [b"anna", b"bob", b"j@x", b"c"]),
    (b"team: a@b, c;, d", [b"a@b", b"c", b"d"]),
    (b"undisclosed-recipients:;", []),
    (b"<@a,@b:x@y>, z", [b"x@y", b"z"]),
    (b"anna bob", [b"anna bob"]),
    (b'"a b"@x, "q"', [b'"a b"@x', b'"q"']),
    (b"<>", []),
    (b"", []),
    (b"a <b", [b"b"]),
    (b"y @ z . w", [b"y@z.w"]),
    (b"x@[IPv6:::1]", [b"x@[IPv6:::1]"]),
    (b"a,\r\n\tb", [b"a", b"b"]),
    (b"<a> trailing, c", [b"a", b"c"]),
]


@pytest.mark.parametrize("value, texts", LISTS, ids=[value.decode() for value, _ in LISTS])
def test_spelled_addresses(value: bytes, texts: list[bytes]) -> None:
    assert [one.text for one in spelled_addresses(value)] == texts


@given(st.text(alphabet='a@.,:;<>()"[] \\', max_size=40).map(str.encode))
def test_any_list_can_be_read(value: bytes) -> None:
    for one in spelled_addresses(value):
        assert 0 < one.end <= len(value)
        assert one.text


@given(st.text(alphabet='a@.,:;<>()"[] \\', max_size=40).map(str.encode))
def test_whoever_a_tolerant_reader_finds_is_claimed(value: bytes) -> None:
    try:
        claimed = claimed_addresses(value)
    except Unclear:
        return
    assert {one.text for one in spelled_addresses(value)} <= set(claimed)


def test_recipients_are_those_of_to_cc_and_bcc_once() -> None:
    assert named_recipients(b"To: a, b\r\nSubject: c\r\nCC: b\r\nbcc: d\r\n") == ["a", "b", "d"]


def test_a_resent_message_goes_to_the_resent_recipients_alone() -> None:
    assert named_recipients(b"To: a\r\nResent-To: b\r\nResent-Bcc: c\r\n") == ["b", "c"]


def test_bcc_goes_and_nothing_else_changes() -> None:
    assert without_bcc(b"To: a\r\nBCC: b,\r\n c\r\nX: y\r\nResent-Bcc: d\r\n") == b"To: a\r\nX: y\r\n"
    assert without_bcc(b"To:a\r\nX-Bcc: b\r\n") == b"To:a\r\nX-Bcc: b\r\n"


def complete(header: bytes, address: str = "anna@h.test", name: str = "", host: str = "h.test") -> bytes:
    return completed(header, author=Author(address, name), host=host, date="D", ident="i@h.test")


def test_missing_fields_are_added_behind_the_others() -> None:
    assert complete(b"X: 1\r\n") == b"X: 1\r\nFrom: anna@h.test\r\nDate: D\r\nMessage-ID: <i@h.test>\r\n"


def test_fields_that_are_there_stay() -> None:
    header = b"from: x@y\r\nDATE: never\r\nMessage-id: <z>\r\n"
    assert complete(header) == header


def test_local_names_get_a_domain_and_only_they() -> None:
    header = b"From: root (Cron)\r\nTo: Anna <anna>, x@y,\r\n bob (b@c)\r\nSubject: root\r\nReply-To: <>\r\n"
    done = complete(header)
    assert done.startswith(
        b"From: root@h.test (Cron)\r\nTo: Anna <anna@h.test>, x@y,\r\n bob@h.test (b@c)\r\n"
        b"Subject: root\r\nReply-To: <>\r\n"
    )


@pytest.mark.parametrize(
    "name, field",
    [
        ("Anna", b"From: Anna <anna@h.test>"),
        ("Anna of X", b"From: Anna of X <anna@h.test>"),
        ('A. "X" B', b'From: "A. \\"X\\" B" <anna@h.test>'),
        ("J\u00f6rg", b"From: =?utf-8?q?J=C3=B6rg?= <anna@h.test>"),
        ("x\r\nBcc: evil@x", b'From: "x  Bcc: evil@x" <anna@h.test>'),
        ("a\u2028b", b"From: a b <anna@h.test>"),
    ],
)
def test_a_full_name_stays_on_its_line(name: str, field: bytes) -> None:
    first = complete(b"", name=name).split(b"\r\n")[0]
    assert first.lower() == field.lower()


@pytest.mark.parametrize(
    "address, whole",
    [("anna", "anna@h"), ("anna@x", "anna@x"), ('"a@b"', '"a@b"@h'), ('"a@b"@x', '"a@b"@x')],
)
def test_qualified(address: str, whole: str) -> None:
    assert qualified(address, "h") == whole


def test_a_user_name_that_needs_quotes_gets_them() -> None:
    assert mailbox("anna", "h") == "anna@h"
    assert mailbox("DOM\\an na", "h") == '"DOM\\\\an na"@h'
