"""What 2,000 dead destinations do to the living ones: their messages a second, and how long each takes.

    python bench/dead_destinations.py [--dead 2000] [--messages 4000] [--rounds 3] [--workers 2]

A dead destination is a host whose packets nobody answers: its address is that of a listener whose queue is full, so
that the system drops what comes for it and a connection waits for its timeout (30 s). Each gets one message. The
living ones are the harness's load to its sink. They are measured on a server without dead mail and on one that has just
been given it, in turns: the best round of each is reported, and the median of what neighbouring rounds say.
"""

from __future__ import annotations

import argparse
import contextlib
import smtplib
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import rig

BATCH: Final = 50
"""Messages handed in over one connection, so that all workers get some."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Dead destinations beside living ones.")
    parser.add_argument("--dead", type=int, default=2000)
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    alone: list[tuple[float, float]] = []
    beside: list[tuple[float, float]] = []
    knocking = 0
    with rig.Sink() as sink, silent() as port:
        for _ in range(options.rounds):
            for found, dead in ((alone, 0), (beside, options.dead)):
                with server_for(options, sink, port).start() as server:
                    relay(server, sink, 500)
                    send_dead(server, dead)
                    time.sleep(3.0)
                    knocking = max(knocking, connections_to(port))
                    found.append(relay(server, sink, options.messages))
    (fast, cheap), (slow, dear) = (
        (max(per_s for per_s, _ in found), min(cpu for _, cpu in found)) for found in (alone, beside)
    )
    median = statistics.median(lone[0] / loaded[0] for lone, loaded in zip(alone, beside, strict=True))
    rig.report(
        f"living destinations beside {options.dead:,} dead ones",
        knocking=knocking,
        per_s=round(slow),
        alone_per_s=round(fast),
        slower=f"{(fast / slow - 1) * 100:.0f} %",
        slower_by_median=f"{(median - 1) * 100:.0f} %",
        cpu_us=round(dear),
        alone_cpu_us=round(cheap),
    )


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """A port where connections wait for ever: its queue is full and nobody accepts."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("0.0.0.0", 0))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", listener.getsockname()[1]))
        time.sleep(0.2)
        yield int(listener.getsockname()[1])


def server_for(options: argparse.Namespace, sink: rig.Sink, port: int) -> rig.Server:
    """Each dead domain is at an address of its own in 127.0.0.0/8, so it is a site of its own."""
    server = rig.Server(workers=options.workers, sink=sink.port)
    routes = (f'"dead{n}.test" = "127.1.{n // 250}.{n % 250 + 1}:{port}"\n' for n in range(options.dead))
    server.config.write_text(f"{server.config.read_text()}\n[relay.routes]\n{''.join(routes)}")
    return server


def send_dead(server: rig.Server, count: int) -> None:
    for start in range(0, count, BATCH):
        with smtplib.SMTP("127.0.0.1", server.mx) as client:
            for number in range(start, min(start + BATCH, count)):
                client.sendmail("a@bench.test", [f"b@dead{number}.test"], b"Subject: dead\r\n\r\nGood day.\r\n")


def connections_to(port: int) -> int:
    """Connections that wait for an answer from the silent port (SYN_SENT)."""
    lines = Path("/proc/net/tcp").read_text().split("\n")[1:]
    wanted = f":{port:04X}"
    return sum(1 for line in lines if (words := line.split()) and words[2].endswith(wanted) and words[3] == "02")


def relay(server: rig.Server, sink: rig.Sink, messages: int) -> tuple[float, float]:
    """Messages a second, and CPU time of the server for each in microseconds."""
    before, cpu, began = sink.distinct(), server.cpu_us(), time.monotonic()
    rig.load(server.mx, messages, sessions=20)
    took = sink.wait(before + messages) - began
    time.sleep(0.5)
    return messages / took, (server.cpu_us() - cpu) / messages


if __name__ == "__main__":
    main()
