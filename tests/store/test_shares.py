"""Due mail of users who would wait behind somebody else's backlog, on both engines."""

from __future__ import annotations

from postroad.store import shares
from postroad.store.actions import HOLD, Act, ActionBegin, act, action_begin
from postroad.store.queue import record
from postroad.store.records import ClaimOthers, Crowd, Later, Recorded
from postroad.store.shares import GROUPS_MAX, OTHERS_MAX, claim_others
from tests.store.stores import START_US, Desk, leg

DOMAIN = "example.net"
DELAYS_S = [120.0, 300.0]


def backlog(desk: Desk, login: str, first: int, count: int, recipient: str = f"b@{DOMAIN}") -> None:
    """So many messages of one user, all of them due."""
    for ident in range(first, first + count):
        desk.accept(ident, login=login, legs=[leg(ident + 100_000, recipient)])


def others(desk: Desk, *users: str, owner: int = 5, domain: str = DOMAIN) -> list[int]:
    desk.writer.live.add(owner)
    found = desk.run(claim_others, ClaimOthers(owner, DELAYS_S, [Crowd(domain, list(users))]), owner)
    return sorted(due.message for due in found.deliveries)


def test_other_users_are_found_behind_a_backlog(desk: Desk) -> None:
    backlog(desk, "bulk", 1, 50)
    backlog(desk, "anna", 100, 2)
    backlog(desk, "", 200, 1)
    assert others(desk, "bulk") == [100, 101, 200]
    assert others(desk, "bulk") == [], "they are the worker's now"


def test_what_is_claimed_is_as_of_any_claim(desk: Desk) -> None:
    backlog(desk, "anna", 1, 1)
    assert others(desk, "bulk") == [1]
    [(owner, due_us, attempts)] = desk.rows("SELECT owner, due_us, attempts FROM deliveries")
    assert (owner, due_us, attempts) == (5, START_US + 120_000_000, 1)


def test_nobody_gets_more_than_a_part(desk: Desk) -> None:
    backlog(desk, "anna", 1, OTHERS_MAX + 5)
    assert len(others(desk, "bulk")) == OTHERS_MAX


def test_what_is_not_due_held_moved_or_elsewhere_is_left(desk: Desk) -> None:
    backlog(desk, "anna", 1, 3)
    backlog(desk, "anna", 10, 1, "b@other.example")
    assert others(desk, "bulk", "anna") == []
    number = desk.run(action_begin, ActionBegin(HOLD, "root", "one"))
    desk.run(act, Act(number, [100_001]))
    desk.connection.execute("UPDATE deliveries SET due_us = ? WHERE id = ?", (START_US + 1, 100_002))
    desk.connection.execute("UPDATE deliveries SET next_hop = ? WHERE id = ?", ("[192.0.2.1]:25", 100_003))
    assert others(desk, "bulk") == []


def test_reasons_of_a_backlog_are_stepped_over(desk: Desk) -> None:
    """One user whose mail was refused in many ways does not hide the others."""
    backlog(desk, "bulk", 1, 40)
    backlog(desk, "zoe", 100, 1)
    desk.connection.execute("UPDATE deliveries SET reason = id WHERE login = ?", ("bulk",))
    desk.connection.execute("UPDATE deliveries SET reason = 999999 WHERE login = ?", ("zoe",))
    assert GROUPS_MAX > 41
    assert others(desk, "bulk") == [100]


def test_only_the_oldest_of_a_group_are_looked_at(desk: Desk) -> None:
    backlog(desk, "anna", 1, 5)
    later = [Later(100_000 + ident, START_US + 10**9, "later") for ident in range(1, 5)]
    desk.connection.execute("UPDATE deliveries SET owner = 5, last_reply = 'later'", ())
    desk.writer.live.add(5)
    desk.run(record, Recorded(5, [], [*later, Later(100_005, START_US, "later")], []), 5)
    assert others(desk, "bulk") == [5]
    assert shares.LOOKED_AT_MAX >= 5
