"""Strict lines: only CRLF ends one, and a bare CR, a bare LF or a NUL is never part of one.

The unread octets are judged from left to right, and the first fault wins, so a peer gets the same verdict whether its
octets come in one piece or one by one. Invariant: `_octets[_at:]` is exactly what has been received and not handed
out; while `_skipping`, it begins inside a line that is thrown away.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final


class Fault(Enum):
    """What is wrong with a line; the value can be shown to the peer."""

    BARE_LF = "bare LF"
    BARE_CR = "bare CR"
    NUL = "NUL"
    TOO_LONG = "line too long"


class LineError(Exception):
    """A line that is none: `fault` says why, `before` is the text in front of the fault."""

    def __init__(self, fault: Fault, before: bytes) -> None:
        super().__init__(fault.value)
        self.fault = fault
        self.before = before


_FAULTS: Final = {b"\n": Fault.BARE_LF, b"\r": Fault.BARE_CR, b"\0": Fault.NUL}
# A CR at the very end may still become a CRLF.
_bare = re.compile(rb"\r(?!\n|\Z)|(?<!\r)\n|\0").search
_any_cr = re.compile(rb"\r").search
_bare_lf = re.compile(rb"(?<!\r)\n").search


class LineBuffer:
    """Octets from a peer, handed out line by line or all at once.

    >>> lines = LineBuffer()
    >>> lines.receive(b"NOOP\\r\\nQU")
    >>> lines.next_line(512), lines.next_line(512), lines.unread
    (b'NOOP', None, 2)
    """

    __slots__ = ("_at", "_octets", "_skipping")

    def __init__(self) -> None:
        self._octets = b""
        self._at = 0
        self._skipping = False

    def receive(self, octets: bytes) -> None:
        """Append what the peer sent."""
        self._octets = self._octets[self._at :] + octets if self._at < len(self._octets) else octets
        self._at = 0

    @property
    def unread(self) -> int:
        """How many octets wait to be handed out."""
        return len(self._octets) - self._at

    def next_line(self, limit: int) -> bytes | None:
        """The next whole line without its CRLF, or None when it has not come yet.

        `limit` counts octets with the CRLF. Raises `LineError` as soon as the line cannot become a good one; the
        faulty line then stays unread until `skip_line()`.
        """
        at = self._at
        end = self._octets.find(b"\r\n", at)
        if 0 <= end <= at + limit - 2 and not self._skipping:
            line = self._octets[at:end]
            if b"\n" in line or b"\r" in line or b"\0" in line:
                self._raise_bare(line)
            self._at = end + 2
            return line
        if end < 0 and at == len(self._octets):
            return None
        return self._unfinished_line(limit)

    def skip_line(self) -> None:
        """Throw away the line at hand up to its CRLF, also the part of it that has not come yet."""
        self._skipping = True

    def peek(self, count: int) -> bytes:
        """Up to `count` unread octets, which stay unread."""
        return self._octets[self._at : self._at + count]

    def take(self, most: int) -> bytes:
        """Up to `most` unread octets, for a literal; what is behind them is not copied."""
        taken = self._octets[self._at : self._at + most]
        self._at += len(taken)
        return taken

    def take_all(self) -> bytes:
        """Every unread octet, for a reader that does not count in lines."""
        rest = self._octets[self._at :] if self._at else self._octets
        self._octets = b""
        self._at = 0
        return rest

    def _unfinished_line(self, limit: int) -> bytes | None:
        if self._skipping:
            return self.next_line(limit) if self._skip() else None
        window = self._octets[self._at : self._at + limit]
        # Three scans by memchr: a regular expression here would cost a slow sender's long line its square.
        if b"\n" in window or b"\0" in window or b"\r" in window[:-1]:
            self._raise_bare(window)
        if len(window) == limit:
            raise LineError(Fault.TOO_LONG, window)
        return None

    def _raise_bare(self, window: bytes) -> None:
        found = _bare(window) or _any_cr(window)
        assert found is not None
        raise LineError(_FAULTS[found[0]], window[: found.start()])

    def _skip(self) -> bool:
        """Forget octets of the skipped line; True when its end was reached.

        A bare LF still counts: whoever ends lines with it would get out of step here.
        """
        end = self._octets.find(b"\r\n", self._at)
        stop = end if end >= 0 else len(self._octets)
        feed = _bare_lf(self._octets[self._at : stop])
        if feed is not None:
            self._at += feed.start()
            raise LineError(Fault.BARE_LF, b"")
        if end >= 0:
            self._at = end + 2
            self._skipping = False
            return True
        # A CR at the end may be half of the CRLF that is looked for.
        self._at = stop - 1 if self._octets.endswith(b"\r", self._at) else stop
        return False
