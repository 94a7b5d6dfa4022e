"""What the store remembers of other servers' TLS, on both engines."""

from __future__ import annotations

from typing import Any

import pytest

from postroad.store.engine import Params, Row
from postroad.store.queue import accept, claim
from postroad.store.records import TLS_REQUIRED, Claim
from postroad.store.tls import (
    RETRY_US,
    Counted,
    KeptLevel,
    KeptPolicy,
    ReportDay,
    SeenLevels,
    StsPolicy,
    TakeReports,
    TlsCounts,
    TlsMemory,
    sts_keep,
    tls_count,
    tls_levels,
    tls_report_done,
    tls_reports_take,
)
from tests.store.stores import START_US, Desk, leg, sample

HOUR_US = 3_600_000_000


class Rows:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def rows(self, sql: str, params: Params = ()) -> list[Row]:
        return self._desk.rows(sql, *params)


@pytest.fixture
def memory(desk: Desk) -> TlsMemory:
    return TlsMemory(Rows(desk))


def counted(sessions: int, result: str = "", **changes: Any) -> Counted:
    fields: dict[str, Any] = {
        "day": 20_000,
        "domain": "a.test",
        "policy": "{}",
        "host": "",
        "address": "",
        "detail": "",
    } | changes
    return Counted(**fields, result=result, sessions=sessions)


def test_the_wish_for_tls_goes_with_the_delivery(desk: Desk) -> None:
    desk.run(accept, sample(1, legs=[leg(1001)], tls=TLS_REQUIRED))
    desk.run(accept, sample(2, legs=[leg(1002)]))
    claimed = desk.run(claim, Claim(5, 10, [60.0]))
    assert {due.id: due.tls for due in claimed.deliveries} == {1001: TLS_REQUIRED, 1002: 0}


async def test_a_policy_replaces_the_older_one(desk: Desk, memory: TlsMemory) -> None:
    assert await memory.sts("a.test") is None
    desk.run(sts_keep, StsPolicy("a.test", "one", "text", START_US + 10))
    desk.run(sts_keep, StsPolicy("a.test", "two", "other", START_US + 20))
    assert await memory.sts("a.test") == KeptPolicy("two", "other", START_US, START_US + 20)


async def test_expired_policies_go_with_the_next_one(desk: Desk, memory: TlsMemory) -> None:
    desk.run(sts_keep, StsPolicy("old.test", "one", "text", START_US + 1_000_000))
    desk.clock.advance(2)
    desk.run(sts_keep, StsPolicy("a.test", "one", "text", desk.clock.wall_us() + HOUR_US))
    assert await memory.sts("old.test") is None
    now_us = desk.clock.wall_us()
    assert await memory.stale(now_us, now_us + 2 * HOUR_US, now_us, 10) == ["a.test"]
    assert await memory.stale(now_us, now_us + 1, now_us, 10) == []
    assert await memory.stale(now_us + 1, now_us + 1, now_us, 10) == ["a.test"]
    assert await memory.stale(now_us + 1, now_us + 1, now_us + 2 * HOUR_US, 10) == []


async def test_levels_are_remembered(desk: Desk, memory: TlsMemory) -> None:
    assert await memory.level("a.test") is None
    desk.run(tls_levels, SeenLevels([("a.test", 2, 10, 20), ("b.test", 0, 1, 1)]))
    desk.run(tls_levels, SeenLevels([("a.test", 1, 30, 30)]))
    assert await memory.level("a.test") == KeptLevel(1, 30, 30)


async def test_counts_add_up_and_plan_one_report(desk: Desk, memory: TlsMemory) -> None:
    due = START_US + HOUR_US
    desk.run(tls_count, TlsCounts([counted(3), counted(2, "certificate-expired", host="mx")], due, due + HOUR_US))
    desk.run(tls_count, TlsCounts([counted(4)], due + 5, due + 5))
    report = ReportDay(20_000, "a.test")
    assert await memory.sessions(report) == [counted(7), counted(2, "certificate-expired", host="mx")]
    assert desk.rows("SELECT due_us FROM tls_reports") == [(due,)]


async def test_a_due_report_is_given_to_one_and_an_hour_later_to_the_next(desk: Desk, memory: TlsMemory) -> None:
    due = START_US + HOUR_US
    desk.run(tls_count, TlsCounts([counted(1)], due, due + 24 * HOUR_US))
    report = ReportDay(20_000, "a.test")
    take = TakeReports(10)
    assert desk.run(tls_reports_take, take).reports == []
    desk.clock.advance(3600)
    assert desk.run(tls_reports_take, take).reports == [report]
    assert desk.run(tls_reports_take, take).reports == []
    desk.clock.advance(RETRY_US / 1e6)
    assert desk.run(tls_reports_take, take).reports == [report]
    desk.run(tls_report_done, report)
    desk.clock.advance(RETRY_US / 1e6)
    assert desk.run(tls_reports_take, take).reports == []
    assert desk.count("tls_sessions") == desk.count("tls_reports") == 0


async def test_a_report_whose_time_is_over_is_forgotten(desk: Desk) -> None:
    desk.run(tls_count, TlsCounts([counted(1), counted(1, day=20_001)], START_US, START_US + 24 * HOUR_US))
    desk.clock.advance(25 * 3600)
    assert desk.run(tls_reports_take, TakeReports(10)).reports == []
    assert desk.count("tls_sessions") == desk.count("tls_reports") == 0


async def test_looking_for_reports_costs_no_commit(desk: Desk) -> None:
    before = desk.rows("SELECT last_batch FROM writers")
    desk.run(tls_reports_take, TakeReports(10))
    assert desk.rows("SELECT last_batch FROM writers") == before


async def test_a_large_report_is_forgotten_in_slices(desk: Desk) -> None:
    for at in range(0, 600, 200):
        rows = [counted(1, "x", host=f"mx{number}") for number in range(at, at + 200)]
        desk.run(tls_count, TlsCounts(rows, START_US, START_US + HOUR_US))
    report = ReportDay(20_000, "a.test")
    desk.run(tls_report_done, report)
    assert (desk.count("tls_sessions"), desk.count("tls_reports")) == (100, 1)
    desk.run(tls_report_done, report)
    assert (desk.count("tls_sessions"), desk.count("tls_reports")) == (0, 0)
