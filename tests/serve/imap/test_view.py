"""The view of a selected mailbox: a sequence number means the same message to the client and to us, always."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from postroad.serve.imap_view import KEYWORD_SETS_MAX, RECENT, MailboxView, News
from postroad.store.mailbox_records import SEEN


class ClientModel:
    """What a client believes after the responses it was sent."""

    def __init__(self, count: int) -> None:
        self.uids: list[int | None] = [None] * count

    def hear(self, news: News, view: MailboxView) -> None:
        for number in news.expunged:
            del self.uids[number - 1]
        if news.exists >= 0:
            assert news.exists >= len(self.uids), "EXISTS never shrinks a mailbox: only EXPUNGE does"
            self.uids += [None] * (news.exists - len(self.uids))
        for place in range(len(view)):
            if self.uids[place] is None:
                self.uids[place] = view.uids[place]  # it fetches the UID of what is new


def loaded(*uids: int) -> MailboxView:
    view = MailboxView()
    view.load([(uid, 1, 0, "") for uid in uids], recent_from=0)
    return view


def test_new_messages_wait_for_tell() -> None:
    view = loaded(1, 2)
    view.learn([(3, 10, 0, "")], [], 10, recent_from=3)
    assert len(view) == 2
    assert view.last_uid == 2
    news = view.tell(expunges=False)
    assert (news.exists, news.recent, news.changed, news.expunged) == (3, 1, [], [])
    assert view.flags[2] == RECENT
    assert not view.tell(expunges=True)


def test_expunge_waits_until_it_may_be_sent() -> None:
    view = loaded(1, 2, 3, 4)
    view.learn([], [1, 3], 10, recent_from=0)
    assert not view.tell(expunges=False)
    assert [view.is_gone(place) for place in range(4)] == [True, False, True, False]
    assert view.tell(expunges=True).expunged == [3, 1]
    assert list(view.uids) == [2, 4]
    assert len(view) == 2


def test_a_message_that_came_and_went_is_never_told() -> None:
    view = loaded(1)
    view.learn([(2, 10, 0, "")], [], 10, recent_from=2)
    view.learn([], [2], 11, recent_from=2)
    assert not view.tell(expunges=True).expunged
    assert list(view.uids) == [1]
    assert view.recent == 0


def test_changed_flags_are_told_once_by_their_new_number() -> None:
    view = loaded(5, 6, 7)
    view.learn([(7, 10, SEEN, "$x"), (6, 10, SEEN, "")], [5, 6], 11, recent_from=0)
    news = view.tell(expunges=True)
    assert news.expunged == [2, 1]
    assert news.changed == [1]
    assert (view.flags[0], view.keywords_at(0)) == (SEEN, "$x")
    assert not view.tell(expunges=True)


def test_an_own_change_is_not_told_again() -> None:
    view = loaded(5)
    view.note_flags(0, 10, SEEN, "")
    view.learn([(5, 10, SEEN, "")], [], 10, recent_from=0)
    assert not view.tell(expunges=True)


def test_recent_survives_a_change_of_flags() -> None:
    view = MailboxView()
    view.load([(1, 1, 0, "")], recent_from=1)
    view.learn([(1, 5, SEEN, "")], [], 5, recent_from=0)
    assert view.flags[0] == SEEN | RECENT


def test_places() -> None:
    view = loaded(10, 20, 30)
    assert view.places_of_numbers([(1, 2), (3, 9)]) == [0, 1, 2]
    assert view.places_of_uids([(1, 10), (15, 25), (31, 4294967295)]) == [0, 1]
    assert [view.place_of(uid) for uid in (10, 15, 30, 31)] == [0, -1, 2, -1]
    assert MailboxView().last_uid == 0


def test_keyword_sets_that_nobody_has_any_more_are_forgotten() -> None:
    view = loaded(1, 2)
    for number in range(3 * KEYWORD_SETS_MAX):
        view.note_flags(0, number, 0, f"k{number}")
        view.tell(expunges=True)
    assert (view.keywords_at(0), view.keywords_at(1)) == (f"k{3 * KEYWORD_SETS_MAX - 1}", "")
    assert len(view._keyword_sets) <= KEYWORD_SETS_MAX + 1


def test_fifty_thousand_messages_cost_little() -> None:
    view = loaded(*range(1, 50_001))
    arrays = (view.uids, view.modseqs, view.flags, view.keywords)
    assert sum(values.itemsize * len(values) for values in arrays) <= 850_000


STEP = st.one_of(
    st.tuples(st.just("new"), st.integers(1, 3)),
    st.tuples(st.just("expunge"), st.integers(0, 50)),
    st.tuples(st.just("flag"), st.integers(0, 50)),
    st.tuples(st.just("learn"), st.booleans()),
    st.tuples(st.just("tell"), st.booleans()),
)


@settings(deadline=None, max_examples=80)
@given(st.lists(STEP, max_size=60))
def test_client_and_view_always_agree(steps: list[tuple[str, int]]) -> None:
    """Whatever another session does and whenever we look, number n is the same UID on both sides."""
    modseq, uidnext = 1, 4
    stored = {1: (1, 0), 2: (1, 0), 3: (1, 0)}
    vanished: list[tuple[int, int]] = []
    view = loaded(1, 2, 3)
    view.modseq = 1
    client = ClientModel(3)
    client.uids = [1, 2, 3]
    for what, argument in steps:
        modseq += 1
        if what == "new":
            for _ in range(argument):
                stored[uidnext] = (modseq, 0)
                uidnext += 1
        elif what == "expunge" and stored:
            uid = sorted(stored)[argument % len(stored)]
            del stored[uid]
            vanished.append((uid, modseq))
        elif what == "flag" and stored:
            uid = sorted(stored)[argument % len(stored)]
            stored[uid] = (modseq, stored[uid][1] ^ SEEN)
        elif what == "learn":
            rows = [(uid, at, flags, "") for uid, (at, flags) in stored.items() if at > view.modseq]
            view.learn(rows, [uid for uid, at in vanished if at > view.modseq], modseq, recent_from=1)
        elif what == "tell":
            client.hear(view.tell(expunges=bool(argument)), view)
        assert client.uids == list(view.uids[: len(view)])
    rows = [(uid, at, flags, "") for uid, (at, flags) in stored.items() if at > view.modseq]
    view.learn(rows, [uid for uid, at in vanished if at > view.modseq], modseq, recent_from=1)
    client.hear(view.tell(expunges=True), view)
    assert client.uids == sorted(stored)
    assert [view.flags[place] & SEEN for place in range(len(view))] == [stored[uid][1] for uid in sorted(stored)]
