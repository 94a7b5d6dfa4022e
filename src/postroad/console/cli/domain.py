"""`postroad domain`: for which domains mail is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TextIO, cast

import click

from postroad.console.cli.answers import USAGE, demand
from postroad.console.cli.domain_dkim import dkim
from postroad.console.cli.domain_dns import check, dns
from postroad.console.cli.exits import Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import confirm, count, json_option, print_json, print_rows, wall

if TYPE_CHECKING:
    from collections.abc import Iterable

    from postroad.store.account_records import Domain, GatewayRecipients


@click.group()
def domain() -> None:
    """Say for which domains mail is taken.

    \b
    Examples:
      postroad domain add example.org
      postroad domain dns example.org
      postroad domain check example.org
      postroad domain set example.org --catch-all anna@example.org
      postroad domain gateway example.net --to mail.inside.example:25
      postroad domain remove example.org
    """


for _command in (dns, check, dkim):
    domain.add_command(_command)


@domain.command()
@click.argument("name")
@click.option("--postmaster", default="", metavar="ADDRESS", help="Who gets mail to postmaster@ and abuse@.")
@place_options
def add(name: str, postmaster: str, place: Place) -> None:
    """Take mail for a domain from now on.

    Mail to postmaster@ and abuse@ goes to its first account unless you name
    somebody. The keys that its mail is signed with (DKIM) are made too.

    \b
    Example:
      postroad domain add example.org --postmaster anna@example.org
    """
    from postroad.console.cli.domain_dkim import add_first_pair
    from postroad.console.cli.stores import changing
    from postroad.store.account_records import DomainAdd
    from postroad.store.accounts import domain_add

    with changing(place.data_dir(), make=True) as call:
        demand(call(domain_add, DomainAdd(name, postmaster)), name)
        # A running server may have been quicker; either way the domain has its keys.
        add_first_pair(call, name)
    click.echo(f"Mail for {name} is taken from now on.")
    click.echo(f"Next: postroad user add somebody@{name}   and the records of: postroad domain dns {name}")


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
            {
                "name": d.name,
                "postmaster": d.postmaster,
                "catch_all": d.catch_all,
                "created_us": d.created_us,
                "gateway": {"to": d.next_hop, "check": d.check, "in_doubt": d.in_doubt} if d.next_hop else None,
            }
            for d in domains
        ]
        print_json("domains/1", rows=rows)
        return
    print_rows(
        ("domain", "postmaster", "catch-all", "passed to", "since"),
        [
            (
                d.name,
                _postmaster(d),
                d.catch_all or "-",
                f"{d.next_hop} by {d.check}" if d.next_hop else "-",
                wall(d.created_us),
            )
            for d in domains
        ],
        "No domain yet. Add one: postroad domain add example.org",
    )


def _postmaster(found: Domain) -> str:
    return found.postmaster or ("the host" if found.next_hop else "first account")


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
@click.option("--to", "next_hop", metavar="HOST", help='"host:port", "lmtp:host:port" or "lmtp:/path".')
@click.option("--check", type=click.Choice(["callout", "list", "all"]), help="How its recipients are checked.")
@click.option("--in-doubt", type=click.Choice(["known", "accept", "defer"]), help="When the host cannot be asked.")
@click.option("--off", is_flag=True, help="Keep the domain's mail here again.")
@place_options
def gateway(name: str, next_hop: str | None, check: str | None, in_doubt: str | None, off: bool, place: Place) -> None:
    """Pass the mail of a domain to another host.

    The recipients are asked of that host (callout), stand in a list
    (postroad domain recipients), or are all taken. When the host cannot be
    asked, those it took before are taken (known), all are (accept), or none
    is (defer): their senders try again. Accounts and aliases of the domain
    come first.

    \b
    Examples:
      postroad domain gateway example.net --to mail.inside.example:25
      postroad domain gateway example.net --to lmtp:/run/lmtp --check list
      postroad domain gateway example.net --off
    """
    from postroad.console.cli.stores import changing
    from postroad.store.account_records import DomainGateway
    from postroad.store.gateways import domain_gateway

    if off == (next_hop is not None) or (off and (check or in_doubt)):
        raise click.UsageError("Say where its mail goes with --to, or end it with --off.")
    change = DomainGateway(name, next_hop or "", check or "callout", in_doubt or "known")
    with changing(place.data_dir()) as call:
        demand(call(domain_gateway, change), f"{name} {next_hop or ''}".strip())
    if off:
        click.echo(f"Mail for {name} is not passed on any more.")
        return
    click.echo(f"Mail for {name} is passed to {next_hop} from now on, {_CHECKED[change.check]}.")
    if change.check == "list":
        click.echo(f"Next: postroad domain recipients {name} --add-from FILE")


_CHECKED: Final = {
    "callout": "when that host would take the recipient",
    "list": "when its recipient stands in the list",
    "all": "whoever its recipient is",
}


@domain.command()
@click.argument("name")
@click.option("--add-from", type=click.File("r", encoding="utf-8"), metavar="FILE", help='One a line; "-" reads here.')
@click.option("--add", multiple=True, metavar="ADDRESS", help="Add one.")
@click.option("--remove", "removed", multiple=True, metavar="ADDRESS", help="Take one away.")
@json_option
@place_options
def recipients(
    name: str, add_from: TextIO | None, add: tuple[str, ...], removed: tuple[str, ...], as_json: bool, place: Place
) -> None:
    """Show or change the list of a gateway domain's recipients.

    A line of the file is an address; empty lines and those that begin with #
    are passed over.

    \b
    Examples:
      postroad domain recipients example.net
      postroad domain recipients example.net --add-from people.txt
      postroad domain recipients example.net --remove carl@example.net
    """
    from postroad.console.cli.stores import changing
    from postroad.store.gateways import gateway_recipient_add, gateway_recipient_remove

    domain_name = _domain_name(name)
    added = [*add, *(text for line in add_from or () if (text := line.strip()) and not text.startswith("#"))]
    if add_from is None and not added and not removed:
        _show_recipients(domain_name, as_json, place)
        return
    _demand_addresses(domain_name, [*added, *removed])
    with changing(place.data_dir()) as call:
        for part in _slices(domain_name, added):
            demand(call(gateway_recipient_add, part), name)
        for part in _slices(domain_name, list(removed)):
            demand(call(gateway_recipient_remove, part), name)
    done = [f"{count(len(who), 'recipient')} {how}" for who, how in ((added, "added"), (removed, "removed")) if who]
    click.echo(f"{' and '.join(done) or 'Nothing to add'}.")


def _domain_name(name: str) -> str:
    from postroad.values.address import AddressError, domain_to_ascii

    try:
        return domain_to_ascii(name)
    except AddressError as error:
        raise Trouble(f"{name}: {error.reason}.", "Write it as example.org.", exit_code=USAGE) from error


def _demand_addresses(domain_name: str, texts: Iterable[str]) -> None:
    """Looked at before the first slice is written: a list is added whole or not at all."""
    from postroad.values.address import Address, AddressError

    for text in texts:
        try:
            address = Address.parse(text, utf8=True)
        except AddressError as error:
            raise Trouble(f'"{text}": {error.reason}. Nothing was changed.', exit_code=USAGE) from error
        if address.domain_ascii != domain_name:
            raise Trouble(f"{text} is no address of {domain_name}. Nothing was changed.", exit_code=USAGE)


def _slices(domain_name: str, addresses: list[str]) -> Iterable[GatewayRecipients]:
    from postroad.store.account_records import GatewayRecipients
    from postroad.store.units import ROWS_PER_UNIT

    for start in range(0, len(addresses), ROWS_PER_UNIT):
        yield GatewayRecipients(domain_name, addresses[start : start + ROWS_PER_UNIT])


def _show_recipients(domain_name: str, as_json: bool, place: Place) -> None:
    from postroad.console.cli.stores import directory, now

    found: list[str] = []
    with directory(place.data_dir()) as known:
        if now(known.domain(domain_name)) is None:
            raise Trouble(f"{domain_name} is not served here.", "Look: postroad domain list")
        while page := cast("list[str]", now(known.gateway_recipients(domain_name, found[-1] if found else ""))):
            found += page
    if as_json:
        print_json("recipients/1", rows=[{"address": key} for key in found])
        return
    print_rows(("recipient",), [(key,) for key in found], "The list is empty.")


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
