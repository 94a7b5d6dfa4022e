"""Early answers about allowances: what a user may no longer send is refused at MAIL or RCPT, before it is transferred.

The store decides when it accepts the message (`store.allowances`), and says the same in the same words; here its counts
are only read, so two sessions at the last place may both get this far.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from postroad import config
from postroad.store.allowances import (
    MANY_AT_ONCE,
    MANY_MESSAGES,
    MANY_NEW,
    MANY_RECIPIENTS,
    REMOVED_ACCOUNT,
    Spent,
    current,
    effective,
    known_by,
    shortfall,
    unlimited,
)
from postroad.store.records import Allowed, Shortfall
from postroad.values.address import Address
from postroad.values.facts import Facts
from postroad.values.ports import Clock
from postroad.values.reply import Reply

FRESH_S: Final = 1.0
"""Age of counts that still do for an early answer."""
NEAR: Final = 50
"""Messages and recipients before a limit from which counts are read for every message."""
REMEMBERED_MAX: Final = 50_000
"""Accounts, and recipients of accounts, that are remembered: some 8 MB at most."""

_TEXTS: Final = {
    MANY_MESSAGES: "Your limit is {limit} message{s} an hour, and {used} were sent. Try again after {free} UTC.",
    MANY_RECIPIENTS: "Your limit is {limit} recipient{s} a day: {used} were used, this message needs {wanted}. "
    "Try again after {day} {free} UTC.",
    MANY_NEW: "Your limit is {limit} recipient{s} a day that you have not written to before: {used} were used, this "
    "message needs {wanted}. Try again after {day} {free} UTC; to known recipients you can send at any time.",
    MANY_AT_ONCE: "Your limit is {limit} recipient{s} of one message. Send the others another message.",
    REMOVED_ACCOUNT: "This account was disabled or removed.",
}


@dataclass(frozen=True, slots=True)
class Denied(Reply):
    """A refusal with its stable word."""

    why: str = ""


def denied(short: Shortfall) -> Denied:
    """What the user is told: the limit, what is used of it, and when it is free again."""
    text = _TEXTS[short.why].format(
        limit=short.limit,
        s="" if short.limit == 1 else "s",
        used=short.used,
        wanted=short.wanted,
        free=clock_text(short.free_us),
        day=day_text(short.free_us),
    )
    if short.why == REMOVED_ACCOUNT:
        return Denied(554, "5.7.1", text, why=short.why)
    # RFC 5321 section 4.5.3.1.10: 452 is for too many recipients, and the client tries the others again;
    # RFC 3463 section 3.6, X.5.3: "More recipients were specified for the message than could have been delivered".
    return Denied(452, "4.5.3" if short.why == MANY_AT_ONCE else "4.7.1", text, why=short.why)


def day_text(at_us: int) -> str:
    """The date of that minute in UTC: a day that is over tomorrow at eight is not over today at eight."""
    return time.strftime("%Y-%m-%d", time.gmtime(-(-at_us // 60_000_000) * 60))


def clock_text(at_us: int) -> str:
    """The minute at which a time lies in the past, as HH:MM of UTC."""
    return time.strftime("%H:%M", time.gmtime(-(-at_us // 60_000_000) * 60))


class Counts(Protocol):
    """What accounts have sent (`store.allowances.Spendings`)."""

    async def spent(self, account: int) -> tuple[Spent, Allowed]: ...
    async def has_met(self, account: int, recipient: bytes) -> bool: ...


class Budget:
    """What one account may still send with the transaction that begins.

    Invariant: recipients that were let through are counted, each once, also when somebody else refuses them then.
    """

    __slots__ = ("_account", "_allowed", "_counts", "_new", "_recipients", "_spent", "_unlimited")

    def __init__(self, counts: Counts, account: int, spent: Spent, allowed: Allowed) -> None:
        """`spent` is current and `allowed` effective (`store.allowances`)."""
        self._counts = counts
        self._account = account
        self._spent = spent
        self._allowed = allowed
        self._unlimited = unlimited(allowed)
        self._recipients: set[bytes] = set()
        self._new = 0

    def may_begin(self) -> Denied | None:
        """Whether one more message may be sent, to anybody."""
        short = shortfall(self._spent, self._allowed, 1, 0)
        return denied(short) if short is not None else None

    async def may_add(self, recipient: Address) -> Denied | None:
        """Whether it may go to one recipient more, who then counts."""
        known = known_by(recipient)
        if self._unlimited or known in self._recipients:
            return None
        new = self._new
        if self._allowed.first_time_recipients_per_day and not await self._counts.has_met(self._account, known):
            new += 1
        # Somebody known is not refused because of those who are not.
        first_time = new if new > self._new else 0
        short = shortfall(self._spent, self._allowed, len(self._recipients) + 1, first_time)
        if short is not None:
            return denied(short)
        self._new = new
        self._recipients.add(known)
        return None


def allowed(section: config.Sending) -> Allowed:
    """The limits of a configuration."""
    return Allowed(
        messages_per_hour=section.messages_per_hour,
        recipients_per_day=section.recipients_per_day,
        first_time_recipients_per_day=section.first_time_recipients_per_day,
        recipients_per_message=section.recipients_per_message,
    )


class Seen:
    """Counts that were read a moment ago, so that a client in full flow does not have them read for every message.

    Invariant: what is near a limit is read anew, and of recipients only "known" is remembered, which stays true.
    """

    __slots__ = ("_counts", "_general", "_known", "_monotonic", "_spent")

    def __init__(self, counts: Counts, general: Allowed, monotonic: Callable[[], float]) -> None:
        self._counts = counts
        self._general = general
        self._monotonic = monotonic
        self._spent: dict[int, tuple[float, Spent, Allowed]] = {}
        """Only of accounts that have plenty left."""
        self._known: set[tuple[int, bytes]] = set()

    async def spent(self, account: int) -> tuple[Spent, Allowed]:
        """As of now, or of less than `FRESH_S` ago where plenty is left."""
        now = self._monotonic()
        seen = self._spent.get(account)
        if seen is not None and now - seen[0] < FRESH_S:
            return seen[1], seen[2]
        spent, own = await self._counts.spent(account)
        if len(self._spent) >= REMEMBERED_MAX:
            self._spent.clear()
        if self._plenty(spent, own):
            self._spent[account] = (now, spent, own)
        else:
            self._spent.pop(account, None)
        return spent, own

    def _plenty(self, spent: Spent, own: Allowed) -> bool:
        allowed = effective(own, self._general)
        return (
            shortfall(
                spent._replace(messages=spent.messages + NEAR, recipients=spent.recipients + NEAR), allowed, NEAR, NEAR
            )
            is None
        )

    async def has_met(self, account: int, recipient: bytes) -> bool:
        """Whether an account has sent to a recipient before."""
        key = (account, recipient)
        if key in self._known:
            return True
        met = await self._counts.has_met(account, recipient)
        if met:
            if len(self._known) >= REMEMBERED_MAX:
                self._known.clear()
            self._known.add(key)
        return met


class Allowances:
    """The allowances of all accounts as one worker sees them (a port of `rules`).

    Invariant: a session has a budget only from its MAIL on, and at most one.
    """

    __slots__ = ("_budgets", "_clock", "_counts", "_general")

    def __init__(self, counts: Counts, general: Allowed, clock: Clock) -> None:
        """`general` are the limits of the configuration."""
        self._counts = Seen(counts, general, clock.monotonic)
        self._general = general
        self._clock = clock
        self._budgets: dict[int, Budget] = {}

    async def ask(self, facts: Facts) -> tuple[str, Reply] | None:
        """None, or the limit that is passed: at MAIL by one more message, at RCPT by one more recipient of it."""
        session, recipient = facts.session, facts.recipient
        if recipient is None or session not in self._budgets:
            self._budgets[session] = await self._budget(facts.account)
        budget = self._budgets[session]
        answer = budget.may_begin() if recipient is None else await budget.may_add(recipient)
        return None if answer is None else (answer.why, answer)

    async def _budget(self, account: int) -> Budget:
        spent, own = await self._counts.spent(account)
        now_us = self._clock.wall_us()
        return Budget(self._counts, account, current(spent, now_us), effective(own, self._general))

    def ended(self, session: int) -> None:
        """The session is over: its budget goes."""
        self._budgets.pop(session, None)
