"""Messages we write: they read back as meant, and nothing put into them can become a header."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad.wire.mime import compose
from postroad.wire.mime.addresses import read_addresses
from postroad.wire.mime.compose import Composer, UnsafeHeader
from postroad.wire.mime.content import part_content, part_text
from postroad.wire.mime.headers import HeaderIndex, split_header
from postroad.wire.mime.params import parameter_text
from postroad.wire.mime.words import decode_words
from tests.wire.mime.suites import shape, tree_of


def test_a_text_message_reads_back() -> None:
    mail = Composer()
    mail.add_structured("From", compose.address("Jörg", "j@example.org"))
    mail.add("Subject", "Grüße " * 30)
    message = mail.text("Hällo\nzweite Zeile\n.\n" + "lang " * 300)
    end, body_start = split_header(message)
    index = HeaderIndex(message[:end])
    assert decode_words(index.first(b"subject") or b"") == ("Grüße " * 30)
    assert all(len(line) <= 78 for line in message.split(b"\r\n"))
    tree = tree_of(message)
    assert part_text(message[body_start:], tree.root) == "Hällo\r\nzweite Zeile\r\n.\r\n" + "lang " * 300 + "\r\n"


def test_a_multipart_reads_back() -> None:
    inner = b"Subject: in\r\n\r\n--=_x_0\r\nhi\r\n"
    parts = [
        compose.text_part("plain"),
        compose.raw_part(b"Status: 5.0.0\r\n", "message/delivery-status"),
        compose.raw_part(inner, "message/rfc822"),
        compose.attachment_part(bytes(range(256)), "application/octet-stream", "ä b.bin"),
    ]
    message = Composer().multipart("report", parts, b"x", report_type="delivery-status")
    tree = tree_of(message)
    assert shape(tree.root) == "[..<.>.]"
    assert parameter_text(tree.root.parameters, b"report-type") == "delivery-status"
    body = message[split_header(message)[1] :]
    last = tree.root.children[3]
    assert part_content(body, last) == bytes(range(256))
    assert parameter_text(last.disposition_parameters, b"filename") == "ä b.bin"
    assert body[tree.root.children[2].body_start :].startswith(inner)


@pytest.mark.parametrize("bad", ["\r\nBcc: x", "a\nb", "a\rb", "a\0b", "a\x1bb", "a\x85b", "a\u2028b"])
def test_no_control_character_gets_into_a_header(bad: str) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: compose.header("Subject", bad),
        lambda: compose.structured_header("To", bad),
        lambda: compose.header("X" + bad, "a"),
        lambda: compose.address(bad, "a@example.org"),
        lambda: compose.address("a", f"a{bad}@example.org"),
        lambda: compose.parameter("filename", bad),
        lambda: compose.parameter("a" + bad, "x"),
    ]
    for attempt in attempts:
        with pytest.raises(UnsafeHeader):
            attempt()


@pytest.mark.parametrize("name", ["", "A B", "A:", "Ä", "A" * 77])
def test_what_is_no_field_name_is_refused(name: str) -> None:
    with pytest.raises(UnsafeHeader):
        compose.header(name, "x")


@pytest.mark.parametrize("bad", ["", "a", "a@", "@b", "a@b@c", "a b@c", "<a@b>", "a@b,c@d"])
def test_what_is_no_plain_address_is_refused(bad: str) -> None:
    with pytest.raises(UnsafeHeader):
        compose.address("", bad)


def test_a_boundary_that_occurs_in_a_part_is_never_used() -> None:
    parts = [b"\r\n--=_s_0\r\n", b"=_s_1"]
    assert compose.free_boundary(b"s", parts) == b"=_s_2"
    with pytest.raises(UnsafeHeader):
        compose.join_multipart(b"=_s_0", parts)


@given(st.text(max_size=100), st.text(max_size=30))
@settings(max_examples=40, deadline=None)
def test_any_text_either_reads_back_or_is_refused(subject: str, display: str) -> None:
    try:
        block = compose.header("Subject", subject) + compose.structured_header(
            "From", compose.address(display, "a@example.org")
        )
    except UnsafeHeader:
        assert not (subject + display).isprintable()
        return
    index = HeaderIndex(block)
    assert index.names == [b"subject", b"from"]
    assert max(len(line) for line in block.split(b"\r\n")) <= 998
    (sender,) = read_addresses(index.first(b"from") or b"")
    assert (sender.mailbox, sender.host) == (b"a", b"example.org")
    assert decode_words(index.first(b"subject") or b"").split() == subject.encode("utf-8", "replace").decode().split()
