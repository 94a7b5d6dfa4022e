"""What people do to the queue, on both engines: every action, taking it back, and workers in the middle of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from postroad.store.actions import (
    ACTIONS_KEPT_US,
    DROP,
    FAIL,
    FINAL,
    HOLD,
    MOVE,
    RELEASE,
    RETRY,
    UNDO_US,
    UNKNOWN,
    Act,
    Acted,
    ActionBegin,
    Counted,
    Finishing,
    Undo,
    act,
    action_begin,
    action_count,
    seize,
    undo,
)
from postroad.store.engine import Connection
from postroad.store.queue import claim, record
from postroad.store.records import (
    DEFERRED,
    DROPPED,
    HELD,
    KIND_LOCAL,
    NEVER_US,
    QUEUED,
    THROTTLED,
    Claim,
    Done,
    Later,
    Noted,
    Recorded,
)
from postroad.store.sweep import NEVER, Reclaim
from postroad.store.units import ROWS_PER_UNIT
from postroad.values.event import Event, pack, unpack
from postroad.values.reason import reason_number
from tests.fakes.clock import FakeClock
from tests.store.stores import START_US, Desk, leg, sample

LATER_US = START_US + 600_000_000
EXPIRES_US = START_US + 432_000_000_000


def do(desk: Desk, what: str, *deliveries: int, detail: str = "") -> tuple[int, Acted]:
    """One whole action; returns its number and what became of it."""
    number = desk.run(action_begin, ActionBegin(what, "anna", "some words", detail))
    return number, desk.run(act, Act(number, list(deliveries)))


def finish(desk: Desk) -> None:
    """Lets the store make final what is due."""
    chore = Finishing(desk.writer)
    while chore.due <= 0.0:
        chore.step(0.0)


def state_of(desk: Desk, ident: int) -> Any:
    rows = desk.rows("SELECT state, due_us, owner, held, next_hop FROM deliveries WHERE id = ?", ident)
    return rows[0] if rows else None


def kinds(desk: Desk, message: int) -> list[str]:
    rows = desk.rows("SELECT events FROM journal WHERE message = ? ORDER BY position", message)
    return [event.kind for (raw,) in rows for event in unpack(raw)]


# -- each action -------------------------------------------------------------------------------------------------------


def test_retrying_makes_due_and_tells_the_journal(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, due_us=LATER_US), leg(11, due_us=LATER_US)])
    desk.writer.hints.clear()
    _, done = do(desk, RETRY, 10)
    assert (done.touched, done.until_us) == (1, 0)
    assert desk.rows("SELECT due_us FROM deliveries ORDER BY id") == [(START_US,), (LATER_US,)]
    assert kinds(desk, 1) == ["received", "retried"]
    assert desk.writer.hints == [("queue", 0)]


def test_a_held_delivery_is_never_claimed_and_does_not_age(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10)])
    do(desk, HOLD, 10, detail="held by anna")
    desk.clock.advance(10 * 86_400)
    assert desk.run(claim, Claim(5, 10, [60.0]), 5).deliveries == []
    assert desk.run(claim, Claim(5, 10, [60.0]), 5).next_due_us == 0
    do(desk, RELEASE, 10)
    now_us = desk.clock.wall_us()
    [due] = desk.run(claim, Claim(5, 10, [60.0]), 5).deliveries
    assert due.expires_us == now_us + (EXPIRES_US - START_US)
    assert kinds(desk, 1) == ["received", "held", "released"]


def test_retry_leaves_what_somebody_holds_and_begins_what_waits_for_its_time(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10), leg(11, due_us=LATER_US, held="its sender asked for it")])
    do(desk, HOLD, 10, detail="held by anna")
    _, done = do(desk, RETRY, 10, 11)
    assert done.touched == 1
    assert state_of(desk, 10)[0] == HELD
    assert state_of(desk, 11)[:2] == (QUEUED, START_US)


def test_a_time_of_release_ends_a_hold_by_itself(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, due_us=LATER_US, held="its sender asked for it")])
    assert state_of(desk, 10)[0] == HELD
    desk.clock.advance(600)
    [due] = desk.run(claim, Claim(5, 10, [60.0]), 5).deliveries
    assert due.id == 10
    assert state_of(desk, 10)[0] == QUEUED


def test_two_deliveries_released_one_after_the_other_do_not_add_up_their_times(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10), leg(11)])
    do(desk, HOLD, 10, 11, detail="h")
    desk.clock.advance(1000)
    do(desk, RELEASE, 10)
    do(desk, RELEASE, 11)
    assert desk.rows("SELECT expires_us FROM messages") == [(EXPIRES_US + 1_000_000_000,)]


def test_moving_names_another_host_and_makes_due(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, due_us=LATER_US), leg(11, kind=KIND_LOCAL)])
    _, done = do(desk, MOVE, 10, 11, detail="relay.test:25")
    assert done.touched == 1
    [due] = [due for due in desk.run(claim, Claim(5, 10, [60.0]), 5).deliveries if due.id == 10]
    assert due.next_hop == "relay.test:25"
    assert kinds(desk, 1) == ["received", "moved"]


def test_moved_mail_does_not_wait_for_the_lane_it_left_but_for_the_one_it_goes_to(desk: Desk) -> None:
    desk.accept(
        1, legs=[leg(10, "a@full.test"), leg(11, "b@full.test"), leg(12, "c@free.test"), leg(13, "d@free.test")]
    )
    do(desk, MOVE, 10, 13, detail="relay.test:25")

    def claimed(*names: str, limit: int = 10) -> list[int]:
        found = desk.run(claim, Claim(5, limit, [60.0], list(names)), 5)
        desk.connection.execute("UPDATE deliveries SET owner = 0, due_us = ?", (START_US,))
        return sorted(due.id for due in found.deliveries)

    assert claimed() == [10, 11, 12, 13]
    assert claimed("full.test") == [10, 12, 13]
    assert claimed("full.test", ">relay.test:25") == [12]
    assert claimed(">relay.test:25") == [11, 12]
    assert claimed("full.test", limit=2) == [10, 13]


def test_what_was_dropped_stands_held_for_a_minute_and_then_is_gone(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10)], body=None, body_file="bodies/0a/5-1")
    _, done = do(desk, DROP, 10)
    assert done.until_us == START_US + UNDO_US
    assert state_of(desk, 10)[:2] == (DROPPED, NEVER_US)
    desk.clock.advance(59)
    finish(desk)
    assert desk.count("deliveries") == 1
    desk.clock.advance(2)
    finish(desk)
    assert (desk.count("deliveries"), desk.count("messages"), desk.count("queue_before")) == (0, 0, 0)
    assert desk.removed == ["bodies/0a/5-1"]
    assert kinds(desk, 1) == ["received", "dropped"]
    assert desk.rows("SELECT until_us, deliveries FROM queue_actions") == [(0, 1)]


def test_no_other_action_touches_what_was_dropped(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10)])
    do(desk, DROP, 10)
    for what in (RETRY, HOLD, RELEASE, MOVE, DROP):
        assert do(desk, what, 10, detail="x.test:25")[1].touched == 0
    number = desk.run(action_begin, ActionBegin(FAIL, "anna", "w"))
    assert desk.run(seize, Act(number, [10], 8)).deliveries == []


def test_deliveries_that_are_gone_are_passed_over(desk: Desk) -> None:
    assert do(desk, DROP, 10, 11)[1] == Acted(0, [])
    assert desk.rows("SELECT until_us, deliveries FROM queue_actions") == [(0, 0)]


def test_an_action_without_a_number_is_nobodys(desk: Desk) -> None:
    [result] = desk.batch([(act, Act(99, [10]))])
    assert result.status != 0


def test_a_unit_touches_no_more_than_a_slice(desk: Desk) -> None:
    desk.accept(1, legs=[leg(1000 + n) for n in range(ROWS_PER_UNIT + 100)])
    _, done = do(desk, DROP, *range(1000, 1000 + ROWS_PER_UNIT + 100))
    assert done.touched == ROWS_PER_UNIT
    desk.clock.advance(61)
    chore = Finishing(desk.writer)
    chore.step(0.0)
    assert desk.count("deliveries") == 100
    finish(desk)


# -- taking back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [DROP, HOLD, MOVE])
def test_taking_back_leaves_everything_as_it_was(desk: Desk, what: str) -> None:
    desk.accept(1, legs=[leg(10, owner=5, due_us=LATER_US)])
    desk.run(record, Recorded(5, [], [Later(10, LATER_US, "451 4.7.1 later 17")], []))
    before = desk.rows("SELECT due_us, state, held, next_hop, reason, left_us FROM deliveries")
    number, _ = do(desk, what, 10, detail="x.test:25")
    assert desk.rows("SELECT due_us, state, held, next_hop, reason, left_us FROM deliveries") != before
    desk.clock.advance(50)
    answer = desk.run(undo, Undo(number, "bob"))
    assert (answer.word, answer.restored, answer.passed, answer.more) == ("", 1, 0, False)
    after = desk.rows("SELECT due_us, state, held, next_hop, reason, left_us FROM deliveries")
    # A move made it due; that it may be tried is not taken back.
    assert after[0][1:] == before[0][1:]
    assert what == MOVE or after == before
    assert desk.count("queue_before") == 0
    assert desk.run(undo, Undo(number, "bob")).word == FINAL
    desk.clock.advance(100)
    finish(desk)
    assert desk.count("deliveries") == 1


def test_a_drop_of_what_was_held_is_taken_back_to_held(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, due_us=NEVER_US, held="spam", left_us=77)])
    number, _ = do(desk, DROP, 10)
    desk.run(undo, Undo(number, "bob"))
    assert desk.rows("SELECT state, held, left_us, due_us FROM deliveries") == [(HELD, "spam", 77, NEVER_US)]


def test_after_a_minute_nothing_is_taken_back(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10)])
    number, _ = do(desk, HOLD, 10, detail="h")
    desk.clock.advance(60)
    assert desk.run(undo, Undo(number, "bob")).word == FINAL
    assert desk.run(undo, Undo(number + 1, "bob")).word == UNKNOWN
    finish(desk)
    assert state_of(desk, 10)[0] == HELD
    assert desk.count("queue_before") == 0


def test_only_what_nobody_changed_since_is_taken_back(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10), leg(11), leg(12)])
    number, _ = do(desk, HOLD, 10, 11, 12, detail="h")
    do(desk, RELEASE, 10)
    do(desk, DROP, 11)
    answer = desk.run(undo, Undo(number, "bob"))
    assert (answer.restored, answer.passed) == (1, 2)
    assert [state_of(desk, ident)[0] for ident in (10, 11, 12)] == [QUEUED, DROPPED, QUEUED]


def test_a_large_undo_whose_caller_dies_is_finished_by_the_store(desk: Desk) -> None:
    deliveries = range(1000, 1000 + ROWS_PER_UNIT + 100)
    desk.accept(1, legs=[leg(ident) for ident in deliveries])
    number = desk.run(action_begin, ActionBegin(DROP, "anna", "w"))
    for start in (0, ROWS_PER_UNIT):
        desk.run(act, Act(number, list(deliveries)[start : start + ROWS_PER_UNIT]))
    desk.clock.advance(59)
    assert desk.run(undo, Undo(number, "bob")).more
    desk.clock.advance(30)
    finish(desk)
    assert desk.rows("SELECT DISTINCT state FROM deliveries") == [(QUEUED,)]
    assert desk.count("deliveries") == ROWS_PER_UNIT + 100


def test_a_drop_cut_off_in_the_middle_ends_what_it_had_reached_and_no_more(connect: Callable[[], Connection]) -> None:
    """The caller dies after the first slice and the store starts again: the slice becomes final, the rest is mail."""
    clock = FakeClock(START_US)
    first = Desk(connect(), clock)
    deliveries = list(range(1000, 1000 + ROWS_PER_UNIT + 100))
    first.accept(1, legs=[leg(ident) for ident in deliveries])
    number = first.run(action_begin, ActionBegin(DROP, "anna", "w"))
    first.run(act, Act(number, deliveries[:ROWS_PER_UNIT]))
    second = Desk(connect(), clock)
    clock.advance(61)
    finish(second)
    assert second.rows("SELECT min(id), count(*), max(state) FROM deliveries") == [(1000 + ROWS_PER_UNIT, 100, QUEUED)]
    assert second.count("messages") == 1


# -- workers in the middle of it ---------------------------------------------------------------------------------------


def in_hand(desk: Desk, *deliveries: int) -> None:
    """Deliveries that a living worker tries."""
    desk.writer.live.add(5)
    desk.accept(1, legs=[leg(ident, owner=5, due_us=LATER_US) for ident in deliveries])


@pytest.mark.parametrize("what, state", [(HOLD, HELD), (DROP, DROPPED)])
def test_an_attempt_that_fails_leaves_what_was_held_meanwhile_held(desk: Desk, what: str, state: int) -> None:
    in_hand(desk, 10)
    desk.writer.hints.clear()
    number, done = do(desk, what, 10, detail="h")
    assert (done.touched, done.under_way) == (1, [10])
    assert desk.writer.hints == [("recall", 0)]
    assert state_of(desk, 10)[:3] == (state, NEVER_US, 5)
    assert desk.run(record, Recorded(5, [], [Later(10, LATER_US, "451 later")], [])).deliveries == []
    assert state_of(desk, 10)[:3] == (state, NEVER_US, 0)
    desk.run(undo, Undo(number, "bob"))
    assert state_of(desk, 10)[:3] == (QUEUED, LATER_US, 0)
    assert desk.rows("SELECT last_reply, reason FROM deliveries") == [("451 later", reason_number("451 later"))]


@pytest.mark.parametrize("what", [HOLD, DROP, MOVE])
def test_an_attempt_that_succeeds_ends_the_delivery_whatever_was_done_meanwhile(desk: Desk, what: str) -> None:
    in_hand(desk, 10)
    number, _ = do(desk, what, 10, detail="x.test:25")
    delivered = Noted(1, pack([Event(kind="delivered", at_us=1, recipient="b@example.net")]))
    assert desk.run(record, Recorded(5, [Done(10)], [], [delivered])).deliveries == []
    assert desk.count("messages") == 0
    assert kinds(desk, 1)[-1] == "delivered"
    answer = desk.run(undo, Undo(number, "bob"))
    assert (answer.restored, answer.passed) == (0, 1)


def test_a_drop_is_not_final_before_the_attempt_is(desk: Desk) -> None:
    in_hand(desk, 10, 11)
    desk.run(record, Recorded(5, [], [Later(11, LATER_US, "451")], []))
    do(desk, DROP, 10, 11)
    desk.clock.advance(61)
    finish(desk)
    assert desk.rows("SELECT id FROM deliveries") == [(10,)]
    desk.run(record, Recorded(5, [], [Later(10, LATER_US, "451")], []))
    desk.clock.advance(6)
    finish(desk)
    assert (desk.count("deliveries"), desk.count("messages")) == (0, 0)


def test_a_dropped_delivery_whose_worker_died_is_not_tried_again(desk: Desk) -> None:
    in_hand(desk, 10)
    do(desk, DROP, 10)
    desk.writer.live.discard(5)
    reclaim = Reclaim(desk.writer)
    while reclaim.due != NEVER:
        reclaim.step(0.0)
    assert desk.run(claim, Claim(6, 10, [60.0]), 6).deliveries == []
    desk.clock.advance(61)
    finish(desk)
    assert desk.count("deliveries") == 0


def test_what_is_being_tried_is_not_retried_and_named(desk: Desk) -> None:
    in_hand(desk, 10)
    assert do(desk, RETRY, 10)[1] == Acted(0, [10])


def test_a_moved_delivery_goes_there_when_its_attempt_has_failed(desk: Desk) -> None:
    in_hand(desk, 10)
    do(desk, MOVE, 10, detail="x.test:25")
    assert desk.run(claim, Claim(6, 10, [60.0]), 6).deliveries == []
    desk.run(record, Recorded(5, [], [Later(10, START_US, "451")], []))
    [due] = desk.run(claim, Claim(6, 10, [60.0]), 6).deliveries
    assert due.next_hop == "x.test:25"


def test_a_throttled_delivery_is_told_from_a_deferred_one(desk: Desk) -> None:
    in_hand(desk, 10, 11)
    later = [Later(10, LATER_US, "451 later"), Later(11, LATER_US, "not tried: enough for now", throttled=True)]
    desk.run(record, Recorded(5, [], later, []))
    assert [state_of(desk, ident)[0] for ident in (10, 11)] == [DEFERRED, THROTTLED]


def test_two_hands_and_a_worker_at_once_lose_nothing_and_double_nothing(connect: Callable[[], Connection]) -> None:
    """Two writers: one records results while the other drops and takes back, as two machines on one PostgreSQL do."""
    clock = FakeClock(START_US)
    worker, hand = Desk(connect(), clock), Desk(connect(), clock)
    for desk in (worker, hand):
        desk.writer.live.add(5)
    for message in range(1, 21):
        worker.accept(message, legs=[leg(message * 100, owner=5), leg(message * 100 + 1, owner=5)])
    together = threading.Barrier(2)
    restored: list[int] = []

    def record_all() -> None:
        together.wait(5)
        for message in range(1, 21):
            later = [Later(message * 100 + 1, LATER_US, "451")]
            assert worker.run(record, Recorded(5, [Done(message * 100)], later, [])).deliveries == []

    def drop_all() -> None:
        together.wait(5)
        for message in range(1, 21):
            number, _ = do(hand, DROP, message * 100, message * 100 + 1)
            restored.append(hand.run(undo, Undo(number, "bob")).restored)

    threads = [threading.Thread(target=record_all), threading.Thread(target=drop_all)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(restored) == 20
    rows = hand.rows("SELECT id, state, owner FROM deliveries ORDER BY id")
    assert [row[0] for row in rows] == [message * 100 + 1 for message in range(1, 21)]
    assert {row[1] for row in rows} <= {QUEUED, DEFERRED}
    assert {row[2] for row in rows} == {0}


# -- failing -----------------------------------------------------------------------------------------------------------


def test_failing_takes_deliveries_as_a_worker_does_and_leaves_those_of_living_ones(desk: Desk) -> None:
    in_hand(desk, 10)
    desk.accept(2, legs=[leg(20, due_us=LATER_US), leg(21, owner=6, due_us=LATER_US)])
    desk.writer.live.add(8)
    number = desk.run(action_begin, ActionBegin(FAIL, "anna", "w", "it is over"))
    seized = desk.run(seize, Act(number, [10, 20, 21], 8))
    assert ([due.id for due in seized.deliveries], seized.under_way) == ([20, 21], [10])
    assert seized.deliveries[0].due_us == LATER_US
    report = sample(3, sender="", legs=[leg(30, "a@example.org")])
    assert desk.run(record, Recorded(8, [Done(20), Done(21)], [], [], [report])).deliveries == []
    desk.run(action_count, Counted(number, 2))
    assert desk.rows("SELECT id FROM deliveries ORDER BY id") == [(10,), (30,)]
    assert desk.rows("SELECT deliveries, detail, by_whom FROM queue_actions") == [(2, "it is over", "anna")]


def test_what_a_dying_caller_seized_goes_on_as_before(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, due_us=LATER_US)])
    number = desk.run(action_begin, ActionBegin(FAIL, "anna", "w"))
    desk.writer.live.add(8)
    desk.run(seize, Act(number, [10], 8))
    desk.writer.live.discard(8)
    desk.clock.advance(600)
    assert [due.id for due in desk.run(claim, Claim(5, 10, [60.0]), 5).deliveries] == [10]


# -- the list of actions -----------------------------------------------------------------------------------------------


def test_actions_are_numbered_and_forgotten_after_months(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10)])
    first, _ = do(desk, RETRY, 10)
    desk.clock.advance(ACTIONS_KEPT_US / 1e6 + 1)
    second, _ = do(desk, RETRY, 10)
    assert (first, second) == (1, 2)
    finish(desk)
    assert desk.rows("SELECT number, what, selection FROM queue_actions") == [(2, RETRY, "some words")]
