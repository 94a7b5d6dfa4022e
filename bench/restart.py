"""How long after its start a server with 100,000 deferred messages makes its first delivery.

    python bench/restart.py [--messages 100000]

The queue is made by the store's own units (5 kB messages, each with one delivery that has failed once and is due), then
the server is started as always and the time until the sink has the first message is taken.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Final

import rig

from postroad.store.opening import OpenStore
from postroad.store.queue import accept
from postroad.store.records import Accept, Leg
from postroad.store.units import UNITS, load_units
from postroad.store.writer import OK, Call
from postroad.values.event import Event, pack
from postroad.values.ids import IdMaker

BATCH: Final = 200
BODY: Final = b"Forty-six octets of quite ordinary mail text..\r\n" * 90


def main() -> None:
    parser = argparse.ArgumentParser(description="First delivery after a restart with a long queue.")
    parser.add_argument("--messages", type=int, default=100_000)
    options = parser.parse_args()
    with rig.Sink() as sink, rig.Server(workers=2, sink=sink.port) as server:
        fill(server.folder / "data", options.messages)
        began = time.monotonic()
        server.start()
        ready = time.monotonic() - began
        first = sink.wait(1) - began
        rest = sink.wait(options.messages // 10, 300) - began - first
        per_s = (options.messages // 10 - 1) / rest
        rig.report(
            f"restart with {options.messages:,} deferred messages",
            ready_s=round(ready, 2),
            first_delivery_s=round(first, 2),
            then_per_s=round(per_s),
        )


def fill(data_dir: Path, messages: int) -> None:
    """A queue of messages that are due."""
    load_units()
    store = OpenStore(data_dir)
    ids = IdMaker(store.writer.number, 0)
    run = UNITS[accept.__name__]
    for start in range(0, messages, BATCH):
        calls = [Call(run, deferred(ids, number)) for number in range(start, min(start + BATCH, messages))]
        assert all(result.status == OK for result in store.writer.run(calls))
        store.tend(False)
    store.close()


def deferred(ids: IdMaker, number: int) -> Accept:
    """One message that its next hop did not take an hour ago."""
    now_us = time.time_ns() // 1000
    ident = ids.make(now_us)
    header = f"Subject: message {number}\r\nMessage-Id: <{number}@load.test>\r\n\r\n".encode()
    recipient = f"b{number}@dest.test"
    leg = Leg(ids.make(now_us), recipient, "dest.test", due_us=now_us - 3_600_000_000 + number)
    event = Event(kind="deferred", at_us=now_us, recipient=recipient, cause="connection refused", attempt=1)
    return Accept(
        ident, now_us, "a@bench.test", header, BODY, "", len(header) + len(BODY), [], [leg],
        now_us + 432_000_000_000, f"<{number}@load.test>\na@bench.test\n{recipient}", pack([event]),
    )  # fmt: skip


if __name__ == "__main__":
    main()
