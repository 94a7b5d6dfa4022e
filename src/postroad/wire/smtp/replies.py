"""Replies read from the wire: lines joined by their code, enhanced codes taken out of the text."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from postroad.values.reply import Reply
from postroad.wire.lines import LineBuffer, LineError

MAX_LINE: Final = 4_096
"""Octets of one reply line: eight times what RFC 5321 section 4.5.3.1.5 allows."""
MAX_LINES: Final = 200
"""Lines of one reply: an EHLO reply has some 20, and nothing says more than a few."""

_line = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\0]*))?\Z").match
_enhanced = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z)").match


class BadReply(Exception):
    """Octets that are no reply; whoever sent them cannot be talked to any more."""


class ReplyReader:
    """Replies out of a `LineBuffer`.

    Invariant: `_earlier` holds the texts of a reply whose last line has not come, all with the code `_code`.
    """

    __slots__ = ("_code", "_earlier", "lines")

    def __init__(self, lines: LineBuffer) -> None:
        self.lines = lines
        self._earlier: list[str] = []
        self._code = 0

    def next_reply(self) -> Reply | None:
        """The next whole reply, None when it has not come yet; raises `BadReply`."""
        while True:
            try:
                line = self.lines.next_line(MAX_LINE)
            except LineError as error:
                raise BadReply(error.fault.value) from None
            if line is None:
                return None
            if not self._earlier and line[3:4] != b"-":
                return _single(line) if len(line) <= _CACHED_LINE else _parse_single(line)
            last = self._take(line)
            if last is not None:
                return last

    def _take(self, line: bytes) -> Reply | None:
        found = _line(line)
        if found is None:
            raise BadReply("not a reply line")
        code = int(found[1])
        if self._earlier and code != self._code:
            raise BadReply("codes of one reply differ")
        if len(self._earlier) >= MAX_LINES:
            raise BadReply("too many lines")
        self._code = code
        text = _text(found[3])
        if found[2] == b"-":
            self._earlier.append(text)
            return None
        earlier, self._earlier = self._earlier, []
        return _joined(code, earlier, text)


def _joined(code: int, earlier: list[str], text: str) -> Reply:
    enhanced, text = _take_enhanced(code, text)
    return Reply(code, enhanced, text, tuple(_take_enhanced(code, line)[1] for line in earlier))


def _parse_single(line: bytes) -> Reply:
    found = _line(line)
    if found is None:
        raise BadReply("not a reply line")
    code = int(found[1])
    return Reply(code, *_take_enhanced(code, _text(found[3])))


_CACHED_LINE: Final = 96
"""Octets of a reply line worth remembering: "250 2.1.0 Ok" comes a million times, a queue id once."""
_single = lru_cache(maxsize=512)(_parse_single)


def _text(octets: bytes | None) -> str:
    return octets.decode("utf-8", "replace") if octets else ""


def _take_enhanced(code: int, text: str) -> tuple[str, str]:
    """Enhanced code and the text behind it (RFC 2034 section 4); the code is empty when there is none."""
    found = _enhanced(text)
    # RFC 3463 section 2: the class of the status code is that of the reply
    if found is None or int(text[0]) != code // 100:
        return "", text
    return found[1], text[found.end() :]
