"""`postroad shaping`: hosts that take no mail for a while, or less, and how to lift that."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

import click

from postroad.console.cli.exits import Trouble
from postroad.console.cli.listing import ListingGroup
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import json_option, plain, print_json, print_rows, wall

if TYPE_CHECKING:
    from postroad.store.suspensions import Shaped

CAUSE_WIDTH: Final = 90
"""Letters of a cause on a terminal; programs get all of it."""


@click.group(cls=ListingGroup)
def shaping() -> None:
    """See which hosts take no mail for a while, or less, and lift that.

    \b
    Examples:
      postroad shaping
      postroad shaping lift google
      postroad try anna@gmail.com          limits, and what holds now
    """


@shaping.command("list")
@json_option
@place_options
def list_(as_json: bool, place: Place) -> None:
    """List the sites that nothing or less goes to, until when, and why.

    "instead" says whether mail leaves from another source address meanwhile.

    \b
    Examples:
      postroad shaping list
      postroad shaping list --json
    """
    found = _shaped(place)
    if as_json:
        print_json("shaping/1", rows=[_row(one) for one in found])
        return
    print_rows(
        ("site", "from", "state", "until", "waiting", "instead", "why"),
        [
            (
                _name(one),
                _source(one) or "-",
                _state(one),
                wall(one.until_us),
                f"{one.waiting:,}",
                "another address" if one.by_source else "-",
                plain(one.cause)[:CAUSE_WIDTH] if sys.stdout.isatty() else plain(one.cause),
            )
            for one in found
        ],
        "Every site takes mail, as far as is known.",
    )


@shaping.command()
@click.argument("site")
@click.option("--source", default="", metavar="ADDRESS", help="Only from this source address; else from all of them.")
@place_options
def lift(site: str, source: str, place: Place) -> None:
    """Let mail go to a SITE again before its time.

    What waits for it is tried now, over one connection at first. A host that
    refuses again suspends again.

    \b
    Examples:
      postroad shaping lift google
      postroad shaping lift google --source 192.0.2.10
    """
    from postroad.console.cli.queue_hands import retry_now
    from postroad.console.cli.queue_selection import Which, who
    from postroad.console.cli.stores import changing
    from postroad.store.actions import ActionBegin, action_begin
    from postroad.store.selection import Selection
    from postroad.store.suspensions import Lift, lift_suspension

    fits = [one for one in _shaped(place) if _name(one) == site and (not source or source in _source(one).split(" "))]
    meant = [one for one in fits if not one.slowed]
    if fits and not meant:
        raise Trouble(f"Mail goes to {site}, only slower; that ends by itself at {wall(fits[0].until_us)}.")
    if not meant:
        raise Trouble(f"Nothing keeps mail from {site}{f' from {source}' if source else ''}.", "Look: postroad shaping")
    by = who()
    with changing(place.data_dir()) as call:
        for one in meant:
            call(lift_suspension, Lift(one.site))
            detail = f"until {wall(one.until_us)}: {one.cause}"
            call(action_begin, ActionBegin("lift", by, f"suspension of {one.site}", detail))
            sender = f" from {_source(one)}" if _source(one) else ""
            click.echo(f"Mail goes to {site}{sender} again (it was to wait until {wall(one.until_us)}).")
    if any(one.waiting for one in meant):
        retry_now(place, Which(Selection(site=site), f"to site {site}"))


def _shaped(place: Place) -> list[Shaped]:
    from postroad.console.cli.stores import looking
    from postroad.store.suspensions import shaped_sites

    with looking(place.data_dir()) as reader:
        return shaped_sites(reader, time.time_ns() // 1000)


def _row(one: Shaped) -> dict[str, object]:
    return {
        "site": _name(one), "source": _source(one).split(), "state": _state(one), "until_us": one.until_us,
        "cause": one.cause,
        "domains": one.domains, "waiting": one.waiting, "from_another_address": one.by_source,
    }  # fmt: skip


def _name(one: Shaped) -> str:
    return one.site.rpartition(">")[2]


def _source(one: Shaped) -> str:
    return one.site.rpartition(">")[0]


def _state(one: Shaped) -> str:
    return "slowed" if one.slowed else "suspended"
