"""docs/limits.md is the one table of all limits: nothing missing, nothing wrong, nothing that is gone."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from postroad.config import Config, Limits, Sending
from postroad.wire.smtp.limits import MachineLimits
from tests.testdata import REPOSITORY

SOURCE = REPOSITORY / "src/postroad"
ROWS = re.findall(
    r"^\| `([\w.]+)` \| ([^|]+) \| ([^|]+) \|$", (REPOSITORY / "docs/limits.md").read_text(), re.MULTILINE
)
NAMES = [name for name, _, _ in ROWS]

SHELVES = ("wire", "net", "flow", "serve")
LIMIT = re.compile(r"(?:MAX_[A-Z0-9_]+|[A-Z][A-Z0-9_]*_MAX(?:_S)?)")
NO_LIMITS = {
    "wire.imap.syntax.MAX_NUMBER": "the largest number of the protocol",
    "wire.imap.syntax.MAX_MODSEQ": "the largest number of the protocol",
}


def value_of(name: str) -> Any:
    """The value behind a name of the page: a key of the configuration, or a constant or default in a module."""
    if name.startswith(("limits.", "sending.")):
        section, _, key = name.partition(".")
        return getattr(getattr(Config(), section), key)
    module, _, attribute = name.rpartition(".")
    if module.rpartition(".")[2][0].isupper():
        module, _, owner = module.rpartition(".")
        return getattr(getattr(importlib.import_module(f"postroad.{module}"), owner)(), attribute)
    return getattr(importlib.import_module(f"postroad.{module}"), attribute)


def constants(source: str) -> Iterator[str]:
    """Names at the top of a module that look like a limit and are public."""
    for node in ast.parse(source).body:
        target: ast.expr | None = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign):
            target = node.targets[0]
        if isinstance(target, ast.Name) and LIMIT.fullmatch(target.id):
            yield target.id


@pytest.mark.parametrize("name, shown", [(name, shown) for name, shown, _ in ROWS])
def test_value_on_the_page_is_the_real_one(name: str, shown: str) -> None:
    number = re.match(r"[\d,.]+", shown)
    assert number is not None
    assert float(number[0].replace(",", "")) == float(value_of(name))


def test_page_has_every_limit_of_the_configuration_and_of_the_smtp_machine() -> None:
    wanted = {f"limits.{name}" for name in Limits.__struct_fields__}
    wanted |= {f"sending.{name}" for name in Sending.__struct_fields__ if name != "hide_client"}  # no limit
    wanted |= {f"wire.smtp.limits.MachineLimits.{field.name}" for field in dataclasses.fields(MachineLimits)}
    assert wanted <= set(NAMES)


@pytest.mark.parametrize("shelf", SHELVES)
def test_page_has_every_constant_that_limits_a_peer(shelf: str) -> None:
    found = set()
    for path in sorted((SOURCE / shelf).rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        found |= {f"{module}.{name}" for name in constants(path.read_text())}
    missing = found - set(NAMES) - set(NO_LIMITS)
    assert not missing, f"add a row with value and reason to docs/limits.md for {sorted(missing)}"


def test_names_stand_once_and_have_a_reason() -> None:
    assert len(NAMES) == len(set(NAMES))
    assert all(reason.strip().endswith(".") for _, _, reason in ROWS)


def test_constants_are_found_in_every_form() -> None:
    source = "MAX_A: Final = 1\nB_MAX = 2\n_C_MAX = 3\nD_MAX_S: Final[float] = 4\nTTL = 5\n"
    assert list(constants(source)) == ["MAX_A", "B_MAX", "D_MAX_S"]
