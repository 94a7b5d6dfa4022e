"""The operational log: the same lines as the journal's, readable or JSON, with bugs that can be found again."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroad.config import Log
from postroad.flow.meters import Meters
from postroad.serve import logs, logtext
from postroad.serve.logs import log_bug, log_line, make_journal, setup_logs
from postroad.values.event import Event
from postroad.values.ids import EPOCH_US, IdMaker, id_text, parse_id

MESSAGE = IdMaker(1).make(EPOCH_US + 1)


class Written:
    """A log file that the test reads back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def text(self) -> str:
        return self.path.read_text()

    def json(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.text().split("\n")[:-1]]


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    log = Written(tmp_path / "log")
    yield log
    logs._output = None
    logtext.colour = False
    logging.captureWarnings(False)
    root.handlers[:], root.level = before, level
    os.close(log.handle)


def test_json_line_has_level_text_process_and_fields(written: Written) -> None:
    setup_logs(Log(format="json"), "worker-0", written.handle)
    log_line("warning", "the disk is nearly full", free=12, why="")
    (line,) = written.json()
    assert str(line.pop("ts")).endswith("Z")
    assert line == {"level": "warning", "text": "the disk is nearly full", "process": "worker-0", "free": 12}


def test_auto_is_json_where_nobody_looks(written: Written) -> None:
    setup_logs(Log(format="auto"), "", written.handle)
    log_line("info", "ready")
    assert written.json()[0]["text"] == "ready"


def test_text_line_is_for_people(written: Written) -> None:
    setup_logs(Log(format="text"), "store", written.handle)
    log_line("info", "ready", workers=2)
    assert written.text()[12:] == " store info      ready  workers=2\n"


def test_colours_only_on_a_terminal(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    setup_logs(Log(), "", written.handle)
    log_line("error", "no\x1b[31m colours of a peer")
    assert "\x1b[31merror" in written.text()
    assert "no\\x1b[31m colours" in written.text()


def test_no_color_is_obeyed(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    setup_logs(Log(), "", written.handle)
    log_line("error", "plain")
    assert "\x1b" not in written.text()


def test_a_bug_is_logged_with_traceback_reference_and_count(written: Written) -> None:
    setup_logs(Log(format="json"), "worker-1", written.handle)
    meters = Meters.private()
    make_journal(meters)
    try:
        raise ZeroDivisionError("by nought")
    except ZeroDivisionError as bug:
        reference = log_bug(bug, where="Session")
    (line,) = written.json()
    assert line["text"] == "bug: ZeroDivisionError: by nought"
    assert line["reference"] == reference
    assert line["where"] == "Session"
    assert "in test_a_bug_is_logged" in str(line["traceback"])
    assert parse_id(reference)
    assert meters.counter("postroad_bugs_total").value == 1


def test_bugs_have_references_of_their_own(written: Written) -> None:
    setup_logs(Log(format="json"), "", written.handle)
    assert len({log_bug(ValueError()) for _ in range(100)}) == 100


def test_traceback_in_text_is_indented(written: Written) -> None:
    setup_logs(Log(format="text"), "", written.handle)
    log_bug(ValueError("wrong"))
    assert "\n    ValueError: wrong\n" in written.text()


def test_library_logging_comes_out_in_our_form(written: Written) -> None:
    setup_logs(Log(format="json"), "worker-0", written.handle)
    logging.getLogger("some.library").warning("slow %s", "query")
    logging.getLogger("some.library").info("not shown")
    logging.getLogger("some.library").warning("broken %d", "text")
    shown = [(line["level"], line["logger"], line["text"]) for line in written.json()]
    assert shown == [("warning", "some.library", "slow query"), ("warning", "some.library", "broken %d")]


def test_exception_of_a_library_keeps_its_traceback(written: Written) -> None:
    setup_logs(Log(format="json"), "", written.handle)
    try:
        raise OSError("gone")
    except OSError:
        logging.getLogger("asyncio").exception("callback failed")
    (line,) = written.json()
    assert (line["level"], line["text"]) == ("error", "callback failed")
    assert "OSError: gone" in str(line["traceback"])


def test_warnings_of_python_come_out_too(written: Written) -> None:
    setup_logs(Log(format="json"), "", written.handle)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
    assert "old way" in str(written.json()[0]["text"])


def test_a_password_in_a_line_is_hidden(written: Written) -> None:
    setup_logs(Log(format="json"), "", written.handle)
    log_line("warning", "client said PASS hunter2", command="AUTH PLAIN AGFubmEA")
    assert "hunter2" not in written.text()
    assert "AGFubmEA" not in written.text()


def test_values_that_json_does_not_know_are_written_as_text(written: Written) -> None:
    setup_logs(Log(format="json"), "", written.handle)
    log_line("info", "data", path=Path("/var/lib/postroad"), octets="caf\udce9")
    assert written.json()[0]["path"] == "/var/lib/postroad"


def test_event_lines_follow_the_configured_format(written: Written) -> None:
    setup_logs(Log(format="text"), "", written.handle)
    event = Event(
        kind="bounced", at_us=EPOCH_US, recipient="b@example.net", cause="said 550", evidence="550 \x1b[2J no"
    )
    make_journal(Meters.private()).note(MESSAGE, [event])
    assert f'{id_text(MESSAGE)} bounced    b@example.net  said 550  "550 \\x1b[2J no"\n' in written.text()


def test_event_lines_can_be_switched_off(written: Written) -> None:
    setup_logs(Log(format="json", events=False), "", written.handle)
    row = make_journal(Meters.private()).note(MESSAGE, [Event(kind="received", at_us=EPOCH_US)])
    assert row != b"[]"
    assert written.text() == ""
