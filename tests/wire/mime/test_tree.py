"""The tree of parts: ordinary mail, ambiguous mail read one fixed way, and mail made to hurt (rows M20 to M27)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad.wire.mime.content import part_content, part_text, walk
from postroad.wire.mime.tree import MAX_BOUNDARY_OCTETS, MAX_DEPTH, MAX_PARTS, Oddity, Tree, read_tree
from tests.wire.mime.suites import shape, tree_of

MIXED = b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n'


def contents(message: bytes) -> list[bytes]:
    """The bytes of every leaf of a message that begins with one of the headers above."""
    body = message[message.index(b"\r\n\r\n") + 4 :]
    return [body[part.body_start : part.body_end] for part in walk(tree_of(message).root) if not part.children]


def test_a_part_is_described_by_its_header() -> None:
    body = (
        b"preamble\r\n--b\r\nContent-Type: TEXT/Html; charset=utf-8\r\nContent-Transfer-Encoding: Quoted-Printable\r\n"
        b"Content-ID: <1@x>\r\nContent-Description: words\r\nContent-MD5: Q2hlY2s=\r\nContent-Language: de, en\r\n"
        b"Content-Location: http://x/\r\nContent-Disposition: attachment; filename=a.html\r\n\r\n"
        b"one\r\n=C3=A4\r\n--b--\r\nepilogue"
    )
    tree = read_tree(MIXED, body)
    (part,) = tree.root.children
    assert tree.oddities == Oddity.NONE
    assert (part.main, part.sub, part.parameters, part.encoding) == (
        b"text",
        b"html",
        ((b"charset", b"utf-8"),),
        b"quoted-printable",
    )
    assert (part.content_id, part.description, part.md5, part.languages) == (
        b"<1@x>",
        b"words",
        b"Q2hlY2s=",
        (b"de", b"en"),
    )
    assert (part.location, part.disposition, part.disposition_parameters) == (
        b"http://x/",
        b"attachment",
        ((b"filename", b"a.html"),),
    )
    assert body[part.body_start : part.body_end] == b"one\r\n=C3=A4"
    assert (part.lines, part.size) == (1, 11)
    assert body[part.header_start : part.header_end].endswith(b"a.html\r\n\r\n")
    assert part_text(body, part) == "one\r\nä"


def test_a_message_in_a_message_has_its_own_root() -> None:
    body = (
        b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\nContent-Type: text/html\r\n\r\nhi\r\n\r\n--b--\r\n"
    )
    tree = read_tree(MIXED, body)
    (outer,) = tree.root.children
    (inner,) = outer.children
    assert body[outer.body_start : outer.body_end] == b"Subject: in\r\nContent-Type: text/html\r\n\r\nhi\r\n"
    assert body[inner.header_start : inner.header_end] == b"Subject: in\r\nContent-Type: text/html\r\n\r\n"
    assert (inner.sub, body[inner.body_start : inner.body_end], outer.lines, inner.lines) == (b"html", b"hi\r\n", 4, 1)


def test_in_a_digest_parts_are_messages() -> None:
    digest = MIXED.replace(b"mixed", b"digest")
    tree = read_tree(
        digest, b"--b\r\n\r\nSubject: 1\r\n\r\none\r\n--b\r\nContent-Type: text/plain\r\n\r\ntwo\r\n--b--\r\n"
    )
    assert shape(tree.root) == "[<.>.]"


def nested(levels: int) -> bytes:
    head = b"".join(
        b"Content-Type: multipart/mixed; boundary=%d-\r\n\r\n--%d-\r\n" % (level, level) for level in range(levels)
    )
    return head + b"\r\nx\r\n" + b"".join(b"--%d---\r\n" % level for level in reversed(range(levels)))


@pytest.mark.parametrize("message", [nested(1_000), b"Content-Type: message/rfc822\r\n\r\n" * 1_000])
def test_what_is_nested_too_deep_is_one_opaque_leaf(message: bytes) -> None:
    tree = tree_of(message)
    assert Oddity.TOO_DEEP in tree.oddities
    deepest = list(walk(tree.root))[-1]
    assert (deepest.main, deepest.sub, deepest.children) == (b"application", b"octet-stream", [])
    assert tree.parts == MAX_DEPTH


def test_a_hundred_thousand_parts_are_read_up_to_the_limit() -> None:
    tree = read_tree(MIXED, b"--b\r\n\r\nx\r\n" * 100_000 + b"--b--\r\n")
    assert tree.parts == MAX_PARTS == sum(1 for _ in walk(tree.root))
    assert Oddity.TOO_MANY in tree.oddities
    assert tree.root.children[-1].body_end == tree.root.body_end


@pytest.mark.parametrize(
    "name, header, body, expected, oddity",
    [
        ("no boundary", b"Content-Type: multipart/mixed\r\n\r\n", b"--\r\n\r\n", ".", Oddity.NO_BOUNDARY),
        ("empty", b'Content-Type: multipart/mixed; boundary=""\r\n\r\n', b"--\r\n", ".", Oddity.NO_BOUNDARY),
        ("control", b'Content-Type: multipart/mixed; boundary="\x01"\r\n\r\n', b"--\x01\r\n", ".", Oddity.NO_BOUNDARY),
        ("NUL", b'Content-Type: multipart/mixed; boundary="b\0c"\r\n\r\n', b"--b\r\n", "[]", Oddity.CONTROL),
        (
            "70 kB",
            b"Content-Type: multipart/mixed; boundary=%b\r\n\r\n" % (b"x" * 70_000),
            b"",
            ".",
            Oddity.NO_BOUNDARY,
        ),
        ("prefix", MIXED, b"--b\r\n\r\n1\r\n--bc\r\n2\r\n--b--\r\n", "[.]", Oddity.PREFIX_BOUNDARY),
        (
            "same inside and outside",
            MIXED,
            b"--b\r\n" + MIXED + b"--b\r\n\r\n1\r\n--b--\r\n--b\r\n\r\n2\r\n--b--\r\n",
            "[[.].]",
            Oddity.NESTED_BOUNDARY,
        ),
        (
            "one could close the other",
            b"Content-Type: multipart/mixed; boundary=b\r\n\r\n",
            b"--b\r\nContent-Type: multipart/mixed; boundary=b--\r\n\r\n--b--\r\n\r\n1\r\n--b----\r\n--b--\r\n",
            "[[.]]",
            Oddity.NESTED_BOUNDARY,
        ),
        (
            "two boundaries",
            b"Content-Type: multipart/mixed; boundary=b; boundary=c\r\n\r\n",
            b"--b\r\n\r\n1\r\n--c\r\n\r\n2\r\n--b--\r\n",
            "[.]",
            Oddity.REPEATED_PARAMETER,
        ),
        (
            "RFC 2231",
            b"Content-Type: multipart/mixed; boundary*0=b; boundary*1=c\r\n\r\n",
            b"--bc\r\n\r\n1\r\n--bc--\r\n",
            "[.]",
            None,
        ),
        (
            "two types",
            MIXED[:-2] + b"Content-Type: text/plain\r\n\r\n",
            b"--b\r\n\r\n1\r\n--b--\r\n",
            "[.]",
            Oddity.REPEATED_FIELD,
        ),
        ("two encodings", b"Content-Transfer-Encoding: 7bit\r\n" * 2, b"x", ".", Oddity.REPEATED_FIELD),
        ("junk encoding", b"Content-Transfer-Encoding: rot13\r\n\r\n", b"x", ".", Oddity.UNKNOWN_ENCODING),
        (
            "encoded multipart",
            MIXED[:-2] + b"Content-Transfer-Encoding: base64 \r\n\r\n",
            b"--b\r\n\r\n1\r\n--b--\r\n",
            "[.]",
            Oddity.ENCODED_CONTAINER,
        ),
        ("junk type", b"Content-Type: junk\r\n\r\n", b"x", ".", Oddity.BAD_TYPE),
        ("never closed", MIXED, b"--b\r\n\r\n1", "[.]", Oddity.UNCLOSED),
        ("no part at all", MIXED, b"nothing", "[]", Oddity.UNCLOSED),
        ("header cut by a delimiter", MIXED, b"--b\r\nA: b\r\n--b\r\n\r\n2\r\n--b--", "[..]", Oddity.NO_BLANK_LINE),
        ("blanks after the boundary", MIXED, b"--b \t\r\n\r\n1\r\n--b-- \r\n", "[.]", None),
    ],
)
def test_doubtful_mail_is_read_one_fixed_way(
    name: str, header: bytes, body: bytes, expected: str, oddity: Oddity | None
) -> None:
    tree = read_tree(header, body)
    assert shape(tree.root) == expected
    if oddity is None:
        assert not tree.ambiguous
    else:
        assert oddity in tree.oddities


def test_dashes_in_a_message_without_any_multipart_are_text() -> None:
    assert shape(read_tree(b"Content-Type: message/rfc822\r\n\r\n", b"--b\r\n\r\n--b--\r\n").root) == "<.>"


def test_a_boundary_at_the_limit_still_works() -> None:
    boundary = b"x" * MAX_BOUNDARY_OCTETS
    header = b"Content-Type: multipart/mixed; boundary=%b\r\n\r\n" % boundary
    assert shape(read_tree(header, b"--%b\r\n\r\n1\r\n--%b--\r\n" % (boundary, boundary)).root) == "[.]"


def test_without_a_blank_line_the_body_begins_at_the_first_line_that_is_no_header() -> None:
    assert contents(MIXED + b"--b\r\nA: b\r\ntext without colon\r\n--b--\r\n") == [b"text without colon"]


@pytest.mark.parametrize("separator", [b"\r\r", b"\n\r", b"\r\n\r", b"\n\n", b"\r\n\n"])
def test_odd_separators_lose_no_octet(separator: bytes) -> None:
    message = b"Subject: a" + separator + b"text\r\n"
    tree = tree_of(message)
    assert message.endswith(message[len(message) - tree.root.size :])


def test_a_header_over_the_limits_makes_the_part_opaque() -> None:
    many = b"A: b\r\n" * 3_000
    assert Oddity.HEADER_TOO_LARGE in read_tree(many, b"x").oddities
    tree = read_tree(MIXED, b"--b\r\n" + many + b"\r\nx\r\n--b\r\n\r\ny\r\n--b--\r\n")
    assert [part.main for part in tree.root.children] == [b"application", b"text"]


HOSTILE = {
    "parts": (MIXED, b"--b\r\n\r\nx\r\n"),
    "empty parts": (MIXED, b"--b\r\n"),
    "dashes": (MIXED, b"--\n"),
    "closings": (MIXED, b"--b--\r\n"),
    "headers in a part": (MIXED, b"A: b\r\n"),
    "part headers": (MIXED, b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"),
    "messages": (b"Content-Type: message/rfc822\r\n\r\n", b"Content-Type: message/rfc822\r\n\r\n"),
    "folded header": (MIXED + b"--b\r\nA:", b" b\r\n"),
    "line ends": (MIXED, b"\r\n"),
    "distinct multiparts": (MIXED, b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\n"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_twice_the_input_takes_about_twice_the_time(name: str) -> None:
    header, unit = HOSTILE[name]

    def seconds(count: int) -> float:
        body = unit * count
        before = time.process_time()
        read_tree(header, body)
        return time.process_time() - before

    count = 30_000 // len(unit)
    once, twice = (min(seconds(count * factor) for _ in range(3)) for factor in (1, 2))
    assert twice < max(3.2 * once, 0.02)


LINES = st.sampled_from(
    b"--b|--b--|--c|--c--|--||text|A: b| folded|Content-Type: message/rfc822|\0\xff"
    b"|Content-Type: multipart/digest; boundary=c|Content-Type: multipart/mixed; boundary=b".split(b"|")
)


@given(st.lists(LINES | st.binary(max_size=12), max_size=40), st.sampled_from([b"\r\n", b"\n"]))
@settings(max_examples=80, deadline=None)
def test_any_octets_make_a_tree_whose_parts_lie_inside_each_other(lines: list[bytes], line_end: bytes) -> None:
    body = line_end.join(lines)
    tree: Tree = read_tree(MIXED, body)
    assert tree == read_tree(MIXED, body)
    for part in walk(tree.root):
        assert part.lines == body.count(b"\n", part.body_start, part.body_end)
        assert len(part_content(body, part, 20)) <= 20
        position = part.body_start
        for child in part.children:
            assert position <= child.header_start <= child.header_end <= child.body_start <= child.body_end
            position = child.body_end
        assert position <= part.body_end
