"""The queue in the form that `mailq` has had for decades, which monitoring scripts read; -q and -M as well.

All of it belongs to whoever may read the mail store: root and the account of the service.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

from postroad.console.sendmail_options import Call
from postroad.console.sendmail_place import USUAL, VARIABLE, place
from postroad.console.sysexits import BAD_CONFIG, OK, USAGE, Failure

if TYPE_CHECKING:
    from postroad.store.waiting import Waiting

HEADING: Final = "-Queue ID------  --Size-- ----Arrival Time---- -Sender/Recipient-------"
EMPTY: Final = "Mail queue is empty"
_READY: Final = ".mail"

_ACTIONS: Final = {
    "": ("queue", "retry"),
    "rm": ("queue", "drop", "--yes"),
    "vl": ("why",),
}
"""Letters behind -M and the command that does the same with an id."""


def show(config: str) -> int:
    """Print the queue and what lies in the maildrop; returns the exit status."""
    from postroad.console.cli.exits import Trouble
    from postroad.console.cli.place import Place
    from postroad.console.cli.stores import looking
    from postroad.store.waiting import PAGE, waiting

    named = config or os.environ.get(VARIABLE, "")
    dropped = _dropped(config)
    number = size = 0
    try:
        with looking(Place(file=Path(named) if named else None).data_dir()) as reader:
            after, page = 0, waiting(reader)
            while page:
                for lines, octets in blocks(page):
                    if not number:
                        print(HEADING)
                    print("\n".join(lines), end="\n\n")
                    number, size = number + 1, size + octets
                after = page[-1].id
                page = waiting(reader, after=after) if len(page) == PAGE else []
    except Trouble as trouble:
        raise Failure(trouble.exit_code, trouble.format_message()) from trouble
    plural = "" if number == 1 else "s"
    print(f"-- {size // 1024} Kbytes in {number} Request{plural}." if number else EMPTY)
    if dropped:
        print(f"{dropped} in the maildrop, which the server takes up when it runs.")
    return OK


def blocks(page: Iterable[Waiting]) -> Iterable[tuple[list[str], int]]:
    """Each message of a page, in the order of its deliveries: its lines, and its size in octets."""
    from postroad.values.ids import id_text, made_at_us

    for ident, deliveries in groupby(page, key=lambda one: one.message):
        legs = list(deliveries)
        first = legs[0]
        arrived = time.strftime("%a %b %e %H:%M:%S", time.localtime(made_at_us(ident) / 1e6))
        lines = [f"{id_text(ident):<14} {first.size:>9} {arrived:>20}  {_plain(first.sender) or 'MAILER-DAEMON'}"]
        for leg in legs:
            if leg.last_reply:
                lines.append(f"    ({_plain(leg.last_reply)})")
            lines.append(f"{'':47}{_plain(leg.recipient)}")
        yield lines, first.size


def _plain(text: str) -> str:
    """Peers' words on one line."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _dropped(config: str) -> int:
    """Files that wait in the maildrop; 0 also where we may not look."""
    try:
        folder = place(config).maildrop or USUAL.maildrop
        return sum(_READY in name and not name.endswith(".refused") for name in os.listdir(folder))
    except (OSError, Failure):
        return 0


def act(call: Call) -> int:
    """-q and -M: the command of `postroad` that does it."""
    if call.mode == "retry":
        words = _retry_words(call.what + "".join(call.recipients[:1]))
        if not words:
            return OK
        return _run(call.config, words, nothing_is_fine=True)
    if call.what not in _ACTIONS or not call.recipients:
        raise Failure(USAGE, f"-M{call.what} is not offered; -M ID retries, -Mrm ID drops, -Mvl ID tells its story")
    for ident in call.recipients:
        status = _run(call.config, [*_ACTIONS[call.what], ident])
        if status:
            return status
    return OK


def _retry_words(what: str) -> list[str]:
    """-q is everything, -qI an id, -qR a site; -q15m asked for a server that retries by itself, which ours does."""
    if not what:
        return ["queue", "retry", "--all"]
    if what[0] in "IR" and len(what) > 1:
        return ["queue", "retry", what[1:]]
    if what[0].isdigit():
        return []
    raise Failure(USAGE, f"-q{what} is not offered; -q retries all, -qI an id, -qR a site")


def _run(config: str, words: list[str], *, nothing_is_fine: bool = False) -> int:
    import click

    from postroad.console.cli.exits import NOTHING, Trouble
    from postroad.console.cli.main import postroad

    try:
        status = postroad([*(("--config", config) if config else ()), *words], standalone_mode=False)
    except Trouble as trouble:
        if nothing_is_fine and trouble.exit_code == NOTHING:
            return OK
        raise Failure(trouble.exit_code, trouble.format_message()) from trouble
    except click.ClickException as error:
        raise Failure(USAGE if error.exit_code == 2 else BAD_CONFIG, error.format_message()) from error
    return status if isinstance(status, int) else OK
