"""mbsync keeps a Maildir and a mailbox alike, both ways, with 500 messages."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.mail import HOST, arrived, mailbox, message, ran, submission
from tests.live import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.needs_program("mbsync")]

COUNT = 500

Sync = Callable[[str], str]

CONFIG = """
SyncState *

IMAPAccount us
Host {host}
Port {port}
User {user}
Pass secret
SSLType {tls}
CertificateFile {certificate}
AuthMechs {mechanism}

IMAPStore server
Account us

MaildirStore {name}
Path {folder}/
Inbox {folder}/INBOX
Flatten .

Channel {name}
Far :server:
Near :{name}:
Patterns INBOX
Create Both
Expunge Both
Sync All
"""


@pytest.fixture
def sync(office: LiveServer, account: str, tmp_path: Path) -> Sync:
    """Runs mbsync for the Maildir of a name; "home" logs in by PLAIN on 993, all others by STARTTLS and LOGIN."""

    def run(name: str) -> str:
        home = name == "home"
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        config = tmp_path / f"{name}.conf"
        config.write_text(
            CONFIG.format(
                host=HOST,
                port=office.ports["imaps" if home else "imap"],
                user=account,
                tls="IMAPS" if home else "STARTTLS",
                certificate=office.certificate,
                mechanism="PLAIN" if home else "LOGIN",
                name=name,
                folder=folder,
            )
        )
        config.chmod(0o600)
        status, output = ran(["mbsync", "-V", "-c", config, name], environment={"HOME": str(tmp_path)})
        assert status == 0, output[-3000:]
        return output

    return run


def in_maildir(folder: Path) -> dict[Path, bytes]:
    """Every message file and its octets."""
    return {path: path.read_bytes() for place in ("cur", "new") for path in (folder / "INBOX" / place).iterdir()}


def hashes(octets: list[bytes]) -> Counter[str]:
    """SHA-256 of each, without the line that mbsync adds while it waits for a UID, with LF ends as Maildirs have."""
    plain = (re.sub(rb"(?m)^X-TUID: .*\n", b"", one.replace(b"\r\n", b"\n"), count=1) for one in octets)
    return Counter(hashlib.sha256(one).hexdigest() for one in plain)


def flags(path: Path) -> str:
    """The letters behind ":2," in a Maildir name."""
    return path.name.rpartition(":2,")[2] if ":2," in path.name else ""


def fill(folder: Path) -> list[bytes]:
    """Writes 500 different messages into a new Maildir, some with flags."""
    for place in ("cur", "new", "tmp"):
        (folder / "INBOX" / place).mkdir(parents=True)
    made = []
    for number in range(COUNT):
        mail = message("carl@else.test", "anna@local.test", f"number {number}", f"{'ä' * number}\n.\nFrom here\n" * 3)
        octets = mail.as_bytes()
        letters = {0: "S", 1: "FS", 2: ""}[number % 3]
        (folder / "INBOX" / "cur" / f"{1_700_000_000 + number}.{number}.client:2,{letters}").write_bytes(octets)
        made.append(octets)
    return made


def test_500_messages_both_ways(office: LiveServer, account: str, sync: Sync, tmp_path: Path) -> None:
    made = fill(tmp_path / "home")
    sync("home")
    sync("away")
    home, away = in_maildir(tmp_path / "home"), in_maildir(tmp_path / "away")
    assert hashes(list(away.values())) == hashes(list(home.values())) == hashes(made)
    assert Counter(map(flags, away)) == Counter({"S": 167, "FS": 167, "": 166})

    # Up: a flag and a deletion at one place. Down: the same at another, and a new message.
    by_number = {number: path for path in away if (number := subject_number(away[path])) in (2, 3, 5)}
    by_number[2].rename(by_number[2].with_name(by_number[2].name.replace(":2,", ":2,R")))
    by_number[3].rename(by_number[3].with_name(re.sub(":2,.*", ":2,ST", by_number[3].name)))
    with mailbox(office, account) as client:
        assert client.store("8", "+FLAGS", "(\\Flagged)")[0] == "OK"
        assert client.store("9", "+FLAGS", "(\\Deleted)")[0] == "OK"
        assert client.expunge()[1] == [b"9"]
    with submission(office, account) as sender:
        sender.send_message(message(account, account, "number 500"))
    arrived(office, account, COUNT)
    sync("away")
    sync("home")
    home, away = in_maildir(tmp_path / "home"), in_maildir(tmp_path / "away")
    assert len(home) == COUNT - 1
    assert hashes(list(away.values())) == hashes(list(home.values()))
    numbers = {subject_number(octets): flags(path) for path, octets in home.items()}
    assert set(numbers) == set(range(COUNT + 1)) - {3, 8}
    assert numbers[2] == "R"
    assert "F" in numbers[7]
    assert {number: flags(path) for path, octets in away.items() for number in [subject_number(octets)]} == numbers

    before = seen_by_imap(office, account)
    output = sync("home")
    assert list(in_maildir(tmp_path / "home")) == list(home)
    assert seen_by_imap(office, account) == before
    assert output.rstrip().endswith("Synchronizing..."), "behind this mbsync tells every change"


def seen_by_imap(office: LiveServer, account: str) -> list[bytes]:
    """UID and flags of every message."""
    with mailbox(office, account) as client:
        return [line for line in client.fetch("1:*", "(UID FLAGS)")[1] if isinstance(line, bytes)]


def subject_number(octets: bytes) -> int:
    """The number in the Subject."""
    found = re.search(rb"(?m)^Subject: number (\d+)", octets)
    assert found is not None
    return int(found[1])
