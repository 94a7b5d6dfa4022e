"""IMAP arguments as imaptest scripts see them: atoms of any characters, strings, literals, NIL and lists."""

from __future__ import annotations

import re
from typing import TypeAlias

Argument: TypeAlias = "bytes | list[Argument] | None"
"""Atoms, quoted strings and literals are bytes alike; NIL is None; a parenthesised list is a list."""

_LITERAL = re.compile(rb"~?\{([0-9]+)\+?\}\r\n")
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ATOM_IN_LIST = re.compile(rb"[^ )\r\n]+")
_ATOM = re.compile(rb"[^ \r\n]+")
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


class BadArguments(ValueError):
    """The bytes are no list of IMAP arguments."""


def parse(raw: bytes) -> list[Argument]:
    """The arguments of one line (literals inline, no final CRLF needed); raises BadArguments."""
    top: list[Argument] = []
    stack: list[list[Argument]] = [top]
    at = 0
    while at < len(raw):
        letter = raw[at : at + 1]
        if letter in b" \r\n":
            at += 1
        elif letter == b"(":
            inner: list[Argument] = []
            stack[-1].append(inner)
            stack.append(inner)
            at += 1
        elif letter == b")":
            if len(stack) == 1:
                raise BadArguments(f"unbalanced ) at {at} in {raw!r}")
            stack.pop()
            at += 1
        else:
            argument, at = _simple(raw, at, in_list=len(stack) > 1)
            stack[-1].append(argument)
    if len(stack) != 1:
        raise BadArguments(f"unbalanced ( in {raw!r}")
    return top


def _simple(raw: bytes, at: int, *, in_list: bool) -> tuple[bytes | None, int]:
    if found := _LITERAL.match(raw, at):
        end = found.end() + int(found[1])
        if end > len(raw):
            raise BadArguments(f"literal cut short in {raw!r}")
        return raw[found.end() : end], end
    if raw[at : at + 1] == b'"':
        quoted = _QUOTED.match(raw, at)
        if quoted is None:
            raise BadArguments(f"quoted string without end in {raw!r}")
        return _ESCAPED.sub(rb"\1", quoted[1]), quoted.end()
    atom = (_ATOM_IN_LIST if in_list else _ATOM).match(raw, at)
    assert atom is not None
    return (None if atom[0].upper() == b"NIL" else atom[0]), atom.end()


def text_of(argument: Argument) -> str:
    """An argument for failure messages, written nearly as on the wire."""
    if argument is None:
        return "NIL"
    if isinstance(argument, list):
        return "(" + " ".join(map(text_of, argument)) + ")"
    text = argument.decode("utf-8", "backslashreplace")
    return repr(text)[1:-1] if text and " " not in text and len(text) < 60 else repr(text)
