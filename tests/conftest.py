"""What every test run shares: the `needs_program` marker, the PostgreSQL server, and the count of skips at the end."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests import programs, testdata

pytest_plugins = ["tests.postgres"]


MEMORY: Final = Path("/dev/shm")
MEMORY_NEEDED: Final = 6 << 30
"""Octets that must be free there: the temporary folders of three runs, which pytest keeps, have half of it."""


def pytest_configure(config: pytest.Config) -> None:
    """Lets temporary folders stand in memory where there is room: half of the time of a run is waiting for fsync.

    What needs a disk takes `disk_path`; the tests of crashes have nothing else.
    """
    if not config.option.basetemp and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_NEEDED:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture
def disk_path() -> Iterator[Path]:
    """A folder on a disk, for what a file system in memory does not know or shows too kindly."""
    with tempfile.TemporaryDirectory(prefix="postroad-test-", dir="/var/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Carries out `@pytest.mark.needs_program("swaks", ...)` before any fixture is made."""
    for mark in item.iter_markers("needs_program"):
        for name in mark.args:
            programs.needs_program(name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many tests did not run because this machine lacks something, and what to do about it."""
    reasons = [skip_reason(report) for report in terminalreporter.stats.get("skipped", [])]
    missing = count_absent(reasons, programs.ABSENT)
    if missing:
        each = ", ".join(f"{name} ({count})" for name, count in sorted(missing.items()))
        terminalreporter.write_line(f"{missing.total()} tests skipped because a system program is absent: {each}")
        terminalreporter.write_line("scripts/install-test-programs.sh installs them (Debian 12, as root or by sudo)")
    else:
        terminalreporter.write_line("0 tests skipped because a system program is absent")
    unread = count_absent(reasons, testdata.ABSENT)
    if unread:
        terminalreporter.write_line(f"{unread.total()} tests or files of tests skipped: no ../shared/testdata here")


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The word given to pytest.skip; a worker of xdist sends it as (path, line, text)."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def count_absent(reasons: Iterable[str], beginning: str) -> Counter[str]:
    """How often each name follows `beginning` among the reasons."""
    pattern = re.compile(re.escape(beginning) + r"(\S+)")
    return Counter(found[1] for reason in reasons if (found := pattern.match(reason)))
