"""`postroad rehearse`: the real answers, and nothing kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.console.conftest import CommandLine

SESSION = (
    b"EHLO x.test\nMAIL FROM:<a@sender.test>\nRCPT TO:<anna@dev.test>\nRCPT TO:<nobody@dev.test>\n"
    b"RCPT TO:<x@else.test>\nDATA\nSubject: hi\n\nhello\n.\n"
)


def played(run: CommandLine, typed: bytes, address: str = "192.0.2.9") -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "postroad", "--data", str(run.data), "rehearse", "--from-ip", address]
    done = subprocess.run(words, input=typed, capture_output=True, timeout=50)
    return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.slow
@pytest.mark.parametrize("end", [b"QUIT\n", b""], ids=["quit", "end of input"])
def test_a_whole_session_is_answered_and_explained_and_nothing_is_kept(dev_test: CommandLine, end: bytes) -> None:
    done = played(dev_test, SESSION + end)
    assert done.returncode == 0, done.stderr
    codes = [line[:3] for line in done.stdout.splitlines() if line[3:4] == " "]
    assert codes == ["220", "250", "250", "250", "550", "550", "354", "250", *(["221"] if end else [])]
    assert "from 192.0.2.9" in done.stdout
    assert done.stderr.splitlines() == [
        "** refused: no such mailbox, from <a@sender.test>",
        "** refused: relay refused, from <a@sender.test>",
        "** anna@dev.test would find it in mailbox INBOX",
        "** nothing was kept: this is a rehearsal",
    ]
    assert dev_test.json("queue", "list")["rows"] == []
    assert "nothing" in dev_test("why", "anna@dev.test", status=1).output.lower()


def test_an_address_that_is_none_is_said_so(dev_test: CommandLine) -> None:
    assert "is not an IP address" in dev_test("rehearse", "--from-ip", "mail.example.org", status=2).output


@pytest.mark.slow
def test_sendmail_bh_plays_the_same_session(dev_test: CommandLine, tmp_path: Path) -> None:
    config = tmp_path / "postroad.toml"
    config.write_text(f'data_dir = "{dev_test.data}"\nhostname = "mx.dev.test"\n')
    code = "import sys; from postroad.console.sendmail import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "-C", str(config), "-bh"]
    done = subprocess.run([*words, "192.0.2.9"], input=SESSION, capture_output=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert b"250 2.0.0 Queued as " in done.stdout
    assert b"** refused: relay refused" in done.stderr
    assert subprocess.run(words, capture_output=True, timeout=50).returncode == 64
