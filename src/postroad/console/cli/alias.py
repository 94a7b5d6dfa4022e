"""`postroad alias`: addresses that lead to other addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from postroad.console.cli.answers import demand
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import json_option, print_json, print_rows

if TYPE_CHECKING:
    from postroad.store.account_records import AliasEntry


@click.group()
def alias() -> None:
    """Lead addresses to other addresses, here or anywhere.

    \b
    Examples:
      postroad alias add info@example.org anna@example.org bob@example.net
      postroad alias list
      postroad alias remove info@example.org
    """


@alias.command()
@click.argument("address")
@click.argument("targets", nargs=-1, required=True)
@place_options
def add(address: str, targets: tuple[str, ...], place: Place) -> None:
    """Lead an address to others; targets it already has stay.

    \b
    Example:
      postroad alias add info@example.org anna@example.org bob@example.net
    """
    from postroad.console.cli.stores import changing
    from postroad.store.account_records import AliasAdd
    from postroad.store.accounts import alias_add

    with changing(place.data_dir()) as call:
        demand(call(alias_add, AliasAdd(address, list(targets))), f"{address} to {', '.join(targets)}")
    click.echo(f"Mail to {address} goes to {', '.join(targets)} from now on.")


@alias.command("list")
@click.argument("domain", default="")
@json_option
@place_options
def list_(domain: str, as_json: bool, place: Place) -> None:
    """List the aliases, of one domain or all.

    \b
    Example:
      postroad alias list example.org
    """
    aliases = _aliases(place, domain)
    if as_json:
        print_json("aliases/1", rows=[{"address": one.key, "targets": one.targets} for one in aliases])
        return
    print_rows(
        ("address", "leads to"),
        [(one.key, ", ".join(one.targets)) for one in aliases],
        "No alias yet. Add one: postroad alias add info@example.org anna@example.org",
    )


def _aliases(place: Place, domain: str) -> list[AliasEntry]:
    from postroad.console.cli.stores import directory, now
    from postroad.store.directory import LIST_PAGE

    with directory(place.data_dir()) as found:
        aliases: list[AliasEntry] = []
        while True:
            after = aliases[-1].key if aliases else ""
            page = cast("list[AliasEntry]", now(found.aliases(domain, after)))
            aliases += page
            if len(page) < LIST_PAGE:
                return aliases


@alias.command()
@click.argument("address")
@click.argument("targets", nargs=-1)
@place_options
def remove(address: str, targets: tuple[str, ...], place: Place) -> None:
    """Take targets from an alias, or remove all of it.

    \b
    Examples:
      postroad alias remove info@example.org bob@example.net
      postroad alias remove info@example.org
    """
    from postroad.console.cli.stores import changing
    from postroad.store.account_records import AliasRemove
    from postroad.store.accounts import alias_remove

    with changing(place.data_dir()) as call:
        demand(call(alias_remove, AliasRemove(address, list(targets))), address)
    what = f"{address} does not lead to {', '.join(targets)} any more." if targets else f"{address} is removed."
    click.echo(what)
