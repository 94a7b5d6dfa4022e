"""`postroad rehearse`: play a mail server that delivers here from any address, and see what would be taken."""

from __future__ import annotations

import ipaddress

import click

from postroad.console.cli.exits import Trouble
from postroad.console.cli.place import Place, place_options


@click.command()
@click.option("--from-ip", required=True, metavar="ADDRESS", help="Where the client seems to come from.")
@place_options
def rehearse(from_ip: str, place: Place) -> None:
    """Speak SMTP to the MX as if from ADDRESS; nothing is kept or sent.

    Commands are read from standard input. The rules, the recipients, policy.py
    and the milters are the real ones. Lines that begin with ** say what only
    the administrator may know: why something is refused, and where a message
    would go.

    \b
    Examples:
      postroad rehearse --from-ip 192.0.2.9
      postroad rehearse --from-ip 2001:db8::9 < session.txt
    """
    play(place, from_ip)


def play(place: Place, from_ip: str) -> None:
    """One rehearsal on standard input and output."""
    from postroad.app.rehearsal import run
    from postroad.console.cli.stores import reading

    try:
        address = ipaddress.ip_address(from_ip)
    except ValueError:
        raise Trouble(
            f'"{from_ip}" is not an IP address.', "Write it as 192.0.2.9 or 2001:db8::9.", exit_code=2
        ) from None
    config = place.config()
    with reading(place.data_dir()) as data_dir:
        run(config, data_dir, str(address))
