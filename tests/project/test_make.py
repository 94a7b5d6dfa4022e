"""`make run` and `make test` on machines that are not quite ready: nothing there, half there, moved, or twice at once.

Each test has a small copy of this tree whose package needs nothing from the network: what is looked at is
`scripts/make-venv.sh`, and pip takes as its only package the copy itself, built by the hatchling that is already here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import needs_program
from tests.testdata import REPOSITORY

pytestmark = pytest.mark.timeout(240)  # each makes one or two virtual environments

ONE_LINE = "apt install make python3-venv"

PYPROJECT = """
[build-system]
requires = []
build-backend = "one_file_backend"
backend-path = ["."]
[project]
name = "postroad"
version = "0.1.0"
"""

# The smallest build backend: an editable wheel with one script, which says how it was called.
BACKEND = """
import base64, hashlib, os, zipfile
def get_requires_for_build_editable(config_settings=None):
    return []
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    with open("builds", "a") as builds:
        builds.write("x")
    if os.path.exists("fail"):
        raise SystemExit("no network")
    name, info = "postroad-0.1.0-py3-none-any.whl", "postroad-0.1.0.dist-info/"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        wheel.writestr("postroad_copy.py", "import sys\\ndef main(): print('started', *sys.argv[1:])\\n")
        wheel.writestr(info + "entry_points.txt", "[console_scripts]\\npostroad = postroad_copy:main\\n")
        extra = "Provides-Extra: dev\\n"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: postroad\\nVersion: 0.1.0\\n" + extra)
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "".join(f"{n},,\\n" for n in wheel.namelist()) + info + "RECORD,,\\n")
    return name
"""


class Clone:
    """A fresh clone in a temporary folder, with the real Makefile and scripts around a package of one line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        shutil.copy(REPOSITORY / "Makefile", folder)
        shutil.copytree(REPOSITORY / "scripts", folder / "scripts")
        (folder / "pyproject.toml").write_text(PYPROJECT)
        (folder / "one_file_backend.py").write_text(BACKEND)

    def make(self, *words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs make to its end, without a terminal."""
        return subprocess.run(
            ["make", *words, f"PYTHON={sys.executable}"] if path is None else ["make", *words],
            cwd=self.folder, env=surroundings(path), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    @property
    def builds(self) -> int:
        """How many times pip was asked to install this clone."""
        builds = self.folder / "builds"
        return len(builds.read_text()) if builds.exists() else 0

    @property
    def packages(self) -> Path:
        """Where pip puts what it installs."""
        (found,) = (self.folder / ".venv/lib").glob("python3*/site-packages")
        return found


def surroundings(path: str | None) -> dict[str, str]:
    """The environment of a newcomer: nothing of the make and the venv that run these tests, and no network for pip."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PIP_", "PYTHON", "CI"))}
    return kept | {"PIP_NO_INDEX": "1", "PATH": path or kept["PATH"]}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clone in which nothing was installed yet."""
    needs_program("make")
    needs_program("flock")
    return Clone(tmp_path / "postroad")


@pytest.mark.parametrize("python", ["#!/bin/sh\nexit 1\n", None], ids=["without venv", "no python3 at all"])
@pytest.mark.parametrize("target", ["run", "test"])
def test_one_line_says_what_to_install(clone: Clone, tmp_path: Path, python: str | None, target: str) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("make", "sh", "dirname", "cksum", "cat"):
        (programs / name).symlink_to(needs_program(name))
    if python:
        (programs / "python3").write_text(python)
        (programs / "python3").chmod(0o755)
    done = clone.make(target, path=str(programs))
    said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    assert [ONE_LINE in line for line in said] == [True]
    assert not (clone.folder / ".venv").exists()


@pytest.mark.slow
@pytest.mark.e2e
def test_installs_once_again_when_pyproject_changes_and_cleans_up(clone: Clone) -> None:
    before = {path.name for path in clone.folder.iterdir()}
    first = clone.make("run")
    assert (first.returncode, first.stdout) == (0, "started dev\n"), first.stderr

    second = clone.make("run", "ARGS=--once --port-offset 7")
    assert (second.stdout, second.stderr) == ("started dev --once --port-offset 7\n", "")
    assert clone.builds == 1

    with (clone.folder / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert clone.make("run").stdout == "started dev\n"
    assert clone.builds == 2

    for folder in ("src", "tests", "bench"):
        (clone.folder / folder / "__pycache__").mkdir(parents=True)
    assert clone.make("clean").returncode == 0
    assert {path.name for path in clone.folder.iterdir()} - before == {"builds", "src", "tests", "bench", "__pycache__"}
    assert not list(clone.folder.glob("*/__pycache__"))


@pytest.mark.slow
@pytest.mark.e2e
def test_half_installed_package_and_half_made_venv_recover(clone: Clone) -> None:
    (clone.folder / ".venv/bin").mkdir(parents=True)
    (clone.folder / ".venv/bin/python").symlink_to("/nowhere/python3")
    assert clone.make("run").stdout == "started dev\n"

    # Ctrl-C while pip wrote: the metadata says "installed", the module is not there, RECORD and our stamp neither.
    (clone.packages / "postroad_copy.py").unlink()
    (clone.packages / "postroad-0.1.0.dist-info/RECORD").unlink()
    (clone.folder / ".venv/.installed-core").unlink()
    assert clone.make("run").stdout == "started dev\n"

    # Ctrl-C while venv unpacked its own pip.
    for record in clone.packages.glob("pip-*.dist-info/RECORD"):
        record.unlink()
    (clone.folder / ".venv/.installed-core").unlink()
    assert clone.make("run").stdout == "started dev\n"


@pytest.mark.slow
@pytest.mark.e2e
def test_failed_installation_is_said_and_the_next_one_works(clone: Clone) -> None:
    (clone.folder / "fail").touch()
    failed = clone.make("run")
    assert failed.returncode != 0
    assert "the installation failed" in failed.stderr
    assert "started" not in failed.stdout
    (clone.folder / "fail").unlink()
    assert clone.make("run").stdout == "started dev\n"


@pytest.mark.slow
@pytest.mark.e2e
def test_moved_clone_works_in_its_new_place(clone: Clone, tmp_path: Path) -> None:
    clone.make("install")
    clone.folder = clone.folder.rename(tmp_path / "moved")
    assert clone.make("run").stdout == "started dev\n"
    assert str(tmp_path / "moved") in (clone.folder / ".venv/bin/postroad").read_text()


@pytest.mark.slow
@pytest.mark.e2e
def test_two_at_once_install_once(clone: Clone) -> None:
    command = ["make", "install", f"PYTHON={sys.executable}"]
    both = [subprocess.Popen(command, cwd=clone.folder, env=surroundings(None)) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert clone.builds == 1
    assert clone.make("run").stdout == "started dev\n"
