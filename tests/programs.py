"""System programs that only tests use: found, or skipped with a word that the end of the run counts.

`scripts/install-test-programs.sh` installs all of them. With CI=true an absent one fails the test instead, so that a
machine which should have everything cannot turn green by skipping.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

ABSENT = "system program is absent: "
"""How every such skip begins; conftest.py counts by it."""

# Servers live in sbin, which is missing from the PATH of an ordinary Debian user.
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


UNPACKED = Path("/opt/postroad-tests")
"""Where the packages lie that cannot be installed beside Postfix, each in a folder of its own; only root may enter."""

TREES = {"exim4": "exim", "smtpd": "opensmtpd"}
"""By program: the folder. `tests.e2e.unpacked` runs them."""


def find(name: str) -> Path | None:
    """Path of the program, or None. PostgreSQL's own are looked for in Debian's folder, the newest version first."""
    if name in TREES:
        return Path(program) if os.access(program := UNPACKED / TREES[name] / "usr/sbin" / name, os.X_OK) else None
    if found := shutil.which(name, path=SEARCH):
        return Path(found)
    versions = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    return max(versions, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path.parent))], default=None)


def needs_program(name: str) -> Path:
    """Path of the program; when it is absent the running test skips, or fails if CI=true."""
    if found := find(name):
        return found
    if in_ci():
        pytest.fail(f"{ABSENT}{name} (CI=true: run scripts/install-test-programs.sh first)", pytrace=False)
    pytest.skip(ABSENT + name)


def in_ci() -> bool:
    """True when the environment says that this machine must have everything the tests need."""
    return os.environ.get("CI", "").lower() in {"true", "1"}
