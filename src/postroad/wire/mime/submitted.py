"""A message as a local program writes it, made into one that can travel.

Programs hand sendmail(8) whatever they print: LF line ends, no Date, `To: root`. Here that becomes a header block and a
body in wire form. What comes out holds no NUL, no bare CR and no bare LF, so no octet of it can end a message or begin
a command elsewhere; a bare CR in a header becomes a blank, because as a line end it would begin a field that the
program never meant to write.

    >>> text = taken_in(b"Subject: hi\\nTo: anna\\nBcc: bob\\n\\nHello\\n")
    >>> named_recipients(text.header)
    ['anna', 'bob']
    >>> without_bcc(text.header)
    b'Subject: hi\\r\\nTo: anna\\r\\n'
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from postroad.wire.mime.headers import MAX_HEADER_LINES, MAX_HEADER_OCTETS, HeaderIndex, split_header
from postroad.wire.mime.lexing import read_comment, read_quoted

RECIPIENTS: Final = (b"to", b"cc", b"bcc")
RESENT_RECIPIENTS: Final = (b"resent-to", b"resent-cc", b"resent-bcc")
_HIDDEN: Final = frozenset((b"bcc", b"resent-bcc"))
_ORIGINATORS: Final = (b"from", b"sender", b"reply-to")
_RESENT_ORIGINATORS: Final = (b"resent-from", b"resent-sender")
_ADDRESSED: Final = frozenset((*RECIPIENTS, *RESENT_RECIPIENTS, *_ORIGINATORS, *_RESENT_ORIGINATORS))

_CARRIAGE_RETURNS = re.compile(rb"\r+(\n?)")
_MAILBOX_SEPARATOR = re.compile(rb">?From [^\n]*\n?")
_TOKEN = re.compile(rb'[ \t\r\n]+|[^\s"(),:;<>@\[\]]+|\[[^\]]*\]?|.', re.S)
_LOCAL_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+"
_DOT_ATOM = re.compile(rf"{_LOCAL_ATOM}(?:\.{_LOCAL_ATOM})*")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Unsendable(ValueError):
    """Octets that no mail can carry; the text says what and where, in words for the person who sent them."""


class Text(NamedTuple):
    """A message in wire form: every line ends with CRLF, the blank line between the two is in neither."""

    header: bytes
    body: bytes

    @property
    def octets(self) -> bytes:
        """The whole message."""
        return b"%b\r\n%b" % self


class Author(NamedTuple):
    """Who sends, for the fields that the program left out."""

    address: str
    """With its domain."""
    full_name: str = ""


def taken_in(raw: bytes) -> Text:
    """The message that a program wrote, in wire form; lines may end with LF or CRLF, or CRs before an LF.

    A text without a header is all body. A first line `From ...` of a mailbox file is left out. Raises `Unsendable`.
    """
    if b"\0" in raw:
        raise Unsendable("The message holds a NUL octet, which mail cannot carry")
    text = raw
    if b"\r" in raw:
        # A run of CRs before an LF is one line end (text that was translated twice); elsewhere it is one bare CR.
        text = _CARRIAGE_RETURNS.sub(lambda run: run[1] or b"\r", raw)
    while separator := _MAILBOX_SEPARATOR.match(text):
        text = text[separator.end() :]
    end, begin = (0, 0) if text[:1] in (b" ", b"\t") else split_header(text)
    header, body = text[:end].replace(b"\r", b" "), text[begin:].replace(b"\r", b"\n")
    if len(header) > MAX_HEADER_OCTETS or header.count(b"\n") > MAX_HEADER_LINES:
        raise Unsendable("The header is too large for mail: 256 kB and 2,000 lines at most")
    return Text(_ended(header).replace(b"\n", b"\r\n"), _ended(body).replace(b"\n", b"\r\n"))


def _ended(text: bytes) -> bytes:
    return text if not text or text.endswith(b"\n") else text + b"\n"


def is_wire_form(octets: bytes) -> bool:
    """Whether every CR and LF stands in a CRLF, one is at the end, and there is no NUL."""
    ends = octets.count(b"\r\n")
    plain = octets.count(b"\r") == ends == octets.count(b"\n") and b"\0" not in octets
    return plain and octets.endswith(b"\r\n")


# -- addresses ---------------------------------------------------------------------------------------------------------


class Spelled(NamedTuple):
    """One address of a list: as it is spelled there without comments and blanks, and the offset behind it."""

    text: bytes
    end: int

    @property
    def qualified(self) -> bool:
        """Whether it names a domain."""
        return b"@" in self.text


def spelled_addresses(value: bytes) -> list[Spelled]:
    """The addresses of a list, in order: RFC 5322 section 3.4 read tolerantly, groups opened, display names left out.

    Words that no "@" or "." joins stay apart by a blank, which no address has: whoever sends to it is told.
    """
    found: list[Spelled] = []
    words: list[bytes] = []
    position = end = 0
    angle: int | None = None
    closed = False

    def finish() -> None:
        if words:
            found.append(Spelled(_joined(words), end))

    while position < len(value):
        token = _TOKEN.match(value, position)
        assert token is not None, "the expression matches any octet"
        text, after = token[0], token.end()
        first = text[:1]
        if first == b"(":
            _, after = read_comment(value, position)
            text = b" "
        elif first == b'"':
            _, after = read_quoted(value, position)
            text = value[position:after]
        if first == b"<" and angle is None:
            angle, words = position, []
        elif first == b">" and angle is not None:
            finish()
            words, closed = [], True
        elif first in (b",", b";") and (angle is None or closed):
            if not closed:
                finish()
            words, angle, closed = [], None, False
        elif first == b":":
            words = []  # a group's name, or the source route of RFC 5322 section 4.4
        elif not closed:
            words.append(b" " if text.isspace() else text)
            end = end if text.isspace() or first == b"(" else after
        position = after
    if not closed:
        finish()
    return [one for one in found if one.text]


MAX_AUTHOR_OCTETS: Final = 16_384
"""Of a From or Sender field: hundreds of authors. Reading takes 1.4 us an octet while everybody else waits."""


class Unclear(ValueError):
    """An address field that programs read in more than one way, or that no reader shows whole."""


def claimed_addresses(value: bytes) -> list[bytes]:
    """Every address of a From or Sender field that some reader may take for the author's; raises `Unclear`.

    Strict where `spelled_addresses` is tolerant: what stands between two angles, behind one, or in a source route is
    shown by some programs and passed over by others. An address that stands unquoted before the angles, where a name
    belongs, is claimed too.

        >>> claimed_addresses(b'"Anna" <anna@a.test>, boss@b.test <ben@a.test>')
        [b'anna@a.test', b'boss@b.test', b'ben@a.test']
    """
    if len(value) > MAX_AUTHOR_OCTETS:
        raise Unclear
    claimed: list[bytes] = []
    words: list[bytes] = []
    value += b","  # ends the last address; a quoted string or comment without an end swallows it
    position, angle, closed = 0, False, False
    while position < len(value):
        token = _TOKEN.match(value, position)
        assert token is not None, "the expression matches any octet"
        text, after = token[0], token.end()
        mark = text[:1]
        if mark == b"(":
            text, after = b" ", read_comment(value, position)[1]
        elif mark == b'"':
            after = read_quoted(value, position)[1]
            text = value[position:after]
        if after == len(value) and mark != b",":
            raise Unclear
        if mark in b"<:" and not angle and not closed:
            claimed += _addresses_in(words)
            words, angle = [], mark == b"<"
        elif mark == b">" and angle:
            claimed.append(_joined(words))
            words, angle, closed = [], False, True
        elif mark in b",;" and not angle:
            claimed += [_joined(words)] if not closed else []
            words, closed = [], False
        elif mark in b"<:>,;" or (closed and not text.isspace()):
            raise Unclear
        else:
            words.append(b" " if text.isspace() else text)
        position = after
    return [one for one in claimed if one]


def _addresses_in(name: list[bytes]) -> list[bytes]:
    """What looks like an address in the words of a display name that nothing quotes."""
    bare = b"".join(b" " if word.startswith(b'"') else word for word in name)
    return [word for word in bare.split(b" ") if b"@" in word.strip(b"@")]


def _joined(words: list[bytes]) -> bytes:
    """Words as one address; blanks go where "@" or a dot joins their neighbours."""
    pieces: list[bytes] = []
    blank = False
    for word in words:
        if word == b" ":
            blank = bool(pieces)
            continue
        if blank and not (pieces[-1].endswith((b"@", b".")) or word.startswith((b"@", b"."))):
            pieces.append(b" ")
        pieces.append(word)
        blank = False
    return b"".join(pieces)


def mailbox(name: str, host: str) -> str:
    """The address of a local name, quoted where it must be (RFC 5321 section 4.1.2)."""
    if not _DOT_ATOM.fullmatch(name):
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{name}@{host}"


def qualified(address: str, host: str) -> str:
    """The address with a domain: its own, or `host`."""
    return address if "@" in address.rpartition('"')[2] or not host else f"{address}@{host}"


# -- header fields -----------------------------------------------------------------------------------------------------


def named_recipients(header: bytes) -> list[str]:
    """Whom the header names: To, Cc and Bcc, or the Resent- fields alone where there are any (RFC 5322 3.6.6)."""
    index = HeaderIndex(header)
    wanted = RESENT_RECIPIENTS if any(name in index.names for name in RESENT_RECIPIENTS) else RECIPIENTS
    found = [
        one.text
        for at, name in enumerate(index.names)
        if name in wanted
        for one in spelled_addresses(index.raw_value(at))
    ]
    return [text.decode("utf-8", "surrogateescape") for text in dict.fromkeys(found)]


def without_bcc(header: bytes) -> bytes:
    """The header without Bcc and Resent-Bcc: the others must not learn who else gets the message."""
    index = HeaderIndex(header)
    if not _HIDDEN.intersection(index.names):
        return header
    return b"".join(index.raw_field(at) for at, name in enumerate(index.names) if name not in _HIDDEN)


def completed(header: bytes, *, author: Author, host: str, date: str, ident: str) -> bytes:
    """The header with domains behind bare local names, and with From, Date and Message-ID where they are missing.

    `date` is a whole Date value, `ident` a Message-ID without brackets.
    """
    header = _with_domains(header, host.encode())
    names = HeaderIndex(header).names
    added = b""
    if b"from" not in names:
        added += from_field(author)
    # RFC 5322 section 3.6: "The only required header fields are the origination date field and the originator
    # address field(s)."
    if b"date" not in names:
        added += f"Date: {date}\r\n".encode()
    if b"message-id" not in names:
        added += f"Message-ID: <{ident}>\r\n".encode()
    return header + added


def from_field(author: Author) -> bytes:
    """The From field of a message that has none."""
    if not author.full_name:
        return f"From: {author.address}\r\n".encode()
    return f"From: {_phrase(author.full_name)} <{author.address}>\r\n".encode()


def _phrase(name: str) -> str:
    """A display name in wire form; controls become blanks, so that it stays on its line."""
    name = _CONTROLS.sub(" ", name).strip()
    if not name.isascii() or "=?" in name:
        from postroad.wire.mime.words import encode_words

        return encode_words(name)
    if _ATOMS.fullmatch(name):
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _with_domains(header: bytes, host: bytes) -> bytes:
    """`To: root` becomes `To: root@host`: elsewhere a bare name is no address, and mail that has one is refused."""
    index = HeaderIndex(header)
    if not host or not _ADDRESSED.intersection(index.names):
        return header
    pieces: list[bytes] = []
    for at, name in enumerate(index.names):
        done = index.starts[at]
        if name in _ADDRESSED:
            for one in spelled_addresses(index.raw_value(at)):
                if not one.qualified and b" " not in one.text:
                    cut = index.value_starts[at] + one.end
                    pieces += (header[done:cut], b"@", host)
                    done = cut
        pieces.append(header[done : index.ends[at]])
    return b"".join(pieces)
