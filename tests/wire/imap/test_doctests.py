"""The examples in the docstrings of the IMAP modules are true."""

from __future__ import annotations

import doctest
import importlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import postroad.wire.imap

MODULES = sorted(path.stem for path in Path(postroad.wire.imap.__path__[0]).glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_a_module_are_true(name: str) -> None:
    module = importlib.import_module(f"postroad.wire.imap.{name}")
    # In a thread of its own, since doctest meddles with the trace function by which coverage is measured.
    with ThreadPoolExecutor(1) as aside:
        outcome = aside.submit(doctest.testmod, module, optionflags=doctest.NORMALIZE_WHITESPACE).result()
    assert outcome.failed == 0
