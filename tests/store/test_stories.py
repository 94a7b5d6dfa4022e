"""What `why` reads: live tables, day files and refusals tell one story, before, during and after the move."""

from __future__ import annotations

import datetime
from pathlib import Path

import apsw
import pytest

from postroad.store import dayfiles, folder
from postroad.store.dayfiles import Mover, day_files, day_path
from postroad.store.opening import OpenStore
from postroad.store.records import Done, Noted, Record, Recorded, Refusal
from postroad.store.refusals import PER_SOURCE, Refusals
from postroad.store.stories import Stories, Story
from postroad.store.suspensions import Lift, Suspension
from postroad.store.units import UNITS
from postroad.store.writer import OK, Call
from postroad.values.errors import StoreBroken
from postroad.values.event import Event, pack
from postroad.values.ids import IdMaker, id_text
from tests.fakes.clock import FakeClock
from tests.store.stores import START_US, leg, sample

HOUR_S = 3600.0
MINUTE_US = 60_000_000


class Diary:
    """A store whose clock a test moves, with its mover and its readers."""

    def __init__(self, data_dir: Path) -> None:
        self.clock = FakeClock(START_US)
        self.data_dir = data_dir
        self.store = OpenStore(data_dir, clock=self.clock)
        self.mover = Mover(data_dir, self.store.writer, self.clock, keep_days=30)
        self.stories = Stories(data_dir)
        self.ids = IdMaker(1)

    def accept(self, **changes: object) -> int:
        ident = self.ids.make(self.clock.wall_us())
        events = pack([Event(kind="received", at_us=self.clock.wall_us())])
        self.run("accept", sample(ident, legs=[leg(ident + 1, owner=5)], **({"events": events} | changes)))
        return ident

    def deliver(self, ident: int) -> None:
        events = pack([Event(kind="delivered", at_us=self.clock.wall_us(), recipient="b@example.net")])
        self.run("record", Recorded(5, [Done(ident + 1)], [], [Noted(ident, events)]))

    def run(self, unit: str, args: Record) -> None:
        [result] = self.store.writer.run([Call(UNITS[unit], args)])
        assert result.status == OK, result

    def move(self) -> None:
        self.mover.due = 0.0
        while self.mover.due <= 0.0:
            self.mover.step(0.0)

    def story(self, ident: int) -> Story:
        story = self.stories.story(ident)
        assert story is not None
        return story

    def kinds(self, ident: int) -> list[str]:
        return [event.kind for event in self.story(ident).events]

    def live(self, table: str) -> int:
        return int(self.store.connection.execute(f"SELECT count(*) FROM {table}")[0][0])


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(tmp_path)


def test_a_message_is_found_by_id_address_and_message_id(diary: Diary) -> None:
    first = diary.accept(keys="one@client.example\na@example.org\nb@example.net")
    second = diary.accept(keys="two@client.example\na@example.org\nc@example.net")
    for hours in (0, 2):
        diary.clock.advance(hours * HOUR_S)
        diary.move()
        assert diary.stories.find(id_text(first)) == [first]
        assert diary.stories.find(" <one@client.example> ") == [first]
        assert diary.stories.find("C@Example.NET") == [second]
        assert diary.stories.find("a@example.org") == [second, first]
        assert diary.stories.find("example.org") == diary.stories.find("") == diary.stories.find("nobody@x") == []
    assert diary.live("history") == 0


def test_an_open_delivery_shows_its_next_step(diary: Diary) -> None:
    ident = diary.accept()
    [delivery] = diary.story(ident).open
    assert (delivery.id, delivery.recipient, delivery.attempts) == (ident + 1, "b@example.net", 1)
    diary.deliver(ident)
    assert diary.story(ident).open == []


def test_a_suspension_is_told_of_mail_that_must_wait_for_its_end(diary: Diary) -> None:
    ident = diary.accept()
    until_us = START_US + 60 * MINUTE_US
    diary.run("note_suspension", Suspension("192.0.2.1>google", ["example.net"], until_us, "google: blocked"))
    [waiting] = diary.story(ident).open
    assert (waiting.suspended_us, waiting.suspended) == (until_us, "google: blocked")
    diary.run("lift_suspension", Lift("192.0.2.1>google"))
    [waiting] = diary.story(ident).open
    assert (waiting.suspended_us, waiting.suspended) == (0, "")
    by_source = Suspension("192.0.2.1>google", ["example.net"], until_us, "google: blocked", by_source=True)
    diary.run("note_suspension", by_source)
    [waiting] = diary.story(ident).open
    assert (waiting.suspended_us, waiting.suspended) == (0, "")


def test_a_story_is_whole_across_the_move(diary: Diary) -> None:
    ident = diary.accept()
    diary.clock.advance(23.5 * HOUR_S)
    diary.move()
    assert diary.live("journal") == 0
    diary.deliver(ident)
    assert diary.kinds(ident) == ["received", "delivered"]
    diary.clock.advance(2 * HOUR_S)
    diary.move()
    assert diary.kinds(ident) == ["received", "delivered"]
    assert [day.isoformat() for day, _ in day_files(diary.data_dir)] == ["2026-01-01"]


def test_the_hour_that_is_not_closed_stays(diary: Diary) -> None:
    diary.clock.advance(HOUR_S / 2)
    early = diary.accept()
    diary.clock.advance(HOUR_S / 2 + 1)
    late = diary.accept()
    diary.move()
    assert [row[0] for row in diary.store.connection.execute("SELECT message FROM journal")] == [late]
    assert [row[0] for row in diary.store.connection.execute("SELECT id FROM history")] == [late]
    assert diary.kinds(early) == diary.kinds(late) == ["received"]


def test_a_move_that_died_before_its_deletion_is_repeated_without_doubles(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    ident = diary.accept()
    diary.clock.advance(2 * HOUR_S)
    monkeypatch.setattr(Mover, "_delete", lambda *_: None)
    diary.mover.step(0.0)
    assert diary.kinds(ident) == ["received"]
    monkeypatch.undo()
    diary.move()
    assert diary.live("journal") == 0
    assert diary.kinds(ident) == ["received"]


def test_many_rows_move_in_slices_and_each_to_its_day(diary: Diary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dayfiles, "SLICE", 7)
    idents = []
    for _ in range(30):
        idents.append(diary.accept())
        diary.clock.advance(2 * HOUR_S)
    diary.move()
    assert (diary.live("journal"), diary.live("history")) == (0, 0)
    assert len(day_files(diary.data_dir)) == 3
    assert all(diary.kinds(ident) == ["received"] for ident in idents)
    assert sorted(diary.stories.find("a@example.org")) == idents


def test_everything_in_the_folder_is_for_its_owner_alone(diary: Diary) -> None:
    """Also where the folder itself was made by somebody more open."""
    diary.accept()
    diary.clock.advance(2 * HOUR_S)
    diary.mover.step(0.0)
    modes = {path.name: path.stat().st_mode & 0o077 for path in diary.data_dir.rglob("*")}
    assert {"postroad.db", "postroad.db-wal", "refusals.db", "2026-01-01.db", "bodies"} <= modes.keys()
    assert [name for name, others in modes.items() if others] == []


def test_old_days_are_dropped_whole(diary: Diary) -> None:
    ident = diary.accept()
    diary.clock.advance(2 * HOUR_S)
    diary.move()
    diary.deliver(ident)
    diary.clock.advance(31 * 24 * HOUR_S)
    diary.move()
    assert datetime.date(2026, 1, 1) not in [day for day, _ in day_files(diary.data_dir)]
    assert diary.stories.story(ident) is None


def test_ids_go_on_above_those_that_were_moved_away(diary: Diary) -> None:
    ident = diary.accept()
    diary.deliver(ident)
    diary.clock.advance(2 * HOUR_S)
    diary.move()
    diary.store.close()
    again = OpenStore(diary.data_dir, clock=FakeClock(START_US - MINUTE_US))
    again.writer.run([])
    [registered] = again.writer.run([Call(UNITS["register"], UNITS["register"].decode(b"\x91\xa1x"))])
    assert registered.value.last_id >= ident
    again.close()


def test_a_damaged_row_leaves_the_rest_of_the_story(diary: Diary) -> None:
    ident = diary.accept()
    diary.run("journal", Noted(ident, b"{not json"))
    diary.deliver(ident)
    assert diary.kinds(ident) == ["received", "delivered"]


def test_the_live_journal_is_read_only_from_where_a_message_can_begin(diary: Diary) -> None:
    """The search by halves finds rows at the beginning, in the middle and at the end, across two writers."""
    idents = []
    for _ in range(2):
        for _ in range(20):
            idents.append(diary.accept())
            diary.clock.advance(100)
        diary.store.close()
        diary.store = OpenStore(diary.data_dir, clock=diary.clock)
    for ident in idents:
        diary.run("journal", Noted(ident, pack([Event(kind="deferred", at_us=diary.clock.wall_us())])))
    assert all(diary.kinds(ident) == ["received", "deferred"] for ident in idents)


# -- refusals --------------------------------------------------------------------------------------------------------


def refusal(number: int, source: str = "192.0.2.7", at_us: int = START_US) -> Refusal:
    events = pack([Event(kind="refused", at_us=at_us, cause="no such user")])
    return Refusal((number << 12) | 1, at_us, source, "unknown user", "x@dev.test", events)


def refusal_rows(path: Path) -> list[tuple[object, ...]]:
    return apsw.Connection(str(path)).execute("SELECT source, times FROM refusals ORDER BY at_us, reference").fetchall()


def test_a_flood_of_one_source_becomes_few_rows(tmp_path: Path) -> None:
    refusals = Refusals(tmp_path / folder.REFUSALS)
    for number in range(1, 1001):
        refusals.add(refusal(number))
    refusals.add(refusal(2000, "192.0.2.8"))
    refusals.add(refusal(3000, at_us=START_US + MINUTE_US))
    refusals.close()
    rows = refusal_rows(tmp_path / folder.REFUSALS)
    assert rows.count(("192.0.2.7", 1)) == PER_SOURCE + 1
    assert ("192.0.2.7", 1000 - PER_SOURCE) in rows
    assert ("192.0.2.8", 1) in rows
    assert len(rows) == PER_SOURCE + 3


def test_a_flood_from_everywhere_is_counted_as_one_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroad.store.refusals.SOURCES_MAX", 10)
    refusals = Refusals(tmp_path / folder.REFUSALS)
    for number in range(1, 101):
        refusals.add(refusal(number, f"192.0.2.{number}"))
    refusals.close()
    rows = refusal_rows(tmp_path / folder.REFUSALS)
    assert sum(int(str(times)) for _, times in rows) == 100
    assert len(rows) == 10 + PER_SOURCE + 1


def test_refusals_wait_a_moment_for_company_and_then_are_written(tmp_path: Path) -> None:
    refusals = Refusals(tmp_path / folder.REFUSALS)
    assert refusals.due == float("inf")
    refusals.add(refusal(1))
    refusals.step(100.0)
    assert refusal_rows(tmp_path / folder.REFUSALS) == []
    assert refusals.due == pytest.approx(100.5)
    refusals.step(100.5)
    assert refusal_rows(tmp_path / folder.REFUSALS) == [("192.0.2.7", 1)]
    assert refusals.due == float("inf")
    refusals.close()


def test_a_minute_of_a_flood_is_closed_although_nobody_calls_again(tmp_path: Path) -> None:
    refusals = Refusals(tmp_path / folder.REFUSALS)
    for number in range(1, 101):
        refusals.add(refusal(number))
    for now in (100.0, 100.5, 160.5):
        refusals.step(now)
    assert ("192.0.2.7", 80) in refusal_rows(tmp_path / folder.REFUSALS)
    assert refusals.due == float("inf")
    refusals.close()


def test_old_refusals_are_forgotten(tmp_path: Path) -> None:
    refusals = Refusals(tmp_path / folder.REFUSALS)
    refusals.add(refusal(1))
    refusals.flush()
    refusals.add(refusal(2, at_us=START_US + 8 * 24 * 60 * MINUTE_US))
    refusals.flush()
    assert len(refusal_rows(tmp_path / folder.REFUSALS)) == 1
    refusals.close()


def test_a_story_without_a_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreBroken):
        Stories(tmp_path).find("a@example.org")
    assert not day_path(tmp_path, datetime.date(2026, 1, 1)).exists()


def test_every_reference_of_a_flood_leads_to_the_row_that_counts_it(tmp_path: Path) -> None:
    OpenStore(tmp_path).close()
    refusals = Refusals(tmp_path / folder.REFUSALS)
    begin_us = START_US // MINUTE_US * MINUTE_US
    ids, before, after = IdMaker(3), IdMaker(3).make(begin_us - 1000), IdMaker(3).make(begin_us + MINUTE_US)
    references = [ids.make(begin_us + 1000 * number) for number in range(1, 51)]
    for number, reference in enumerate(references, 1):
        events = pack([Event(kind="refused", at_us=begin_us, cause="no such user")])
        refusals.add(Refusal(reference, begin_us + 1000 * number, "192.0.2.7", "unknown user", "x@dev.test", events))
    refusals.close()
    stories = Stories(tmp_path)
    single, counted = references[:PER_SOURCE], references[PER_SOURCE:]
    assert [stories.find(id_text(reference)) for reference in single] == [[reference] for reference in single]
    assert {tuple(stories.find(id_text(reference))) for reference in counted} == {(counted[-1],)}
    story = stories.story(counted[-1])
    assert story is not None
    assert story.events[0].cause.startswith("30 more refusals from 192.0.2.7")
    assert stories.find(id_text(before)) == stories.find(id_text(after)) == []
