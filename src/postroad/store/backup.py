"""`postroad backup`: a consistent copy of a data folder, taken while the server goes on.

The database is copied as one snapshot, and then every body file it names is linked into the copy, or copied when the
target is on another file system; body files never change, so a link is as good as a copy. A large message that ended
between the snapshot and the link has lost its file: it is taken out of the copy too, which then shows it as ended.
The copy is a data folder: `postroad verify` checks it and `postroad serve` runs on it.

The original may give out uids after the snapshot, and clients that saw them keep them. So that a copy which takes its
place never gives one to another message (RFC 3501 section 2.3.1.1), its mailboxes continue further on.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from postroad.store import folder, syscalls
from postroad.store.dayfiles import day_files
from postroad.store.sqlite import SqliteConnection, open_reader, translated
from postroad.values.errors import StoreBroken

ATTEMPTS: Final = 3
"""Snapshots tried when a message ended in a mailbox meanwhile: its account's sums would no longer be right."""

AHEAD: Final = 1_000_000
"""How far uids and modseqs of a copy continue above its snapshot: more messages than one mailbox gets between the
backup and the day it is needed, and 4,000 restorations before uids run out."""

_NO_LINK: Final = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}


class Backup(NamedTuple):
    """What was copied."""

    messages: int
    body_files: int
    octets: int
    """Of the copied database, day files and body files together."""


class _Moved(Exception):
    """A message that stands in a mailbox of the snapshot has ended since."""


def backup(data_dir: Path, target: Path) -> Backup:
    """Copies a data folder into `target`, which must not exist or be empty.

    Returns when the copy is on the disk. Raises FileExistsError, OSError or `StoreBroken`; what was begun is removed.
    """
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty")
    for attempt in range(ATTEMPTS):
        folder.prepare(target)
        try:
            return _copy(data_dir, target)
        except _Moved:
            shutil.rmtree(target)
            if attempt == ATTEMPTS - 1:
                raise StoreBroken("large messages are removed faster than they can be copied; try again") from None
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
    raise AssertionError("unreachable")


def _copy(data_dir: Path, target: Path) -> Backup:
    _copy_database(data_dir / folder.DATABASE, target / folder.DATABASE)
    # After the database: what the mover took out of it meanwhile is then in a day file too, never in neither.
    for _, path in day_files(data_dir):
        _copy_database(path, target / folder.JOURNAL / path.name)
    if (data_dir / folder.REFUSALS).exists():
        _copy_database(data_dir / folder.REFUSALS, target / folder.REFUSALS)
    files, gone = _take_bodies(data_dir, target)
    if gone:
        _take_out(target, gone)
    _go_ahead(target)
    messages = _count(target)
    for made in sorted(path for path in target.rglob("*") if path.is_dir()):
        syscalls.fsync_folder(made)
    syscalls.fsync_folder(target)
    syscalls.fsync_folder(target.parent)
    octets = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return Backup(messages, files, octets)


def _copy_database(source: Path, copy: Path) -> None:
    db = open_reader(source)
    try:
        db.execute("VACUUM INTO ?", (str(copy),)).fetchall()
    except apsw.Error as error:
        raise translated(error) from error
    finally:
        db.close()
    copy.chmod(folder.FILE_MODE)
    _fsync(copy)


def _take_bodies(data_dir: Path, target: Path) -> tuple[int, list[str]]:
    """Links or copies every body file the copy names; returns their number and the names that are gone."""
    db = open_reader(target / folder.DATABASE)
    names = [name for (name,) in db.execute("SELECT body_file FROM messages WHERE body_file <> ''")]
    db.close()
    gone = []
    for name in names:
        try:
            _link(data_dir / folder.SPOOL / name, target / folder.SPOOL / name)
        except FileNotFoundError:
            gone.append(name)
    return len(names) - len(gone), gone


def _link(source: Path, copy: Path) -> None:
    try:
        os.link(source, copy)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, copy)
        copy.chmod(folder.FILE_MODE)
        _fsync(copy)


def _take_out(target: Path, gone: list[str]) -> None:
    """Removes messages from the copy that ended while it was made."""
    db = SqliteConnection(target / folder.DATABASE)
    try:
        for name in gone:
            [(ident,)] = db.execute("SELECT id FROM messages WHERE body_file = ?", (name,))
            if db.execute("SELECT 1 FROM mailbox_messages WHERE message = ?", (ident,)):
                raise _Moved
            db.begin()
            db.execute("DELETE FROM deliveries WHERE message = ?", (ident,))
            db.execute("DELETE FROM messages WHERE id = ?", (ident,))
            db.commit()
        db.checkpoint(truncate=True)
    finally:
        db.close()


def _go_ahead(target: Path) -> None:
    """Makes what the copy will give out different from what the original has given out since."""
    db = SqliteConnection(target / folder.DATABASE)
    try:
        db.begin()
        db.execute("UPDATE mailboxes SET uidnext = uidnext + ?, modseq = modseq + ?", (AHEAD, AHEAD))
        db.commit()
        db.checkpoint(truncate=True)
    finally:
        db.close()


def _count(target: Path) -> int:
    db = open_reader(target / folder.DATABASE)
    messages = db.execute("SELECT id FROM messages").fetchall()
    db.close()
    return len(messages)


def _fsync(path: Path) -> None:
    descriptor = syscalls.open_to_read(path)
    try:
        syscalls.fsync(descriptor)
    finally:
        syscalls.close(descriptor)
