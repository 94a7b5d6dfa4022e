"""The command `postroad dev`: its options, and what each way of ending returns."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from postroad.dev.layout import OFFSET_MAX

USAGE: Final = 2

DESCRIPTION: Final = """\
A playground of mail servers on this machine: no internet, no root, nothing to
configure. It starts a private DNS server, our server for dev.test and two other
organisations, sends real mail between them and shows what happens, and then
keeps serving for your own programs until Ctrl-C.
"""
EPILOG: Final = """\
examples:
  postroad dev                        the show, then a server to play with
  postroad dev --once                 only the show; fails when a journey does
  postroad dev --keep ./mail          keep the mail for the next time
  postroad dev --port-offset 1000     when the usual ports are in use

exit status: 0 all went well, 1 a journey did not end as it should, 2 wrong
usage, 69 cannot start (a port in use, ...), 130 --once was interrupted
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the playground; returns the exit status."""
    try:
        options = parser().parse_args(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    # Imported late: help and wrong usage are answered at once.
    from postroad.dev.playground import CANNOT_START, INTERRUPTED, CannotStart, Playground, Wishes
    from postroad.dev.screen import Screen
    from postroad.serve import logtext

    # With a closed standard output Python has no stream at all.
    screen = Screen.on(sys.stdout if sys.stdout is not None else open(os.devnull, "w"))  # noqa: SIM115
    logtext.colour = screen.colour
    wishes = Wishes(options.once, options.keep, options.port_offset)
    try:
        return asyncio.run(_run(Playground, wishes, screen))
    except CannotStart as error:
        print("postroad dev: cannot start", *error.args, sep="\n  ", file=sys.stderr)
        return CANNOT_START
    except KeyboardInterrupt:  # before the loop listens for signals
        return INTERRUPTED


async def _run(playground: type, wishes: object, screen: object) -> int:
    return int(await playground(wishes, screen).run())


def parser() -> argparse.ArgumentParser:
    """The options of `postroad dev`."""
    made = argparse.ArgumentParser(
        prog="postroad dev",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--once", action="store_true", help="end after the show")
    made.add_argument("--keep", type=Path, metavar="DIR", help="keep data, certificates and log in DIR")
    made.add_argument(
        "--port-offset", type=_offset, default=0, metavar="N", help=f"add N (0 to {OFFSET_MAX}) to every port"
    )
    return made


def _offset(text: str) -> int:
    if not text.isdecimal() or int(text) > OFFSET_MAX:
        raise argparse.ArgumentTypeError(f'"{text}" is not a number from 0 to {OFFSET_MAX}')
    return int(text)
