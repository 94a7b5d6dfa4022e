"""`postroad why`: what happened to a message, and why."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from postroad.console.cli.exits import NOTHING, Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import json_option, print_json, print_rows, wall

if TYPE_CHECKING:
    from postroad.console.why import Answer, Line
    from postroad.store.stories import Stories

LIST_MAX: Final = 20

FRESH_US: Final = 5_000_000
SECOND_LOOK_S: Final = 1.5
"""The store process writes refusals half a second after they happened, or when it has time."""

LOOKS: Final[dict[str, dict[str, Any]]] = {
    "": {},
    "dim": {"dim": True},
    "bold": {"bold": True},
    "delivered": {"fg": "green"},
    "fetched": {"fg": "green"},
    "received": {"fg": "cyan"},
    "reported": {"fg": "cyan"},
    "deferred": {"fg": "yellow"},
    "throttled": {"fg": "yellow"},
    "slowed": {"fg": "yellow"},
    "suspended": {"fg": "yellow"},
    "waiting": {"fg": "yellow"},
    "held": {"fg": "yellow"},
    "due": {"fg": "yellow"},
    "bounced": {"fg": "red"},
    "refused": {"fg": "red"},
    "returned": {"fg": "red"},
    "discarded": {"fg": "red"},
    "dropped": {"fg": "red"},
}
"""How the looks of `console.why` are done on a terminal; other words of the journal are plain."""


@click.command()
@click.argument("what")
@json_option
@click.option("--all", "every", is_flag=True, help="List all matches, not only the newest.")
@place_options
def why(what: str, as_json: bool, every: bool, place: Place) -> None:
    """Tell what happened to a message, and why.

    WHAT is a queue id, an address, a Message-ID, the reference of a refusal
    ("Ref 09RKWM1600005" in a reply), or the IP address of a refused client.
    Several matches are listed, newest first. Exit status 1 when there is none.

    \b
    Examples:
      postroad why 09RKWM1600005
      postroad why anna@example.org
      postroad why "<20260923.1234@example.org>"
    """
    from postroad.console.cli.stores import reading
    from postroad.console.why import answer
    from postroad.store.stories import Stories

    wanted = _cleaned(what)
    now_us = time.time_ns() // 1000
    with reading(place.data_dir()) as data_dir:
        stories = Stories(data_dir)
        found = _found(stories, wanted, now_us)
        if len(found) > 1:
            _several(stories, found, wanted, every, as_json, now_us)
            return
        story = stories.story(found[0]) if found else None
    if story is None:
        _nothing(wanted, as_json)
        return
    told = answer(story, now_us)
    if as_json:
        print_json("why/1", query=wanted, matches=1, message=_as_builtins(told))
        return
    width = min(120, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 0
    from postroad.console.why import lines

    for line in lines(told, now_us, width):
        click.echo(_painted(line))


def _found(stories: Stories, wanted: str, now_us: int) -> list[int]:
    """The matches; an id of this very moment gets a second look, because refusals are written a moment later."""
    from postroad.values.ids import made_at_us, parse_id

    found = stories.find(wanted)
    ident = parse_id(wanted)
    if not found and ident is not None and abs(now_us - made_at_us(ident)) < FRESH_US:
        time.sleep(SECOND_LOOK_S)
        found = stories.find(wanted)
    return found


def _painted(line: Line) -> str:
    return "".join(click.style(text, **LOOKS.get(look, {})) if look else text for text, look in line)


def _cleaned(what: str) -> str:
    """What people paste: "Ref 09RK...", "id=09RK...", "<a@b>", "Message-ID: <x@y>"."""
    text = what.strip()
    for before in ("message-id:", "queued as", "ref", "id="):
        if text.lower().startswith(before):
            text = text[len(before) :].strip()
    return text.strip("<>\"'., ")


def _nothing(wanted: str, as_json: bool) -> None:
    if as_json:
        print_json("why/1", query=wanted, matches=0)
        raise click.exceptions.Exit(NOTHING)
    raise Trouble(
        f'Nothing is known of "{wanted}".',
        "Searched: queue ids, refusals' references, senders, recipients, Message-IDs and\n"
        "addresses of refused clients, in the queue, the journal and the refusals.\n"
        "Words are compared as a whole; an address needs both sides of the @.\n"
        "If the other side says it sent something, its server may never have reached\n"
        "this one: ask for the text of the error it got, and look for its IP address.\n"
        "Of many refusals of one client some are written down only when the minute is over.",
        exit_code=NOTHING,
    )


def _several(stories: Stories, found: list[int], wanted: str, every: bool, as_json: bool, now_us: int) -> None:
    from postroad.console.why import answer
    from postroad.values.ids import id_text, made_at_us

    shown = found if every else found[:LIST_MAX]
    told = [answer(story, now_us) for ident in shown if (story := stories.story(ident)) is not None]
    if as_json:
        print_json("why/1", query=wanted, matches=len(found), messages=[_as_builtins(one) for one in told])
        return
    print_rows(
        ("id", "received", "state", "from", "to"),
        [(id_text(one.id), wall(made_at_us(one.id)), one.state, one.sender or "?", _recipients(one)) for one in told],
        "",
    )
    if len(shown) < len(found):
        click.echo(f"{len(found) - len(shown)} older ones: add --all", err=True)
    click.echo(f"The whole story of one: postroad why {id_text(found[0])}", err=True)


def _recipients(told: Answer) -> str:
    names = list(dict.fromkeys(ending.recipient for ending in told.endings if ending.recipient))
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "") or "?"


def _as_builtins(told: Answer) -> dict[str, Any]:
    import msgspec

    from postroad.values.ids import id_text

    plain: dict[str, Any] = msgspec.to_builtins(told)
    plain["number"], plain["id"] = plain["id"], id_text(told.id)
    return plain
