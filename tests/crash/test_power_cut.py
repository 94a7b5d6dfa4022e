"""What was acknowledged survives a power cut; servers that only seem to write it down are found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.mounts import LOOP_PROBE, needs_mounts, run_scenario
from tests.crash.scene import seed_of

pytestmark = [
    pytest.mark.crash,
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.needs_program("mkfs.xfs", "mkfs.ext4", "mount"),
]

SCENARIO = "tests.crash.power_cut"


def must_survive(where: Path, seed: int, cuts: int, patience: float) -> None:
    """So many cuts in a row without a loss."""
    found = run_scenario(SCENARIO, where / "lab", "--seed", seed, "--cuts", cuts, patience=patience)
    print(found)
    assert found["clean"], f"seed {seed}: {found}"
    assert found["cuts"] == cuts
    assert found["acknowledged"] >= 200 * cuts


@pytest.mark.timeout(120)
def test_three_power_cuts_lose_nothing(tmp_path: Path) -> None:
    needs_mounts(tmp_path / "probe", LOOP_PROBE)
    must_survive(tmp_path, seed_of(31), 3, 110)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "lie",
    [
        pytest.param("eatmydata", marks=pytest.mark.needs_program("eatmydata")),
        "commit-lightly",
        pytest.param("forget-content", marks=pytest.mark.nightly),
    ],
)
def test_a_server_that_does_not_wait_for_the_disk_is_reported_as_losing(tmp_path: Path, lie: str) -> None:
    needs_mounts(tmp_path / "probe", LOOP_PROBE)
    found = run_scenario(SCENARIO, tmp_path / "lab", "--seed", seed_of(32), "--cuts", 1, "--lie", lie)
    assert not found["clean"], str(found)
    assert found.get("lost", 0) > 10 or any(words.startswith("body:") for words in found["findings"]), str(found)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(4))
def test_a_hundred_power_cuts_lose_nothing(tmp_path: Path, part: int) -> None:
    needs_mounts(tmp_path / "probe", LOOP_PROBE)
    must_survive(tmp_path, seed_of(3000 + part), 25, 1700)
