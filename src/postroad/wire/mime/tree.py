"""The tree of MIME parts of one message, as byte offsets into its body.

RFC 2045, 2046 and 3501 section 6.4.5. One pass over the lines that begin with `--`; nothing is copied, decoded or
recursed into, so the cost is that of one substring search. Where the standard leaves doubt, the tree is one fixed
reading and `Tree.oddities` says that others exist:

* a delimiter line is `--boundary`, blanks, line end: the whole line, never a prefix of it;
* among nested multiparts with the same boundary the innermost open one owns the line;
* of two Content-Type (or other single) fields, and of two equal parameters, the first counts;
* a multipart without a usable boundary, or nested deeper than `MAX_DEPTH`, is one opaque leaf;
* the part number `MAX_PARTS` is opaque and reaches to the end of the body.

    >>> header = b"Content-Type: multipart/mixed; boundary=b\\r\\n\\r\\n"
    >>> tree = read_tree(header, b"--b\\r\\n\\r\\nhi\\r\\n--b--\\r\\n")
    >>> [(part.main, part.body_start, part.body_end) for part in tree.root.children]
    [(b'text', 7, 9)]

A `Tree` is a msgspec struct: `msgspec.msgpack.encode(tree)` is what a store may keep beside the message.
"""

from __future__ import annotations

import re
from enum import IntFlag

import msgspec

from postroad.wire.mime.headers import MAX_HEADER_OCTETS, HeaderIndex, HeaderTooLarge
from postroad.wire.mime.params import Parameters, parameter, read_content_type, read_value

MAX_DEPTH = 100
"""Multiparts and messages inside each other, the outermost counted; Postfix stops at the same number."""

MAX_PARTS = 10_000
"""Parts of one message, containers counted."""

MAX_BOUNDARY_OCTETS = 2_048
"""Octets of a boundary that we still follow; RFC 2046 allows 70, Postfix 2,048."""

KNOWN_ENCODINGS = frozenset((b"7bit", b"8bit", b"binary", b"quoted-printable", b"base64"))

_FIELD_LINE = re.compile(rb"[!-9;-~]+[ \t]*:[^\n]*\n?")
_CONTINUATION = re.compile(rb"(?:[ \t][^\n]*\n?)+")
_BLANK_LINE = re.compile(rb"\r?\n")
_SINGLE_FIELDS = (b"content-type", b"content-transfer-encoding", b"content-disposition")


class Oddity(IntFlag):
    """Readings of a message on which programs differ, or limits it ran into."""

    NONE = 0
    NESTED_BOUNDARY = 1
    """Two open multiparts share a boundary, or a line could end one and begin another."""
    PREFIX_BOUNDARY = 2
    """An open boundary begins another one, or a longer line: programs that match prefixes differ here."""
    NO_BOUNDARY = 4
    """A multipart whose boundary is missing, empty or over `MAX_BOUNDARY_OCTETS`."""
    REPEATED_FIELD = 8
    """Content-Type, -Transfer-Encoding or -Disposition twice in one part."""
    REPEATED_PARAMETER = 16
    UNKNOWN_ENCODING = 32
    ENCODED_CONTAINER = 64
    """A multipart or message with base64 or quoted-printable, which RFC 2045 section 6.4 forbids."""
    BAD_TYPE = 128
    """A Content-Type that cannot be read; the default type is assumed."""
    UNCLOSED = 256
    """A multipart without its closing delimiter."""
    TOO_DEEP = 512
    TOO_MANY = 1024
    HEADER_TOO_LARGE = 2048
    NO_BLANK_LINE = 4096
    """A part whose header ends without a blank line."""
    CONTROL = 8192
    """A NUL or a bare CR in a header: programs end lines, values or the whole header there."""


AMBIGUOUS = (
    Oddity.NESTED_BOUNDARY
    | Oddity.PREFIX_BOUNDARY
    | Oddity.NO_BOUNDARY
    | Oddity.REPEATED_FIELD
    | Oddity.REPEATED_PARAMETER
    | Oddity.ENCODED_CONTAINER
    | Oddity.CONTROL
)
"""The oddities that let two programs see two different messages; a filter can be walked around with them."""


class Part(msgspec.Struct, array_like=True, gc=False):
    """One part: its place and what its header says. Offsets count from the start of the body given to `read_tree`.

    The root's header lies outside the body: its `header_start` and `header_end` are both 0.
    """

    header_start: int
    header_end: int
    """After the blank line, so `body[header_start:header_end]` is the part's MIME header as IMAP shows it."""
    body_start: int
    body_end: int = 0
    lines: int = 0
    """Line ends inside the part's body."""
    main: bytes = b"text"
    sub: bytes = b"plain"
    parameters: Parameters = ()
    encoding: bytes = b"7bit"
    """Lower case, as written, even when unknown."""
    content_id: bytes | None = None
    description: bytes | None = None
    md5: bytes | None = None
    disposition: bytes | None = None
    disposition_parameters: Parameters = ()
    languages: tuple[bytes, ...] = ()
    location: bytes | None = None
    children: list[Part] = []
    """Of a multipart its parts; of message/rfc822 exactly one, the root of the inner message; else empty."""

    @property
    def is_multipart(self) -> bool:
        """Whether this is a multipart whose boundary could be used; it may still have no parts."""
        return self.main == b"multipart"

    @property
    def is_message(self) -> bool:
        """Whether this is message/rfc822 whose inner message was read."""
        return self.sub == b"rfc822" and self.main == b"message"

    @property
    def size(self) -> int:
        """Octets of the body, transfer encoding as it stands."""
        return self.body_end - self.body_start


class Tree(msgspec.Struct, array_like=True):
    """The parts of one message and what is odd about them."""

    root: Part
    parts: int
    oddity_bits: int

    @property
    def oddities(self) -> Oddity:
        """`oddity_bits` as flags."""
        return Oddity(self.oddity_bits)

    @property
    def ambiguous(self) -> bool:
        """Whether another program may reasonably see other parts than this tree does."""
        return bool(self.oddity_bits & AMBIGUOUS)


def read_tree(header: bytes, body: bytes) -> Tree:
    """The tree of the message whose header block is `header` and whose body is `body`. Never raises; linear.

    Of `body` only length, index, slices, `find`, `startswith`, `count` and its buffer are used, so that a mapped file
    with these methods serves as well.
    """
    return _TreeReader(body).read(header)


class _Frame:
    """A multipart that still waits for delimiter lines."""

    __slots__ = ("boundary", "depth")

    def __init__(self, boundary: bytes, depth: int) -> None:
        self.boundary = boundary
        self.depth = depth


class _TreeReader:
    """One pass over a body.

    Invariants: `open` is the chain of parts from the root to the one being read, and `depth` of a frame is its
    place in it. `active` maps a boundary to its open frames, innermost last. Positions only grow, and so does
    `_counted`, up to which line ends have been counted.
    """

    __slots__ = ("_counted", "_line_ends", "active", "body", "frames", "oddities", "open", "parts")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.open: list[Part] = []
        self.frames: list[_Frame] = []
        self.active: dict[bytes, list[_Frame]] = {}
        self.oddities = 0
        self.parts = 0
        self._counted = 0
        self._line_ends = 0

    def read(self, header: bytes) -> Tree:
        root = Part(0, 0, 0)
        self._enter(root, header, 0, digest=False)
        position = 0
        while self.frames:
            at = self._next_dashes(position)
            if at < 0:
                self.oddities |= Oddity.UNCLOSED
                break
            position = self._delimiter_line(at)
            if self.parts >= MAX_PARTS:
                self.oddities |= Oddity.TOO_MANY
                break
        self._close_down_to(0, len(self.body))
        return Tree(root, self.parts, int(self.oddities))

    def _next_dashes(self, position: int) -> int:
        """The next line start at or after `position` (itself a line start) with two dashes, or -1."""
        body = self.body
        if body.startswith(b"--", position):
            return position
        at = body.find(b"\n--", position)
        return at + 1 if at >= 0 else -1

    def _delimiter_line(self, at: int) -> int:
        """Act on the line of dashes at `at`; returns the position from which to go on (a line start)."""
        frame, closing = self._match(at)
        line_end = self.body.find(b"\n", at)
        after = len(self.body) if line_end < 0 else line_end + 1
        if frame is None:
            return after
        # RFC 2046 section 5.1.1: the line end before the delimiter belongs to it.
        self._close_down_to(frame.depth + 1, self._before_line_end(at))
        self._forget_frames_below(frame, closing)
        if closing:
            return after
        return self._begin_part(after, digest=self.open[-1].sub == b"digest")

    def _before_line_end(self, at: int) -> int:
        body = self.body
        if at and body[at - 1] == 0x0A:
            at -= 1
            if at and body[at - 1] == 0x0D:
                at -= 1
        return at

    def _match(self, at: int) -> tuple[_Frame | None, bool]:
        """The frame whose delimiter the line at `at` is, and whether it is the closing one."""
        body = self.body
        line_end = body.find(b"\n", at, at + MAX_BOUNDARY_OCTETS + 100)
        text = body[at + 2 : line_end if line_end >= 0 else at + MAX_BOUNDARY_OCTETS + 100].rstrip(b" \t\r\n")
        frames = self.active.get(text)
        inner = self.active.get(text[:-2]) if text.endswith(b"--") else None
        if frames and inner:
            self.oddities |= Oddity.NESTED_BOUNDARY
            if inner[-1].depth > frames[-1].depth:
                frames = None
        if frames:
            return frames[-1], False
        if inner:
            return inner[-1], True
        if self.frames and text.startswith(self.frames[-1].boundary):
            self.oddities |= Oddity.PREFIX_BOUNDARY
        return None, False

    def _forget_frames_below(self, frame: _Frame, closing: bool) -> None:
        while self.frames and self.frames[-1] is not frame:
            self._forget_innermost()
            self.oddities |= Oddity.UNCLOSED
        if closing:
            self._forget_innermost()

    def _forget_innermost(self) -> None:
        gone = self.frames.pop()
        same = self.active[gone.boundary]
        same.pop()
        if not same:
            del self.active[gone.boundary]

    def _begin_part(self, start: int, digest: bool) -> int:
        """Read the header of a new part at `start`; returns where its body begins."""
        header_end, body_start = self._split_part_header(start)
        part = Part(start, body_start, body_start)
        self.open[-1].children.append(part)
        return self._enter(part, self.body[start:header_end], body_start, digest)

    def _split_part_header(self, start: int) -> tuple[int, int]:
        """As `headers.split_header`, but a delimiter line ends a header too, and so do the header limits."""
        body = self.body
        position = start
        stop = min(len(body), start + MAX_HEADER_OCTETS)
        while position < stop:
            if body.startswith(b"--", position) and self._match(position)[0] is not None:
                self.oddities |= Oddity.NO_BLANK_LINE
                return position, position
            field = _FIELD_LINE.match(body, position, stop)
            if field is None:
                break
            folded = _CONTINUATION.match(body, field.end(), stop)
            position = folded.end() if folded else field.end()
        blank = _BLANK_LINE.match(body, position)
        if blank:
            return position, blank.end()
        self.oddities |= Oddity.NO_BLANK_LINE
        return position, position

    def _enter(self, part: Part, header: bytes, position: int, digest: bool) -> int:
        """Make `part` the one being read, and whatever messages open inside it; returns where its body begins.

        A message inside a message has its header at once after the outer one's, hence the loop.
        """
        while True:
            self.parts += 1
            self._count_to(part.body_start)
            part.lines = -self._line_ends
            self.open.append(part)
            self._describe(part, header, digest)
            if part.is_multipart:
                self._open_multipart(part)
                return position
            if not part.is_message:
                return position
            if self._at_a_limit(part):
                return position
            start = position
            header_end, position = self._split_part_header(start)
            header, digest = self.body[start:header_end], False
            inner = Part(start, position, position)
            part.children.append(inner)
            part = inner

    def _at_a_limit(self, part: Part) -> bool:
        """Whether nothing may be opened inside `part`; it is opaque then."""
        if len(self.open) >= MAX_DEPTH:
            self._make_opaque(part, Oddity.TOO_DEEP)
        elif self.parts >= MAX_PARTS:
            self._make_opaque(part, Oddity.TOO_MANY)
        else:
            return False
        return True

    def _make_opaque(self, part: Part, why: Oddity) -> None:
        self.oddities |= why
        part.main, part.sub, part.parameters = b"application", b"octet-stream", ()

    def _open_multipart(self, part: Part) -> None:
        boundary = (parameter(part.parameters, b"boundary") or b"").rstrip(b" \t")
        if self._at_a_limit(part):
            return
        if not boundary or len(boundary) > MAX_BOUNDARY_OCTETS:
            self._make_opaque(part, Oddity.NO_BOUNDARY)
            return
        if any(boundary.startswith(other) or other.startswith(boundary) for other in self.active if other != boundary):
            self.oddities |= Oddity.PREFIX_BOUNDARY
        frame = _Frame(boundary, len(self.open) - 1)
        same = self.active.setdefault(boundary, [])
        if same:
            self.oddities |= Oddity.NESTED_BOUNDARY
        same.append(frame)
        self.frames.append(frame)

    def _close_down_to(self, depth: int, end: int) -> None:
        """Close every open part from the innermost up to place `depth`; they all end at `end` or where they began."""
        if len(self.open) <= depth:
            return
        self._count_to(end)
        for part in self.open[depth:]:
            part.body_end = max(end, part.body_start)
            part.lines += self._line_ends
        del self.open[depth:]

    def _count_to(self, position: int) -> None:
        if position > self._counted:
            self._line_ends += self.body.count(b"\n", self._counted, position)
            self._counted = position

    def _describe(self, part: Part, header: bytes, digest: bool) -> None:
        """Fill in what the header says about the part."""
        if digest:
            # RFC 2046 section 5.1.5: in a digest the default type is message/rfc822.
            part.main, part.sub = b"message", b"rfc822"
        if not header:
            return
        if b"\0" in header or header.count(b"\r") != header.count(b"\r\n"):
            self.oddities |= Oddity.CONTROL
        try:
            fields = HeaderIndex(header)
        except HeaderTooLarge:
            self._make_opaque(part, Oddity.HEADER_TOO_LARGE)
            return
        names = {name for name in fields.names if name.startswith(b"content-")}
        if names:
            self._describe_content(part, fields, names)

    def _describe_content(self, part: Part, fields: HeaderIndex, names: set[bytes]) -> None:
        if any(name in names and fields.count(name) > 1 for name in _SINGLE_FIELDS):
            self.oddities |= Oddity.REPEATED_FIELD
        if b"content-type" in names:
            self._describe_type(part, fields.first(b"content-type") or b"")
        if b"content-transfer-encoding" in names:
            self._describe_encoding(part, fields.first(b"content-transfer-encoding") or b"")
        if b"content-disposition" in names:
            value = read_value(fields.first(b"content-disposition") or b"")
            part.disposition, part.disposition_parameters = value.value or None, value.parameters
            self.oddities |= Oddity.REPEATED_PARAMETER if value.repeated else 0
        part.content_id = fields.first(b"content-id")
        part.description = fields.first(b"content-description")
        part.md5 = fields.first(b"content-md5")
        part.location = fields.first(b"content-location")
        if b"content-language" in names:
            tags = (fields.first(b"content-language") or b"").split(b",", 100)
            part.languages = tuple(tag.strip() for tag in tags if tag.strip())

    def _describe_type(self, part: Part, value: bytes) -> None:
        content_type = read_content_type(value)
        if content_type is None:
            # RFC 2045 section 5.2: what cannot be read is treated as text/plain; charset=us-ascii.
            self.oddities |= Oddity.BAD_TYPE
            part.main, part.sub = b"text", b"plain"
            return
        part.main, part.sub, part.parameters = content_type.main, content_type.sub, content_type.parameters
        self.oddities |= Oddity.REPEATED_PARAMETER if content_type.repeated else 0

    def _describe_encoding(self, part: Part, value: bytes) -> None:
        encoding = read_value(value).value
        part.encoding = encoding or b"7bit"
        if encoding not in KNOWN_ENCODINGS:
            self.oddities |= Oddity.UNKNOWN_ENCODING
        elif encoding in (b"base64", b"quoted-printable") and (part.is_multipart or part.is_message):
            self.oddities |= Oddity.ENCODED_CONTAINER
