"""Store CPU per relayed message: accept and record 5 kB messages through a real store process.

    python bench/store_units.py [--messages 20000] [--submitters 10] [--clients 2] [--data DIR]

Each submitter accepts a message (one born-leased delivery), then records it done: two units, with history and journal
rows. Prints messages a second, and CPU time per message of the store process and of the clients.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from postroad.store.client import StoreClient
from postroad.store.queue import accept, record
from postroad.store.records import Accept, Done, Leg, Noted, Recorded
from postroad.values.event import Event, pack
from postroad.values.ids import IdMaker, id_text

HEADER = b"".join(
    b"Received: from client.example.org by mx.example.net with ESMTP; Mon, 1 Jan 2026 00:00:0%d +0000\r\n" % n
    for n in range(8)
)
BODY = b"Forty-six octets of quite ordinary mail text..\r\n" * 90


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.data) as name:
        folder = Path(name) / "data"
        store = subprocess.Popen(
            [sys.executable, *options.python, "-m", "postroad.store.process", "--data", str(folder)],
            stdout=subprocess.PIPE,
        )
        assert store.stdout is not None
        assert store.stdout.readline() == b"ready\n"
        before_store = cpu_of(store.pid)
        start = time.monotonic()
        share = options.messages // options.clients
        workers = []
        for _ in range(options.clients - 1):
            pid = os.fork()
            if pid == 0:
                uvloop.run(client(folder, share, options.submitters // options.clients))
                os._exit(0)
            workers.append(pid)
        uvloop.run(client(folder, share, options.submitters // options.clients))
        for pid in workers:
            os.waitpid(pid, 0)
        wall = time.monotonic() - start
        done = share * options.clients
        store_us = (cpu_of(store.pid) - before_store) / done * 1e6
        own = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        client_us = sum(each.ru_utime + each.ru_stime for each in own) / done * 1e6
        print(
            f"{options.submitters} submitters, {options.clients} clients: {done / wall:,.0f} messages/s,"
            f" store {store_us:.1f} us, clients {client_us:.1f} us a message (with their start)"
        )
        store.terminate()
        store.wait()


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def client(folder: Path, messages: int, submitters: int) -> None:
    store = await StoreClient.connect(folder, name="bench")
    ids = IdMaker(store.incarnation, store.last_id)
    left = iter(range(messages))
    await asyncio.gather(*(submit(store, ids, left) for _ in range(submitters)))
    store.close()


async def submit(store: StoreClient, ids: IdMaker, left: object) -> None:
    for _ in left:  # type: ignore[attr-defined]
        now = time.time_ns() // 1000
        message, leg = ids.make(now), ids.make(now)
        where = "from client.example.org [192.0.2.7] over TLSv1.3"
        taken = pack(
            [
                Event(
                    kind="received",
                    at_us=now,
                    by="relay_from",
                    where=where,
                    evidence="250 2.0.0 queued as " + id_text(message),
                ),
                Event(kind="queued", at_us=now, recipient="someone@example.com", next_us=now),
            ]
        )
        await store.call(
            accept,
            Accept(
                id=message,
                received_us=now,
                sender="sender@example.org",
                header=HEADER,
                body=BODY,
                body_file="",
                size=len(HEADER) + len(BODY),
                copies=[],
                legs=[
                    Leg(leg, "someone@example.com", "example.com", due_us=now + 120_000_000, owner=store.incarnation)
                ],
                expires_us=now + 432_000_000_000,
                keys=f"<{message}@client.example.org>\nsender@example.org\nsomeone@example.com",
                events=taken,
            ),
        )
        ended = pack(
            [
                Event(
                    kind="attempted",
                    at_us=now,
                    recipient="someone@example.com",
                    where="mx1.example.com [192.0.2.25] TLS",
                    attempt=1,
                ),
                Event(
                    kind="delivered",
                    at_us=now,
                    recipient="someone@example.com",
                    evidence="250 2.0.0 Ok: queued as 4XyZ12abcD",
                ),
            ]
        )
        await store.call(record, Recorded(store.incarnation, [Done(leg)], [], [Noted(message, ended)]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Store CPU per relayed message.")
    parser.add_argument("--messages", type=int, default=20000)
    parser.add_argument("--submitters", type=int, default=10)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--data", default=None, help="where to make the data folder (a real disk, not tmpfs)")
    parser.add_argument("--python", nargs="*", default=[], help="arguments for the store's Python")
    return parser.parse_args()


if __name__ == "__main__":
    main()
