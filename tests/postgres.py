"""One real PostgreSQL server for the tests of this session: Debian's binaries, a private folder, no TCP port, not root.

It is started at most once per run: the workers of pytest-xdist share one server through files in their common
temporary folder, and each gets a database of its own. Nothing is durable (fsync off); what the tests prove about the
disk they prove on SQLite and in `tests/crash`.

Invariant: whoever uses the server holds a shared lock on the file `postgres.users`, which the kernel takes back however
that process ends. The server's parent waits for the exclusive lock: when it gets it nobody is left, and it ends the
server and removes its folder. A run that is killed leaves nothing behind.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs import needs_program

START_LIMIT_S = 30.0
"""Longest wait for a fresh server to answer; on a busy two-core machine it takes about one second."""

PORT = 5432
"""Only a part of the socket's file name: with listen_addresses empty nothing listens on TCP."""

SERVE_UNTIL_UNUSED = """
note=$1 folder=$2; shift 2
"$@" & server=$!
exec 9>>"$0"
flock --exclusive 9
kill -QUIT $server 2>/dev/null; wait $server
rm -rf "$folder" "$note"
"""
"""Run by sh with the path of `postgres.users` as $0. SIGQUIT: nothing in there is worth an orderly shutdown."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: the folder of its unix socket, and the role that owns everything in it."""

    socket_folder: Path
    role: str

    def dsn(self, database: str = "postgres") -> str:
        """Connection string for libpq and psycopg."""
        return f"host={self.socket_folder} port={PORT} user={self.role} dbname={database}"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[str]:
    """DSN of an empty database that belongs to this worker alone; skips when Debian's PostgreSQL is absent."""
    binaries = needs_program("initdb").resolve().parent
    alone = worker_id == "master"
    base = tmp_path_factory.getbasetemp()
    with shared_server(binaries, base if alone else base.parent) as server:
        database = f"postroad_{worker_id}"
        psql(binaries, server, f'CREATE DATABASE "{database}" TEMPLATE template0 ENCODING UTF8 LOCALE "C"')
        yield server.dsn(database)


@contextmanager
def shared_server(binaries: Path, common: Path) -> Iterator[Server]:
    """The one server of this run: started by the first process that asks, gone soon after the last one left."""
    folder_note = common / "postgres.folder"
    with locked(common / "postgres.start", fcntl.LOCK_EX), (common / "postgres.users").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)  # waits while a server of before is being removed
        if not folder_note.exists():
            # Not below pytest's folder, which only its owner may enter; and a socket's path must stay under 108 bytes.
            folder = Path(tempfile.mkdtemp(prefix="postroad-pg-"))
            start(binaries, folder, users.name, folder_note)
            folder_note.write_text(str(folder))
        still_used = os.dup(users.fileno())
    try:
        yield Server(Path(folder_note.read_text()), "postroad")
    finally:
        os.close(still_used)


def start(binaries: Path, folder: Path, users: str, folder_note: Path) -> None:
    """Makes the data folder and starts the server below it; returns when it answers."""
    owner = unprivileged()
    if owner:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    cluster = folder / "data"
    choices = ["-U", "postroad", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
    run_as(owner, [binaries / "initdb", "-D", cluster, *choices], folder)
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(folder),
        "unix_socket_permissions": "0777",  # tests may run as root, the server never does
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "max_connections": "60",
        "shared_buffers": "32MB",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    command = [*drop_to(owner), str(binaries / "postgres"), "-D", str(cluster), "-p", str(PORT), *options]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            ["/bin/sh", "-c", SERVE_UNTIL_UNUSED, users, str(folder_note), str(folder), *command],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    wait_until_ready(binaries, folder, server)


def wait_until_ready(binaries: Path, folder: Path, server: subprocess.Popen[bytes]) -> None:
    """Returns when the server accepts connections; fails with its log when it never does."""
    deadline = time.monotonic() + START_LIMIT_S
    ask: list[str | Path] = [binaries / "pg_isready", "-q", "-h", folder, "-p", str(PORT)]
    while subprocess.run(ask, check=False).returncode != 0:
        if time.monotonic() > deadline:
            pytest.fail("PostgreSQL did not start:\n" + (folder / "log").read_text(), pytrace=False)
        time.sleep(0.05)
    server.returncode = 0  # it outlives this worker on purpose; Popen would warn about a child still running


def psql(binaries: Path, server: Server, statement: str) -> None:
    """Runs one statement outside any transaction."""
    connection: list[str | Path] = [
        "-X",
        "-q",
        "-h",
        server.socket_folder,
        "-p",
        str(PORT),
        "-U",
        server.role,
        "-d",
        "postgres",
    ]
    subprocess.run([binaries / "psql", *connection, "-v", "ON_ERROR_STOP=1", "-c", statement], check=True)


def unprivileged() -> pwd.struct_passwd | None:
    """Who runs the server: another user when we are root, whom PostgreSQL refuses; None when it is ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def drop_to(owner: pwd.struct_passwd | None) -> list[str]:
    """The words before a command that make it run as that user, without its groups of before."""
    if owner is None:
        return []
    return ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups", "--"]


def run_as(owner: pwd.struct_passwd | None, command: Sequence[str | Path], folder: Path) -> None:
    """Runs a command to its end as that user; its words become the failure's words."""
    words = [*drop_to(owner), *map(str, command)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{words} failed:\n{done.stdout}{done.stderr}", pytrace=False)


@contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """Holds a lock on that file between the two ends of this block."""
    with path.open("a") as file:
        fcntl.flock(file, how)
        yield
