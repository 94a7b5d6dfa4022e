"""Counting together: what one worker counts all see, and a worker that died leaves nothing behind."""

from __future__ import annotations

import os

import pytest

from postroad.serve.tally import MINUTE_S, Tally, make_tally


@pytest.fixture
def two() -> tuple[Tally, Tally]:
    descriptor = make_tally(2)
    try:
        return Tally(descriptor, 0, 2), Tally(descriptor, 1, 2)
    finally:
        os.close(descriptor)  # what is mapped stays


def test_each_worker_sees_what_both_count(two: tuple[Tally, Tally]) -> None:
    first, second = two
    slot = first.slot("192.0.2.1")
    assert slot == second.slot("192.0.2.1")
    first.enter(0.0, slot)
    second.enter(0.0, slot)
    second.enter(0.0, slot)
    assert first.open(slot) == second.open(slot) == 3
    assert first.all_open == 3
    second.leave(slot)
    assert first.open(slot) == 2
    assert first.all_open == 2


def test_the_successor_of_a_dead_worker_begins_at_zero() -> None:
    descriptor = make_tally(2)
    dead, other = Tally(descriptor, 0, 2), Tally(descriptor, 1, 2)
    slot = other.slot("192.0.2.1")
    for tally in (dead, other):
        tally.enter(0.0, slot, arrives=slot)
    Tally(descriptor, 0, 2)
    os.close(descriptor)
    assert other.open(slot) == 1
    assert other.all_open == 1
    assert other.arrivals(slot, 1.0) == 1


def test_arrivals_are_those_of_the_last_minute(two: tuple[Tally, Tally]) -> None:
    first, second = two
    slot, start = first.slot("192.0.2.1"), 100 * MINUTE_S
    for tally in two:
        tally.enter(start, slot, arrives=slot)
    assert first.arrivals(slot, start + 30) == 2
    # Half of the minute before still counts, then nothing of it.
    assert second.arrivals(slot, start + 1.5 * MINUTE_S) == 1
    assert second.arrivals(slot, start + 2 * MINUTE_S) == 0
    # Two minutes later the row is used again, and what one worker left in it long ago is not counted.
    second.enter(start + 2 * MINUTE_S, slot, arrives=slot)
    assert first.arrivals(slot, start + 2 * MINUTE_S) == 1


def test_leaving_does_not_take_an_arrival_back(two: tuple[Tally, Tally]) -> None:
    first, _ = two
    slot = first.slot("192.0.2.1")
    first.enter(5.0, slot, arrives=slot)
    first.leave(slot)
    assert first.open(slot) == 0
    assert first.arrivals(slot, 5.0) == 1


def test_slots_are_spread_by_a_key_that_nobody_knows() -> None:
    names = [f"192.0.2.{number}" for number in range(200)]
    one, other = Tally(make_tally(1)), Tally(make_tally(1))
    assert len({one.slot(name) for name in names}) > 190
    assert [one.slot(name) for name in names] != [other.slot(name) for name in names]
