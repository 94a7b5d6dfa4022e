"""What memory a worker takes: idle, per idle connection, per stranger, and per transfer of a 50 MB message each way.

    python bench/memory.py [--connections 2000] [--transfers 20]

One worker. "Anonymous" is memory of its own (heap and stacks) as /proc/PID/smaps_rollup counts it; the page cache of
files and what the kernel keeps for a socket are not in it. Transfers are measured by the highest value of samples taken
every 20 ms while all of them go on at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import imaplib
import poplib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import rig

SIZE: Final = 50_000_000
"""Octets of a large message; the server's limit is 50 MB."""

READERS: Final = 5
"""POP3 or IMAP clients that fetch a large message at once."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of a worker.")
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--transfers", type=int, default=20)
    options = parser.parse_args()
    sink_port = rig.free_port()
    with rig.Server(workers=1, sink=sink_port) as server:
        server.add_reader()
        server.start()
        [worker] = server.workers
        time.sleep(3.0)
        idle = rig.memory_kb(worker)
        rig.report("idle worker", rss_mb=mb(idle["Rss"]), pss_mb=mb(idle["Pss"]), anonymous_mb=mb(idle["Anonymous"]))
        idle_connections(server, worker, options.connections)
        for door, port in (("SMTP", server.mx), ("IMAP", server.imap), ("POP3", server.pop3)):
            strangers(server, f"silent stranger, {door}", port, b"", options.connections)
            strangers(server, f"stranger with half a line of 64 kB, {door}", port, b"x" * 65_536, options.connections)
        large_messages(server, sink_port, options.transfers)


def idle_connections(server: rig.Server, worker: int, count: int) -> None:
    """Connections after EHLO that say nothing more."""
    rig.load(server.mx, 500, to=rig.USER)
    time.sleep(1.0)
    before, kernel = rig.memory_kb(worker)["Anonymous"], kernel_kb()

    async def hold() -> tuple[int, int]:
        writers = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.mx)
            writers.append(writer)
            await reader.readline()
            writer.write(b"EHLO idle.test\r\n")
            while not (await reader.readline()).startswith(b"250 "):
                pass
        await asyncio.sleep(1.0)
        held = rig.memory_kb(worker)["Anonymous"], kernel_kb()
        for writer in writers:
            writer.close()
        return held

    held, kernel_held = asyncio.run(hold())
    rig.report(
        "idle SMTP connection",
        connections=count,
        anonymous_kb=round((held - before) / count, 1),
        kernel_kb_both_ends=round((kernel_held - kernel) / count, 1),
    )


def strangers(server: rig.Server, what: str, port: int, octets: bytes, count: int) -> None:
    """Clients that have not logged in and do not go on, at a fresh worker; who is thrown out costs nothing any more."""
    server.stop()
    [worker] = server.start().workers
    time.sleep(1.0)
    before = rig.memory_kb(worker)["Anonymous"]

    async def hold() -> int:
        writers = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            await reader.readline()
            writer.write(octets)
        await asyncio.sleep(1.0)
        held = rig.memory_kb(worker)["Anonymous"]
        for writer in writers:
            writer.close()
        return held

    held = asyncio.run(hold())
    rig.report(what, connections=count, anonymous_kb=round(max(0, held - before) / count, 1))


def kernel_kb() -> int:
    """Slab memory of the whole machine: sockets, files, epoll entries; of our clients too."""
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Slab:"))


def large_messages(server: rig.Server, sink_port: int, transfers: int) -> None:
    """Large messages in, out to another host, and out of a mailbox."""
    with peak(server) as taken:
        rig.load(server.mx, transfers, sessions=transfers, size=SIZE)
    per_transfer("50 MB received", taken, transfers)
    # The next hop was down until now, so all of them go out together.
    with rig.Sink(sink_port) as sink, peak(server) as taken:
        server.command("queue", "retry", "--all")
        sink.wait(transfers)
    per_transfer("50 MB relayed", taken, transfers)
    rig.load(server.mx, 1, size=SIZE, to=rig.USER)
    with peak(server) as taken:
        together(lambda: fetch_pop3(server.pop3))
    per_transfer("50 MB fetched by POP3", taken, READERS)
    with peak(server) as taken:
        together(lambda: fetch_imap(server.imap))
    per_transfer("50 MB fetched by IMAP", taken, READERS)


def fetch_pop3(port: int) -> int:
    """Octets of the newest message, read as fast as it comes."""
    box = poplib.POP3("127.0.0.1", port, timeout=120)
    box.user(rig.USER), box.pass_(rig.PASSWORD)
    octets = box.retr(box.stat()[0])[2]
    box.quit()
    return octets


def fetch_imap(port: int) -> int:
    """The same by IMAP."""
    box = imaplib.IMAP4("127.0.0.1", port)
    box.login(rig.USER, rig.PASSWORD)
    newest = str(int(box.select("INBOX", readonly=True)[1][0] or 0))
    octets = sum(len(part[1]) for part in box.fetch(newest, "(BODY.PEEK[])")[1] if isinstance(part, tuple))
    box.logout()
    return octets


def together(fetch: Callable[[], int]) -> None:
    """Several readers at once, one after the other where the protocol locks the mailbox."""
    got: list[int] = []

    def run() -> None:
        for _ in range(600):
            try:
                got.append(fetch())
            except (poplib.error_proto, imaplib.IMAP4.error):
                time.sleep(0.2)  # POP3 gives a mailbox to one client at a time
            else:
                return

    threads = [threading.Thread(target=run) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(got) != READERS or min(got) < SIZE:
        raise RuntimeError(f"read {got}")


class Peak:
    """The highest memory seen, above what it was before."""

    def __init__(self) -> None:
        self.kb = 0


@contextlib.contextmanager
def peak(server: rig.Server) -> Iterator[Peak]:
    """Samples the worker while the block runs, above what it had just after a start."""
    server.stop()
    [pid] = server.start().workers
    time.sleep(1.0)
    before = rig.memory_kb(pid)["Anonymous"]
    seen, going_on = Peak(), True

    def sample() -> None:
        while going_on:
            seen.kb = max(seen.kb, rig.memory_kb(pid)["Anonymous"] - before)
            time.sleep(0.02)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        going_on = False
        thread.join()


def per_transfer(what: str, taken: Peak, count: int) -> None:
    """Reports the peak, and its share per transfer."""
    rig.report(what, at_once=count, peak_mb=mb(taken.kb), mb_each=round(taken.kb / 1024 / count, 2))


def mb(kb: int) -> float:
    """Kilobytes as megabytes of 1024 kB."""
    return round(kb / 1024, 1)


if __name__ == "__main__":
    main()
