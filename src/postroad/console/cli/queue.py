"""`postroad queue`: what has not left yet, why, and when it is tried again."""

from __future__ import annotations

import getpass
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from postroad.console.cli.exits import Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import confirm, count, json_option, print_json, print_rows

if TYPE_CHECKING:
    from postroad.store.reader import Reader
    from postroad.store.waiting import Destination, Waiting

REASON_WIDTH: Final = 60
PREVIEW: Final = 10
"""Deliveries shown before they are dropped."""
LIST_MAX: Final = 1000
HELD: Final = "held until the time its sender asked for"


class Which(NamedTuple):
    """Which deliveries a command means."""

    message: int = 0
    domain: str = ""
    every: bool = False

    @property
    def text(self) -> str:
        """In words: "to example.net", "of 09RKWM1600005", "in the queue"."""
        from postroad.values.ids import id_text

        if self.message:
            return f"of {id_text(self.message)}"
        return f"to {self.domain}" if self.domain else "in the queue"


@click.group(invoke_without_command=True)
@click.pass_context
def queue(ctx: click.Context) -> None:
    """See, retry and drop mail that has not left yet.

    \b
    Examples:
      postroad queue
      postroad queue list example.net
      postroad queue retry example.net
      postroad queue drop 09RKWM1600005
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@queue.command("list")
@click.argument("what", default="")
@click.option("--each", is_flag=True, help="One row per message and recipient.")
@json_option
@place_options
def list_(what: str, each: bool, as_json: bool, place: Place) -> None:
    """List what waits, by destination, or each message of one.

    WHAT is a domain or a queue id.

    \b
    Examples:
      postroad queue list
      postroad queue list --each
      postroad queue list example.net
      postroad queue list 09RKWM1600005 --json
    """
    from postroad.console.cli.stores import looking
    from postroad.store.waiting import destinations

    now_us = time.time_ns() // 1000
    which = _which(what, every=True)
    with looking(place.data_dir()) as reader:
        if each or what:
            _show_each(_rows(reader, which, LIST_MAX), which, now_us, as_json)
        else:
            _show_destinations(destinations(reader, now_us), now_us, as_json)


def _show_destinations(found: list[Destination], now_us: int, as_json: bool) -> None:
    from postroad.console.why import span
    from postroad.values.ids import made_at_us

    if as_json:
        rows = [one._asdict() | {"oldest_us": made_at_us(one.oldest)} for one in found]
        for row in rows:
            del row["oldest"]
        print_json("queue-destinations/1", rows=rows)
        return
    print_rows(
        ("destination", "waiting", "due", "oldest", "next try", "last reply"),
        [
            (
                one.domain,
                str(one.deliveries),
                str(one.due),
                span((now_us - made_at_us(one.oldest)) / 1e6),
                _when(one.next_us, now_us),
                _reason(one.last_reply),
            )
            for one in found
        ],
        "The queue is empty.",
    )


def _show_each(found: list[Waiting], which: Which, now_us: int, as_json: bool) -> None:
    from postroad.console.why import span
    from postroad.values.ids import id_text, made_at_us

    if as_json:
        rows = [
            {
                "id": id_text(one.message),
                "recipient": one.recipient,
                "sender": one.sender,
                "size": one.size,
                "attempts": one.attempts,
                "next_us": one.due_us,
                "received_us": made_at_us(one.message),
                "reason": _why(one, now_us),
            }
            for one in found
        ]
        print_json("queue/1", rows=rows)
        return
    print_rows(
        ("id", "age", "from", "to", "tries", "next try", "reason"),
        [
            (
                id_text(one.message),
                span((now_us - made_at_us(one.message)) / 1e6),
                one.sender or "<>",
                one.recipient,
                str(one.attempts),
                _when(one.due_us, now_us),
                _reason(_why(one, now_us)),
            )
            for one in found
        ],
        f"Nothing waits {which.text}.",
    )
    if found and sys.stdout.isatty():
        click.echo(f"The whole story of one: postroad why {id_text(found[0].message)}", err=True)


@queue.command()
@click.argument("what", default="")
@click.option("--all", "every", is_flag=True, help="Everything in the queue.")
@place_options
def retry(what: str, every: bool, place: Place) -> None:
    """Try deliveries now instead of at their time.

    WHAT is a domain or a queue id. What is being tried already is left alone.

    \b
    Examples:
      postroad queue retry 09RKWM1600005
      postroad queue retry example.net
      postroad queue retry --all
    """
    from postroad.store.selection import retry_now

    which = _which(what, every)
    number = _in_slices(place, retry_now, which)
    if not number:
        raise Trouble(f"Nothing waits {which.text}.", "Look: postroad queue list")
    click.echo(f"{count(number, 'delivery', 'deliveries')} {which.text} will be tried now.")


@queue.command()
@click.argument("what", default="")
@click.option("--all", "every", is_flag=True, help="Everything in the queue.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@place_options
def drop(what: str, every: bool, yes: bool, place: Place) -> None:
    """End deliveries without an attempt; nobody gets a report.

    WHAT is a domain or a queue id. What would be dropped is shown first.

    \b
    Examples:
      postroad queue drop 09RKWM1600005
      postroad queue drop spamtrap.example --yes
    """
    from postroad.console.cli.stores import looking
    from postroad.store import waiting as queue_reads
    from postroad.store.selection import drop as drop_unit

    which = _which(what, every)
    with looking(place.data_dir()) as reader:
        number = queue_reads.count(reader, message=which.message, domain=which.domain)
        shown = _rows(reader, which, PREVIEW)
    if not number:
        raise Trouble(f"Nothing waits {which.text}.", "Look: postroad queue list")
    _show_each(shown, which, time.time_ns() // 1000, as_json=False)
    if number > len(shown):
        click.echo(f"... and {number - len(shown):,} more")
    what_text = count(number, "delivery", "deliveries")
    confirm(f"Drop {what_text} {which.text}? The senders get no report.", yes)
    dropped = _in_slices(place, drop_unit, which)
    click.echo(f"{count(dropped, 'delivery', 'deliveries')} dropped. Their stories stay: postroad why ID")


def _which(what: str, every: bool) -> Which:
    """What a word on the command line means; ends the command for one that means nothing."""
    from postroad.values.address import AddressError, domain_to_ascii
    from postroad.values.ids import parse_id

    if not what:
        if not every:
            raise click.UsageError("Say which: a domain, a queue id, or --all.")
        return Which(every=True)
    ident = parse_id(what)
    if ident is not None:
        return Which(message=ident)
    try:
        return Which(domain=domain_to_ascii(what.rpartition("@")[2]))
    except AddressError as error:
        raise click.UsageError(f'"{what}" is neither a queue id nor a domain.') from error


def _rows(reader: Reader, which: Which, most: int) -> list[Waiting]:
    from postroad.store.waiting import waiting

    return waiting(reader, message=which.message, domain=which.domain)[:most]


def _in_slices(place: Place, unit: Any, which: Which) -> int:
    """Runs a unit over the queue slice by slice; returns how many deliveries it touched."""
    from postroad.console.cli.stores import changing
    from postroad.store.selection import Selected, Selection

    touched, after = 0, 0
    by = f"postroad queue, {getpass.getuser()}"
    with changing(place.data_dir()) as call:
        while True:
            selection = Selection(by, which.message, 0, which.domain, which.every, after)
            slice_: Selected = call(unit, selection)
            touched += slice_.count
            after = slice_.following
            if not after:
                return touched


def _when(due_us: int, now_us: int) -> str:
    from postroad.console.why import span

    return "now" if due_us <= now_us else f"in {span((due_us - now_us) / 1e6)}"


def _why(one: Waiting, now_us: int) -> str:
    """Why a delivery waits: the last answer; or it was never tried, because its sender asked for a later time."""
    return one.last_reply or (HELD if not one.attempts and one.due_us > now_us else "")


def _reason(reply: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in reply) or "-"
    return text if len(text) <= REASON_WIDTH or not sys.stdout.isatty() else text[: REASON_WIDTH - 1] + "…"
