"""A group of commands that lists when none is named: `postroad queue --by site` is `postroad queue list --by site`."""

from __future__ import annotations

from typing import Final

import click

LIST: Final = "list"
HELP: Final = ("--help", "-h")


class ListingGroup(click.Group):
    """Without a command, or with an option where its name would stand, the command "list" is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it, with the word "list" where nobody wrote a command."""
        if not args or (args[0].startswith("-") and args[0] not in HELP):
            args = [LIST, *args]
        return super().parse_args(ctx, args)
