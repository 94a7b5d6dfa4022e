"""`postroad serve` and `postroad dev`: the two commands that run until they are stopped."""

from __future__ import annotations

import sys

import click

from postroad.console.cli.exits import BAD_CONFIG, UNAVAILABLE, Trouble
from postroad.console.cli.place import Place, place_options


@click.command()
@place_options
def serve(place: Place) -> None:
    """Run the mail server until SIGTERM or Ctrl-C.

    The first signal lets open transfers finish, a second one does not wait.
    SIGHUP reads the certificates again.

    \b
    Examples:
      postroad serve
      postroad --config ./postroad.toml serve
      postroad serve --data /tmp/postroad
    """
    from postroad.app import serve as run
    from postroad.config.machine import machine_complaints
    from postroad.serve.supervisor import StartError

    config = place.config()
    # The server says itself what it thinks of the data folder; it may still make or mend it.
    found = [one for one in machine_complaints(config) if one.fatal and one.path != ("data_dir",)]
    if found:
        reading = place.examine().with_complaints(found)
        told = "\n".join(str(problem) for problem in reading.problems if problem.fatal)
        raise Trouble(f"The server cannot start like this.\n{told}", exit_code=BAD_CONFIG)
    try:
        status = run(config)
    except StartError as error:
        raise Trouble(str(error), exit_code=UNAVAILABLE) from error
    sys.exit(status)


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}, add_help_option=False
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def dev(arguments: tuple[str, ...]) -> None:
    """Run the playground: mail servers on this machine, nothing to configure.

    \b
    Examples:
      postroad dev
      postroad dev --once
      postroad dev --help
    """
    from postroad.dev.main import main

    sys.exit(main(list(arguments)))
