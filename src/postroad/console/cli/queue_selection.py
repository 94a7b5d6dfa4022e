"""Which deliveries a command of `postroad queue` means: a word, or options that all must fit."""

from __future__ import annotations

import functools
import os
import pwd
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

if TYPE_CHECKING:
    from postroad.store.selection import Selection

STATES: Final = ("queued", "deferred", "throttled", "held", "due", "trying")
DROPPED: Final = "dropped"
"""One more that can be looked at: what was dropped is only taken back, by `undo`."""
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Which(NamedTuple):
    """A selection, and the same in words: "to example.net, older than 4h"."""

    selection: Selection
    text: str


def selection_options(*, every: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds WHAT and the conditions, handed over as `which`; with `every`, saying nothing means all of the queue."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def chosen(*args: Any, **options: Any) -> Any:
            own = {name: options.pop(name) for name in _NAMES}
            return command(*args, which=_which(own, every), **options)

        for option in reversed((*_OPTIONS, _state_option((*STATES, DROPPED) if every else STATES))):
            chosen = option(chosen)
        return chosen

    return decorate


_OPTIONS: Final = (
    click.argument("what", default=""),
    click.option("--delivery", default="", metavar="ID", help="One delivery, as `queue show` names it."),
    click.option("--sender", default="", metavar="ADDRESS", help="Its sender: an address, @domain, or <>."),
    click.option("--recipient", default="", metavar="ADDRESS", help="Its recipient: an address or @domain."),
    click.option("--domain", default="", metavar="NAME", help="The recipient's domain."),
    click.option("--site", default="", metavar="NAME", help="Where it goes, as `queue list --by site` names it."),
    click.option("--user", default="", metavar="LOGIN", help="Who submitted it."),
    click.option("--reason", default="", metavar="TEXT", help="A part of the last reply, or of why it is held."),
    click.option("--older", default="", metavar="AGE", help="Received before: 30m, 4h, 2d."),
    click.option("--younger", default="", metavar="AGE", help="Received since."),
    click.option("--all", "every", is_flag=True, help="Everything in the queue."),
)


def _state_option(words: tuple[str, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--state", type=click.Choice(words), metavar="STATE", help=", ".join(words))


_NAMES: Final = (
    "what", "delivery", "sender", "recipient", "domain", "site", "user", "reason", "state", "older", "younger", "every",
)  # fmt: skip


def _which(own: dict[str, Any], every: bool) -> Which:
    from postroad.store.selection import Selection

    fields: dict[str, Any] = {name: own[name] for name in ("site", "user", "reason", "state") if own[name]}
    for name in ("sender", "recipient"):
        if own[name]:
            fields[name] = own[name].strip() if own[name] == "<>" else own[name].strip().strip("<>")
    if own["domain"]:
        fields["domain"] = _domain(own["domain"])
    if own["delivery"]:
        fields["delivery"] = _ident(own["delivery"])
    for name in ("older", "younger"):
        if own[name]:
            fields[f"{name}_us"] = span_us(own[name])
    if own["what"]:
        fields |= _word(own["what"])
    selection = Selection(**fields)
    if selection.is_empty:
        if not (own["every"] or every):
            raise click.UsageError("Say which: a domain, an address, a queue id, an option, or --all.")
        selection = selection._replace(every=True)
    return Which(selection, _words(selection, own))


def _word(what: str) -> dict[str, Any]:
    """What one word means: a queue id, an address, or a domain."""
    from postroad.values.ids import parse_id

    ident = parse_id(what)
    if ident is not None:
        return {"message": ident}
    before, at, _ = what.strip("<>").rpartition("@")
    if at and before:
        return {"recipient": what.strip("<>")}
    return {"domain": _domain(what)}


def _domain(text: str) -> str:
    from postroad.values.address import AddressError, domain_to_ascii

    try:
        return domain_to_ascii(text.strip().removeprefix("@"))
    except AddressError as error:
        raise click.UsageError(f'"{text}" is neither a queue id nor an address nor a domain.') from error


def _ident(text: str) -> int:
    from postroad.values.ids import parse_id

    ident = parse_id(text)
    if ident is None:
        raise click.UsageError(f'"{text}" is no id of a delivery.')
    return ident


def _words(selection: Selection, own: dict[str, Any]) -> str:
    from postroad.values.ids import id_text

    parts = [
        f"of {id_text(selection.message)}" if selection.message else "",
        f"number {id_text(selection.delivery)}" if selection.delivery else "",
        f"to {selection.recipient or selection.domain}" if selection.recipient or selection.domain else "",
        f"from {selection.sender}" if selection.sender else "",
        f"by way of {selection.site}" if selection.site else "",
        f"submitted by {selection.user}" if selection.user else "",
        f'with "{selection.reason}"' if selection.reason else "",
        f"that are {selection.state}" if selection.state else "",
        f"older than {own['older']}" if selection.older_us else "",
        f"younger than {own['younger']}" if selection.younger_us else "",
    ]
    return ", ".join(part for part in parts if part) or "in the queue"


_AGE: Final = re.compile(r"(\d{1,6})\s*([smhdw])", re.IGNORECASE)


def span_us(text: str) -> int:
    """Microseconds of an age like 30m, 4h or 2d; ends the command for anything else."""
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise click.UsageError(f'"{text}" is no age. Write it as 30m, 4h or 2d.')
    return int(found[1]) * _UNITS_S[found[2].lower()] * 1_000_000


def who() -> str:
    """Who is at the keyboard, as the kernel says; behind sudo also who became root."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    # Root could as well call itself anything, so for root alone this is worth believing.
    before = os.environ.get("SUDO_USER", "") if uid == 0 else ""
    return f"{name} ({before})" if before.isprintable() and before not in ("", name) else name
