"""The lexical layer that addresses, parameters and dates share: quoted strings and comments.

RFC 5322 section 3.2. All functions move forward only, so reading a value is linear in its length; comments are
followed by a counter, not by recursion.
"""

from __future__ import annotations

import re

MAX_COMMENT_DEPTH = 20
"""Comments inside comments; anything deeper swallows the rest of the value."""

_QUOTED = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)(?:"|\\?\Z)', re.S)
_QUOTED_PAIR = re.compile(rb"\\(.)", re.S)
_MARK = re.compile(rb'["(]')
_COMMENT_MARK = re.compile(rb"\\.|[()]", re.S)


def read_quoted(value: bytes, position: int) -> tuple[bytes, int]:
    """The content of the quoted string that opens at `position`, and the offset after it.

    Quoted pairs are undone; without a closing quote the string runs to the end of the value.
    """
    match = _QUOTED.match(value, position)
    assert match is not None, "the caller saw the opening quote"
    text = match[1]
    if b"\\" in text:
        text = _QUOTED_PAIR.sub(rb"\1", text)
    return text, match.end()


def read_comment(value: bytes, position: int) -> tuple[bytes, int]:
    """The content of the comment that opens at `position`, and the offset after its closing parenthesis.

    A comment that never closes, or that nests deeper than `MAX_COMMENT_DEPTH`, runs to the end of the value.
    """
    depth = 0
    for mark in _COMMENT_MARK.finditer(value, position):
        if mark[0] == b"(":
            depth += 1
            if depth > MAX_COMMENT_DEPTH:
                break
        elif mark[0] == b")":
            depth -= 1
            if depth == 0:
                return _QUOTED_PAIR.sub(rb"\1", value[position + 1 : mark.start()]), mark.end()
    return value[position + 1 :], len(value)


def without_comments(value: bytes) -> bytes:
    """`value` with every comment outside quoted strings replaced by one blank."""
    if b"(" not in value:
        return value
    pieces: list[bytes] = []
    position = 0
    while mark := _MARK.search(value, position):
        if mark[0] == b'"':
            _, after = read_quoted(value, mark.start())
            pieces.append(value[position:after])
        else:
            _, after = read_comment(value, mark.start())
            pieces.append(value[position : mark.start()] + b" ")
        position = after
    pieces.append(value[position:])
    return b"".join(pieces)
