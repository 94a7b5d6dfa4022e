"""Passwords that we make up, and the one time they are shown."""

from __future__ import annotations

import secrets
from typing import Final

import click

LETTERS: Final = "abcdefghjkmnpqrstuvwxyz23456789"
"""Letters and digits that cannot be mistaken for each other: 4.95 bits each."""

GROUPS: Final = 5
"""Groups of four letters: 99 bits, and easy to read aloud."""
APP_GROUPS: Final = 6
"""118 bits: an app password is stored as a fast hash, so it must be beyond any search."""


def made_up(groups: int = GROUPS) -> str:
    """A password nobody can guess, in groups of letters."""
    return "-".join("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(groups))


def show_once(password: str, *, made: bool) -> None:
    """Print a password that we made; one that was given is never repeated."""
    if made:
        click.echo(f"Password: {password}")
        click.echo("It is shown only now.", err=True)
