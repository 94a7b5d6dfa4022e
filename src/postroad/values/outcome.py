"""What became of one recipient in one attempt, and what a failure is about."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from postroad.values.reply import Reply


class Fate(Enum):
    """How an attempt ended for one recipient; the value is the word used in journal, logs and metrics."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "bounced"


class About(Enum):
    """Whom a failure concerns: it decides who else is affected and what may bounce."""

    HOST = "host"
    SENDER = "sender"
    RECIPIENT = "recipient"
    BODY = "body"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One recipient's result of one attempt.

    `cause` is a short stable phrase for people ("connection refused", "said 550"), `evidence` the peer's own
    words, `where` the host name and address that said them.
    """

    fate: Fate
    about: About = About.HOST
    cause: str = ""
    reply: Reply | None = None
    where: str = ""
    tls: str = ""
    dsn: bool = False
    """The host took over what the sender wants to be told (RFC 3461): its reports are no longer ours to make."""

    @property
    def status(self) -> str:
        """Enhanced status code for reports (RFC 3463), from the reply or by the fate."""
        if self.reply is not None and self.reply.enhanced:
            return self.reply.enhanced
        return {Fate.DELIVERED: "2.0.0", Fate.DEFERRED: "4.0.0", Fate.FAILED: "5.0.0"}[self.fate]
