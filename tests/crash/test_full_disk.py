"""A full disk: refused early, readable all the time, well again without a restart when space comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.crash.mounts import TMPFS_PROBE, needs_mounts, run_scenario
from tests.crash.scene import seed_of

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.e2e, pytest.mark.needs_program("mount")]


@pytest.mark.timeout(120)
def test_a_full_disk_loses_nothing_and_needs_no_restart(tmp_path: Path) -> None:
    needs_mounts(tmp_path / "probe", TMPFS_PROBE)
    seen = run_scenario("tests.crash.full_disk", tmp_path / "lab", "--seed", seed_of(41), patience=110)
    print(seen)
    assert seen["clean"], str(seen)
    refused_early(seen)
    reads_go_on(seen)
    assert seen["never_restarted"]
    assert seen["flows_again"]


def refused_early(seen: dict[str, Any]) -> None:
    """452 at MAIL beneath the reserve, and after the content when the disk itself says so; 250 only where it fits."""
    assert seen["taken_beneath_the_reserve"] == 0
    assert any(reply.startswith("452 4.3.1") for reply in seen["early"]), str(seen["early"])
    assert seen["when_full"].keys() == {"250", "452"}
    assert seen["when_full"]["452"] >= 6
    assert seen["large_without_inodes"] == {"452": 3}
    assert seen["small_without_inodes"] == {"250": 3}
    assert seen["large_with_inodes"] == {"250": 3}


def reads_go_on(seen: dict[str, Any]) -> None:
    """Mailboxes can be read whatever the disk says; only a new POP3 login needs an octet for its lock."""
    assert seen["pop3_reads_beneath_the_reserve"]
    assert seen["imap_reads_when_full"]
    assert seen["pop3_reads_when_full"]
    assert seen["pop3_reads_with_space"], "the lock that could not be given back on the full disk is still there"
    assert seen["imap_reads_without_inodes"]
