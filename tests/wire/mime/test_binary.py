"""Binary parts become base64, everything else stays octet for octet, and what may not be changed is refused."""

from __future__ import annotations

import email
import time
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.wire.mime.binary import DASHED_LINES_MAX, NotConvertible, is_plain, unbinary, with_encoding

SIMPLE = b"Subject: x\r\nMIME-Version: 1.0\r\n"
MIXED = SIMPLE + b"Content-Type: multipart/mixed; boundary=b\r\n"
BINARY = b"Content-Transfer-Encoding: binary\r\n"
OCTETS = b"Content-Type: application/octet-stream\r\n"


def multipart(*parts: bytes, header: bytes = MIXED + BINARY) -> tuple[bytes, bytes]:
    """A multipart of parts that bring their own headers."""
    return header + b"\r\n", b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


def parts_of(read: Message) -> list[Message]:
    """The parts of a multipart as another reader sees them."""
    parts = read.get_payload()
    assert isinstance(parts, list)
    return [part for part in parts if isinstance(part, Message)]


PLAIN = [
    (SIMPLE + b"\r\n", b"hello\r\n"),
    (SIMPLE + b"\r\n", b"no end of line"),
    (SIMPLE + b"\r\n", b""),
    (SIMPLE + b"X-Long: " + b"x" * 2000 + b"\r\n\r\n", b"a long line in the header is for others to judge\r\n"),
    (SIMPLE + b"Content-Transfer-Encoding: 8bit\r\n\r\n", "Grüße\r\n".encode()),
    (SIMPLE + b"\r\n", b"x" * 998 + b"\r\n" + b"y" * 998),
    multipart(b"\r\nhello", header=MIXED),
    # Odd structure is nobody's business while nothing has to be changed.
    (MIXED + b"\r\n", b"--b\r\n\r\nnever closed\r\n"),
]


@pytest.mark.parametrize("header, body", PLAIN)
def test_what_is_fine_comes_back_itself(header: bytes, body: bytes) -> None:
    after = unbinary(header, body)
    assert after[0] is header
    assert after[1] is body


@pytest.mark.parametrize(
    "octets",
    [b"\x00", b"a\nb", b"a\rb", b"ends in CR\r", b"x" * 999, bytes(range(256)) * 9, b"\n", b"--c is no delimiter\x00"],
)
@pytest.mark.parametrize("encoding", [BINARY, b"", b"Content-Transfer-Encoding: 8bit\r\n"])
def test_a_binary_part_becomes_base64_and_means_the_same(octets: bytes, encoding: bytes) -> None:
    part = OCTETS + encoding
    header, body = unbinary(*multipart(part + b"\r\n" + octets, b"\r\nwords"))
    assert is_plain(body)
    read = email.message_from_bytes(header + body)
    first, second = parts_of(read)
    assert first.get_payload(decode=True) == octets
    assert first["Content-Transfer-Encoding"] == "base64"
    assert first.get_content_type() == "application/octet-stream"
    assert second.get_payload() == "words"
    assert second["Content-Transfer-Encoding"] is None
    assert read["Content-Transfer-Encoding"] == "7bit"


def test_everything_else_stays_as_it_stands() -> None:
    odd = b"CONTENT-type:text/plain\r\nX-Folded: a\r\n\tb\r\n\r\n  words  \r\n"
    header, body = multipart(odd, OCTETS + b"content-transfer-encoding:\r\n BINARY\r\nContent-ID: <1@x>\r\n\r\n\x00")
    body = b"preamble\r\n" + body + b"epilogue\r\n"
    after_header, after = unbinary(header, body)
    assert after_header == header.replace(b"binary", b"7bit")
    assert after == body.replace(
        b"content-transfer-encoding:\r\n BINARY", b"Content-Transfer-Encoding: base64"
    ).replace(b"\x00", b"AA==")


def test_lines_have_76_columns_and_long_content_is_one_encoding() -> None:
    octets = bytes(range(256)) * 8000
    _, body = unbinary(SIMPLE + BINARY + b"\r\n", octets)
    lines = body.split(b"\r\n")
    assert lines[-1] == b""
    assert {len(line) for line in lines[:-2]} == {76}
    assert (
        email.message_from_bytes(b"Content-Transfer-Encoding: base64\r\n\r\n" + body).get_payload(decode=True) == octets
    )


def test_text_that_is_binary_in_name_only_keeps_its_form() -> None:
    text = SIMPLE + b"Content-Type: text/plain; charset=utf-8\r\n" + BINARY + b"\r\n"
    assert unbinary(text, b"words\r\n") == (text.replace(b"binary", b"7bit"), b"words\r\n")
    eight = "Grüße\r\n".encode()
    assert unbinary(text, eight) == (text.replace(b"binary", b"8bit"), eight)


def test_containers_say_what_is_in_them() -> None:
    """RFC 2045 section 6.4: only 7bit, 8bit or binary for a multipart or message."""
    inner = b"Content-Type: message/rfc822\r\n" + BINARY + b"\r\nSubject: in\r\n" + OCTETS + BINARY + b"\r\n\xff\x00"
    header, body = unbinary(*multipart(inner, BINARY + b"\r\nplain"))
    assert header.endswith(b"Content-Transfer-Encoding: 7bit\r\n\r\n")
    assert b"message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\nSubject: in\r\n" in body
    assert b"Content-Transfer-Encoding: base64\r\n\r\n/wA=\r\n--b" in body
    header, _ = unbinary(*multipart(BINARY + b"\r\n\xc3\xa4", OCTETS + BINARY + b"\r\n\x00"))
    assert header.endswith(b"Content-Transfer-Encoding: 8bit\r\n\r\n")


def test_a_message_without_mime_becomes_mime() -> None:
    assert unbinary(b"Subject: x\r\n\r\n", b"\x00") == (
        b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\n",
        b"AA==\r\n",
    )


SIGNED = SIMPLE + b"Content-Type: multipart/signed; boundary=b\r\n"
REFUSED = [
    ("signed", multipart(OCTETS + BINARY + b"\r\n\x00", b"\r\nsignature", header=SIGNED)),
    ("signed", multipart(BINARY + b"\r\nharmless", b"\r\nsignature", header=SIGNED)),
    ("header", (SIMPLE + b"X: a\rb\r\n\r\n", b"\x00")),
    ("header", (SIMPLE + b"X: a\0b\r\n\r\n", b"ok\r\n")),
    ("header", multipart(b"X: " + b"x" * 999 + b"\r\n\r\nok")),
    ("outside", (MIXED + BINARY + b"\r\n", b"pre\x00amble\r\n--b\r\n\r\nok\r\n--b--\r\n")),
    ("outside", (MIXED + BINARY + b"\r\n", b"--b\r\n\r\nok\n--b--\r\n")),
    ("unclosed", (MIXED + BINARY + b"\r\n", b"--b\r\n" + OCTETS + BINARY + b"\r\n\x00\r\n")),
    ("no boundary", (SIMPLE + b"Content-Type: multipart/mixed\r\n" + BINARY + b"\r\n", b"\x00")),
    ("prefix boundary", multipart(OCTETS + BINARY + b"\r\n--b is nearly one\x00")),
    ("repeated field", multipart(OCTETS + BINARY + BINARY + b"\r\n\x00")),
    ("no blank line", multipart(OCTETS + BINARY + b"words")),
    ("base64", multipart(OCTETS + b"Content-Transfer-Encoding: base64\r\n\r\nAA\n==")),
    ("quoted-printable", multipart(b"Content-Transfer-Encoding: quoted-printable\r\n\r\na\0b")),
    ("x-uuencode", multipart(OCTETS + b"Content-Transfer-Encoding: x-uuencode\r\n\r\na\0b")),
    ("type message", multipart(b"Content-Type: message/partial\r\n" + BINARY + b"\r\na\0b")),
]


@pytest.mark.parametrize("why, message", REFUSED)
def test_what_may_not_be_changed_is_refused(why: str, message: tuple[bytes, bytes]) -> None:
    with pytest.raises(NotConvertible, match=why):
        unbinary(*message)


@given(parts=st.lists(st.tuples(st.sampled_from([BINARY, b"", OCTETS + BINARY]), st.binary(max_size=1200)), max_size=4))
def test_what_comes_out_is_plain_and_means_the_same(parts: list[tuple[bytes, bytes]]) -> None:
    """Whatever the octets: the result is ordinary mail, with the same parts, or there is none."""
    before = multipart(*(head + b"\r\n" + octets for head, octets in parts))
    try:
        header, body = unbinary(*before)
    except NotConvertible:
        return
    assert is_plain(body)
    assert b"binary" not in header
    assert unbinary(header, body) == (header, body)
    read = email.message_from_bytes(header + body)
    if parts:
        assert [part.get_payload(decode=True) for part in parts_of(read)] == [octets for _, octets in parts]


@given(header=st.binary(max_size=200), body=st.binary(max_size=400))
def test_any_octets_are_plain_afterwards_or_refused(header: bytes, body: bytes) -> None:
    try:
        _, after = unbinary(header + b"\r\n", body)
    except NotConvertible:
        return
    assert is_plain(after)


def test_a_field_is_replaced_in_its_place_or_put_at_the_end() -> None:
    assert with_encoding(b"A: 1\r\n" + BINARY + b"B: 2\r\n\r\n", b"7bit") == (
        b"A: 1\r\nContent-Transfer-Encoding: 7bit\r\nB: 2\r\n\r\n"
    )
    assert with_encoding(b"\r\n", b"7bit") == b"Content-Transfer-Encoding: 7bit\r\n\r\n"
    with pytest.raises(NotConvertible, match="too large"):
        with_encoding(b"A: 1\r\n" * 3000 + b"\r\n", b"7bit")


def test_a_million_false_ends_are_not_looked_at() -> None:
    body = b"--b\r\n\r\n" + b"\n--" * (DASHED_LINES_MAX + 1)
    began = time.process_time()
    with pytest.raises(NotConvertible, match="too many lines"):
        unbinary(MIXED + BINARY + b"\r\n", body)
    assert time.process_time() - began < 0.25
