"""Every figure the server counts, and counters cheap enough for the hot path that outlive a crash of their process.

Each process counts in a small file of its own that it maps into memory; whoever serves the page reads all files. A
count is one addition in shared memory (0.12 us; the multi-process mode of prometheus-client takes 0.86 us, and 2.0 for
a histogram), needs no lock, and is still there when the process was killed: its successor opens the same file and goes
on, so a counter never goes back while the server runs. Gauges begin again at zero.

File: slots of 256 octets. Slot 0 is the head (magic, pid); every other slot is one series: value (int64), length of its
text (uint16), text such as `postroad_events_total{kind="received"}`. The length is written last, so a reader sees a
series whole or not at all.
"""

from __future__ import annotations

import errno
import mmap
import os
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

SLOT: Final = 256
SLOTS: Final = 1024
"""Series per process; further ones are counted together as lost."""
_WORDS: Final = SLOT // 8
_TEXT_AT: Final = 16
_TEXT_MAX: Final = SLOT - _TEXT_AT
_MAGIC: Final = 0x31_73_72_65_74_65_4D_50
"""The octets "PMeters1"."""

Kind = Literal["counter", "gauge", "histogram"]

ATTEMPT_BOUNDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
LATENCY_BOUNDS: Final = (0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0)


@dataclass(frozen=True, slots=True)
class Meter:
    """One documented figure: its name, what its labels are, and what it tells."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets in seconds; the last bucket has none."""


METERS: Final = (
    Meter("postroad_events_total", "counter", ("kind",), "Journal events by their word."),
    Meter("postroad_smtp_in_connections_total", "counter", ("listener",), "SMTP connections that were admitted."),
    Meter("postroad_smtp_in_messages_total", "counter", ("listener",), "Messages taken over from SMTP clients."),
    Meter("postroad_smtp_in_rejections_total", "counter", ("listener", "reason"), "Commands and messages turned away."),
    Meter("postroad_smtp_in_bytes_total", "counter", ("listener",), "Octets of accepted messages."),
    Meter("postroad_connections", "gauge", ("service",), "Connections open now."),
    Meter("postroad_auth_total", "counter", ("protocol", "result"), "Logins tried, by how they ended."),
    Meter("postroad_deliveries_total", "counter", ("result",), "Ends and postponements of deliveries, local ones too."),
    Meter("postroad_out_attempts_total", "counter", ("result",), "Attempts to hand mail to other hosts."),
    Meter("postroad_out_attempt_seconds", "histogram", (), "Time of one attempt, connecting included.", ATTEMPT_BOUNDS),
    Meter("postroad_out_connections", "gauge", (), "Outgoing connections open now."),
    Meter("postroad_out_connections_total", "counter", ("result",), "Outgoing connections tried."),
    Meter("postroad_out_tls_total", "counter", ("version",), "Outgoing sessions by TLS version; none is unencrypted."),
    Meter(
        "postroad_delivery_latency_seconds",
        "histogram",
        (),
        "From acceptance to the next host or mailbox.",
        LATENCY_BOUNDS,
    ),
    Meter("postroad_policy_questions_total", "counter", ("stage",), "Questions to the administrator's policy.py."),
    Meter("postroad_policy_doubts_total", "counter", ("why",), "Questions that policy.py did not decide."),
    Meter("postroad_policy_restarts_total", "counter", (), "Policy processes started because one ended."),
    Meter("postroad_log_dropped_total", "counter", (), "Log lines lost because nobody read them."),
    Meter("postroad_bugs_total", "counter", (), "Errors of our own that were caught and logged."),
    Meter("postroad_series_lost_total", "counter", (), "Counts that found no free slot for a new series."),
)
"""What processes count themselves; `serve.metrics.PAGE_METERS` are the figures made when the page is asked for."""

BY_NAME: Final = {meter.name: meter for meter in METERS}


class Counter:
    """One series that only grows."""

    __slots__ = ("_at", "_cells")

    def __init__(self, cells: memoryview, at: int) -> None:
        self._cells = cells
        self._at = at

    def add(self, count: int = 1) -> None:
        """Count."""
        self._cells[self._at] += count

    @property
    def value(self) -> int:
        """The count so far, in this process's file."""
        return int(self._cells[self._at])


class Gauge(Counter):
    """One series that goes up and down."""

    __slots__ = ()

    def set(self, value: int) -> None:
        """Replace the value."""
        self._cells[self._at] = value


class Histogram:
    """How many observations fell into each bucket, and their sum in microseconds."""

    __slots__ = ("_at", "_bounds", "_cells", "_sum_at")

    def __init__(self, cells: memoryview, at: list[int], sum_at: int, bounds: tuple[float, ...]) -> None:
        self._cells = cells
        self._at = at
        self._sum_at = sum_at
        self._bounds = bounds

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        cells = self._cells
        cells[self._at[bisect_left(self._bounds, seconds)]] += 1
        cells[self._sum_at] += int(seconds * 1_000_000)


class Meters:
    """The counters of one process."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._cells = memoryview(memory).cast("q")
        self._at: dict[str, int] = {}
        self._bound: dict[tuple[str, ...], Counter] = {}
        self._used = 1
        self._load()
        self._lost = self.counter("postroad_series_lost_total")

    @classmethod
    def open(cls, file: Path | str) -> Meters:
        """Counters in a file that others read; what an earlier process of this place counted stands."""
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            # Not a file with holes: on a full disk the first touch of one would be a SIGBUS.
            os.posix_fallocate(handle, 0, SLOT * SLOTS)
            return cls(mmap.mmap(handle, SLOT * SLOTS))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return cls.private()  # nobody sees these counts, but the mail goes on
        finally:
            os.close(handle)

    @classmethod
    def private(cls) -> Meters:
        """Counters nobody else sees: for tests and for commands."""
        return cls(mmap.mmap(-1, SLOT * SLOTS))

    def counter(self, name: str, **labels: str) -> Counter:
        """The counter of these label values; bind it once, then `add`. Raises KeyError for an undocumented one."""
        return self._bind(Counter, "counter", name, labels)

    def gauge(self, name: str, **labels: str) -> Gauge:
        """The gauge of these label values. Raises KeyError for an undocumented one."""
        bound = self._bind(Gauge, "gauge", name, labels)
        assert isinstance(bound, Gauge)
        return bound

    def histogram(self, name: str) -> Histogram:
        """A histogram, which has no labels. Raises KeyError for an undocumented one."""
        meter = _known(name, "histogram", {})
        bounds = (*meter.bounds, float("inf"))
        at = [self._slot(series_text(f"{name}_bucket", {"le": _bound_text(bound)})) for bound in bounds]
        return Histogram(self._cells, at, self._slot(f"{name}_sum"), meter.bounds)

    def series(self) -> Iterator[tuple[str, int]]:
        """Text and value of every series counted here."""
        yield from read_series(self._memory)

    def _bind(self, kind: type[Counter], word: Kind, name: str, labels: dict[str, str]) -> Counter:
        key = (name, *labels.values())
        bound = self._bound.get(key)
        if bound is None:
            _known(name, word, labels)
            bound = self._bound[key] = kind(self._cells, self._slot(series_text(name, labels)))
        return bound

    def _slot(self, text: str) -> int:
        """Place of a series' value among the cells; a new series gets the next free slot, or the one of the lost."""
        at = self._at.get(text)
        if at is not None:
            return at
        raw = text.encode()
        if self._used >= SLOTS or len(raw) > _TEXT_MAX:
            self._lost.add()
            return self._lost._at
        start = self._used * SLOT
        self._memory[start + _TEXT_AT : start + _TEXT_AT + len(raw)] = raw
        at = self._at[text] = self._used * _WORDS
        self._cells[at] = 0
        self._cells[at + 1] = len(raw)
        self._used += 1
        return at

    def _load(self) -> None:
        """Take over what stands in the file; a file that is not ours begins empty."""
        if self._cells[0] != _MAGIC:
            self._memory[:] = bytes(len(self._memory))
        self._cells[0] = _MAGIC
        self._cells[1] = os.getpid()
        for text, _ in read_series(self._memory):
            at = self._at[text] = self._used * _WORDS
            if BY_NAME.get(text.partition("{")[0], BY_NAME["postroad_events_total"]).kind == "gauge":
                self._cells[at] = 0
            self._used += 1


def read_series(raw: bytes | mmap.mmap) -> Iterator[tuple[str, int]]:
    """Text and value of each series in the octets of a meters file; nothing when they are none."""
    for start in range(SLOT, len(raw) - SLOT + 1, SLOT):
        length = int.from_bytes(raw[start + 8 : start + 16], "little")
        if not 0 < length <= _TEXT_MAX:
            return
        text = raw[start + _TEXT_AT : start + _TEXT_AT + length].decode("utf-8", "replace")
        yield text, int.from_bytes(raw[start : start + 8], "little", signed=True)


def writer_pid(raw: bytes) -> int:
    """The process that counts in a meters file; 0 when the octets are no such file."""
    if int.from_bytes(raw[:8], "little") != _MAGIC:
        return 0
    return int.from_bytes(raw[8:16], "little")


def series_text(name: str, labels: dict[str, str]) -> str:
    """A series as the exposition format writes it; quotes, backslashes and line ends are escaped."""
    if not labels:
        return name
    pairs = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels.items())
    return f"{name}{{{pairs}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _bound_text(bound: float) -> str:
    return "+Inf" if bound == float("inf") else f"{bound:g}"


def _known(name: str, kind: Kind, labels: dict[str, str]) -> Meter:
    meter = BY_NAME[name]
    if meter.kind != kind or tuple(labels) != meter.labels:
        raise KeyError(f"{name} is a {meter.kind} with the labels {meter.labels}")
    return meter
