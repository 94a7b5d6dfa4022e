"""The PostgreSQL that the contract suite runs on: real, private, and gone afterwards."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import psycopg
import pytest

from tests import postgres as server
from tests.programs import needs_program
from tests.store.stores import empty_postgres


@pytest.mark.slow
def test_database_is_emptied_for_each_test_utf8_and_sorted_by_bytes(postgres: str) -> None:
    empty_postgres(postgres).close()
    with psycopg.connect(postgres) as connection:
        row = connection.execute(
            "SELECT pg_encoding_to_char(encoding), datcollate, current_setting('listen_addresses'),"
            " (SELECT count(*) FROM pg_tables WHERE schemaname = 'public')"
            " FROM pg_database WHERE datname = current_database()"
        ).fetchone()
    assert row == ("UTF8", "C", "", 0)


@pytest.mark.slow
def test_server_does_not_run_as_root_and_ends_with_its_last_user(tmp_path: Path) -> None:
    binaries = needs_program("initdb").resolve().parent
    with server.shared_server(binaries, tmp_path) as first:
        pid = int((first.socket_folder / "data" / "postmaster.pid").read_text().split()[0])
        assert os.stat(f"/proc/{pid}").st_uid != 0
        with server.shared_server(binaries, tmp_path) as second:
            assert second == first
        assert Path(f"/proc/{pid}").exists()

    # The shared lock is granted as soon as whoever ends the server has let go of the exclusive one.
    while first.socket_folder.exists():
        with server.locked(tmp_path / "postgres.users", fcntl.LOCK_SH):
            pass
        os.sched_yield()
    assert not Path(f"/proc/{pid}").exists()
