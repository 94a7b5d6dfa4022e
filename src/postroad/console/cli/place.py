"""Which configuration a command works with, and which data folder: options that every command takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from postroad.console.cli.exits import BAD_CONFIG, Trouble

if TYPE_CHECKING:
    from postroad.config import Config
    from postroad.config.load import Reading

DEFAULT_FILE: Final = Path("/etc/postroad/postroad.toml")
VARIABLE: Final = "POSTROAD_CONFIG"


@dataclass(frozen=True, slots=True)
class Place:
    """What the command line says of configuration and data; empty where it says nothing."""

    file: Path | None = None
    data: Path | None = None

    def over(self, outer: Place) -> Place:
        """This place, completed by what stood before the command's name."""
        return Place(self.file or outer.file, self.data or outer.data)

    @property
    def config_file(self) -> Path | None:
        """The file to read: the named one, else the usual one where it exists."""
        return self.file or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)

    def examine(self) -> Reading:
        """The file with everything that is wrong with it; all defaults when there is no file."""
        from postroad.config.load import examine, examine_text

        file = self.config_file
        return examine(file) if file is not None else examine_text(b"", "(no file)")

    def config(self) -> Config:
        """The configuration in force, with the command line's data folder; ends the command when it is unusable."""
        import msgspec

        reading = self.examine()
        if reading.config is None:
            told = "\n".join(str(problem) for problem in reading.problems)
            raise Trouble(f"The configuration cannot be used.\n{told}", exit_code=BAD_CONFIG)
        if self.data is None:
            return reading.config
        return msgspec.structs.replace(reading.config, data_dir=str(self.data.absolute()))

    def data_dir(self) -> Path:
        """The data folder; without --data it is that of the configuration."""
        return Path(self.config().data_dir)


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --config and --data, and hands them over as `place`.

    They may stand before or behind the command's name; behind wins.
    """

    @click.option(
        "--config",
        "config_file",
        envvar=VARIABLE,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"Configuration file [env {VARIABLE}; else {DEFAULT_FILE}].",
    )
    @click.option(
        "--data", type=click.Path(path_type=Path), metavar="DIR", help="Data folder [else data_dir of the file]."
    )
    @click.pass_context
    @functools.wraps(command)
    def placed(ctx: click.Context, /, config_file: Path | None, data: Path | None, **options: Any) -> Any:
        if (
            config_file is not None
            and ctx.get_parameter_source("config_file") is click.core.ParameterSource.ENVIRONMENT
        ):
            config_file = _outer(ctx).file or config_file
        place = Place(config_file, data).over(_outer(ctx))
        return command(place=place, **options)

    return placed


def _outer(ctx: click.Context) -> Place:
    return ctx.obj if isinstance(ctx.obj, Place) else Place()
