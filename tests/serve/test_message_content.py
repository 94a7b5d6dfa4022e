"""Messages are read where they stand: inline or in a file, in pieces, with the right octets at every border."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from postroad.serve.message_content import LARGE, PIECE, BodyUnreadable, MessageContent
from postroad.store.mailbox_records import Located
from postroad.wire.mime.tree import read_tree

PREFIX, HEADER = b"Return-Path: <>\r\n", b"Subject: x\r\n\r\n"


class Folder:
    """Body files in a folder; the disk's work is done at once and counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waits = 0

    def body_path(self, body_file: str) -> Path:
        return self.path / body_file

    def start(self, work: Any) -> Future[Any]:
        self.waits += 1
        done: Future[Any] = Future()
        try:
            done.set_result(work())
        except OSError as error:
            done.set_exception(error)
        return done


def located(body: bytes | None, body_file: str = "") -> Located:
    return Located(1, 77, PREFIX, HEADER, body, body_file, 0)


@pytest.fixture
def bodies(disk_path: Path) -> Folder:
    return Folder(disk_path)


def content(bodies: Folder, body: bytes, *, in_file: bool) -> MessageContent:
    if not in_file:
        return MessageContent(located(body), bodies)
    (bodies.path / "body").write_bytes(body)
    return MessageContent(located(None, "body"), bodies)


@pytest.mark.parametrize("in_file", [False, True])
async def test_octets_across_the_border_of_header_and_body(bodies: Folder, in_file: bool) -> None:
    body = bytes(range(256)) * 4
    whole = PREFIX + HEADER + body
    with content(bodies, body, in_file=in_file) as message:
        assert (message.size, message.body_size) == (len(whole), len(body))
        for start in (0, 5, len(PREFIX + HEADER) - 1, len(PREFIX + HEADER), 100, len(whole)):
            for end in (start, start + 1, start + 200, len(whole) + 50):
                assert await message.octets(start, end) == whole[start:end], (start, end)


async def test_pieces_make_the_body(bodies: Folder) -> None:
    body = b"0123456789abcdef" * (3 * PIECE // 16) + b"end"
    with content(bodies, body, in_file=True) as message:
        pieces = [piece async for piece in message.body_pieces()]
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= PIECE


async def test_a_file_shorter_than_it_was_is_no_short_message(bodies: Folder) -> None:
    with content(bodies, b"x" * 1000, in_file=True) as message:
        (bodies.path / "body").write_bytes(b"x" * 10)
        with pytest.raises(BodyUnreadable):
            await message.body(0, 1000)


def test_a_missing_file_says_which_message(bodies: Folder) -> None:
    with pytest.raises(BodyUnreadable, match="message 77"):
        MessageContent(located(None, "nowhere"), bodies)


@pytest.mark.parametrize("size", [0, 100, LARGE + 100])
async def test_the_tree_of_a_file_is_the_tree_of_its_octets(bodies: Folder, size: int) -> None:
    text = b"x" * 70 + b"\r\n"
    body = b"--b\r\n\r\nhi\r\n--b\r\nContent-Type: text/html\r\n\r\n" + text * (size // len(text)) + b"\r\n--b--\r\n"
    if not size:
        body = b""
    header = b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n'
    (bodies.path / "body").write_bytes(body)
    with MessageContent(Located(1, 77, b"", header, None, "body", 0), bodies) as message:
        assert await message.tree() == read_tree(header, body)
    assert bodies.waits <= 1


async def test_what_is_at_hand_is_read_without_a_thread(bodies: Folder) -> None:
    with content(bodies, b"x" * 1000, in_file=True) as message:
        await asyncio.sleep(0)
        assert len(await message.body(0, 1000)) == 1000
    assert bodies.waits == 0
