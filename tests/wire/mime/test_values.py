"""What stands in header fields: addresses, dates, parameters, encoded words; tables of cases, and hostile bytes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.wire.mime.addresses import GROUP_END, ListedAddress, read_addresses
from postroad.wire.mime.content import decode_transfer
from postroad.wire.mime.dates import MailDate, read_date
from postroad.wire.mime.lexing import MAX_COMMENT_DEPTH, without_comments
from postroad.wire.mime.params import MAX_PARAMETERS, parameter_text, read_content_type, read_value
from postroad.wire.mime.words import MAX_ENCODED_WORDS, decode_words, encode_words


def plain(mailbox: bytes, host: bytes | None, display: bytes | None = None) -> ListedAddress:
    return ListedAddress(display, None, mailbox, host)


ADDRESSES: list[tuple[bytes, list[ListedAddress]]] = [
    (b"", []),
    (b" , ,", []),
    (b"a@b.c", [plain(b"a", b"b.c")]),
    (b"Ada Lovelace <a@b.c>", [plain(b"a", b"b.c", b"Ada Lovelace")]),
    (b'"Lovelace, Ada" <a@b.c>', [plain(b"a", b"b.c", b"Lovelace, Ada")]),
    (b'"Ada \\"A\\" L" <a@b.c>, d@e', [plain(b"a", b"b.c", b'Ada "A" L'), plain(b"d", b"e")]),
    (b"a@b.c (Ada (the) L)", [plain(b"a", b"b.c", b"Ada (the) L")]),
    (b"J. Smith <j . s @ b . c>", [plain(b"j.s", b"b.c", b"J. Smith")]),
    (b'"a b"@c', [plain(b"a b", b"c")]),
    (b"a@[192.0.2.1]", [plain(b"a", b"[192.0.2.1]")]),
    (b"<a (x)@ (y) b>", [plain(b"a", b"b")]),
    (b"<@x,@y:a@b>", [ListedAddress(None, b"@x,@y", b"a", b"b")]),
    (
        b"team: a@b, c@d;, e@f",
        [plain(b"team", None), plain(b"a", b"b"), plain(b"c", b"d"), GROUP_END, plain(b"e", b"f")],
    ),
    (b"empty:;", [plain(b"empty", None), GROUP_END]),
    (b"open: a@b", [plain(b"open", None), plain(b"a", b"b"), GROUP_END]),
    (b"Whomever", [plain(b"Whomever", b"")]),
    (b"Name <>", [plain(b"", b"", b"Name")]),
    (b"a@b@c", [plain(b"a@b", b"c")]),
    (b'"ceo@bank.example" <x@evil.example>', [plain(b"x", b"evil.example", b"ceo@bank.example")]),
    ("Jörg <j@ä.example>".encode(), [plain(b"j", "ä.example".encode(), "Jörg".encode())]),
    (b"=?utf-8?Q?J=C3=B6rg?= <j@b>", [plain(b"j", b"b", b"=?utf-8?Q?J=C3=B6rg?=")]),
    (b"=?utf-8?b?YUBi?=", [plain(b"=?utf-8?b?YUBi?=", b"")]),
    (b'"never closed <a@b>', [plain(b"never closed <a@b>", b"")]),
    (b"x" * 5 + b"(" * 5_000 + b"@b", [plain(b"xxxxx", b"")]),
]


@pytest.mark.parametrize("value, expected", ADDRESSES)
def test_address_lists(value: bytes, expected: list[ListedAddress]) -> None:
    assert read_addresses(value) == expected


@pytest.mark.parametrize(
    "value, expected",
    [
        (b"Thu, 15 Feb 2007 01:02:03 +0200", MailDate(1_171_494_123, 120)),
        (b"15 Feb 07 01:02 EST", MailDate(1_171_519_320, -300)),
        (b"Thu, 15 Feb 2007 01:02:03 -0000 (comment)", MailDate(1_171_501_323, 0)),
        (b"1 Jan 1970 00:00:00 GMT", MailDate(0, 0)),
        (b"Sun Nov  6 08:49:37 1994", MailDate(784_111_777, 0)),
        (b"29 Feb 2024 00:00:60 +0000", MailDate(1_709_164_859, 0)),
        (b"29 Feb 2023 00:00:00 +0000", None),
        (b"31 Feb 2024 00:00:00 +0000", None),
        (b"1 Jan 0000 00:00:00 +0000", None),
        (b"1 Jan 275760 00:00:00 +0000", None),
        (b"1 Jan 9999 23:59:59 -2359", MailDate(253_370_937_539, -1439)),
        (b"1 Foo 2024 00:00:00 +0000", None),
        (b"1 Jan 2024 25:00:00 +0000", None),
        (b"Whenever", None),
        (b"", None),
    ],
)
def test_dates(value: bytes, expected: MailDate | None) -> None:
    assert read_date(value) == expected


def test_the_day_is_that_of_the_writer() -> None:
    late, early = read_date(b"1 Jan 2024 23:30:00 -0800"), read_date(b"2 Jan 2024 00:30:00 +0900")
    assert late is not None
    assert early is not None
    assert late.day + 1 == early.day
    assert late.seconds > early.seconds


@pytest.mark.parametrize(
    "value, name, expected",
    [
        (b'attachment; filename="a b.txt"', b"filename", "a b.txt"),
        (b"attachment; filename=a.txt; size=3", b"filename", "a.txt"),
        (b"attachment; filename*=utf-8''%C3%A4.txt", b"filename", "ä.txt"),
        (b"attachment; filename*0=a; filename*1=b; filename*3=lost", b"filename", "ab"),
        (b"attachment; filename*0*=iso-8859-1'de'%E4; filename*1=%41; filename*2*=%42", b"filename", "ä%41B"),
        (b'attachment; filename="=?utf-8?Q?=C3=A4?="', b"filename", "ä"),
        (b"attachment; filename*=klingon''%C3%A4", b"filename", "ä"),
        (b"attachment; filename=plain; filename*=utf-8''better", b"filename", "better"),
        (b'attachment (x; filename="y") ; filename=z', b"filename", "z"),
        (b"attachment; =x; ;; ; filename = z", b"filename", "z"),
        (b'attachment; filename="never closed; a=b', b"filename", "never closed; a=b"),
        (b"attachment; filename*=utf-8''%0D%0ABcc", b"filename", "  Bcc"),
        (b"attachment", b"filename", None),
    ],
)
def test_parameters(value: bytes, name: bytes, expected: str | None) -> None:
    assert parameter_text(read_value(value).parameters, name) == expected


def test_content_types() -> None:
    read = read_content_type(b' Text / HTML ; Charset="UTF-8"; charset=x')
    assert read is not None
    assert (read.main, read.sub, read.parameters, read.repeated) == (b"text", b"html", ((b"charset", b"UTF-8"),), True)
    assert [read_content_type(value) for value in (b"", b"text", b"/plain", b"text/", b"; a=b", b"\0/\0")] == [None] * 6


@pytest.mark.parametrize(
    "value, expected",
    [
        (b"=?utf-8?Q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        (b"=?UTF-8?b?w6Q=?= =?utf-8?B?w7Y=?=", "äö"),
        (b"=?utf-8?B?w?= x", "=?utf-8?B?w?= x".replace("=?utf-8?B?w?=", "")),
        (b"=?utf-8?Q?=C3?= =?utf-8?Q?=A4?=", "ä"),
        (b"a =?iso-8859-1*de?Q?=E4_b?= c", "a ä b c"),
        (b"=?utf-8?Q?a=0D=0ABcc:_x?=", "a  Bcc: x"),
        (b"=?utf-8?Q?=E2=80=A8=00=1B?=", "   "),
        (b"=?x-unknown?Q?=C3=A4?=", "ä"),
        (b"=?punycode?Q?abc?=", "abc"),
        (b"=?unicode_escape?Q?=5Cn?=", "\\n"),
        ("bare ä".encode(), "bare ä"),
        (b"bare \xe4", "bare ä"),
        (b"=?=?utf-8?Q?", "=?=?utf-8?Q?"),
    ],
)
def test_encoded_words(value: bytes, expected: str) -> None:
    assert decode_words(value) == expected


def test_words_past_the_limit_stay_as_they_came() -> None:
    text = decode_words(b" ".join([b"=?utf-8?Q?a?="] * 20_000))
    assert text.startswith("a" * MAX_ENCODED_WORDS + " =?utf-8?Q?a?=")


@given(st.text())
def test_what_we_encode_reads_back(text: str) -> None:
    encoded = encode_words(text)
    assert encoded.isascii()
    assert all(len(word) <= 60 for word in encoded.split(" ")) or encoded == text
    read = decode_words(encoded.encode())
    replaced = text.encode("utf-8", "replace").decode()
    assert len(read) == len(replaced)
    assert all(a == b or not b.isprintable() for a, b in zip(read, replaced, strict=True))


@given(st.binary(max_size=200) | st.text("\"(),:;<>@[]\\ a=?utf-8?Q?\r\n*0123'%", max_size=80).map(str.encode))
def test_no_octets_break_a_reader_and_no_control_character_comes_out(octets: bytes) -> None:
    read_addresses(octets)
    read_date(octets)
    read_content_type(octets)
    without_comments(octets)
    for encoding in (b"base64", b"quoted-printable", b"x-unknown"):
        decode_transfer(octets, encoding)
    shown = [decode_words(octets), parameter_text(read_value(b"a;filename=" + octets).parameters, b"filename") or ""]
    assert not any(character in text for text in shown for character in "\r\n\0\x1b\x85\u2028")


def seconds(work: Callable[[], object]) -> float:
    best = 1e9
    for _ in range(3):
        before = time.process_time()
        work()
        best = min(best, time.process_time() - before)
    return best


BOMBS: dict[str, tuple[Callable[[bytes], object], bytes, bytes]] = {
    "parentheses": (read_addresses, b"", b"("),
    "balanced comments": (read_addresses, b"", b"(a)"),
    "quotes": (read_addresses, b"", b'"'),
    "backslashes in a quote": (read_addresses, b'"', b"\\"),
    "brackets": (read_addresses, b"", b"["),
    "angles": (read_addresses, b"", b"<"),
    "colons": (read_addresses, b"", b":"),
    "addresses": (read_addresses, b"", b"a@b,"),
    "words": (read_addresses, b"", b"a "),
    "at signs": (read_addresses, b"", b"@"),
    "continuations": (read_content_type, b"a/b", b"; name*1*=x"),
    "parameter quotes": (read_content_type, b"a/b;", b'"'),
    "parameter semicolons": (read_content_type, b"a/b", b";"),
    "parameter equals": (read_content_type, b"a/b;", b"="),
    "type comments": (read_content_type, b"a/b", b"()"),
    "encoded words": (decode_words, b"", b"=?utf-8?Q?a?= "),
    "encoded word beginnings": (decode_words, b"", b"=?"),
    "encoded word middles": (decode_words, b"=?utf-8?Q?", b"=?a?"),
    "base64 padding": (lambda octets: decode_transfer(octets, b"base64"), b"", b"="),
    "soft line breaks": (lambda octets: decode_transfer(octets, b"quoted-printable"), b"", b"=\n"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_twice_the_input_takes_about_twice_the_time(name: str) -> None:
    """Rows M6, M26, M27 and M28: a quadratic reader would need four times as long, and far more than the ceiling."""
    read, head, unit = BOMBS[name]
    count = 12_000 // len(unit)
    once, twice = seconds(lambda: read(head + unit * count)), seconds(lambda: read(head + unit * count * 2))
    assert twice < max(3.2 * once, 0.02)


def test_comments_are_followed_to_their_limit_only() -> None:
    inside = b"(" * MAX_COMMENT_DEPTH + b"x" + b")" * MAX_COMMENT_DEPTH
    assert without_comments(b"a" + inside + b"b") == b"a b"
    assert without_comments(b"a(" + inside + b")b") == b"a "


def test_parameters_past_the_limit_are_ignored() -> None:
    many = b"".join(b"; p%d=x" % number for number in range(5_000))
    assert len(read_value(b"a" + many).parameters) == MAX_PARAMETERS


@pytest.mark.parametrize(
    "octets, encoding, expected",
    [
        (b"aGVs\r\nbG8=\r\n", b"base64", b"hello"),
        (b"aGV!s bG8", b"base64", b"hello"),
        (b"aGVsbG8=trailing", b"base64", b"hello"),
        (b"a", b"base64", b""),
        (b"====", b"base64", b""),
        (b"a=3Db=\r\nc=ZZ=", b"quoted-printable", b"a=bc=ZZ"),
        (b"a=3Db", b"x-unknown", b"a=3Db"),
        (b"a=3Db", b"8bit", b"a=3Db"),
    ],
)
def test_transfer_encodings_are_undone_tolerantly(octets: bytes, encoding: bytes, expected: bytes) -> None:
    assert decode_transfer(octets, encoding) == expected
