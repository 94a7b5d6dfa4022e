"""The server's log lines are understood, and its lifeline ends it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from postroad.dev.child import KEEP, Leftover, hold
from postroad.dev.playground import command_name
from postroad.dev.server import Said, read_line


def test_an_event_is_read_back() -> None:
    said = read_line(
        b'{"ts":"2026-11-23T17:58:21.254Z","id":"0ACF4DH2WFW02","kind":"delivered","at_us":5,"recipient":"bob@friends.test",'
        b'"evidence":"250 2.0.0 OK"}\n'
    )
    assert said.ident == "0ACF4DH2WFW02"
    assert said.event is not None
    assert (said.event.kind, said.event.at_us, said.event.evidence) == ("delivered", 5, "250 2.0.0 OK")


def test_a_line_of_operation_keeps_its_fields() -> None:
    line = b'{"ts":"x","level":"warning","text":"store ended","process":"supervisor","status":1}\n'
    assert read_line(line) == Said(level="warning", text="store ended (status: 1)")


@pytest.mark.parametrize(
    "line", [b"Traceback (most recent call last):\n", b"[]\n", b"{}\n", b"\xff\n", b'{"kind":1}\n']
)
def test_anything_else_is_text(line: bytes) -> None:
    said = read_line(line)
    assert (said.event, said.level) == (None, "")
    assert said.text == line.decode("utf-8", "replace").rstrip()


def test_warnings_of_python_are_not_for_the_screen() -> None:
    line = b'{"ts":"x","level":"warning","text":"DeprecationWarning: old","logger":"py.warnings"}\n'
    assert read_line(line).level == ""


class Gone(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Signals the process sent to itself; time passes at once, and ending raises Gone."""
    sent: list[int] = []

    def gone(status: int) -> None:
        raise Gone(status)

    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number) if pid == os.getpid() else None)
    monkeypatch.setattr(os, "_exit", gone)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return sent


@pytest.mark.parametrize("said, stays", [(b"", False), (KEEP, True)], ids=["temporary", "kept"])
def test_a_closed_lifeline_asks_insists_and_enforces(
    said: bytes, stays: bool, signals: list[int], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    lifeline, end = os.pipe()
    os.write(end, said)
    os.close(end)
    with pytest.raises(Gone):
        hold(lifeline, Leftover(str(folder)))
    os.close(lifeline)
    assert signals == [signal.SIGTERM, signal.SIGTERM]
    assert folder.exists() == stays


def test_the_command_to_call_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "bin dir" / "postroad"
    script.parent.mkdir()
    script.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert command_name(str(script)) == "'bin dir/postroad'"
    monkeypatch.setenv("PATH", str(script.parent))
    assert command_name(str(script)) == "postroad"
    assert command_name("/x/src/postroad/__main__.py").endswith(" -m postroad")
