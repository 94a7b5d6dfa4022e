"""Exit statuses of `postroad`, and the one exception that ends a command with a message.

0 done, 1 a check found a problem or nothing matched, 2 wrong usage, 3 a check could not tell; the others are those of
sysexits(3), so that cron jobs and pipes of other mail servers understand them.
"""

from __future__ import annotations

from typing import IO, Any, Final

import click

NOTHING: Final = 1
"""A check found something, or nothing matched."""
NOT_TOLD: Final = 3
"""A check could not tell."""
NO_USER: Final = 67
UNAVAILABLE: Final = 69
SOFTWARE: Final = 70
CANNOT_CREATE: Final = 73
TRY_AGAIN: Final = 75
NO_PERMISSION: Final = 77
BAD_CONFIG: Final = 78


class Trouble(click.ClickException):
    """A command ends here: what happened, what to do about it, and the exit status."""

    exit_code: int  # type: ignore[misc]

    def __init__(self, what: str, fix: str = "", exit_code: int = NOTHING) -> None:
        super().__init__(f"{what}\n{fix}" if fix else what)
        self.exit_code = exit_code

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message to standard error, the cause first."""
        what, _, fix = self.format_message().partition("\n")
        click.secho(f"postroad: {what}", fg="red", err=True, file=file)
        if fix:
            click.echo(fix, err=True, file=file)
