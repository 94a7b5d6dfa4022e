"""What dead incarnations leave: deliveries on their first attempt are given back, files of nobody are removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroad.store import folder, sweep
from postroad.store.opening import OpenStore
from postroad.store.queue import claim
from postroad.store.records import Claim, Done, Recorded
from postroad.store.sqlite import SqliteConnection
from postroad.store.sweep import NEVER, Orphans, Reclaim
from postroad.store.units import UNITS
from postroad.store.writer import Call
from tests.fakes.clock import FakeClock
from tests.store.stores import START_US, Desk, leg, sample

LATER_US = START_US + 600_000_000


def walk(reclaim: Reclaim) -> None:
    while reclaim.due != NEVER:
        reclaim.step(0.0)


def test_first_attempts_of_the_dead_are_due_at_once_and_all_else_stays(desk: Desk) -> None:
    alive = 900
    desk.writer.live.add(alive)
    desk.accept(1, legs=[leg(10, owner=5, due_us=LATER_US), leg(11, owner=alive, due_us=LATER_US)])
    desk.accept(2, legs=[leg(20, due_us=LATER_US), leg(21, owner=5, due_us=LATER_US)])
    desk.connection.execute("UPDATE deliveries SET attempts = 2 WHERE id = 21")
    desk.writer.hints.clear()
    walk(Reclaim(desk.writer))
    assert desk.rows("SELECT id, owner, due_us FROM deliveries ORDER BY id") == [
        (10, 0, START_US), (11, alive, LATER_US), (20, 0, LATER_US), (21, 5, LATER_US),
    ]  # fmt: skip
    assert desk.writer.hints == [("queue", 0)]


def test_a_death_during_the_walk_begins_it_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SLICE", 2)
    desk.writer.live.add(5)
    desk.accept(1, legs=[leg(10 + n, owner=5, due_us=LATER_US) for n in range(5)])
    reclaim = Reclaim(desk.writer)
    reclaim.step(0.0)
    desk.writer.live.discard(5)
    reclaim.worker_died(5)
    walk(reclaim)
    assert desk.rows("SELECT count(*) FROM deliveries WHERE owner = 0 AND due_us = ?", START_US) == [(5,)]


def test_a_second_attempt_that_died_waits_for_its_written_time(desk: Desk) -> None:
    """A message that kills its worker is tried by the schedule, not in a loop."""
    desk.accept(1)
    desk.run(claim, Claim(5, 10, [60.0]), 5)
    desk.clock.advance(60)
    [due] = desk.run(claim, Claim(6, 10, [60.0, 300.0]), 6).deliveries
    walk(Reclaim(desk.writer))
    assert desk.rows("SELECT due_us FROM deliveries") == [(due.due_us,)]
    assert due.due_us == START_US + 360_000_000


# -- files -----------------------------------------------------------------------------------------------------------


def test_only_files_of_the_dead_that_nothing_names_are_removed(tmp_path: Path) -> None:
    store = OpenStore(tmp_path, clock=FakeClock(START_US))
    store.writer.live.add(70)
    bodies, drafts = tmp_path / folder.BODIES / "01", tmp_path / folder.DRAFTS
    for path in (bodies / "60-1", bodies / "60-2", bodies / "70-1", drafts / "60-3", drafts / "70-3", drafts / "note"):
        path.write_bytes(b"x")
    named = sample(1, body=None, body_file="bodies/01/60-1")
    assert store.writer.run([Call(UNITS["accept"], named)])[0].status == 0
    orphans = Orphans(tmp_path, store.writer)
    while orphans.due == 0.0:
        orphans.step(100.0)
    assert orphans.due == 100.0 + sweep.ORPHANS_EVERY_S
    assert sorted(path.name for path in bodies.iterdir()) == ["60-1", "70-1"]
    assert sorted(path.name for path in drafts.iterdir()) == ["70-3", "note"]
    store.close()


def test_the_end_of_a_message_removes_its_file_and_one_that_is_gone_hurts_nobody(tmp_path: Path) -> None:
    store = OpenStore(tmp_path, clock=FakeClock(START_US))
    body = tmp_path / folder.BODIES / "01" / "60-1"
    body.write_bytes(b"x")
    for ident, name in ((1, "bodies/01/60-1"), (2, "bodies/01/60-2")):
        store.writer.run([Call(UNITS["accept"], sample(ident, body=None, body_file=name))])
    done = Recorded(0, [Done(1001), Done(1002)], [], [])
    [result] = store.writer.run([Call(UNITS["record"], done)])
    assert result.value.deliveries == []
    assert not body.exists()
    store.close()


def test_free_pages_go_back_to_the_file_system(tmp_path: Path) -> None:
    connection = SqliteConnection(tmp_path / "db")
    connection.execute("CREATE TABLE t (x BLOB)")
    connection.execute("INSERT INTO t VALUES (zeroblob(2000000))")
    connection.execute("DELETE FROM t")
    assert connection.give_back(200, keep=50) > 400
    while connection.give_back(200, keep=50) > 50:
        pass
    assert connection.execute("PRAGMA freelist_count") == [(50,)]
    connection.close()
