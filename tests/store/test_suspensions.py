"""What the store keeps of suspended sites, and deliveries that were put off without an attempt; on both engines."""

from __future__ import annotations

from typing import Any

import pytest

from postroad.store.engine import Params, Row
from postroad.store.queue import claim, record
from postroad.store.records import Claim, Later, Recorded
from postroad.store.suspensions import (
    DOMAINS_NOTED,
    LIFTED_TOLD_US,
    Lift,
    Resumption,
    Shaped,
    Slowdown,
    Suspended,
    Suspension,
    forget_suspension,
    lift_suspension,
    note_slowdown,
    note_suspension,
    shaped_sites,
    suspended_sites,
)
from tests.store.stores import START_US, Desk, leg

HOUR_US = 3_600_000_000


class Rows:
    """The port of a worker's reads."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def rows(self, sql: str, params: Params = ()) -> list[Row]:
        return self.rows_now(sql, params)

    def rows_now(self, sql: str, params: Params = ()) -> list[Row]:
        return self.desk.connection.execute(sql, params)


async def sites(desk: Desk) -> list[Suspended]:
    return sorted(await suspended_sites(Rows(desk), desk.clock.wall_us()))


async def test_a_suspension_is_read_back_and_told_to_the_others(desk: Desk) -> None:
    desk.run(note_suspension, Suspension("google", ["a.test", "b.test"], START_US + HOUR_US, "google: unusual-rate"))
    assert await sites(desk) == [Suspended("google", START_US + HOUR_US, "google: unusual-rate")]
    assert ("suspensions", 0) in desk.writer.hints
    assert desk.rows("SELECT domain FROM suspensions ORDER BY domain") == [("a.test",), ("b.test",)]


async def test_that_only_a_source_address_is_refused_is_kept_and_a_refusal_of_all_mail_counts_for_more(
    desk: Desk,
) -> None:
    until_us = START_US + HOUR_US
    desk.run(note_suspension, Suspension("192.0.2.1>google", ["a.test"], until_us, "x", by_source=True))
    assert await sites(desk) == [Suspended("192.0.2.1>google", until_us, "x", by_source=True)]
    desk.run(note_suspension, Suspension("192.0.2.1>google", ["b.test"], until_us, "x"))
    assert await sites(desk) == [Suspended("192.0.2.1>google", until_us, "x")]


async def test_a_domain_may_be_added_and_stands_once(desk: Desk) -> None:
    for until in (1, 2):
        desk.run(note_suspension, Suspension("google", ["a.test"], START_US + until * HOUR_US, "x"))
    assert desk.rows("SELECT domain, until_us FROM suspensions") == [("a.test", START_US + 2 * HOUR_US)]


async def test_a_lifted_one_is_told_for_a_moment_and_then_gone(desk: Desk) -> None:
    for domain in ("a.test", "b.test"):
        desk.run(note_suspension, Suspension("google", [domain], START_US + HOUR_US, "x"))
    desk.writer.hints.clear()
    assert desk.run(lift_suspension, Lift("google")) == 2
    assert ("suspensions", 0) in desk.writer.hints
    assert await sites(desk) == [Suspended("google", START_US + LIFTED_TOLD_US, "x", lifted=True)]
    desk.writer.hints.clear()
    assert desk.run(lift_suspension, Lift("google")) == 0
    assert desk.writer.hints == []
    desk.clock.advance(61.0)
    assert await sites(desk) == []


async def test_what_is_suspended_again_after_a_lift_counts(desk: Desk) -> None:
    desk.run(note_suspension, Suspension("google", ["a.test", "b.test"], START_US + HOUR_US, "x"))
    desk.run(lift_suspension, Lift("google"))
    desk.run(note_suspension, Suspension("google", ["a.test"], START_US + 2 * HOUR_US, "again"))
    assert await sites(desk) == [Suspended("google", START_US + 2 * HOUR_US, "again")]


async def test_a_slowdown_is_told_until_its_end_and_ends_no_mail(desk: Desk) -> None:
    for minutes in (10, 20):
        until_us = START_US + minutes * 60_000_000
        desk.run(note_slowdown, Slowdown("google", until_us, "busy"))
        assert ("suspensions", 0) in desk.writer.hints
        assert await sites(desk) == [Suspended("google", until_us, "busy", slowed=True)]
    desk.run(note_suspension, Suspension("google", ["a.test"], START_US + HOUR_US, "x"))
    assert [one.slowed for one in await sites(desk)] == [True, False]
    desk.clock.advance(1201.0)
    assert [one.slowed for one in await sites(desk)] == [False]


async def test_it_ends_with_its_time_or_before(desk: Desk) -> None:
    desk.run(note_suspension, Suspension("google", ["a.test"], START_US + HOUR_US, "x"))
    desk.run(note_suspension, Suspension("yahoo", ["b.test"], START_US + 2 * HOUR_US, "y"))
    desk.clock.advance(3601.0)
    assert [one.site for one in await sites(desk)] == ["yahoo"]
    desk.writer.hints.clear()
    desk.run(forget_suspension, Resumption("yahoo"))
    assert await sites(desk) == []
    assert ("suspensions", 0) in desk.writer.hints
    desk.writer.hints.clear()
    desk.run(forget_suspension, Resumption("yahoo"))
    assert desk.writer.hints == []


async def test_rows_whose_time_is_up_are_removed_by_the_next(desk: Desk) -> None:
    desk.run(note_suspension, Suspension("google", ["a.test"], START_US + HOUR_US, "x"))
    desk.clock.advance(3601.0)
    desk.run(note_suspension, Suspension("yahoo", ["b.test"], START_US + 9 * HOUR_US, "y"))
    assert desk.rows("SELECT site FROM suspensions") == [("yahoo",)]


def test_one_call_touches_no_more_rows_than_a_unit_may(desk: Desk) -> None:
    many = [f"d{n}.test" for n in range(DOMAINS_NOTED + 50)]
    desk.run(note_suspension, Suspension("google", many, START_US + HOUR_US, "x"))
    assert desk.count("suspensions") == DOMAINS_NOTED


@pytest.mark.parametrize("untried, attempts", [(True, 0), (False, 1)])
def test_what_was_put_off_untried_counts_as_no_attempt(desk: Desk, untried: bool, attempts: int) -> None:
    desk.accept(1, legs=[leg(10)])
    desk.writer.live.add(5)
    assert len(desk.run(claim, Claim(5, 10, [120.0]), 5).deliveries) == 1
    desk.run(record, Recorded(5, [], [Later(10, START_US + 7, "later", untried=untried)], []))
    assert desk.rows("SELECT attempts, due_us, owner FROM deliveries") == [(attempts, START_US + 7, 0)]


def test_what_is_given_back_for_another_worker_is_hinted_at(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10), leg(11)])
    desk.writer.live.add(5)
    desk.run(claim, Claim(5, 10, [120.0]), 5)
    desk.writer.hints.clear()
    desk.run(record, Recorded(5, [], [Later(10, START_US + HOUR_US, "", untried=True)], []))
    assert desk.writer.hints == []
    desk.run(record, Recorded(5, [], [Later(11, START_US, "", untried=True)], []))
    assert desk.writer.hints == [("queue", 0)]


def test_a_claimed_delivery_names_who_submitted_it(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10)], login="anna@example.org")
    assert desk.run(claim, Claim(5, 10, [120.0]), 5).deliveries[0].login == "anna@example.org"


def test_what_people_see_is_each_site_once_with_what_waits_for_it(desk: Desk) -> None:
    for ident, domain in enumerate(("a.test", "b.test", "c.test"), 1):
        desk.accept(ident, legs=[leg(10 * ident, f"x@{domain}")])
    soon, late = START_US + HOUR_US, START_US + 2 * HOUR_US
    desk.run(note_suspension, Suspension("192.0.2.1>google", ["a.test", "b.test"], late, "x", by_source=True))
    desk.run(note_suspension, Suspension("yahoo", ["c.test"], soon, "y"))
    desk.run(note_suspension, Suspension("lifted", ["a.test"], soon, "z"))
    desk.run(lift_suspension, Lift("lifted"))
    desk.run(note_slowdown, Slowdown("google", late, "busy"))
    reads: Any = Rows(desk)
    assert shaped_sites(reads, desk.clock.wall_us()) == [
        Shaped("yahoo", soon, "y", False, 1, 1),
        Shaped("192.0.2.1>google", late, "x", True, 2, 2),
        Shaped("google", late, "busy", False, 0, 0, slowed=True),
    ]
