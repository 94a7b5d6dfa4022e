"""The lock on a maildrop, on both engines: one owner, and it dies with its owner."""

from __future__ import annotations

from postroad.store.pop_lock import PopLock, pop_lock, pop_unlock
from tests.store.stores import Desk

ONE, TWO = 11, 12


def taken(desk: Desk, owner: int, account: int = 5) -> bool:
    return desk.run(pop_lock, PopLock(account), owner).taken


def test_one_session_at_a_time(desk: Desk) -> None:
    desk.writer.live |= {ONE, TWO}
    assert taken(desk, ONE)
    assert not taken(desk, TWO)
    assert not taken(desk, ONE), "not twice for the same worker either"
    assert taken(desk, TWO, account=6), "another account is free"


def test_given_back_by_its_owner_only(desk: Desk) -> None:
    desk.writer.live |= {ONE, TWO}
    assert taken(desk, ONE)
    desk.run(pop_unlock, PopLock(5), TWO)
    assert not taken(desk, TWO)
    desk.run(pop_unlock, PopLock(5), ONE)
    assert taken(desk, TWO)


def test_free_when_its_worker_is_dead(desk: Desk) -> None:
    desk.writer.live |= {ONE, TWO}
    assert taken(desk, ONE)
    desk.writer.live.discard(ONE)
    assert taken(desk, TWO)


def test_free_when_nobody_lives(desk: Desk) -> None:
    assert taken(desk, ONE)
    assert taken(desk, TWO)
