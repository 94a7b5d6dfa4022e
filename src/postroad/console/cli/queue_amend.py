"""`postroad queue amend`: another sender, or more recipients, for one message that waits."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from postroad.console.cli.exits import NO_USER, Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.queue_selection import who

if TYPE_CHECKING:
    from postroad.flow.local import Plan
    from postroad.store.records import Leg
    from postroad.values.address import Address
    from postroad.values.ids import IdMaker


@click.group()
def amend() -> None:
    """Change the envelope of a message that waits.

    \b
    Examples:
      postroad queue amend sender 09RKWM1600005 anna@example.org
      postroad queue amend recipients 09RKWM1600005 bob@example.net
    """


@amend.command()
@click.argument("ident", metavar="ID")
@click.argument("address")
@place_options
def sender(ident: str, address: str, place: Place) -> None:
    """Say who gets the reports; <> is nobody.

    What is being tried at this moment names the sender before.

    \b
    Examples:
      postroad queue amend sender 09RKWM1600005 anna@example.org
      postroad queue amend sender 09RKWM1600005 "<>"
    """
    from postroad.console.cli.stores import changing
    from postroad.store.amendments import NewSender, amend_sender
    from postroad.values.event import Event, pack

    number, by = _number(ident), who()
    text = "" if address == "<>" else str(_address(address))
    event = Event(
        kind="amended", at_us=time.time_ns() // 1000, by=f"postroad queue, {by}", cause=f"the sender is <{text}> now"
    )
    with changing(place.data_dir()) as call:
        if not call(amend_sender, NewSender(number, text, pack([event]))):
            raise _gone(ident)
    click.echo(f"The sender of {ident.upper()} is <{text}> now.")


@amend.command()
@click.argument("ident", metavar="ID")
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
@place_options
def recipients(ident: str, addresses: tuple[str, ...], place: Place) -> None:
    """Send a message that waits to more recipients.

    \b
    Examples:
      postroad queue amend recipients 09RKWM1600005 bob@example.net
    """
    from postroad.console.cli.stores import opened
    from postroad.flow.local import Planner
    from postroad.store.amendments import NewRecipients, amend_recipients
    from postroad.store.directory import Directory
    from postroad.store.reader import Reader
    from postroad.store.register import Register, register
    from postroad.store.waiting import envelope
    from postroad.values.event import Event, pack
    from postroad.values.ids import IdMaker

    number, by = _number(ident), who()
    wanted = [_address(each) for each in addresses]
    config = place.config()
    data_dir = Path(config.data_dir)
    now_us = time.time_ns() // 1000
    with opened(data_dir) as store:
        reader = Reader(data_dir)
        found = envelope(reader, number)
        if found is None:
            raise _gone(ident)
        hostname = config.hostname or socket.getfqdn()
        planner = Planner(Directory(reader), hostname=hostname, delimiter=config.recipient_delimiter)
        own = store.call(register, Register("postroad queue amend"))
        ids = IdMaker(own.incarnation, own.last_id)
        legs = [leg for each in wanted for leg in _legs(planner, each, found.sender, found.size, ids, now_us)]
        reader.close()
        events = [
            Event(
                kind="amended", at_us=now_us, recipient=leg.recipient, by=f"postroad queue, {by}",
                cause="added as a recipient", next_us=now_us,
            )
            for leg in legs
        ]  # fmt: skip
        keys = "\n".join(dict.fromkeys(leg.recipient.lower() for leg in legs))
        if not store.call(amend_recipients, NewRecipients(number, legs, keys, pack(events))):
            raise _gone(ident)
    click.echo(f"{ident.upper()} goes to {', '.join(leg.recipient for leg in legs)} too.")


def _legs(planner: object, address: Address, sender: str, size: int, ids: IdMaker, now_us: int) -> list[Leg]:
    """Where mail for one address goes, as open deliveries that are due; ends the command when it goes nowhere."""
    from postroad.console.cli.stores import now
    from postroad.flow.at_once import local_leg
    from postroad.flow.destinations import Destinations
    from postroad.flow.local import Planner
    from postroad.store.records import Copy, Leg
    from postroad.values.envelope import Recipient

    assert isinstance(planner, Planner)
    plan = cast("Plan", now(planner.plan(address, size=size, may_relay=True)))
    if plan.refusal is not None:
        raise Trouble(f"{address} takes no mail: {plan.refusal}", "Nothing was changed.", exit_code=NO_USER)
    destinations = Destinations()
    destinations.add(Recipient(address), plan)
    legs = [Leg(ids.make(now_us), to, domain, due_us=now_us) for to, domain, _, _ in destinations.remotes]
    for recipient, account, mailbox in destinations.copies:
        prefix = f"Return-Path: <{sender}>\r\nDelivered-To: {recipient}\r\n".encode()
        legs.append(local_leg(ids.make(now_us), Copy(recipient, account, prefix, mailbox), now_us))
    return legs


def _number(ident: str) -> int:
    from postroad.values.ids import parse_id

    number = parse_id(ident)
    if number is None:
        raise click.UsageError(f'"{ident}" is no queue id.')
    return number


def _address(text: str) -> Address:
    from postroad.values.address import Address, AddressError

    try:
        return Address.parse(text.strip().strip("<>"), utf8=True)
    except AddressError as error:
        raise click.UsageError(f'"{text}" is no address: {error.reason}.') from error


def _gone(ident: str) -> Trouble:
    return Trouble(f"{ident.upper()} does not wait.", f"Its story: postroad why {ident.upper()}")
