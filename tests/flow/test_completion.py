"""What a submission server adds to a message and takes away (RFC 6409 section 8)."""

from __future__ import annotations

import pytest

from postroad.flow.completion import completed
from postroad.values.ids import id_text

IDENT = 4_711_000_000
NOW_US = 1_800_000_000_000_000
WHOLE = b"From: anna@example.com\r\nDate: Fri, 15 Jan 2027 08:00:00 +0000\r\nMessage-ID: <1@x.test>\r\n"


def complete(header: bytes, author: str = "anna@example.com") -> bytes | None:
    return completed(header, author=author, hostname="mx.example.com", ident=IDENT, now_us=NOW_US)


def test_a_whole_header_is_left_alone() -> None:
    assert complete(WHOLE + b"\r\n") is None


@pytest.mark.parametrize("name", [b"From", b"Date", b"Message-ID"])
def test_a_missing_field_is_added_behind_the_others(name: bytes) -> None:
    header = b"".join(line + b"\r\n" for line in WHOLE.split(b"\r\n")[:-1] if not line.startswith(name))
    done = complete(header + b"\r\n")
    assert done is not None
    assert done.startswith(header)
    added = done.removeprefix(header)
    assert added.startswith(name + b": ")
    assert added.count(b"\r\n") == 2
    assert added.endswith(b"\r\n\r\n")


def test_what_is_added_names_the_login_the_time_and_the_queue_id() -> None:
    done = complete(b"Subject: hi\r\n\r\n")
    assert done is not None
    assert b"\r\nFrom: anna@example.com\r\n" in done
    assert b"\r\nDate: Fri, 15 Jan 2027 " in done
    assert f"\r\nMessage-ID: <{id_text(IDENT).lower()}@mx.example.com>\r\n".encode() in done


def test_nobody_is_named_as_author_where_nobody_logged_in() -> None:
    done = complete(b"Subject: hi\r\n\r\n", author="")
    assert done is not None
    assert b"From:" not in done


@pytest.mark.parametrize("name", [b"Bcc", b"bcc", b"Resent-Bcc", b"BCC "])
def test_hidden_recipients_are_not_told(name: bytes) -> None:
    done = complete(WHOLE + name + b": ben@example.com,\r\n carl@example.com\r\nSubject: hi\r\n\r\n")
    assert done == WHOLE + b"Subject: hi\r\n\r\n"


def test_a_text_without_a_header_becomes_a_body() -> None:
    done = complete(b"just words\r\n")
    assert done is not None
    head, blank, body = done.partition(b"\r\n\r\n")
    assert head.startswith(b"From: anna@example.com\r\nDate: ")
    assert blank + body == b"\r\n\r\njust words\r\n"


@pytest.mark.parametrize("header", [b"\r\n", b"Subject: hi\r\n", b"Subject: hi"])
def test_a_header_ends_with_one_empty_line(header: bytes) -> None:
    done = complete(header)
    assert done is not None
    assert done.count(b"\r\n\r\n") == 1
    assert done.endswith(b"\r\n\r\n")
    assert done.startswith((b"Subject: hi\r\nFrom: ", b"From: "))


def test_a_header_beyond_its_limit_is_left_to_the_refusal() -> None:
    assert complete(b"X: y\r\n" * 3000 + b"\r\n") is None
