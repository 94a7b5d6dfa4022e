"""Facts: what is known of a session when policy is asked, growing from stage to stage.

One frozen record for all stages, so that a check is a function of it: what a stage does not know yet has its default.
Policy reads facts and never changes them; what it wants done is in its `Verdict`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import Enum

import msgspec

from postroad.values.address import Address


class Stage(Enum):
    """When policy is asked, in the order in which a session comes by."""

    CONNECT = "connect"
    """A client has connected; nothing was said."""
    HELLO = "hello"
    AUTH = "auth"
    """A login was proved and is about to be acknowledged."""
    MAIL = "mail"
    RCPT = "rcpt"
    """The recipient is somebody's: addresses that lead nowhere were refused before."""
    MESSAGE = "message"
    """The content has come whole and nothing is acknowledged yet."""
    ATTEMPT = "attempt"
    """A delivery to another host is about to be tried."""


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a message at MESSAGE."""

    header: bytes
    """The header block as it came, with the empty line that ends it."""
    size: int
    """Octets of header and body."""
    body: Callable[[], AsyncIterator[bytes]]
    """Reads the body from its beginning, in pieces; each call reads it anew."""
    eightbit: bool = False


class Facts(msgspec.Struct, frozen=True):
    """What is known of one session and its transaction at the stage that is asked about.

    No dataclass: three of these are made for a message, and a frozen one takes 4 us to make.
    """

    stage: Stage
    session: int = 0
    """An id of the session, of the same kind as a message's."""
    door: str = ""
    """"mx", "submission", "submissions", "lmtp" or "local"."""
    peer: str = ""
    """IP address of the client, or "uid 1000" at the unix socket."""
    port: int = 0
    helo: str = ""
    """What the client calls itself; unverified."""
    esmtp: bool = False
    tls: str = ""
    """Version and cipher; empty in the clear."""
    trusted: bool = False
    """The client is in `relay.relay_from`: it may relay without a login."""
    login: str = ""
    """Address of the account that logged in."""
    account: int = 0
    mechanism: str = ""
    """How it logged in, such as "SCRAM-SHA-256"."""
    sender: Address | None = None
    """Envelope sender from MAIL on; None is the null sender."""
    size: int = 0
    """Declared size of the message in octets; 0 when the client did not say."""
    smtputf8: bool = False
    recipient: Address | None = None
    """The recipient that RCPT is about."""
    recipients: tuple[Address, ...] = ()
    """Recipients accepted so far; all of them at MESSAGE."""
    message: int = 0
    """The id that the message will have; 0 before it is known."""
    content: Content | None = None

    @property
    def submission(self) -> bool:
        """Whether somebody sends, rather than the world to us: a login, a local user or a listed network."""
        return bool(self.login) or self.door == "local" or self.trusted

    @property
    def sender_text(self) -> str:
        """The envelope sender as wire text without brackets; empty for the null sender."""
        return "" if self.sender is None else str(self.sender)
