"""One real PostgreSQL server for the tests of this session: Debian's binaries, a private folder, no TCP port, not root.

It is started at most once per run: the workers of pytest-xdist share one server through a lock file in their common
temporary folder, and each gets a database of its own. Nothing is durable (fsync off); what the tests prove about the
disk they prove on SQLite and in `tests/crash`. The server ends with the last process of the run that uses it.

Invariant: a data folder has one server, started by the holder of `lock`, and `users` counts the live workers below it.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
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
    """The one server of this run: started by the first process that asks, stopped by the last that leaves."""
    note = common / "postgres.folder"
    with locked(common / "postgres.lock"):
        users = read_users(common)
        if users == 0:
            # Not below pytest's folder, which only its owner may enter; and a socket's path must stay under 108 bytes.
            folder = Path(tempfile.mkdtemp(prefix="postroad-pg-"))
            note.write_text(str(folder))
            start(binaries, folder)
        folder = Path(note.read_text())
        write_users(common, users + 1)
    try:
        yield Server(folder, "postroad")
    finally:
        with locked(common / "postgres.lock"):
            users = read_users(common) - 1
            write_users(common, users)
            if users == 0:
                stop(folder)


def start(binaries: Path, folder: Path) -> None:
    """Makes the data folder and starts the server below it; returns when it answers."""
    owner = unprivileged()
    if owner:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    cluster = folder / "data"
    initdb: list[str | Path] = [
        binaries / "initdb",
        "-D",
        cluster,
        "-U",
        "postroad",
        "-A",
        "trust",
        "--no-sync",
        "--no-locale",
    ]
    run_as(owner, [*initdb, "-E", "UTF8"], folder)
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
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*drop_to(owner), str(binaries / "postgres"), "-D", str(cluster), "-p", str(PORT), *options],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    wait_until_ready(binaries, folder, server)


def wait_until_ready(binaries: Path, folder: Path, server: subprocess.Popen[bytes]) -> None:
    """Returns when the server accepts connections; fails with its log when it ended or never does."""
    deadline = time.monotonic() + START_LIMIT_S
    ask: list[str | Path] = [binaries / "pg_isready", "-q", "-h", folder, "-p", str(PORT)]
    while subprocess.run(ask, check=False).returncode != 0:
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            pytest.fail("PostgreSQL did not start:\n" + (folder / "log").read_text(), pytrace=False)
        time.sleep(0.05)
    server.returncode = 0  # it outlives this worker on purpose; Popen would warn about a child still running


def stop(folder: Path) -> None:
    """Ends the server and removes everything it wrote."""
    pid_file = folder / "data" / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)  # immediate shutdown: nothing in there is worth keeping
    except (FileNotFoundError, ProcessLookupError):
        pid = 0
    deadline = time.monotonic() + START_LIMIT_S
    while pid and is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """True while the process runs; a dead child of ours is collected on the way."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
    return Path(f"/proc/{pid}").exists()


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
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time between the two ends of this block."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_users(common: Path) -> int:
    """How many workers use the server now."""
    count = common / "postgres.users"
    return int(count.read_text()) if count.exists() else 0


def write_users(common: Path, users: int) -> None:
    """Remembers how many workers use the server now."""
    (common / "postgres.users").write_text(str(users))
