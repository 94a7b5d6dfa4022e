"""A rate is never exceeded in any span, and nothing waits longer than it must."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.values.rate import Rate


@pytest.mark.parametrize(
    "limit, at_once",
    [(1, 1), (2, 1), (9, 1), (10, 1), (20, 2), (100, 10)],
)
def test_one_in_ten_may_go_at_once(limit: int, at_once: int) -> None:
    rate, gone = Rate(limit, 60.0), 0
    assert rate.free(5.0) == at_once
    while not rate.wait(5.0):
        rate.take(5.0)
        gone += 1
    assert gone == at_once
    assert rate.free(5.0) == 0


def test_the_next_may_go_when_its_distance_has_passed() -> None:
    rate = Rate(1, 60.0)
    rate.take(100.0)
    assert rate.wait(100.0) == pytest.approx(60.0)
    assert rate.free(159.0) == 0
    assert rate.free(160.1) == 1


@given(
    limit=st.integers(1, 40),
    pauses=st.lists(st.floats(0.0, 30.0, allow_nan=False), min_size=1, max_size=80),
)
def test_no_span_holds_more_than_the_limit(limit: int, pauses: list[float]) -> None:
    rate, now, gone = Rate(limit, 60.0), 0.0, []
    for pause in pauses:
        now += pause
        free = rate.free(now)
        for _ in range(free):
            assert rate.wait(now) == 0.0
            rate.take(now)
            gone.append(now)
        assert rate.free(now) == 0
    for first in gone:
        assert sum(first <= at < first + 60.0 for at in gone) <= limit


@given(limit=st.integers(1, 500))
def test_whoever_waits_as_told_gets_the_whole_limit(limit: int) -> None:
    """Over many spans nearly all of the limit is used: what is lost is the burst, once."""
    rate, now, gone = Rate(limit, 60.0), 0.0, 0
    while now < 600.0:
        now += rate.wait(now)
        if now < 600.0:
            rate.take(now)
            gone += 1
    assert gone >= 10 * limit * 0.89 - 1
