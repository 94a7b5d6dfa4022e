"""Bad configuration files and what people read about them: `tests/golden/config/NAME.toml` and `NAME.txt`.

To add a case, write both files; the text is what `postroad config check NAME.toml` prints of the file itself.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from postroad.config.load import examine_text

CASES = sorted((Path(__file__).parent.parent / "golden" / "config").glob("*.toml"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_every_problem_is_named_with_line_key_and_fix(case: Path) -> None:
    reading = examine_text(case.read_bytes(), case.name)
    said = "".join(f"{problem}\n" for problem in reading.problems)
    assert said == case.with_suffix(".txt").read_text()
    fatal = any(problem.fatal for problem in reading.problems)
    assert (reading.config is None) is fatal


def test_there_are_cases() -> None:
    assert len(CASES) >= 18
