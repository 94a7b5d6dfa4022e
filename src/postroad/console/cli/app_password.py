"""`postroad user app-password`: passwords for one program or device each, made here and shown once."""

from __future__ import annotations

import ipaddress
import re
import time
from typing import TYPE_CHECKING, Any, Final, cast

import click

from postroad.console.cli.answers import demand
from postroad.console.cli.exits import NO_USER, Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.secrets import APP_GROUPS, made_up, show_once
from postroad.console.cli.show import json_option, print_json, print_rows, wall

if TYPE_CHECKING:
    from postroad.store.credential_records import AppPassword

SCOPES: Final = ("smtp", "imap", "pop3")
DAY_S: Final = 86_400
UNITS_S: Final = {"h": 3600, "d": DAY_S, "w": 7 * DAY_S, "y": 365 * DAY_S}


@click.group("app-password")
def app_password() -> None:
    """Passwords for one program or device each.

    \b
    Examples:
      postroad user app-password add anna@example.org --label phone
      postroad user app-password list anna@example.org
      postroad user app-password remove anna@example.org phone
    """


@app_password.command()
@click.argument("address")
@click.option("--label", required=True, help="Where it will be used: phone, scanner.")
@click.option("--scope", default="smtp,imap,pop3", show_default=True, help="What it is good for.")
@click.option("--expires", default="none", metavar="TIME", help="After how long: 90d, 12h, 1y [none].")
@click.option("--from", "networks", multiple=True, metavar="NETWORK", help="From where only; may be repeated.")
@place_options
def add(address: str, label: str, scope: str, expires: str, networks: tuple[str, ...], place: Place) -> None:
    """Make an app password and show it, this once.

    Programs log in with the address and this password. With SCRAM the login
    must name it: anna@example.org#phone.

    \b
    Examples:
      postroad user app-password add anna@example.org --label phone
      postroad user app-password add anna@example.org --label scanner \\
        --scope smtp --from 192.0.2.0/24 --expires 1y
    """
    from postroad.console.cli.stores import changing
    from postroad.serve.passwords import app_password_digest, hash_password
    from postroad.store.credential_records import AppPasswordAdd
    from postroad.store.credentials import app_password_add

    password = made_up(APP_GROUPS)
    keys = hash_password(password)
    wanted = AppPasswordAdd(
        address,
        label.lower(),
        app_password_digest(password),
        keys.scram_salt,
        keys.scram_iterations,
        keys.scram_stored_key,
        keys.scram_server_key,
        [word.strip().lower() for word in scope.split(",")],
        [_network(text) for text in networks],
        _expires_us(expires),
    )
    with changing(place.data_dir()) as call:
        demand(call(app_password_add, wanted), address)
    click.echo(f"Log in as {address} or, by name, as {address}#{label.lower()}.")
    show_once(password, made=True)


@app_password.command("list")
@click.argument("address")
@json_option
@place_options
def list_(address: str, as_json: bool, place: Place) -> None:
    """List the app passwords of an account, without the passwords.

    \b
    Examples:
      postroad user app-password list anna@example.org
      postroad user app-password list anna@example.org --json
    """
    found = _entry(place, address)
    if as_json:
        print_json("app-passwords/1", rows=[_row(one) for one in found])
        return
    print_rows(
        ("label", "for", "from", "expires", "used", "used from"),
        [
            (
                one.label,
                ",".join(_scopes(one)),
                ",".join(one.networks) or "anywhere",
                wall(one.expires_us) if one.expires_us else "never",
                wall(one.used_us) if one.used_us else "never",
                one.used_from or "-",
            )
            for one in found
        ],
        f"No app password yet. Make one: postroad user app-password add {address} --label phone",
    )


@app_password.command()
@click.argument("address")
@click.argument("label")
@place_options
def remove(address: str, label: str, place: Place) -> None:
    """Make an app password worth nothing, at once.

    Connections that are open already stay.

    \b
    Example:
      postroad user app-password remove anna@example.org phone
    """
    from postroad.console.cli.stores import changing
    from postroad.store.credential_records import AppPasswordRemove
    from postroad.store.credentials import app_password_remove

    with changing(place.data_dir()) as call:
        demand(call(app_password_remove, AppPasswordRemove(address, label.lower())), address)
    click.echo(f"The app password {label.lower()} of {address} is gone.")


def _entry(place: Place, address: str) -> tuple[AppPassword, ...]:
    from postroad.console.cli.stores import looking, now
    from postroad.serve.passwords import login_key
    from postroad.store.credential_records import LoginEntry
    from postroad.store.credentials import Credentials

    with looking(place.data_dir()) as reader:
        entry = cast("LoginEntry | None", now(Credentials(reader).login_entry(login_key(address))))
    if entry is None:
        raise Trouble(f"{address}: There is no such account.", "Look: postroad user list", exit_code=NO_USER)
    return entry.app_passwords


def _row(one: AppPassword) -> dict[str, Any]:
    return {
        "label": one.label,
        "scopes": _scopes(one),
        "networks": list(one.networks),
        "expires_us": one.expires_us,
        "created_us": one.created_us,
        "used_us": one.used_us,
        "used_from": one.used_from,
    }


def _scopes(one: AppPassword) -> list[str]:
    return [scope for scope in SCOPES if scope in one.scopes]


def _network(text: str) -> str:
    """A network as it is stored; host bits are cut off, as people write the address they see."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise click.UsageError(f'"{text}" is not a network. Write it as 192.0.2.0/24 or 2001:db8::/32.') from None


def _expires_us(text: str) -> int:
    """The wall time in microseconds that lies so far ahead; 0 for "none"."""
    if text.strip().lower() in ("none", "never"):
        return 0
    found = re.fullmatch(r"(\d{1,5})([hdwy])", text.strip().lower())
    if found is None or not int(found[1]):
        raise click.UsageError(f'"{text}" is not a length of time. Write it as 90d, 12h, 1y or none.')
    return (int(time.time()) + int(found[1]) * UNITS_S[found[2]]) * 1_000_000
