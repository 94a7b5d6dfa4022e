"""The supervisor: opens the sockets, drops privileges, keeps one store process and N workers running.

Every child is exec'ed and holds a pipe to us on its standard input: when that closes, it ends, so nothing outlives a
dead supervisor. Children say "ready" and then a dot every two seconds on standard output. A worker that is silent for
ten seconds is killed *before* anything it owns passes on: its lease is its socket to the store, which the kernel
closes only when the process is gone.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pwd
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from postroad.config import Config
from postroad.serve.figures import ServerFigures
from postroad.serve.logs import log_bug, log_line
from postroad.serve.metrics import MetricsPage, MetricsServer
from postroad.serve.tally import make_tally
from postroad.serve.worker import LOST_STORE

SILENCE_S: Final = 10.0
"""A worker that gave no sign for this long is taken for hung and killed."""

STORE_SILENCE_S: Final = 60.0
"""The same for the store. Longer, because a disk that stalls holds it up too, and killing it then helps nobody; until
then sessions answer for it (`serve.smtp.FINAL_DOT_S`)."""

STORE_STOP_S: Final = 10.0
"""The store's last commit and checkpoint take far less; then it is killed, which loses nothing that was answered."""

GRACE_S: Final = 30.0
"""How long workers may finish transfers after SIGTERM."""

QUICK_DEATH_S: Final = 5.0
"""A child that lived shorter than this is restarted with a growing pause."""
MAX_PAUSE_S: Final = 30.0

START_AGAIN_S: Final = 1.0
"""Pause when the system has no process, memory or descriptor for a child."""

_PASSING: Final = frozenset((errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE))

STORE_START_S: Final = 120.0
"""How often it is said that the store is not ready yet; its migrations may take longer on a large folder."""


STORE_UNUSABLE: Final = 1
STORE_BROKEN: Final = 3
"""Exit statuses of `store.process`: the folder cannot be used; the disk failed and a check should come first."""


class StartError(Exception):
    """The server cannot start; the text says why and what to do."""


@dataclass(slots=True)
class Child:
    """One child process and what we know of it."""

    name: str
    process: asyncio.subprocess.Process
    started: float
    heard: float
    silence_s: float = SILENCE_S
    """Seconds without a sign of life after which it is killed."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        """Take its signs of life until its standard output ends."""
        assert self.process.stdout is not None
        loop = asyncio.get_running_loop()
        while said := await self.process.stdout.read(4096):
            self.heard = loop.time()
            if not self.ready.is_set() and b"ready" in said:
                self.ready.set()

    def tell(self, word: str) -> None:
        """Send one command line; a child that is gone does not hear it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(word.encode() + b"\n")
        except OSError:
            return

    def kill(self) -> None:
        """End it at once."""
        try:
            self.process.kill()
        except ProcessLookupError:
            return


class Keeper(Protocol):
    """Whoever keeps the certificate new while the server runs."""

    async def run(self, reload: Callable[[], None]) -> None:
        """Go on until cancelled; `reload` lets the workers read the certificate again."""
        ...


class Supervisor:
    """Runs until SIGTERM or SIGINT; `run` returns the exit status."""

    def __init__(
        self,
        config: Config,
        data_dir: Path,
        listeners: Mapping[str, list[socket.socket]],
        workers: int,
        metrics: list[socket.socket],
        keeper: Keeper | None = None,
    ) -> None:
        self._config = config
        self._data_dir = data_dir
        self._listeners = listeners
        self._workers = workers
        self._metrics = metrics
        self._keeper = keeper
        self._tally = make_tally(workers)
        self._failed = False
        self._stopping = asyncio.Event()
        self._reached = asyncio.Event()
        self._store: Child | None = None
        self._children: dict[str, Child] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Start everything, keep it running, drain on a signal."""
        loop = asyncio.get_running_loop()
        for ending in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(ending, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        figures = ServerFigures(self._data_dir, Path(self._config.tls.certificate))
        page = MetricsServer(MetricsPage(self._data_dir, figures.gather), self._ailing)
        await page.start(*self._metrics)
        self._spawn(self._keep_store())
        for number in range(self._workers):
            self._spawn(self._keep_worker(number))
        self._spawn(self._watch_silence())
        self._spawn(self._announce())
        if self._keeper is not None:
            self._spawn(self._keeper.run(self._reload))
        await self._stopping.wait()
        await self._drain()
        return 1 if self._failed else 0

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            log_bug(bug, where="supervisor")
            self._failed = True
            self._stop()

    # -- signals ----------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        if self._stopping.is_set():  # asked twice: the person at the keyboard does not want to wait
            for child in self._children.values():
                child.kill()
        self._stopping.set()
        self._reached.set()

    def _reload(self) -> None:
        log_line("info", "reloading certificates and policy")
        for child in self._children.values():
            if child is not self._store:
                child.tell("reload")

    # -- the metrics page -------------------------------------------------------------------------------------------

    def _ailing(self) -> str:
        """What is wrong, for /healthz."""
        missing = [n for n in self._expected() if n not in self._children or not self._children[n].ready.is_set()]
        return f"not ready: {', '.join(missing)}" if missing else ""

    def _expected(self) -> list[str]:
        return ["store", *(f"worker-{number}" for number in range(self._workers))]

    # -- children ---------------------------------------------------------------------------------------------------

    async def _keep_store(self) -> None:
        pause = 0.0
        served = False
        while not self._stopping.is_set():
            command = [sys.executable, "-m", "postroad.store.process", "--data", str(self._data_dir), "--lifeline", "0"]
            child = await self._start("store", command, [])
            child.silence_s = STORE_SILENCE_S
            self._store = child
            await self._await_store(child)
            if child.ready.is_set():
                self._reached.set()
            status = await child.process.wait()
            if not self._stopping.is_set():
                self._reached.clear()  # before the pause: a worker without a store only dies
            self._judge_store(status, served)
            served = served or child.ready.is_set()
            pause = await self._outlive(child, pause)

    async def _await_store(self, child: Child) -> None:
        """Wait until the store is ready or has ended; a long migration is told of now and then, never cut off."""
        while not child.ready.is_set() and child.process.returncode is None and not self._stopping.is_set():
            try:
                async with asyncio.timeout(STORE_START_S):
                    await self._first_of(child.ready.wait(), child.process.wait(), self._stopping.wait())
            except TimeoutError:
                lived = asyncio.get_running_loop().time() - child.started
                log_line("warning", "the store is not ready yet: a check or a migration goes on", seconds=int(lived))

    def _judge_store(self, status: int, served: bool) -> None:
        """What the end of the store means: one that could not be opened at our start will not open by repeating it."""
        if self._stopping.is_set():
            return
        if status == STORE_UNUSABLE and not served:
            log_line("error", f"the store in {self._data_dir} cannot be opened; the reason stands above")
            self._failed = True
            self._stop()
        elif status == STORE_BROKEN:
            log_line("error", "the disk failed to keep mail. Look at the disk, then run: postroad verify")

    async def _keep_worker(self, number: int) -> None:
        pause = 0.0
        while not self._stopping.is_set():
            await self._reached.wait()
            if self._stopping.is_set():
                return
            fds = [sock.fileno() for socks in self._listeners.values() for sock in socks]
            fds.append(self._tally)
            child = await self._start(f"worker-{number}", [sys.executable, "-m", "postroad.app.worker"], fds)
            child.tell(self._errand(number))
            pause = await self._outlive(child, pause)

    def _errand(self, number: int) -> str:
        return json.dumps(
            {
                "config": msgspec.to_builtins(self._config),
                "data_dir": str(self._data_dir),
                "number": number,
                "workers": self._workers,
                "tally": self._tally,
                "listeners": {service: [s.fileno() for s in socks] for service, socks in self._listeners.items()},
            }
        )

    async def _start(self, name: str, command: list[str], fds: list[int]) -> Child:
        while True:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    pass_fds=fds,
                    start_new_session=False,
                    process_group=0,  # Ctrl-C on a terminal reaches only us; we tell the children
                )
                break
            except OSError as error:
                # One child that cannot be had for now is no reason to end those that serve.
                if error.errno not in _PASSING or self._stopping.is_set():
                    raise
                log_line("error", f"{name} cannot be started now; trying again", cause=str(error.strerror))
                await self._first_of(asyncio.sleep(START_AGAIN_S), self._stopping.wait())
        now = asyncio.get_running_loop().time()
        child = Child(name, process, now, now)
        self._children[name] = child
        self._spawn(child.listen())
        return child

    async def _outlive(self, child: Child, pause: float) -> float:
        """Wait for a child's end; say it, pause if it died young, return the next pause."""
        status = await child.process.wait()
        self._children.pop(child.name, None)
        if self._stopping.is_set():
            return 0.0
        lived = asyncio.get_running_loop().time() - child.started
        # A worker whose store went away did nothing wrong; it waits for the next store, which has a pause of its own.
        blameless = lived >= QUICK_DEATH_S or status == LOST_STORE
        pause = 0.0 if blameless else min(MAX_PAUSE_S, max(0.2, pause * 2))
        log_line("warning", f"{child.name} ended and is started again", status=status, pause_s=pause)
        await self._first_of(asyncio.sleep(pause), self._stopping.wait())
        return pause

    @staticmethod
    async def _first_of(*waits: Coroutine[Any, Any, Any]) -> None:
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _watch_silence(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while not self._stopping.is_set():
            await asyncio.sleep(1.0)
            now = loop.time()
            late, last = now - last > 3.0, now
            if late:  # we ourselves were stopped: the signs of life wait unread, nobody is to blame
                for child in self._children.values():
                    child.heard = now
                continue
            for child in list(self._children.values()):
                if child.ready.is_set() and now - child.heard > child.silence_s:
                    log_line("error", f"{child.name} gave no sign for {child.silence_s:.0f} s and is killed")
                    child.kill()

    async def _announce(self) -> None:
        """Say "ready" once every worker serves."""
        while not self._stopping.is_set():
            workers = [c for n, c in self._children.items() if n != "store"]
            if len(workers) == self._workers and all(c.ready.is_set() for c in workers):
                break
            await asyncio.sleep(0.05)
        else:
            return
        notify_systemd("READY=1")
        for service, socks in self._listeners.items():
            for sock in socks:
                place = sock.getsockname()
                where = place if isinstance(place, str) else f"{place[0]} port {place[1]}"
                log_line("info", f"{service} listens on {where}")
        log_line("info", "ready", workers=self._workers, data=str(self._data_dir), pid=os.getpid())

    async def _drain(self) -> None:
        notify_systemd("STOPPING=1")
        log_line("info", "stopping: no new connections, open transfers are finished", grace_s=GRACE_S)
        workers = [c for n, c in self._children.items() if n != "store"]
        for child in workers:
            child.tell("drain")
        await self._ended(workers, GRACE_S + 5)
        if self._store is not None and self._store.process.returncode is None:
            try:
                self._store.process.terminate()
            except ProcessLookupError:
                pass
            await self._ended([self._store], STORE_STOP_S)
        log_line("info", "stopped")

    async def _ended(self, children: list[Child], patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                await asyncio.gather(*(child.process.wait() for child in children))
        except TimeoutError:
            for child in children:
                if child.process.returncode is None:
                    log_line("warning", f"{child.name} did not end in time and is killed")
                    child.kill()
            await asyncio.gather(*(child.process.wait() for child in children))


def drop_privileges(user: str, data_dir: Path) -> None:
    """Become the service user for good; `data_dir` is handed to it first. Nothing to do without a user or as non-root.

    Raises StartError when there is no such user.
    """
    if not user or os.getuid() != 0:
        return
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise StartError(
            f'There is no user "{user}" here. Create it (adduser --system {user}) or change `user`.'
        ) from None
    hand_over(data_dir, account.pw_uid, account.pw_gid)
    os.initgroups(user, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    if not os.access(sys.executable, os.X_OK) or not os.access(__file__, os.R_OK):
        raise StartError(
            f'The user "{user}" may not run {sys.executable}. Install Postroad where everybody may read it '
            "(not below /root), or set `user` to somebody who may."
        )


def hand_over(folder: Path, uid: int, gid: int) -> None:
    """Give a folder and what we made in it while we were root to the service user; links are not followed."""
    os.chown(folder, uid, gid, follow_symlinks=False)
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(root, name)
            if os.lstat(path).st_uid == 0:
                os.chown(path, uid, gid, follow_symlinks=False)


def notify_systemd(state: str) -> None:
    """Tell systemd, where it asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError as error:
            log_line("warning", "systemd could not be told", state=state, cause=str(error))
