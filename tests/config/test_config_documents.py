"""Every key is explained where people look: the page, and the sample file with its default."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from postroad.config import Config
from postroad.config.load import examine_text
from postroad.config.rules import SERVICES
from postroad.config.shape import keys
from tests.testdata import REPOSITORY

PAGE = (REPOSITORY / "docs/configuration.md").read_text()
SAMPLE = REPOSITORY / "src/postroad/console/postroad.toml"
ROW = re.compile(r"^\| `([\w.]+)` \| `(.*?)` \|", re.MULTILINE)


def uncommented() -> str:
    """The sample with every key in force; remarks are the lines that are no key."""
    return re.sub(r"^# (?=\w+ = )", "", SAMPLE.read_text(), flags=re.MULTILINE)


def test_page_has_every_key_and_nothing_else() -> None:
    assert sorted(name for name, _ in ROW.findall(PAGE)) == sorted(keys())


@pytest.mark.parametrize("name, shown", ROW.findall(PAGE))
def test_page_tells_the_real_default(name: str, shown: str) -> None:
    default = keys()[name][1]
    assert tomllib.loads(f"x = {shown}")["x"] == (list(default) if isinstance(default, tuple) else default)


def test_sample_as_delivered_changes_nothing() -> None:
    reading = examine_text(SAMPLE.read_bytes(), SAMPLE.name)
    assert reading.problems == ()
    assert reading.config == Config()


def test_sample_has_every_key_with_its_default() -> None:
    reading = examine_text(uncommented().encode(), SAMPLE.name)
    assert reading.problems == ()
    assert reading.config == Config()
    # routes is a table of its own with an example instead of a default
    assert reading.given | {"relay.routes"} == set(keys())


def test_example_route_of_the_sample_is_valid() -> None:
    text = re.sub(r'^# (?="example)', "", SAMPLE.read_text(), flags=re.MULTILINE)
    reading = examine_text(text.encode(), SAMPLE.name)
    assert reading.config is not None
    assert reading.config.relay.routes == {"example.org": "192.0.2.7:25"}


def test_packaging_offers_the_same_sample() -> None:
    assert (REPOSITORY / "packaging/postroad.toml").read_bytes() == SAMPLE.read_bytes()


def test_unit_starts_what_the_command_line_knows() -> None:
    unit = (REPOSITORY / "packaging/postroad.service").read_text()
    assert "--config /etc/postroad/postroad.toml serve" in unit
    assert "Type=notify" in unit
    assert Path("/var/lib") / "postroad" == Path(Config().data_dir)
    assert "StateDirectory=postroad" in unit


def test_unit_allows_as_many_files_as_connections_need() -> None:
    from postroad.config.machine import SPARE_FILES

    unit = (REPOSITORY / "packaging/postroad.service").read_text()
    allowed = int(re.search(r"LimitNOFILE=(\d+)", unit)[1])  # type: ignore[index]
    assert allowed >= Config().limits.connections + SPARE_FILES


def test_no_key_is_decoration() -> None:
    """Every key is read somewhere outside of reading, checking and showing the configuration."""
    package = REPOSITORY / "src/postroad"
    sources = [
        path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in ("config", "console")
    ]
    text = "\n".join(path.read_text() for path in sources)
    unread = [key for key in keys() if not re.search(rf"\.{key.rpartition('.')[2]}\b", text)]
    # The services are read by their names, in a loop.
    assert [key for key in unread if key.rpartition(".")[2] not in SERVICES] == []
