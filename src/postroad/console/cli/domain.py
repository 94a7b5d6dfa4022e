"""`postroad domain`: for which domains mail is taken."""

from __future__ import annotations

from typing import cast

import click

from postroad.console.cli.answers import demand
from postroad.console.cli.exits import Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import confirm, count, json_option, print_json, print_rows, wall


@click.group()
def domain() -> None:
    """Say for which domains mail is taken.

    \b
    Examples:
      postroad domain add example.org
      postroad domain list
      postroad domain set example.org --catch-all anna@example.org
      postroad domain remove example.org
    """


@domain.command()
@click.argument("name")
@click.option("--postmaster", default="", metavar="ADDRESS", help="Who gets mail to postmaster@ and abuse@.")
@place_options
def add(name: str, postmaster: str, place: Place) -> None:
    """Take mail for a domain from now on.

    Mail to postmaster@ and abuse@ goes to its first account unless you name
    somebody.

    \b
    Example:
      postroad domain add example.org --postmaster anna@example.org
    """
    from postroad.console.cli.stores import changing
    from postroad.store.account_records import DomainAdd
    from postroad.store.accounts import domain_add

    with changing(place.data_dir(), make=True) as call:
        demand(call(domain_add, DomainAdd(name, postmaster)), name)
    click.echo(f"Mail for {name} is taken from now on.")
    click.echo(f"Next: postroad user add somebody@{name}   and an MX record that names this server.")


@domain.command("list")
@json_option
@place_options
def list_(as_json: bool, place: Place) -> None:
    """List the domains.

    \b
    Example:
      postroad domain list
    """
    from postroad.console.cli.stores import directory, now
    from postroad.store.account_records import Domain

    with directory(place.data_dir()) as found:
        domains = cast(list[Domain], now(found.domains()))
    if as_json:
        rows = [
            {"name": d.name, "postmaster": d.postmaster, "catch_all": d.catch_all, "created_us": d.created_us}
            for d in domains
        ]
        print_json("domains/1", rows=rows)
        return
    print_rows(
        ("domain", "postmaster", "catch-all", "since"),
        [(d.name, d.postmaster or "first account", d.catch_all or "-", wall(d.created_us)) for d in domains],
        "No domain yet. Add one: postroad domain add example.org",
    )


@domain.command("set")
@click.argument("name")
@click.option("--catch-all", metavar="ADDRESS", help='Who gets mail to unknown addresses; "" refuses it.')
@click.option("--postmaster", metavar="ADDRESS", help='Who gets postmaster@ and abuse@; "" is the first account.')
@place_options
def set_(name: str, catch_all: str | None, postmaster: str | None, place: Place) -> None:
    """Say who gets mail to unknown addresses, and to postmaster@.

    \b
    Examples:
      postroad domain set example.org --catch-all anna@example.org
      postroad domain set example.org --catch-all ""
    """
    from postroad.console.cli.stores import changing
    from postroad.store.account_records import CatchAll, Postmaster
    from postroad.store.accounts import domain_catch_all, domain_postmaster

    if catch_all is None and postmaster is None:
        raise click.UsageError("Say what to set: --catch-all or --postmaster.")
    with changing(place.data_dir()) as call:
        if catch_all is not None:
            demand(call(domain_catch_all, CatchAll(name, catch_all)), f"{name} {catch_all}".strip())
            who = f"goes to {catch_all}" if catch_all else "is refused"
            click.echo(f"Mail to unknown addresses of {name} {who} from now on.")
        if postmaster is not None:
            demand(call(domain_postmaster, Postmaster(name, postmaster)), f"{name} {postmaster}".strip())
            click.echo(f"Mail to postmaster@{name} and abuse@{name} goes to {postmaster or 'its first account'}.")


@domain.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when it has accounts; their mail is erased.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@place_options
def remove(name: str, force: bool, yes: bool, place: Place) -> None:
    """Stop taking mail for a domain.

    \b
    Example:
      postroad domain remove example.org
    """
    from postroad.console.cli.stores import changing
    from postroad.store.account_records import DOMAIN_IN_USE, DomainRemove
    from postroad.store.accounts import domain_remove

    with changing(place.data_dir()) as call:
        if force:
            confirm(f"Erase all accounts of {name} with their mail, and its aliases?", yes)
        removed = call(domain_remove, DomainRemove(name, force))
        while removed.more:
            removed = call(domain_remove, DomainRemove(name, force))
    if removed.word == DOMAIN_IN_USE:
        raise Trouble(
            f"{name} still has {count(removed.accounts, 'account')} and {count(removed.aliases, 'alias', 'aliases')}.",
            "Remove them first, or add --force and lose their mail.",
        )
    demand(removed, name)
    click.echo(f"Mail for {name} is not taken any more.")
    if removed.pointing:
        click.echo(f"{count(removed.pointing, 'alias', 'aliases')} of other domains still lead there and will fail.")
