"""What all commands have in common: help with an example that fits a terminal, guesses, quick starts, clear ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from postroad.console.cli.main import COMMANDS, postroad
from tests.console.conftest import CommandLine
from tests.testdata import REPOSITORY

HEAVY = ("apsw", "cryptography", "rich", "asyncio", "argon2", "dns", "prometheus_client", "uvloop")


def every_command() -> Iterator[tuple[str, ...]]:
    context = click.Context(postroad)
    for name in COMMANDS:
        if name == "dev":
            continue  # its help is its own
        yield (name,)
        command = postroad.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((name, inner) for inner in command.list_commands(context))


def help_of(words: tuple[str, ...]) -> str:
    """The help as a terminal shows it (click's own test runner forces another width)."""
    command: click.Command = postroad
    context = click.Context(command, info_name="postroad", **postroad.context_settings)
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(context, word)
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=word)
    return command.get_help(context)


@pytest.mark.parametrize("words", list(every_command()), ids=" ".join)
def test_help_has_an_example_and_fits_a_terminal(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(words)
    assert "\n  Example" in text
    assert f"postroad {words[0]}" in text.partition("Example")[2]
    assert max(map(len, text.split("\n"))) < 80


def test_overview_names_every_command_and_fits(run: CommandLine) -> None:
    text = run("--help").output
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert max(map(len, text.split("\n"))) < 80


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom postroad.console.cli.main import postroad\n"
        "postroad(['--help'], standalone_mode=False)\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_misspelt_command_gets_a_guess(run: CommandLine) -> None:
    assert 'Did you mean "queue"?' in run("qeue", status=2).output


def test_beginning_of_a_command_is_enough(run: CommandLine) -> None:
    assert run("vers").output.startswith("postroad ")


def test_wrong_usage_is_status_2(run: CommandLine) -> None:
    run("user", "add", status=2)
    run("queue", "retry", status=2)


def test_folder_without_a_store_is_named(run: CommandLine) -> None:
    result = run("user", "list", status=69)
    assert f"There is no mail store in {run.data}." in result.stderr
    assert "postroad domain add" in result.stderr


def test_unusable_configuration_is_status_78(run: CommandLine) -> None:
    file = run.data.parent / "bad.toml"
    file.write_text("[limits]\nhops = 'many'\n")
    result = run("--config", str(file), "domain", "list", status=78)
    assert f"{file} line 2: limits.hops" in result.stderr


def test_config_may_stand_behind_the_command_and_in_the_environment(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run.data.parent / "other.toml"
    file.write_text("workers = 7\n")
    assert "workers = 7" in run("config", "show", "--config", str(file)).output
    monkeypatch.setenv("POSTROAD_CONFIG", str(file))
    assert "workers = 7" in run("config", "show").output


def test_version(run: CommandLine) -> None:
    assert run.json("version")["schema"] == "version/1"


def test_page_names_every_command() -> None:
    page = (REPOSITORY / "docs/cli.md").read_text()
    for words in every_command():
        assert f"postroad {' '.join(words)}" in page, words
