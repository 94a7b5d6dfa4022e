"""A missing program must be said, counted, and never hidden on the machine that should have everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import programs
from tests.conftest import count_absent
from tests.programs import ABSENT, find, needs_program

NOBODY_HAS_THIS = "postroad-program-that-nobody-has"


def test_present_program_is_found_with_its_path() -> None:
    assert find("sh") == needs_program("sh")


def test_unpacked_program_is_found_in_its_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "UNPACKED", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "exim4").touch(0o755)
    assert find("exim4") is None
    place = tmp_path / "exim/usr/sbin/exim4"
    place.parent.mkdir(parents=True)
    place.touch(0o755)
    assert find("exim4") == place


def test_absent_program_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=ABSENT + NOBODY_HAS_THIS):
        needs_program(NOBODY_HAS_THIS)


def test_absent_program_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="install-test-programs"):
        needs_program(NOBODY_HAS_THIS)


def test_skips_are_counted_by_program() -> None:
    reasons = [ABSENT + "swaks", ABSENT + "swaks", ABSENT + "curl", "another reason"]
    assert count_absent(reasons, ABSENT) == {"swaks": 2, "curl": 1}
