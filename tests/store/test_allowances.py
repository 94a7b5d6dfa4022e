"""Allowances on both engines: what is counted, what is refused, and that no race gets past a limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import pytest

from postroad.store.account_records import (
    NO_ACCOUNT,
    NOT_A_LIMIT,
    DomainAdd,
    UserAdd,
    UserDisable,
    UserLimits,
    UserRemove,
)
from postroad.store.accounts import domain_add, user_add, user_disable, user_limits, user_remove
from postroad.store.allowances import (
    DAY_US,
    HOUR_US,
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
from postroad.store.engine import Connection
from postroad.store.mailbox_records import Sweep
from postroad.store.mailbox_sweep import sweep_mailboxes
from postroad.store.queue import accept
from postroad.store.records import Allowed, Sending, Shortfall
from postroad.store.units import ROWS_PER_UNIT
from postroad.values.address import Address
from tests.fakes.clock import FakeClock
from tests.store.stores import START_US, Desk, leg, sample

NOW = START_US
NONE = Allowed(0, 0, 0, 0)


# -- pure ------------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    allowed: Allowed
    spent: Spent
    recipients: int
    first_time: int
    short: Shortfall | None


FULL = Spent(NOW, 10, NOW, 100, 20)


@pytest.mark.parametrize(
    "case",
    [
        Case(NONE, FULL, 1000, 1000, None),
        Case(Allowed(11, 0, 0, 0), FULL, 1, 0, None),
        Case(Allowed(10, 0, 0, 0), FULL, 1, 0, Shortfall(MANY_MESSAGES, 10, 10, 1, NOW + HOUR_US)),
        Case(Allowed(0, 105, 0, 0), FULL, 5, 0, None),
        Case(Allowed(0, 105, 0, 0), FULL, 6, 0, Shortfall(MANY_RECIPIENTS, 105, 100, 6, NOW + DAY_US)),
        Case(Allowed(0, 0, 21, 0), FULL, 9, 1, None),
        Case(Allowed(0, 0, 21, 0), FULL, 9, 2, Shortfall(MANY_NEW, 21, 20, 2, NOW + DAY_US)),
        Case(Allowed(0, 0, 5, 0), FULL, 9, 0, None),  # lowered below what is used: known recipients are still free
        Case(Allowed(0, 0, 0, 9), FULL, 9, 9, None),
        Case(Allowed(0, 0, 0, 9), FULL, 10, 0, Shortfall(MANY_AT_ONCE, 9, 0, 10, 0)),
    ],
)
def test_what_passes_a_limit(case: Case) -> None:
    assert shortfall(case.spent, case.allowed, case.recipients, case.first_time) == case.short


def test_an_hour_and_a_day_end_each_at_its_own_time() -> None:
    spent = Spent(NOW, 1, NOW, 2, 3)
    assert current(spent, NOW + HOUR_US - 1) == spent
    assert current(spent, NOW + HOUR_US) == Spent(NOW + HOUR_US, 0, NOW, 2, 3)
    assert current(spent, NOW + DAY_US) == Spent(NOW + DAY_US, 0, NOW + DAY_US, 0, 0)
    assert current(spent, NOW - 1) == spent, "the clock of another machine is a little ahead"


def test_an_accounts_own_limit_wins_also_when_it_is_none() -> None:
    general = Allowed(1, 2, 3, 4)
    assert effective(Allowed(), general) == general
    assert effective(Allowed(0, None, 30), general) == Allowed(0, 2, 30, 4)
    assert effective(Allowed(), Allowed()) == NONE
    assert unlimited(NONE)
    assert not unlimited(Allowed(0, 0, 0, 1))


def test_spellings_of_one_recipient_are_one() -> None:
    assert known_by(Address.parse("B@Example.NET")) == known_by(Address.parse("b@example.net"))
    assert known_by(Address.parse("b@example.net")) != known_by(Address.parse("c@example.net"))


# -- counting --------------------------------------------------------------------------------------------------------


@pytest.fixture
def anna(desk: Desk) -> int:
    return account(desk)


def account(desk: Desk, address: str = "anna@dev.test") -> int:
    desk.run(domain_add, DomainAdd("dev.test"))
    return desk.run(user_add, UserAdd(address)).id


def send(desk: Desk, who: int, ident: int, *recipients: bytes, **allowed: int) -> Shortfall | None:
    """Submits a message; what was in its way."""
    one = Sending(account=who, recipients=list(recipients), allowed=Allowed(**allowed))
    return desk.accept(ident, legs=[leg(ident + 1000)], sending=one).short


def test_messages_are_counted_up_to_the_limit_and_again_in_the_next_hour(desk: Desk, anna: int) -> None:
    assert [send(desk, anna, ident, b"b", messages_per_hour=2) for ident in (1, 2)] == [None, None]
    desk.clock.advance(3599)
    assert send(desk, anna, 3, b"b", messages_per_hour=2) == Shortfall(MANY_MESSAGES, 2, 2, 1, START_US + HOUR_US)
    desk.clock.advance(1)
    assert send(desk, anna, 4, b"b", messages_per_hour=2) is None
    assert desk.rows("SELECT id FROM messages ORDER BY id") == [(1,), (2,), (4,)]


def test_what_is_refused_is_neither_stored_nor_counted(desk: Desk, anna: int) -> None:
    send(desk, anna, 1, b"b", recipients_per_day=2, first_time_recipients_per_day=9)
    short = send(desk, anna, 2, b"c", b"d", recipients_per_day=2, first_time_recipients_per_day=9)
    assert short == Shortfall(MANY_RECIPIENTS, 2, 1, 2, START_US + DAY_US)
    assert desk.rows("SELECT messages, recipients, first_time FROM sending") == [(1, 1, 1)]
    assert [desk.count(table) for table in ("messages", "deliveries", "history", "journal", "met")] == [1] * 5
    assert send(desk, anna, 3, b"c", recipients_per_day=2) is None


def test_only_strangers_count_as_new(desk: Desk, anna: int) -> None:
    limit = {"first_time_recipients_per_day": 3}
    assert send(desk, anna, 1, b"b", b"c", **limit) is None
    assert send(desk, anna, 2, b"b", b"c", b"d", **limit) is None
    assert send(desk, anna, 3, b"e", **limit) == Shortfall(MANY_NEW, 3, 3, 1, START_US + DAY_US)
    assert send(desk, anna, 4, b"b", b"d", **limit) is None
    desk.clock.advance(86_400)
    assert send(desk, anna, 5, b"e", **limit) is None
    assert desk.rows("SELECT first_time FROM sending") == [(1,)]


def test_two_messages_of_one_batch_see_each_other(desk: Desk, anna: int) -> None:
    def calls(*idents: int) -> list[object]:
        allowed = Allowed(messages_per_hour=1, first_time_recipients_per_day=5)
        one = Sending(account=anna, recipients=[b"b"], allowed=allowed)
        return [result.value.short for result in desk.batch([(accept, sample(i, sending=one)) for i in idents])]

    assert calls(1, 2) == [None, Shortfall(MANY_MESSAGES, 1, 1, 1, START_US + HOUR_US)]
    assert desk.count("met") == 1


def test_a_message_to_more_recipients_than_one_statement_takes(desk: Desk, anna: int) -> None:
    many = [b"%d" % n for n in range(ROWS_PER_UNIT * 2 + 1)]
    assert send(desk, anna, 1, *many, first_time_recipients_per_day=2000) is None
    assert send(desk, anna, 2, *many, b"new", first_time_recipients_per_day=2000) is None
    assert desk.rows("SELECT recipients, first_time FROM sending") == [(2 * len(many) + 1, len(many) + 1)]


def test_accounts_do_not_share(desk: Desk, anna: int) -> None:
    ben = account(desk, "ben@dev.test")
    assert [send(desk, who, who, b"b", messages_per_hour=1) for who in (anna, ben)] == [None, None]


def test_two_writers_race_for_the_last_places(connect: Callable[[], Connection]) -> None:
    """As two machines on one PostgreSQL do; on SQLite the writers take turns."""
    desks = [Desk(connect(), FakeClock(START_US)) for _ in range(2)]
    who = account(desks[0])
    limit, tries = 25, 20
    limits = {"messages_per_hour": limit, "first_time_recipients_per_day": 99}
    taken: list[list[int]] = [[], []]
    together = threading.Barrier(2)

    def rush(which: int) -> None:
        for number in range(tries):
            together.wait(5)
            ident = 1 + 2 * number + which
            short = send(desks[which], who, ident, b"%d" % number, **limits)
            if short is None:
                taken[which].append(ident)

    threads = [threading.Thread(target=rush, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken[0]) + len(taken[1]) == limit
    [(messages, first_time)] = desks[0].rows("SELECT messages, first_time FROM sending")
    assert (messages, first_time) == (limit, desks[0].count("met"))
    assert desks[0].count("messages") == limit


# -- limits of an account's own --------------------------------------------------------------------------------------


def test_an_account_may_have_limits_of_its_own(desk: Desk, anna: int) -> None:
    assert desk.run(user_limits, UserLimits("Anna@dev.test", {"messages_per_hour": 2})).id == anna
    assert [send(desk, anna, i, b"b", messages_per_hour=1) is None for i in (1, 2, 3)] == [True, True, False]
    desk.run(user_limits, UserLimits("anna@dev.test", {"recipients_per_day": 7, "messages_per_hour": 0}))
    assert send(desk, anna, 4, b"b", messages_per_hour=1) is None
    desk.run(user_limits, UserLimits("anna@dev.test", {"messages_per_hour": None}))
    assert send(desk, anna, 5, b"b", messages_per_hour=1) is not None
    assert desk.rows("SELECT messages_per_hour, recipients_per_day FROM sending") == [(None, 7)]


@pytest.mark.parametrize("limits", [{"messages_per_hour": -1}, {"recipients_per_day": 1 << 40}, {"account": 3}])
def test_what_is_no_limit_changes_nothing(desk: Desk, anna: int, limits: dict[str, int | None]) -> None:
    assert (
        desk.run(user_limits, UserLimits("anna@dev.test", {"recipients_per_message": 4, **limits})).word == NOT_A_LIMIT
    )
    assert desk.count("sending") == 0
    assert desk.run(user_limits, UserLimits("nobody@dev.test", {})).word == NO_ACCOUNT


# -- the end of an account -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent_before", [True, False])
def test_an_account_that_is_disabled_while_it_is_logged_in_sends_nothing(
    desk: Desk, anna: int, sent_before: bool
) -> None:
    if sent_before:
        assert send(desk, anna, 1, b"b", messages_per_hour=9) is None
    desk.run(user_disable, UserDisable("anna@dev.test", disabled=True))
    short = send(desk, anna, 2, b"b", messages_per_hour=9)
    assert short is not None
    assert short.why == REMOVED_ACCOUNT
    desk.run(user_disable, UserDisable("anna@dev.test", disabled=False))
    assert send(desk, anna, 3, b"b", messages_per_hour=9) is None


def test_an_account_sends_nothing_while_its_removal_is_carried_out(desk: Desk, anna: int) -> None:
    assert send(desk, anna, 1, b"b", messages_per_hour=9) is None
    desk.run(user_remove, UserRemove("anna@dev.test"))
    short = send(desk, anna, 2, b"b", messages_per_hour=9)
    assert short is not None
    assert short.why == REMOVED_ACCOUNT


def test_a_removed_account_sends_nothing_and_leaves_nothing(desk: Desk, anna: int) -> None:
    many = [b"%d" % n for n in range(ROWS_PER_UNIT + 1)]
    send(desk, anna, 1, *many, first_time_recipients_per_day=1000)
    desk.run(user_remove, UserRemove("anna@dev.test"))
    for _ in range(20):
        if not desk.run(sweep_mailboxes, Sweep(jobs=1)).more:
            break
    assert [desk.count(table) for table in ("accounts", "sending", "met", "mailbox_jobs")] == [0] * 4
    short = send(desk, anna, 2, b"b", messages_per_hour=9)
    assert short is not None
    assert short.why == REMOVED_ACCOUNT
