"""The n-th call fails, for n = 1, 2, 3, ... until a run needs no more calls: never a 250 for what is not kept.

The server runs in this process (`rig.py`) over a database whose file system and a spool whose calls can fail. After
each run it is opened again on a sound disk, delivers what it has, and the ledger decides.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from postroad.store.verify import verify
from postroad.values.errors import StoreBroken, StoreFull
from tests.crash.load import LARGE, MIDDLE, SMALL, Load, Talk, read_mailbox
from tests.crash.rig import InProcess, Template
from tests.crash.scene import PASSWORD, REMOTE, USERS, open_in
from tests.fakes.ledger import Ledger
from tests.fakes.vfs import DATABASE_CALLS, NAME, SPOOL_CALLS, FailingVfs, Fault, break_spool

pytestmark = [pytest.mark.crash, pytest.mark.slow]

MAIL = [
    (SMALL, (USERS[0],)),
    (SMALL, (f"a@{REMOTE[0]}",)),
    (LARGE, (USERS[0], f"b@{REMOTE[1]}")),
    (MIDDLE, (f"c@{REMOTE[2]}",)),
    (SMALL, (USERS[1], f"d@{REMOTE[3]}")),
    (SMALL, (USERS[0],)),
]
"""What one run sends: every place a body can be in, every kind of recipient."""

HONEST = {"250", "451", "452", "421"}
"""All that may be said of a message while the disk fails."""


@pytest.fixture(scope="module")
def vfs() -> FailingVfs:
    """The file system of the database, registered once."""
    return FailingVfs()


@pytest.fixture
async def template(tmp_path: Path) -> AsyncIterator[Template]:
    """A data folder to copy, and the receiving hosts."""
    made = await Template.make(tmp_path / "template")
    yield made
    await made.close()


async def send_all(port: int, ledger: Ledger) -> list[str]:
    """Every message of `MAIL`, one after the other; returns the replies to their contents."""
    replies = []
    load = Load(port, ledger, REMOTE, USERS, 1, walk_away=0)
    for size, recipients in MAIL:
        entry, raw = ledger.compose(recipients, size, Random(size))
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            replies.append("nobody")
            continue
        try:
            talk = Talk(reader, writer, load)
            await talk.expect(220)
            writer.write(b"EHLO load.test\r\n")
            await talk.expect(250)
            async with asyncio.timeout(10):
                await talk.send(entry, raw)
            replies.append(entry.reply[:3] or "refused")
        except (OSError, EOFError):
            replies.append("hung up")
        finally:
            writer.close()
    return replies


class Run:
    """One run with one fault."""

    def __init__(self, template: Template, data_dir: Path, fault: Fault) -> None:
        self.template = template
        self.data_dir = template.copy_to(data_dir)
        self.fault = fault
        self.ledger = Ledger()
        self.replies: list[str] = []
        self.broken = ""

    async def fail(self, vfs: str | None) -> None:
        """Send everything while the fault waits for its call."""
        self.template.written_to(self.ledger)
        at = time.monotonic()
        try:
            server = InProcess(self.template, self.data_dir, vfs)
        except (StoreBroken, StoreFull, OSError):
            self.replies = ["did not open"]
        if self.replies:
            gc.collect()  # the process would end here; in this one the half-open database must go by itself
            return
        try:
            await server.start()
            self.replies = await send_all(server.port, self.ledger)
            await server.idle(0.4)
        except (StoreBroken, StoreFull) as error:
            self.replies.append(f"did not start: {error}")
        self.broken = server.store.store.writer.broken
        try:
            await server.stop()
        except (StoreBroken, StoreFull):
            self.replies.append("did not close")
        self.ledger.died("all", at, open_in(self.data_dir))

    async def recover(self) -> None:
        """Open the folder on a sound disk, deliver everything, read the mailboxes."""
        server = InProcess(self.template, self.data_dir)
        await server.start()
        assert await server.idle(10), f"the queue stays full: {self}"
        for user in USERS:
            await read_mailbox(server.pop3, user, PASSWORD, self.ledger)
        await server.stop()

    def judge(self) -> None:
        """What must hold after any fault."""
        verdict = self.ledger.judge()
        assert verdict.clean, f"{verdict}: {self}"
        findings = verify(self.data_dir)
        assert not findings, f"{findings[:3]}: {self}"
        if self.fault.of_fsync and self.fault.code == errno.EIO and self.replies[0] != "did not open":
            assert self.broken or "did not close" in self.replies, f"a failed fsync left the store writing: {self}"
        if not self.fault.failed:
            assert self.replies == ["250"] * len(MAIL), str(self)
        odd = {entry.reply for entry in self.ledger.entries.values() if entry.reply and entry.reply[:3] not in HONEST}
        assert not odd, f"{odd}: {self}"
        if self.broken and "451" in self.replies:
            after = self.replies[self.replies.index("451") :]
            assert "250" not in after, f"something was taken although the store is broken: {self}"

    def __str__(self) -> str:
        fault = self.fault
        return f"call {fault.number} failed ({fault.failed}, {errno.errorcode[fault.code]}), replies {self.replies}"


async def every_call(
    template: Template,
    tmp_path: Path,
    vfs: FailingVfs,
    monkeypatch: pytest.MonkeyPatch,
    kinds: frozenset[str],
    code: int,
    *,
    lasting: bool = False,
    step: int = 1,
    first: int = 1,
) -> Counter[str]:
    """Runs with the fault at call `first`, `first + step`, ...; returns how often each kind of call failed."""
    failed: Counter[str] = Counter()
    number = first
    while True:
        fault = Fault(number, code, kinds=kinds, lasting=lasting)
        run = Run(template, tmp_path / f"run-{number}", fault)
        with monkeypatch.context() as patch:
            if kinds & SPOOL_CALLS:
                break_spool(fault, patch.setattr)
            vfs.fault = fault
            await run.fail(NAME if kinds & DATABASE_CALLS else None)
            vfs.fault = None
        await run.recover()
        run.judge()
        shutil.rmtree(run.data_dir)
        if not fault.failed:
            return failed
        failed[fault.failed.partition(" ")[0]] += 1
        number += step


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.timeout(120)
async def test_every_call_of_the_spool_may_fail(
    tmp_path: Path, template: Template, vfs: FailingVfs, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    failed = await every_call(template, tmp_path, vfs, monkeypatch, SPOOL_CALLS, code)
    print(failed)
    assert failed.keys() >= {"create", "write", "fsync", "rename", "fsync_folder"}


@pytest.mark.parametrize(
    "kinds, code, step",
    [
        ({"xSync"}, errno.EIO, 1),
        ({"xWrite"}, errno.EIO, 12),
        ({"xWrite"}, errno.ENOSPC, 12),
        ({"xOpen", "xRead", "xTruncate", "xDelete"}, errno.EIO, 12),
    ],
)
@pytest.mark.timeout(120)
async def test_calls_of_the_database_may_fail(
    tmp_path: Path,
    template: Template,
    vfs: FailingVfs,
    monkeypatch: pytest.MonkeyPatch,
    kinds: set[str],
    code: int,
    step: int,
) -> None:
    """Every fsync, and every twelfth of the many others; the long set makes all of them fail."""
    failed = await every_call(template, tmp_path, vfs, monkeypatch, frozenset(kinds), code, step=step)
    print(failed)
    assert failed.keys() <= kinds
    assert failed


@pytest.mark.nightly
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("part", range(4))
@pytest.mark.timeout(1800)
async def test_every_call_of_the_database_may_fail(
    tmp_path: Path,
    template: Template,
    vfs: FailingVfs,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    lasting: bool,
    part: int,
) -> None:
    kinds = DATABASE_CALLS if code == errno.EIO else frozenset({"xOpen", "xWrite", "xTruncate"})
    failed = await every_call(
        template, tmp_path, vfs, monkeypatch, kinds, code, lasting=lasting, first=1 + part, step=4
    )
    print(failed)
    assert failed.keys() >= {"xWrite"} | ({"xSync", "xRead"} & kinds)
