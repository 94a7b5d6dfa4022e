"""Numbered migrations: `migrations/NNNN_name.sql`, each applied once, in one transaction, in order.

They are written in SQLite's words; `for_postgres` turns the few that differ. A statement ends with `;` at a line's end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Final

from postroad.store.engine import Connection
from postroad.values.errors import StoreBroken

_FILE: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_COMMENT: Final = re.compile(r"--[^\n]*")
_POSTGRES: Final = [
    (re.compile(r"\)\s*STRICT\b"), ")"),
    (re.compile(r"\bINTEGER\b"), "BIGINT"),
    (re.compile(r"\bBLOB\b"), "BYTEA"),
    (re.compile(r"\bTEXT\b"), 'TEXT COLLATE "C"'),
]


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, its name and its statements."""

    number: int
    name: str
    statements: tuple[str, ...]


def migrations() -> list[Migration]:
    """All migrations of this package in order; raises ValueError when two have one number."""
    found: dict[int, Migration] = {}
    for file in resources.files("postroad.store").joinpath("migrations").iterdir():
        named = _FILE.fullmatch(file.name)
        if named is None:
            continue
        number = int(named[1])
        if number in found:
            raise ValueError(f"two migrations are numbered {number}: {found[number].name} and {named[2]}")
        found[number] = Migration(number, named[2], statements(file.read_text("utf-8")))
    return [found[number] for number in sorted(found)]


def statements(text: str) -> tuple[str, ...]:
    """The statements of a migration without their comments."""
    parts = re.split(r";[ \t]*(?:\n|$)", _COMMENT.sub("", text))
    return tuple(part.strip() for part in parts if part.strip())


def for_postgres(statement: str) -> str:
    """The same statement in PostgreSQL's words."""
    for pattern, replacement in _POSTGRES:
        statement = pattern.sub(replacement, statement)
    return statement


def migrate(connection: Connection, now_us: int, translate: Callable[[str], str] = str) -> list[Migration]:
    """Brings a database up to date and returns what was applied; raises `StoreBroken` for one from a later version.

    `translate` is `for_postgres` where the engine needs it.
    """
    known = migrations()
    connection.begin()
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations"
            " (number BIGINT PRIMARY KEY, name TEXT NOT NULL, at_us BIGINT NOT NULL)"
        )
        done = {number for (number,) in connection.execute("SELECT number FROM migrations")}
        later = done - {migration.number for migration in known}
        if later:
            raise StoreBroken(f"the data is of a later version (migration {max(later)}); install that version again")
        new = [migration for migration in known if migration.number not in done]
        for migration in new:
            for statement in migration.statements:
                connection.execute(translate(statement))
            row = (migration.number, migration.name, now_us)
            connection.execute("INSERT INTO migrations (number, name, at_us) VALUES (?, ?, ?)", row)
    except BaseException:
        connection.rollback()
        raise
    connection.commit()
    return new
