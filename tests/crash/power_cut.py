"""Power cuts at the block layer: `python -m tests.crash.power_cut FOLDER`, as root in a mount namespace of its own.

The server's data lies on an ext4 image that is a file on XFS, mounted so that nothing reaches it by itself for a
minute. A reflink copy of that file at a random moment under load is atomic: it is the disk at the moment of the cut.
The copy is mounted in place of the old disk (its journal replays) and the server started on it. What was acknowledged
before the copy was begun must be there. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from postroad.store.verify import verify
from tests.crash.scene import Scene, faults, open_scene
from tests.fakes.ledger import State
from tests.fakes.sink import Moods

BETWEEN = 200
"""Acknowledged messages between two cuts."""

OUTER_MB = 1500
INNER_MB = 400
MOUNT = "loop,commit=60,data=ordered"
"""Nothing but an fsync writes for a minute; ext4's own default is five seconds."""

EATMYDATA = "libeatmydata.so"


class Laboratory:
    """The disk of a server: an image on a file system that can copy it in an instant."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounted_at = folder / "server" / "data"
        self._outer = folder / "outer"
        self._number = 0
        self._stack = ExitStack()

    def __enter__(self) -> Laboratory:
        for each in (self._outer, self.mounted_at):
            each.mkdir(parents=True)
        image = self.folder / "outer.img"
        run("truncate", "-s", f"{OUTER_MB}M", image)
        run("mkfs.xfs", "-q", "-m", "reflink=1", image)
        run("mount", "-o", "loop", image, self._outer)
        self._stack.callback(run, "umount", self._outer)
        run("truncate", "-s", f"{INNER_MB}M", self._image)
        run("mkfs.ext4", "-q", self._image)
        self._mount()
        self._stack.callback(self._unmount)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def _image(self) -> Path:
        return self._outer / f"disk-{self._number}.img"

    def _mount(self) -> None:
        run("mount", "-o", MOUNT, self._image, self.mounted_at)

    def _unmount(self) -> None:
        """The kernel closes the files of the dead a moment after they are gone."""
        for _ in range(100):
            try:
                run("umount", self.mounted_at)
                return
            except subprocess.CalledProcessError as error:
                why = error.stderr
                time.sleep(0.05)
        raise AssertionError(f"the disk is still in use: {why}")

    def copy(self) -> None:
        """The cut: what is on the disk now."""
        run("cp", "--reflink=always", self._image, self._outer / f"disk-{self._number + 1}.img")

    def replace(self) -> None:
        """Mount the copy in place of the disk; nothing may be open there."""
        self._unmount()
        self._image.unlink()
        self._number += 1
        self._mount()

    def sync(self) -> None:
        """Write everything down now, for controls that would otherwise lose their users as well."""
        run("sync", "-f", self.mounted_at)


def run(*command: object) -> None:
    """A program that must succeed."""
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=60)


async def cut(scene: Scene, laboratory: Laboratory) -> list[str]:
    """One cut under load and a start on what is left; returns what `verify` finds."""
    await scene.load.acknowledged(BETWEEN)
    await asyncio.sleep(scene.rng.random() * 0.3)
    at = time.monotonic()
    await asyncio.to_thread(laboratory.copy)
    await asyncio.to_thread(scene.server.kill_group)
    for entry in scene.ledger.entries.values():
        if entry.state in (State.ACKNOWLEDGED, State.REFUSED) and entry.answered_at >= at:
            entry.state = State.UNSURE
    await asyncio.to_thread(laboratory.replace)
    await scene.note_death("power", at)
    await scene.restart()
    return [f"{one.rule}: {one.subject}: {one.words}" for one in await asyncio.to_thread(verify, scene.data_dir)]


async def perform(options: argparse.Namespace) -> dict[str, Any]:
    """All cuts, then the set check."""
    environment = faults(options.folder, lie="" if options.lie == "eatmydata" else options.lie)
    if options.lie == "eatmydata":
        environment["LD_PRELOAD"] = EATMYDATA
    findings: list[str] = []
    with Laboratory(options.folder) as laboratory:
        async with open_scene(
            options.folder / "server", options.seed, environment=environment, moods=Moods(0.1, 0.1, 0, 0)
        ) as scene:
            if options.lie:
                laboratory.sync()
                scene.load.large = scene.load.middle = 0.0 if options.lie == "commit-lightly" else 0.3
            try:
                for _ in range(options.cuts):
                    findings += await cut(scene, laboratory)
                verdict = await scene.settle(10 if options.lie else 60)
            except AssertionError as error:
                if not options.lie:
                    raise
                return {"clean": False, "findings": findings[:5], "words": str(error)[:300]}
    return {
        "clean": verdict.clean and not findings,
        "cuts": scene.kills["power"],
        "acknowledged": verdict.acknowledged,
        "lost": len(verdict.lost),
        "torn": len(verdict.torn),
        "extra": len(verdict.extra),
        "doubled": len(verdict.doubled),
        "made_again": verdict.excused,
        "findings": findings[:5],
        "words": str(verdict),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cuts", type=int, default=3)
    parser.add_argument("--lie", default="", help="eatmydata, or one of tests/crash/faults: the cut must find it out")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(asyncio.run(perform(options))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
