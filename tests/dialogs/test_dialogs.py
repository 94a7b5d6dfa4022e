"""Every dialog holds in one piece, octet by octet, and cut at every octet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dialogs.runner import dialogs, every_cut, parse, replay, single_octets, whole

ALL = [pytest.param(path, id=path.stem) for path in dialogs()]
TO_CUT = [pytest.param(path, id=path.stem) for path in dialogs() if parse(path).cut]


@pytest.mark.parametrize("path", ALL)
def test_dialog_in_one_piece(path: Path) -> None:
    replay(parse(path), whole)


@pytest.mark.parametrize("path", TO_CUT)
def test_dialog_cut_at_every_octet(path: Path) -> None:
    dialog = parse(path)
    replay(dialog, single_octets)
    for cutter in every_cut(dialog):
        replay(dialog, cutter)


def test_a_dialog_that_is_not_true_fails(tmp_path: Path) -> None:
    path = tmp_path / "wrong.txt"
    path.write_text("S: 220\nC: EHLO client.test\nS: 500\n")
    with pytest.raises(AssertionError, match="line 3"):
        replay(parse(path))
