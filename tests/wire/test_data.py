"""Content: where it ends, what is refused, and that dots survive the round trip."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.values.errors import PeerError
from postroad.wire.data import ChunkReader, ContentCheck, DataReader, Stuffer, stuff
from tests.testdata import testdata

BIG = 10_000_000
BARE = ("bare", 521, "5.5.2")


def read(pieces: list[bytes], max_size: int = BIG, max_line: int = 65_536) -> tuple[Any, ...]:
    """What a reader makes of pieces: BARE, ("open",), or ("end", content, rest, size, refusal's code)."""
    check = ContentCheck(max_size, max_line)
    reader = DataReader(check)
    content = b""
    behind = b""
    for piece in pieces:
        if reader.done:
            behind += piece
            continue
        try:
            content += reader.feed(piece)
        except PeerError as error:
            return ("bare", error.reply.code, error.reply.enhanced)
    if not reader.done:
        return ("open",)
    code = check.refusal.code if check.refusal else 0
    return ("end", b"" if code else content, reader.rest + behind, check.size, code)


def every_cut(octets: bytes) -> list[list[bytes]]:
    """The octets in one piece, one by one, and cut in two at every place."""
    singles = [octets[at : at + 1] for at in range(len(octets))]
    return [[octets], singles, *([octets[:cut], octets[cut:]] for cut in range(1, len(octets)))]


def eod_variants() -> list[Any]:
    cases = json.loads(testdata("smtp/eod-variants.json").read_text("utf-8"))["cases"]
    return [
        pytest.param(base64.b64decode(case["bytes_b64"]), case["ends_with_real_eod"], id=case["id"]) for case in cases
    ]


SMUGGLED = b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\n"
VARIANTS = eod_variants()


def test_all_31_variants_are_there() -> None:
    assert len(VARIANTS) == 31


@pytest.mark.parametrize("variant, has_real_end", VARIANTS)
def test_eod_variant(variant: bytes, has_real_end: bool) -> None:
    """Class E1: no false end ends the content, and a bare CR, LF or NUL before a real end refuses it as a whole."""
    octets = b"a line of body\r\nno line end here" + variant + SMUGGLED
    real_end = octets.find(b"\r\n.\r\n")
    assert (0 <= real_end < len(octets) - len(SMUGGLED)) == has_real_end
    content = octets[: real_end + 2] if has_real_end else octets
    whole_lines = content.replace(b"\r\n", b"")
    bare = any(octet in whole_lines for octet in (b"\r", b"\n", b"\0"))
    for pieces in every_cut(octets):
        if bare:
            assert read(pieces) == BARE
        elif has_real_end:
            assert read(pieces) == ("end", content, octets[real_end + 5 :], len(content), 0)
        else:
            assert read(pieces) == ("open",)


@pytest.mark.parametrize("variant, has_real_end", VARIANTS)
def test_s06_false_ends_behind_a_megabyte(variant: bytes, has_real_end: bool) -> None:
    """There is no window behind which the framer stops looking."""
    body = (b"x" * 78 + b"\r\n") * 12_500 + b"end"
    octets = body + variant + SMUGGLED
    expected = read([b"end" + variant + SMUGGLED])[0]
    assert read([octets])[0] == expected
    assert read([octets[at : at + 65_536] for at in range(0, len(octets), 65_536)])[0] == expected


@pytest.mark.parametrize(
    ("wire", "content"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b".x\r\n.\r\n", b"x\r\n"),
        (b"..x\r\n..\r\n...\r\n.\r\n", b".x\r\n.\r\n..\r\n"),
        (b". \r\n.\r\n", b" \r\n"),
        (b"a.\r\n.b.\r\n.\r\n", b"a.\r\nb.\r\n"),
        (b"." + b"x" * 999 + b"\r\n.\r\n", b"x" * 999 + b"\r\n"),
    ],
)
def test_s08_dots_at_every_cut(wire: bytes, content: bytes) -> None:
    for pieces in every_cut(wire + b"QUIT\r\n"):
        assert read(pieces) == ("end", content, b"QUIT\r\n", len(content), 0)


@given(st.lists(st.text("a.\r\n\0", max_size=6).map(str.encode), max_size=10))
def test_cuts_do_not_matter(pieces: list[bytes]) -> None:
    assert read(pieces) == read([b"".join(pieces)])


@given(st.lists(st.sampled_from([b"a\r\n", b".\r\n", b"..\r\n", b"\r\n", b"longer line.\r\n"]), max_size=12), st.data())
def test_limits_are_the_same_at_every_cut(lines: list[bytes], data: st.DataObject) -> None:
    octets = b"".join(lines) + b".\r\n"
    size = data.draw(st.integers(0, 40))
    line = data.draw(st.integers(2, 16))
    cut = data.draw(st.integers(0, len(octets)))
    assert read([octets[:cut], octets[cut:]], size, line) == read([octets], size, line)


clean_content = st.lists(st.text(".ab \t\x85", max_size=5).map(str.encode), max_size=8).map(b"\r\n".join)


@given(clean_content, st.data())
def test_what_is_stuffed_arrives(content: bytes, data: st.DataObject) -> None:
    expected = content if not content or content.endswith(b"\r\n") else content + b"\r\n"
    wire = stuff(content)
    assert wire.count(b"\r\n.\r\n") + wire.startswith(b".\r\n") == 1
    assert read([wire]) == ("end", expected, b"", len(expected), 0)
    cut = data.draw(st.integers(0, len(content)))
    stuffer = Stuffer()
    assert stuffer.feed(content[:cut]) + stuffer.feed(content[cut:]) + stuffer.finish() == wire


@pytest.mark.parametrize("content", [b"a\n.\nb", b"a\r.\rb", b"a\0b", b"a\r", b"\n"])
def test_content_that_could_smuggle_is_not_sent(content: bytes) -> None:
    with pytest.raises(ValueError, match="bare"):
        stuff(content)


@pytest.mark.parametrize("variant, has_real_end", VARIANTS)
def test_variants_never_leave_as_an_end(variant: bytes, has_real_end: bool) -> None:
    """Class E1, what goes out."""
    try:
        wire = stuff(b"body" + variant + SMUGGLED)
    except ValueError:
        return
    assert wire.find(b"\r\n.\r\n") == len(wire) - 5


def test_size_is_counted_without_transparency_dots() -> None:
    assert read([b"..\r\n..\r\n.\r\n"], max_size=6) == ("end", b".\r\n.\r\n", b"", 6, 0)
    assert read([b"..\r\n..\r\n.\r\n"], max_size=5)[-1] == 552


@pytest.mark.parametrize("length, code", [(998, 0), (999, 550)])
def test_s12_line_limit_counts_the_crlf(length: int, code: int) -> None:
    wire = b"first\r\n" + b"x" * length + b"\r\nlast\r\n.\r\n"
    for step in (1, 7, 500, 1000, len(wire)):
        assert read([wire[at : at + step] for at in range(0, len(wire), step)], max_line=1000)[-1] == code


def test_chunks_are_counted_not_framed() -> None:
    check = ContentCheck(BIG)
    reader = ChunkReader(12, check)
    assert reader.feed(b"..\r\n") == b"..\r\n"
    assert not reader.done
    assert reader.feed(b".\r\nx\r\n\r\nQUIT\r\n") == b".\r\nx\r\n\r\n"
    assert reader.done
    assert reader.rest == b"QUIT\r\n"


def test_chunk_borders_hide_no_bare_octets() -> None:
    check = ContentCheck(BIG)
    ChunkReader(2, check).feed(b"a\r")
    assert ChunkReader(2, check).feed(b"\nb") == b"\nb"
    ChunkReader(2, check).feed(b"a\r")
    with pytest.raises(PeerError):
        ChunkReader(1, check).feed(b"b")


def test_content_may_not_end_in_a_bare_cr() -> None:
    check = ContentCheck(BIG)
    ChunkReader(2, check).feed(b"a\r")
    with pytest.raises(PeerError):
        check.finish()


def test_a_swallowed_chunk_is_judged_by_nobody() -> None:
    reader = ChunkReader(3, None)
    assert reader.feed(b"\0\n\rNOOP\r\n") == b""
    assert reader.rest == b"NOOP\r\n"
