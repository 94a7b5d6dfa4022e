"""Limits that hold over all workers: what is shared out never exceeds them, whatever dies, and goes where mail is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from postroad.store.grants import LINGER_S, TOKEN_S, Ask, Asks, Authority, Share
from tests.fakes.clock import FakeClock


class Desk:
    """An authority with its hints counted."""

    def __init__(self, workers: int = 4) -> None:
        self.clock = FakeClock()
        self.workers = workers
        self.hints = 0
        self.authority = Authority(self.clock, self.hint)

    def hint(self, kind: str) -> None:
        assert kind == "grants"
        self.hints += 1

    def ask(self, worker: int, want: int, keep: int = 0, limit: int = 20, **more: int) -> Share:
        asks = Asks(self.workers, [Ask("there", limit, keep, want, **more)])
        [share] = self.authority.ask(worker, asks).shares
        return share

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        if self.clock.monotonic() >= self.authority.due:
            self.authority.step(self.clock.monotonic())


# -- connections -------------------------------------------------------------------------------------------------------


def test_a_worker_that_has_all_the_mail_gets_the_whole_limit_at_once() -> None:
    assert Desk().ask(1, want=50) == Share(20, 20)


def test_a_worker_gets_what_it_wants_and_no_more() -> None:
    desk = Desk()
    assert desk.ask(1, want=3).connections == 3
    assert desk.ask(2, want=30).connections == 17


def test_what_is_given_back_is_free_at_once() -> None:
    desk = Desk()
    desk.ask(1, want=20)
    assert desk.ask(2, want=5).connections == 0
    assert desk.ask(1, want=0, keep=0).connections == 0
    assert desk.ask(2, want=20).connections == 20


def test_who_has_all_is_told_to_come_down_to_an_even_part_when_another_waits() -> None:
    desk = Desk()
    desk.ask(1, want=20)
    assert desk.ask(2, want=20) == Share(0, 20)
    assert desk.hints == 1
    assert desk.ask(1, want=20, keep=20) == Share(20, 10)
    assert desk.ask(1, want=20, keep=10) == Share(10, 10)
    desk.later(1.0)
    assert desk.ask(2, want=20).connections == 10
    assert desk.ask(1, want=20, keep=10) == Share(10, 20)


def test_hints_do_not_chase_each_other() -> None:
    desk = Desk()
    desk.ask(1, want=20)
    for _ in range(100):
        desk.ask(2, want=20)
    assert desk.hints == 1


def test_a_worker_cannot_keep_what_it_never_had() -> None:
    assert Desk().ask(1, want=1, keep=15).connections == 1


# -- homes -------------------------------------------------------------------------------------------------------------


def test_a_small_limit_has_one_home() -> None:
    desk = Desk(workers=4)
    assert desk.ask(1, want=9, limit=1) == Share(1, 1)
    assert desk.ask(2, want=9, limit=1) == Share(0, 0, home=1)
    assert desk.ask(1, want=9, keep=1, limit=1).connections == 1


def test_the_home_moves_when_it_has_nothing_left() -> None:
    desk = Desk(workers=4)
    desk.ask(1, want=9, limit=7)
    assert desk.ask(2, want=9, limit=7).home == 1
    desk.ask(1, want=0, keep=2, limit=7)
    assert desk.ask(2, want=9, limit=7).home == 1, "it still has connections"
    desk.ask(1, want=0, keep=0, limit=7)
    assert desk.ask(2, want=9, limit=7) == Share(7, 7)


def test_a_limit_of_twice_the_workers_is_shared() -> None:
    desk = Desk(workers=4)
    desk.ask(1, want=2, limit=8)
    assert desk.ask(2, want=2, limit=8) == Share(2, 8)


def test_the_share_of_a_dead_home_passes_on_only_after_its_lease_has_ended() -> None:
    desk = Desk(workers=4)
    desk.ask(1, want=9, limit=1)
    desk.authority.died(1)
    assert desk.ask(2, want=9, limit=1) == Share(0, 1)
    desk.later(LINGER_S / 2)
    assert desk.ask(2, want=9, limit=1).connections == 0
    desk.later(LINGER_S / 2)
    assert desk.hints == 1
    assert desk.ask(2, want=9, limit=1).connections == 1


def test_a_worker_that_stands_still_keeps_what_it_has() -> None:
    """It is killed after ten seconds; until then its connections stand, so nobody else may have them."""
    desk = Desk(workers=4)
    desk.ask(1, want=1, limit=1)
    for _ in range(20):
        desk.later(1.0)
        assert desk.ask(2, want=9, limit=1).home == 1


# -- rates -------------------------------------------------------------------------------------------------------------


def test_messages_are_given_in_small_numbers() -> None:
    desk = Desk()
    share = desk.ask(1, want=5, per_minute=600, messages=1000)
    assert 1 <= share.messages <= 10
    assert desk.ask(1, want=5, keep=5, per_minute=600).messages == 0


def test_when_there_are_none_it_is_said_when_to_ask_again() -> None:
    desk = Desk()
    assert desk.ask(1, want=1, per_minute=1, messages=9).messages == 1
    share = desk.ask(1, want=1, keep=1, per_minute=1, messages=9)
    assert share.messages == 0
    assert 60.0 <= share.wait_s <= 60.0 + TOKEN_S + 0.1


def test_two_rates_hold_together() -> None:
    desk, given = Desk(), 0
    for _ in range(7200):
        given += desk.ask(1, want=1, per_minute=60, per_hour=100, messages=9).messages
        desk.later(1.0)
    assert 150 <= given <= 200


def test_sites_that_nobody_asks_for_are_forgotten() -> None:
    desk = Desk()
    desk.ask(1, want=3)
    desk.ask(1, want=0)
    desk.later(11.0)
    assert desk.authority._sites == {}


# -- whatever happens --------------------------------------------------------------------------------------------------

ACTS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "less", "die", "wait"]),
        st.integers(0, 3),
        st.integers(0, 30),
        st.floats(0, 3),
    ),
    max_size=80,
)


@settings(max_examples=200)
@given(limit=st.integers(1, 30), workers=st.integers(2, 4), per_minute=st.sampled_from([0, 3, 60]), acts=ACTS)
def test_shares_never_add_up_to_more_than_the_limit(
    limit: int, workers: int, per_minute: int, acts: list[tuple[str, int, int, float]]
) -> None:
    """At every moment, also while the connections of a dead worker may still be seen; and the rate in every minute."""
    desk = Desk(workers)
    numbers = list(range(1, workers + 1))
    """Who sits in each place now; whoever dies is followed by a new number."""
    shares: dict[int, int] = {}
    ghosts: list[tuple[float, int]] = []
    given: list[tuple[float, int]] = []
    for act, place, count, pause in acts:
        desk.later(pause)
        now = desk.clock.monotonic()
        worker = numbers[place % workers]
        if act == "die":
            desk.authority.died(worker)
            ghosts.append((now + LINGER_S, shares.pop(worker, 0)))
            numbers[place % workers] = max(numbers) + 1
        elif act in ("ask", "less"):
            keep = min(count, shares.get(worker, 0)) if act == "less" else shares.get(worker, 0)
            want = keep if act == "less" else count
            share = desk.ask(worker, want, keep, limit, per_minute=per_minute, messages=count)
            assert share.connections >= keep
            assert share.connections <= max(keep, want)
            shares[worker] = share.connections
            if share.messages:
                given.append((now, share.messages))
        standing = sum(n for until, n in ghosts if until > now)
        assert sum(shares.values()) + standing <= limit
    for first, _ in given:
        # A message may be sent up to TOKEN_S after it was given.
        sent = sum(n for at, n in given if first <= at < first + 60.0 + TOKEN_S)
        assert not per_minute or sent <= per_minute


@given(limit=st.integers(1, 30), workers=st.integers(1, 4), acts=ACTS)
def test_a_worker_left_alone_with_the_mail_comes_to_the_full_limit(
    limit: int, workers: int, acts: list[tuple[str, int, int, float]]
) -> None:
    """Within the ten seconds that are promised, and with nothing but its own asking, whatever was before."""
    desk = Desk(workers)
    shares: dict[int, int] = {}
    for _, place, count, pause in acts:
        desk.later(pause)
        worker = 1 + place % workers
        shares[worker] = desk.ask(worker, count, shares.get(worker, 0), limit).connections
    for worker in range(2, workers + 1):
        desk.ask(worker, 0, 0, limit)
    for _ in range(9):
        desk.later(1.0)
        shares[1] = desk.ask(1, 50, shares.get(1, 0), limit).connections
    assert shares[1] == limit
