"""Changelog fragments are named and written so that a release can gather them without reading them twice."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.testdata import REPOSITORY

FOLDER = REPOSITORY / "changelog.d"
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.(added|changed|fixed|removed|security)\.md")
LINE_AT_MOST = 120


def complaints(name: str, text: str) -> Iterator[str]:
    """What is wrong with a fragment of this name and text."""
    if not NAME.fullmatch(name):
        yield "is not named SUBJECT.KIND.md as changelog.d/README.md says"
    body = text.strip()
    if not body:
        yield "is empty"
    elif not body.endswith("."):
        yield "does not end with a full sentence"
    if "\n\n" in body or body.startswith(("#", "-", "*")):
        yield "is not one plain paragraph"
    if any(len(line) > LINE_AT_MOST for line in text.splitlines()):
        yield f"has a line longer than {LINE_AT_MOST} characters"


def test_fragments_are_well_formed() -> None:
    fragments = [path for path in FOLDER.iterdir() if path.name != "README.md"]
    wrong = [f"{path.name} {what}" for path in fragments for what in complaints(path.name, path.read_text())]
    assert not wrong


def test_every_kind_is_documented() -> None:
    kinds = re.findall(r"^\| `(\w+)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert NAME.pattern.count("|".join(kinds)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Pop3.added.md", "POP3 has TOP."),
        ("pop3.new.md", "POP3 has TOP."),
        ("pop3.added.txt", "POP3 has TOP."),
        ("pop3.added.md", "\n"),
        ("pop3.added.md", "POP3 has TOP"),
        ("pop3.added.md", "One.\n\nTwo."),
        ("pop3.added.md", "- One."),
        ("pop3.added.md", "x" * 121 + "."),
    ],
)
def test_malformed_fragment_is_seen(name: str, text: str) -> None:
    assert list(complaints(name, text))


def test_plain_fragment_is_fine() -> None:
    assert not list(complaints("pop3-top.added.md", "POP3 has TOP.\n"))
