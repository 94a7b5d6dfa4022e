"""Exactly-once submission on both engines: one key, one message, whoever asks and however it was interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from postroad.store.account_records import DomainAdd, UserAdd
from postroad.store.accounts import domain_add, user_add
from postroad.store.engine import Connection
from postroad.store.queue import accept
from postroad.store.records import Accepted, Allowed, Sending
from postroad.store.submissions import FORGET_EVERY_S, KEPT_US, Forgetting
from postroad.store.units import ROWS_PER_UNIT
from postroad.values.event import Event, pack, unpack
from tests.fakes.clock import FakeClock
from tests.store.stores import START_US, Desk, leg, sample

DAY_S = 86_400
AGAIN = pack([Event(kind="repeated", at_us=START_US)])


def sending(key: bytes = b"key", content: bytes = b"content", **changes: Any) -> Sending:
    return Sending(key, content, AGAIN, **changes)


def kinds(desk: Desk, message: int) -> list[str]:
    rows = desk.rows("SELECT events FROM journal WHERE message = ? ORDER BY position", message)
    return [event.kind for (raw,) in rows for event in unpack(raw)]


def test_what_is_submitted_again_is_answered_with_the_first_id_and_changes_only_its_story(desk: Desk) -> None:
    assert desk.accept(1, sending=sending()) == Accepted([], [])
    desk.writer.hints.clear()
    assert desk.accept(2, sending=sending()) == Accepted([], [], first=1)
    assert desk.rows("SELECT id FROM messages") == [(1,)]
    assert desk.rows("SELECT id FROM deliveries") == [(1001,)]
    assert desk.rows("SELECT id FROM history") == [(1,)]
    assert desk.writer.hints == []
    assert kinds(desk, 1) == ["received", "repeated"]
    assert kinds(desk, 2) == []


def test_it_is_known_again_when_the_first_was_delivered_and_is_gone(desk: Desk) -> None:
    desk.accept(1, sending=sending(), legs=[])
    assert desk.count("messages") == 0
    assert desk.accept(2, sending=sending(), legs=[]).first == 1


def test_of_two_in_one_batch_one_wins(desk: Desk) -> None:
    both = [(accept, sample(ident, sending=sending())) for ident in (1, 2)]
    assert [result.value.first for result in desk.batch(both)] == [0, 1]
    assert desk.rows("SELECT id FROM messages") == [(1,)]
    assert kinds(desk, 1) == ["received", "repeated"]


def test_when_the_first_of_a_batch_fails_the_second_is_taken(desk: Desk) -> None:
    spoilt = sample(1, sending=sending(), keys="\udce9")
    results = desk.batch([(accept, spoilt), (accept, sample(2, sending=sending()))])
    assert [result.status == 0 for result in results] == [False, True]
    assert results[1].value.first == 0
    assert desk.rows("SELECT id FROM messages") == [(2,)]
    assert desk.rows("SELECT message FROM submissions") == [(2,)]


def test_after_a_day_it_is_sent_again(desk: Desk) -> None:
    desk.accept(1, sending=sending())
    desk.clock.advance(DAY_S - 1)
    assert desk.accept(2, sending=sending()).first == 1
    desk.clock.advance(1)
    assert desk.accept(3, sending=sending()).first == 0
    assert desk.accept(4, sending=sending()).first == 3
    assert desk.rows("SELECT id FROM messages ORDER BY id") == [(1,), (3,)]


def test_a_key_of_another_message_is_told_apart(desk: Desk) -> None:
    desk.accept(1, sending=sending())
    assert desk.accept(2, sending=sending(content=b"else")) == Accepted([], [], first=1, other=True)
    assert kinds(desk, 1) == ["received"]
    assert desk.count("messages") == 1


def test_mail_without_a_key_is_never_known_again(desk: Desk) -> None:
    desk.accept(1)
    desk.accept(2, sending=sending(key=b""))
    desk.accept(3, sending=sending(key=b""))
    assert (desk.count("messages"), desk.count("submissions")) == (3, 0)


def test_a_submission_that_its_sender_may_not_make_is_not_remembered(desk: Desk) -> None:
    desk.run(domain_add, DomainAdd("dev.test"))
    account = desk.run(user_add, UserAdd("anna@dev.test")).id
    counted: dict[str, Any] = {"account": account, "recipients": [b"b", b"c"]}
    few = sending(allowed=Allowed(recipients_per_message=1), **counted)
    short = desk.accept(1, sending=few).short
    assert short is not None
    assert (desk.count("messages"), desk.count("submissions"), desk.count("journal")) == (0, 0, 0)
    assert desk.accept(2, sending=sending(**counted)).first == 0


def test_two_writers_with_the_same_submission_take_it_once(connect: Callable[[], Connection]) -> None:
    """As two machines on one PostgreSQL do; on SQLite the writers take turns."""
    desks = [Desk(connect(), FakeClock(START_US)) for _ in range(2)]
    count = 30
    firsts: list[list[int]] = [[], []]
    together = threading.Barrier(2)

    def submit(which: int) -> None:
        for number in range(count):
            together.wait(5)
            ident = 1 + 2 * number + which
            message = sample(ident, legs=[leg(1000 + ident)], sending=sending(b"key %d" % number))
            [result] = desks[which].batch([(accept, message)])
            assert result.status == 0, result
            firsts[which].append(result.value.first or ident)

    threads = [threading.Thread(target=submit, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert firsts[0] == firsts[1]
    assert len(firsts[0]) == count
    assert desks[0].rows("SELECT id FROM messages ORDER BY id") == [(ident,) for ident in firsts[0]]


def test_keys_whose_day_is_over_are_swept_in_slices(desk: Desk) -> None:
    old = [(b"old %d" % n, n, b"", START_US - KEPT_US) for n in range(ROWS_PER_UNIT + 1)]
    insert = "INSERT INTO submissions (key, message, content, at_us) VALUES (?, ?, ?, ?)"
    desk.connection.begin()
    desk.connection.executemany(insert, [*old, (b"young", 9, b"", START_US - KEPT_US + 1)])
    desk.connection.commit()
    forgetting = Forgetting(desk.writer)
    forgetting.step(5.0)
    assert (desk.count("submissions"), forgetting.due) == (2, 5.0)
    forgetting.step(5.0)
    assert forgetting.due == 5.0 + FORGET_EVERY_S
    assert [bytes(key) for (key,) in desk.rows("SELECT key FROM submissions")] == [b"young"]
    [(batches,)] = desk.rows("SELECT last_batch FROM writers")
    forgetting.step(70.0)
    assert desk.rows("SELECT last_batch FROM writers") == [(batches,)], "nothing to forget, nothing to commit"


@pytest.mark.parametrize("where", ["same batch", "two batches"])
def test_a_repetition_counts_once_against_the_allowance(desk: Desk, where: str) -> None:
    desk.run(domain_add, DomainAdd("dev.test"))
    account = desk.run(user_add, UserAdd("anna@dev.test")).id
    one = sending(account=account, recipients=[b"b"], allowed=Allowed(messages_per_hour=1))
    calls = [(accept, sample(ident, sending=one)) for ident in (1, 2)]
    results = desk.batch(calls) if where == "same batch" else [*desk.batch(calls[:1]), *desk.batch(calls[1:])]
    assert [(result.value.first, result.value.short) for result in results] == [(0, None), (1, None)]
    assert desk.rows("SELECT messages, recipients FROM sending") == [(1, 1)]
