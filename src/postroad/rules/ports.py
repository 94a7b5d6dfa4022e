"""What checks may ask of the world, as ports: a test answers with a dict, a worker with its directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

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

    async def ask(self, facts: Facts) -> tuple[str, Reply] | None:
        """None, or the stable word of the limit that is reached with what to say.

        At MAIL it is asked for one more message, at RCPT for one more recipient of the message that began there.
        """
        ...

    def ended(self, session: int) -> None:
        """The session is over: what was kept for it can go."""
        ...


class Judge(Protocol):
    """Somebody outside the rules who is asked at every stage: milters, the user's own policy."""

    async def ask(self, facts: Facts) -> Verdict | None:
        """A verdict, or None without an opinion; never raises."""
        ...

    def ended(self, session: int) -> None:
        """The session is over: what was kept for it can go."""
        ...


class Milters(Judge, Protocol):
    """Milters hear of recipients too that others have refused."""

    async def refused(self, facts: Facts, reply: Reply) -> None:
        """Tells them of one; never raises."""
        ...


class Nobody:
    """Stands in every port that nobody is behind; rules that need it are left out of a gate."""

    async def ask(self, *facts: object) -> None:
        """No opinion, and no limit."""
        return

    async def may_send_as(self, account: int, address: Address) -> bool:
        """Nobody objects."""
        return True

    async def refused(self, facts: Facts, reply: Reply) -> None:
        """Nobody listens."""

    def ended(self, session: int) -> None:
        """Nothing was kept."""


NOBODY: Final = Nobody()


@dataclass(slots=True)
class Ports:
    """Everything that the rules of one worker may ask."""

    senders: Senders = NOBODY
    allowances: Allowances = NOBODY
    milters: Milters = NOBODY
    policy: Judge = NOBODY

    def ended(self, session: int) -> None:
        """A session is over."""
        self.allowances.ended(session)
        self.milters.ended(session)
        self.policy.ended(session)
