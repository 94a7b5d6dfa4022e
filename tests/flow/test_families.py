"""Which family comes first, and how that is forgotten again."""

from __future__ import annotations

from postroad.flow.families import FAMILY_FAILURES, FAMILY_S, HOST_S, HOSTS_KEPT, FamilyMemory
from postroad.flow.route import Hop

SIX, FOUR = Hop("mx.x.test", "2001:db8::1", 25), Hop("mx.x.test", "192.0.2.1", 25)
OTHER = Hop("mx2.x.test", "2001:db8::2", 25)


def test_what_could_not_be_reached_comes_behind_for_an_hour() -> None:
    memory = FamilyMemory()
    assert memory.order([SIX, FOUR, OTHER], 0.0) == [SIX, FOUR, OTHER]
    memory.unreached(SIX, 0.0)
    assert memory.order([SIX, FOUR, OTHER], 1.0) == [FOUR, SIX, OTHER]
    assert memory.order([SIX, FOUR, OTHER], HOST_S + 1) == [SIX, FOUR, OTHER]


def test_one_success_takes_it_back() -> None:
    memory = FamilyMemory()
    memory.unreached(SIX, 0.0)
    memory.reached(SIX)
    assert memory.order([SIX, FOUR], 1.0) == [SIX, FOUR]


def test_preference_of_hosts_stays_and_nothing_is_left_out() -> None:
    """A worse host is not taken because its better one has the broken family only."""
    memory = FamilyMemory()
    memory.unreached(OTHER, 0.0)
    assert memory.order([OTHER, SIX, FOUR], 1.0) == [OTHER, SIX, FOUR]


def test_a_family_that_reaches_nobody_is_taken_for_broken_for_a_while() -> None:
    memory = FamilyMemory()
    for number in range(FAMILY_FAILURES):
        assert memory.order([SIX, FOUR], 1.0) == [SIX, FOUR]
        memory.unreached(Hop(f"mx{number}.y.test", "2001:db8::3", 25), 0.0)
    assert memory.order([SIX, FOUR], 1.0) == [FOUR, SIX]
    assert memory.order([SIX, FOUR], FAMILY_S + 1) == [SIX, FOUR]
    memory.reached(SIX)
    assert memory.order([SIX, FOUR], 1.0) == [SIX, FOUR]


def test_one_dead_host_says_nothing_of_the_family() -> None:
    memory = FamilyMemory()
    for _ in range(50):
        memory.unreached(SIX, 0.0)
    assert memory.order([OTHER, Hop("mx2.x.test", "192.0.2.9", 25)], 1.0)[0] == OTHER


def test_memory_is_bounded() -> None:
    memory = FamilyMemory()
    for number in range(HOSTS_KEPT + 10):
        memory.unreached(Hop(f"mx{number}", "192.0.2.1", 25), 0.0)
    assert not memory.is_doubtful(Hop("mx0", "192.0.2.1", 25), FAMILY_S + 1)
    assert memory.is_doubtful(Hop("mx20", "192.0.2.1", 25), FAMILY_S + 1)


def test_sockets_of_this_machine_have_no_family() -> None:
    memory = FamilyMemory()
    socket = Hop("/run/lmtp.sock", "/run/lmtp.sock", 0, lmtp=True)
    memory.unreached(socket, 0.0)
    assert memory.order([socket], 1.0) == [socket]
