"""`postroad config`: check, show, sample."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click

from postroad.console.cli.exits import NOTHING
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import count, json_option, print_json

if TYPE_CHECKING:
    from postroad.config import Config
    from postroad.config.problems import Complaint


@click.group()
def config() -> None:
    """Check, show and begin the configuration file.

    \b
    Examples:
      postroad config sample > postroad.toml
      postroad config check postroad.toml
      postroad config show
    """


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option
@place_options
def check(file: Path | None, as_json: bool, place: Place) -> None:
    """Say what is wrong with the file, line by line, and how to fix it.

    It also asks this machine, as the account the server will run as: can the
    certificate be read, is the data folder private. Run it as root for that.
    A hint does not stop the server. Exit status 1 when something does.

    \b
    Examples:
      postroad config check
      postroad config check /tmp/new.toml
    """
    from postroad.config.machine import absent_milters, machine_complaints

    reading = Place(file or place.file, place.data).examine()
    if reading.config is not None:
        reading = reading.with_complaints([*machine_complaints(reading.config), *absent_milters(reading.config)])
    if reading.config is not None and reading.config.policy.file:
        reading = reading.with_complaints(_policy_complaints(reading.config))
    wrong = sum(problem.fatal for problem in reading.problems)
    if as_json:
        rows = [
            {"file": p.file, "line": p.line, "key": p.key, "what": p.what, "fix": p.fix, "fatal": p.fatal}
            for p in reading.problems
        ]
        print_json("config-check/1", file=reading.file, ok=not wrong, problems=rows)
    else:
        for problem in reading.problems:
            click.secho(str(problem), fg="red" if problem.fatal else None)
        hints = len(reading.problems) - wrong
        told = f", {count(hints, 'hint')}" if hints else ""
        click.echo(f"{reading.file}: {count(wrong, 'problem') if wrong else 'ok'}{told}")
    if wrong:
        raise click.exceptions.Exit(NOTHING)


def _policy_complaints(config: Config) -> list[Complaint]:
    """What a server would say when it loads the policy file."""
    from postroad.config.problems import Complaint
    from postroad.console.cli.policy import load

    file = Path(config.policy.file)
    loaded = load(file, config)
    if not loaded.error:
        return []
    place = f"{file} line {loaded.line}" if loaded.line else str(file)
    return [Complaint(("policy", "file"), f"{place}: {loaded.error}", f"Look at it with: postroad policy check {file}")]


@config.command()
@json_option
@click.option("--changed", is_flag=True, help="Only what differs from the defaults.")
@place_options
def show(as_json: bool, changed: bool, place: Place) -> None:
    """Print the configuration in force, and which keys the file changed.

    \b
    Examples:
      postroad config show
      postroad config show --changed
    """
    import msgspec

    from postroad.config.shape import keys

    effective = msgspec.to_builtins(place.config())
    rows = []
    for key, (_, default) in keys().items():
        value = effective
        for part in key.split("."):
            value = value[part]
        plain = list(default) if isinstance(default, tuple) else default
        value = list(value) if isinstance(value, tuple) else value
        if value != plain or not changed:
            rows.append({"key": key, "value": value, "default": plain, "changed": value != plain})
    if as_json:
        print_json("config/1", file=str(place.config_file or ""), rows=rows)
        return
    click.echo(f"# {place.config_file or 'no file, all defaults'}")
    section = ""
    for row in rows:
        before, _, name = str(row["key"]).rpartition(".")
        if before != section:
            section = before
            click.echo(f"\n[{section}]")
        line = f"{name} = {_toml(row['value'])}"
        if row["changed"]:
            click.secho(f"{line}    # changed, default {_toml(row['default'])}", bold=True)
        else:
            click.echo(line)


def _toml(value: object) -> str:
    """A value of ours as TOML; JSON writes all of them alike but tables."""
    import msgspec

    if isinstance(value, dict):
        inner = ", ".join(f"{_toml(name)} = {_toml(one)}" for name, one in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return msgspec.json.encode(value).decode()


@config.command()
def sample() -> None:
    """Print a configuration file with every key and its default as a remark.

    \b
    Example:
      postroad config sample > /etc/postroad/postroad.toml
    """
    click.echo(resources.files("postroad.console").joinpath("postroad.toml").read_text(), nl=False)
