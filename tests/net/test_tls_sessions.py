"""Which sessions of hosts are looked at and kept, with ends of connections that say what the library would."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from postroad.net.tls_sessions import SESSIONS_KEPT, TICKETLESS_S, Sessions

KEY = "mx.example.com[192.0.2.1]:25 may"


class End:
    """A connection that is about to end; counts how often its session was copied."""

    session_reused = False

    def __init__(self, ticket: bool) -> None:
        self.ticket = ticket
        self.copies = 0

    @property
    def session(self) -> Any:
        self.copies += 1
        return SimpleNamespace(has_ticket=self.ticket)


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def sessions(clock: SimpleNamespace) -> Sessions:
    return Sessions(lambda: clock.now)


def keep(sessions: Sessions, end: End, key: str = KEY) -> None:
    sessions.keep(key, end, (b"its own", b"of its authority"))  # type: ignore[arg-type]


def known(sessions: Sessions, key: str = KEY) -> bool:
    """Whether a session is kept: only then are the other certificates of its chain known."""
    return sessions.chain(key, b"its own") == (b"its own", b"of its authority")


def test_every_session_with_a_ticket_is_kept(sessions: Sessions) -> None:
    first, second = End(ticket=True), End(ticket=True)
    keep(sessions, first)
    keep(sessions, second)
    assert (first.copies, second.copies, known(sessions)) == (1, 1, True)


def test_a_host_without_tickets_is_not_looked_at_again_at_once(sessions: Sessions, clock: SimpleNamespace) -> None:
    first, second = End(ticket=False), End(ticket=True)
    keep(sessions, first)
    clock.now += TICKETLESS_S - 1
    keep(sessions, second)
    assert (first.copies, second.copies, known(sessions)) == (1, 0, False)


def test_after_a_while_it_is(sessions: Sessions, clock: SimpleNamespace) -> None:
    keep(sessions, End(ticket=False))
    clock.now += TICKETLESS_S
    keep(sessions, End(ticket=True))
    assert known(sessions)


def test_it_says_nothing_about_another_host(sessions: Sessions) -> None:
    keep(sessions, End(ticket=False))
    keep(sessions, End(ticket=True), "other")
    assert known(sessions, "other")


def test_hosts_without_tickets_are_forgotten_one_by_one(sessions: Sessions) -> None:
    for number in range(SESSIONS_KEPT + 1):
        keep(sessions, End(ticket=False), str(number))
    oldest, next_one = End(ticket=False), End(ticket=False)
    keep(sessions, next_one, "1")
    keep(sessions, oldest, "0")
    assert (oldest.copies, next_one.copies) == (1, 0)
