"""`postroad user grant`, `revoke`, `grants`: in whose name an account may send besides its own."""

from __future__ import annotations

from typing import cast

import click

from postroad.console.cli.answers import demand
from postroad.console.cli.exits import NO_USER, Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import json_option, print_json, print_rows, wall


@click.command()
@click.argument("address")
@click.argument("senders", nargs=-1, required=True, metavar="SENDER...")
@place_options
def grant(address: str, senders: tuple[str, ...], place: Place) -> None:
    """Let an account send as other addresses, or as all of a domain.

    Its own address, with any tag, and aliases that lead to it alone need no
    grant.

    \b
    Examples:
      postroad user grant anna@example.org sales@example.org
      postroad user grant robot@example.org @news.example.org
    """
    from postroad.console.cli.stores import changing
    from postroad.store.credential_records import Grant
    from postroad.store.credentials import grant as unit

    with changing(place.data_dir()) as call:
        demand(call(unit, Grant(address, list(senders))), address)
    click.echo(f"{address} may send as {', '.join(senders)}.")


@click.command()
@click.argument("address")
@click.argument("senders", nargs=-1, metavar="[SENDER...]")
@place_options
def revoke(address: str, senders: tuple[str, ...], place: Place) -> None:
    """Take grants back, these or all of them.

    \b
    Examples:
      postroad user revoke anna@example.org sales@example.org
      postroad user revoke anna@example.org
    """
    from postroad.console.cli.stores import changing
    from postroad.store.credential_records import Revoke
    from postroad.store.credentials import revoke as unit

    with changing(place.data_dir()) as call:
        demand(call(unit, Revoke(address, list(senders))), address)
    click.echo(f"{address} may no longer send as {', '.join(senders) or 'anybody else'}.")


@click.command()
@click.argument("address")
@json_option
@place_options
def grants(address: str, as_json: bool, place: Place) -> None:
    """List what was granted to an account.

    \b
    Examples:
      postroad user grants anna@example.org
      postroad user grants anna@example.org --json
    """
    found = _grants(place, address)
    if as_json:
        print_json("grants/1", rows=[{"sender": sender, "created_us": created_us} for sender, created_us in found])
        return
    print_rows(
        ("sender", "since"),
        [(sender, wall(created_us)) for sender, created_us in found],
        f"No grant. Give one: postroad user grant {address} sales@example.org",
    )


def _grants(place: Place, address: str) -> list[tuple[str, int]]:
    from postroad.console.cli.stores import looking, now
    from postroad.serve.passwords import login_key
    from postroad.store.account_records import Account
    from postroad.store.credentials import Credentials
    from postroad.store.directory import Directory

    with looking(place.data_dir()) as reader:
        account = cast("Account | None", now(Directory(reader).account(login_key(address))))
        if account is None:
            raise Trouble(f"{address}: There is no such account.", "Look: postroad user list", exit_code=NO_USER)
        return cast("list[tuple[str, int]]", now(Credentials(reader).grants(account.id)))
