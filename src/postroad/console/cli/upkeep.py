"""`postroad verify`, `postroad backup`, `postroad version`."""

from __future__ import annotations

import platform
from pathlib import Path

import click

from postroad import __version__
from postroad.console.cli.exits import CANNOT_CREATE, NOTHING, Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import count, json_option, print_json, size_text


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Tell which version this is, and what it stands on.

    \b
    Example:
      postroad version
    """
    from importlib.metadata import version as installed

    # The wheel's version is that of the SQLite inside it, followed by its own count.
    python, sqlite = platform.python_version(), ".".join(installed("apsw").split(".")[:3])
    if as_json:
        print_json("version/1", postroad=__version__, python=python, sqlite=sqlite, system=platform.platform())
        return
    click.echo(f"postroad {__version__}   Python {python}   SQLite {sqlite}   {platform.platform()}")


@click.command()
@json_option
@place_options
def verify(as_json: bool, place: Place) -> None:
    """Prove that the store is whole; changes nothing, and may run beside a server.

    Exit status 1 when something is wrong.

    \b
    Example:
      postroad verify
    """
    from postroad.console.cli.stores import reading
    from postroad.store.verify import verify as examine

    with reading(place.data_dir()) as data_dir:
        findings = examine(data_dir)
    if as_json:
        rows = [{"rule": one.rule, "subject": one.subject, "words": one.words} for one in findings]
        print_json("verify/1", data=str(data_dir), ok=not findings, findings=rows)
    else:
        for one in findings:
            click.secho(f"{one.rule}: {one.subject}: {one.words}", fg="red")
        click.echo(f"{data_dir}: {count(len(findings), 'finding') if findings else 'whole, every rule holds'}")
    if findings:
        raise click.exceptions.Exit(NOTHING)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@json_option
@place_options
def backup(directory: Path, as_json: bool, place: Place) -> None:
    """Copy the store into a new folder while the server goes on.

    The copy is a data folder: postroad verify --data DIR proves it, and a
    server can run on it. The configuration file is not part of it.

    \b
    Example:
      postroad backup /var/backups/postroad-$(date +%F)
    """
    from postroad.console.cli.stores import reading
    from postroad.store.backup import backup as copy

    target = directory.absolute()
    with reading(place.data_dir()) as data_dir:
        try:
            made = copy(data_dir, target)
        except FileExistsError as error:
            raise Trouble(f"{error}.", "Name a folder that does not exist yet.", exit_code=CANNOT_CREATE) from error
        except OSError as error:
            words = f"The copy could not be made in {target}: {error.strerror or error}."
            raise Trouble(words, "Nothing of it was kept.", exit_code=CANNOT_CREATE) from error
    if as_json:
        rest = {"messages": made.messages, "body_files": made.body_files, "octets": made.octets}
        print_json("backup/1", directory=str(target), **rest)
        return
    click.echo(f"{target}: {count(made.messages, 'message')}, {size_text(made.octets)}")
    click.echo(f"Prove it: postroad verify --data {target}")
