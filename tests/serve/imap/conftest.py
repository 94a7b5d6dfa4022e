from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.serve.imap.office import Office, open_office


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """One account and an IMAP service over a fresh store."""
    async with open_office(tmp_path) as made:
        yield made
