"""What a `policy.py` imports: the records its functions are given, and the opinions they return.

    from postroad.rules.policy import Opinion, Rcpt, refuse

    def rcpt(r: Rcpt) -> Opinion | None:
        if r.recipient == "intern@example.org" and not r.login:
            return refuse("This address takes mail from colleagues only.")
        return None

A function is named after its stage: `connect`, `hello`, `auth`, `mail`, `rcpt`, `message`; those that are missing cost
nothing. It is given the record of its stage and returns an opinion, a list of them, or None for none. Every field of a
record has a default, so that a test can make one. How all of this works: docs/policy.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from postroad.wire.mime.compose import UnsafeHeader
from postroad.wire.mime.compose import header as composed
from postroad.wire.mime.content import part_text, walk
from postroad.wire.mime.headers import HeaderIndex, HeaderTooLarge, unfold
from postroad.wire.mime.tree import read_tree
from postroad.wire.mime.words import decode_words

TEXT_MAX: Final = 400
"""Characters of a reply or a reason: a reply line has 512 octets (RFC 5321 section 4.5.3.1.5) with its codes and a
reference."""

VALUE_MAX: Final = 4_000
"""Characters of a header value that policy adds."""

OPINIONS_MAX: Final = 50
"""Opinions in one list."""

BODY_MAX: Final = 1_048_576
"""Octets of a body that policy may look at: it is asked while the client waits."""

BODY_USUAL: Final = 65_536
"""Octets of a body that are read when the function does not say how many."""

FIXED_FIELDS: Final = frozenset(
    (
        "from", "sender", "to", "cc", "bcc", "date", "message-id", "in-reply-to", "references", "received",
        "return-path", "mime-version", "content-type", "content-transfer-encoding", "dkim-signature",
    )
)  # fmt: skip
"""Fields that say who wrote what to whom and how it is built; a policy that changed them would forge."""

ONCE: Final = frozenset(("subject", "reply-to"))
"""Fields that RFC 5322 section 3.6 allows once, so they are set and not added."""


# -- what a function is given ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """A client has connected; nothing was said."""

    session: str = ""
    """An id of the session, as `postroad why` shows it."""
    door: str = ""
    """Where it came in: "mx", "submission", "submissions", "lmtp" or "local"."""
    peer: str = ""
    """IP address of the client, or "uid 1000" at the unix socket."""
    port: int = 0
    trusted: bool = False
    """The client is in `relay.relay_from`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Connect):
    """The client has said EHLO, HELO or LHLO."""

    helo: str = ""
    """What it calls itself; unverified."""
    esmtp: bool = False
    tls: str = ""
    """Version and cipher; empty in the clear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth(Hello):
    """A login was proved and is about to be acknowledged."""

    login: str = ""
    """Address of the account; in later stages empty without a login."""
    mechanism: str = ""
    """How it logged in, such as "SCRAM-SHA-256"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail(Auth):
    """A message begins: the sender of its envelope is known."""

    sender: str = ""
    """The envelope sender; empty is the null sender of reports."""
    size: int = 0
    """Size of the message in octets: what the client declared, or 0; at `message` what came."""
    smtputf8: bool = False

    @property
    def sender_domain(self) -> str:
        """The domain of the sender in lower case; empty for the null sender."""
        return self.sender.rpartition("@")[2].lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rcpt(Mail):
    """A recipient was named, and it is somebody's: what leads nowhere was refused before."""

    recipient: str = ""

    @property
    def recipient_domain(self) -> str:
        """The domain of the recipient in lower case."""
        return self.recipient.rpartition("@")[2].lower()


def _no_body(octets: int) -> bytes:
    return b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Mail):
    """The message has come whole, and nothing is acknowledged yet."""

    id: str = ""
    """The queue id it will have, as `postroad why` takes it."""
    recipients: tuple[str, ...] = ()
    raw_header: bytes = b""
    """The header as it came, with the empty line that ends it: bytes of a stranger."""
    eightbit: bool = False
    read_body: Callable[[int], bytes] = field(default=_no_body, repr=False, compare=False)
    """Reads the beginning of the body, at most so many octets."""

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Every header field in order: name in lower case, value on one line, decoded and without control characters.

        Lines that are no field are left out. Empty for a header too large to be kept, which is refused anyway.
        """
        try:
            index = HeaderIndex(self.raw_header)
        except HeaderTooLarge:
            return []
        return [
            (name.decode("ascii"), decode_words(unfold(index.raw_value(at))))
            for at, name in enumerate(index.names)
            if name
        ]

    def header(self, name: str) -> str:
        """The value of the first field of this name, in any case; empty when there is none."""
        wanted = name.lower()
        return next((value for found, value in self.headers if found == wanted), "")

    @property
    def subject(self) -> str:
        """The subject as people read it."""
        return self.header("subject")

    def body(self, octets: int = BODY_USUAL) -> bytes:
        """The beginning of the body as it came, transfer encodings and all; at most `BODY_MAX` octets."""
        return self.read_body(max(0, min(octets, BODY_MAX)))

    def text(self, octets: int = BODY_USUAL) -> str:
        """The readable text in the beginning of the body, decoded: text/plain where there is one, else text/html."""
        body = self.body(octets)
        texts = [part for part in walk(read_tree(self.raw_header, body).root) if part.main == b"text"]
        plain = [part for part in texts if part.sub == b"plain"]
        return part_text(body, (plain or texts)[0]) if texts else ""


# -- what it returns ---------------------------------------------------------------------------------------------------


class Unusable(ValueError):
    """An opinion that cannot be carried out; the text says why and holds nothing of a message."""


class Wish(Enum):
    """What an opinion asks for."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    UNSURE = "unsure"
    ADD_HEADER = "add_header"
    SET_HEADER = "set_header"
    QUARANTINE = "quarantine"
    DISCARD = "discard"


MESSAGE_ONLY: Final = frozenset((Wish.ADD_HEADER, Wish.SET_HEADER, Wish.QUARANTINE, Wish.DISCARD))

_CODES: Final = frozenset((*range(400, 421), *range(422, 460), *range(500, 560)))
"""Replies of RFC 5321 section 4.2.1 that refuse one command; 421 would end the connection."""
_ENHANCED: Final = re.compile(r"([45])\.\d{1,3}\.\d{1,3}")


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a function wants done. Made by the functions below; raises `Unusable` for what cannot be carried out."""

    wish: Wish
    text: str = ""
    """The public reply of a refusal, a reason, or the value of a field."""
    code: int = 0
    enhanced: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if self.wish is Wish.REFUSE:
            self._check_reply()
        elif self.wish in (Wish.ADD_HEADER, Wish.SET_HEADER):
            self._check_field()
        elif len(self.text) > TEXT_MAX or not self.text.isprintable():
            raise Unusable(f"a reason is one line of at most {TEXT_MAX} characters")
        elif self.wish in (Wish.QUARANTINE, Wish.DISCARD) and not self.text.strip():
            raise Unusable(f"{self.wish.value}() needs a reason")

    def _check_reply(self) -> None:
        # RFC 5321 section 4.2: textstring = 1*(%d09 / %d32-126)
        text = self.text
        if not text.strip() or len(text) > TEXT_MAX or not (text.isascii() and text.isprintable()):
            raise Unusable(f"the text of a refusal is one line of 1 to {TEXT_MAX} printable ASCII characters")
        enhanced = _ENHANCED.fullmatch(self.enhanced)
        if self.code not in _CODES:
            raise Unusable(f"{self.code} is no code of a refusal: 451 and 550 are, for example")
        # RFC 2034 section 4: the class of the enhanced code is the first digit of the reply code.
        if enhanced is None or enhanced[1] != str(self.code)[0]:
            raise Unusable(f'the enhanced code does not fit {self.code}: write it as "{self.code // 100}.7.1"')

    def _check_field(self) -> None:
        name = self.name.lower()
        if name in FIXED_FIELDS:
            raise Unusable(f"{self.name} is not for a policy to write")
        if self.wish is Wish.ADD_HEADER and name in ONCE:
            raise Unusable(f"{self.name} may stand once: use set_header()")
        if len(self.text) > VALUE_MAX:
            raise Unusable(f"the value of a field has at most {VALUE_MAX} characters")
        try:
            self.field()
        except UnsafeHeader:
            raise Unusable("a field needs a name of printable ASCII, and a value without control characters") from None

    def field(self) -> bytes:
        """The header field as it is written, with CRLF."""
        return composed(self.name, self.text)


def accept() -> Opinion:
    """No objection; the checks after this one are asked all the same."""
    return Opinion(Wish.ACCEPT)


def refuse(text: str, code: int = 550, enhanced: str = "5.7.1") -> Opinion:
    """Refuse the command or the message for good, with a text for the sender: one line, ASCII."""
    return Opinion(Wish.REFUSE, text, code, enhanced)


def later(text: str, code: int = 451, enhanced: str = "4.7.1") -> Opinion:
    """Ask the client to come back later: other servers try again by themselves, programs of people show the text."""
    return Opinion(Wish.REFUSE, text, code, enhanced)


def unsure(reason: str = "") -> Opinion:
    """The question cannot be answered at the moment: `policy.undecided` says what becomes of it."""
    return Opinion(Wish.UNSURE, reason)


def add_header(name: str, value: str) -> Opinion:
    """Write a field above the others; only from `message`."""
    return Opinion(Wish.ADD_HEADER, value, name=name)


def set_header(name: str, value: str) -> Opinion:
    """Write a field instead of those of its name; only from `message`. It breaks signatures that cover the field."""
    return Opinion(Wish.SET_HEADER, value, name=name)


def quarantine(reason: str) -> Opinion:
    """Take the message and keep it apart; only from `message`."""
    return Opinion(Wish.QUARANTINE, reason)


def discard(reason: str) -> Opinion:
    """Take the message and throw it away, and nobody is told; only from `message`."""
    return Opinion(Wish.DISCARD, reason)


Said = Opinion | Sequence[Opinion] | None
"""What a function of policy.py may return."""


def opinions(said: object, stage: str) -> tuple[Opinion, ...]:
    """What a function returned as a tuple; raises `Unusable` when that stage may not return it."""
    if said is None:
        return ()
    several = tuple(said) if isinstance(said, (list, tuple)) else (said,)
    if len(several) > OPINIONS_MAX:
        raise Unusable(f"{stage}() returned more than {OPINIONS_MAX} opinions")
    for one in several:
        if not isinstance(one, Opinion):
            raise Unusable(
                f"{stage}() returned {type(one).__name__}: return None, refuse(...), a list of opinions, ..."
            )
        if one.wish in MESSAGE_ONLY and stage != "message":
            raise Unusable(f"{stage}() returned {one.wish.value}(), which only message() may")
    return tuple(one for one in several if isinstance(one, Opinion))
