"""Where the public test data lies: `../shared/testdata` beside the checkout, never copied into it.

A checkout without that folder is complete and its tests are green: what needs the data skips with the words below,
and the last lines of the run count them. That holds with CI=true too, because no package installs this data.
"""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY.parent / "shared" / "testdata"

ABSENT = "public test data is absent: ../shared/testdata/"
"""How every such skip begins; conftest.py counts by it."""


def testdata(name: str) -> Path:
    """The file or folder `name` of the public test data, such as `smtp/eod-variants.json`; skips when it is absent.

    Works inside a test or fixture, and at the top of a module that parametrizes over the data (the module skips then).
    """
    path = FOLDER / name
    if not path.exists():
        pytest.skip(ABSENT + name, allow_module_level=True)
    return path
