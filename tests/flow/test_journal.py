"""One call, three results: the row, the line and the counts say the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

from postroad.flow.journal import Journal
from postroad.flow.loglines import LineWriter
from postroad.flow.meters import Meters
from postroad.values.event import KINDS, Event, pack, unpack
from postroad.values.ids import EPOCH_US, IdMaker, id_text

NOW_US = EPOCH_US + 86_400_000_000
MESSAGE = IdMaker(1).make(NOW_US)
RECEIVED = Event(kind="received", at_us=NOW_US, by="mx", where="mail.example.org [192.0.2.1]")
DELIVERED = Event(
    kind="delivered", at_us=NOW_US + 2_500_000, recipient="b@example.net", evidence="250 2.0.0 Ok", attempt=1
)


def lines_of(events: list[Event], file: Path) -> tuple[bytes, list[dict[str, object]]]:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    row = Journal(Meters.private(), LineWriter(handle)).note(MESSAGE, events)
    os.close(handle)
    return row, [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]


def test_row_is_what_the_store_expects() -> None:
    row = Journal(Meters.private()).note(MESSAGE, [RECEIVED, DELIVERED])
    assert row == pack([RECEIVED, DELIVERED])
    assert unpack(row) == [RECEIVED, DELIVERED]


def test_each_event_is_one_line_with_time_id_and_the_words_of_the_row(tmp_path: Path) -> None:
    row, lines = lines_of([RECEIVED, DELIVERED], tmp_path / "log")
    assert [line.pop("ts") for line in lines] == ["2024-01-02T00:00:00.000Z", "2024-01-02T00:00:02.500Z"]
    assert [line.pop("id") for line in lines] == [id_text(MESSAGE)] * 2
    assert lines == json.loads(row)


def test_counts_are_by_kind_result_and_attempt() -> None:
    meters = Meters.private()
    journal = Journal(meters)
    local = Event(kind="delivered", at_us=NOW_US, recipient="a@dev.test")
    journal.note(MESSAGE, [RECEIVED, local, DELIVERED])
    counted = {text: value for text, value in meters.series() if value}
    assert counted == {
        'postroad_events_total{kind="received"}': 1,
        'postroad_events_total{kind="delivered"}': 2,
        'postroad_deliveries_total{result="delivered"}': 2,
        'postroad_out_attempts_total{result="delivered"}': 1,
        'postroad_delivery_latency_seconds_bucket{le="0.1"}': 1,
        'postroad_delivery_latency_seconds_bucket{le="10"}': 1,
        "postroad_delivery_latency_seconds_sum": 2_500_000,
    }


def test_every_word_of_the_journal_has_its_counter() -> None:
    meters = Meters.private()
    Journal(meters)
    texts = {text for text, _ in meters.series()}
    assert {f'postroad_events_total{{kind="{kind}"}}' for kind in KINDS} <= texts


def test_an_unknown_word_is_counted_too() -> None:
    meters = Meters.private()
    Journal(meters).note(MESSAGE, [Event(kind="sealed", at_us=NOW_US)])
    assert ('postroad_events_total{kind="sealed"}', 1) in list(meters.series())


def test_octets_that_are_no_text_are_kept_readable(tmp_path: Path) -> None:
    said = Event(
        kind="deferred", at_us=NOW_US, evidence=b"451 caf\xe9".decode("utf-8", "surrogateescape"), cause="\ud800"
    )
    row, lines = lines_of([said], tmp_path / "log")
    assert unpack(row)[0].evidence == "451 caf\\xe9"
    assert lines[0]["evidence"] == "451 caf\\xe9"


def test_a_password_in_a_refused_command_reaches_neither_row_nor_line(tmp_path: Path) -> None:
    said = Event(kind="refused", at_us=NOW_US, evidence="AUTH PLAIN AGFubmEAaHVudGVyMg== -> 530 5.7.0 Use TLS first")
    row, lines = lines_of([said], tmp_path / "log")
    assert b"AGFubmEAaHVudGVyMg" not in row
    assert lines[0]["evidence"] == "AUTH PLAIN [hidden]"


def test_no_events_are_an_empty_row() -> None:
    assert Journal(Meters.private()).note(MESSAGE, []) == b"[]"
