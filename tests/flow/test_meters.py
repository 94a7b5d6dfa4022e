"""Counters in shared files: what is counted, what survives a crash, and what a reader sees."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from postroad.flow import meters
from postroad.flow.meters import Meters, read_series, series_text, writer_pid


def counted(file: Path) -> dict[str, int]:
    return dict(read_series(file.read_bytes()))


def test_counts_are_in_the_file_at_once(tmp_path: Path) -> None:
    file = tmp_path / "worker-0.meters"
    counter = Meters.open(file).counter("postroad_events_total", kind="received")
    counter.add()
    counter.add(4)
    assert counter.value == 5
    assert counted(file)['postroad_events_total{kind="received"}'] == 5


def test_successor_goes_on_counting_and_gauges_begin_at_zero(tmp_path: Path) -> None:
    file = tmp_path / "worker-0.meters"
    first = Meters.open(file)
    first.counter("postroad_events_total", kind="queued").add(7)
    first.gauge("postroad_connections", service="imap").set(3)
    first.histogram("postroad_out_attempt_seconds").observe(0.2)
    second = Meters.open(file)
    second.counter("postroad_events_total", kind="queued").add(1)
    assert counted(file)['postroad_events_total{kind="queued"}'] == 8
    assert counted(file)['postroad_connections{service="imap"}'] == 0
    assert counted(file)["postroad_out_attempt_seconds_sum"] == 200_000


def test_gauge_goes_down(tmp_path: Path) -> None:
    gauge = Meters.private().gauge("postroad_connections", service="mx")
    gauge.add()
    gauge.add(-3)
    assert gauge.value == -2


@pytest.mark.parametrize(
    "seconds, bucket", [(0.0, "0.01"), (0.01, "0.01"), (0.02, "0.03"), (100.0, "100"), (1e6, "+Inf")]
)
def test_observation_falls_into_the_first_bucket_that_holds_it(seconds: float, bucket: str) -> None:
    own = Meters.private()
    own.histogram("postroad_out_attempt_seconds").observe(seconds)
    text = series_text("postroad_out_attempt_seconds_bucket", {"le": bucket})
    assert [name for name, value in own.series() if value and "_bucket" in name] == [text]


def test_undocumented_names_and_labels_are_refused() -> None:
    own = Meters.private()
    with pytest.raises(KeyError):
        own.counter("postroad_secret_total")
    with pytest.raises(KeyError):
        own.counter("postroad_events_total", reason="x")
    with pytest.raises(KeyError):
        own.gauge("postroad_events_total", kind="received")


def test_too_many_series_are_counted_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "SLOTS", 5)
    own = Meters.private()
    for number in range(10):
        own.counter("postroad_events_total", kind=f"kind{number}").add()
    series = dict(own.series())
    assert len(series) == 4
    # Three kinds found room beside the series of the lost; the other seven are counted there, at binding and adding.
    assert series["postroad_series_lost_total"] == 14


def test_label_values_cannot_break_the_page() -> None:
    assert series_text("a", {"b": 'x"\\\n'}) == 'a{b="x\\"\\\\\\n"}'


def test_file_of_something_else_begins_empty(tmp_path: Path) -> None:
    file = tmp_path / "worker-0.meters"
    file.write_bytes(b"not meters at all" * 100)
    Meters.open(file).counter("postroad_bugs_total").add()
    assert counted(file) == {"postroad_series_lost_total": 0, "postroad_bugs_total": 1}


def test_head_names_the_process(tmp_path: Path) -> None:
    import os

    file = tmp_path / "worker-0.meters"
    Meters.open(file)
    assert writer_pid(file.read_bytes()) == os.getpid()
    assert writer_pid(b"something else, longer than sixteen") == 0
    assert list(read_series(b"")) == []


def test_a_full_disk_costs_the_counts_and_not_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    meters = Meters.open(tmp_path / "worker-0.meters")
    meters.counter("postroad_bugs_total").add()
