"""Migrations: applied once and in order, on both engines, all or nothing, and never backwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from postroad.store import migrate as migrations
from postroad.store.engine import Connection, StatementFailed
from postroad.store.migrate import Migration, for_postgres, migrate, statements
from postroad.store.sqlite import PAGE_SIZE, SqliteConnection
from postroad.values.errors import StoreBroken


def test_a_migrated_database_has_nothing_more_to_do(connect: Callable[[], Connection]) -> None:
    assert migrate(connect(), 1) == []


def test_a_database_of_a_later_version_is_not_touched(connect: Callable[[], Connection]) -> None:
    connection = connect()
    connection.execute("INSERT INTO migrations (number, name, at_us) VALUES (9999, 'later', 1)")
    with pytest.raises(StoreBroken, match="later version"):
        migrate(connection, 1)
    connection.execute("DELETE FROM migrations WHERE number = 9999")


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = Migration(1, "half", ("CREATE TABLE one (x INTEGER) STRICT", "CREATE TABEL two"))
    monkeypatch.setattr(migrations, "migrations", lambda: [half])
    connection = SqliteConnection(tmp_path / "db")
    with pytest.raises(StatementFailed):
        migrate(connection, 1)
    assert connection.execute("SELECT name FROM sqlite_schema") == []
    connection.close()


def test_statements_end_at_a_semicolon_and_comments_are_no_part_of_them() -> None:
    assert statements("-- a; b\nCREATE TABLE t (x TEXT); -- c\n\nINSERT INTO t VALUES ('a;b');\n") == (
        "CREATE TABLE t (x TEXT)",
        "INSERT INTO t VALUES ('a;b')",
    )


def test_the_words_that_differ_on_postgresql() -> None:
    ours = "CREATE TABLE t (\n    id INTEGER PRIMARY KEY,\n    name TEXT NOT NULL,\n    raw BLOB\n) STRICT"
    theirs = 'CREATE TABLE t (\n    id BIGINT PRIMARY KEY,\n    name TEXT COLLATE "C" NOT NULL,\n    raw BYTEA\n)'
    assert for_postgres(ours) == theirs


def test_how_the_file_is_made(tmp_path: Path) -> None:
    """What cannot be changed later, and what durability rests on."""
    connection = SqliteConnection(tmp_path / "db")
    migrate(connection, 1)

    def value(pragma: str) -> object:
        return connection.execute(f"PRAGMA {pragma}")[0][0]

    assert value("page_size") == PAGE_SIZE
    assert value("auto_vacuum") == 2  # incremental
    assert value("journal_mode") == "wal"
    assert value("synchronous") == 2  # full
    assert value("wal_autocheckpoint") == 0
    assert value("foreign_keys") == 1
    connection.close()


def test_the_log_is_checkpointed_only_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = SqliteConnection(tmp_path / "db")
    connection.execute("CREATE TABLE t (x BLOB)")
    main, log = tmp_path / "db", tmp_path / "db-wal"
    for _ in range(300):
        connection.execute("INSERT INTO t VALUES (zeroblob(20000))")
    assert log.stat().st_size > 6_000_000
    before = main.stat().st_size
    connection.tend(idle=False)
    assert main.stat().st_size == before
    connection.tend(idle=True)
    assert main.stat().st_size > 6_000_000
    connection.checkpoint(truncate=True)
    assert log.stat().st_size == 0
    connection.close()


def test_a_checkpoint_that_a_reader_holds_up_is_not_tried_at_every_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroad.store.sqlite.WAL_MAX", 80 * PAGE_SIZE)
    connection = SqliteConnection(tmp_path / "db")
    connection.execute("CREATE TABLE t (x BLOB)")
    reader = apsw.Connection(str(tmp_path / "db"))
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM t").fetchall() == [(0,)]
    tries: list[bool] = []
    checkpoint = SqliteConnection.checkpoint

    def counted(self: SqliteConnection, *, truncate: bool = False) -> bool:
        tries.append(checkpoint(self, truncate=truncate))
        return tries[-1]

    monkeypatch.setattr(SqliteConnection, "checkpoint", counted)
    for _ in range(100):
        connection.execute("INSERT INTO t VALUES (zeroblob(4000))")
        connection.tend(idle=False)
    assert set(tries) == {False}
    assert 3 <= len(tries) <= 30
    reader.execute("ROLLBACK")
    for _ in range(20):
        connection.execute("INSERT INTO t VALUES (zeroblob(4000))")
        connection.tend(idle=False)
    assert tries[-1]
    reader.close()
    connection.close()


def test_a_reader_in_the_middle_of_a_slice_delays_a_checkpoint_and_harms_nothing(tmp_path: Path) -> None:
    connection = SqliteConnection(tmp_path / "db")
    connection.execute("CREATE TABLE t (x INTEGER)")
    connection.execute("INSERT INTO t VALUES (1)")
    reader = apsw.Connection(str(tmp_path / "db"))
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM t").fetchall() == [(1,)]
    connection.execute("INSERT INTO t VALUES (2)")
    connection.checkpoint()
    assert reader.execute("SELECT count(*) FROM t").fetchall() == [(1,)]
    reader.execute("ROLLBACK")
    assert reader.execute("SELECT count(*) FROM t").fetchall() == [(2,)]
    reader.close()
    connection.close()


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (apsw.FullError("x"), "StoreFull"),
        (apsw.IOError("x"), "StoreBroken"),
        (apsw.CorruptError("x"), "StoreBroken"),
        (apsw.ConstraintError("x"), "StatementFailed"),
        (OSError(5, "x"), "StoreBroken"),
        (UnicodeError("x"), "StatementFailed"),
    ],
)
def test_every_failure_of_sqlite_has_its_word(error: Exception, word: str) -> None:
    from postroad.store.sqlite import translated

    assert type(translated(error)).__name__ == word
