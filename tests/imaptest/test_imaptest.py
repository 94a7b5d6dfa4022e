"""Every script of imaptest against our IMAP service; docs/conformance.md lists what fails, and it must still fail."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.imaptest import script
from tests.imaptest.runner import LacksCapability, Run
from tests.serve.harness import ANNA, PASSWORD
from tests.serve.imap.office import Office, open_office
from tests.testdata import REPOSITORY, testdata

HEAD = testdata("imap/imaptest/head")
SCRIPTS = sorted(path for path in HEAD.iterdir() if path.is_file() and path.suffix != ".mbox")
PAGE = REPOSITORY / "docs/conformance.md"
ROW = re.compile(r"^\| `([\w-]+)` \| (.+) \|$", re.MULTILINE)


def known_failures() -> dict[str, str]:
    """Script and reason, from the table in the page."""
    section = PAGE.read_text().partition("## Scripts of imaptest that fail\n")[2].partition("\n## ")[0]
    return dict(ROW.findall(section))


KNOWN = known_failures()


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=path.name,
            marks=[pytest.mark.xfail(reason=KNOWN[path.name], strict=True)] if path.name in KNOWN else [],
        )
        for path in SCRIPTS
    ],
)
async def test_script(path: Path, tmp_path: Path) -> None:
    async with open_office(tmp_path) as office:
        try:
            await play(office, path)
        except LacksCapability as missing:
            pytest.skip(f"not announced: {missing}")


async def play(office: Office, path: Path) -> None:
    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        peer = await office.house.connect(office.service.session)
        return peer.reader, peer.writer

    await Run(script.read(path), ANNA.encode(), PASSWORD.encode()).run(connect)


def test_the_page_names_only_scripts_that_exist() -> None:
    assert set(KNOWN) <= {path.name for path in SCRIPTS}
