"""A queue of 1,000,000 deferred messages over 10,000 domains: start, memory, a grouped look at it, and fresh mail.

    python bench/million.py [--messages 1000000] [--domains 10000] [--due 10000] [--workers 2] [--rounds 5]
        [--keep FOLDER]

The queue is made by the store's own units: messages of 1 kB with one delivery each that has failed once. `--due` of
them may be tried at once, the others in an hour. Each domain has a mail exchanger of its own in a DNS of the bench, and
all exchangers are one sink. Measured:

- start to first delivery, and to the last of those that were due;
- the largest resident size of a worker, then and after the fresh mail;
- the queries behind the grouped views of the queue (`bench/queue_views.py` measures more of them);
- fresh mail for a destination of its own: messages a second and CPU of the server for each, in turns with a server
  that has no queue.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import socket
import statistics
import time
from pathlib import Path
from typing import Any, Final

import rig

from postroad.store.opening import OpenStore
from postroad.store.queue import accept
from postroad.store.records import Accept, Leg
from postroad.store.tallies import overview
from postroad.store.units import UNITS, load_units
from postroad.store.writer import OK, Call
from postroad.values.event import Event, pack
from postroad.values.ids import IdMaker

BATCH: Final = 400
BODY: Final = b"Forty-six octets of quite ordinary mail text..\r\n" * 18
HOUR_US: Final = 3_600_000_000
FRESH: Final = "dest.test"
"""The domain that the harness's load sends to."""


def main() -> None:
    parser = argparse.ArgumentParser(description="A queue of a million deferred messages.")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--domains", type=int, default=10_000)
    parser.add_argument("--due", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fresh", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", default="", help="a folder for the filled data, used again by the next run")
    options = parser.parse_args()
    with (
        Dns() as dns,
        rig.Sink() as old,
        rig.Sink() as fresh,
        server_for(dns, old, fresh, options.workers) as empty,
        server_for(dns, old, fresh, options.workers) as full,
    ):
        data = full.folder / "data"
        provide(data, options)
        # What was just written must not be what the server's first fsync waits for.
        os.sync()
        measure_queries(data)
        measure_start(full, old, options)
        compare_fresh(empty.start(), full, fresh, options)


# -- the scene -------------------------------------------------------------------------------------------------------


class Dns:
    """A DNS server in a process of its own: any domain has the mail exchanger mx.domain, and that is at 127.0.0.1.

    It answers from a few octets of the question, because a real one would be what is measured.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=answer_questions, args=(theirs,), daemon=True)
        self._process.start()
        self.address = ours.recv()

    def __enter__(self) -> Dns:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()


TYPE_A: Final = 1
TYPE_MX: Final = 15


def answer_questions(pipe: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
        sock.bind(("127.0.0.1", 0))
        pipe.send(f"127.0.0.1:{sock.getsockname()[1]}")
        while True:
            asked, peer = sock.recvfrom(4096)
            sock.sendto(answer(asked), peer)


def answer(asked: bytes) -> bytes:
    """RFC 1035 section 4: the header, the question again, and one record or none."""
    end = asked.index(b"\0", 12) + 5
    kind = int.from_bytes(asked[end - 4 : end - 2], "big")
    record = b""
    if kind == TYPE_MX and not asked[12:].startswith(b"\x02mx"):
        record = b"\xc0\x0c\x00\x0f\x00\x01\x00\x00\x0e\x10\x00\x07\x00\x0a\x02mx\xc0\x0c"
    elif kind == TYPE_A:
        record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x0e\x10\x00\x04\x7f\x00\x00\x01"
    counts = b"\x00\x01" + (b"\x00\x01" if record else b"\x00\x00") + b"\x00\x00\x00\x00"
    return asked[:2] + b"\x85\x80" + counts + asked[12:end] + record


def server_for(dns: Dns, old: rig.Sink, fresh: rig.Sink, workers: int) -> rig.Server:
    server = rig.Server(workers=workers, sink=fresh.port)
    text = server.config.read_text().replace(f'next_hop = "127.0.0.1:{fresh.port}"', f"port = {old.port}")
    server.config.write_text(
        f'{text}\n[dns]\nnameservers = ["{dns.address}"]\n[relay.routes]\n"{FRESH}" = "127.0.0.1:{fresh.port}"\n'
    )
    return server


# -- the queue -------------------------------------------------------------------------------------------------------


def provide(data: Path, options: argparse.Namespace) -> None:
    """A data folder with the queue in it: made, or a copy of the one that was kept."""
    kept = Path(options.keep) if options.keep else None
    if kept is not None and kept.exists():
        shutil.rmtree(data)
        shutil.copytree(kept, data)
        return
    began = time.monotonic()
    fill(data, options)
    rig.report("filled", seconds=round(time.monotonic() - began), messages=options.messages)
    if kept is not None:
        shutil.copytree(data, kept)


def fill(data: Path, options: argparse.Namespace) -> None:
    load_units()
    store = OpenStore(data)
    ids = IdMaker(store.writer.number, 0)
    run = UNITS[accept.__name__]
    for start in range(0, options.messages, BATCH):
        numbers = range(start, min(start + BATCH, options.messages))
        calls = [Call(run, deferred(ids, number, options)) for number in numbers]
        assert all(result.status == OK for result in store.writer.run(calls))
        store.tend(False)
    store.close()


def deferred(ids: IdMaker, number: int, options: argparse.Namespace) -> Accept:
    """One message that its next hop did not take; every so many of them is due."""
    now_us = time.time_ns() // 1000
    ident = ids.make(now_us)
    header = f"Subject: message {number}\r\nMessage-Id: <{number}@load.test>\r\n\r\n".encode()
    domain = f"d{number % options.domains}.old.test"
    recipient = f"b{number}@{domain}"
    due_us = now_us - HOUR_US + number if number < options.due else now_us + HOUR_US + number * 1000
    leg = Leg(ids.make(now_us), recipient, domain, due_us=due_us)
    event = Event(kind="deferred", at_us=now_us, recipient=recipient, cause="connection refused", attempt=1)
    return Accept(
        ident, now_us, "a@bench.test", header, BODY, "", len(header) + len(BODY), [], [leg],
        now_us + 120 * HOUR_US, f"<{number}@load.test>\na@bench.test\n{recipient}", pack([event]),
    )  # fmt: skip


# -- what is measured ------------------------------------------------------------------------------------------------


def measure_queries(data: Path) -> None:
    took = {}
    for by in ("site", "domain", "reason"):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            overview(data, by, time.time_ns() // 1000, 100)
            times.append((time.perf_counter() - began) * 1000)
        took[f"by_{by}_ms"] = round(statistics.median(times), 1)
    rig.report("grouped views of the queue", **took)


def measure_start(server: rig.Server, old: rig.Sink, options: argparse.Namespace) -> None:
    began = time.monotonic()
    server.start()
    ready = time.monotonic() - began
    first = old.wait(1) - began
    last = old.wait(options.due, 600) - began
    rig.report(
        f"start with {options.messages:,} deferred messages",
        ready_s=round(ready, 2),
        first_delivery_s=round(first, 2),
        due=options.due,
        all_due_s=round(last, 1),
        worker_mb=[round(peak_mb(pid)) for pid in server.workers],
    )


def peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().split("\n"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def compare_fresh(empty: rig.Server, full: rig.Server, fresh: rig.Sink, options: argparse.Namespace) -> None:
    """The same load in turns to a server without a queue and to the one with it."""
    rounds: dict[rig.Server, list[tuple[float, float]]] = {empty: [], full: []}
    for _ in range(options.rounds):
        for server, found in rounds.items():
            found.append(relay(server, fresh, options.fresh))
    # The best round of each, because on a machine that others use too the disturbed ones say little; and the median of
    # what neighbouring rounds say, because the best are the kindest reading.
    without, beside = ((max(per_s for per_s, _ in found), min(cpu for _, cpu in found)) for found in rounds.values())
    pairs = list(zip(rounds[empty], rounds[full], strict=True))
    slower = statistics.median(alone[0] / loaded[0] for alone, loaded in pairs)
    dearer = statistics.median(loaded[1] / alone[1] for alone, loaded in pairs)
    rig.report(
        f"fresh mail beside {options.messages:,} deferred",
        per_s=round(beside[0]),
        without_per_s=round(without[0]),
        cpu_us=round(beside[1]),
        without_cpu_us=round(without[1]),
        slower=f"{(without[0] / beside[0] - 1) * 100:.0f} %",
        slower_by_median=f"{(slower - 1) * 100:.0f} %",
        dearer=f"{(beside[1] / without[1] - 1) * 100:.0f} %",
        dearer_by_median=f"{(dearer - 1) * 100:.0f} %",
        worker_mb=[round(peak_mb(pid)) for pid in full.workers],
    )


def relay(server: rig.Server, sink: rig.Sink, messages: int) -> tuple[float, float]:
    """Messages a second, and CPU time of the server for each in microseconds."""
    before, cpu, began = sink.distinct(), server.cpu_us(), time.monotonic()
    rig.load(server.mx, messages, sessions=20)
    took = sink.wait(before + messages) - began
    time.sleep(0.5)
    return messages / took, (server.cpu_us() - cpu) / messages


if __name__ == "__main__":
    main()
