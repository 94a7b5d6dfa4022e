"""Invariant: however octets are cut, the same lines and content come out, and none holds a bare CR, LF or NUL."""

from __future__ import annotations

import re

from postroad.values.errors import PeerError
from postroad.wire.data import ChunkReader, ContentCheck, DataReader, stuff
from postroad.wire.lines import LineBuffer, LineError

SEEDS = (
    b"\x00\x01NOOP\r\nQUIT\r\n",
    b"\x05\x02Subject: x\r\n\r\n..dot\r\n.\r\nMAIL FROM:<a@b.test>\r\n",
    b"\x01\x01one\r\n.\ntwo\r\n.\r\n",
    b"\x03\x07a\r\r\n.\r\n\0\r\n.\r\n",
    b"\x02\x03" + b"x" * 40 + b"\r\n.\r\n",
)
WORDS = (b"\r\n.\r\n", b"\r\n", b"\r", b"\n", b"\0", b".", b"\r\n..", b"\n.\n", b"\n.\r\n", b"\r\r\n.\r\r\n")

MAX_LINE = 32
MAX_SIZE = 200
_bare = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0").search


def check(octets: bytes) -> None:
    """The first two octets say where the others are cut."""
    pieces = cut(octets[2:], octets[:2])
    whole = octets[2:]
    assert lines(pieces) == lines([whole])
    assert body(pieces) == body([whole])
    assert chunk(pieces, len(whole)) == chunk([whole], len(whole))


def cut(octets: bytes, sizes: bytes) -> list[bytes]:
    """Pieces whose lengths alternate between the two sizes, at least one octet each."""
    pieces = []
    at = turn = 0
    while at < len(octets):
        size = max(1, sizes[turn % len(sizes)])
        pieces.append(octets[at : at + size])
        at += size
        turn += 1
    return pieces


def lines(pieces: list[bytes]) -> list[object]:
    """All lines up to the first fault, and the fault."""
    buffer = LineBuffer()
    seen: list[object] = []
    for piece in pieces:
        buffer.receive(piece)
        try:
            while (line := buffer.next_line(MAX_LINE)) is not None:
                assert len(line) <= MAX_LINE - 2
                assert not _bare(line)
                seen.append(line)
        except LineError as error:
            return [*seen, error.fault, error.before]
    return [*seen, buffer.unread]


def body(pieces: list[bytes]) -> tuple[object, ...]:
    """What DATA makes of the pieces; what it accepts survives being sent on."""
    checked = ContentCheck(MAX_SIZE, MAX_LINE)
    reader = DataReader(checked)
    content = behind = b""
    for piece in pieces:
        if reader.done:
            behind += piece
            continue
        try:
            content += reader.feed(piece)
        except PeerError as error:
            return ("bare", error.reply)
    if not reader.done:
        return ("open",)
    if checked.refusal is not None:
        return ("refused", checked.refusal, checked.size, reader.rest + behind)
    assert not _bare(content)
    assert len(content) == checked.size <= MAX_SIZE
    again = DataReader(ContentCheck(MAX_SIZE, MAX_LINE))
    assert (again.feed(stuff(content)), again.done, again.rest) == (content, True, b"")
    return ("whole", content, reader.rest + behind)


def chunk(pieces: list[bytes], size: int) -> tuple[object, ...]:
    """What BDAT makes of the pieces."""
    checked = ContentCheck(MAX_SIZE, MAX_LINE)
    reader = ChunkReader(size, checked)
    content = b""
    try:
        for piece in pieces:
            content += reader.feed(piece)
        checked.finish()
    except PeerError as error:
        return ("bare", error.reply)
    assert reader.done
    if checked.refusal is not None:
        return ("refused", checked.refusal, checked.size)
    assert not _bare(content)
    return ("whole", content)
