"""Fixtures of the store's tests: one contract, two engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from postroad.store.engine import Connection
from postroad.store.migrate import for_postgres, migrate
from postroad.store.sqlite import SqliteConnection
from tests.fakes.clock import FakeClock
from tests.store.stores import START_US, Desk, empty_postgres


@pytest.fixture(params=["sqlite", "postgres"])
def connect(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Callable[[], Connection]]:
    """Makes connections to one migrated database, on SQLite and again on PostgreSQL; all are closed at the end."""
    made: list[Connection] = []
    if request.param == "sqlite":
        first: Connection = SqliteConnection(tmp_path / "postroad.db")
        migrate(first, START_US)
    else:
        pytest.importorskip("psycopg")
        dsn = request.getfixturevalue("postgres")
        first = empty_postgres(dsn)
        migrate(first, START_US, translate=for_postgres)

    def another() -> Connection:
        if request.param == "sqlite":
            connection: Connection = SqliteConnection(tmp_path / "postroad.db")
        else:
            from postroad.store.postgres import PostgresConnection

            connection = PostgresConnection(dsn)
        made.append(connection)
        return connection

    first.close()
    yield another
    for connection in made:
        connection.close()


@pytest.fixture
def desk(connect: Callable[[], Connection]) -> Desk:
    """A writer on a fresh database, on both engines."""
    return Desk(connect(), FakeClock(START_US))
