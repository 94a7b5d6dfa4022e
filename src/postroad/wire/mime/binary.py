"""Binary MIME made into mail that every mailbox and host can take (RFC 3030 section 3, RFC 2045 section 6).

With BODY=BINARYMIME a client may send parts of any octets at all: bare CR and LF, NUL, lines of any length. Nothing
behind the SMTP door can hold such parts, so they become base64 when they arrive and the Content-Transfer-Encoding
fields say so. Everything else stays octet for octet as it came; a message without such parts comes back as it is.

What may not be changed is refused: parts under multipart/signed, whose signature would break (RFC 1847 section 2.1:
the content must not be altered); binary octets between the parts or in a header; structures that programs read in
different ways, because the parts that we see might not be those that the recipient sees.

    >>> header = b"MIME-Version: 1.0\\r\\nContent-Transfer-Encoding: binary\\r\\n\\r\\n"
    >>> unbinary(header, b"\\x00\\n")
    (b'MIME-Version: 1.0\\r\\nContent-Transfer-Encoding: base64\\r\\n\\r\\n', b'AAo=\\r\\n')
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

from postroad.wire.mime.compose import MAX_LINE_OCTETS
from postroad.wire.mime.headers import HeaderIndex, HeaderTooLarge
from postroad.wire.mime.tree import AMBIGUOUS, Oddity, Part, read_tree

DASHED_LINES_MAX = 1_000_000
"""Lines that begin with two dashes, each of which is looked at (about 1.5 us): a dump of a database has so
many, and what has more is meant to cost time."""

ENCODED_PIECE = 57 * 16_384
"""Octets encoded at a time, whole lines of 76 columns: bounds the memory that an encoder of the standard library takes
besides its result to some megabytes."""

_REFUSED = (
    AMBIGUOUS | Oddity.UNCLOSED | Oddity.TOO_DEEP | Oddity.TOO_MANY | Oddity.HEADER_TOO_LARGE | Oddity.NO_BLANK_LINE
)
"""Oddities with which nothing is changed any more: the parts, or where they end, are in doubt."""

_FIELD = b"Content-Transfer-Encoding"
_NAME = b"content-transfer-encoding"
_AS_IT_IS = frozenset((b"7bit", b"8bit", b"binary"))
"""Encodings that are none (RFC 2045 section 6.2)."""


class NotConvertible(ValueError):
    """A message with binary parts that cannot be made into ordinary mail; the text says why."""


def is_plain(octets: bytes, start: int = 0, end: int | None = None) -> bool:
    """Whether octets can go through any mail system as they are: lines end with CRLF, have at most 998 octets and no
    NUL. Linear."""
    end = len(octets) if end is None else end
    pairs = octets.count(b"\r\n", start, end)
    if octets.count(b"\n", start, end) != pairs or octets.count(b"\r", start, end) != pairs:
        return False
    return octets.find(b"\0", start, end) < 0 and _has_short_lines(octets, start, end)


def _has_short_lines(octets: bytes, start: int, end: int) -> bool:
    """Looks for a line end in every stretch of a full line, from its far end: few steps, not one for each line."""
    longest = MAX_LINE_OCTETS + 2
    while end - start > MAX_LINE_OCTETS:
        found = octets.rfind(b"\n", start, min(start + longest, end))
        if found < 0:
            return False
        start = found + 1
    return True


def unbinary(header: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Header block and body of the same message without binary parts; the very arguments when there are none.

    `header` ends with its blank line. Raises `NotConvertible`. Takes time linear in the size of the message, and memory
    for the result twice: 50 MB take half a second (hostile ones 2 s) and 150 MB, so a server runs it in a thread, one
    at a time.
    """
    if body.count(b"\n--") > DASHED_LINES_MAX:
        raise NotConvertible("too many lines look like the end of a part")
    tree = read_tree(header, body)
    labelled = _is_labelled(tree.root)
    if not labelled and _has_text_lines(header) and is_plain(body):
        return header, body
    if not _has_text_lines(header):
        raise NotConvertible("the header has a bare CR, bare LF or NUL")
    if tree.oddity_bits & _REFUSED:
        raise NotConvertible(f"the structure of the message is in doubt: {_names(tree.oddity_bits & _REFUSED)}")
    return _Conversion(header, body).run(tree.root)


def _names(bits: int) -> str:
    return ", ".join(str(oddity.name).lower().replace("_", " ") for oddity in Oddity if oddity & bits)


def _is_labelled(root: Part) -> bool:
    """Whether some part says that it is binary."""
    waiting = [root]
    while waiting:
        part = waiting.pop()
        if part.encoding == b"binary":
            return True
        waiting += part.children
    return False


class _Conversion:
    """One message on its way: pieces of the result are gathered in order while the parts are walked.

    Invariant: `_out` holds the converted body up to `_at`, an offset into the body as it came.
    """

    __slots__ = ("_at", "_body", "_header", "_out")

    def __init__(self, header: bytes, body: bytes) -> None:
        self._header = header
        self._body = body
        self._at = 0
        self._out: list[bytes] = []

    def run(self, root: Part) -> tuple[bytes, bytes]:
        encodings = self._choose(root)
        inner_roots = {id(part.children[0]) for part in _in_order(root) if part.is_message and part.children}
        for part in _in_order(root):
            wanted = encodings.get(id(part))
            if part is not root and part.header_end > part.header_start:
                self._take_to(part.header_start)
                self._put_header(part, wanted, root=id(part) in inner_roots)
            if not part.children and not part.is_multipart:
                self._take_to(part.body_start)
                self._put_leaf(part, wanted)
        self._take_to(len(self._body))
        header = self._header
        if id(root) in encodings:
            header = with_encoding(header, encodings[id(root)], root=True)
        return header, b"".join(self._out)

    # -- deciding ------------------------------------------------------------------------------------------------

    def _choose(self, root: Part) -> dict[int, bytes]:
        """The encoding that each part whose field changes shall have, by the part's identity."""
        chosen: dict[int, bytes] = {}
        for part, signed in _with_signed(root):
            if part.children or part.is_multipart:
                continue
            encoding = self._choose_leaf(part)
            if encoding != part.encoding:
                if signed:
                    raise NotConvertible("a signed part is binary; encode it before it is signed")
                chosen[id(part)] = encoding
        # Containers last, the innermost first: what they hold decides (RFC 2045 section 6.4).
        for part, signed in reversed(list(_with_signed(root))):
            if (part.children or part.is_multipart) and part.encoding == b"binary":
                if signed:
                    raise NotConvertible("a signed part is binary; encode it before it is signed")
                chosen[id(part)] = b"7bit" if self._stays_ascii(part, chosen) else b"8bit"
        return chosen

    def _choose_leaf(self, part: Part) -> bytes:
        body, start, end = self._body, part.body_start, part.body_end
        plain = is_plain(body, start, end)
        if plain and (part.encoding != b"binary" or part.main in (b"text", b"message")):
            if part.encoding != b"binary":
                return part.encoding
            return b"7bit" if body[start:end].isascii() else b"8bit"
        if part.encoding not in _AS_IT_IS:
            raise NotConvertible(f"a part is binary although it says {part.encoding.decode('ascii', 'replace')}")
        # RFC 2046 section 5.2: no other encoding than 7bit, 8bit or binary for message/partial and its kin; RFC 6532
        # section 3.7 allows any to message/global.
        if part.main == b"message" and part.sub != b"global":
            raise NotConvertible("a part of type message is binary and may not be encoded")
        return b"base64"

    def _stays_ascii(self, part: Part, chosen: dict[int, bytes]) -> bool:
        """Whether all that a container will hold is ASCII: every leaf is or becomes so, and what stands between."""
        at = part.body_start
        for leaf in _in_order(part):
            if leaf.children or leaf.is_multipart or chosen.get(id(leaf)) != b"base64":
                continue
            if not self._body[at : leaf.body_start].isascii():
                return False
            at = leaf.body_end
        return self._body[at : part.body_end].isascii()

    # -- doing ---------------------------------------------------------------------------------------------------

    def _take_to(self, end: int) -> None:
        """Copies what stands between parts as it is: delimiters and the texts around them."""
        if end <= self._at:
            return
        between = self._body[self._at : end]
        if not is_plain(between):
            raise NotConvertible("there are bare CR, bare LF, NUL or very long lines outside the parts")
        self._out.append(between)
        self._at = end

    def _put_header(self, part: Part, encoding: bytes | None, *, root: bool) -> None:
        header = self._body[part.header_start : part.header_end]
        if not is_plain(header):
            raise NotConvertible("the header of a part has a bare CR, bare LF, NUL or a very long line")
        self._out.append(header if encoding is None else with_encoding(header, encoding, root=root))
        self._at = part.header_end

    def _put_leaf(self, part: Part, encoding: bytes | None) -> None:
        if encoding == b"base64":
            self._out += _base64(self._body, part.body_start, part.body_end, at_end=part.body_end == len(self._body))
        else:
            self._out.append(self._body[part.body_start : part.body_end])
        self._at = max(self._at, part.body_end)


def _has_text_lines(octets: bytes) -> bool:
    """As `is_plain` for lines of any length, which a header may have."""
    return octets.count(b"\n") == octets.count(b"\r\n") == octets.count(b"\r") and b"\0" not in octets


def _in_order(root: Part) -> Iterator[Part]:
    """A part and all below it, in the order in which they stand in the body."""
    waiting = [root]
    while waiting:
        part = waiting.pop()
        yield part
        waiting += reversed(part.children)


def _with_signed(root: Part) -> Iterator[tuple[Part, bool]]:
    """The same, each with whether it lies under a multipart/signed."""
    waiting = [(root, False)]
    while waiting:
        part, signed = waiting.pop()
        yield part, signed
        below = signed or (part.is_multipart and part.sub == b"signed")
        waiting += [(child, below) for child in reversed(part.children)]


def _base64(octets: bytes, start: int, end: int, *, at_end: bool) -> Iterator[bytes]:
    """Octets as base64 in lines of 76 columns; the last line ends with CRLF only `at_end` of the whole message."""
    for at in range(start, end, ENCODED_PIECE):
        stop = min(at + ENCODED_PIECE, end)
        lines = base64.encodebytes(octets[at:stop]).replace(b"\n", b"\r\n")
        # Elsewhere the CRLF before a delimiter belongs to the delimiter (RFC 2046 section 5.1.1).
        yield lines if stop < end or at_end else lines[:-2]


def with_encoding(header: bytes, encoding: bytes, *, root: bool = False) -> bytes:
    """A header block with its Content-Transfer-Encoding set: in its place where there is one, else at the end.

    The header of a whole message (`root`) gets a MIME-Version if it has none, without which no program looks at the
    field (RFC 2045 section 4). Raises `NotConvertible` for a header over the limits.
    """
    try:
        fields = HeaderIndex(header)
    except HeaderTooLarge:
        raise NotConvertible("a header is too large") from None
    field = _FIELD + b": " + encoding + b"\r\n"
    if _NAME in fields.names:
        at = fields.names.index(_NAME)
        return header[: fields.starts[at]] + field + header[fields.ends[at] :]
    if root and b"mime-version" not in fields.names:
        field = b"MIME-Version: 1.0\r\n" + field
    end = fields.ends[-1] if fields.ends else 0
    head, rest = header[:end], header[end:]
    return (head if not head or head.endswith(b"\n") else head + b"\r\n") + field + rest
