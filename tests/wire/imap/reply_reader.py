"""A strict reader of IMAP responses, as a suspicious client would write it: anything RFC 3501 does not allow raises.

`read_response` gives the tokens of one response as nested lists; `check_body` holds a BODY or BODYSTRUCTURE value
against the grammar of section 9.
"""

from __future__ import annotations

import re
from typing import Any

_ATOM = re.compile(rb'\\?[^\x00-\x20\x7f-\xff(){%*"\\\]\[]+(?:\[[^\]]*\](?:<\d+>)?)?')
_QUOTED = re.compile(rb'"((?:[\x01-\x09\x0b\x0c\x0e-\x21\x23-\x5b\x5d-\x7f]|\\["\\])*)"')
_LITERAL = re.compile(rb"\{(0|[1-9]\d*)\}\r\n")


class Text(bytes):
    """A string of the response, as opposed to an atom."""


class Malformed(Exception):
    """The response is not what RFC 3501 allows."""


def read_response(octets: bytes) -> list[Any]:
    """The tokens of one response up to its CRLF, with nothing behind it."""
    tokens, at = _sequence(octets, 0, b"\r\n")
    if at != len(octets):
        raise Malformed(f"octets behind the response: {octets[at : at + 40]!r}")
    return tokens


def read_value(octets: bytes) -> Any:
    """One value alone."""
    (value,) = read_response(octets + b"\r\n")
    return value


def _sequence(octets: bytes, at: int, closing: bytes) -> tuple[list[Any], int]:
    tokens: list[Any] = []
    while not octets.startswith(closing, at):
        if tokens:
            # RFC 3501 section 9 puts one blank between values, but none between addresses and between parts.
            if octets.startswith(b" ", at):
                at += 1
            elif not (octets.startswith(b"(", at) and isinstance(tokens[-1], list)):
                raise Malformed(f"no blank at {at}: {octets[at : at + 40]!r}")
        token, at = _token(octets, at)
        tokens.append(token)
    return tokens, at + len(closing)


def _token(octets: bytes, at: int) -> tuple[Any, int]:
    if octets.startswith(b"(", at):
        return _sequence(octets, at + 1, b")")
    quoted = _QUOTED.match(octets, at)
    if quoted:
        return Text(re.sub(rb'\\(["\\])', rb"\1", quoted[1])), quoted.end()
    literal = _LITERAL.match(octets, at)
    if literal:
        end = literal.end() + int(literal[1])
        text = octets[literal.end() : end]
        if len(octets) < end or b"\0" in text:
            raise Malformed("bad literal")
        return Text(text), end
    atom = _ATOM.match(octets, at)
    if atom is None and octets.startswith(b"*", at):
        return b"*", at + 1
    if atom is None:
        raise Malformed(f"no value at {at}: {octets[at : at + 40]!r}")
    return atom[0], atom.end()


def _nstring(value: Any) -> bool:
    return isinstance(value, Text) or value == b"NIL"


def _number(value: Any) -> bool:
    return isinstance(value, bytes) and not isinstance(value, Text) and value.isdigit()


def _parameters(value: Any) -> bool:
    return value == b"NIL" or (
        isinstance(value, list) and len(value) > 0 and len(value) % 2 == 0 and all(isinstance(v, Text) for v in value)
    )


def check_envelope(value: Any) -> None:
    """env-date SP env-subject SP env-from ... SP env-message-id; addresses NIL or a list of four nstrings each."""
    assert isinstance(value, list)
    assert len(value) == 10
    assert all(_nstring(value[at]) for at in (0, 1, 8, 9))
    for addresses in value[2:8]:
        if addresses != b"NIL":
            assert isinstance(addresses, list)
            assert addresses
            assert all(len(address) == 4 and all(map(_nstring, address)) for address in addresses)


def check_body(value: Any, *, extended: bool) -> None:
    """body = "(" (body-type-1part / body-type-mpart) ")", with all extension fields when `extended`."""
    assert isinstance(value, list)
    if isinstance(value[0], list):
        parts = [part for part in value if isinstance(part, list)]
        count = next(at for at, part in enumerate(value) if not isinstance(part, list))
        for part in value[:count]:
            check_body(part, extended=extended)
        rest = value[count:]
        assert parts
        assert isinstance(rest[0], Text)
        assert len(rest) == (5 if extended else 1)
        if extended:
            assert _parameters(rest[1])
            _check_extension(rest[2:])
        return
    main, sub, parameters, content_id, description, encoding, octets, *rest = value
    assert all(isinstance(word, Text) for word in (main, sub, encoding))
    assert _parameters(parameters)
    assert _nstring(content_id)
    assert _nstring(description)
    assert _number(octets)
    if main.upper() == b"TEXT":
        assert _number(rest.pop(0))
    elif (main.upper(), sub.upper()) == (b"MESSAGE", b"RFC822"):
        check_envelope(rest.pop(0))
        check_body(rest.pop(0), extended=extended)
        assert _number(rest.pop(0))
    assert len(rest) == (4 if extended else 0)
    if extended:
        assert _nstring(rest[0])
        _check_extension(rest[1:])


def _check_extension(value: list[Any]) -> None:
    disposition, languages, location = value
    if disposition != b"NIL":
        kind, parameters = disposition
        assert isinstance(kind, Text)
        assert _parameters(parameters)
    assert _nstring(languages) or all(isinstance(language, Text) for language in languages)
    assert _nstring(location)
