"""What checks may ask of the world, as ports: a test answers with a dict, a worker with its directory and its processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from postroad.values.address import Address
from postroad.values.facts import Facts
from postroad.values.reply import Reply
from postroad.values.verdict import Verdict


class Senders(Protocol):
    """In whose name an account may send."""

    async def may_send_as(self, account: int, address: Address) -> bool:
        """Whether an address is the account's own, one of its aliases, or granted to it."""
        ...


class Allowances(Protocol):
    """What an account may still send."""

    async def ask(self, account: int, recipient: Address | None = None) -> tuple[str, Reply] | None:
        """None, or the stable word of the limit that is reached with what to say.

        Without a recipient it is asked for one more message, with one for one more recipient.
        """
        ...


class Judge(Protocol):
    """Somebody outside the rules who is asked at every stage: milters, the user's own policy."""

    async def ask(self, facts: Facts) -> Verdict | None:
        """A verdict, or None without an opinion; never raises."""
        ...

    def ended(self, session: int) -> None:
        """The session is over: what was kept for it can go."""
        ...


class Nobody:
    """A judge that is not there."""

    async def ask(self, facts: Facts) -> Verdict | None:
        """No opinion."""
        return None

    def ended(self, session: int) -> None:
        """Nothing was kept."""


@dataclass(slots=True)
class Ports:
    """Everything that the rules of one worker may ask."""

    senders: Senders
    allowances: Allowances
    milters: Judge
    policy: Judge

    def ended(self, session: int) -> None:
        """A session is over."""
        self.milters.ended(session)
        self.policy.ended(session)
