"""Verdicts: what policy says of a connection, an envelope or a message."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from postroad.values.address import Address
from postroad.values.reply import Reply


class Ruling(Enum):
    """The three things policy can say; "could not tell" never becomes a rejection."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    COULD_NOT_TELL = "could not tell"


@dataclass(frozen=True, slots=True)
class Changes:
    """What shall be changed of a message before it is kept; a field that is None leaves things as they are."""

    header: bytes | None = None
    """The whole header block, with the empty line that ends it."""
    above: bytes = b""
    """Fields that go above our own Received line, each with its CRLF."""
    body: bytes | None = None
    sender: Address | None = None
    null_sender: bool = False
    """The envelope sender becomes the null sender."""
    recipients_added: tuple[Address, ...] = ()
    recipients_removed: tuple[Address, ...] = ()
    quarantine: str = ""
    """Why the message shall be kept apart instead of delivered; empty: it is delivered."""
    discard: bool = False
    """Acknowledge the message and throw it away."""

    def __bool__(self) -> bool:
        return self != NO_CHANGES


NO_CHANGES: Final = Changes()


@dataclass(frozen=True, slots=True)
class Verdict:
    """One ruling with its reason.

    `why` is a stable word used alike in the journal, metrics and documents (`rules.words`); `say` is the short public
    reply. A refusal always has one. "Could not tell" has one, a 4yz, where mail must wait until it can be told, and
    none where the doubt is only noted.
    """

    ruling: Ruling
    why: str
    say: Reply | None = None
    evidence: str = ""
    """What was found, for the journal: never shown to the client."""
    changes: Changes = field(default=NO_CHANGES)

    @property
    def passes(self) -> bool:
        """Whether the command goes on."""
        return self.say is None

    def later(self, reply: Reply) -> Verdict:
        """The same verdict with a temporary reply, for a refusal that a doubt makes uncertain."""
        return replace(self, ruling=Ruling.COULD_NOT_TELL, say=reply)


ACCEPTED: Final = Verdict(Ruling.ACCEPT, "accepted")


def refuse(why: str, code: int, enhanced: str, text: str, evidence: str = "") -> Verdict:
    """A refusal with its stable word and its public reply; 4yz codes ask to come back."""
    return Verdict(Ruling.REFUSE, why, Reply(code, enhanced, text), evidence)


def accept(why: str = "accepted", changes: Changes = NO_CHANGES, evidence: str = "") -> Verdict:
    """From an allower: nothing after it is asked. From any other check: it passes, with these changes."""
    return Verdict(Ruling.ACCEPT, why, None, evidence, changes)


# RFC 7372 section 3 and RFC 5248: 4.7.24 is about SPF; a check that could not be completed in general is 4.7.0.
UNDECIDED: Final = Reply(451, "4.7.0", "A check could not be completed. This is our fault; please retry.")


def doubt(why: str, evidence: str = "", say: Reply | None = UNDECIDED) -> Verdict:
    """ "Could not tell"; with `say` None the doubt is noted and nothing waits for it. Raises ValueError for a 5yz."""
    if say is not None and not say.temporary:
        raise ValueError("a doubt never refuses for good")
    return Verdict(Ruling.COULD_NOT_TELL, why, say, evidence)
