"""ENVELOPE, BODYSTRUCTURE and BODY[...]: always valid syntax (I21, I22), and the octets that imaptest expects."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad.wire.imap.fetch import Kind, Section, read_items
from postroad.wire.imap.responses import Piece, Slice, fetch_response
from postroad.wire.imap.sections import section_pieces
from postroad.wire.imap.structure import body_structure, envelope, envelope_of
from postroad.wire.imap.syntax import Cursor
from postroad.wire.mime.headers import HeaderIndex, split_header
from postroad.wire.mime.tree import read_tree
from tests.testdata import testdata
from tests.wire.imap.reply_reader import check_body, check_envelope, read_response, read_value
from tests.wire.mime.suites import every_message

MBOX_SCRIPTS = (
    "fetch-body-mime",
    "fetch-body-message-rfc822",
    "fetch-body-message-rfc822-mime",
    "fetch-body-message-rfc822-x2",
)


def split(message: bytes) -> tuple[bytes, bytes]:
    _, start = split_header(message)
    return message[:start], message[start:]


def check_message(message: bytes) -> None:
    header, body = split(message)
    tree = read_tree(header, body)
    check_envelope(read_value(envelope_of(header)))
    for extended in (True, False):
        check_body(read_value(body_structure(tree, body, extended=extended)), extended=extended)


@pytest.mark.parametrize("path", every_message(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_public_message_has_a_valid_structure(path: Path) -> None:
    check_message(path.read_bytes())


LINES = st.sampled_from(
    b"--b|--b--|--c||text|A: b| f|Content-Type: message/rfc822|Content-Type: multipart/mixed; boundary=b|From: a@b (c|"
    b'Content-Type: multipart/mixed|Content-Type: message/global|Content-Type: text/\xff; "=\xe4; charset="|Subject: '
    b'a"b\\c\0d|To: g:x@y;,<@r:a@b>|Content-Disposition: ; a=b|Content-Language: ,|Content-Transfer-Encoding: '.split(
        b"|"
    )
)


@given(st.lists(LINES | st.binary(max_size=20), max_size=30))
@settings(max_examples=80, deadline=None)
def test_any_octets_have_a_valid_structure(lines: list[bytes]) -> None:
    check_message(b"\r\n".join(lines))


@pytest.mark.parametrize("levels", [99, 100, 101, 1_000])
def test_a_deep_message_has_a_valid_structure(levels: int) -> None:
    head = b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(levels))
    check_message(head + b"\r\nx")
    check_message(b"Content-Type: message/rfc822\r\n\r\n" * levels)


@pytest.mark.parametrize(
    "header, expected",
    [
        (
            (
                b"From: user@domain (Real Name)\r\nTo: group: g1@d1.org, g2@d2.org;, group2: g3@d3.org;\r\n"
                b"Cc: group:;, group2: (foo) ;\r\n"
            ),
            (
                b'(NIL NIL (("Real Name" NIL "user" "domain")) (("Real Name" NIL "user" "domain"))'
                b' (("Real Name" NIL "user" "domain")) ((NIL NIL "group" NIL)(NIL NIL "g1" "d1.org")'
                b'(NIL NIL "g2" "d2.org")'
                b'(NIL NIL NIL NIL)(NIL NIL "group2" NIL)(NIL NIL "g3" "d3.org")(NIL NIL NIL NIL))'
                b' ((NIL NIL "group" NIL)'
                b'(NIL NIL NIL NIL)(NIL NIL "group2" NIL)(NIL NIL NIL NIL)) NIL NIL NIL)'
            ),
        ),
        (
            b"From: <@route:user@domain>\r\nSender: \r\nReply-To:\r\n",
            (
                b'(NIL NIL ((NIL "@route" "user" "domain")) ((NIL "@route" "user" "domain")) ((NIL "@route" "user"'
                b' "domain")) NIL NIL NIL NIL NIL)'
            ),
        ),
        (
            b'Subject: a\r\n folded "\\\r\nDate: x\r\nMessage-ID: <1@x>\r\nIn-Reply-To: <0@x>\r\n',
            b'("x" "a folded \\"\\\\" NIL NIL NIL NIL NIL NIL "<0@x>" "<1@x>")',
        ),
        ("Subject: ä\r\n".encode(), b"(NIL {2}\r\n\xc3\xa4 NIL NIL NIL NIL NIL NIL NIL NIL)"),
        (b"Subject: a\rb\0c\r\n", b'(NIL "a b c" NIL NIL NIL NIL NIL NIL NIL NIL)'),
        (b"To: a@b\r\nTo: c@d\r\n", b'(NIL NIL NIL NIL NIL ((NIL NIL "a" "b")(NIL NIL "c" "d")) NIL NIL NIL NIL)'),
    ],
)
def test_envelopes(header: bytes, expected: bytes) -> None:
    assert envelope(HeaderIndex(header)) == expected
    check_envelope(read_value(expected))


def test_a_structure_says_what_the_header_says() -> None:
    header, body = split(
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\nContent-Type: text/x-myown; charset=us-ascii\r\n\r\nhello\r\n\r\n"
        b'--b\r\nContent-Type: image/png; name="a \\"b\\".png"\r\nContent-Transfer-Encoding: base64\r\n'
        b"Content-ID: <1@x>\r\nContent-Disposition: attachment; filename=a.png\r\nContent-Language: de\r\n\r\nAAAA\r\n"
        b"--b--\r\n"
    )
    tree = read_tree(header, body)
    assert body_structure(tree, body, extended=False) == (
        b'(("TEXT" "X-MYOWN" ("CHARSET" "us-ascii") NIL NIL "7BIT" 7 1)'
        b'("IMAGE" "PNG" ("NAME" "a \\"b\\".png") "<1@x>" NIL "BASE64" 4) "MIXED")'
    )
    assert body_structure(tree, body) == (
        b'(("TEXT" "X-MYOWN" ("CHARSET" "us-ascii") NIL NIL "7BIT" 7 1 NIL NIL NIL NIL)'
        b'("IMAGE" "PNG" ("NAME" "a \\"b\\".png") "<1@x>" NIL "BASE64" 4 NIL ("attachment" ("FILENAME" "a.png")) ("de")'
        b' NIL) "MIXED" ("BOUNDARY" "b") NIL NIL NIL)'
    )


def section_of(text: bytes) -> Section:
    (item,) = read_items(Cursor(text))
    assert isinstance(item, Section)
    return item


def octets_of(pieces: list[Piece] | None, body: bytes) -> bytes | None:
    if pieces is None:
        return None
    return b"".join(body[piece.start : piece.end] if isinstance(piece, Slice) else piece for piece in pieces)


def fetch(message: bytes, text: bytes) -> bytes | None:
    header, body = split(message)
    return octets_of(section_pieces(section_of(text), header, read_tree(header, body), body), body)


def imaptest_cases() -> list[tuple[str, bytes, bytes, bytes]]:
    """(script, message, section, expected octets) of the scripts whose sections need no variables."""
    cases = []
    for name in MBOX_SCRIPTS:
        mbox = testdata(f"imap/imaptest/head/{name}.mbox").read_bytes()
        message = mbox.partition(b"\n")[2].replace(b"\n", b"\r\n")
        script = testdata(f"imap/imaptest/head/{name}").read_bytes()
        for section, expected in re.findall(rb"fetch 1 \((body[^\n]*)\)\n[^\n]*\{\{\{\n(.*?)\n\}\}\}", script, re.S):
            cases.append((name, message, section, expected.replace(b"\n", b"\r\n")))
    assert len(cases) > 40
    return cases


@pytest.mark.parametrize("name, message, section, expected", imaptest_cases())
def test_sections_are_what_imaptest_expects(name: str, message: bytes, section: bytes, expected: bytes) -> None:
    assert fetch(message, section) == expected


PLAIN = b"From: a@b\r\nSubject: x\r\n folded\r\nX-Y: z\r\n\r\nbody33\r\n"


@pytest.mark.parametrize(
    "section, expected",
    [
        (b"BODY[]", PLAIN),
        (b"RFC822", PLAIN),
        (b"RFC822.HEADER", PLAIN[:-8]),
        (b"RFC822.TEXT", b"body33\r\n"),
        (b"BODY[1]", b"body33\r\n"),
        (b"BODY[1.MIME]", PLAIN[:-8]),
        (b"BODY[TEXT]<0.3>", b"bod"),
        (b"BODY[TEXT]<5.2>", b"3\r"),
        (b"BODY[TEXT]<7.1>", b"\n"),
        (b"BODY[TEXT]<8.1>", b""),
        (b"BODY[]<4294967295.1>", b""),
        (b"BODY[]<0.4294967295>", PLAIN),
        (b"BODY[]<%d.4>" % (len(PLAIN) - 10), b"\r\nbo"),
        (b"BODY[HEADER.FIELDS (subject x-none)]", b"Subject: x\r\n folded\r\n\r\n"),
        (b'BODY[HEADER.FIELDS ("SUBJECT" {4}\r\nFROM)]<2.5>', b"om: a"),
        (b"BODY[HEADER.FIELDS.NOT (from subject)]", b"X-Y: z\r\n\r\n"),
        (b"BODY[HEADER.FIELDS (none)]", b"\r\n"),
        (b"BODY[2]", None),
        (b"BODY[1.1]", None),
        (b"BODY[1.TEXT]", None),
        (b"BODY[1.HEADER]", None),
    ],
)
def test_sections_of_a_plain_message(section: bytes, expected: bytes | None) -> None:
    assert fetch(PLAIN, section) == expected


def test_parts_that_are_not_there_are_none_and_an_empty_multipart_shows_one_empty_part() -> None:
    empty = b"Content-Type: multipart/mixed; boundary=b\r\n\r\nnothing"
    assert [fetch(empty, b"BODY[%b]" % part) for part in (b"1", b"2", b"1.1", b"1.1.1")] == [b"", None, None, None]


def test_a_fetch_response_keeps_large_bodies_apart() -> None:
    section = section_of(b"BODY.PEEK[]<2.20>")
    header, body = split(PLAIN)
    pieces = section_pieces(section, header, read_tree(header, body), body)
    assert pieces is not None
    response = fetch_response(3, [(b"UID", b"7"), (section.label, pieces), (b"FLAGS", b"(\\Seen)")])
    octets = octets_of(response, body)
    assert octets is not None
    assert read_response(octets) == [
        b"*",
        b"3",
        b"FETCH",
        [b"UID", b"7", b"BODY[]<2>", PLAIN[2:22], b"FLAGS", [b"\\Seen"]],
    ]


@given(st.binary(max_size=200), st.integers(0, 220), st.integers(1, 220), st.sampled_from(list(Kind)))
@settings(max_examples=100, deadline=None)
def test_a_partial_section_is_that_part_of_the_whole(message: bytes, first: int, count: int, kind: Kind) -> None:
    header, body = split(b"Content-Type: message/rfc822\r\nX: y\r\n" + message)
    tree = read_tree(header, body)
    for path in ((), (1,)):
        whole = octets_of(section_pieces(Section(kind, path, (b"x",)), header, tree, body), body)
        part = octets_of(section_pieces(Section(kind, path, (b"x",), partial=(first, count)), header, tree, body), body)
        assert part == (None if whole is None else whole[first : first + count])
