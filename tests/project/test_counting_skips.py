"""What a run says at its end, seen from outside: a small run of pytest with this project's conftest and two workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.testdata import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TESTS = """
import pytest
from tests.programs import needs_program
from tests.testdata import testdata

@pytest.mark.needs_program("sh", "postroad-absent-one")
def test_marked():
    raise AssertionError("must not run")

@pytest.fixture
def program():
    return needs_program("postroad-absent-two")

@pytest.mark.parametrize("n", range(2))
def test_by_fixture(program, n):
    raise AssertionError("must not run")

def test_data():
    testdata("no/such/file")

def test_that_runs():
    assert needs_program("sh")
"""


def run(folder: Path, ci: str) -> subprocess.CompletedProcess[str]:
    """Runs TESTS in that folder, with the environment variable CI as given."""
    (folder / "conftest.py").write_text("from tests.conftest import *\n")
    (folder / "test_small.py").write_text(TESTS)
    (folder / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\nmarkers = ['needs_program(name): ', 'slow: ']\n"
        f"pythonpath = ['{REPOSITORY}']\naddopts = ['--import-mode=importlib']\npython_functions = ['test_*']\n"
    )
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", str(folder)]
    # A place of its own for temporary folders: else it would first clear away those of other runs.
    command.append(f"--basetemp={folder / 'inner'}")
    return subprocess.run(command, cwd=folder, env=outside | {"CI": ci}, capture_output=True, text=True, check=False)


def test_skips_are_counted_over_all_workers(tmp_path: Path) -> None:
    done = run(tmp_path, ci="")
    assert done.returncode == 0, done.stdout
    absent = "3 tests skipped because a system program is absent: postroad-absent-one (1), postroad-absent-two (2)"
    assert absent in done.stdout
    assert "1 tests or files of tests skipped: no ../shared/testdata here" in done.stdout
    assert "1 passed, 4 skipped" in done.stdout


def test_with_ci_an_absent_program_fails_and_absent_data_skips(tmp_path: Path) -> None:
    done = run(tmp_path, ci="true")
    assert done.returncode == 1, done.stdout
    assert "0 tests skipped because a system program is absent" in done.stdout
    assert "1 passed, 1 skipped, 3 errors" in done.stdout
