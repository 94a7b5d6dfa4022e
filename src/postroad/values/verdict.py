"""Verdicts: what policy says of a connection, an envelope or a message."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from postroad.values.reply import Reply


class Ruling(Enum):
    """The three things policy can say; "could not tell" never becomes a rejection."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    COULD_NOT_TELL = "could not tell"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One ruling with its reason.

    `why` is a stable word used alike in the journal, metrics and documents; `say` the short public reply, present
    when the ruling refuses.
    """

    ruling: Ruling
    why: str
    say: Reply | None = None


ACCEPTED = Verdict(Ruling.ACCEPT, "accepted")


def refuse(why: str, code: int, enhanced: str, text: str) -> Verdict:
    """A refusal with its stable word and its public reply."""
    return Verdict(Ruling.REFUSE, why, Reply(code, enhanced, text))
