"""The n-th write or sync of the database fails, for every n: nothing is answered OK that a new start does not find.

Invariant: after any failure the file is sound, every message answered OK is in it, and none that was not asked for.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from postroad.store.migrate import migrate
from postroad.store.queue import accept
from postroad.store.sqlite import SqliteConnection
from postroad.store.units import UNITS
from postroad.store.writer import BROKEN, FULL, OK, Call, Writer
from postroad.values.errors import StoreBroken, StoreFull
from tests.fakes.clock import FakeClock
from tests.store.stores import START_US, sample

CALLS_MAX = 300


class Disk(apsw.VFS):
    """The default file system with a counter: call number `fail_at` raises `error`, and all after it unless `once`."""

    def __init__(self) -> None:
        super().__init__("counting", base="")
        self.calls = 0
        self.fail_at = 0
        self.once = False
        self.error: type[Exception] = apsw.IOError

    def count(self) -> None:
        self.calls += 1
        if self.fail_at and (self.calls == self.fail_at or (self.calls > self.fail_at and not self.once)):
            raise self.error("injected")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return File(self, name, flags)


class File(apsw.VFSFile):
    """A file whose writes and syncs are counted."""

    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.count()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._disk.count()
        super().xSync(flags)

    def xTruncate(self, newsize: int) -> None:
        self._disk.count()
        super().xTruncate(newsize)


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.unregister()


@pytest.mark.slow
@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("error", [apsw.IOError, apsw.FullError])
def test_nothing_is_answered_that_a_new_start_does_not_find(
    tmp_path: Path, disk: Disk, error: type[Exception], once: bool
) -> None:
    fresh = tmp_path / "fresh.db"
    connection = SqliteConnection(fresh)
    migrate(connection, START_US)
    connection.close()
    disk.error, disk.once = error, once
    path = tmp_path / "db"
    for fail_at in range(1, CALLS_MAX):
        for old in tmp_path.glob("db*"):
            old.unlink()
        shutil.copyfile(fresh, path)
        disk.calls, disk.fail_at = 0, fail_at
        answered, asked = load(path)
        failed = disk.calls >= fail_at
        disk.fail_at = 0
        again = SqliteConnection(path)
        stored = {ident for (ident,) in again.execute("SELECT id FROM messages")}
        assert again.check() == []
        assert answered <= stored <= asked, fail_at
        again.close()
        if not failed:
            assert answered == asked
            assert fail_at > 20
            return
    pytest.fail("the load never ran to its end")


def load(path: Path) -> tuple[set[int], set[int]]:
    """Three batches of messages with a checkpoint after each; ids answered OK, and all that were sent."""
    answered: set[int] = set()
    asked: set[int] = set()
    try:
        connection = SqliteConnection(path, vfs="counting")
        writer = Writer(connection, remove_body=lambda name: None, clock=FakeClock(START_US))
    except (StoreBroken, StoreFull):
        return answered, asked
    for batch in range(3):
        idents = [batch * 10 + n for n in range(1, 4)]
        asked.update(idents)
        results = writer.run([Call(UNITS[accept.__name__], sample(ident)) for ident in idents])
        for ident, result in zip(idents, results, strict=True):
            assert result.status in (OK, BROKEN, FULL), result
            if result.status == OK:
                answered.add(ident)
        try:
            connection.checkpoint()
        except StoreBroken as broken:
            writer.break_off(str(broken))
        except StoreFull:
            pass
    try:
        connection.close()
    except (StoreBroken, StoreFull):
        pass
    return answered, asked


def test_an_error_number_of_the_kernel_is_not_mistaken_for_a_full_disk(tmp_path: Path, disk: Disk) -> None:
    """An OSError that a VFS raises by itself counts as the disk's, whatever SQLite makes of it."""
    connection = SqliteConnection(tmp_path / "db", vfs="counting")
    migrate(connection, START_US)
    disk.error = lambda words: OSError(errno.EIO, words)  # type: ignore[assignment]
    disk.fail_at = disk.calls + 1
    with pytest.raises(StoreBroken):
        connection.execute("UPDATE counters SET value = 1")
    disk.fail_at = 0
    connection.close()
