"""What is left of accepting mail while other sessions of the same worker keep its event loop busy.

    python bench/busy_loop.py [--rounds 3]

One worker. Measured is how many messages a second it accepts from 20 SMTP sessions, into a queue that waits: first
alone, then while 8 IMAP clients fetch all of a mailbox of 500 messages without pause, then while 30 clients keep an
SMTP dialog of small commands going as fast as they are answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Final

import rig
import uvloop

MESSAGES: Final = 2000
MAILBOX: Final = 500


def main() -> None:
    parser = argparse.ArgumentParser(description="Accepting mail on a busy event loop.")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[float]] = {"idle": [], "IMAP FETCH": [], "SMTP commands": []}
    with rig.Server(workers=1, sink=rig.free_port()) as server:
        server.add_reader()
        server.start()
        rig.load(server.mx, MAILBOX, to=rig.USER)
        for _ in range(options.rounds):
            found["idle"].append(accepted_per_s(server))
            with others(fetch_for_ever, server.imap, 8):
                found["IMAP FETCH"].append(accepted_per_s(server))
            with others(talk_for_ever, server.mx, 30):
                found["SMTP commands"].append(accepted_per_s(server))
    idle = statistics.median(found["idle"])
    for name in ("IMAP FETCH", "SMTP commands"):
        rate = statistics.median(found[name])
        rig.report(
            f"accepting beside {name}", idle_per_s=round(idle), busy_per_s=round(rate), share=round(rate / idle, 2)
        )


def accepted_per_s(server: rig.Server) -> float:
    """Messages a second that the worker takes for a next hop which is down."""
    return MESSAGES / float(rig.load(server.mx, MESSAGES, sessions=20)["seconds"])


@contextlib.contextmanager
def others(work: Callable[[int, int], None], port: int, sessions: int) -> Iterator[None]:
    """Other clients, in a process of their own."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=(port, sessions), daemon=True)
    process.start()
    time.sleep(2.0)
    try:
        yield
    finally:
        process.terminate()
        process.join()


def fetch_for_ever(port: int, sessions: int) -> None:
    """IMAP clients that read a whole mailbox again and again."""
    uvloop.run(_all(_fetch, port, sessions))


def talk_for_ever(port: int, sessions: int) -> None:
    """SMTP clients that pipeline NOOP and RSET."""
    uvloop.run(_all(_talk, port, sessions))


async def _all(work: Callable[[int], object], port: int, sessions: int) -> None:
    await asyncio.gather(*(work(port) for _ in range(sessions)))  # type: ignore[call-overload]


async def _fetch(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    await reader.readline()
    writer.write(f"a LOGIN {rig.USER} {rig.PASSWORD}\r\nb EXAMINE INBOX\r\n".encode())
    await reader.readuntil(b"b OK")
    while True:
        writer.write(b"c FETCH 1:* (FLAGS ENVELOPE BODY.PEEK[])\r\n")
        while b"\nc OK" not in (octets := await reader.read(1 << 20)):
            if not octets:
                return


async def _talk(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    writer.write(b"EHLO busy.test\r\n")
    while not (await reader.readline()).startswith(b"250 "):
        pass
    while True:
        writer.write(b"NOOP\r\nRSET\r\n" * 10)
        for _ in range(20):
            if not (await reader.readline()).startswith(b"250"):
                return


if __name__ == "__main__":
    main()
