"""`verify` finds each violation planted alone, and nothing in a store that is as it should be; `backup` copies one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from postroad.store import backup as backups
from postroad.store import folder
from postroad.store.account_records import DomainAdd, UserAdd
from postroad.store.accounts import domain_add, user_add
from postroad.store.backup import backup
from postroad.store.dayfiles import HOUR_US, Mover
from postroad.store.opening import OpenStore
from postroad.store.queue import accept
from postroad.store.records import Copy, Done, Record, Recorded
from postroad.store.stories import Stories
from postroad.store.units import UNITS
from postroad.store.verify import Finding, verify
from postroad.store.writer import OK, Call
from postroad.values.errors import StoreBroken
from tests.fakes.clock import FakeClock
from tests.store.serving import ServedStore
from tests.store.stores import leg, sample

BODY = b"x" * 100_000
LARGE = "bodies/01/1-1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OpenStore]:
    """A queue with an inline and a large message, and a mailbox with one message in it."""
    opened = OpenStore(tmp_path / "data")
    opened.writer.live.add(5)

    def run(unit: Callable[..., object], args: Record) -> None:
        [result] = opened.writer.run([Call(UNITS[unit.__name__], args)])
        assert result.status == OK, result

    (tmp_path / "data" / folder.SPOOL / LARGE).write_bytes(BODY)
    run(accept, sample(1))
    header = sample().header
    run(accept, sample(2, body=None, body_file=LARGE, size=len(header) + len(BODY), legs=[leg(20, owner=1)]))
    run(domain_add, DomainAdd("dev.test"))
    run(user_add, UserAdd("user@dev.test"))
    run(accept, sample(3, legs=[], copies=[Copy("user@dev.test", 1)]))
    yield opened
    opened.close()


@pytest.fixture
def data_dir(store: OpenStore, tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_a_sound_store_has_no_findings(data_dir: Path) -> None:
    assert verify(data_dir) == []


def test_what_the_dead_left_is_no_finding(data_dir: Path) -> None:
    """Drafts, and durable bodies that no row names, are rows S1 and S2 of the table: swept, never wrong."""
    (data_dir / folder.DRAFTS / "1-9").write_bytes(b"half")
    (data_dir / folder.BODIES / "02" / "1-8").write_bytes(b"whole")
    assert verify(data_dir) == []


PLANTED = {
    "reason": "DELETE FROM deliveries WHERE message = 1",
    "reference": "DELETE FROM messages WHERE id = 1",
    "body": "UPDATE messages SET body = x'00' WHERE id = 1",
    "number": "UPDATE deliveries SET owner = 999 WHERE message = 1",
    "account": "UPDATE accounts SET used_bytes = used_bytes + 1",
    "mailbox": "UPDATE mailboxes SET uidnext = 1 WHERE name = 'INBOX'",
    "history": "DELETE FROM history WHERE id = 2",
    "journal": "UPDATE journal SET events = x'7b' WHERE message = 3",
}


@pytest.mark.parametrize("rule", PLANTED)
def test_each_planted_row_is_found_by_its_rule(data_dir: Path, rule: str) -> None:
    change(data_dir, PLANTED[rule])
    found = verify(data_dir)
    assert {finding.rule for finding in found} == {rule}


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE messages SET body = NULL WHERE id = 1", "nowhere"),
        ("UPDATE messages SET body = x'' WHERE id = 2", "in the database and in a file"),
        ("UPDATE messages SET size = size + 1 WHERE id = 2", "accepted were"),
    ],
)
def test_a_body_in_the_wrong_place(data_dir: Path, statement: str, words: str) -> None:
    change(data_dir, statement)
    [finding] = verify(data_dir)
    assert words in finding.words


def test_a_body_file_that_is_gone_or_torn(data_dir: Path) -> None:
    path = data_dir / folder.SPOOL / LARGE
    os.truncate(path, 5)
    assert verify(data_dir) == [Finding("body", "0000000000002", "the body file has 5 octets, accepted were 100000")]
    path.unlink()
    [finding] = verify(data_dir)
    assert "does not exist" in finding.words


@pytest.mark.parametrize("name", ["spool/drafts/core", "spool/bodies/01/README", "spool/bodies/01/99999-1"])
def test_a_stranger_in_the_spool(data_dir: Path, name: str) -> None:
    (data_dir / name).write_bytes(b"?")
    [finding] = verify(data_dir)
    assert (finding.rule, finding.subject) == ("stranger", name)


def test_a_page_that_was_overwritten(store: OpenStore, data_dir: Path) -> None:
    store.connection.checkpoint(truncate=True)
    with (data_dir / folder.DATABASE).open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096)
    assert "database" in {finding.rule for finding in verify(data_dir)}


def test_a_folder_without_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreBroken):
        verify(tmp_path)


def change(data_dir: Path, statement: str) -> None:
    """What no unit would do: with foreign keys off."""
    db = apsw.Connection(str(data_dir / folder.DATABASE))
    db.execute("PRAGMA foreign_keys = OFF")
    db.execute(statement)
    db.close()


# -- backup ----------------------------------------------------------------------------------------------------------


def test_the_copy_of_a_live_store_is_a_sound_store(tmp_path: Path) -> None:
    data_dir, target = tmp_path / "data", tmp_path / "copy"
    with ServedStore(data_dir) as served:
        (data_dir / folder.SPOOL / LARGE).write_bytes(BODY)
        served.store.writer.run([Call(UNITS["accept"], sample(1))])
        large = sample(2, body=None, body_file=LARGE, size=len(sample().header) + len(BODY))
        served.store.writer.run([Call(UNITS["accept"], large)])
        copied = backup(data_dir, target)
    assert (copied.messages, copied.body_files) == (2, 1)
    assert verify(target) == []
    assert (target / folder.SPOOL / LARGE).read_bytes() == BODY
    assert sorted(Stories(target).find("a@example.org")) == [1, 2]
    OpenStore(target).close()


def test_a_copy_outlives_its_original(store: OpenStore, data_dir: Path, tmp_path: Path) -> None:
    backup(data_dir, tmp_path / "copy")
    store.writer.run([Call(UNITS["record"], Recorded(1, [Done(20)], [], []))])
    assert not (data_dir / folder.SPOOL / LARGE).exists()
    shutil.rmtree(data_dir / folder.BODIES)
    assert verify(tmp_path / "copy") == []


def test_a_restored_copy_gives_no_uid_to_another_message(store: OpenStore, data_dir: Path, tmp_path: Path) -> None:
    backup(data_dir, tmp_path / "copy")
    store.connection.execute("UPDATE mailboxes SET uidnext = uidnext + 5000, modseq = modseq + 5000")
    [(uidnext, modseq)] = store.connection.execute("SELECT max(uidnext), max(modseq) FROM mailboxes")
    restored = OpenStore(tmp_path / "copy")
    [(lowest, low)] = restored.connection.execute("SELECT min(uidnext), min(modseq) FROM mailboxes")
    restored.close()
    assert lowest > uidnext
    assert low > modseq
    assert verify(tmp_path / "copy") == []


def test_another_file_system_gets_copies(
    store: OpenStore, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(source: Path, copy: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    backup(data_dir, tmp_path / "copy")
    copied = tmp_path / "copy" / folder.SPOOL / LARGE
    assert copied.read_bytes() == BODY
    assert copied.stat().st_mode & 0o777 == folder.FILE_MODE


def test_a_message_that_ends_during_the_backup_is_not_half_in_it(
    store: OpenStore, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = backups._take_bodies

    def late(source: Path, target: Path) -> tuple[int, list[str]]:
        store.writer.run([Call(UNITS["record"], Recorded(1, [Done(20)], [], []))])
        return take(source, target)

    monkeypatch.setattr(backups, "_take_bodies", late)
    assert backup(data_dir, tmp_path / "copy").body_files == 0
    assert verify(tmp_path / "copy") == []


def test_a_mailbox_message_that_goes_during_the_backup_makes_it_begin_again(
    store: OpenStore, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taking only the message out of the copy would leave an account whose sums are wrong."""
    (data_dir / folder.SPOOL / "bodies/02/1-2").write_bytes(BODY)
    filed = sample(
        4, legs=[], body=None, body_file="bodies/02/1-2", size=len(sample().header) + len(BODY),
        copies=[Copy("user@dev.test", 1)],
    )  # fmt: skip
    assert store.writer.run([Call(UNITS["accept"], filed)])[0].status == OK
    take = backups._take_bodies
    rounds: list[int] = []

    def late(source: Path, target: Path) -> tuple[int, list[str]]:
        rounds.append(1)
        if len(rounds) == 1:
            (source / folder.SPOOL / "bodies/02/1-2").rename(tmp_path / "gone")
        else:
            (tmp_path / "gone").rename(source / folder.SPOOL / "bodies/02/1-2")
        return take(source, target)

    monkeypatch.setattr(backups, "_take_bodies", late)
    assert backup(data_dir, tmp_path / "copy").messages == 4
    assert len(rounds) == 2
    assert verify(tmp_path / "copy") == []


def test_a_message_whose_history_was_moved_is_known(store: OpenStore, data_dir: Path) -> None:
    mover = Mover(data_dir, store.writer, FakeClock(time.time_ns() // 1000 + 2 * HOUR_US))
    while mover.due == 0.0:
        mover.step(0.0)
    assert store.connection.execute("SELECT count(*) FROM history") == [(0,)]
    assert verify(data_dir) == []


def test_a_folder_with_something_in_it_is_no_target(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "letter").write_text("keep me")
    with pytest.raises(FileExistsError):
        backup(data_dir, tmp_path / "copy")
    assert (tmp_path / "copy" / "letter").exists()


def test_a_backup_that_fails_leaves_nothing(data_dir: Path, tmp_path: Path) -> None:
    (data_dir / folder.DATABASE).chmod(0o600)
    change(data_dir, "UPDATE messages SET body_file = 'bodies/01' WHERE id = 2")
    with pytest.raises(OSError, match="bodies/01"):
        backup(data_dir, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
