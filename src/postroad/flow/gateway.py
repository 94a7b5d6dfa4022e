"""Recipients of gateway domains: whether one exists on the host behind us, and what follows from not knowing.

Pure: `flow.callout` asks the hosts. Three answers, and the third is never taken for one of the others: only what a
host has said about this very recipient refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from postroad.flow.judge import judge
from postroad.store.account_records import Gateway
from postroad.values.address import Address
from postroad.values.outcome import About, Fate
from postroad.values.reply import Reply


class Standing(Enum):
    """How a recipient stands with the host of its domain."""

    TAKEN = "taken"
    REFUSED = "refused"
    DOUBT = "could not tell"


@dataclass(frozen=True, slots=True)
class Heard:
    """What was found out, and the words for the journal: the host with what it said, or why it said nothing."""

    standing: Standing
    words: str = ""


class Callouts(Protocol):
    """Who asks the hosts of gateway domains (`flow.callout.Callout`)."""

    async def ask(self, gateway: Gateway, address: Address) -> Heard: ...


_UNFOUND: Final = ("5.1.1", "5.1.2", "5.1.3", "5.1.4", "5.1.6", "5.1.10", "5.2.1")
"""RFC 3463 section 3.2 and 3.3: no such mailbox, no such system, no address, ambiguous, moved, null MX, disabled."""

_UNFOUND_BY_EXCHANGE: Final = ("5.4.1",)
"""What Exchange says at RCPT for a recipient its directory does not have; RFC 3463 gives X.4.1 no permanent use."""

_UNFOUND_WITHOUT_STATUS: Final = (550, 551, 553)
"""RFC 5321 section 4.2.3: mailbox unavailable, user not local, mailbox name not allowed."""


def judge_recipient(reply: Reply) -> Standing:
    """What an answer to RCPT says of the recipient alone.

    A refusal for another reason - our address is blocked (5.7.1), a login is wanted, the mailbox is full - says nothing
    about whether it exists.
    """
    if reply.positive:
        return Standing.TAKEN
    meaning = judge("rcpt", reply)
    if meaning.fate is not Fate.FAILED or meaning.about is not About.RECIPIENT:
        return Standing.DOUBT
    if reply.enhanced:
        refused = reply.enhanced in _UNFOUND or reply.enhanced in _UNFOUND_BY_EXCHANGE
    else:
        refused = reply.code in _UNFOUND_WITHOUT_STATUS
    return Standing.REFUSED if refused else Standing.DOUBT


def by_list(gateway: Gateway) -> Heard:
    """How a recipient stands that nobody need be asked about."""
    if gateway.unfailing or gateway.check != "list" or gateway.listed:
        return Heard(Standing.TAKEN)
    return Heard(Standing.REFUSED, "it is not in the list of this gateway domain")


def could_not_ask(address: Address) -> Reply:
    """Nobody knows whether the recipient exists; whoever sends tries again."""
    # RFC 3463 section 3.5, X.4.3: "a directory server was unavailable"
    return Reply(451, "4.4.3", f"Whether {address} exists could not be found out. Please retry.")
