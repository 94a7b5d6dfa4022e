"""Faults inside the server's own processes: Python imports this module at their start when its folder is on PYTHONPATH.

Nothing of it is in the product.

POSTROAD_CRASH_FILE names a file that says where to die: "POINT COUNT SCOPE NONCE". The process that passes the point
for the COUNTth time removes the file and ends, alone ("self") or with the whole server ("all").
POSTROAD_DISK_FAULT breaks the database's disk once: see `break_disk`.
POSTROAD_LIE makes a server that breaks its promise, for the controls: see `LIES`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

ROLES = {"postroad.store.process": "store", "postroad.app.worker": "worker"}
"""The children by the module they run."""

LATE_S = 0.05
"""How long after its 250 a lying server asks the store."""

_count = 0
_nonce = ""
_lock = threading.Lock()


def passing(point: str) -> None:
    """Called at every passage of a point; ends here when it is the one."""
    global _count, _nonce
    path = os.environ["POSTROAD_CRASH_FILE"]
    try:
        with open(path) as file:
            words = file.read().split()
    except OSError:
        return
    if len(words) != 4 or words[0] != point:
        return
    with _lock:
        if words[3] != _nonce:
            _nonce, _count = words[3], 0
        _count += 1
        if _count < int(words[1]):
            return
        try:
            os.unlink(path)
        except OSError:
            return  # somebody else died of it
        die(words[2])


def die(scope: str) -> None:
    """Ends here: "all" kills the whole server; "self" stands still, and the test kills what stands still.

    It stands first because a worker that stands keeps its lease: the test sees what was open before others may take it.
    """
    if scope == "self":
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    supervisor = os.getppid()
    with open(f"/proc/{supervisor}/task/{supervisor}/children") as file:
        family = [int(word) for word in file.read().split()]
    os.kill(supervisor, signal.SIGKILL)
    for pid in family:
        if pid != os.getpid():
            os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def around(owner: Any, name: str, before: str = "", after: str = "") -> None:
    """Makes two points of a plain function."""
    inner: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(inner)
    def wrapped(*args: Any, **keywords: Any) -> Any:
        if before:
            passing(before)
        result = inner(*args, **keywords)
        if after:
            passing(after)
        return result

    setattr(owner, name, wrapped)


# -- the points --------------------------------------------------------------------------------------------------------


def points_of_worker() -> None:
    """S1 to S3 and back out: the body's file, the question to the store, its answer, an attempt and its record."""
    from postroad.flow.runner import Runner
    from postroad.store import syscalls
    from postroad.store.client import StoreClient

    write = syscalls.write

    def torn_write(descriptor: int, octets: Any) -> int:
        if len(octets) > 1:
            half = write(descriptor, octets[: len(octets) // 2])
            passing("write.half")
            return half
        return write(descriptor, octets)

    syscalls.write = torn_write
    around(syscalls, "create", after="create.after")
    around(syscalls, "fsync", before="fsync.before", after="fsync.after")
    around(syscalls, "rename", after="rename.after")
    around(syscalls, "fsync_folder", after="fsync_folder.after")
    around(Runner, "enqueue_fresh", before="fresh.before", after="fresh.after")
    around(Runner, "on_result", before="result.before", after="result.after")
    call = StoreClient.call

    async def watched(self: Any, unit: Any, args: Any) -> Any:
        name = unit if isinstance(unit, str) else unit.__name__
        if name not in ("accept", "record", "claim"):
            return await call(self, unit, args)
        passing(f"{name}.asking")
        result = await call(self, unit, args)
        passing(f"{name}.answered")
        return result

    StoreClient.call = watched  # type: ignore[method-assign]


def points_of_store() -> None:
    """S3 to S5: the batch, its commit, the answer, the unlink of a body."""
    from postroad.store.opening import OpenStore
    from postroad.store.server import Server
    from postroad.store.sqlite import SqliteConnection
    from postroad.store.writer import Writer

    around(Writer, "run", before="batch.before")
    around(SqliteConnection, "commit", before="commit.before", after="commit.after")
    around(Server, "_run", after="answer.after")
    around(OpenStore, "remove_body", before="unlink.before", after="unlink.after")
    around(SqliteConnection, "checkpoint", before="checkpoint.before", after="checkpoint.after")


# -- the lies ----------------------------------------------------------------------------------------------------------


def answer_early() -> None:
    """250 first, the commit afterwards."""
    from postroad.store.client import StoreClient
    from postroad.store.records import Accepted

    call = StoreClient.call
    open_calls = set()

    async def early(self: Any, unit: Any, args: Any) -> Any:
        if getattr(unit, "__name__", "") != "accept":
            return await call(self, unit, args)

        async def late() -> None:
            await asyncio.sleep(LATE_S)
            try:
                await call(self, unit, args)
            except Exception:
                return

        task = asyncio.ensure_future(late())
        open_calls.add(task)
        task.add_done_callback(open_calls.discard)
        return Accepted([], [])

    StoreClient.call = early  # type: ignore[method-assign]


def commit_lightly() -> None:
    """SQLite no longer waits for the disk at a commit."""
    from postroad.store.sqlite import SqliteConnection

    prepare = SqliteConnection._prepare

    def lightly(self: Any) -> None:
        prepare(self)
        self._run("PRAGMA synchronous=NORMAL").fetchall()

    SqliteConnection._prepare = lightly  # type: ignore[method-assign]


def forget_content() -> None:
    """The octets of a body file are no longer made durable."""
    from postroad.store import syscalls

    syscalls.fsync = lambda descriptor: None


def break_disk(fault: str) -> None:
    """Opens the database through a file system whose call KIND fails with CODE at the Nth time: "KIND N CODE"."""
    from postroad.store.opening import OpenStore
    from tests.fakes.vfs import NAME, FailingVfs, Fault

    kind, number, code = fault.split()
    vfs = FailingVfs()
    vfs.fault = Fault(int(number), int(code), kinds=frozenset([kind]))
    opened = OpenStore.__init__

    def through_it(self: Any, data_dir: Any, **options: Any) -> None:
        opened(self, data_dir, **(options | {"vfs": NAME}))
        self.failing_vfs = vfs  # lives as long as the store

    OpenStore.__init__ = through_it  # type: ignore[method-assign]


LIES = {
    "answer-early": ("worker", answer_early),
    "commit-lightly": ("store", commit_lightly),
    "forget-content": ("worker", forget_content),
}


def main() -> None:
    """Arms this process, if it is one of the server's children."""
    role = next((ROLES[word] for word in sys.orig_argv if word in ROLES), "")
    if not role:
        return
    if "POSTROAD_CRASH_FILE" in os.environ:
        points_of_worker() if role == "worker" else points_of_store()
    if role == "store" and "POSTROAD_DISK_FAULT" in os.environ:
        break_disk(os.environ["POSTROAD_DISK_FAULT"])
    lie = os.environ.get("POSTROAD_LIE", "")
    if lie and LIES[lie][0] == role:
        LIES[lie][1]()


main()
