"""`postroad policy`, and what `postroad config check` says of a policy file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.console.conftest import CommandLine

pytestmark = pytest.mark.slow

POLICY = """
from postroad.rules.policy import *

def rcpt(r):
    return refuse("Not you.") if r.sender == "bad@example.net" else None

def message(m):
    if "hang" in m.subject:
        while True: pass
    return [add_header("X-Seen", m.subject), quarantine(m.text().strip())]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "policy.py"
    written.write_text(POLICY)
    return written


def test_check_names_the_stages(run: CommandLine, file: Path) -> None:
    assert run("policy", "check", str(file)).output == f"{file}: ok, asked at rcpt, message\n"
    assert run.json("policy", "check", str(file))["stages"] == ["rcpt", "message"]


@pytest.mark.parametrize(
    "source, said",
    [
        ("import os\ndef rcpt(r)\n", " line 2: SyntaxError: expected ':'"),
        ("x = 1\nraise ValueError('x')\n", " line 2: ValueError: x"),
        ("import os\nos._exit(4)\n", ": it ended with status 4"),
        (None, ": cannot be read: No such file or directory"),
    ],
)
def test_check_names_the_line_and_fails(run: CommandLine, file: Path, source: str | None, said: str) -> None:
    file.write_text(source) if source is not None else file.unlink()
    assert run("policy", "check", str(file), status=1).output == f"{file}{said}\n"
    told = run.json("policy", "check", str(file), status=1)
    assert told["ok"] is False


def test_try_prints_the_verdict(run: CommandLine, file: Path) -> None:
    words = ("policy", "try", str(file), "--stage", "rcpt", "--recipient", "anna@example.org")
    assert run(*words).output == "no opinion\n"
    output = run(*words, "--sender", "bad@example.net").output
    assert "refuse: refused by policy\n" in output
    assert "550 5.7.1 Not you." in output
    told = run.json(*words, "--sender", "bad@example.net")
    assert (told["ruling"], told["why"], told["reply"]) == ("refuse", "refused by policy", "550 5.7.1 Not you.")
    assert "no function mail()" in run("policy", "try", str(file), "--stage", "mail").output


def test_try_of_a_message_shows_what_is_changed(run: CommandLine, file: Path) -> None:
    words = ("policy", "try", str(file), "--stage", "message", "--message", "-")
    output = run(*words, stdin="Subject: hi\n\nodd\n").output
    assert "  quarantine  odd\n" in output
    assert "  header      X-Seen: hi\n" in output
    assert "could not tell: policy hung" in run(*words, stdin="Subject: hang\n\n").output
    assert "NUL" in run(*words, stdin="\0", status=1).output


def test_try_of_what_is_no_address_or_no_policy(run: CommandLine, file: Path) -> None:
    assert "is no address" in run("policy", "try", str(file), "--stage", "mail", "--sender", "x", status=1).output
    assert "No policy file is configured." in run("policy", "check", status=1).output
    file.write_text("(")
    assert "SyntaxError" in run("policy", "try", str(file), "--stage", "mail", status=1).output


def test_config_check_loads_the_file(run: CommandLine, file: Path) -> None:
    run.data.mkdir(mode=0o700)
    config = run.data.parent / "postroad.toml"
    config.write_text(f'hostname = "mx.example.org"\ndata_dir = "{run.data}"\n[policy]\nfile = "{file}"\n')
    assert ": ok" in run("config", "check", str(config)).output
    assert f"{file}: ok" in run("--config", str(config), "policy", "check").output
    file.write_text("\ndef rcpt(:\n")
    output = run("config", "check", str(config), status=1).output
    assert f"{config} line 4: policy.file: {file} line 2: SyntaxError" in output
    file.write_text(POLICY)
    file.chmod(0o666)
    assert "every account can write" in run("config", "check", str(config), status=1).output
