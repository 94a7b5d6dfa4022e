"""What a user installs is the wheel, not this tree: everything that the code reads at run time must be in it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import postroad
from tests.testdata import REPOSITORY

NOT_CODE = {".sql", ".toml", ".html", ".css", ".js", ".service", ".typed"}
"""Endings of files that lie in the package beside its modules."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that hatchling makes of this tree, built without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return zipfile.ZipFile(made)


@pytest.mark.slow
def test_everything_in_the_package_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    source = REPOSITORY / "src"
    wanted = {
        str(path.relative_to(source))
        for path in source.joinpath("postroad").rglob("*")
        if path.suffix == ".py" or path.suffix in NOT_CODE
    }
    assert "postroad/py.typed" in wanted
    assert wanted <= set(wheel.namelist())


@pytest.mark.slow
def test_nothing_else_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    outside = f"postroad-{postroad.__version__}.dist-info/"
    assert all(name.startswith(("postroad/", outside)) and "__pycache__" not in name for name in wheel.namelist())


@pytest.mark.slow
def test_command_and_license_come_along(wheel: zipfile.ZipFile) -> None:
    info = f"postroad-{postroad.__version__}.dist-info"
    assert b"postroad = postroad.console.cli.main:main" in wheel.read(f"{info}/entry_points.txt")
    assert wheel.read(f"{info}/licenses/LICENSE") == Path(REPOSITORY, "LICENSE").read_bytes()
