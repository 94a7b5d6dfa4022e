"""Promise P12 in the store: when somebody sets the clock, deliveries keep what was left of their wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroad.store import clock_steps
from postroad.store.clock_steps import LONGEST_WAIT_US, NEVER, KeptWaits, Step
from postroad.store.opening import OpenStore
from postroad.store.queue import claim
from postroad.store.records import DROPPED, HELD, NEVER_US, THROTTLED, Claim
from postroad.store.units import Tx
from postroad.values.errors import StoreFull
from tests.fakes.clock import FakeClock
from tests.store.stores import START_US, Desk, leg

HOUR_US = 3_600_000_000
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
MINUTE_US = 60_000_000
ME = 5


def walk(waits: KeptWaits) -> None:
    while waits.due != NEVER:
        waits.step(0.0)


def queue(desk: Desk, *dues_us: int) -> None:
    """One message with a delivery for each due time, numbered from 10."""
    desk.accept(1, legs=[leg(10 + n, due_us=due_us) for n, due_us in enumerate(dues_us)])


def due(desk: Desk) -> list[int]:
    """Due times, counted from what the clock shows now."""
    return [due_us - desk.clock.wall_us() for (due_us,) in desk.rows("SELECT due_us FROM deliveries ORDER BY id")]


def claimed(desk: Desk) -> list[int]:
    return [found.id for found in desk.run(claim, Claim(ME, 100, [60.0]), ME).deliveries]


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S, 6 * DAY_S, -6 * DAY_S, 400 * DAY_S])
def test_promise_p12_what_was_left_of_a_wait_is_left_after_the_step(desk: Desk, jump_s: float) -> None:
    waits = KeptWaits(desk.writer)
    queue(desk, START_US + MINUTE_US, START_US + HOUR_US // 2)
    desk.clock.jump_wall(jump_s)
    assert claimed(desk) == []
    walk(waits)
    assert due(desk) == [MINUTE_US, HOUR_US // 2]
    desk.clock.advance(60)
    assert claimed(desk) == [10]


def test_promise_p12_set_and_set_back_everything_is_due_as_if_nothing_had_been(desk: Desk) -> None:
    waits = KeptWaits(desk.writer)
    queue(desk, START_US - MINUTE_US, START_US + MINUTE_US, START_US + HOUR_US // 2)
    for jump_s in (6 * DAY_S, -6 * DAY_S, -HOUR_S, HOUR_S):
        desk.clock.jump_wall(jump_s)
        desk.accept(2 + int(abs(jump_s)) + (jump_s > 0), legs=[])
    walk(waits)
    assert due(desk)[1:] == [MINUTE_US, HOUR_US // 2]
    assert claimed(desk) == [10]


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_promise_p12_what_is_due_stays_due_and_new_mail_does_not_wait(desk: Desk, jump_s: float) -> None:
    KeptWaits(desk.writer)
    queue(desk, START_US - MINUTE_US, START_US + MINUTE_US)
    desk.clock.jump_wall(jump_s)
    desk.accept(2, legs=[leg(20, due_us=desk.clock.wall_us())])
    if jump_s > 0:
        assert claimed(desk) == [10, 20], "before the walk has begun"
    else:
        assert claimed(desk) == [20]


def test_promise_p12_mail_that_was_due_when_the_clock_was_set_back_is_due_again_after_the_walk(desk: Desk) -> None:
    waits = KeptWaits(desk.writer)
    queue(desk, START_US - MINUTE_US)
    desk.clock.jump_wall(-HOUR_S)
    assert claimed(desk) == []
    walk(waits)
    assert claimed(desk) == [10]


def test_promise_p12_a_machine_that_slept_sends_what_came_due_meanwhile(desk: Desk) -> None:
    KeptWaits(desk.writer)
    queue(desk, START_US + MINUTE_US)
    desk.clock.sleep(HOUR_S)
    assert claimed(desk) == [10]


def test_promise_p12_a_clock_that_is_only_corrected_moves_nothing(desk: Desk) -> None:
    waits = KeptWaits(desk.writer)
    queue(desk, START_US + MINUTE_US)
    for _ in range(10):
        desk.clock.jump_wall(50)
        desk.clock.advance(5)
        claimed(desk)
    assert waits.due == NEVER


def test_promise_p12_times_that_no_retry_has_are_left_alone(desk: Desk) -> None:
    """A machine that comes up in 1970: its queue was written by a clock that was right, and is due when that is set."""
    waits = KeptWaits(desk.writer)
    queue(desk, START_US + 20 * 365 * 24 * HOUR_US)
    desk.clock.jump_wall(21 * 365 * DAY_S)
    desk.accept(2, legs=[])
    walk(waits)
    assert claimed(desk) == [10]


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_promise_p12_what_waits_for_a_hand_or_is_in_hand_is_left_alone(desk: Desk, jump_s: float) -> None:
    """A time that the sender gave (HELD, RFC 4865) is a time on the wall."""
    waits = KeptWaits(desk.writer)
    desk.writer.live.add(ME)
    soon_us = START_US + MINUTE_US
    desk.accept(
        1,
        legs=[
            leg(10, due_us=soon_us, held="until a time"),
            leg(11, due_us=NEVER_US, held="by hand"),
            leg(12, due_us=soon_us),
            leg(13, due_us=soon_us, owner=ME),
            leg(14, due_us=soon_us),
        ],
    )
    desk.connection.execute("UPDATE deliveries SET state = ? WHERE id = 12", (DROPPED,))
    desk.connection.execute("UPDATE deliveries SET state = ? WHERE id = 14", (THROTTLED,))
    before = dict(desk.rows("SELECT id, due_us FROM deliveries"))
    desk.clock.jump_wall(jump_s)
    desk.accept(2, legs=[])
    walk(waits)
    after = dict(desk.rows("SELECT id, due_us FROM deliveries"))
    assert {ident for ident in after if after[ident] != before[ident]} == {14}
    assert desk.rows("SELECT count(*) FROM deliveries WHERE state = ?", HELD) == [(2,)]


def test_promise_p12_a_long_walk_lets_nothing_loose_meanwhile(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_steps, "ROWS_PER_UNIT", 2)
    waits = KeptWaits(desk.writer)
    queue(desk, *(START_US + n * MINUTE_US for n in range(1, 8)))
    desk.clock.jump_wall(HOUR_S)
    assert claimed(desk) == []
    slices = 0
    while waits.due != NEVER:
        waits.step(0.0)
        slices += 1
        assert claimed(desk) == []
    assert slices == 4
    assert due(desk) == [n * MINUTE_US for n in range(1, 8)]
    assert desk.writer.veil == (0, 0)


def fail(tx: Tx) -> list[str]:
    raise StoreFull("no room")


def test_promise_p12_a_slice_that_fails_is_done_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_steps, "ROWS_PER_UNIT", 2)
    waits = KeptWaits(desk.writer)
    queue(desk, *(START_US + n * MINUTE_US for n in range(1, 6)))
    desk.clock.jump_wall(HOUR_S)
    desk.accept(2, legs=[])
    waits.step(0.0)
    with monkeypatch.context() as broken:
        broken.setattr(Tx, "finish", fail)
        with pytest.raises(StoreFull):
            waits.step(0.0)
    walk(waits)
    assert due(desk) == [n * MINUTE_US for n in range(1, 6)]


def test_a_step_says_which_times_are_its_own() -> None:
    ahead, back = Step(START_US, HOUR_US), Step(START_US, -HOUR_US)
    assert ahead.kept(START_US) == START_US
    assert ahead.kept(START_US + HOUR_US - 1) == START_US + 2 * HOUR_US - 1
    assert ahead.kept(START_US + HOUR_US) == START_US + HOUR_US
    assert back.kept(START_US - HOUR_US) == START_US - HOUR_US
    assert back.kept(START_US - 1) == START_US - HOUR_US
    assert back.kept(START_US + LONGEST_WAIT_US) == START_US - HOUR_US + LONGEST_WAIT_US
    assert back.kept(START_US + LONGEST_WAIT_US + 1) == START_US + LONGEST_WAIT_US + 1


def test_promise_p12_the_store_that_serves_walks(tmp_path: Path) -> None:
    clock = FakeClock(START_US)
    store = OpenStore(tmp_path / "data", clock=clock)
    desk = Desk.__new__(Desk)
    desk.connection, desk.clock, desk.writer = store.connection, clock, store.writer
    queue(desk, START_US + MINUTE_US)
    clock.jump_wall(HOUR_S)
    assert claimed(desk) == []
    [waits] = [chore for chore in store.chores if isinstance(chore, KeptWaits)]
    assert waits.due <= clock.monotonic()
    walk(waits)
    assert due(desk) == [MINUTE_US]
    store.close()
