"""The queue's units on both engines: acceptance, claiming and recording, and what stands afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from postroad.store.account_records import DomainAdd, UserAdd
from postroad.store.accounts import domain_add, user_add
from postroad.store.engine import Connection
from postroad.store.queue import accept, claim, deliver_local, record
from postroad.store.records import (
    FILED,
    KIND_LOCAL,
    NO_MAILBOX,
    OVER_QUOTA,
    Accept,
    Accepted,
    Claim,
    Copy,
    Done,
    FileLocal,
    Later,
    Noted,
    Recorded,
)
from postroad.store.register import Register, register
from postroad.values.event import Event, pack, unpack
from tests.fakes.clock import FakeClock
from tests.store.stores import START_US, Desk, copy_for, leg, sample

DELAYS_S = [120.0, 300.0]


def claim_all(desk: Desk, owner: int, limit: int = 100, domains_not: list[str] | None = None) -> list[int]:
    found = desk.run(claim, Claim(owner, limit, DELAYS_S, domains_not or []), owner)
    return [due.id for due in found.deliveries]


def events_of(desk: Desk, message: int) -> list[Event]:
    rows = desk.rows("SELECT events FROM journal WHERE message = ? ORDER BY position", message)
    return [event for (raw,) in rows for event in unpack(raw)]


# -- accept ----------------------------------------------------------------------------------------------------------


def test_accepting_writes_message_deliveries_history_and_journal_together(desk: Desk) -> None:
    desk.accept(1, legs=[leg(1001), leg(1002, "c@example.com")], smtputf8=True)
    assert desk.rows("SELECT sender, size, smtputf8, body_file, header, body FROM messages") == [
        ("a@example.org", 29, 1, "", b"Subject: hello\r\n\r\n", b"Good day.\r\n")
    ]
    assert desk.rows("SELECT id, message, domain, owner, attempts FROM deliveries ORDER BY id") == [
        (1001, 1, "example.net", 0, 0),
        (1002, 1, "example.com", 0, 0),
    ]
    assert desk.rows("SELECT id, keys FROM history") == [(1, "a@example.org\nb@example.net")]
    assert [event.kind for event in events_of(desk, 1)] == ["received"]


def test_a_message_for_more_recipients_than_a_unit_may_touch_is_one_transaction(desk: Desk) -> None:
    desk.accept(1, legs=[leg(1000 + n, f"user{n}@example.net") for n in range(1000)])
    assert desk.count("deliveries") == 1000
    assert desk.rows("SELECT last_batch FROM writers") == [(1,)]


def test_a_copy_without_a_mailbox_becomes_an_open_local_delivery(desk: Desk) -> None:
    foretold = pack([Event(kind="received", at_us=1), Event(kind="delivered", at_us=1, recipient="user@dev.test")])
    accepted = desk.accept(1, legs=[], copies=[copy_for(77)], events=foretold)
    assert accepted.copies == [NO_MAILBOX]
    assert desk.rows("SELECT id, kind, account, recipient FROM deliveries") == [
        (accepted.legs[0], KIND_LOCAL, 77, "user@dev.test")
    ]
    assert [event.kind for event in events_of(desk, 1)] == ["received", "deferred"]
    assert desk.writer.hints == [("queue", 0)]
    assert claim_all(desk, 5) == accepted.legs


def test_the_same_id_cannot_be_accepted_twice(desk: Desk) -> None:
    desk.accept(1)
    [again] = desk.batch([(accept, sample(1))])
    assert again.status != 0
    assert desk.count("messages") == 1


# -- claim -----------------------------------------------------------------------------------------------------------


def test_a_claimed_delivery_has_its_next_time_written_before_its_attempt(desk: Desk) -> None:
    desk.accept(1)
    found = desk.run(claim, Claim(5, 10, DELAYS_S), 5)
    [due] = found.deliveries
    assert (due.id, due.message, due.attempts, due.sender, due.size) == (1001, 1, 0, "a@example.org", 29)
    assert due.due_us == START_US + 120_000_000
    assert desk.rows("SELECT owner, due_us, attempts FROM deliveries") == [(5, due.due_us, 1)]
    assert found.next_due_us == due.due_us


def test_the_last_delay_repeats(desk: Desk) -> None:
    desk.accept(1)
    for waited in (120, 300, 300):
        [due] = desk.run(claim, Claim(5, 10, DELAYS_S), 5).deliveries
        assert due.due_us - desk.clock.wall_us() == waited * 1_000_000
        desk.clock.advance(waited)


def test_the_longest_waiting_comes_first_and_what_is_not_due_stays(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, due_us=START_US - 1), leg(11, due_us=START_US - 2), leg(12, due_us=START_US + 1)])
    found = desk.run(claim, Claim(5, 10, DELAYS_S), 5)
    assert [due.id for due in found.deliveries] == [11, 10]
    assert found.next_due_us == START_US + 1


def test_a_full_claim_says_ask_again_at_once_and_an_empty_queue_says_never(desk: Desk) -> None:
    assert desk.run(claim, Claim(5, 1, DELAYS_S), 5).next_due_us == 0
    desk.accept(1, legs=[leg(10), leg(11)])
    assert desk.run(claim, Claim(5, 1, DELAYS_S), 5).next_due_us == START_US


def test_a_full_lane_is_passed_over(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, "x@full.example"), leg(11, "y@free.example")])
    assert claim_all(desk, 5, domains_not=["full.example"]) == [11]


def test_what_a_living_worker_owns_is_left_alone_even_when_due(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, owner=5, due_us=START_US)])
    desk.writer.live.add(5)
    assert claim_all(desk, 6) == []
    desk.writer.live.discard(5)
    assert claim_all(desk, 6) == [10]


def test_one_delivery_never_has_two_owners(connect: Callable[[], Connection]) -> None:
    """Two writers claim at the same time, as two machines on one PostgreSQL do; on SQLite they take turns."""
    first = Desk(connect(), FakeClock(START_US))
    first.accept(1, legs=[leg(10 + n) for n in range(60)])
    desks = [first, Desk(connect(), FakeClock(START_US))]
    taken: list[list[int]] = [[], []]
    together = threading.Barrier(2)

    def take(which: int) -> None:
        together.wait(5)
        while claimed := claim_all(desks[which], which + 5, limit=7):
            taken[which] += claimed

    threads = [threading.Thread(target=take, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken[0] + taken[1]) == [10 + n for n in range(60)]
    for which in (0, 1):
        owned = [ident for (ident,) in first.rows("SELECT id FROM deliveries WHERE owner = ?", which + 5)]
        assert sorted(owned) == sorted(taken[which])


# -- record ----------------------------------------------------------------------------------------------------------


def test_the_last_delivered_recipient_takes_the_message_with_it(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, owner=5), leg(11, owner=5)], body=None, body_file="bodies/0a/5-1")
    desk.run(record, Recorded(5, [Done(10)], [], [Noted(1, pack([Event(kind="delivered", at_us=1)]))]))
    assert desk.count("messages") == 1
    assert desk.removed == []
    desk.run(record, Recorded(5, [Done(11)], [], []))
    assert desk.count("messages") == 0
    assert desk.removed == ["bodies/0a/5-1"]
    assert desk.count("history") == 1
    assert [event.kind for event in events_of(desk, 1)] == ["received", "delivered"]


def test_a_deferred_delivery_belongs_to_nobody_until_its_time(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, owner=5)])
    desk.run(record, Recorded(5, [], [Later(10, START_US + 7, "451 later")], []))
    assert desk.rows("SELECT owner, due_us, last_reply, attempts FROM deliveries") == [
        (0, START_US + 7, "451 later", 1)
    ]


def test_nothing_is_recorded_when_one_delivery_is_not_the_callers(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, owner=5), leg(11, owner=6)])
    report = sample(2, sender="", legs=[leg(20)])
    lost = desk.run(record, Recorded(5, [Done(10)], [Later(11, 9, "")], [Noted(1, pack([]))], [report]))
    assert lost.deliveries == [11]
    assert desk.rows("SELECT id FROM deliveries ORDER BY id") == [(10,), (11,)]
    assert desk.count("messages") == 1
    assert len(desk.rows("SELECT 1 FROM journal")) == 1


def test_a_bounce_and_its_report_are_one_transaction(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, owner=5)])
    report = sample(2, sender="", legs=[leg(20, "a@example.org")])
    desk.run(record, Recorded(5, [Done(10)], [], [Noted(1, pack([Event(kind="bounced", at_us=1)]))], [report]))
    assert desk.rows("SELECT id FROM messages") == [(2,)]
    assert desk.rows("SELECT id FROM deliveries") == [(20,)]


def test_a_report_that_cannot_be_stored_keeps_the_end_it_reports_away(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, owner=5)])
    [result] = desk.batch([(record, Recorded(5, [Done(10)], [], [], [sample(1)]))])
    assert result.status != 0
    assert desk.rows("SELECT id FROM deliveries") == [(10,)]


def test_recording_twice_ends_nothing_twice(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, owner=5)])
    assert desk.run(record, Recorded(5, [Done(10)], [], [])).deliveries == []
    assert desk.run(record, Recorded(5, [Done(10)], [], [])).deliveries == [10]


def test_two_writers_that_end_the_last_two_deliveries_leave_no_message(connect: Callable[[], Connection]) -> None:
    desks = [Desk(connect(), FakeClock(START_US)) for _ in range(2)]
    idents = range(1, 31)
    for ident in idents:
        desks[0].accept(ident, legs=[leg(ident * 100, owner=5), leg(ident * 100 + 1, owner=6)])
    together = threading.Barrier(2)

    def end(which: int) -> None:
        for ident in idents:
            together.wait(5)
            desks[which].run(record, Recorded(5 + which, [Done(ident * 100 + which)], [], []))

    threads = [threading.Thread(target=end, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (desks[0].count("deliveries"), desks[0].count("messages")) == (0, 0)


# -- local deliveries ------------------------------------------------------------------------------------------------


@pytest.fixture
def user(desk: Desk) -> int:
    """An account with room for one sample message."""
    desk.run(domain_add, DomainAdd("dev.test"))
    desk.run(user_add, UserAdd("user@dev.test", quota_bytes=40))
    return int(desk.rows("SELECT id FROM accounts")[0][0])


def test_a_filed_copy_needs_no_delivery(desk: Desk, user: int) -> None:
    accepted = desk.accept(1, legs=[], copies=[copy_for(user)])
    assert (accepted.copies, accepted.legs) == ([FILED], [0])
    assert (desk.count("deliveries"), desk.count("mailbox_messages"), desk.count("messages")) == (0, 1, 1)


def test_a_full_mailbox_leaves_a_delivery_that_succeeds_when_there_is_room(desk: Desk, user: int) -> None:
    desk.accept(1, legs=[], copies=[copy_for(user)])
    accepted = desk.accept(2, legs=[], copies=[copy_for(user)])
    assert accepted.copies == [OVER_QUOTA]
    [delivery] = accepted.legs
    assert claim_all(desk, 5) == [delivery]
    success = pack([Event(kind="delivered", at_us=1)])
    again = FileLocal(5, delivery, copy_for(user), success)
    assert desk.run(deliver_local, again) == OVER_QUOTA
    assert desk.rows("SELECT id FROM deliveries") == [(delivery,)]
    desk.connection.execute("UPDATE accounts SET quota_bytes = 0")
    assert desk.run(deliver_local, again) == FILED
    assert (desk.count("deliveries"), desk.count("mailbox_messages"), desk.count("messages")) == (0, 2, 2)
    assert [event.kind for event in events_of(desk, 2)] == ["received", "deferred", "delivered"]
    assert desk.run(deliver_local, again) == NO_MAILBOX


def report(ident: int, account: int) -> Accept:
    """A report that goes into a mailbox."""
    body = b"x"
    return sample(ident, sender="", legs=[], copies=[copy_for(account)], header=b"A: b\r\n\r\n", body=body, size=9)


@pytest.fixture
def roomy(desk: Desk, user: int) -> int:
    """The account, without a quota."""
    desk.connection.execute("UPDATE accounts SET quota_bytes = 0")
    return user


def test_a_report_is_accepted_with_the_message_it_tells_of(desk: Desk, roomy: int) -> None:
    accepted = desk.accept(1, legs=[], copies=[copy_for(roomy)], reports=[report(2, roomy)])
    assert (accepted.copies, accepted.withdrawn) == ([FILED], False)
    assert desk.rows("SELECT id, sender FROM messages ORDER BY id") == [(1, "a@example.org"), (2, "")]
    assert (desk.count("mailbox_messages"), desk.count("history")) == (2, 2)


def test_a_report_goes_with_a_message_that_only_leaves(desk: Desk, roomy: int) -> None:
    desk.accept(1, reports=[report(2, roomy)])
    assert (desk.count("deliveries"), desk.count("messages"), desk.count("mailbox_messages")) == (1, 2, 1)


def test_a_report_that_would_not_be_true_takes_the_message_back(desk: Desk, user: int) -> None:
    """Another unit of the same batch stays; asked again with an open delivery, the message is accepted once."""
    untrue = sample(1, legs=[], copies=[copy_for(user), copy_for(77)], reports=[report(2, user)])
    first, other = desk.batch([(accept, untrue), (accept, sample(3))])
    assert (first.value.copies, first.value.withdrawn) == ([FILED, NO_MAILBOX], True)
    assert other.value == Accepted([], [])
    assert desk.rows("SELECT id FROM messages") == [(3,)]
    assert desk.rows("SELECT used_bytes, messages FROM accounts") == [(0, 0)]
    left = leg(10, "user@dev.test", kind=KIND_LOCAL, account=77, notify="SUCCESS", orcpt="rfc822;u")
    desk.connection.execute("UPDATE accounts SET quota_bytes = 0")
    again = desk.accept(1, legs=[left], copies=[copy_for(user)], reports=[report(2, user)])
    assert (again.copies, again.withdrawn) == ([FILED], False)
    assert desk.count("mailbox_messages") == 2


def test_accepting_with_reports_twice_changes_nothing_more(desk: Desk, roomy: int) -> None:
    """A batch that fails is rolled back and its units run again; an id is accepted once only."""
    told = sample(1, legs=[], copies=[copy_for(roomy)], reports=[report(2, roomy)])
    first, second = desk.batch([(accept, told), (accept, told)])
    assert (first.status, second.status == 0) == (0, False)
    assert (desk.count("messages"), desk.count("mailbox_messages")) == (2, 2)
    assert desk.rows("SELECT messages FROM accounts") == [(2,)]


def test_a_copy_that_was_not_filed_keeps_what_its_sender_wants(desk: Desk) -> None:
    wishes = Copy("user@dev.test", 77, notify="FAILURE", orcpt="rfc822;u", warn_us=5)
    desk.accept(1, legs=[], copies=[wishes])
    [due] = desk.run(claim, Claim(5, 10, DELAYS_S), 5).deliveries
    assert (due.notify, due.orcpt, due.warn_us) == ("FAILURE", "rfc822;u", 5)


def test_a_report_of_a_copy_filed_later_comes_with_it_and_not_before(desk: Desk, user: int) -> None:
    left = leg(10, "user@dev.test", kind=KIND_LOCAL, account=user)
    desk.accept(1, legs=[left])
    desk.accept(3, legs=[], copies=[copy_for(user)])
    assert claim_all(desk, 5) == [10]
    again = FileLocal(5, 10, copy_for(user), pack([]), [report(2, user)])
    assert desk.run(deliver_local, again) == OVER_QUOTA
    assert desk.rows("SELECT id FROM messages ORDER BY id") == [(1,), (3,)]
    desk.connection.execute("UPDATE accounts SET quota_bytes = 0")
    assert desk.run(deliver_local, again) == FILED
    assert desk.rows("SELECT id FROM messages ORDER BY id") == [(1,), (2,), (3,)]
    assert desk.run(deliver_local, again) == NO_MAILBOX
    assert desk.count("mailbox_messages") == 3


def test_a_warning_is_written_down_with_the_attempt(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10, owner=5, warn_us=9), leg(11, owner=5, warn_us=9)])
    later = [Later(10, START_US, "450", warned=True), Later(11, START_US, "450")]
    desk.run(record, Recorded(5, [], later, [], [sample(2, sender="")]))
    assert desk.rows("SELECT id, warn_us FROM deliveries WHERE message = 1 ORDER BY id") == [(10, 0), (11, 9)]


def test_a_message_goes_to_mailboxes_and_hosts_at_once(desk: Desk, user: int) -> None:
    desk.accept(1, legs=[leg(10, owner=5)], copies=[copy_for(user)])
    desk.run(record, Recorded(5, [Done(10)], [], []))
    assert desk.count("messages") == 1


# -- incarnations ----------------------------------------------------------------------------------------------------


def test_no_two_registrations_share_a_number_or_an_id(desk: Desk) -> None:
    desk.accept(1 << 40, legs=[leg((1 << 40) + 5)])
    first = desk.run(register, Register("one"))
    second = desk.run(register, Register("two"))
    assert len({first.incarnation, second.incarnation, desk.writer.number}) == 3
    assert second.last_id == (1 << 40) + 5


def test_a_registration_sees_what_its_own_batch_accepted(desk: Desk) -> None:
    _, registered = desk.batch([(accept, sample(1 << 40, legs=[])), (register, Register("late"))])
    assert registered.value.last_id == 1 << 40


@pytest.mark.parametrize("word", ["nul\0", "\udce9"])
def test_text_no_database_can_hold_fails_its_unit_alone(desk: Desk, word: str) -> None:
    results = desk.batch([(accept, sample(1)), (accept, sample(2, keys=word)), (accept, sample(3))])
    assert [result.status == 0 for result in results][::2] == [True, True]
    assert desk.rows("SELECT count(*) FROM messages WHERE id IN (1, 3)") == [(2,)]
