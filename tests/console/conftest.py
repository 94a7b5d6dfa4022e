"""The command line as tests use it: one data folder, no configuration of this machine, no terminal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from postroad.console.cli import place
from postroad.console.cli.main import postroad


class CommandLine:
    """Runs `postroad` words on a data folder of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.runner = CliRunner()

    def __call__(self, *words: str, stdin: str | bytes = "", status: int = 0) -> Result:
        result = self.runner.invoke(postroad, ["--data", str(self.data), *words], input=stdin, prog_name="postroad")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.output
        return result

    def json(self, *words: str, status: int = 0) -> Any:
        return json.loads(self(*words, "--json", status=status).stdout)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setattr(place, "DEFAULT_FILE", tmp_path / "no-such-file.toml")
    monkeypatch.delenv("POSTROAD_CONFIG", raising=False)
    return CommandLine(tmp_path / "data")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that serves dev.test with the account anna@dev.test; tests work on copies of it."""
    run = CommandLine(tmp_path_factory.mktemp("made") / "data")
    run("domain", "add", "dev.test")
    run("user", "add", "anna@dev.test", "--password-stdin", stdin="secret words\n")
    return run.data


@pytest.fixture
def dev_test(run: CommandLine, made_once: Path) -> CommandLine:
    """The same folder for one test."""
    shutil.copytree(made_once, run.data)
    return run


@pytest.fixture
def queued(dev_test: CommandLine) -> Callable[[str], str]:
    """Puts a message to an address into the queue; returns its queue id."""

    def put(to: str) -> str:
        words = ("send", "--direct", "--from", "anna@dev.test", "--to", to, "--subject", "Hi", "--body", "Ho")
        return str(dev_test.json(*words)["id"])

    return put
