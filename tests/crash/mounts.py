"""Whether this machine lets a test mount things, and running a scenario where its mounts disturb nobody."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.programs import needs_program

REPOSITORY = Path(__file__).parents[2]

LOOP_PROBE = """
set -e
truncate -s 8M "$1/probe.img"
mkfs.ext4 -q "$1/probe.img"
mkdir "$1/probe"
mount -o loop "$1/probe.img" "$1/probe"
umount "$1/probe"
"""
TMPFS_PROBE = 'mkdir "$1/probe" && mount -t tmpfs probe "$1/probe" && umount "$1/probe"'

PRIVATE = ["unshare", "--mount", "--propagation", "private"]


def needs_mounts(where: Path, probe: str) -> None:
    """Skips, with the reason, where mounting needs what this machine does not give; CI=true changes nothing here."""
    needs_program("unshare")
    if os.geteuid() != 0:
        pytest.skip("mounting a disk for the test needs root")
    why = _refusal(where, probe)
    if why:
        pytest.skip(f"this machine does not let root mount: {why}")


@functools.cache
def _refusal(where: Path, probe: str) -> str:
    where.mkdir(exist_ok=True)
    done = subprocess.run(
        [*PRIVATE, "sh", "-c", probe, "sh", str(where)], capture_output=True, text=True, timeout=60, check=False
    )
    return "" if done.returncode == 0 else done.stderr.strip()[-200:] or f"status {done.returncode}"


def run_scenario(module: str, *words: object, patience: float = 120.0) -> dict[str, Any]:
    """The JSON a scenario prints, run in a mount namespace that ends with it."""
    command = [*PRIVATE, sys.executable, "-m", module, *map(str, words)]
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patience, cwd=REPOSITORY, env=environment, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-4000:]}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
