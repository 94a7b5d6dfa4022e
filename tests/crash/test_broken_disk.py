"""The whole server on a disk that fails once: it stops accepting, goes on showing mail, and loses nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from postroad.store.client import StoreClient
from postroad.store.opening import OpenStore
from postroad.store.process import EXIT_BROKEN, EXIT_UNUSABLE
from postroad.store.queue import accept
from postroad.store.reader import Reader
from postroad.store.verify import verify
from postroad.values.errors import StoreBroken
from tests.crash.load import count_by_imap
from tests.crash.scene import PASSWORD, USERS, faults, open_scene, seed_of
from tests.fakes.vfs import NAME
from tests.store.stores import sample

MESSAGES = 5

pytestmark = [pytest.mark.crash, pytest.mark.slow]


@pytest.mark.e2e
@pytest.mark.timeout(120)
async def test_after_a_failed_fsync_nothing_is_taken_until_a_restart(tmp_path: Path) -> None:
    async with open_scene(tmp_path, seed_of(21)) as scene:
        # Restarted under the fault: the users must have been made on a sound disk.
        await scene.kill_all()
        scene.server.environment = faults(tmp_path, disk=f"xSync 60 {errno.EIO}")
        await scene.restart()
        await scene.until(lambda: "read-only until it is restarted" in scene.server.log(), "the disk never failed")
        await asyncio.sleep(0.2)
        taken = scene.ledger.acknowledged
        assert taken > 50, scene.words()
        await asyncio.sleep(0.5)
        assert scene.ledger.acknowledged == taken, "mail was taken although the store is broken"
        assert any(reply.startswith("451 ") for reply in scene.load.refusals), str(scene.load.refusals)
        assert await asyncio.to_thread(count_by_imap, scene.server.ports["imap"], USERS[0], PASSWORD) > 0
        await scene.kill_all()
        scene.server.environment = {}
        await scene.restart()
        await scene.must_be_sound()
        await scene.load.acknowledged(50)
        verdict = await scene.settle()
        assert verdict.clean, f"{verdict} ({scene.words()})"


@pytest.mark.timeout(120)
async def test_the_store_process_on_a_failing_disk_says_so_by_its_status(tmp_path: Path) -> None:
    """Started with `--vfs`; the fault meets the opening, a commit or the last checkpoint, until there is none left."""
    for number in range(1, 100):
        data = tmp_path / f"data-{number}"
        OpenStore(data).close()
        status, kept, opened = await run_store(data, f"xSync {number} {errno.EIO}")
        assert verify(data) == []
        reader = Reader(data)
        for ident in kept:
            assert await reader.message(ident) is not None
        reader.close()
        if status == 0:
            assert len(kept) == MESSAGES
            break
        assert status == (EXIT_BROKEN if opened else EXIT_UNUSABLE), f"fsync {number}, kept {kept}"
    assert number > MESSAGES


async def run_store(data: Path, disk: str) -> tuple[int, list[int], bool]:
    """The exit status of a store process under a fault, the messages it acknowledged, and whether it could open."""
    command = [sys.executable, "-m", "postroad.store.process", "--data", str(data), "--vfs", NAME]
    environment = os.environ | faults(data, disk=disk)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    kept: list[int] = []
    try:
        assert process.stdout is not None
        opened = await asyncio.to_thread(process.stdout.readline) == b"ready\n"
        if opened:
            client = await StoreClient.connect(data)
            kept = await accept_until_broken(client)
            process.send_signal(signal.SIGTERM)
        _, said = await asyncio.to_thread(process.communicate, timeout=10)
    finally:
        process.kill()
        process.wait()
    assert b"Traceback" not in said, said
    return process.returncode, kept, opened


async def accept_until_broken(client: StoreClient) -> list[int]:
    """Accepts messages one by one; returns those that were acknowledged, all of them before the first failure."""
    kept: list[int] = []
    broken = False
    for ident in range(1, MESSAGES + 1):
        try:
            await client.call(accept, sample(ident))
        except StoreBroken:
            broken = True
        else:
            assert not broken
            kept.append(ident)
    return kept
