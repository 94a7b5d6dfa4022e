"""`postroad user`: accounts, their passwords and what they may hold."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import click

from postroad.console.cli.answers import demand
from postroad.console.cli.app_password import app_password
from postroad.console.cli.exits import Trouble
from postroad.console.cli.grant import grant, grants, revoke
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.secrets import made_up, show_once
from postroad.console.cli.show import confirm, json_option, parse_size, print_json, print_rows, size_text, wall

if TYPE_CHECKING:
    from postroad.store.account_records import Account, Credential

LIMITS: Final = {
    "messages_per_hour": "Messages in an hour",
    "recipients_per_day": "Recipients in a day",
    "first_time_recipients_per_day": "Recipients in a day that it has not written to before",
    "recipients_per_message": "Recipients of one message",
}
"""The limits of `store.records.Allowed`, in their order, with what each counts."""


@click.group()
def user() -> None:
    """Make and change accounts.

    \b
    Examples:
      postroad user add anna@example.org
      postroad user list
      postroad user passwd anna@example.org
      postroad user quota anna@example.org 5GB
      postroad user limits anna@example.org --messages-per-hour 1000
      postroad user remove anna@example.org
    """


user.add_command(app_password)
for _command in (grant, revoke, grants):
    user.add_command(_command)

_stdin = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
_generate = click.option("--generate", is_flag=True, help="Make a password and show it once.")


@user.command()
@click.argument("address")
@click.option("--quota", default="none", metavar="SIZE", help="What it may hold, such as 5GB [none].")
@_stdin
@_generate
@place_options
def add(address: str, quota: str, password_stdin: bool, generate: bool, place: Place) -> None:
    """Make an account.

    The password is asked for; without a terminal it is made up and shown once.

    \b
    Examples:
      postroad user add anna@example.org
      postroad user add anna@example.org --quota 5GB --generate
      printf %s "$PASSWORD" | postroad user add anna@example.org --password-stdin
    """
    from postroad.console.cli.stores import changing
    from postroad.store.account_records import UserAdd
    from postroad.store.accounts import user_add

    octets = _size(quota)
    password, made = _new_password(password_stdin, generate)
    credential = _credential(password)
    with changing(place.data_dir(), make=True) as call:
        demand(call(user_add, UserAdd(address, octets, credential)), address)
    click.echo(f"{address} can receive mail and log in with the whole address.")
    show_once(password, made=made)


@user.command("list")
@click.argument("domain", default="")
@json_option
@place_options
def list_(domain: str, as_json: bool, place: Place) -> None:
    """List the accounts, of one domain or all.

    \b
    Examples:
      postroad user list
      postroad user list example.org --json
    """
    accounts = _accounts(place, domain)
    if as_json:
        rows = [
            {
                "address": a.address,
                "used_bytes": a.used_bytes,
                "quota_bytes": a.quota_bytes,
                "messages": a.messages,
                "disabled": a.disabled,
                "created_us": a.created_us,
            }
            for a in accounts
        ]
        print_json("users/1", rows=rows)
        return
    print_rows(
        ("address", "messages", "used", "quota", "state", "since"),
        [
            (
                a.address,
                str(a.messages),
                size_text(a.used_bytes),
                size_text(a.quota_bytes) if a.quota_bytes else "-",
                "disabled" if a.disabled else "ok",
                wall(a.created_us),
            )
            for a in accounts
        ],
        "No account yet. Add one: postroad user add anna@example.org",
    )


def _accounts(place: Place, domain: str) -> list[Account]:
    from postroad.console.cli.stores import directory, now
    from postroad.store.directory import LIST_PAGE

    with directory(place.data_dir()) as found:
        accounts: list[Account] = []
        while True:
            after = accounts[-1].key if accounts else ""
            page = cast("list[Account]", now(found.accounts(domain, after)))
            accounts += page
            if len(page) < LIST_PAGE:
                return accounts


@user.command()
@click.argument("address")
@click.option("--yes", is_flag=True, help="Do not ask.")
@place_options
def remove(address: str, yes: bool, place: Place) -> None:
    """Remove an account and erase its mail.

    \b
    Example:
      postroad user remove anna@example.org
    """
    from postroad.console.cli.stores import changing
    from postroad.store.account_records import UserRemove
    from postroad.store.accounts import user_remove

    confirm(f"Erase {address} and all its mail?", yes)
    with changing(place.data_dir()) as call:
        demand(call(user_remove, UserRemove(address)), address)
    click.echo(f"{address} is removed. Its mail is erased in the background.")


@user.command()
@click.argument("address")
@_stdin
@_generate
@click.option("--app-only", is_flag=True, help="Let only app passwords in; changes no password.")
@click.option("--not-app-only", is_flag=True, help="Let the account's own password in again.")
@place_options
def passwd(
    address: str, password_stdin: bool, generate: bool, app_only: bool, not_app_only: bool, place: Place
) -> None:
    """Give an account a new password, or say whether it may be used.

    \b
    Examples:
      postroad user passwd anna@example.org
      postroad user passwd anna@example.org --generate
      postroad user passwd anna@example.org --app-only
    """
    if app_only or not_app_only:
        if app_only + not_app_only + password_stdin + generate > 1:
            raise click.UsageError("Choose one of --app-only, --not-app-only, --password-stdin and --generate.")
        _set_app_only(address, place, app_only=app_only)
        return
    from postroad.console.cli.stores import changing
    from postroad.store.account_records import SetPassword
    from postroad.store.accounts import set_password

    password, made = _new_password(password_stdin, generate)
    credential = _credential(password)
    with changing(place.data_dir()) as call:
        demand(call(set_password, SetPassword(address, credential)), address)
    click.echo(f"The password of {address} is changed and counts at once.")
    show_once(password, made=made)


def _set_app_only(address: str, place: Place, *, app_only: bool) -> None:
    from postroad.console.cli.stores import changing
    from postroad.store.credential_records import AppOnly
    from postroad.store.credentials import user_app_only

    with changing(place.data_dir()) as call:
        demand(call(user_app_only, AppOnly(address, app_only)), address)
    if app_only:
        click.echo(f"Only app passwords let {address} in. Make one: postroad user app-password add {address}")
    else:
        click.echo(f"{address} can log in with its own password again, and with app passwords.")


@user.command()
@click.argument("address")
@click.argument("size")
@place_options
def quota(address: str, size: str, place: Place) -> None:
    """Set what an account may hold; "none" takes the limit away.

    An account that holds more keeps everything and takes nothing new.

    \b
    Examples:
      postroad user quota anna@example.org 5GB
      postroad user quota anna@example.org none
    """
    from postroad.console.cli.stores import changing
    from postroad.store.account_records import UserQuota
    from postroad.store.accounts import user_quota

    octets = _size(size)
    with changing(place.data_dir()) as call:
        demand(call(user_quota, UserQuota(address, octets)), address)
    click.echo(f"{address} may hold {size_text(octets) if octets else 'as much as the disk'}.")


def _limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, words in reversed(LIMITS.items()):
        option = click.option(f"--{name.replace('_', '-')}", name, metavar="N", help=f"{words}.")
        command = option(command)
    return command


@user.command()
@click.argument("address")
@_limit_options
@json_option
@place_options
def limits(address: str, place: Place, as_json: bool, **given: str | None) -> None:
    """Show or set how much an account may send.

    N is a number, "none" for no limit, or "default" for what [sending] in the configuration says.

    \b
    Examples:
      postroad user limits anna@example.org
      postroad user limits anna@example.org --messages-per-hour 1000
      postroad user limits news@example.org --recipients-per-day none
      postroad user limits anna@example.org --messages-per-hour default
    """
    from postroad.console.cli.stores import changing
    from postroad.store.account_records import UserLimits
    from postroad.store.accounts import user_limits

    wanted = {name: _limit(text) for name, text in given.items() if text is not None}
    if wanted:
        with changing(place.data_dir()) as call:
            demand(call(user_limits, UserLimits(address, wanted)), address)
    rows = _allowance(address, place)
    if as_json:
        print_json("limits/1", address=address, rows=rows)
        return
    print_rows(
        ("limit", "value", "used", "set by"),
        [
            (
                row["limit"].replace("_", " "),
                str(row["value"]) if row["value"] else "none",
                "-" if row["used"] is None else str(row["used"]),
                "account" if row["own"] else "configuration",
            )
            for row in rows
        ],
        "",
    )


def _limit(text: str) -> int | None:
    """The number a person means; None for the configuration's."""
    if text == "default":
        return None
    if text == "none":
        return 0
    if not (text.isascii() and text.isdigit()):
        raise click.UsageError(f'"{text}" is not a limit. Write a number, none or default.')
    return int(text[:12])


def _allowance(address: str, place: Place) -> list[dict[str, Any]]:
    """One row for each limit: what holds, whether it is the account's own, and what is used of it."""
    from postroad.console.cli.stores import looking, now
    from postroad.flow.allowance import allowed
    from postroad.store.account_records import NO_ACCOUNT, Changed
    from postroad.store.accounts import parsed
    from postroad.store.allowances import Spendings, Spent, current, effective
    from postroad.store.directory import Directory
    from postroad.store.records import Allowed
    from postroad.values.clock import SystemClock

    found = parsed(address)
    with looking(place.data_dir()) as reader:
        account = cast("Account | None", now(Directory(reader).account(found.key))) if found else None
        if account is None:
            demand(Changed(NO_ACCOUNT), address)
            return []
        spent, own = cast("tuple[Spent, Allowed]", now(Spendings(reader).spent(account.id)))
    holds, spent = effective(own, allowed(place.config().sending)), current(spent, SystemClock.wall_us())
    used = (spent.messages, spent.recipients, spent.first_time, None)
    return [
        {"limit": name, "value": getattr(holds, name), "own": getattr(own, name) is not None, "used": count}
        for name, count in zip(LIMITS, used, strict=True)
    ]


@user.command()
@click.argument("address")
@place_options
def disable(address: str, place: Place) -> None:
    """Stop an account from logging in and from taking mail; nothing is lost.

    \b
    Example:
      postroad user disable anna@example.org
    """
    _disable(address, place, disabled=True)
    click.echo(f"{address} cannot log in and takes no mail. Again: postroad user enable {address}")


@user.command()
@click.argument("address")
@place_options
def enable(address: str, place: Place) -> None:
    """Let a disabled account log in and take mail again.

    \b
    Example:
      postroad user enable anna@example.org
    """
    _disable(address, place, disabled=False)
    click.echo(f"{address} can log in and takes mail again.")


def _disable(address: str, place: Place, *, disabled: bool) -> None:
    from postroad.console.cli.stores import changing
    from postroad.store.account_records import UserDisable
    from postroad.store.accounts import user_disable

    with changing(place.data_dir()) as call:
        demand(call(user_disable, UserDisable(address, disabled)), address)


# -- passwords and sizes ---------------------------------------------------------------------------------------------


def _new_password(from_stdin: bool, generate: bool) -> tuple[str, bool]:
    """A new password, and whether we made it up."""
    if from_stdin and generate:
        raise click.UsageError("Choose one of --password-stdin and --generate.")
    if from_stdin:
        given = sys.stdin.readline().rstrip("\r\n")
        if not given:
            raise click.UsageError("No password came on standard input.")
        return given, False
    if generate or not sys.stdin.isatty():
        return made_up(), True
    return click.prompt("New password", hide_input=True, confirmation_prompt="Again"), False


def _credential(password: str) -> Credential:
    from postroad.serve.passwords import PasswordError, hash_password

    try:
        return hash_password(password)
    except PasswordError as error:
        raise Trouble(f"This password cannot be used: {error}.", "Choose another one.", exit_code=2) from error


def _size(text: str) -> int:
    octets = parse_size(text)
    if octets is None:
        raise click.UsageError(f'"{text}" is not a size. Write it as 5GB, 500MB or none.')
    return octets
