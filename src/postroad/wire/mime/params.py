"""Content-Type, Content-Disposition and their parameters (RFC 2045 section 5.1, RFC 2231).

>>> read_content_type(b'text/plain; charset="us-ascii" (Plain text)').parameters
((b'charset', b'us-ascii'),)
>>> parameter_text(read_value(b"attachment; filename*0*=utf-8''%C3%A4; filename*1=.txt").parameters, b"filename")
'ä.txt'
"""

from __future__ import annotations

import re
from typing import NamedTuple

from postroad.wire.mime.lexing import read_quoted, without_comments
from postroad.wire.mime.words import decode_charset, decode_words, display_text

MAX_PARAMETERS = 100
"""Parameters read from one value, and pieces of one RFC 2231 continuation; more are ignored."""

MAX_PARAMETER_OCTETS = 16 * 1024
"""Octets of one joined parameter value; longer ones are cut."""

Parameters = tuple[tuple[bytes, bytes], ...]
"""(name, value) pairs in order; names lower case and unique, with a trailing `*` when the value is RFC 2231 extended
(`charset'language'percent-encoded`)."""


class ValueWithParameters(NamedTuple):
    """A structured value: the word before the first semicolon, and what follows it."""

    value: bytes
    """Lower case, without blanks and comments."""
    parameters: Parameters
    repeated: bool
    """Whether a parameter name came twice; the first one counts."""


class ContentType(NamedTuple):
    """A media type; both words lower case."""

    main: bytes
    sub: bytes
    parameters: Parameters
    repeated: bool


# RFC 2045 section 5.1: token = 1*<any CHAR except SPACE, CTLs, tspecials>; 8-bit is tolerated.
_TOKEN = rb"[^\x00-\x20\x7f()<>@,;:\\\"/\[\]?=]+"
_TYPE = re.compile(rb"[ \t]*(%b)[ \t]*/[ \t]*(%b)" % (_TOKEN, _TOKEN))
_BETWEEN = re.compile(rb"[ \t;]*")
_NAME = re.compile(rb"([^\x00-\x20\x7f()<>@,;:\\\"/\[\]?=]+)[ \t]*=[ \t]*")
_BARE_VALUE = re.compile(rb"[^;\"]*")
_SKIP_TO_NEXT = re.compile(rb"[^;\"]*(?:;|\Z)")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")


def read_value(value: bytes) -> ValueWithParameters:
    """An unfolded structured header value, such as Content-Disposition; never raises."""
    value = without_comments(value)
    word, _, rest = value.partition(b";")
    parameters, repeated = read_parameters(rest)
    return ValueWithParameters(word.strip(b' \t"').lower(), parameters, repeated)


def read_content_type(value: bytes) -> ContentType | None:
    """An unfolded Content-Type value, or None when it does not begin with `type/subtype`."""
    value = without_comments(value)
    match = _TYPE.match(value)
    if match is None:
        return None
    parameters, repeated = read_parameters(value[match.end() :])
    return ContentType(match[1].lower(), match[2].lower(), parameters, repeated)


def read_parameters(rest: bytes) -> tuple[Parameters, bool]:
    """The parameters in what follows the value (comments already removed), and whether a name came twice."""
    pairs: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(rest) and len(pairs) < MAX_PARAMETERS:
        between = _BETWEEN.match(rest, position)
        assert between is not None, "the expression matches the empty string"
        position = between.end()
        name = _NAME.match(rest, position)
        if name is None:
            position = _after_junk(rest, position)
            continue
        text, position = _parameter_value(rest, name.end())
        pairs.append((name[1].lower(), text))
    return _joined(pairs)


def _after_junk(rest: bytes, position: int) -> int:
    skip = _SKIP_TO_NEXT.match(rest, position)
    if skip is not None and skip.end() > position:
        return skip.end()
    quote = rest.find(b'"', position)
    return read_quoted(rest, quote)[1] if quote >= 0 else len(rest)


def _parameter_value(rest: bytes, position: int) -> tuple[bytes, int]:
    if rest[position : position + 1] == b'"':
        return read_quoted(rest, position)
    bare = _BARE_VALUE.match(rest, position)
    assert bare is not None, "the expression matches the empty string"
    return bare[0].strip(b" \t"), bare.end()


def _joined(pairs: list[tuple[bytes, bytes]]) -> tuple[Parameters, bool]:
    """RFC 2231 section 3: `name*0`, `name*1*`, ... become one value; the first of two equal names wins."""
    plain: dict[bytes, bytes] = {}
    pieces: dict[bytes, dict[int, tuple[bytes, bool]]] = {}
    repeated = False
    for name, value in pairs:
        base, star, tail = name.partition(b"*")
        number = tail[:-1] if tail.endswith(b"*") else tail
        if not star or not tail:
            repeated |= name in plain
            plain.setdefault(name, value)
        elif number.isdigit() and len(number) <= 3:
            extended = tail.endswith(b"*")
            slot = pieces.setdefault(base, {})
            repeated |= int(number) in slot
            slot.setdefault(int(number), (value, extended))
    for base, slot in pieces.items():
        name, value = _continued(base, slot)
        plain.setdefault(name, value)
    return tuple((name, value[:MAX_PARAMETER_OCTETS]) for name, value in plain.items()), repeated


def _continued(base: bytes, slot: dict[int, tuple[bytes, bool]]) -> tuple[bytes, bytes]:
    """The pieces of one parameter in order up to the first gap, percent-encoded as one when the first piece is."""
    extended = 0 in slot and slot[0][1]
    joined: list[bytes] = []
    number = 0 if 0 in slot else 1
    while number in slot:
        value, is_encoded = slot[number]
        joined.append(_percent_encode(value) if extended and not is_encoded else value)
        number += 1
    return base + b"*" if extended else base, b"".join(joined)


def _percent_encode(value: bytes) -> bytes:
    return value.replace(b"%", b"%25")


def parameter(parameters: Parameters, name: bytes) -> bytes | None:
    """The octets of parameter `name` (lower case), RFC 2231 encoding undone; None when absent."""
    for key, value in parameters:
        if key == name:
            return value
        if key == name + b"*":
            return _split_extended(value)[1]
    return None


def parameter_text(parameters: Parameters, name: bytes) -> str | None:
    """Parameter `name` for display: RFC 2231 decoded, or RFC 2047 words that senders wrongly put there.

    The extended form wins over the plain one, as RFC 6266 section 4.3 says for file names. No control character comes
    out. It is text to show, never a path to write to.
    """
    known = dict(parameters)
    extended = known.get(name + b"*")
    if extended is not None:
        charset, octets = _split_extended(extended)
        return display_text(decode_charset(octets, charset))
    plain = known.get(name)
    return None if plain is None else decode_words(plain)


def _split_extended(value: bytes) -> tuple[bytes, bytes]:
    """RFC 2231 section 4: charset'language'percent-encoded, as charset and decoded octets."""
    parts = value.split(b"'", 2)
    return (parts[0], _percent_decode(parts[2])) if len(parts) == 3 else (b"", _percent_decode(value))


def _percent_decode(value: bytes) -> bytes:
    return _PERCENT.sub(lambda match: bytes((int(match[1], 16),)), value)
