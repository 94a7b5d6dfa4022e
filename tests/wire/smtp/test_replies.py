"""Replies and extensions as servers send them."""

from __future__ import annotations

import pytest

from postroad.values.reply import Reply
from postroad.wire.lines import LineBuffer
from postroad.wire.smtp.extensions import (
    LMTP,
    MX,
    SUBMISSION,
    SUBMISSIONS,
    Door,
    Extensions,
    ehlo_lines,
    read_extensions,
)
from postroad.wire.smtp.replies import MAX_LINE, MAX_LINES, BadReply, ReplyReader


def read(octets: bytes) -> Reply | None:
    """The first reply of the octets."""
    reader = ReplyReader(LineBuffer())
    reader.lines.receive(octets)
    return reader.next_reply()


@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        (b"250 Ok\r\n", Reply(250, "", "Ok")),
        (b"250\r\n", Reply(250, "", "")),
        (b"250 \r\n", Reply(250, "", "")),
        (b"250 2.1.0 Ok\r\n", Reply(250, "2.1.0", "Ok")),
        (b"250 2.1.0\r\n", Reply(250, "2.1.0", "")),
        (b"550 2.1.0 Ok\r\n", Reply(550, "", "2.1.0 Ok")),
        (b"550 5.1.1234 No\r\n", Reply(550, "", "5.1.1234 No")),
        (b"550-5.1.1 one\r\n550-5.1.1 two\r\n550 5.1.1 three\r\n", Reply(550, "5.1.1", "three", ("one", "two"))),
        (b"250-a\r\n250 \r\n", Reply(250, "", "", ("a",))),
        (b"250 h\xff\r\n", Reply(250, "", "h\ufffd")),
        (b"250-a\r\n", None),
        (b"250 half", None),
    ],
)
def test_replies(octets: bytes, reply: Reply | None) -> None:
    assert read(octets) == reply


def test_limits_of_a_reply() -> None:
    assert read(b"250 " + b"x" * (MAX_LINE - 6) + b"\r\n") is not None
    assert read(b"250-x\r\n" * MAX_LINES) is None
    for octets in (b"250 " + b"x" * (MAX_LINE - 5) + b"\r\n", b"250-x\r\n" * (MAX_LINES + 1), b"250-x\r\n" * 999_999):
        with pytest.raises(BadReply):
            read(octets)


def test_extensions_that_are_announced_are_read() -> None:
    announced = Door("x", starttls=True, dsn=True, auth=("PLAIN", "LOGIN"))
    everything = Extensions(
        size=9,
        declares_size=True,
        pipelining=True,
        chunking=True,
        eightbitmime=True,
        smtputf8=True,
        dsn=True,
        enhanced=True,
    )
    clear = read_extensions(ehlo_lines(announced, size=9, tls=False))
    tls = read_extensions(ehlo_lines(announced, size=9, tls=True))
    assert (clear.starttls, clear.auth) == (True, ())
    assert (tls.starttls, tls.auth) == (False, ("PLAIN", "LOGIN"))
    assert {**_fields(clear), "starttls": False} == {**_fields(tls), "auth": ()} == _fields(everything)


def _fields(extensions: Extensions) -> dict[str, object]:
    return {name: getattr(extensions, name) for name in Extensions.__slots__}


def test_doors_announce_what_they_offer() -> None:
    assert not any(line.startswith("AUTH") for line in ehlo_lines(MX, size=1, tls=True))
    assert "AUTH PLAIN LOGIN" not in ehlo_lines(SUBMISSION, size=1, tls=False)
    for door in (MX, SUBMISSION, SUBMISSIONS, LMTP):
        lines = ehlo_lines(door, size=1, tls=True)
        assert ("DSN" in lines) is (door is not MX)
        assert "BINARYMIME" in lines
        assert not any(line.startswith(("FUTURERELEASE", "XCLIENT", "LIMITS")) for line in lines)


def test_what_a_door_switches_on_is_announced() -> None:
    door = Door("x", binarymime=True, future_release_s=3_600, xclient=True)
    lines = ehlo_lines(door, size=1, tls=True, recipients=1_000, now_s=1_795_760_285)
    assert lines[-4:] == (
        "BINARYMIME",
        "FUTURERELEASE 3600 2026-11-27T07:18:05Z",
        "LIMITS RCPTMAX=1000",
        "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT",
    )
    assert read_extensions(lines).max_recipients == 1_000
    # RFC 9422 has no seventh digit.
    assert not any(line.startswith("LIMITS") for line in ehlo_lines(door, size=1, tls=True, recipients=1_000_000))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), Extensions()),
        (("", " ", "X-ODD"), Extensions()),
        (("size",), Extensions(declares_size=True)),
        (("SIZE 12 34",), Extensions(size=12, declares_size=True)),
        (("SIZE -1",), Extensions(declares_size=True)),
        (("SIZE 99999999999999999999999",), Extensions(declares_size=True)),
        (("Auth=PLAIN login", "AUTH plain"), Extensions(auth=("PLAIN", "LOGIN"))),
        (("LIMITS MAILMAX=5 RCPTMAX=100 X",), Extensions(max_recipients=100, max_transactions=5)),
        (("LIMITS RCPTDOMAINMAX=1",), Extensions(max_domains=1)),
    ],
)
def test_odd_announcements(lines: tuple[str, ...], expected: Extensions) -> None:
    assert read_extensions(lines) == expected
