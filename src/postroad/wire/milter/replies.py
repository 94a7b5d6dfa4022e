"""A reply as a milter words it, read strictly: it goes to the client under our name (class E5)."""

from __future__ import annotations

import re
from typing import Final

from postroad.values.reply import Reply

MAX_REPLY_LINES: Final = 32
"""Lines of one reply, as many as smfi_setmlreply takes."""

_LINE: Final = re.compile(r"([45][0-5][0-9])(?:([ -])(?:([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |$))?(.*))?")
_UNPRINTABLE: Final = re.compile(r"[^ -~]")


def read_reply(octets: bytes) -> Reply:
    """The reply in "550 5.7.1 text", or in several such lines with CRLF between them.

    Raises ValueError unless the code is 4yz or 5yz, the same on each line, the class of an enhanced code (RFC 3463) is
    that of the code, and no line holds a CR, an LF or another control character.
    """
    lines = octets.decode("ascii", "replace").split("\r\n")
    if len(lines) > 1 and not lines[-1]:
        lines.pop()
    if len(lines) > MAX_REPLY_LINES:
        raise ValueError(f"{len(lines)} lines")
    code, enhanced = "", ""
    said: list[str] = []
    for number, line in enumerate(lines, 1):
        found = _LINE.fullmatch(line)
        if found is None or (code and found[1] != code):
            raise ValueError(f"line {number} has no code 4yz or 5yz, or another one")
        code = found[1]
        if found[3]:
            if found[3][0] != code[0]:
                raise ValueError(f"{found[3]} does not agree with {code}")
            enhanced = enhanced or found[3]
        said.append(_text(found[4] or ""))
    text = said.pop()
    return Reply(int(code), enhanced or f"{code[0]}.7.1", text, tuple(said))


def _text(text: str) -> str:
    """The text of a line; "%%" is how libmilter's callers write a percent sign."""
    if _UNPRINTABLE.search(text.replace("\N{REPLACEMENT CHARACTER}", "?")):
        raise ValueError("a control character")
    return text.replace("\N{REPLACEMENT CHARACTER}", "?").replace("%%", "%")
