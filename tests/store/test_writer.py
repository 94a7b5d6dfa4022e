"""The writer: one bad unit hurts only its caller, a failed commit hurts all, and a broken disk ends writing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from postroad.store.engine import Connection, Params, Row, StatementFailed
from postroad.store.queue import DELIVERIES, MESSAGES, accept, claim
from postroad.store.records import Claim, Record
from postroad.store.units import UNITS, Tx, Withdrawn, unit
from postroad.store.writer import BROKEN, FAILED, FULL, OK
from postroad.values.errors import StoreBroken, StoreFull
from tests.fakes.clock import FakeClock
from tests.store.stores import START_US, Desk, leg, sample


class Order(Record, frozen=True):
    """What `stumble` shall do."""

    how: str = ""


@unit
def stumble(tx: Tx, args: Order) -> str:
    """Writes a row and then fails in the way that is asked for."""
    tx.execute("INSERT INTO counters (name, value) VALUES ('stumbled', 1)")
    tx.hint("stumbled")
    if args.how == "raise":
        raise RuntimeError("a bug")
    if args.how == "withdraw":
        raise Withdrawn("no, thank you")
    if args.how == "late":
        tx.append(MESSAGES, (None,) * len(MESSAGES.columns))
    return "done"


@pytest.fixture(scope="module", autouse=True)
def _forget_the_unit() -> Iterable[None]:
    yield
    del UNITS["stumble"]


class Faulty:
    """A connection on which one kind of call fails from some time on."""

    def __init__(self, inner: Connection) -> None:
        self._inner = inner
        self.commit_error: Exception | None = None
        self.execute_error: Exception | None = None

    @property
    def row_lock(self) -> str:
        return self._inner.row_lock

    def skip_locked(self, alias: str) -> str:
        return self._inner.skip_locked(alias)

    def execute(self, sql: str, params: Params = ()) -> list[Row]:
        if self.execute_error is not None:
            raise self.execute_error
        return self._inner.execute(sql, params)

    def executemany(self, sql: str, rows: Iterable[Params]) -> None:
        self._inner.executemany(sql, rows)

    def begin(self) -> None:
        self._inner.begin()

    def commit(self) -> None:
        if self.commit_error is not None:
            raise self.commit_error
        self._inner.commit()

    def rollback(self) -> None:
        self._inner.rollback()

    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def faulty(connect: Callable[[], Connection]) -> Faulty:
    return Faulty(connect())


@pytest.mark.parametrize("how", ["raise", "late"])
def test_only_the_bad_units_caller_gets_the_error(desk: Desk, how: str) -> None:
    results = desk.batch([(accept, sample(1)), (stumble, Order(how)), (accept, sample(2))])
    assert [result.status for result in results] == [OK, FAILED, OK]
    assert "stumble" in results[1].value
    assert desk.rows("SELECT id FROM messages ORDER BY id") == [(1,), (2,)]
    assert desk.rows("SELECT 1 FROM counters WHERE name = 'stumbled'") == []
    assert ("stumbled", 0) not in desk.writer.hints


def test_two_units_that_cannot_both_succeed_do_not_take_others_with_them(desk: Desk) -> None:
    results = desk.batch([(accept, sample(1)), (accept, sample(2)), (accept, sample(1)), (accept, sample(3))])
    assert [result.status for result in results] == [OK, OK, FAILED, OK]
    assert desk.rows("SELECT id FROM messages ORDER BY id") == [(1,), (2,), (3,)]


def test_many_bad_units_in_one_batch(desk: Desk) -> None:
    units: list[Any] = [(stumble, Order("raise")) if n % 2 else (accept, sample(n + 1)) for n in range(20)]
    results = desk.batch(units)
    assert [result.status for result in results] == [OK, FAILED] * 10
    assert desk.count("messages") == 10


def test_a_unit_that_withdraws_leaves_nothing_and_its_caller_gets_a_result(desk: Desk) -> None:
    results = desk.batch([(accept, sample(1)), (stumble, Order("withdraw"))])
    assert [tuple(result) for result in results][1] == (OK, "no, thank you")
    assert desk.rows("SELECT 1 FROM counters WHERE name = 'stumbled'") == []
    assert desk.count("messages") == 1


def test_a_batch_that_only_looked_does_not_wait_for_the_disk(faulty: Faulty) -> None:
    desk = Desk(faulty, FakeClock(START_US))
    faulty.commit_error = StoreBroken("nobody may commit")
    assert desk.run(claim, Claim(5, 10, [60.0])).deliveries == []
    assert desk.rows("SELECT last_batch FROM writers") == [(0,)]


def test_hints_come_once_each_and_only_after_the_commit(desk: Desk) -> None:
    desk.batch([(stumble, Order())])
    assert desk.writer.hints == [("stumbled", 0)]


def test_each_batch_raises_the_writers_number(desk: Desk) -> None:
    desk.accept(1)
    desk.batch([(accept, sample(2)), (accept, sample(3))])
    assert desk.rows("SELECT id, last_batch FROM writers") == [(desk.writer.number, 2)]


def test_journal_positions_go_on_through_batches_and_failures(desk: Desk) -> None:
    desk.accept(1)
    desk.batch([(accept, sample(2)), (stumble, Order("raise")), (accept, sample(3))])
    positions = [position for (position,) in desk.rows("SELECT position FROM journal ORDER BY position")]
    assert [position - (desk.writer.number << 40) for position in positions] == [0, 1, 2]


def test_a_second_writer_takes_a_number_of_its_own(connect: Callable[[], Connection]) -> None:
    one, two = Desk(connect(), FakeClock(START_US)), Desk(connect(), FakeClock(START_US))
    assert one.writer.number != two.writer.number
    one.accept(1)
    two.accept(2)
    assert one.rows("SELECT count(*) FROM journal") == [(2,)]


def test_a_failed_commit_fails_all_and_nothing_is_written_any_more(faulty: Faulty) -> None:
    desk = Desk(faulty, FakeClock(START_US))
    faulty.commit_error = StoreBroken("disk I/O error")
    results = desk.batch([(accept, sample(1)), (accept, sample(2))])
    assert [result.status for result in results] == [BROKEN, BROKEN]
    faulty.commit_error = None
    [later] = desk.batch([(accept, sample(3))])
    assert (later.status, later.value) == (BROKEN, "disk I/O error")
    with pytest.raises(StoreBroken):
        desk.writer.transact(lambda tx: None)


def test_a_full_disk_fails_the_batch_and_passes(faulty: Faulty) -> None:
    desk = Desk(faulty, FakeClock(START_US))
    faulty.commit_error = StoreFull("database or disk is full")
    results = desk.batch([(accept, sample(1)), (accept, sample(2))])
    assert [result.status for result in results] == [FULL, FULL]
    faulty.commit_error = None
    assert desk.count("messages") == 0
    desk.accept(1)
    assert not desk.writer.broken


def test_an_error_while_reading_breaks_the_store_too(faulty: Faulty) -> None:
    desk = Desk(faulty, FakeClock(START_US))
    faulty.execute_error = StoreBroken("disk I/O error")
    [result] = desk.batch([(stumble, Order())])
    assert result.status == BROKEN
    assert desk.writer.broken


def test_a_commit_that_the_database_refuses_is_run_singly(faulty: Faulty) -> None:
    desk = Desk(faulty, FakeClock(START_US))
    faulty.commit_error = StatementFailed("deferred constraint")
    results = desk.batch([(accept, sample(1)), (accept, sample(2))])
    assert [result.status for result in results] == [FAILED, FAILED]
    assert not desk.writer.broken


def test_effects_wait_for_the_commit(faulty: Faulty) -> None:
    desk = Desk(faulty, FakeClock(START_US))
    seen: list[str] = []

    def work(word: str) -> Callable[[Tx], None]:
        def change(tx: Tx) -> None:
            tx.execute("UPDATE counters SET value = value + 1 WHERE name = 'last_id'")
            tx.after_commit(lambda: seen.append(word))

        return change

    desk.writer.transact(work("committed"))
    assert seen == ["committed"]
    faulty.commit_error = StoreFull("full")
    with pytest.raises(StoreFull):
        desk.writer.transact(work("never"))
    assert seen == ["committed"]


def test_a_body_file_is_removed_only_after_the_commit_that_ended_its_message(faulty: Faulty) -> None:
    desk = Desk(faulty, FakeClock(START_US))
    desk.accept(1, body=None, body_file="bodies/00/1-1", legs=[leg(10)])

    def end(tx: Tx) -> None:
        tx.execute("DELETE FROM deliveries WHERE id = 10")
        tx.release(1)

    faulty.commit_error = StoreFull("full")
    with pytest.raises(StoreFull):
        desk.writer.transact(end)
    assert desk.removed == []
    faulty.commit_error = None
    desk.writer.transact(end)
    assert desk.removed == ["bodies/00/1-1"]


def test_many_released_messages_are_deleted_whatever_their_number(desk: Desk) -> None:
    for ident in range(1, 8):
        desk.accept(ident, legs=[leg(100 + ident)])
    held = 3

    def end(tx: Tx) -> None:
        tx.execute("DELETE FROM deliveries WHERE message <> ?", (held,))
        for ident in range(1, 8):
            tx.release(ident)

    desk.writer.transact(end)
    assert desk.rows("SELECT id FROM messages") == [(held,)]


def test_a_message_released_and_held_again_in_one_batch_stays(desk: Desk) -> None:
    desk.accept(1, legs=[leg(10)])

    def swap(tx: Tx) -> None:
        tx.execute("DELETE FROM deliveries WHERE id = 10")
        tx.release(1)
        tx.append(DELIVERIES, (11, 1, 0, 0, 0, 0, 0, "example.net", "b@example.net", "", "", b"", "", 0, 0, ""))

    desk.writer.transact(swap)
    assert desk.count("messages") == 1


def test_a_unit_must_look_like_one() -> None:
    def crooked(tx: Tx, first: Order, second: Order) -> None: ...

    with pytest.raises(TypeError, match="must look like"):
        unit(crooked)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="two units"):
        unit(stumble)
