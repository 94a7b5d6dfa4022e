"""A worker that stands still: another one serves meanwhile, and nothing is ever delivered by two owners."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.crash.scene import Scene, open_scene, seed_of
from tests.fakes.sink import CALM
from tests.live import alive, kill

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.e2e]


async def freeze(scene: Scene, seconds: float) -> None:
    """SIGSTOP to one of two workers for so long, then SIGCONT; the set check decides."""
    await scene.load.acknowledged(200)
    pids = scene.server.pids()
    victim = pids["worker-0"]
    at = time.monotonic()
    kill(victim, signal.SIGSTOP)
    frozen = scene.open_deliveries()
    before = scene.ledger.acknowledged
    await asyncio.sleep(seconds)
    served = scene.ledger.acknowledged - before
    was_killed = not alive(victim)
    kill(victim, signal.SIGCONT)
    assert served > 50, f"the other worker acknowledged only {served} ({scene.words()})"
    assert was_killed == (seconds > 11), scene.words()
    if was_killed:
        # What it had in flight when it stopped may be made again; nothing else.
        scene.ledger.died("worker-0", at, frozen)
        await scene.back(pids)
    await scene.load.acknowledged(200)
    verdict = await scene.settle()
    print(f"\nfrozen for {seconds:.0f} s, seed {scene.seed}: {served} acknowledged meanwhile; {verdict}")
    assert verdict.clean, f"{verdict} ({scene.words()})"
    if not was_killed:
        assert verdict.excused == 0, str(verdict)


@pytest.mark.parametrize("seconds", [4.0, 13.0])
@pytest.mark.timeout(120)
async def test_a_frozen_worker_never_delivers_what_another_one_owns(tmp_path: Path, seconds: float) -> None:
    async with open_scene(tmp_path, seed_of(11), workers=2, moods=CALM) as scene:
        await freeze(scene, seconds)


@pytest.mark.nightly
@pytest.mark.timeout(300)
async def test_a_worker_frozen_for_half_a_minute(tmp_path: Path) -> None:
    async with open_scene(tmp_path, seed_of(12), workers=2, moods=CALM) as scene:
        await freeze(scene, 30.0)
