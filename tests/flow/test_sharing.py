"""Whose mail goes next: users in turn, small mail before bulk, nobody left behind."""

from __future__ import annotations

from collections import Counter
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from postroad.flow.parcels import Delivery, Letter, Parcel
from postroad.flow.sharing import COST_MAX, PASSES_MAX, QUANTUM, SMALL, Waiting, cost, is_small
from postroad.flow.turns import Turns
from postroad.store.records import Accept, Leg


def parcel(user: str, size: int = 1000, recipients: int = 1, sender: str = "a@x.test", name: int = 0) -> Parcel:
    letter = Letter(
        Accept(name, 0, sender, b"", b"", "", size, [], [], 0, "", b"", login=user), name, header=b"", body=b""
    )
    return Parcel(letter, [Delivery(letter, Leg(i, "b@y.test", "y.test"), 1) for i in range(recipients)])


def filled(*parcels: Parcel) -> Waiting:
    waiting = Waiting()
    for each in parcels:
        waiting.append(each)
    return waiting


def taken(waiting: Waiting) -> list[str]:
    return [waiting.take().letter.user for _ in range(len(waiting))]


def test_one_user_is_served_in_order() -> None:
    waiting = filled(*(parcel("anna", name=n) for n in range(5)))
    assert [waiting.take().letter.id for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(waiting) == 0
    assert waiting.users == 0


def test_a_user_is_a_login_else_the_domain_of_the_sender() -> None:
    assert parcel("anna").letter.user == "anna"
    assert parcel("", sender="b@z.test").letter.user == "z.test"
    assert parcel("", sender="").letter.user == ""


def test_where_messages_are_what_is_short_users_take_turns_message_by_message() -> None:
    waiting = filled(*(parcel("bulk") for _ in range(4)), *(parcel("anna", 90_000) for _ in range(2)))
    assert [waiting.take(paced=True).letter.user for _ in range(6)] == ["bulk", "anna", "bulk", "anna", "bulk", "bulk"]


def test_one_message_of_a_user_does_not_wait_for_thousands_of_another() -> None:
    waiting = filled(*(parcel("bulk", 50_000) for _ in range(2000)), parcel("anna"))
    assert "anna" in taken(waiting)[:4]


def test_users_with_equal_mail_take_equal_turns() -> None:
    waiting = filled(*(parcel(user, 60_000) for user in ("anna", "ben", "carl") for _ in range(20)))
    first = Counter(taken(waiting)[:30])
    assert max(first.values()) - min(first.values()) <= 4


def test_a_user_with_large_mail_gets_the_same_octets_not_the_same_number() -> None:
    waiting = filled(*(parcel("large", 1_000_000) for _ in range(50)), *(parcel("small", 50_000) for _ in range(1000)))
    order = taken(waiting)[:210]
    assert 8 <= order.count("large") <= 12


def test_reports_and_single_messages_pass_bulk() -> None:
    bulk, letter = parcel("anna", recipients=50, name=1), parcel("anna", name=2)
    report = parcel("anna", size=500_000, recipients=2, sender="", name=3)
    waiting = filled(bulk, letter, report)
    assert [waiting.take().letter.id for _ in range(3)] == [2, 3, 1]


def test_what_is_small() -> None:
    assert is_small(parcel("anna", SMALL))
    assert not is_small(parcel("anna", SMALL + 1))
    assert not is_small(parcel("anna", recipients=2))
    assert is_small(parcel("anna", SMALL + 1, sender=""))


def test_bulk_is_passed_a_few_times_only() -> None:
    waiting = filled(parcel("anna", recipients=50, name=99), *(parcel("anna", name=n) for n in range(20)))
    order = [waiting.take().letter.id for _ in range(21)]
    assert order.index(99) == PASSES_MAX


def test_what_is_put_back_goes_next_and_keeps_its_order() -> None:
    waiting = filled(*(parcel("anna", name=n) for n in range(3)))
    first, second = waiting.take(), waiting.take()
    waiting.put_back(second)
    waiting.put_back(first)
    assert waiting.peek() is first
    assert [waiting.take().letter.id for _ in range(3)] == [0, 1, 2]


def test_everything_can_be_taken_out_at_once() -> None:
    waiting = filled(parcel("anna", name=1), parcel("ben", name=2), parcel("anna", recipients=9, name=3))
    assert [each.letter.id for each in waiting.take_all()] == [1, 3, 2]
    assert (len(waiting), waiting.users) == (0, 0)


MAIL = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.integers(0, 3_000_000), st.integers(1, 100)), min_size=1, max_size=120
)


@given(MAIL)
def test_nothing_is_lost_and_nobody_waits_longer_than_his_share(mail: list[tuple[str, int, int]]) -> None:
    """Between two parcels of a user who has mail waiting, each other user sends at most what the user's next parcel
    costs, and one quantum and one parcel more."""
    waiting = filled(*(parcel(user, size, count, name=n) for n, (user, size, count) in enumerate(mail)))
    left = Counter(user for user, _, _ in mail)
    since: dict[str, Counter[str]] = {user: Counter() for user in left}
    seen = []
    while waiting:
        one = waiting.take()
        user, price = one.letter.user, cost(one)
        seen.append(one.letter.id)
        for other, octets in since[user].items():
            assert octets <= price + QUANTUM + COST_MAX, (user, other)
        left[user] -= 1
        since[user].clear()
        for other in since:
            if other != user and left[other]:
                since[other][user] += price
    assert sorted(seen) == list(range(len(mail)))


KINDS = st.sampled_from(["append", "take", "paced", "put_back", "take_all"])
MOVES = st.lists(st.tuples(KINDS, st.integers(0, 1), st.integers(0, 3)), max_size=80)


@given(MOVES)
def test_a_site_counts_what_waits_in_its_lanes_whatever_is_done(moves: list[tuple[str, int, int]]) -> None:
    turns = Turns()
    lanes = [Waiting(turns), Waiting(turns)]
    taken: list[Parcel] = []
    number = count()
    for move, which, user in moves:
        lane = lanes[which]
        if move == "append":
            lane.append(parcel(f"user {user}", size=50_000 * user, recipients=1 + user, name=next(number)))
        elif move == "put_back" and taken:
            lane.put_back(taken.pop())
        elif move == "take_all":
            taken += lane.take_all()
        elif move in ("take", "paced") and lane:
            next_one = lane.peek() if move == "paced" else None
            taken.append(lane.take(paced=move == "paced"))
            assert next_one is None or taken[-1] is next_one
        waiting = [one for each in lanes for one in each]
        assert turns.users == Counter(one.letter.user for one in waiting)
        assert sum(map(len, lanes)) == len(waiting) == len({one.letter.id for one in waiting})
        assert not {one.letter.id for one in waiting} & {one.letter.id for one in taken}
