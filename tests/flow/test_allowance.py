"""Early answers: a user learns at MAIL or RCPT what the store would refuse, in the same words."""

from __future__ import annotations

import pytest

from postroad.flow.allowance import Allowances, clock_text, day_text, denied
from postroad.rules.words import WORDS
from postroad.store.allowances import (
    DAY_US,
    HOUR_US,
    MANY_AT_ONCE,
    MANY_MESSAGES,
    MANY_NEW,
    MANY_RECIPIENTS,
    REMOVED_ACCOUNT,
    Spent,
    known_by,
)
from postroad.store.records import Allowed, Shortfall
from postroad.values.address import Address
from postroad.values.facts import Facts, Stage
from postroad.values.reply import Reply
from tests.fakes.clock import FakeClock

B, C, D = (Address.parse(f"{name}@h.test") for name in "bcd")


class Counts:
    """What account 7 has sent, and to whom."""

    def __init__(self, spent: Spent = Spent(), own: Allowed = Allowed(), met: tuple[Address, ...] = ()) -> None:  # noqa: B008
        self.values = (spent, own)
        self.met = {known_by(one) for one in met}
        self.asked = 0

    async def spent(self, account: int) -> tuple[Spent, Allowed]:
        assert account == 7
        return self.values

    async def has_met(self, account: int, recipient: bytes) -> bool:
        self.asked += 1
        return recipient in self.met


class Session:
    """What the rules ask in one session of account 7."""

    def __init__(self, counts: Counts, clock: FakeClock | None = None, **general: int) -> None:
        self.port = Allowances(counts, Allowed(**general), clock or FakeClock())

    async def mail(self) -> tuple[str, Reply] | None:
        return await self.port.ask(Facts(Stage.MAIL, session=3, account=7))

    async def rcpt(self, recipient: Address) -> tuple[str, Reply] | None:
        return await self.port.ask(Facts(Stage.RCPT, session=3, account=7, recipient=recipient))

    async def said(self, *recipients: Address) -> list[str]:
        """The words for one message to these recipients."""
        assert await self.mail() is None
        return [why(await self.rcpt(recipient)) for recipient in recipients]


def why(answer: tuple[str, Reply] | None) -> str:
    return answer[0] if answer is not None else ""


async def test_mail_is_refused_when_the_hour_is_full_and_free_when_it_is_over() -> None:
    clock = FakeClock()
    session = Session(Counts(Spent(clock.wall_us(), 5)), clock, messages_per_hour=5)
    assert why(await session.mail()) == MANY_MESSAGES
    clock.advance(3600)
    assert await session.mail() is None


async def test_recipients_of_a_message_are_counted_each_once() -> None:
    clock = FakeClock()
    session = Session(Counts(Spent(0, 0, clock.wall_us(), 8)), clock, recipients_per_day=10)
    for _ in range(2):  # a message that was begun and given up has used nothing
        assert await session.said(B, C, B, D, C) == ["", "", "", MANY_RECIPIENTS, ""]


async def test_known_recipients_are_taken_when_no_more_new_ones_are() -> None:
    session = Session(Counts(met=(C,)), first_time_recipients_per_day=1)
    assert await session.said(B, D, C) == ["", MANY_NEW, ""]


async def test_too_many_at_once_is_what_a_client_splits() -> None:
    session = Session(Counts(), recipients_per_message=2)
    assert await session.said(B, C) == ["", ""]
    answer = await session.rcpt(D)
    assert answer is not None
    assert (answer[0], answer[1].code, answer[1].enhanced) == (MANY_AT_ONCE, 452, "4.5.3")


async def test_who_has_no_limits_costs_no_look() -> None:
    counts = Counts(own=Allowed(0, 0, 0, 0))
    session = Session(counts, messages_per_hour=1, recipients_per_day=1, first_time_recipients_per_day=1)
    assert await session.said(B, C) == ["", ""]
    assert counts.asked == 0


async def test_nothing_is_kept_of_a_session_that_is_over() -> None:
    session = Session(Counts(), recipients_per_message=1)
    assert await session.said(B) == [""]
    session.port.ended(3)
    session.port.ended(4)
    assert session.port._budgets == {}


@pytest.mark.parametrize(
    "short, said",
    [
        (
            Shortfall(MANY_MESSAGES, 200, 200, 1, 1_767_276_300_000_000),
            "452 4.7.1 Your limit is 200 messages an hour, and 200 were sent. Try again after 14:05 UTC.",
        ),
        (
            Shortfall(MANY_RECIPIENTS, 50, 48, 3, 1_767_276_300_000_000),
            (
                "452 4.7.1 Your limit is 50 recipients a day: 48 were used, this message needs 3. "
                "Try again after 2026-01-01 14:05 UTC."
            ),
        ),
        (
            Shortfall(MANY_NEW, 50, 50, 1, 1_767_276_300_000_000),
            (
                "452 4.7.1 Your limit is 50 recipients a day that you have not written to before: 50 were used, this "
                "message needs 1. Try again after 2026-01-01 14:05 UTC; to known recipients you can send at any time."
            ),
        ),
        (
            Shortfall(MANY_AT_ONCE, 20, 0, 21),
            "452 4.5.3 Your limit is 20 recipients of one message. Send the others another message.",
        ),
        (Shortfall(REMOVED_ACCOUNT), "554 5.7.1 This account was disabled or removed."),
    ],
)
def test_the_answer_names_the_limit_and_when_it_is_free_again(short: Shortfall, said: str) -> None:
    answer = denied(short)
    assert str(answer) == said
    assert answer.why == short.why
    assert answer.why in WORDS
    assert len(answer.wire()) <= 512


def test_the_minute_said_is_never_too_early() -> None:
    assert clock_text(0) == "00:00"
    assert clock_text(1) == "00:01"
    assert clock_text(HOUR_US) == "01:00"
    assert clock_text(DAY_US - 1) == "00:00"
    assert day_text(DAY_US - 1) == "1970-01-02"
