"""One scene: a live server, its receiving hosts, a load and a ledger, and what kills and restarts it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from postroad.store import folder as store_folder
from postroad.store.sqlite import open_reader
from postroad.store.verify import verify
from postroad.values.errors import StoreBroken
from tests.crash.load import Load, read_mailbox
from tests.fakes.ledger import DOMAIN, Ledger, Verdict
from tests.fakes.sink import Moods, Sink
from tests.live import LiveServer, kill, wait_gone

FAULTS = Path(__file__).parent / "faults"
REMOTE = ["a.test", "b.test", "c.test", "d.test"]
USERS = ["anna@local.test", "ben@local.test"]
PASSWORD = "secret"

CONFIG = """
[relay]
relay_from = ["127.0.0.0/8"]
tls = false
routes = {{ {routes} }}
[retry]
delays_s = [0.2, 0.5, 1.0]
[limits]
connections_per_address = 1000
message_size = {message_size}
{limits}
"""


@dataclass
class Scene:
    """A server under load that may be killed; `seed` decides everything that chance decides here."""

    server: LiveServer
    ledger: Ledger
    load: Load
    sinks: list[Sink]
    seed: int
    rng: Random
    kills: dict[str, int] = field(default_factory=dict)

    @property
    def data_dir(self) -> Path:
        """The server's data folder."""
        return self.server.data_dir

    def words(self) -> str:
        """What a failed assertion shows."""
        return f"seed {self.seed}, commit {commit()}, kills {self.kills}\n{self.server.log()[-1500:]}"

    # -- killing -----------------------------------------------------------------------------------------------------

    async def kill_all(self) -> None:
        """The whole group at once; the server stays down."""
        at = time.monotonic()
        await asyncio.to_thread(self.server.kill_group)
        await self.note_death("all", at)

    async def kill_supervisor(self) -> None:
        """The supervisor alone: its children must end by themselves."""
        at, pids = time.monotonic(), self.server.pids()
        kill(pids["supervisor"])
        await self.gone(pids)
        await self.note_death("supervisor", at)

    async def kill_child(self, name: str) -> None:
        """One child; the supervisor starts it again, and the load goes on meanwhile."""
        before = self.server.pids()
        kill(before[name], signal.SIGSTOP)
        await self.finish_off(name, name, before)

    async def crash_at(self, point: str, count: int, scope: str) -> None:
        """Let whoever passes `point` for the `count`th time die, alone or with the whole server."""
        before = self.server.pids()
        crash_file = crash_file_of(self.server.folder)
        partial = crash_file.with_suffix(".part")
        partial.write_text(f"{point} {count} {scope} {sum(self.kills.values())}")
        partial.rename(crash_file)
        await self.until(lambda: not crash_file.exists(), f"nobody passed {point} {count} times")
        if scope == "all":
            at = time.monotonic()
            await self.gone(before)
            await self.note_death(f"{point} all", at)
            return
        await self.until(lambda: any(map(stands_still, before.values())), "the one that should die goes on")
        victim = next(child for child, pid in before.items() if stands_still(pid))
        await self.finish_off(victim, point, before)

    async def finish_off(self, victim: str, name: str, before: dict[str, int]) -> None:
        """SIGKILL to a child that stands still; nobody can have taken over anything of it until then."""
        at = time.monotonic()
        await self.until(lambda: stands_still(before[victim]), f"{victim} does not stand still")
        found = await asyncio.to_thread(self.open_deliveries)
        kill(before[victim])
        await asyncio.to_thread(wait_gone, [before[victim]])
        await self.note_death(name, at, before if victim == "store" else {}, found)
        await self.back(before)

    async def gone(self, pids: dict[str, int]) -> None:
        """Wait until the whole server is gone."""
        await asyncio.to_thread(wait_gone, pids.values())
        assert self.server.process is not None
        await asyncio.to_thread(self.server.process.wait, 10)
        self.server.process = None

    async def back(self, before: dict[str, int]) -> None:
        """Wait until a process of other number serves in place of one that died."""

        def restarted() -> bool:
            now = self.server.pids()
            return now.keys() == before.keys() and now != before and self.server.healthy()

        await self.until(restarted, "the dead process was not started again")

    async def until(self, condition: Callable[[], bool], complaint: str, patience: float = 30.0) -> None:
        """Wait for something; the complaint comes with all there is to know."""
        end = time.monotonic() + patience
        while not await asyncio.to_thread(condition):
            assert time.monotonic() < end, f"{complaint} ({self.words()})"
            await asyncio.sleep(0.01)

    async def note_death(
        self,
        name: str,
        at: float,
        orphans: dict[str, int] | None = None,
        found: set[tuple[str, str]] | None = None,
    ) -> None:
        """Write a death down, with the deliveries that were open in the store; `orphans` lose their lease with it."""
        self.kills[name] = self.kills.get(name, 0) + 1
        if found is None:
            found = await asyncio.to_thread(self.open_deliveries)
        workers = [pid for child, pid in (orphans or {}).items() if child.startswith("worker")]
        await asyncio.to_thread(wait_gone, workers)
        await asyncio.sleep(0.02)  # what the dead left in the sockets of our own sinks is read now
        self.ledger.died(name, at, found)

    def open_deliveries(self) -> set[tuple[str, str]]:
        """Message and recipient of every delivery that is not closed now."""
        if self.server.process is not None:
            return open_in(self.data_dir)
        # A dead server's files are read from a copy, so that the next start has to recover the log by itself.
        with TemporaryDirectory(dir=self.server.folder) as copy:
            for name in (store_folder.DATABASE, f"{store_folder.DATABASE}-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy(self.data_dir / name, copy)
            return open_in(Path(copy))

    # -- restarting --------------------------------------------------------------------------------------------------

    async def restart(self) -> None:
        """Start the whole server again."""
        await asyncio.to_thread(self.server.start)

    async def must_be_sound(self) -> None:
        """The rules of docs/internals/states.md hold."""
        findings = await asyncio.to_thread(verify, self.data_dir)
        assert not findings, f"{findings[:5]} ({self.words()})"

    # -- the end -----------------------------------------------------------------------------------------------------

    async def settle(self, patience: float = 60.0) -> Verdict:
        """Let everything be delivered, read the mailboxes, stop, and judge."""
        await self.load.stop()
        for sink in self.sinks:
            sink.moods = Moods(0, 0, 0, 0)
        await self.until(lambda: self.queued() == 0, "the queue did not become empty", patience)
        for user in USERS:
            await read_mailbox(self.server.ports["pop3"], user, PASSWORD, self.ledger)
        status = await asyncio.to_thread(self.server.stop)
        assert status == 0, self.words()
        self.server.run("verify")  # its exit status is its word
        return self.ledger.judge()

    def queued(self) -> int:
        """Open deliveries in the store."""
        try:
            db = open_reader(self.data_dir / store_folder.DATABASE)
        except StoreBroken:
            return -1
        try:
            [(count,)] = db.execute("SELECT count(*) FROM deliveries").fetchall()
            assert isinstance(count, int)
            return count
        finally:
            db.close()


def stands_still(pid: int) -> bool:
    """Whether a process is stopped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def open_in(where: Path) -> set[tuple[str, str]]:
    """Message and recipient of every open delivery of a database."""
    db = open_reader(where / store_folder.DATABASE)
    try:
        rows = db.execute("SELECT h.keys, d.recipient FROM deliveries d JOIN history h ON h.id = d.message").fetchall()
    finally:
        db.close()
    return {(ident_in(str(keys)), str(recipient)) for keys, recipient in rows}


def ident_in(keys: str) -> str:
    """Our name of a message among the keys that `why` finds it by."""
    for key in keys.split("\n"):
        if key.endswith(f"@{DOMAIN}"):
            return key.partition("@")[0]
    return ""


def commit() -> str:
    """The commit under test, for a failure that must be repeated."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    return done.stdout.strip() or "unknown"


def crash_file_of(where: Path) -> Path:
    """The file that says where to die."""
    return where / "crash-here"


def seed_of(default: int) -> int:
    """The seed of this run: POSTROAD_SEED, to repeat a failure, or the test's own."""
    return int(os.environ.get("POSTROAD_SEED", default))


def faults(where: Path, *, lie: str = "", points: bool = False, disk: str = "") -> dict[str, str]:
    """Environment of a server with faults (see `faults/sitecustomize.py`)."""
    path = [str(FAULTS), str(FAULTS.parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    if disk:
        environment["POSTROAD_DISK_FAULT"] = disk
    if points:
        environment["POSTROAD_CRASH_FILE"] = str(crash_file_of(where))
    if lie:
        environment["POSTROAD_LIE"] = lie
    return environment


def make_server(
    where: Path,
    sinks: list[Sink],
    *,
    workers: int = 1,
    environment: dict[str, str] | None = None,
    limits: str = "",
    message_size: int = 1_000_000,
) -> LiveServer:
    """A server that relays the sinks' domains to them, with its users, not started."""
    routes = ", ".join(f'"{domain}" = "127.0.0.1:{sink.port}"' for domain, sink in zip(REMOTE, sinks, strict=True))
    server = LiveServer(
        where,
        workers=workers,
        top="insecure_auth = true",
        config=CONFIG.format(routes=routes, limits=limits, message_size=message_size),
        environment=environment or {},
    )
    server.add_domain()
    for user in USERS:
        server.add_user(user, PASSWORD)
    return server


@asynccontextmanager
async def open_scene(
    where: Path,
    seed: int,
    *,
    workers: int = 1,
    environment: dict[str, str] | None = None,
    moods: Moods | None = None,
    sessions: int = 20,
) -> AsyncIterator[Scene]:
    """A started server under load; whatever happened, nothing of it lives afterwards."""
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        sinks = [await stack.enter_async_context(Sink(ledger, seed + number, moods)) for number in range(len(REMOTE))]
        server = await asyncio.to_thread(make_server, where, sinks, workers=workers, environment=environment)
        load = Load(server.ports["mx"], ledger, REMOTE, USERS, seed, sessions=sessions)
        scene = Scene(server, ledger, load, sinks, seed, Random(seed))
        await scene.restart()
        load.start()
        try:
            yield scene
        finally:
            for task in load._tasks:
                task.cancel()
            if server.process is not None:
                await asyncio.to_thread(server.kill_group)
