"""The operational log of a process: start, warnings, bugs with an id, in the same lines as the journal's events.

Every process calls `setup_logs` once; before that, and in commands, lines go to standard error unbuffered. The
standard library's logging ends here too, so a library's warning looks like ours.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from typing import Any, Final

import msgspec

from postroad.config import Log
from postroad.flow.journal import Journal, TextLine
from postroad.flow.loglines import LineWriter, redact, time_text
from postroad.flow.meters import Counter, Meters
from postroad.serve.logtext import event_text, line_text
from postroad.values.ids import IdMaker, id_text

LEVELS: Final = ("debug", "info", "warning", "error")
TRACEBACK_MAX: Final = 8000
"""Characters of a traceback that a line carries: the end, where the cause stands."""


class _Output:
    """Where this process logs; replaced as a whole by `setup_logs`."""

    __slots__ = ("bugs", "events", "lines", "process", "text", "thread")

    def __init__(self, lines: LineWriter, *, text: bool, events: bool = True, process: str = "") -> None:
        self.lines = lines
        self.text = text
        self.events = events
        self.process = process
        self.thread = threading.get_ident()
        self.bugs: Counter | None = None


_output: _Output | None = None
_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
_references: Final = IdMaker(os.getpid())


def setup_logs(log: Log, process: str = "", fd: int = 2) -> LineWriter:
    """Send this process's lines to `fd` in the configured format; `process` ("worker-0") stands in each of them.

    Returns the writer, whose `close` writes what still waits.
    """
    global _output
    terminal = os.isatty(fd)
    text = log.format == "text" or (log.format == "auto" and terminal)
    if _output is not None:
        _output.lines.close()
    _output = _Output(LineWriter(fd), text=text, events=log.events, process=process)
    _output.thread = threading.get_ident()
    _colour(text and terminal)
    _route_logging()
    return _output.lines


def make_journal(meters: Meters) -> Journal:
    """The journal of this process, writing its event lines where the log goes (or nowhere, with `log.events` off)."""
    output = _current()
    output.bugs = meters.counter("postroad_bugs_total")
    output.lines.counter = meters.counter("postroad_log_dropped_total")
    text: TextLine | None = event_text if output.text else None
    return Journal(meters, output.lines if output.events else None, text)


def log_line(level: str, text: str, **fields: Any) -> None:
    """Write one line of the operational log; `level` is one of LEVELS, fields are shown by name.

    Secrets have no place in it; what looks like one is hidden. May be called from any thread.
    """
    output = _current()
    at_us = time.time_ns() // 1000
    shown = {name: redact(value) if isinstance(value, str) else value for name, value in fields.items()}
    if output.text:
        raw = line_text(at_us, level, redact(text), output.process, shown).encode("utf-8", "backslashreplace")
    else:
        raw = _json_line(at_us, level, redact(text), output.process, shown)
    output.lines.add(raw + b"\n")
    if level == "error" or output.thread != threading.get_ident():
        output.lines.flush()  # what comes before a crash must be seen


def log_bug(bug: BaseException, where: str = "") -> str:
    """Log an error of our own with its traceback; returns the reference that a reply may show to the peer."""
    reference = id_text(_references.make(time.time_ns() // 1000))
    output = _current()
    if output.bugs is not None:
        output.bugs.add()
    trace = "".join(traceback.format_exception(bug))[-TRACEBACK_MAX:]
    log_line("error", f"bug: {type(bug).__name__}: {bug}", where=where, reference=reference, traceback=trace)
    return reference


def _current() -> _Output:
    global _output
    if _output is None:
        _output = _Output(LineWriter(2), text=sys.stderr.isatty() if sys.stderr else False)
    return _output


def _json_line(at_us: int, level: str, text: str, process: str, fields: dict[str, Any]) -> bytes:
    line: dict[str, Any] = {"ts": time_text(at_us), "level": level, "text": text}
    if process:
        line["process"] = process
    line |= {name: value for name, value in fields.items() if value not in ("", None)}
    try:
        return _encode(line)
    except UnicodeEncodeError:
        readable = {name: str(value).encode("utf-8", "backslashreplace").decode() for name, value in line.items()}
        return _encode(readable)


def _colour(on: bool) -> None:
    from postroad.serve import logtext

    logtext.colour = on and not os.environ.get("NO_COLOR")


class _Routed(logging.Handler):
    """Lines of the standard library's logging, in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; a broken one is the library's bug and must not become ours."""
        level = record.levelname.lower() if record.levelname.lower() in LEVELS else "error"
        try:
            text = record.getMessage()
        except (TypeError, ValueError):
            text = str(record.msg)
        fields = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))[-TRACEBACK_MAX:]
        log_line(level, text, **fields)


def _route_logging() -> None:
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, (_Routed, logging.StreamHandler))]:
        root.removeHandler(old)
    root.addHandler(_Routed())
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
