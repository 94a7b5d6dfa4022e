"""`postroad try`: the whole way of mail to an address, in words, and a rehearsal with the real host."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from postroad.console.cli.exits import BAD_CONFIG, Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import json_option, plain, print_json

if TYPE_CHECKING:
    from postroad.config import Config
    from postroad.flow.tryout import Trial
    from postroad.values.address import Address

STATUS: Final = {"routable": 0, "undecided": 1, "fails": 2}
"""Exit status by prospect, that of Exim's `-bt`."""
_COLOURS: Final = {"routable": "green", "undecided": "yellow", "fails": "red"}


@click.command("try")
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option("--from", "sender", metavar="ADDRESS", help="Envelope sender; '' is that of reports.")
@click.option("--user", metavar="LOGIN", default="", help="Who submits it.")
@click.option("--connect", is_flag=True, help="Rehearse with the real host up to RCPT; nothing is sent.")
@json_option
@place_options
def tryout(
    addresses: tuple[str, ...], sender: str | None, user: str, connect: bool, as_json: bool, place: Place
) -> None:
    """Tell what would become of mail for each ADDRESS.

    Route, hosts, source address, name, TLS and limits, from the configuration,
    the accounts and DNS as they are now; no server needs to run. Status 0: all
    would leave or arrive; 1: something could not be told; 2: at least one
    would fail.

    \b
    Examples:
      postroad try bob@example.net
      postroad try bob@example.net --from news@example.org --connect
    """
    trials = run(place.config(), [parse(one) for one in addresses], sender, user, connect=connect)
    if as_json:
        print_json("try/1", rows=[row(one) for one in trials])
    else:
        click.echo("\n\n".join("\n".join(lines(one)) for one in trials))
    sys.exit(max(STATUS[one.prospect.value] for one in trials))


def parse(text: str) -> Address:
    """The address that somebody typed; ends the command when it is none."""
    from postroad.values.address import Address, AddressError

    try:
        return Address.parse(text, utf8=True)
    except AddressError as error:
        raise Trouble(f'"{text}" is not an address: {error.reason}.', "Write it as bob@example.net.", 2) from None


def run(
    config: Config, addresses: list[Address], sender: str | None, login: str, *, connect: bool = False
) -> list[Trial]:
    """The trials of all addresses; takes as long as the slowest question to DNS, or to a host."""
    import asyncio

    return asyncio.run(_run(config, addresses, parse(sender) if sender else None, login, connect))


async def _run(
    config: Config, addresses: list[Address], sender: Address | None, login: str, connect: bool
) -> list[Trial]:
    import socket
    from pathlib import Path

    import msgspec

    from postroad.config.problems import ConfigError
    from postroad.console.cli.stores import looking
    from postroad.flow.local import Planner
    from postroad.flow.outside import Outside
    from postroad.flow.protection import look_ahead
    from postroad.flow.tryout import Tryout
    from postroad.flow.ways import no_gateway
    from postroad.store import folder
    from postroad.store.directory import Directory
    from postroad.store.suspensions import suspended_sites
    from postroad.store.waiting import outlook
    from postroad.values.clock import SystemClock

    config = msgspec.structs.replace(config, hostname=config.hostname or socket.getfqdn())
    data_dir, clock = Path(config.data_dir), SystemClock()
    try:
        outside = Outside.from_config(config, clock)
    except (ConfigError, ValueError) as error:
        raise Trouble(f"The configuration cannot be used.\n{error}", exit_code=BAD_CONFIG) from error
    trials = []
    try:
        if not (data_dir / folder.DATABASE).exists():
            tryout = Tryout(config, outside, look_ahead(config, outside, reader=_NoRows(), clock=clock), no_gateway)
            for address in addresses:
                trials += await tryout.look(address, sender, login, connect=connect)
            return trials
        with looking(data_dir) as reader:
            directory = Directory(reader)
            known = [one for one in await suspended_sites(reader, clock.wall_us()) if not one.lifted]
            shut = {one.site: one for one in known if not one.slowed}
            slowed = {one.site: one for one in known if one.slowed}
            tryout = Tryout(
                config,
                outside,
                look_ahead(config, outside, reader=reader, clock=clock),
                directory.next_hop,
                Planner(directory, hostname=config.hostname, delimiter=config.recipient_delimiter),
                lambda domain: outlook(reader, domain),
                lambda site: shut.get(site),
                lambda site: slowed.get(site),
            )
            for address in addresses:
                trials += await tryout.look(address, sender, login, connect=connect)
            return trials
    finally:
        await outside.lookup.close()


class _NoRows:
    """A machine without a store: nothing is remembered of anybody."""

    async def rows(self, sql: str, params: Any = ()) -> list[Any]:
        return []


# -- how it is shown ---------------------------------------------------------------------------------------------------


def lines(trial: Trial) -> list[str]:
    """A trial for people."""
    word = click.style(trial.prospect.value, fg=_COLOURS[trial.prospect.value])
    shown = [f"{trial.recipient}: {word}" + (f" - {trial.why}" if trial.why else "")]
    labelled = [
        ("becomes", trial.expansions),
        ("mailbox", trial.mailboxes),
        ("route", [trial.route] if trial.route else []),
        ("goes", [trial.manner] if trial.manner else []),
        ("hosts", [_host(one) for one in trial.hosts]),
        ("avoids", trial.detours),
        ("from", [", ".join(trial.sources)] if trial.sources else []),
        ("as", [trial.ehlo] if trial.ehlo else []),
        ("login", [trial.login] if trial.login else []),
        ("TLS", trial.tls),
        ("limits", trial.limits),
        ("when", [trial.when] if trial.when else []),
        ("said", trial.dialog),
    ]
    for label, texts in labelled:
        for number, text in enumerate(texts):
            shown.append(f"  {label if not number else '':<8} {plain(text)}")
    return shown


def _host(host: Any) -> str:
    return f"{host.preference}. {host.name} port {host.port}: {', '.join(host.addresses)}"


def row(trial: Trial) -> dict[str, object]:
    """A trial as JSON."""
    return {
        "recipient": trial.recipient, "prospect": trial.prospect.value, "why": trial.why,
        "mailboxes": trial.mailboxes, "expansions": trial.expansions, "route": trial.route, "manner": trial.manner,
        "site": trial.site, "provider": trial.provider, "avoids": trial.detours, "sources": list(trial.sources),
        "ehlo": trial.ehlo, "login": trial.login,
        "hosts": [
            {"host": one.name, "addresses": list(one.addresses), "port": one.port, "preference": one.preference}
            for one in trial.hosts
        ],
        "tls": trial.tls, "limits": trial.limits, "when": trial.when, "dialog": trial.dialog,
    }  # fmt: skip
