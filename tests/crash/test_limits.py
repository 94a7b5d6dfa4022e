"""Limits that hold over four workers: a host that counts never sees more, also when a holder dies or stands still."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from postroad.store import folder as store_folder
from postroad.store.sqlite import open_reader
from tests.fakes.sink import CALM, Sink
from tests.live import LiveServer, kill

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(180)]

WORKERS = 4

CONFIG = """
[relay]
relay_from = ["127.0.0.0/8"]
tls = false
idle_s = 1.0
next_hop = "127.0.0.1:{port}"
connections_per_lane = {limit}
{relay}
[retry]
delays_s = [2.0, 2.0]
[limits]
connections_per_address = 1000
"""


@dataclass
class Arrived:
    """What the sink writes down: which messages came, how often."""

    copies: dict[str, int] = field(default_factory=dict)

    def arrived(self, recipient: str, content: bytes, *, reply_lost: bool = False) -> None:
        self.copies[recipient] = self.copies.get(recipient, 0) + 1


@dataclass
class Stage:
    """A server of four workers, and the one host it sends to."""

    server: LiveServer
    sink: Sink
    seen: Arrived
    sent: int = 0

    async def send(self, count: int, connections: int = 8) -> None:
        """Hands messages in over several connections, which the workers share among themselves."""
        first, self.sent = self.sent, self.sent + count
        parts = [range(first + part, first + count, connections) for part in range(connections)]
        await asyncio.gather(*(asyncio.to_thread(self._send, part) for part in parts))

    def _send(self, numbers: range) -> None:
        with self.server.smtp() as client:
            for number in numbers:
                client.sendmail("a@local.test", [f"u{number}@far.test"], b"Subject: hello\r\n\r\nGood day.\r\n")

    async def until(self, true: Callable[[], Any], seconds: float) -> float:
        """Waits, and returns how long it took."""
        began = time.monotonic()
        while not true():
            assert time.monotonic() - began < seconds, f"{len(self.seen.copies)} came; {self.server.log()[-2000:]}"
            await asyncio.sleep(0.01)
        return time.monotonic() - began

    async def all_arrived(self, seconds: float = 60.0) -> float:
        return await self.until(lambda: len(self.seen.copies) == self.sent, seconds)

    def holders(self) -> list[str]:
        """Workers that have a connection to the host now."""
        inodes = set()
        for line in Path("/proc/net/tcp").read_text().split("\n")[1:]:
            words = line.split()
            if words and int(words[2].split(":")[1], 16) == self.sink.port and words[3] == "01":
                inodes.add(f"socket:[{words[9]}]")
        pids = {name: pid for name, pid in self.server.pids().items() if name.startswith("worker")}
        return [name for name, pid in pids.items() if any(link in inodes for link in descriptors(pid))]

    def owners(self) -> int:
        """How many workers own open deliveries."""
        db = open_reader(self.server.data_dir / store_folder.DATABASE)
        try:
            [(count,)] = db.execute("SELECT count(DISTINCT owner) FROM deliveries WHERE owner <> 0").fetchall()
            return int(str(count))
        finally:
            db.close()


def descriptors(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except OSError:
            continue
    return found


@asynccontextmanager
async def stage(where: Path, limit: int, relay: str = "") -> AsyncIterator[Stage]:
    seen = Arrived()
    async with Sink(seen, 1, CALM) as sink:  # type: ignore[arg-type]  # counts instead of keeping a ledger
        server = LiveServer(where, workers=WORKERS, config=CONFIG.format(port=sink.port, limit=limit, relay=relay))
        server.add_domain()
        try:
            await asyncio.to_thread(server.start)
            yield Stage(server, sink, seen)
        finally:
            await asyncio.to_thread(server.kill_group)


@pytest.mark.parametrize("limit", [1, 3, 8])
async def test_a_limit_is_never_exceeded_by_four_workers(tmp_path: Path, limit: int) -> None:
    async with stage(tmp_path, limit) as here:
        here.sink.pause_s = 0.01
        await here.send(200)
        await here.all_arrived()
        assert here.sink.most_open <= limit
        assert max(here.seen.copies.values()) == 1
        if limit == 8:
            assert here.sink.most_open > 2, "the workers did not share it"


async def test_a_worker_that_has_all_the_mail_reaches_the_full_limit_within_ten_seconds(tmp_path: Path) -> None:
    async with stage(tmp_path, 20) as here:
        here.sink.pause_s = 0.2
        await here.send(60)
        await here.all_arrived()
        await here.until(lambda: here.sink.open == 0, 10.0)
        here.sink.most_open = 0
        sending = asyncio.ensure_future(here.send(600, connections=1))
        took = await here.until(lambda: here.sink.open == 20, 20.0)
        print(f"\nthe full limit after {took:.1f} s, by {here.holders()}")
        assert took < 10.0
        assert len(here.holders()) == 1
        await sending
        assert here.sink.most_open == 20
        await here.all_arrived()


@pytest.mark.parametrize("limit", [1, 8])
async def test_a_killed_holder_leaves_its_share_only_when_its_connections_are_gone(tmp_path: Path, limit: int) -> None:
    async with stage(tmp_path, limit) as here:
        here.sink.pause_s = 0.05
        sending = asyncio.ensure_future(here.send(300))
        for _ in range(3):
            await here.until(here.holders, 20.0)
            [victim, *_] = here.holders()
            before = here.server.pids()
            kill(before[victim])
            await asyncio.sleep(1.0)
        await asyncio.gather(sending, return_exceptions=True)
        await here.until(lambda: len(here.seen.copies) > 100, 60.0)
        assert here.sink.most_open <= limit


async def test_a_holder_that_stands_still_keeps_its_share_until_it_is_killed(tmp_path: Path) -> None:
    async with stage(tmp_path, 1) as here:
        here.sink.pause_s = 0.05
        sending = asyncio.ensure_future(here.send(200))
        await here.until(here.holders, 20.0)
        [victim] = here.holders()
        pid = here.server.pids()[victim]
        kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        await asyncio.sleep(0.3)
        before = len(here.seen.copies)
        await asyncio.sleep(5.0)
        assert len(here.seen.copies) == before, "another worker sent while the holder's connection stood"
        took = await here.until(lambda: len(here.seen.copies) > before, 40.0)
        print(f"\nothers went on {time.monotonic() - stopped:.1f} s after the holder stopped ({took:.1f})")
        await asyncio.gather(sending, return_exceptions=True)
        await here.until(lambda: len(here.seen.copies) > 100, 60.0)
        assert here.sink.most_open == 1
