"""The queue in the forms that `mailq` and `postqueue` have, which monitoring scripts read; -q and -M as well.

All of it belongs to whoever may read the mail store: root and the account of the service.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

from postroad.console.sendmail_options import Call
from postroad.console.sendmail_place import USUAL, VARIABLE, place
from postroad.console.sysexits import BAD_CONFIG, NOTHING, OK, USAGE, Failure

if TYPE_CHECKING:
    from postroad.store.selection import Chosen

HEADING: Final = "-Queue ID------  --Size-- ----Arrival Time---- -Sender/Recipient-------"
EMPTY: Final = "Mail queue is empty"
_READY: Final = ".mail"

_MARKS: Final = {"active": "*", "hold": "!"}
"""What stands behind an id, by the queue of postqueue(1) that a message would be in."""

ACTIONS: Final[dict[str, tuple[str, ...]]] = {
    "": ("queue", "retry"),
    "c": ("queue", "retry"),
    "f": ("queue", "hold", "--yes"),
    "t": ("queue", "release", "--yes"),
    "g": ("queue", "fail", "--yes"),
    "rm": ("queue", "drop", "--yes"),
    "mad": ("queue", "drop", "--yes"),
    "vl": ("why",),
}
"""Letters behind -M and the command that does the same with each id."""
PARTS: Final = ("vh", "vb", "vc")
"""Letters that show the header, the body, or the whole of a message."""
CHANGES: Final = ("es", "ar", "md")
"""Letters with an id and addresses behind them: another sender, more recipients, recipients that have it."""


def show(config: str, *, as_json: bool = False) -> int:
    """Print the queue and what lies in the maildrop; returns the exit status."""
    try:
        status = _show(config, as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough, as in `mailq | head`; what is still buffered must not meet the pipe at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = OK
    return status


def _show(config: str, as_json: bool) -> int:
    from postroad.console.cli.exits import Trouble

    dropped = _dropped(config)
    number = size = 0
    try:
        for legs in _messages(config):
            if as_json:
                print(json_line(legs, time.time_ns() // 1000))
                continue
            if not number:
                print(HEADING)
            print("\n".join(block(legs, time.time_ns() // 1000)), end="\n\n")
            number, size = number + 1, size + legs[0].size
    except Trouble as trouble:
        raise Failure(trouble.exit_code, trouble.format_message()) from trouble
    if as_json:
        return OK
    plural = "" if number == 1 else "s"
    print(f"-- {size // 1024} Kbytes in {number} Request{plural}." if number else EMPTY)
    if dropped:
        print(f"{dropped} in the maildrop, which the server takes up when it runs.")
    return OK


def _messages(config: str) -> Iterator[list[Chosen]]:
    """The open deliveries of each message, in the order of the deliveries; a large message may come in parts."""
    from postroad.console.cli.place import Place
    from postroad.console.cli.stores import looking
    from postroad.store.selection import Selection, pages

    named = config or os.environ.get(VARIABLE, "")
    with looking(Place(file=Path(named) if named else None).data_dir()) as reader:
        for page in pages(reader, Selection(every=True), time.time_ns() // 1000):
            for _, legs in groupby(page, key=lambda one: one.message):
                yield list(legs)


def queue_name(legs: list[Chosen], now_us: int) -> str:
    """The queue of Postfix that a message in this state would be in: active, hold or deferred."""
    words = {leg.state_word(now_us) for leg in legs}
    if words & {"trying", "due"}:
        return "active"
    return "hold" if words <= {"held"} else "deferred"


def block(legs: list[Chosen], now_us: int) -> list[str]:
    """The lines of one message."""
    from postroad.values.ids import id_text, made_at_us

    first = legs[0]
    arrived = time.strftime("%a %b %e %H:%M:%S", time.localtime(made_at_us(first.message) / 1e6))
    name = id_text(first.message) + _MARKS.get(queue_name(legs, now_us), "")
    lines = [f"{name:<14} {first.size:>9} {arrived:>20}  {_plain(first.sender) or 'MAILER-DAEMON'}"]
    for leg in legs:
        if leg.reason:
            lines.append(f"    ({_plain(leg.reason)})")
        lines.append(f"{'':47}{_plain(leg.recipient)}")
    return lines


def json_line(legs: list[Chosen], now_us: int) -> str:
    """One message as the JSON object of postqueue(1) -j."""
    import json

    from postroad.values.ids import id_text, made_at_us

    first = legs[0]
    return json.dumps(
        {
            "queue_name": queue_name(legs, now_us),
            "queue_id": id_text(first.message),
            "arrival_time": made_at_us(first.message) // 1_000_000,
            "message_size": first.size,
            "forced_expire": False,
            "sender": first.sender,
            "recipients": [
                {"address": leg.recipient} | ({"delay_reason": leg.reason} if leg.reason else {}) for leg in legs
            ],
        }
    )


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
    letters, rest = call.what, call.recipients
    if not rest or letters not in (*ACTIONS, *PARTS, *CHANGES):
        known = " ".join(f"-M{each}" for each in (*ACTIONS, *PARTS, *CHANGES))
        raise Failure(USAGE, f"-M{letters} is not offered, or lacks an id. There are, each with an id: {known}")
    if letters in CHANGES:
        return _change(call.config, letters, rest[0], rest[1:])
    for ident in rest:
        if letters in PARTS:
            _print_part(call.config, letters, ident)
            continue
        status = _run(call.config, [*ACTIONS[letters], ident])
        if status:
            return status
    return OK


def _change(config: str, letters: str, ident: str, addresses: list[str]) -> int:
    if not addresses or (letters == "es" and len(addresses) != 1):
        raise Failure(USAGE, f"-M{letters} takes an id and {'one address' if letters == 'es' else 'addresses'}")
    if letters == "md":
        for address in addresses:
            status = _run(config, ["queue", "drop", "--yes", ident, "--recipient", address])
            if status:
                return status
        return OK
    words = ["sender"] if letters == "es" else ["recipients"]
    return _run(config, ["queue", "amend", *words, ident, *addresses])


def _print_part(config: str, letters: str, ident: str) -> None:
    """-Mvh, -Mvb, -Mvc: what is kept of the message, with the line ends of this system."""
    import sys

    from postroad.console.cli.exits import Trouble
    from postroad.console.cli.place import Place
    from postroad.console.cli.stores import reading
    from postroad.store.whole import whole_message
    from postroad.values.ids import parse_id

    number = parse_id(ident)
    named = config or os.environ.get(VARIABLE, "")
    try:
        with reading(Place(file=Path(named) if named else None).data_dir()) as data_dir:
            found = whole_message(data_dir, number) if number is not None else None
    except Trouble as trouble:
        raise Failure(trouble.exit_code, trouble.format_message()) from trouble
    if found is None:
        raise Failure(NOTHING, f"There is no message {ident}, or it has left")
    header, body = found
    wanted = {"vh": header, "vb": body, "vc": header + body}[letters]
    sys.stdout.flush()
    sys.stdout.buffer.write(wanted.replace(b"\r\n", b"\n"))
    sys.stdout.buffer.flush()


def flush(call: Call) -> int:
    """postqueue -f, -i and -s."""
    what = call.what
    if what == "f":
        return _run(call.config, ["queue", "retry", "--all", "--yes"], nothing_is_fine=True)
    if what.startswith("i"):
        return _run(call.config, ["queue", "retry", "--yes", what[1:]])
    return _run(call.config, ["queue", "retry", "--yes", "--domain", what[1:].strip("[]")], nothing_is_fine=True)


def _retry_words(what: str) -> list[str]:
    """-q is everything, -qI an id, -qR a site; -q15m asked for a server that retries by itself, which ours does."""
    if not what:
        return ["queue", "retry", "--all", "--yes"]
    if what[0] in "IR" and len(what) > 1:
        return ["queue", "retry", "--yes", what[1:]]
    if what[0].isdigit():
        return []
    raise Failure(USAGE, f"-q{what} is not offered; -q retries all, -qI an id, -qR a site")


def _run(config: str, words: list[str], *, nothing_is_fine: bool = False) -> int:
    import click

    from postroad.console.cli.exits import Trouble
    from postroad.console.cli.main import postroad

    try:
        status = postroad([*(("--config", config) if config else ()), *words], standalone_mode=False)
    except Trouble as trouble:
        if nothing_is_fine and trouble.exit_code == NOTHING:
            return OK
        raise Failure(trouble.exit_code, trouble.format_message()) from trouble
    except click.ClickException as error:
        raise Failure(USAGE if error.exit_code == 2 else BAD_CONFIG, error.format_message()) from error
    if not isinstance(status, int) or (nothing_is_fine and status == NOTHING):
        return OK
    return status
