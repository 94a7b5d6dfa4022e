"""Crashes are played on a disk: a file system in memory has no fsync that could be forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(disk_path: Path) -> Path:
    """The test's folder, on a disk."""
    return disk_path
