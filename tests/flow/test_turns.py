"""Whose mail waits for a site whose pace is limited, and when the rest comes back: fair, in turn, and fetched once."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import pytest

from postroad.flow.parcels import Parcel
from postroad.flow.shaping import Limits, Shape
from postroad.flow.sharing import Waiting
from postroad.flow.turns import PATIENCE_S, PUT_OFF_LONGEST_S, TOGETHER_MAX, Turns
from tests.flow.test_sharing import parcel

PACE_S = 6.0
ROOM = 11
"""Parcels that go within PATIENCE_S at that pace, the first at once."""


def fill(turns: Turns, user: str, now: float = 0.0) -> int:
    """Lets a user have as much room as it gets."""
    number = 0
    while turns.has_room(user, 0.0, PACE_S, now, fresh=False):
        turns.entered(user)
        number += 1
    return number


def test_one_user_may_have_all_the_room() -> None:
    assert fill(Turns(), "anna") == ROOM


def test_whoever_comes_late_finds_room_and_the_first_must_wait_until_he_has_his_part_again() -> None:
    turns = Turns()
    fill(turns, "anna")
    assert fill(turns, "bob") == ROOM // 2
    while turns.users["anna"] >= ROOM // 2:
        assert not turns.has_room("anna", 0.0, PACE_S, 0.0, fresh=False)
        turns.left("anna")
    assert turns.has_room("anna", 0.0, PACE_S, 0.0, fresh=False)


def test_everybody_has_room_for_one() -> None:
    turns = Turns()
    assert [fill(turns, f"user {number}") for number in range(50)][-1] == 1


def test_thousands_of_users_of_one_slow_site_do_not_take_the_memory_of_all_others() -> None:
    """A worker has room for a thousand deliveries out of the queue; mail for other sites needs some of it."""
    turns = Turns()
    assert sum(fill(turns, f"user {number}") for number in range(3000)) == TOGETHER_MAX
    turns.left("user 1")
    assert turns.has_room("user 2999", 0.0, PACE_S, 0.0, fresh=True)


def test_who_finds_no_room_because_of_many_comes_when_they_have_left() -> None:
    turns = Turns()
    for number in range(3000):
        fill(turns, f"user {number}")
    assert turns.put_off("user 2999", 0.0, PACE_S, 0.0) == (TOGETHER_MAX - 1) * PACE_S


def test_a_fast_site_has_room_for_a_whole_minute() -> None:
    turns = Turns()
    number = 0
    while turns.has_room("anna", 0.0, 0.1, 0.0, fresh=False):
        turns.entered("anna")
        number += 1
    assert number == 601


def test_without_a_pace_there_is_room_until_the_wait_is_too_long() -> None:
    turns = Turns()
    assert turns.has_room("anna", PATIENCE_S, 0.0, 0.0, fresh=True)
    assert not turns.has_room("anna", PATIENCE_S + 1, 0.0, 0.0, fresh=True)
    assert turns.put_off("anna", 900.0, 0.0, 5.0) == 905.0


def test_fresh_mail_stands_behind_what_its_user_has_put_off() -> None:
    turns = Turns()
    for _ in range(3):
        turns.put_off("anna", 0.0, PACE_S, 0.0)
    turns.entered("carl")
    assert not turns.has_room("anna", 0.0, PACE_S, 0.0, fresh=True)
    assert turns.has_room("anna", 0.0, PACE_S, 0.0, fresh=False)
    assert turns.has_room("bob", 0.0, PACE_S, 0.0, fresh=True)
    assert turns.has_room("anna", 0.0, PACE_S, 3 * PACE_S, fresh=True)


def test_fresh_mail_waits_for_nobody_who_is_not_there() -> None:
    """What was put off may have been dropped, or may be late: a message that may go now takes nothing from it."""
    turns = Turns()
    for _ in range(3):
        turns.put_off("anna", 0.0, PACE_S, 0.0)
    assert turns.has_room("anna", 0.0, PACE_S, 0.0, fresh=True)
    assert not turns.has_room("anna", 1.0, PACE_S, 0.0, fresh=True)


def test_turns_of_a_user_keep_the_pace_of_all_users() -> None:
    turns = Turns()
    assert [turns.put_off("anna", 0.0, PACE_S, 0.0) for _ in range(3)] == [60.0, 66.0, 72.0]
    assert [turns.put_off("bob", 0.0, PACE_S, 0.0) for _ in range(3)] == [60.0, 72.0, 84.0]
    assert [turns.put_off("anna", 0.0, PACE_S, 0.0) for _ in range(2)] == [78.0, 90.0]


def test_a_turn_is_never_so_far_away_that_a_faster_pace_would_come_too_late() -> None:
    turns = Turns()
    last = [turns.put_off("anna", 0.0, PACE_S, 0.0) for _ in range(1000)][-1]
    assert last == PUT_OFF_LONGEST_S


def test_users_whose_turns_are_over_take_no_part() -> None:
    turns = Turns()
    for number in range(100):
        turns.put_off(f"user {number}", 0.0, PACE_S, 0.0)
    late = 10_000.0
    assert [turns.put_off("anna", 0.0, PACE_S, late) - late for _ in range(2)] == [60.0, 66.0]


def test_a_parcel_counts_while_it_waits() -> None:
    turns = Turns()
    waiting = Waiting(turns)
    for user in ("anna", "anna", "bob"):
        waiting.append(parcel(user))
    assert turns.users == {"anna": 2, "bob": 1}
    taken = waiting.take()
    assert sum(turns.users.values()) == 2
    waiting.put_back(taken)
    assert turns.users == {"anna": 2, "bob": 1}
    waiting.take_all()
    assert turns.users == {}


@dataclass
class Road:
    """A site with one lane, its mail in memory and what was put off, in seconds that pass one by one."""

    limits: Limits
    now: float = 0.0
    put_off: int = 0
    delivered: list[tuple[float, str]] = field(default_factory=list)
    stored: list[tuple[float, int, Parcel]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shape = Shape(self.limits)
        self.turns = Turns()
        self.waiting = Waiting(self.turns)

    def come(self, one: Parcel, fresh: bool) -> None:
        wait_s, pace_s, user = self.shape.permit(self.now).wait_s, self.shape.pace_s, one.letter.user
        if self.turns.has_room(user, wait_s, pace_s, self.now, fresh=fresh):
            self.waiting.append(one)
            return
        self.put_off += 1
        at = self.turns.put_off(user, wait_s, pace_s, self.now)
        heapq.heappush(self.stored, (at, self.put_off, one))

    def second(self) -> None:
        while self.stored and self.stored[0][0] <= self.now:
            self.come(heapq.heappop(self.stored)[2], fresh=False)
        while self.waiting and self.shape.permit(self.now).wait_s <= 0.0:
            self.shape.take(self.now)
            self.delivered.append((self.now, self.waiting.take(paced=True).letter.user))
        self.now += 1.0


@pytest.fixture
def road() -> Road:
    """Twenty messages a minute, and 2,000 of one user that come at once."""
    made = Road(Limits(20, 100, per_minute=20))
    for _ in range(2000):
        made.come(parcel("bulk"), fresh=True)
    return made


def test_a_long_backlog_leaves_at_the_pace_and_is_fetched_hardly_more_than_once(road: Road) -> None:
    while len(road.delivered) < 2000:
        road.second()
    assert road.now < 2000 * 60 / 20 * 1.15
    assert road.put_off < 3 * 2000


def test_one_message_passes_the_backlog_of_somebody_else(road: Road) -> None:
    for _ in range(600):
        road.second()
    road.come(parcel("anna"), fresh=True)
    began = road.now
    while road.delivered[-1][1] != "anna":
        road.second()
    assert road.now - began <= 3 * 60 / 20


def test_two_backlogs_share_the_pace(road: Road) -> None:
    for _ in range(600):
        road.second()
    for _ in range(1000):
        road.come(parcel("second"), fresh=True)
    began = len(road.delivered)
    for _ in range(3600):
        road.second()
    users = [user for _, user in road.delivered[began:]]
    assert 0.4 < users.count("second") / len(users) < 0.6
