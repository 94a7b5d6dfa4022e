"""The store process, the only writer of a machine: `python -m postroad.store.process --data DIR`.

It takes the lock of the data folder, brings the database up to date, listens, says `ready` and serves until SIGTERM,
or until the pipe named by `--lifeline` closes; with a lifeline it says a dot every two seconds behind `ready`.
Exit status: 0 stopped, 1 the folder cannot be used, 3 the store broke and was stopped: a check should come before the
next start.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Final

from postroad.store import folder
from postroad.store.opening import OpenStore
from postroad.store.server import Server
from postroad.values.clock import SystemClock
from postroad.values.errors import StoreBroken, StoreFull

log = logging.getLogger(__name__)

EXIT_UNUSABLE: Final = 1
EXIT_BROKEN: Final = 3

COLLECT_AFTER: Final = 50_000
"""Objects made and not yet gone before Python looks for cycles."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the process; returns its exit status."""
    options = parse(arguments)
    logging.basicConfig(stream=sys.stderr, format="store: %(message)s", level=logging.INFO)
    data_dir = Path(options.data)
    try:
        store = OpenStore(data_dir, vfs=options.vfs or None)
    except (StoreBroken, StoreFull, folder.StoreLocked, folder.WrongUser, OSError) as error:
        log.error("cannot open %s: %s", data_dir, error)
        return EXIT_UNUSABLE
    listener = folder.listen(data_dir)
    server = Server(
        listener, store.writer, SystemClock(), tend=store.tend, chores=store.chores, aside=store.aside,
        beside=store.beside,
    )  # fmt: skip
    server.on_death = store.worker_died
    server.stop_on(signal.SIGTERM, signal.SIGINT)
    if options.lifeline >= 0:
        server.stop_with(options.lifeline)
        server.on_beat = lambda: beat(options.ready)
    # Calls and rows are plain and form no cycles: collecting as often as Python would costs 8 % of this process.
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)
    os.write(options.ready, b"ready\n")
    server.serve()
    listener.close()
    broken = store.writer.broken
    try:
        store.close()
    except (StoreBroken, StoreFull) as error:
        # Nothing that was answered is lost: it is in the log, which the next start reads.
        log.error("the last checkpoint of %s failed: %s", data_dir, error)
        broken = broken or str(error)
    return EXIT_BROKEN if broken else 0


def beat(descriptor: int) -> None:
    """A sign of life to whoever started us; that nobody reads it any more is found out by the lifeline."""
    with contextlib.suppress(OSError):
        os.write(descriptor, b".")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what a person would set stands in the configuration file and is handed down here."""
    parser = argparse.ArgumentParser(
        prog="python -m postroad.store.process", description="The writer of a data folder."
    )
    parser.add_argument("--data", required=True, help="the data folder")
    parser.add_argument("--ready", type=int, default=1, help='descriptor that gets "ready" (default: standard output)')
    parser.add_argument("--lifeline", type=int, default=-1, help="descriptor of a pipe; its end is ours")
    parser.add_argument("--vfs", default="", help="name of a registered apsw VFS")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
