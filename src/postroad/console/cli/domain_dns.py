"""`postroad domain dns` and `postroad domain check`: what a domain must say in DNS, and whether it does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, cast

import click

from postroad.console.cli.exits import NOT_TOLD, NOTHING, Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import json_option, print_json

if TYPE_CHECKING:
    from postroad.config import Config
    from postroad.flow.identity import Identity, Wanted
    from postroad.flow.identity_check import Finding
    from postroad.store.dkim_records import DkimKey

port_option: Final = click.option(
    "--port", type=click.IntRange(1, 65535), default=53, metavar="N", help="Where the DNS servers are asked [53]."
)


@click.command()
@click.argument("name")
@json_option
@place_options
def dns(name: str, as_json: bool, place: Place) -> None:
    """Print every DNS record that a domain needs, as zone text.

    What stands in somebody else's zone, such as the name of your address
    (PTR), is printed as a remark.

    \b
    Example:
      postroad domain dns example.org
    """
    from postroad.flow.identity import policy_text, wanted, zone_text

    identity = identity_of(name, place)
    if as_json:
        rows = [shown(record) for record in wanted(identity)]
        print_json("domain-dns/1", domain=identity.domain, rows=rows, mta_sts_policy=policy_text(identity))
        return
    click.echo(zone_text(identity), nl=False)


def shown(record: Wanted) -> dict[str, object]:
    """A record as JSON shows it; `strings` are the parts of a TXT record as a zone file has them."""
    from postroad.flow.identity import split_text

    row: dict[str, object] = {
        "record": record.record, "name": record.name, "type": record.kind, "value": record.value, "note": record.note,
    }  # fmt: skip
    if record.kind == "TXT":
        row["strings"] = split_text(record.value)
    return row


@click.command()
@click.argument("name")
@port_option
@json_option
@place_options
def check(name: str, port: int, as_json: bool, place: Place) -> None:
    """Ask a domain's own DNS servers whether each record is right.

    The MTA-STS policy is fetched from its web server as others would.

    Says yes, no or could not tell for each, and what to do. Status 0: all
    yes; 1: something is wrong; 3: something could not be told.

    \b
    Example:
      postroad domain check example.org
    """
    from postroad.flow.identity_check import Truth

    identity = identity_of(name, place)
    findings = ask_servers(place.config(), port, identity, with_policy=True)
    if as_json:
        print_json("domain-check/1", domain=identity.domain, rows=[_row(finding) for finding in findings])
    else:
        _print(findings)
    truths = {finding.truth for finding in findings}
    sys.exit(NOTHING if Truth.NO in truths else NOT_TOLD if Truth.COULD_NOT_TELL in truths else 0)


def _row(finding: Finding) -> dict[str, object]:
    wanted = finding.wanted
    return {
        "record": wanted.record, "name": wanted.name, "type": wanted.kind, "verdict": finding.truth.value,
        "wanted": wanted.value, "found": finding.found, "advice": finding.advice,
    }  # fmt: skip


def _print(findings: list[Finding]) -> None:
    from postroad.flow.identity_check import Truth

    colours = {Truth.YES: "green", Truth.NO: "red", Truth.COULD_NOT_TELL: "yellow"}
    width = max(len(truth.value) for truth in Truth)
    for finding in findings:
        wanted = finding.wanted
        verdict = click.style(finding.truth.value.ljust(width), fg=colours[finding.truth])
        click.echo(f"{verdict}  {wanted.kind:<5}  {wanted.name or 'the address of this server'}")
        lines = [("do" if finding.truth is not Truth.YES else "note", finding.advice)]
        if finding.truth is not Truth.YES:
            lines = [("wanted", wanted.value), ("found", finding.found), *lines]
        for label, text in lines:
            for line in text.splitlines():
                click.echo(f"{'':{width}}  {label:<6} {line}")
                label = ""


# -- for this command and its neighbours -------------------------------------------------------------------------------


def identity_of(name: str, place: Place) -> Identity:
    """What is known here of a domain that is served here; ends the command when it is not."""
    import socket

    from postroad.config.rules import SERVICES
    from postroad.console.cli.stores import looking, now
    from postroad.flow.identity import Identity, PublicKey, offered_ports
    from postroad.store.directory import Directory
    from postroad.store.dkim_reads import DkimKeys
    from postroad.store.dkim_records import RETIRED, STATES
    from postroad.trust.dkim.keys import public_octets

    config = place.config()
    domain = domain_name(name)
    with looking(place.data_dir()) as reader:
        if now(Directory(reader).domain(domain)) is None:
            raise Trouble(f"{domain} is not served here.", f"Add it: postroad domain add {domain}")
        keys = cast("list[DkimKey]", now(DkimKeys(reader).of(domain)))
    public = tuple(
        PublicKey(key.selector, key.algorithm, public_octets(key.algorithm, key.private), STATES[key.state])
        for key in keys
        if key.state != RETIRED
    )
    hostname = (config.hostname or socket.getfqdn()).lower()
    if "." not in hostname:
        click.echo(f"{hostname} is no name that others can use: set hostname in the configuration.", err=True)
    listen = [(service, getattr(config.listen, service)) for service in SERVICES if service != "mx"]
    return Identity(
        domain,
        hostname,
        config.relay.bind,
        public,
        offered_ports(listen),
        config.relay.next_hop,
    )


def domain_name(name: str) -> str:
    """The A-labels of a domain that somebody typed; ends the command when it is none."""
    from postroad.values.address import AddressError, domain_to_ascii

    try:
        return domain_to_ascii(name)
    except AddressError:
        raise Trouble(f"{name} is not a domain name.", "Write it as example.org.", exit_code=2) from None


def ask_servers(config: Config, port: int, identity: Identity, *, with_policy: bool = False) -> list[Finding]:
    """What the servers of a domain say, compared, with the MTA-STS policy where it is asked for; takes as long as the
    slowest of them."""
    import asyncio

    from postroad.flow.identity_check import check as compare
    from postroad.net.authority import AuthorityByDns
    from postroad.net.dns import DnsLookup
    from postroad.net.https import Https

    async def run() -> list[Finding]:
        lookup = DnsLookup(config.dns.nameservers, timeout_s=config.dns.timeout_s)
        try:
            authority = AuthorityByDns(lookup, config.dns.nameservers, timeout_s=config.dns.timeout_s, port=port)
            # The policy of one's own domain may well stand on a neighbour in the same network.
            https = Https(lookup, lambda address: True, ca_file=config.relay.ca_file)
            return await compare(identity, authority, https if with_policy else None)
        finally:
            await lookup.close()

    return asyncio.run(run())
