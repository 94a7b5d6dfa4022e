"""`postroad cert`: which certificate is in use, and how its renewal goes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from postroad.console.cli.exits import NO_PERMISSION, NOTHING, UNAVAILABLE, Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import count, json_option, print_json, wall

if TYPE_CHECKING:
    from postroad.config import Config
    from postroad.serve.certificates import Holding, Notes

DAY_US: Final = 86_400_000_000
PATIENCE_S: Final = 960.0
"""A little longer than the server lets one attempt take."""
LOOK_S: Final = 0.25


@click.group(invoke_without_command=True)
@click.pass_context
def cert(ctx: click.Context) -> None:
    """Show and renew the certificate.

    \b
    Examples:
      postroad cert
      postroad cert renew
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(show)


@cert.command()
@json_option
@place_options
def show(as_json: bool, place: Place) -> None:
    """Show the certificate in use and when it is renewed.

    Exit status 1 when it has ended or the last renewal failed.

    \b
    Examples:
      postroad cert show
      postroad cert show --json
    """
    from postroad.serve.certificates import certificate_file, read_notes

    config = _entered(place)
    file = certificate_file(config)
    holding, now_us = _holding(file), time.time_ns() // 1000
    notes = read_notes(file.parent) if config.acme.names else None
    if as_json:
        print_json("cert/1", **_fields(file, holding, notes, _next(config, holding, notes, now_us)))
    else:
        for name, text in _lines(config, file, holding, notes, now_us):
            click.echo(f"{name:<12}{text}")
    if holding.ends_us <= now_us or (notes is not None and notes.why):
        raise click.exceptions.Exit(NOTHING)


@cert.command()
@place_options
def renew(place: Place) -> None:
    """Ask the authority for a new certificate now.

    Waits for the result. Authorities limit how often that may be done.

    \b
    Example:
      postroad cert renew
    """
    from postroad.net.tls import write_private
    from postroad.serve.certificates import FOLDER, REQUEST, read_notes
    from postroad.store import folder
    from postroad.values.errors import StoreBroken

    config = _entered(place)
    if not config.acme.names:
        raise Trouble("This certificate is not renewed by Postroad.", "Set acme.names: see docs/certificates.md.")
    data_dir = Path(config.data_dir)
    try:
        folder.connect(data_dir).close()
    except (StoreBroken, OSError) as error:
        fix = "Start it; it asks for a certificate by itself when it is time."
        raise Trouble(f"No server runs on {data_dir}.", fix, exit_code=UNAVAILABLE) from error
    before = read_notes(data_dir / FOLDER)
    write_private(data_dir / FOLDER / REQUEST, b"")
    until = time.monotonic() + PATIENCE_S
    while (notes := read_notes(data_dir / FOLDER)) == before:
        if time.monotonic() > until:
            raise Trouble("The server did not answer.", "Its log says what it does.", exit_code=UNAVAILABLE)
        time.sleep(LOOK_S)
    if notes.why:
        raise Trouble(f"No new certificate: {notes.why}.", "The old one stays in use.")
    click.echo(f"New certificate for {', '.join(config.acme.names)}, in use now.")


def _entered(place: Place) -> Config:
    """The configuration, after becoming the owner of the data folder."""
    from postroad.console.cli.stores import become_owner

    config = place.config()
    become_owner(Path(config.data_dir))
    return config


def _holding(file: Path) -> Holding:
    from postroad.serve.certificates import read_holding

    try:
        return read_holding(file)
    except FileNotFoundError as error:
        what = f"There is no certificate {file} yet."
        raise Trouble(what, "The server makes one at its first start.", exit_code=UNAVAILABLE) from error
    except PermissionError as error:
        fix = "Run this as root or as the owner of the folder."
        raise Trouble(f"{file} may not be read.", fix, exit_code=NO_PERMISSION) from error
    except (OSError, ValueError) as error:
        raise Trouble(f"{file} holds no certificate in PEM form.", exit_code=UNAVAILABLE) from error


def _next(config: Config, holding: Holding, notes: Notes | None, now_us: int) -> int:
    """When the next attempt comes; 0 where nobody makes one."""
    from postroad.serve.certificates import next_try_us

    return 0 if notes is None else max(now_us, next_try_us(holding, config.acme, notes))


def _lines(config: Config, file: Path, holding: Holding, notes: Notes | None, now_us: int) -> list[tuple[str, str]]:
    lines = [
        ("file", str(file)),
        ("for", ", ".join(holding.names) or "no name"),
        ("issued by", "itself: mail programs warn about it" if holding.self_signed else holding.issuer),
        ("valid", f"{wall(holding.begins_us)} to {wall(holding.ends_us)}, {_left(holding.ends_us - now_us)}"),
    ]
    if notes is None:
        by = (
            "you: put a new one into that file, then: systemctl reload postroad" if config.tls.certificate else "nobody"
        )
        return [*lines, ("renewed by", by)]
    due = _next(config, holding, notes, now_us)
    lines += [
        ("renewed by", f"ACME, {config.acme.directory}"),
        ("next", "now" if due <= now_us else f"{wall(due)}{'' if notes.why else ', when a third of its life remains'}"),
    ]
    if notes.why:
        times = f", {count(notes.failures, 'failure')} in a row" if notes.failures > 1 else ""
        lines.append(("last", f"failed {wall(notes.tried_us)}{times}: {notes.why}"))
    elif notes.renewed_us:
        lines.append(("last", f"renewed {wall(notes.renewed_us)}"))
    return lines


def _left(remaining_us: int) -> str:
    if remaining_us <= 0:
        return "which is over"
    if remaining_us < 2 * DAY_US:
        return f"{count(remaining_us // 3_600_000_000, 'hour')} left"
    return f"{count(remaining_us // DAY_US, 'day')} left"


def _fields(file: Path, holding: Holding, notes: Notes | None, next_us: int) -> dict[str, object]:
    return {
        "file": str(file),
        "names": holding.names,
        "issuer": holding.issuer,
        "self_signed": holding.self_signed,
        "begins_us": holding.begins_us,
        "ends_us": holding.ends_us,
        "acme": notes is not None,
        "next_us": next_us,
        "tried_us": notes.tried_us if notes else 0,
        "renewed_us": notes.renewed_us if notes else 0,
        "failures": notes.failures if notes else 0,
        "why": notes.why if notes else "",
    }
