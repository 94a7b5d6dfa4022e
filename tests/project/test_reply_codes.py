"""The replies that stand in the source: codes of the registry that agree with each other, and room for a reference."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from postroad.values.reply import MAX_REPLY_LINE
from tests.testdata import REPOSITORY

REGISTERED = frozenset(
    f"{subject}.{detail}"
    for subject, last in ((0, 0), (1, 11), (2, 4), (3, 6), (4, 7), (5, 6), (6, 10), (7, 30))
    for detail in range(last + 1)
)
"""Subjects and details of IANA's registry of enhanced status codes (RFC 5248)."""


class Written(NamedTuple):
    """One reply as it stands in the source; `text` without its variables."""

    place: str
    code: int
    enhanced: str
    text: str


def written() -> Iterator[Written]:
    for path in sorted((REPOSITORY / "src/postroad").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Reply", "Denied"):
                yield from reply_of(path, node)


def reply_of(path: Path, node: ast.Call) -> Iterator[Written]:
    match node.args:
        case [ast.Constant(int(code)), ast.Constant(str(enhanced)), text, *_]:
            said = "".join(
                part.value for part in ast.walk(text) if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )
            yield Written(f"{path.name}:{node.lineno}", code, enhanced, said)


REPLIES = list(written())


def test_the_search_finds_them() -> None:
    assert len(REPLIES) > 80


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: reply.place)
def test_enhanced_code_is_registered_and_of_the_class_of_the_code(reply: Written) -> None:
    """RFC 2034 section 4: the class of the status code agrees with the reply; the registry is that of RFC 5248."""
    if not reply.enhanced:
        assert reply.code in (214, 220, 221, 250, 252, 334, 354), "a refusal has an enhanced code"
        return
    kind, _, detail = reply.enhanced.partition(".")
    assert kind == str(reply.code)[0]
    assert detail in REGISTERED


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: reply.place)
def test_a_reply_fits_its_line_with_a_reference(reply: Written) -> None:
    """RFC 5321 section 4.5.3.1.5."""
    assert len(reply.text) + len("550 5.7.1  Ref 0ADJX0WR2PM02\r\n") < MAX_REPLY_LINE
    assert not {"\r", "\n", "\0"} & set(reply.text)
