"""The process in which `postroad dev` runs our server: `python -m postroad.dev.child CONFIG [--remove FOLDER]`.

It is `postroad serve` with a lifeline: standard input is a pipe from the playground, and when that closes, however the
playground ended, the server ends too, and a temporary folder goes with it unless the last word was "keep".
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

KEEP: Final = b"keep\n"
"""What the playground says down the lifeline when its folder is to stay."""
CLEAN_S: Final = 1.5
"""How long the server may take for an orderly end before its children are killed."""
KILLED_S: Final = 0.7
"""And how long after that."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the server until the lifeline or a signal ends it; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m postroad.dev.child")
    parser.add_argument("config", help="the configuration file")
    parser.add_argument("--remove", default="", help="folder to remove at the end")
    options = parser.parse_args(arguments)
    leftover = Leftover(options.remove)
    threading.Thread(target=hold, args=(0, leftover), name="lifeline", daemon=True).start()
    try:
        return run(options.config)
    finally:
        leftover.remove()


def run(config_file: str) -> int:
    """The server itself, by the same calls as `postroad serve`."""
    from postroad.app import serve
    from postroad.config.load import load
    from postroad.serve.supervisor import StartError

    try:
        return serve(load(Path(config_file)))
    except StartError as error:
        print(error, file=sys.stderr)
        return 1


class Leftover:
    """What is to be removed at the end: a folder, or nothing."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def remove(self) -> None:
        """Removes it, as far as that is possible."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def hold(lifeline: int, leftover: Leftover) -> None:
    """Waits until the lifeline closes; then asks for the end, insists, and at last enforces it."""
    while said := os.read(lifeline, 4096):
        if said == KEEP:
            leftover.folder = ""
    # The first signal ends the server in good order, the second one kills its children.
    for patience in (CLEAN_S, KILLED_S):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(patience)
    leftover.remove()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
