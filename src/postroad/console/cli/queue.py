"""`postroad queue`: what has not left yet, why, and when it is tried again."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from postroad.console.cli import queue_hands
from postroad.console.cli.exits import Trouble
from postroad.console.cli.listing import ListingGroup
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.queue_amend import amend
from postroad.console.cli.queue_selection import Which, selection_options
from postroad.console.cli.show import json_option, print_json, print_rows, size_text, wall

if TYPE_CHECKING:
    from postroad.store.selection import Chosen
    from postroad.store.tallies import Group, Overview
    from postroad.store.waiting import Action, Envelope

REASON_WIDTH: Final = 60
LIST_MAX: Final = 1000
"""Rows of a list; --limit says otherwise."""
ACTIONS_SHOWN: Final = 50


@click.group(cls=ListingGroup)
def queue() -> None:
    """See mail that has not left yet, and decide over it.

    \b
    Examples:
      postroad queue
      postroad queue --by reason
      postroad queue list example.net
      postroad queue show 09RKWM1600005
      postroad queue retry example.net
      postroad queue hold --user anna@example.org
      postroad queue drop 09RKWM1600005
    """


for _command in (*queue_hands.COMMANDS, amend):
    queue.add_command(_command)


# -- lists -------------------------------------------------------------------------------------------------------------


@queue.command("list")
@selection_options(every=True)
@click.option(
    "--by", type=click.Choice(["site", "domain", "user", "reason"]), default="domain", show_default=True,
    help="What the groups have in common.",
)  # fmt: skip
@click.option("--each", is_flag=True, help="One row per message and recipient.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=LIST_MAX, show_default=True, help="Rows at most.")
@json_option
@place_options
def list_(which: Which, by: str, each: bool, limit: int, as_json: bool, place: Place) -> None:
    """List what waits in groups with its ages, or each message.

    WHAT is a domain, a recipient's address or a queue id. With it, or with a
    condition, each delivery is listed. The columns from 5m to 1280m+ count
    mail by its age in minutes.

    \b
    Examples:
      postroad queue list
      postroad queue list --by site
      postroad queue list --each --state held
      postroad queue list example.net --older 4h
      postroad queue list 09RKWM1600005 --json
    """
    now_us = time.time_ns() // 1000
    if each or not which.selection.every:
        _show_each(_rows(place, which, now_us, limit), which, now_us, as_json)
    else:
        _show_groups(place, by, now_us, limit, as_json)


def _rows(place: Place, which: Which, now_us: int, limit: int) -> list[Chosen]:
    from postroad.console.cli.stores import looking
    from postroad.store.selection import pages

    found: list[Chosen] = []
    with looking(place.data_dir()) as reader:
        for page in pages(reader, which.selection._replace(dropped=True), now_us):
            found += page
            if len(found) >= limit:
                break
    return found[:limit]


def _show_groups(place: Place, by: str, now_us: int, limit: int, as_json: bool) -> None:
    from postroad.console.cli.stores import reading
    from postroad.store.tallies import overview

    with reading(place.data_dir()) as data_dir:
        found = overview(data_dir, by, now_us, limit)
    if as_json:
        print_json(
            "queue-groups/1",
            by=by,
            rows=[_group_json(group) for group in found.groups],
            total=_group_json(found.total),
            more=found.more,
        )
        return
    _print_groups(found, by, now_us)


def _group_json(group: Group) -> dict[str, Any]:
    from postroad.values.ids import made_at_us

    row: dict[str, Any] = group._asdict() | {"oldest_us": made_at_us(group.oldest) if group.oldest else 0}
    del row["oldest"]
    row["heat"] = dict(zip(_ages(), group.heat, strict=True))
    return row


def _ages() -> list[str]:
    from postroad.store.tallies import AGES_MIN

    return [*(f"{minutes}m" for minutes in AGES_MIN), f"{AGES_MIN[-1]}m+"]


def _print_groups(found: Overview, by: str, now_us: int) -> None:
    totals = [("TOTAL", found.total)] if found.groups and sys.stdout.isatty() else []
    heads = (by, "waiting", "due", "trying", "thrttl", "held", *_ages(), "oldest", "next try", "reason")
    print_rows(
        heads,
        [_group_row(name, group, now_us, by) for name, group in [*totals, *((one.name, one) for one in found.groups)]],
        "The queue is empty.",
    )
    if found.more:
        click.echo(f"... and {found.more:,} more groups: add --limit", err=True)


def _group_row(name: str, group: Group, now_us: int, by: str) -> tuple[str, ...]:
    from postroad.console.why import span
    from postroad.values.ids import made_at_us

    plain = (group.deliveries, group.due, group.under_way, group.throttled, group.held + group.dropped, *group.heat)
    return (
        _plain(name) or "-",
        *map(str, plain),
        span((now_us - made_at_us(group.oldest)) / 1e6) if group.oldest else "-",
        _when(group.next_us, now_us),
        "" if by == "reason" else _reason(group.reason),
    )


def _show_each(found: list[Chosen], which: Which, now_us: int, as_json: bool) -> None:
    from postroad.values.ids import id_text

    if as_json:
        print_json("queue/1", rows=[delivery_json(one, now_us) for one in found])
        return
    print_each(found, now_us, f"Nothing waits {which.text}.")
    if found and sys.stdout.isatty():
        click.echo(f"The whole story of one: postroad why {id_text(found[0].message)}", err=True)


def delivery_json(one: Chosen, now_us: int) -> dict[str, Any]:
    """One open delivery as the shape queue/1 has it."""
    from postroad.store.records import NEVER_US
    from postroad.values.ids import id_text, made_at_us

    return {
        "id": id_text(one.message),
        "delivery": id_text(one.id),
        "recipient": one.recipient,
        "domain": one.domain,
        "sender": one.sender,
        "user": one.login,
        "size": one.size,
        "state": one.state_word(now_us),
        "attempts": one.attempts,
        "next_us": one.due_us if one.due_us < NEVER_US else 0,
        "next_hop": one.next_hop,
        "received_us": made_at_us(one.message),
        "reason": one.reason,
    }


def print_each(found: list[Chosen], now_us: int, empty: str) -> None:
    """One row per delivery."""
    from postroad.console.why import span
    from postroad.values.ids import id_text, made_at_us

    print_rows(
        ("id", "age", "from", "to", "state", "tries", "next try", "reason"),
        [
            (
                id_text(one.message),
                span((now_us - made_at_us(one.message)) / 1e6),
                _plain(one.sender) or "<>",
                _plain(one.recipient),
                one.state_word(now_us),
                str(one.attempts),
                _when(one.due_us, now_us),
                _reason(one.reason),
            )
            for one in found
        ],
        empty,
    )


# -- one message -------------------------------------------------------------------------------------------------------


@queue.command()
@click.argument("ident", metavar="ID")
@json_option
@place_options
def show(ident: str, as_json: bool, place: Place) -> None:
    """Show a message that waits: its envelope and every open delivery.

    \b
    Examples:
      postroad queue show 09RKWM1600005
      postroad queue show 09RKWM1600005 --json
    """
    from postroad.console.cli.stores import looking
    from postroad.store.waiting import deliveries, envelope
    from postroad.values.ids import parse_id

    number = parse_id(ident)
    if number is None:
        raise click.UsageError(f'"{ident}" is no queue id.')
    now_us = time.time_ns() // 1000
    with looking(place.data_dir()) as reader:
        found = envelope(reader, number)
        open_ = deliveries(reader, number, now_us) if found is not None else []
    if found is None or not open_:
        raise Trouble(f"{ident.upper()} does not wait.", f"Its story: postroad why {ident.upper()}")
    if as_json:
        rows = [delivery_json(one, now_us) for one in open_]
        print_json("queue-message/1", **_envelope_json(found), rows=rows)
        return
    for name, text in _envelope_lines(found, now_us):
        click.echo(f"{name:<10}{text}")
    for one in open_:
        click.echo()
        for name, text in _delivery_lines(one, now_us):
            click.echo(f"{name:<10}{text}")
    if found.deliveries > len(open_):
        click.echo(f"\n... and {found.deliveries - len(open_):,} more")


def _envelope_json(found: Envelope) -> dict[str, Any]:
    from postroad.values.ids import id_text

    shown: dict[str, Any] = found._asdict() | {"id": id_text(found.id), "user": found.login}
    del shown["login"]
    return shown


def _envelope_lines(found: Envelope, now_us: int) -> list[tuple[str, str]]:
    from postroad.console.why import span
    from postroad.values.ids import id_text

    marks = [word for word, is_so in (("SMTPUTF8", found.smtputf8), ("8BITMIME", found.eightbit)) if is_so]
    marks += [f"RET={found.ret}"] if found.ret else []
    marks += [f"ENVID={found.envid}"] if found.envid else []
    lines = [
        ("message", id_text(found.id)),
        ("from", _plain(found.sender) or "<>"),
        ("user", found.login or "-"),
        ("size", size_text(found.size)),
        ("received", f"{wall(found.received_us)}, {span((now_us - found.received_us) / 1e6)} ago"),
        ("ends", f"{wall(found.expires_us)}, unless it is held"),
    ]
    return [*lines, ("asks for", " ".join(marks))] if marks else lines


def _delivery_lines(one: Chosen, now_us: int) -> list[tuple[str, str]]:
    from postroad.values.ids import id_text

    lines = [
        ("to", _plain(one.recipient)),
        ("delivery", id_text(one.id)),
        ("state", one.state_word(now_us)),
        ("tries", str(one.attempts)),
        ("next", _when(one.due_us, now_us)),
    ]
    if one.next_hop:
        lines.append(("goes to", one.next_hop))
    return [*lines, ("reason", _plain(one.reason))] if one.reason else lines


# -- what people did ---------------------------------------------------------------------------------------------------


@queue.command("actions")
@json_option
@place_options
def actions_(as_json: bool, place: Place) -> None:
    """List what people did to the queue: who, what, to which mail.

    \b
    Examples:
      postroad queue actions
    """
    from postroad.console.cli.stores import looking
    from postroad.store.waiting import actions

    now_us = time.time_ns() // 1000
    with looking(place.data_dir()) as reader:
        found = actions(reader, ACTIONS_SHOWN)
    if as_json:
        print_json("queue-actions/1", rows=[one._asdict() for one in found])
        return
    print_rows(
        ("number", "when", "who", "what", "deliveries", "which", "detail", "state"),
        [_action_row(one, now_us) for one in found],
        "Nobody did anything to the queue.",
    )


def _action_row(one: Action, now_us: int) -> tuple[str, ...]:
    state = "taken back" if one.undone else "can be taken back" if one.until_us > now_us else "final"
    number, deliveries, detail = str(one.number), str(one.deliveries), one.detail or "-"
    return (number, wall(one.at_us), one.by, one.what, deliveries, one.selection, detail, state)


def _when(due_us: int, now_us: int) -> str:
    from postroad.console.why import span
    from postroad.store.records import NEVER_US

    if not due_us or due_us >= NEVER_US:
        return "-"
    return "now" if due_us <= now_us else f"in {span((due_us - now_us) / 1e6)}"


def _plain(text: str) -> str:
    """Peers' words on one line."""
    return "".join(c if c.isprintable() else " " for c in text)


def _reason(reply: str) -> str:
    text = _plain(reply) or "-"
    return text if len(text) <= REASON_WIDTH or not sys.stdout.isatty() else text[: REASON_WIDTH - 1] + "…"
