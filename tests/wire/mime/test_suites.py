"""Trees of public messages against the trees their suites expect; every difference stands here with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from postroad.wire.mime.addresses import read_addresses
from postroad.wire.mime.content import part_text, walk
from postroad.wire.mime.dates import read_date
from postroad.wire.mime.headers import HeaderIndex, split_header
from postroad.wire.mime.tree import Tree
from postroad.wire.mime.words import decode_words
from tests.wire.mime.suites import (
    NOT_XML,
    every_message,
    mail_parser_files,
    mail_parser_shape,
    mime4j_files,
    mime4j_shape,
    shape,
    tree_of,
)

ENCODED_MESSAGE = "a message/rfc822 part in base64: RFC 2045 forbids it, and IMAP cannot address what is inside"
WHOLE_LINE = "RFC 2046 lets a delimiter line go on with anything; we want the whole line, and set PREFIX_BOUNDARY"
BLANK_END = "a boundary that ends in blanks, which RFC 2046 forbids; we ignore blanks at the end of the line"
TOO_LONG = "a boundary over 2,048 octets; the multipart is one opaque leaf"

DIFFERENCES = {
    "rfc/008": ("[.<.>]", ENCODED_MESSAGE),
    "mimetools-testmsgs/multi-2gifs-base64": ("<.>", ENCODED_MESSAGE),
    "testmsgs/bad-newlines-multiple-parts-base64": ("<.>", ENCODED_MESSAGE),
    "testmsgs/base64encoded-rfc822message-nested": ("<.>", ENCODED_MESSAGE),
    "testmsgs/ending-boundaries": ("[]", WHOLE_LINE),
    "testmsgs/weird-boundary": ("[..]", BLANK_END),
    "testmsgs/very-long-boundary": ("[..]", BLANK_END),
    "testmsgs/very-very-long-boundary": (".", TOO_LONG),
}


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def expected(path: Path, published: str) -> str:
    difference = DIFFERENCES.get(name_of(path))
    if difference is None:
        return published
    assert difference[0] != published, "the difference is gone: take it from the table"
    return difference[0]


@pytest.mark.parametrize("path", mail_parser_files(), ids=name_of)
def test_mail_parser_trees(path: Path) -> None:
    assert shape(tree_of(path.read_bytes()).root) == expected(path, mail_parser_shape(path))


@pytest.mark.parametrize("path", [path for path in mime4j_files() if path.stem not in NOT_XML], ids=name_of)
def test_mime4j_trees(path: Path) -> None:
    published = mime4j_shape(path)
    assert published is not None
    assert shape(tree_of(path.read_bytes()).root) == expected(path, published)


@pytest.mark.parametrize("path", mail_parser_files(), ids=name_of)
def test_mail_parser_header_offsets(path: Path) -> None:
    """Where each field lies; the suite counted on files whose lines end with LF."""
    message = path.read_bytes().replace(b"\r\n", b"\n")
    end, _ = split_header(message)
    fields = [(field.name, field.start, field.value_start, field.end) for field in HeaderIndex(message[:end])]
    root = json.loads(path.with_suffix(".json").read_text("utf-8"))["parts"][0]
    published = [(field["offset_field"], field["offset_start"], field["offset_end"]) for field in root["headers"]]
    assert [field[1:] for field in fields if field[0]] == published


def facts(message: bytes) -> tuple[Tree, str]:
    """Everything the readers can say about a message."""
    end, body_start = split_header(message)
    index = HeaderIndex(message[:end])
    body = message[body_start:]
    tree = tree_of(message)
    said = [decode_words(index.first(b"subject") or b""), repr(read_date(index.first(b"date") or b""))]
    said += [repr(read_addresses(value)) for name in (b"from", b"to", b"cc") for value in index.all(name)]
    said += [part_text(body, part, 10_000) for part in walk(tree.root) if part.main == b"text"]
    return tree, "".join(said)


@pytest.mark.parametrize("path", every_message(), ids=name_of)
def test_every_public_message_is_read_and_its_parts_lie_inside_each_other(path: Path) -> None:
    message = path.read_bytes()
    tree, _ = facts(message)
    body_length = len(message) - split_header(message)[1]
    assert 0 <= tree.root.body_start <= tree.root.body_end == body_length
    for part in walk(tree.root):
        assert part.header_start <= part.header_end <= part.body_start <= part.body_end
        position = part.body_start
        for child in part.children:
            assert position <= child.header_start
            position = child.body_end
            assert position <= part.body_end
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(tree), type=Tree) == tree
