"""What one lane may do: limits, what is learnt, back-off, suspension, probe and return."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.config.providers import Provider
from postroad.flow.shaping import (
    APART_LONGEST_S,
    FIRST_WINDOW,
    PROBE_S,
    SUSPENDED_LONGEST_S,
    TOGETHER_S,
    Limits,
    Permit,
    Shape,
    State,
)

WIDE = Limits(20, 100)


def connections(shape: Shape, now: float = 0.0) -> int:
    return shape.permit(now).connections


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "provider, expected",
    [
        (None, (20, 100, 0, 0)),
        (Provider(), (20, 100, 0, 0)),
        (Provider(connections=3, messages_per_connection=5), (3, 5, 0, 0)),
        (Provider(connections=300, messages_per_connection=500), (20, 100, 0, 0)),
        (Provider(messages_per_minute=7, messages_per_hour=9), (20, 100, 7, 9)),
    ],
)
def test_the_smaller_limit_counts(provider: Provider | None, expected: tuple[int, ...]) -> None:
    assert tuple(WIDE.within(provider)) == expected


def test_a_new_lane_begins_with_a_few_connections() -> None:
    assert Shape(WIDE).permit(0.0) == Permit(int(FIRST_WINDOW), 0.0)
    assert connections(Shape(Limits(2, 100))) == 2


def test_a_share_is_never_exceeded() -> None:
    shape = Shape(WIDE, share=2)
    assert connections(shape) == 2
    shape.share = 0
    assert connections(shape) == 0


def test_messages_a_minute_are_counted() -> None:
    shape = Shape(Limits(20, 100, per_minute=2))
    assert not shape.easy
    shape.take(0.0)
    assert shape.permit(0.0).wait_s == pytest.approx(30.0)
    assert shape.permit(31.0).wait_s == 0.0


def test_the_stricter_of_two_rates_counts() -> None:
    shape = Shape(Limits(20, 100, per_minute=60, per_hour=1))
    shape.take(0.0)
    assert shape.permit(61.0).wait_s == pytest.approx(3600.0 - 61.0)


# -- learning ----------------------------------------------------------------------------------------------------------


def test_until_the_first_failure_each_success_opens_one_more() -> None:
    shape, grew = Shape(WIDE), []
    for _ in range(30):
        grew.append(shape.succeeded(0.0))
    assert connections(shape) == 20
    assert grew.count(True) == 15
    assert not any(grew[15:])


def test_the_first_failure_takes_one_away_and_the_others_of_its_row_do_not() -> None:
    shape = Shape(WIDE)
    for _ in range(15):
        shape.succeeded(0.0)
    windows = []
    for _ in range(21):
        shape.failed(0.0)
        windows.append(connections(shape))
    assert windows[0] == 19
    assert windows[1:15] == [19] * 14, "one row of failures is one step"
    assert windows[-1] == 18


def test_after_a_failure_a_whole_row_of_successes_opens_one_more() -> None:
    shape = Shape(Limits(10, 100))
    for _ in range(5):
        shape.succeeded(0.0)
    shape.failed(0.0)
    assert connections(shape) == 9
    grew = [shape.succeeded(0.0) for _ in range(9)]
    assert grew == [False] * 8 + [True]
    assert connections(shape) == 10


def test_failures_never_close_a_lane_altogether() -> None:
    shape = Shape(WIDE)
    for _ in range(500):
        shape.failed(0.0)
    assert connections(shape) == 1


def test_one_failure_in_ten_does_not_choke_a_lane() -> None:
    """The method's point: connections settle where a row of successes is as likely as a failure."""
    shape = Shape(WIDE)
    for number in range(2000):
        if number % 10 == 9:
            shape.failed(0.0)
        else:
            shape.succeeded(0.0)
    assert connections(shape) >= 10


# -- slowed ------------------------------------------------------------------------------------------------------------


def test_a_slowed_lane_keeps_a_distance_and_half_its_connections() -> None:
    shape = Shape(Limits(20, 100))
    assert shape.slow(300.0, "too fast", 100.0)
    assert (shape.state, connections(shape, 100.0)) == (State.SLOWED, 2)
    assert shape.permit(100.0).wait_s == pytest.approx(1.0)
    shape.take(101.0)
    assert shape.permit(101.0).wait_s == pytest.approx(1.0)
    assert shape.permit(400.0) == Permit(2, 0.0)
    assert shape.state is State.OPEN
    assert shape.easy


def test_signals_that_come_together_are_one() -> None:
    shape = Shape(WIDE)
    assert shape.slow(300.0, "too fast", 100.0)
    assert not shape.slow(300.0, "too fast", 100.0 + TOGETHER_S / 2)
    assert connections(shape, 101.0) == 2
    assert shape.slow(300.0, "too fast", 100.0 + TOGETHER_S)
    assert connections(shape, 106.0) == 1


def test_the_distance_doubles_up_to_its_limit() -> None:
    shape, now, paces = Shape(WIDE), 0.0, []
    for _ in range(10):
        shape.slow(600.0, "too fast", now)
        paces.append(shape.pace_s)
        now += TOGETHER_S
    assert paces[:4] == [1.0, 2.0, 4.0, 8.0]
    assert paces[-1] == APART_LONGEST_S


def test_a_slowed_lane_does_not_grow_before_its_time_is_up() -> None:
    shape = Shape(WIDE)
    shape.slow(300.0, "too fast", 0.0)
    assert not any(shape.succeeded(10.0) for _ in range(100))
    shape.permit(300.0)
    assert any(shape.succeeded(300.0) for _ in range(3))


# -- suspended and probed ----------------------------------------------------------------------------------------------


def test_a_ceiling_of_connections_holds_for_its_time_and_keeps_no_distance() -> None:
    shape = Shape(Limits(20, 100))
    assert [shape.fewer(open_, 300.0, "full", 10.0) for open_ in (4, 3, 2)] == [True, False, False]
    for _ in range(50):
        shape.succeeded(20.0)
    assert shape.permit(20.0) == (2, 0.0)
    for _ in range(3):
        shape.succeeded(400.0)
    assert shape.permit(400.0) == (3, 0.0)
    assert shape.fewer(0, 300.0, "full", 401.0)
    assert shape.permit(401.0) == (1, 0.0)


def test_nothing_goes_to_a_suspended_site_until_one_probe_is_taken() -> None:
    """Row D16: a policy reply stops the lane and no message."""
    shape = Shape(WIDE)
    assert shape.suspend(3600.0, "blocked", 0.0)
    assert shape.permit(10.0) == Permit(0, 3590.0)
    assert shape.permit(3600.0) == Permit(1, 0.0)
    assert shape.state is State.PROBING
    shape.take(3600.0)
    assert shape.permit(3601.0).wait_s > 0.0, "one probe, not two"
    shape.succeeded(3602.0)
    assert shape.permit(3602.0) == Permit(2, 0.0), "it returns step by step"


@pytest.mark.parametrize(
    "fail",
    [
        lambda shape, now: shape.failed(now),
        lambda shape, now: shape.slow(10.0, "still", now),
        lambda shape, now: shape.suspend(10.0, "still", now),
    ],
)
def test_a_probe_that_fails_suspends_again(fail: Callable[[Shape, float], object]) -> None:
    shape = Shape(WIDE)
    shape.suspend(100.0, "blocked", 0.0)
    shape.permit(100.0)
    shape.take(100.0)
    fail(shape, 101.0)
    assert shape.state is State.SUSPENDED
    assert shape.until >= 201.0


def test_suspensions_grow_up_to_a_day() -> None:
    shape, now, lengths = Shape(WIDE), 0.0, []
    shape.suspend(3600.0, "blocked", now)
    for _ in range(8):
        lengths.append(shape.until - now)
        now = shape.until
        shape.permit(now)
        shape.take(now)
        shape.failed(now)
    assert lengths[:3] == [3600.0, 7200.0, 14400.0]
    assert lengths[-1] == SUSPENDED_LONGEST_S


def test_a_probe_that_is_never_answered_for_is_forgotten() -> None:
    shape = Shape(WIDE)
    shape.suspend(10.0, "blocked", 0.0)
    shape.permit(10.0)
    shape.take(10.0)
    assert shape.permit(10.0 + PROBE_S) == Permit(1, 0.0)


def test_a_probe_that_did_not_go_is_none() -> None:
    shape = Shape(WIDE)
    shape.suspend(10.0, "blocked", 0.0)
    shape.permit(10.0)
    shape.take(10.0)
    shape.spared()
    assert shape.permit(11.0) == Permit(1, 0.0)


def test_who_knows_better_opens_a_suspended_lane() -> None:
    shape = Shape(WIDE)
    shape.suspend(1000.0, "blocked", 0.0)
    shape.resume()
    assert shape.permit(1.0) == Permit(1, 0.0)


# -- whatever happens --------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(st.sampled_from(["ok", "ok", "ok", "fail", "slow", "fewer", "suspend", "wait"]), st.floats(0.0, 400.0)),
    max_size=60,
)


@given(limit=st.integers(1, 30), per_minute=st.sampled_from([0, 1, 5, 100]), steps=STEPS)
def test_limits_hold_and_the_lane_always_goes_on(limit: int, per_minute: int, steps: list[tuple[str, float]]) -> None:
    """Never above a limit, nothing while suspended, and whatever happened mail goes again in bounded time."""
    shape, now, sent = Shape(Limits(limit, 100, per_minute)), 0.0, []
    for step, pause in steps:
        now += pause
        permit = shape.permit(now)
        assert 0 <= permit.connections <= limit
        assert 1.0 <= shape.window <= limit
        if shape.state is State.SUSPENDED:
            assert permit.connections == 0
            assert shape.until > now
        if shape.state is State.PROBING:
            assert permit.connections == 1
        if permit.connections and permit.wait_s <= 0.0 and step in ("ok", "fail"):
            shape.take(now)
            sent.append(now)
            if step == "ok":
                shape.succeeded(now)
            else:
                shape.failed(now)
        elif step == "slow":
            shape.slow(60.0, "x", now)
        elif step == "fewer":
            shape.fewer(int(shape.window) - 1, 60.0, "x", now)
        elif step == "suspend":
            shape.suspend(60.0, "x", now)
    if per_minute:
        assert all(sum(first <= at < first + 60.0 for at in sent) <= per_minute for first in sent)
    end = now + SUSPENDED_LONGEST_S + PROBE_S + 120.0
    while now < end:
        permit = shape.permit(now)
        if permit.connections and permit.wait_s <= 0.0:
            break
        now += max(permit.wait_s, 0.001)
    assert now < end, "the lane stands for ever"


@given(limit=st.integers(1, 30), steps=STEPS)
def test_recovery_is_monotone(limit: int, steps: list[tuple[str, float]]) -> None:
    """With nothing but successes the connections only rise, to the limit."""
    shape, now = Shape(Limits(limit, 100)), 0.0
    acts: dict[str, Callable[[], object]] = {
        "fail": lambda: shape.failed(now),
        "slow": lambda: shape.slow(60.0, "x", now),
        "fewer": lambda: shape.fewer(int(shape.window) - 1, 60.0, "x", now),
        "suspend": lambda: shape.suspend(60.0, "x", now),
    }
    for step, pause in steps:
        now += pause
        shape.permit(now)
        acts.get(step, lambda: None)()
    last = 0
    for _ in range(5 * limit * limit + 50):
        permit = shape.permit(now)
        if not permit.connections or permit.wait_s > 0.0:
            now += max(permit.wait_s, 0.001)
            continue
        if shape.state is State.OPEN:
            assert permit.connections >= last
            last = permit.connections
        shape.take(now)
        shape.succeeded(now)
        now += 1.0
    now += SUSPENDED_LONGEST_S
    for _ in range(limit * limit + 50):
        if shape.permit(now).connections:
            shape.take(now)
        shape.succeeded(now)
        now += 1.0
    assert connections(shape, now) == limit
