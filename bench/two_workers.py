"""What a second worker brings: throughput when each has 0.3 of a core, and CPU per message when nothing limits them.

    python bench/two_workers.py [--messages 4000] [--rounds 3]

Needs root for the control groups (version 1 or 2). Only workers are limited: the store, the load and the sink are not,
so the figure says what the workers' own work allows.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import rig

SHARE: Final = 0.3
PERIOD_US: Final = 10_000
"""Short, so that a worker that has used its share stands still for 7 ms and not for 70."""


def main() -> None:
    parser = argparse.ArgumentParser(description="One worker against two.")
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    limited: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, list[float]] = {1: [], 2: []}
    with rig.Sink() as sink:
        for _ in range(options.rounds):
            for workers in (1, 2):
                with rig.Server(workers=workers, sink=sink.port).start() as server:
                    relay(server, sink, 500)
                    cpu[workers].append(relay(server, sink, options.messages)[1])
                    with quota(server.workers):
                        limited[workers].append(relay(server, sink, options.messages // 2)[0])
    one, two = (statistics.median(limited[workers]) for workers in (1, 2))
    cheap, dear = (statistics.median(cpu[workers]) for workers in (1, 2))
    rig.report(
        "two workers, each with 0.3 of a core", one_per_s=round(one), two_per_s=round(two), ratio=round(two / one, 2)
    )
    rig.report("two workers, unlimited", one_cpu_us=round(cheap), two_cpu_us=round(dear), ratio=round(dear / cheap, 2))


def relay(server: rig.Server, sink: rig.Sink, messages: int) -> tuple[float, float]:
    """Relays messages; returns how many a second, and the server's CPU time for each in microseconds."""
    before, cpu, began = sink.distinct(), server.cpu_us(), time.monotonic()
    rig.load(server.mx, messages, sessions=50)
    took = sink.wait(before + messages) - began
    time.sleep(0.3)
    return messages / took, (server.cpu_us() - cpu) / messages


@contextlib.contextmanager
def quota(pids: list[int]) -> Iterator[None]:
    """Each process in a control group of its own that gives it `SHARE` of a core."""
    first = Path("/sys/fs/cgroup/cpu")
    root = first if first.is_dir() else Path("/sys/fs/cgroup")
    if root != first:
        (root / "cgroup.subtree_control").write_text("+cpu")
    groups = []
    for pid in pids:
        group = root / f"postroad-bench-{pid}"
        group.mkdir()
        groups.append(group)
        if root == first:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(int(PERIOD_US * SHARE)))
        else:
            (group / "cpu.max").write_text(f"{int(PERIOD_US * SHARE)} {PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
    try:
        yield
    finally:
        for pid, group in zip(pids, groups, strict=True):
            (root / "cgroup.procs").write_text(str(pid))
            os.rmdir(group)


if __name__ == "__main__":
    main()
