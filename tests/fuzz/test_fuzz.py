"""Every fuzz target holds for a few thousand seeded inputs, and a target that does not hold is found out."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from tests.fuzz import runner
from tests.fuzz.runner import Target

INPUTS = 3_000


@pytest.mark.parametrize("name", runner.names())
def test_invariant_holds_for_seeded_inputs(name: str) -> None:
    target = runner.target(name)
    for octets in islice(runner.inputs(target, seed=1), INPUTS):
        target.check(octets)


@pytest.mark.parametrize("name", runner.names())
def test_first_line_states_the_one_invariant(name: str) -> None:
    target = runner.target(name)
    assert target.invariant.startswith("Invariant: ")
    assert target.invariant.endswith(".")
    assert target.seeds
    assert target.words


def test_inputs_are_the_same_for_the_same_seed_and_bounded() -> None:
    target = runner.target("sasl")
    first = list(islice(runner.inputs(target, seed=7), 500))
    assert first == list(islice(runner.inputs(target, seed=7), 500))
    assert first != list(islice(runner.inputs(target, seed=8), 500))
    assert len(set(first)) > 400
    assert max(map(len, first)) <= runner.LONGEST


def test_a_broken_invariant_is_kept_and_fails_the_run(tmp_path: Path) -> None:
    def check(octets: bytes) -> None:
        assert b"\xff" not in octets

    broken = Target("broken", check, (b"abc",), (b"\xff",), "")
    with pytest.raises(AssertionError):
        runner.run_by_chance(broken, 5, seed=1, found=tmp_path)
    (kept,) = (tmp_path / "broken").iterdir()
    assert b"\xff" in kept.read_bytes()


def test_a_run_ends_in_time_and_counts(tmp_path: Path) -> None:
    whole = Target("whole", lambda octets: None, (b"abc",), (b"x",), "")
    assert runner.run_by_chance(whole, 0.01, seed=1, found=tmp_path) > 0
    assert not list(tmp_path.iterdir())


def test_a_failed_process_fails_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = {"framer": ("framer", 0, "tried: 12"), "sasl": ("sasl", 77, "AssertionError")}
    monkeypatch.setattr(runner, "run_apart", lambda name, seconds, seed: outcomes[name])
    assert runner.main(["--seconds", "1", "framer"]) == 0
    assert runner.main(["--seconds", "1", "framer", "sasl"]) == 1
    assert "fuzz framer: holds, 12 inputs" in capsys.readouterr().out


def test_one_input_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "crash-1"
    path.write_bytes(b"AHVzZXIAc2VjcmV0")
    assert runner.main(["--replay", str(path), "sasl"]) == 0


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(SystemExit):
        runner.main(["nothing"])
