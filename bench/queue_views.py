"""How long the views of a long queue take: 1,000,000 deferred deliveries to 10,000 domains.

    python bench/queue_views.py [--deliveries 1000000] [--domains 10000] [--data DIR]

The rows are written into the tables directly, with the index of a real queue; 100 sites, 40 logins and 200 reasons, and
ages up to five days. Each figure is the best and the median of several calls on connections of their own, as a command
makes them, and the least CPU time of one. `--data` keeps the folder, and uses it again when it is there.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import rig

from postroad.store.opening import OpenStore
from postroad.store.reader import Reader
from postroad.store.records import DEFERRED, HELD, NEVER_US
from postroad.store.selection import Selection, first_id, pages
from postroad.store.tallies import BY, overview
from postroad.values.reason import reason_number

CALLS: Final = 7
BATCH: Final = 20_000
DAY_US: Final = 86_400_000_000
MESSAGES = (
    "INSERT INTO messages (id, received_us, expires_us, size, smtputf8, eightbit, sender, ret, envid, login, body_file,"
    " header, body) VALUES (?, ?, ?, 5000, 0, 0, ?, '', '', ?, '', x'', x'')"
)
DELIVERIES = (
    "INSERT INTO deliveries (id, message, due_us, owner, attempts, kind, account, domain, recipient, notify, orcpt,"
    " prefix, last_reply, state, login, reason, held) VALUES (?, ?, ?, 0, ?, 0, 0, ?, ?, '', '', x'', ?, ?, ?, ?, ?)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Views of a long queue.")
    parser.add_argument("--deliveries", type=int, default=1_000_000)
    parser.add_argument("--domains", type=int, default=10_000)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="postroad-bench-") as folder:
        data_dir = options.data or Path(folder) / "data"
        if not data_dir.exists():
            began = time.monotonic()
            fill(data_dir, options.deliveries, options.domains)
            rig.report("rows written", deliveries=options.deliveries, s=round(time.monotonic() - began, 1))
        measure(data_dir, options.deliveries)


def measure(data_dir: Path, deliveries: int) -> None:
    for by in BY:
        found = timed(lambda by=by: overview(data_dir, by, time.time_ns() // 1000, 50))
        rig.report(f"{deliveries:,} deferred, grouped by {by}", **found)
    one = Selection(domain="domain77.example")
    rig.report(f"{deliveries:,} deferred, those to one domain", **timed(lambda: count(data_dir, one)))


def count(data_dir: Path, selection: Selection) -> int:
    reader = Reader(data_dir)
    found = sum(map(len, pages(reader, selection, time.time_ns() // 1000)))
    reader.close()
    return found


def timed(call: Callable[[], Any]) -> dict[str, float]:
    took, cpu = [], []
    for _ in range(CALLS):
        began, used = time.perf_counter(), time.process_time()
        call()
        took.append((time.perf_counter() - began) * 1000)
        cpu.append((time.process_time() - used) * 1000)
    return {"best_ms": round(min(took)), "median_ms": round(statistics.median(took)), "cpu_ms": round(min(cpu))}


def fill(data_dir: Path, deliveries: int, domains: int) -> None:
    data_dir.mkdir(parents=True)
    store = OpenStore(data_dir)
    connection = store.connection
    made = rows(deliveries, domains)
    connection.begin()
    connection.executemany(
        "INSERT INTO sites (domain, site, seen_us) VALUES (?, ?, 0)",
        [(f"domain{n}.example", f"mx{n % 100}.example:25") for n in range(domains)],
    )
    connection.commit()
    while batch := [row for _, row in zip(range(BATCH), made, strict=False)]:
        connection.begin()
        connection.executemany(MESSAGES, [message for message, _ in batch])
        connection.executemany(DELIVERIES, [delivery for _, delivery in batch])
        connection.commit()
        store.tend(False)
    store.close()


def rows(deliveries: int, domains: int) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Each message with its one delivery, the oldest first."""
    rng = random.Random(4)
    now_us = time.time_ns() // 1000
    replies = [
        f"451 4.7.{n} Too busy for message {n} of kind {'abcdefghij'[n % 10] * (n // 10 + 1)}" for n in range(200)
    ]
    ages = sorted((int(rng.random() ** 3 * 5 * DAY_US) for _ in range(deliveries)), reverse=True)
    for at, age_us in enumerate(ages):
        message = first_id(now_us - age_us) + at % 4096
        number = rng.randrange(domains)
        login = f"user{number % 40}@ours.example"
        reply = replies[(number + rng.randrange(3)) % len(replies)]
        held = "" if at % 50 else "held by hand"
        due_us = NEVER_US if held else now_us + rng.randrange(-60, 14_400) * 1_000_000
        domain = f"domain{number}.example"
        yield (
            (message, now_us - age_us, now_us + 5 * DAY_US, f"sender{at % 1000}@ours.example", login),
            (
                message + 1, message, due_us, 3, domain, f"user{at}@{domain}", reply, HELD if held else DEFERRED, login,
                reason_number(held or reply), held,
            ),
        )  # fmt: skip


if __name__ == "__main__":
    main()
