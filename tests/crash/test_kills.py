"""Kills: the whole server, each process alone, and at every step between S1 and S5 of docs/internals/states.md.

Every kill comes under load and at least 200 acknowledged messages after the one before it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.crash.scene import Scene, faults, open_scene, seed_of

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.e2e]

BETWEEN = 200
"""Acknowledged messages between two kills."""

YOUNG_DEATHS = 3
"""Children killed in a row before the whole server is: a supervisor pauses longer before each child that died young."""

STEPS: list[tuple[str, int]] = [
    # S1, S2: the body's file
    ("write.half", 8),
    ("fsync.before", 8),
    ("rename.after", 5),
    ("fsync_folder.after", 5),
    # S2 or S1, S3, 250
    ("accept.asking", 60),
    ("batch.before", 40),
    ("commit.before", 40),
    ("commit.after", 40),
    ("accept.answered", 60),
    ("fresh.before", 40),
    # S3, S4: attempts and their records
    ("result.after", 40),
    ("record.asking", 10),
    ("record.answered", 10),
    ("claim.answered", 3),
    # S4, S5
    ("unlink.before", 5),
]
"""Every step, with the highest passage to die at."""

BESIDE: list[tuple[str, int]] = [
    ("create.after", 5),
    ("fsync.after", 8),
    ("answer.after", 40),
    ("fresh.after", 40),
    ("result.before", 40),
    ("unlink.after", 5),
]
"""Moments close to those, for the long sets."""

PROCESSES = ["all", "store", "all", "worker-0", "supervisor"]


async def kill_process(scene: Scene, name: str) -> None:
    """One kill at a random moment under load."""
    await asyncio.sleep(scene.rng.random() * 0.2)
    if name == "all":
        await scene.kill_all()
    elif name == "supervisor":
        await scene.kill_supervisor()
    else:
        await scene.kill_child(name)


async def rounds(scene: Scene, kills: list[tuple[str, int, str]]) -> None:
    """Each kill under load, a restart where one is needed, and the proof of the store after each."""
    young = 0
    for name, highest, scope in kills:
        await scene.load.acknowledged(BETWEEN)
        if highest:
            await scene.crash_at(name, scene.rng.randint(1, highest), scope)
        else:
            await kill_process(scene, name)
        await revive(scene)
        young = young + 1 if name.startswith(("store", "worker")) or scope == "self" else 0
        if young == YOUNG_DEATHS:
            await scene.load.acknowledged(BETWEEN)
            await kill_process(scene, "all")
            await revive(scene)
            young = 0


async def revive(scene: Scene) -> None:
    """Starts the server where nobody else does, and proves the store."""
    if scene.server.process is not None:
        await scene.must_be_sound()
        return
    scene.load.hold()
    await scene.restart()
    await scene.must_be_sound()
    scene.load.go()


SHORT = [(name, 0) for name in PROCESSES] + STEPS
"""Twenty kills: each process, each step."""


def plan(scene: Scene, kills: list[tuple[str, int]]) -> list[tuple[str, int, str]]:
    """These kills in an order of chance, each step's alone or with the whole server."""
    scene.rng.shuffle(kills)
    return [(name, highest, scene.rng.choice(["self", "all"])) for name, highest in kills]


async def run_set(scene: Scene, kills: list[tuple[str, int]]) -> None:
    """A whole set, judged."""
    await rounds(scene, plan(scene, kills))
    verdict = await scene.settle()
    print(f"\n{sum(scene.kills.values())} kills, seed {scene.seed}: {verdict}")
    assert verdict.clean, f"{verdict} ({scene.words()})"
    assert verdict.acknowledged >= BETWEEN * len(kills)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("half", [0, 1])
async def test_what_was_acknowledged_survives_20_kills(tmp_path: Path, half: int) -> None:
    """Ten in each half, so that both may run side by side."""
    async with open_scene(tmp_path, seed_of(1 + half), environment=faults(tmp_path, points=True)) as scene:
        await run_set(scene, SHORT[half::2])


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(6))
async def test_what_was_acknowledged_survives_300_kills(tmp_path: Path, part: int) -> None:
    """Fifty in each part; every second one with two workers."""
    every = [(name, 0) for name in PROCESSES] + STEPS + BESIDE
    kills = [every[(part * 50 + number) % len(every)] for number in range(50)]
    environment = faults(tmp_path, points=True)
    async with open_scene(tmp_path, seed_of(1000 + part), environment=environment, workers=1 + part % 2) as scene:
        await run_set(scene, kills)
