"""`--keep` writes only where nothing of somebody else can be lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroad.dev.layout import Layout, Ports
from postroad.dev.playground import CannotStart, make_certificates, require_own
from postroad.dev.words import duration


def test_a_new_an_empty_and_an_own_folder_are_taken(tmp_path: Path) -> None:
    require_own(tmp_path / "new")
    require_own(tmp_path)
    layout = Layout(tmp_path, Ports())
    make_certificates(layout)
    layout.config_file.write_text(layout.config_text())
    require_own(tmp_path)


def test_a_folder_with_a_configuration_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postroad.toml").write_text('hostname = "mail.example.org"\n')
    with pytest.raises(CannotStart, match="holds other things"):
        require_own(tmp_path)
    assert (tmp_path / "postroad.toml").read_text() == 'hostname = "mail.example.org"\n'


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(CannotStart, match="holds other things"):
        require_own(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        require_own(tmp_path / "file")


@pytest.mark.parametrize(
    "seconds, words",
    [(0.0004, "under 1 ms"), (0.0012, "1 ms"), (0.9991, "999 ms"), (0.9996, "1.0 s"), (2.04, "2.0 s")],
)
def test_durations_are_short(seconds: float, words: str) -> None:
    assert duration(seconds) == words
