"""The data folder: what stands where in it, who may open it, and its lock.

postroad.db (-wal, -shm)   the database
refusals.db                what was refused
journal/YYYY-MM-DD.db      closed hours of the journal
spool/drafts/INC-N         bodies being received; INC is the incarnation of the worker
spool/bodies/HH/ID         bodies too large for the database
store.lock                 held by whoever writes
store.sock                 where the store process listens
"""

from __future__ import annotations

import fcntl
import os
import pwd
import socket
from pathlib import Path
from typing import Final

from postroad.store import syscalls
from postroad.values.errors import StoreBroken

FOLDER_MODE: Final = 0o700
"""Mail is private: nobody but its owner may enter."""
FILE_MODE: Final = 0o600

DATABASE: Final = "postroad.db"
REFUSALS: Final = "refusals.db"
JOURNAL: Final = "journal"
SPOOL: Final = "spool"
DRAFTS: Final = "spool/drafts"
BODIES: Final = "spool/bodies"
BODY_FOLDERS: Final = 256
"""Folders below `BODIES`, 00 to ff, all made at once: a rename into one needs only that one's fsync."""
LOCK: Final = "store.lock"
SOCKET: Final = "store.sock"


class StoreLocked(Exception):
    """Another process writes in this folder."""


class WrongUser(Exception):
    """The folder belongs to somebody else; files made now would lock its owner out."""


def prepare(data_dir: Path) -> None:
    """Makes what is missing of the folder, durably; raises `WrongUser` when it belongs to another user."""
    data_dir.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    require_owner(data_dir)
    bodies = data_dir / BODIES
    if (bodies / f"{BODY_FOLDERS - 1:02x}").exists():
        return
    for name in (JOURNAL, SPOOL, DRAFTS, BODIES):
        (data_dir / name).mkdir(mode=FOLDER_MODE, exist_ok=True)
    for number in range(BODY_FOLDERS):
        (bodies / f"{number:02x}").mkdir(mode=FOLDER_MODE, exist_ok=True)
    for made in (bodies, data_dir / SPOOL, data_dir, data_dir.parent):
        syscalls.fsync_folder(made)


def make_private(path: Path) -> None:
    """Makes an empty file for its owner alone, where there is none; SQLite gives its log the same mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))


def require_owner(data_dir: Path) -> None:
    """Raises `WrongUser`, with the command to use instead, unless we are the folder's owner."""
    owner = data_dir.stat().st_uid
    if owner != os.geteuid():
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"#{owner}"
        raise WrongUser(f"{data_dir} belongs to {name}; run this as that user: sudo -u {name} postroad ...")


def lock(data_dir: Path) -> int:
    """Takes the exclusive lock; returns the descriptor that holds it until it is closed. Raises `StoreLocked`."""
    descriptor = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreLocked(f"another process writes in {data_dir}") from error
    return descriptor


class _ShortPath:
    """A path to a name in a folder that fits into a socket address (108 octets), however deep the folder lies."""

    def __init__(self, data_dir: Path, name: str) -> None:
        self._folder = os.open(data_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.path = f"/proc/self/fd/{self._folder}/{name}"

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, *_: object) -> None:
        os.close(self._folder)


def listen(data_dir: Path) -> socket.socket:
    """The store's listening socket, in place of a dead process's; only the holder of the lock may call this."""
    (data_dir / SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with _ShortPath(data_dir, SOCKET) as path:
            listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(128)
    listener.setblocking(False)
    return listener


SOCKET_BUFFER: Final = 1024 * 1024
"""Octets the kernel keeps per direction: what gathers while the store waits for the disk."""


def connect(data_dir: Path) -> socket.socket:
    """A blocking connection to the store process; raises `StoreBroken` when nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    try:
        with _ShortPath(data_dir, SOCKET) as path:
            connection.connect(path)
    except OSError as error:
        connection.close()
        raise StoreBroken(f"no store process listens in {data_dir}: {error.strerror}") from error
    return connection
