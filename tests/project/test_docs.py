"""The README promises two commands and links; both must exist, because they are the first thing anyone tries."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.testdata import REPOSITORY

PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "changelog.d/README.md") for path in REPOSITORY.glob(pattern)
)
README = (REPOSITORY / "README.md").read_text()
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
FIRST_SCREEN_LINES = 24


def commands(text: str) -> list[str]:
    """The lines of all shell blocks, without their comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]


def anchors(page: Path) -> set[str]:
    """Names of the headings as a link spells them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_first_screen_shows_the_question_and_the_commands() -> None:
    first_screen = "\n".join(README.splitlines()[:FIRST_SCREEN_LINES])
    for promised in ("make run", "make test", "apt install make python3-venv", "What happened to this message"):
        assert promised in first_screen


def test_commands_of_the_readme_exist() -> None:
    for command in commands(README):
        program, *words = command.split()
        if program == "make":
            done = subprocess.run(["make", "-n", words[0]], cwd=REPOSITORY, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        else:
            assert (REPOSITORY / program).stat().st_mode & 0o100, f"{program} cannot be executed"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        there = (page.parent / target) if target else page
        assert there.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(there), f"{target}#{anchor} does not exist"


def test_decisions_are_numbered_and_listed() -> None:
    decisions = sorted((REPOSITORY / "docs/decisions").iterdir())
    assert [int(path.name[:3]) for path in decisions] == list(range(1, len(decisions) + 1))
    index = (REPOSITORY / "docs/README.md").read_text()
    for path in decisions:
        title = path.read_text().splitlines()[0]
        assert title.startswith(f"# {path.name[:3]}: ")
        assert f"[{title.partition(': ')[2]}](decisions/{path.name})" in index


def test_every_extra_and_marker_is_explained() -> None:
    """`postroad[s3]` in the README and the marker's words in pyproject.toml are where a newcomer looks."""
    import tomllib

    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    for extra in pyproject["project"]["optional-dependencies"].keys() - {"dev"}:
        assert f"postroad[{extra}]" in README
    assert all(": " in marker for marker in pyproject["tool"]["pytest"]["ini_options"]["markers"])
