"""Message content on the SMTP wire: dots taken off and put on, chunks counted, bare CR, LF and NUL refused.

RFC 5321 section 2.3.8: "Conforming implementations MUST NOT recognize or generate any other character or character
sequence as a line terminator" than CRLF, and section 4.1.1.4: the mail data is terminated by "the character sequence
"<CRLF>.<CRLF>"". Whoever takes or passes on anything looser lets one message hide another (SMTP smuggling).
"""

from __future__ import annotations

import io
from typing import Final

from postroad.values.errors import PeerError
from postroad.values.reply import Reply

DEFAULT_MAX_LINE: Final = 65_536
"""Octets of one line of content with its CRLF.

RFC 5321 section 4.5.3.1.6 lets a server stop at 1,000, but mail with a whole HTML page on one line is common and a
line is never split; what bounds it is only that readers of headers and MIME keep a line in memory.
"""

BARE: Final = Reply(521, "5.5.2", "Bare CR, bare LF or NUL in the message: lines must end with CRLF")
TOO_BIG: Final = Reply(552, "5.3.4", "Message is larger than this server accepts. Send a smaller one, or a link to it")
LINE_TOO_LONG: Final = Reply(550, "5.6.0", "Message has a line that is longer than this server accepts")


class ContentCheck:
    """What every octet of one message's content must pass, however it is transferred and wherever it is cut.

    Two kinds of no: a bare CR, LF or NUL ends the connection at once (`PeerError`), while a message that is too big
    or has too long a line is read to its end and then refused (`refusal`).
    """

    __slots__ = ("_decoder", "_line", "_max_line", "_max_size", "refusal", "size")

    def __init__(self, max_size: int, max_line: int = DEFAULT_MAX_LINE) -> None:
        # The standard library's C scanner for line ends: it remembers which kinds it has met and whether the last
        # octet was a CR, four times as fast as counting CR, LF and CRLF.
        self._decoder = io.IncrementalNewlineDecoder(None, translate=False)
        self._line = 0
        self._max_line = max_line
        self._max_size = max_size
        self.size = 0
        """Octets of content so far, without the dots of transparency."""
        self.refusal: Reply | None = None
        """Why the message is refused when its end has come; None while it is acceptable."""

    def raw(self, octets: bytes) -> None:
        """Judge the line ends of the next octets as they were transferred; raises `PeerError`."""
        self._decoder.decode(octets.decode("latin-1"))
        if self._decoder.newlines not in _CLEAN or b"\0" in octets:
            raise PeerError(BARE, "bare CR, LF or NUL in content")

    def finish(self) -> None:
        """The content has ended here; raises `PeerError` when its last octet is a bare CR."""
        self._decoder.decode("", final=True)
        if self._decoder.newlines not in _CLEAN:
            raise PeerError(BARE, "bare CR at the end of content")

    def count(self, content: bytes) -> bytes:
        """Measure the next content; returns it, or nothing once the message is going to be refused."""
        self.size += len(content)
        # Size first: of two faults it is the one that does not depend on where the content was cut.
        if self.size > self._max_size:
            self.refusal = TOO_BIG
        if self.refusal is not None:
            return b""
        if self._line_is_too_long(content):
            self.refusal = LINE_TOO_LONG
            return b""
        return content

    def _line_is_too_long(self, content: bytes) -> bool:
        """Look for a line end in every stretch of `_max_line` octets, from its far end: few steps, not one a line."""
        at = 0
        line = self._line
        total = len(content)
        while line + total - at > self._max_line:
            feed = content.rfind(b"\n", at, at + self._max_line - line)
            if feed < 0:
                return True
            at = feed + 1
            line = 0
        feed = content.rfind(b"\n", at)
        self._line = total - feed - 1 if feed >= 0 else line + total - at
        return False


class BinaryCheck(ContentCheck):
    """The check of a message declared BODY=BINARYMIME: any octets, only so many of them.

    RFC 3030 section 3 lets such content hold CR, LF and NUL anywhere; it comes by BDAT, which counts, so none of them
    can end it early.
    """

    __slots__ = ()

    def raw(self, octets: bytes) -> None:
        """Nothing to judge: there are no lines."""

    def finish(self) -> None:
        """The content may end anywhere."""

    def _line_is_too_long(self, content: bytes) -> bool:
        return False


_CLEAN: Final = (None, "\r\n")

_END: Final = b"\r\n.\r\n"
_BEGINNINGS_OF_END: Final = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")


class DataReader:
    """The content of one DATA command: dots removed, and where it ends.

    Invariant: `_tail` is what has come and may yet belong to the end mark; all before it has been handed out. A line
    start is written as a CRLF in front, so the first line needs no case of its own (RFC 5321 section 4.1.1.4: an
    empty message is a lone dot directly behind the DATA line).
    """

    __slots__ = ("_check", "_surplus", "_tail", "done", "rest")

    def __init__(self, check: ContentCheck) -> None:
        self._check = check
        self._tail = b"\r\n"
        self._surplus = 2
        self.done = False
        """Whether CRLF.CRLF has come."""
        self.rest = b""
        """Once done: what came behind it, which is commands."""

    def feed(self, octets: bytes) -> bytes:
        """Take the next octets; returns the content that is now certain. Raises `PeerError`."""
        octets = self._tail + octets
        dot = octets.find(b"\r\n.")
        end = dot
        if dot >= 0 and not octets.startswith(b"\r\n", dot + 3):
            end = octets.find(_END, dot)
        if end >= 0:
            self.done = True
            self.rest = octets[end + 5 :]
            octets = octets[: end + 2]
        else:
            octets = self._hold_back(octets)
        if not octets:
            return b""
        self._check.raw(octets)
        if octets.endswith(b"\r"):
            # What is held back begins with a CR, so this one is no half of a CRLF.
            self._check.finish()
        if dot != end:
            # RFC 5321 section 4.5.2: "If the first character is a period and there are other characters on the
            # line, the first character is deleted."
            octets = octets.replace(b"\r\n.", b"\r\n")
        if self._surplus:
            octets = octets[2:]
            self._surplus = 0
        return self._check.count(octets)

    def _hold_back(self, octets: bytes) -> bytes:
        for beginning in _BEGINNINGS_OF_END:
            if octets.endswith(beginning):
                self._tail = beginning
                return octets[: -len(beginning)]
        self._tail = b""
        return octets


class ChunkReader:
    """The octets of one BDAT chunk (RFC 3030 section 2): counted, not framed.

    All chunks of a message share one `ContentCheck`. With no check the chunk is only swallowed.
    """

    __slots__ = ("_check", "_left", "rest", "size")

    def __init__(self, size: int, check: ContentCheck | None) -> None:
        self.size = size
        """Octets of the chunk."""
        self._left = size
        self._check = check
        self.rest = b""
        """Once done: what came behind the chunk."""

    @property
    def done(self) -> bool:
        """Whether every octet of the chunk has come."""
        return self._left == 0

    def feed(self, octets: bytes) -> bytes:
        """Take the next octets; returns the content among them. Raises `PeerError`."""
        if len(octets) > self._left:
            self.rest = octets[self._left :]
            octets = octets[: self._left]
        self._left -= len(octets)
        if self._check is None or not octets:
            return b""
        self._check.raw(octets)
        return self._check.count(octets)


class Stuffer:
    """Content on its way out by DATA: dots added at line starts, and the end mark.

    Raises `ValueError` for content with a bare CR, LF or NUL, which no store of ours should hold: sent on, it could
    end the message early at a server that is less strict.
    """

    __slots__ = ("_check", "_last")

    def __init__(self) -> None:
        self._check = ContentCheck(0)
        self._last = b"\r\n"

    def feed(self, content: bytes) -> bytes:
        """The next content in wire form."""
        self._judge(content)
        last = self._last
        octets = last + content
        self._last = octets[-2:]
        if b"\r\n." in octets:
            octets = octets.replace(b"\r\n.", b"\r\n..")
        return octets[len(last) :]

    def finish(self) -> bytes:
        """The end mark, with a CRLF in front when the content did not end in one."""
        try:
            self._check.finish()
        except PeerError:
            raise ValueError("content ends in a bare CR") from None
        return b".\r\n" if self._last == b"\r\n" else b"\r\n.\r\n"

    def _judge(self, content: bytes) -> None:
        try:
            self._check.raw(content)
        except PeerError:
            raise ValueError("content has a bare CR, LF or NUL") from None


def stuff(content: bytes) -> bytes:
    """A whole message in wire form with its end mark; raises `ValueError` like `Stuffer`."""
    stuffer = Stuffer()
    return stuffer.feed(content) + stuffer.finish()
