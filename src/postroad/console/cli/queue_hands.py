"""`postroad queue retry`, `hold`, `release`, `move`, `fail`, `drop` and `undo`: deciding over mail that waits.

Each shows first what is meant and asks; what was shown is what is changed, and nothing that came into the queue since.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from postroad.console.cli.exits import TRY_AGAIN, Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.queue_selection import Which, selection_options, who
from postroad.console.cli.show import confirm, count, wall

if TYPE_CHECKING:
    from postroad.store.selection import Chosen

SAMPLE: Final = 5
"""Deliveries that are shown before the question."""
NAMED_MAX: Final = 20
"""Deliveries under way that are named one by one."""


class Doing(NamedTuple):
    """One command: its word in the store, the effect in words, what was done, and what of mail under way."""

    what: str
    effect: str
    done: str
    under_way: str
    unfit: str
    """Why nothing at all of a selection was changed."""


_RETRY: Final = Doing(
    "retry",
    "They are tried now.",
    "will be tried now",
    "They are being tried already.",
    "What is held waits for: postroad queue release",
)
_HOLD: Final = Doing(
    "hold",
    "Nothing is tried until somebody releases them, and they do not expire meanwhile.",
    "held",
    "What is being tried is held if this attempt fails.",
    "They are held already.",
)
_RELEASE: Final = Doing(
    "release",
    "They are tried now, with the lifetime they had left.",
    "released",
    "They are being tried already.",
    "They are not held.",
)
_MOVE: Final = Doing(
    "move",
    "They go to {}, now.",
    "moved to {}",
    "What is being tried goes there if this attempt fails.",
    "They go there already, or are for mailboxes here.",
)
_DROP: Final = Doing(
    "drop",
    "They end without an attempt, and the senders get no report.",
    "dropped",
    "What is being tried is dropped if this attempt fails.",
    "They are dropped already.",
)
_FAIL: Final = Doing(
    "fail",
    "They end undelivered now, and the senders get a report.",
    "ended undelivered",
    "What is being tried is left alone: fail it when that attempt has ended.",
    "They ended meanwhile.",
)


def _yes(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--yes", is_flag=True, help="Do not ask.")(command)


@click.command()
@selection_options(every=False)
@_yes
@place_options
def retry(which: Which, yes: bool, place: Place) -> None:
    """Try deliveries now instead of at their time.

    WHAT is a domain, a recipient's address or a queue id. What is being tried
    already is left alone, and so is what somebody holds. Of one message
    nothing is asked.

    \b
    Examples:
      postroad queue retry 09RKWM1600005
      postroad queue retry example.net
      postroad queue retry --site mx.example.net:25 --yes
      postroad queue retry --all
    """
    _by_hand(place, _RETRY, which, yes or bool(which.selection.message))
    _name_suspended(place, which)


@click.command()
@selection_options(every=False)
@click.option("--why", default="", help="What to say of it.")
@_yes
@place_options
def hold(which: Which, why: str, yes: bool, place: Place) -> None:
    """Keep deliveries back until somebody releases them.

    They do not expire while they are held. For 60 s it can be taken back.

    \b
    Examples:
      postroad queue hold 09RKWM1600005
      postroad queue hold --user anna@example.org --why "her account was stolen"
    """
    by = who()
    _by_hand(place, _HOLD, which, yes, f"held by {by}: {why}" if why else f"held by {by}", by)


@click.command()
@selection_options(every=False)
@_yes
@place_options
def release(which: Which, yes: bool, place: Place) -> None:
    """Let go of deliveries that are held, by hand or by the policy.

    Of one message nothing is asked.

    \b
    Examples:
      postroad queue release 09RKWM1600005
      postroad queue release --user anna@example.org
    """
    held = Which(which.selection._replace(state=which.selection.state or "held"), which.text)
    _by_hand(place, _RELEASE, held, yes or bool(which.selection.message))
    _name_suspended(place, which)


@click.command()
@selection_options(every=False)
@click.option("--to", "next_hop", required=True, metavar="HOST", help="host:port, lmtp:host:port, lmtp:/path, or dns.")
@_yes
@place_options
def move(which: Which, next_hop: str, yes: bool, place: Place) -> None:
    """Send deliveries to another host than their domain's.

    "--to dns" sends them the usual way again. For 60 s it can be taken back.
    What is held stays held.

    \b
    Examples:
      postroad queue move example.net --to relay.example.org:25
      postroad queue move --site mx.example.net:25 --to dns
    """
    from postroad.values.next_hop import parse_next_hop

    if next_hop == "dns":
        target, words = "", "where DNS and configuration say"
    else:
        try:
            target = words = str(parse_next_hop(next_hop))
        except ValueError as error:
            raise click.UsageError(f"{error}.") from error
    doing = _MOVE._replace(effect=_MOVE.effect.format(words), done=_MOVE.done.format(words))
    _by_hand(place, doing, which, yes, target)


@click.command()
@selection_options(every=False)
@_yes
@place_options
def drop(which: Which, yes: bool, place: Place) -> None:
    """End deliveries without an attempt; nobody gets a report.

    WHAT is a domain, a recipient's address or a queue id. For 60 s it can be
    taken back; then the mail is gone.

    \b
    Examples:
      postroad queue drop 09RKWM1600005
      postroad queue drop --sender "<>" --older 2d
      postroad queue drop spamtrap.example --yes
    """
    _by_hand(place, _DROP, which, yes)


@click.command()
@selection_options(every=False)
@click.option("--why", default="the administrator of this server ended it", show_default=True, help="For the report.")
@_yes
@place_options
def fail(which: Which, why: str, yes: bool, place: Place) -> None:
    """End deliveries undelivered now, with a report to their senders.

    This cannot be taken back.

    \b
    Examples:
      postroad queue fail 09RKWM1600005
      postroad queue fail old.example --why "the company has closed"
    """
    from postroad.console.cli.queue_fail import end_undelivered

    by = who()
    found = _found(place, which)
    _ask(found, _FAIL, which, yes)
    touched, under_way = end_undelivered(place.config(), found.ids, by, which.text, why)
    _said(_FAIL, which, touched, under_way, 0, 0)


@click.command()
@click.argument("number", type=int, required=False)
@place_options
def undo(number: int | None, place: Place) -> None:
    """Take back a drop, a hold or a move, within 60 s.

    Without a number it is the last one. What somebody changed since, or what
    has ended, stays as it is.

    \b
    Examples:
      postroad queue undo
      postroad queue undo 7
    """
    from postroad.console.cli.stores import changing, looking
    from postroad.store.actions import FINAL, UNKNOWN, Undo, Undone
    from postroad.store.actions import undo as undo_unit
    from postroad.store.waiting import last_undoable

    by = who()
    data_dir = place.data_dir()
    if number is None:
        with looking(data_dir) as reader:
            number = last_undoable(reader, time.time_ns() // 1000)
        if not number:
            raise Trouble("Nothing can be taken back.", "What was done: postroad queue actions")
    restored = passed = 0
    with changing(data_dir) as call:
        while True:
            answer: Undone = call(undo_unit, Undo(number, by))
            if answer.word and not restored + passed:
                words = {UNKNOWN: f"There is no action {number}.", FINAL: f"Action {number} is final."}
                raise Trouble(words[answer.word], "What was done: postroad queue actions")
            restored, passed = restored + answer.restored, passed + answer.passed
            if not answer.more:
                break
    click.echo(f"{count(restored, 'delivery', 'deliveries')} as before.")
    if passed:
        click.echo(f"{count(passed, 'delivery has', 'deliveries have')} ended or changed since.")


COMMANDS: Final[tuple[click.Command, ...]] = (retry, hold, release, move, fail, drop, undo)
"""What `console.cli.queue` adds to its group."""


# -- doing it ----------------------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """What fits a selection: all ids, and the first few in full."""

    ids: array[int]
    sample: list[Chosen]
    under_way: int
    now_us: int


def _by_hand(place: Place, doing: Doing, which: Which, yes: bool, detail: str = "", by: str = "") -> None:
    by = by or who()
    found = _found(place, which)
    _ask(found, doing, which, yes)
    _do(place, doing, which, found, by, detail)


def _do(place: Place, doing: Doing, which: Which, found: _Found, by: str, detail: str = "") -> None:
    from postroad.console.cli.stores import changing
    from postroad.store.actions import Act, Acted, ActionBegin, act, action_begin
    from postroad.store.client import UnitFailed
    from postroad.store.units import ROWS_PER_UNIT
    from postroad.values.errors import StoreBroken, StoreFull

    touched, until_us, under_way = 0, 0, array("q")
    with changing(place.data_dir()) as call:
        number: int = call(action_begin, ActionBegin(doing.what, by, which.text, detail))
        for start in range(0, len(found.ids), ROWS_PER_UNIT):
            try:
                acted: Acted = call(act, Act(number, list(found.ids[start : start + ROWS_PER_UNIT])))
            except (StoreBroken, StoreFull, UnitFailed) as error:
                raise Trouble(
                    f"{count(touched, 'delivery', 'deliveries')} {doing.done}, then the store ended: {error}.",
                    "Run the same command again for the rest.",
                    exit_code=TRY_AGAIN,
                ) from error
            touched, until_us = touched + acted.touched, acted.until_us or until_us
            under_way.extend(acted.under_way)
    _said(doing, which, touched, under_way, until_us, number)


def _name_suspended(place: Place, which: Which) -> None:
    """Says which of what was let go is put off again at once, because nothing goes to its site for a while."""
    from postroad.console.cli.stores import looking
    from postroad.store.selection import pages
    from postroad.store.suspensions import shaped_sites

    now_us = time.time_ns() // 1000
    with looking(place.data_dir()) as reader:
        for one in shaped_sites(reader, now_us):
            source, _, site = one.site.rpartition(">")
            own = which.selection.site or site
            meant = which.selection._replace(site=own)
            if one.by_source or one.slowed or own != site or not any(pages(reader, meant, now_us)):
                continue
            ours = f" from {source}" if source else ""
            click.echo(f"Nothing goes to {site}{ours} until {wall(one.until_us)}; what would go there waits.", err=True)
            click.echo(f"Why: postroad shaping     to lift that: postroad shaping lift {site}", err=True)


def retry_now(place: Place, which: Which) -> None:
    """What `retry` does, without a question, and without a word where nothing waits."""
    found = _look(place, which)
    if found.ids:
        _do(place, _RETRY, which, found, who())


def _found(place: Place, which: Which) -> _Found:
    found = _look(place, which)
    if not found.ids:
        word = "is held" if which.selection.state == "held" else "waits"
        raise Trouble(f"Nothing {word} {which.text.replace(', that are held', '')}.", "Look: postroad queue list")
    return found


def _look(place: Place, which: Which) -> _Found:
    from postroad.console.cli.stores import looking
    from postroad.store.selection import UNDER_WAY, pages

    now_us = time.time_ns() // 1000
    ids = array("q")
    sample: list[Chosen] = []
    under_way = 0
    with looking(place.data_dir()) as reader:
        for page in pages(reader, which.selection, now_us):
            ids.extend(one.id for one in page)
            under_way += sum(one.state_word(now_us) == UNDER_WAY for one in page)
            sample += page[: SAMPLE - len(sample)]
    return _Found(ids, sample, under_way, now_us)


def _ask(found: _Found, doing: Doing, which: Which, yes: bool) -> None:
    """Shows how many there are, some of them and what happens to them, and asks."""
    from postroad.console.cli.queue import print_each

    if yes:
        return
    number = len(found.ids)
    print_each(found.sample, found.now_us, "")
    if number > len(found.sample):
        click.echo(f"... and {number - len(found.sample):,} more")
    if found.under_way:
        click.echo(f"{count(found.under_way, 'is', 'are')} being tried at this moment. {doing.under_way}")
    question = f"{doing.what.capitalize()} {count(number, 'delivery', 'deliveries')} {which.text}? {doing.effect}"
    confirm(question, yes)


def _said(doing: Doing, which: Which, touched: int, under_way: array[int], until_us: int, number: int) -> None:
    """What was done, what was under way, and how to take it back."""
    from postroad.values.ids import id_text

    click.echo(f"{count(touched, 'delivery', 'deliveries')} {which.text} {doing.done}.")
    if under_way:
        named = ", ".join(id_text(ident) for ident in under_way[:NAMED_MAX])
        more = f" and {len(under_way) - NAMED_MAX:,} more" if len(under_way) > NAMED_MAX else ""
        click.echo(f"Under way at this moment: {named}{more}. {doing.under_way}")
    if until_us and touched:
        click.echo(f"Until {wall(until_us)[11:]} it can be taken back: postroad queue undo {number}", err=True)
    if not touched and not under_way:
        click.echo(f"Nothing was changed. {doing.unfit}", err=True)
        raise click.exceptions.Exit(1)
