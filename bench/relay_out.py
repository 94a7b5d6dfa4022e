"""What sending costs a worker: CPU per delivered message, with a sink in another process and a stub for a store.

    .venv/bin/python bench/relay_out.py [messages] [connections] [octets]

Measured is the whole outbound side of one worker (runner, lanes, connections, judging, events, grouping of records) as
process CPU time; the store's own time is not in it, because `record` is answered by a stub on the same loop after a
delay like that of a commit. The figures of the whole server come from `bench/` programs that run it as it is.
"""

from __future__ import annotations

import asyncio
import cProfile
import multiprocessing
import os
import pstats
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvloop

from postroad.flow.journal import Journal
from postroad.flow.local import Plan
from postroad.flow.meters import Meters
from postroad.flow.outbound import Manner
from postroad.flow.route import read_signposts
from postroad.flow.runner import Runner
from postroad.store.records import Accept, Claimed, Leg, Unrecorded
from postroad.values.address import Address
from postroad.values.clock import SystemClock
from postroad.values.ids import IdMaker
from postroad.values.ports import Answer, LookupStatus

COMMIT_S = 0.004
ME = 7


class Sink(asyncio.Protocol):
    """Accepts everything, with PIPELINING."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer, self.in_data = transport, bytearray(), False
        transport.write(b"220 sink.test ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        buffer, out = self.buffer, []
        buffer += data
        while True:
            if self.in_data:
                end = buffer.find(b"\r\n.\r\n")
                if end < 0:
                    break
                del buffer[: end + 5]
                self.in_data = False
                out.append(b"250 2.0.0 Ok: queued as 1234567890\r\n")
                continue
            end = buffer.find(b"\r\n")
            if end < 0:
                break
            verb = bytes(buffer[:4])
            del buffer[: end + 2]
            if verb == b"DATA":
                self.in_data = True
                out.append(b"354 Go on\r\n")
            elif verb == b"EHLO":
                out.append(b"250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n")
            else:
                out.append(b"250 2.1.0 Ok\r\n")
        if out:
            self.transport.write(b"".join(out))


def sink(port: Any) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0, backlog=1000)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


class StubStore:
    """Answers `record` after the time of a commit and has nothing to claim."""

    incarnation = ME

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done = 0
        self.calls = 0

    async def call(self, unit: Callable[..., Any], args: Any) -> Any:
        if unit.__name__ == "claim":
            return Claimed([], 0)
        if unit.__name__ != "record":
            return None
        self.calls += 1
        await asyncio.sleep(COMMIT_S)
        self.done += len(args.done)
        return Unrecorded([])


class NoLookup:
    async def mx(self, domain: str) -> Answer:
        return Answer(LookupStatus.FAILED)

    addresses = txt = ptr = mx


class NoBodies:
    async def read(self, body_file: str) -> AsyncIterator[bytes]:
        yield b""


async def run(messages: int, connections: int, size: int, port: int, profile: cProfile.Profile | None) -> None:
    store, clock, ids = StubStore(), SystemClock(), IdMaker(ME)

    async def plan_for(address: Address) -> Plan:
        return Plan(remotes=[address])

    runner = Runner(
        store=store,
        letters=store,  # type: ignore[arg-type]
        bodies=NoBodies(),
        note=Journal(Meters.private()).note,
        ids=ids,
        clock=clock,
        plan_for=plan_for,
        lookup=NoLookup(),
        signposts=read_signposts(next_hop=f"127.0.0.1:{port}"),
        manner=Manner(ehlo_name="bench.test", tls=None),
        hostname="bench.test",
        delays_s=(120.0,),
        lifetime_s=86_400.0,
        connections_per_lane=connections,
        messages_per_connection=1_000_000,
    )
    header = (
        b"Received: from a.test by b.test; Mon, 1 Jan 2026 00:00:00 +0000\r\nSubject: hello\r\nFrom: a@a.test\r\n\r\n"
    )
    body = (b"x" * 70 + b"\r\n") * (size // 72)
    total = len(header) + len(body)

    def make() -> Accept:
        now = clock.wall_us()
        legs = [Leg(ids.make(now), "b@x.test", "x.test", due_us=now + 120_000_000, owner=ME)]
        return Accept(
            ids.make(now), now, "a@a.test", header, body, "", total, [], legs, now + 86_400_000_000, "", b"[]"
        )

    for warm in range(2):
        count = messages if warm else 500
        mails = [make() for _ in range(count)]
        before, cpu, wall = store.done, time.process_time(), time.perf_counter()
        if warm and profile:
            profile.enable()
        for mail in mails:
            while not runner.room_for(1, total):
                await asyncio.sleep(0.001)
            runner.enqueue_fresh(mail)
        while store.done < before + count:
            await asyncio.sleep(0.001)
        if warm and profile:
            profile.disable()
        if warm:
            used, took = time.process_time() - cpu, time.perf_counter() - wall
            print(
                f"{messages} messages of {total} octets over {connections} connections: "
                f"{used / messages * 1e6:.1f} us CPU each, {messages / took:.0f}/s, {store.calls} record calls"
            )
    await runner.drain(1.0)


def main() -> None:
    numbers = [int(text) for text in sys.argv[1:] if text.isdecimal()]
    messages, connections, size = [*numbers, 20_000, 50, 5_000][: len(numbers)] + [20_000, 50, 5_000][len(numbers) :]
    profile = cProfile.Profile() if os.environ.get("PROFILE") else None
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=sink, args=(theirs,), daemon=True)
    process.start()
    port = ours.recv()
    try:
        uvloop.run(run(messages, connections, size, port, profile))
    finally:
        process.terminate()
        process.join()
    if profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(35)


if __name__ == "__main__":
    main()
