"""Ten thousand idle TLS connections at one worker: the memory of each, and how long a new login takes beside them.

    python bench/idle_tls.py [--connections 10000] [--messages 1000] [--active 200] [--logins 200]

Needs a hard limit of open files (ulimit -Hn) of 2,000 more than connections. The clients run in a process of their own
and come from several addresses of loopback. Three figures:

- a fresh connection: after handshake, EHLO and its answer;
- one that has sent a message of 200 kB, which is what its buffers have grown to;
- a login on a new connection (TCP, TLS, EHLO, AUTH PLAIN with a password proved before), while all these stay and
  `--active` other clients send a message of 5 kB each second.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import resource
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

import rig

LARGE: Final = 200_000
SMALL: Final = 5_000
SOURCES: Final = 8
"""Addresses of loopback that clients come from: one has 28,000 ports."""
AT_ONCE: Final = 64

Thing = TypeVar("Thing")


def main() -> None:
    parser = argparse.ArgumentParser(description="Idle TLS connections.")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=1_000, help="connections that send 200 kB")
    parser.add_argument("--active", type=int, default=200)
    parser.add_argument("--logins", type=int, default=200)
    parser.add_argument("--client", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.client:
        import uvloop

        uvloop.run(Clients(options.client).obey())
    else:
        measure(options)


def measure(options: argparse.Namespace) -> None:
    with rig.Server(workers=1, sink=rig.free_port(), tls=True) as server:
        server.add_reader()
        server.start()
        [worker] = server.workers
        argv = [sys.executable, __file__, "--client", str(server.submissions)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:

            def tell(*words: object) -> dict[str, float]:
                assert clients.stdin is not None
                assert clients.stdout is not None
                print(*words, file=clients.stdin, flush=True)
                told: dict[str, float] = json.loads(clients.stdout.readline())
                return told

            tell("open", 200)  # what a worker takes once, and not for each connection
            tell("close")
            before = settled(worker)
            took = tell("open", options.connections)["seconds"]
            fresh = settled(worker)
            rig.report(
                "idle TLS connection, fresh",
                connections=options.connections,
                rss_kb=round((fresh - before) / options.connections, 1),
                handshakes_a_second=round(options.connections / took),
            )
            tell("send", options.messages, LARGE)
            grown = settled(worker)
            rig.report(
                "idle TLS connection after 200 kB",
                connections=options.messages,
                rss_kb=round((fresh - before) / options.connections + (grown - fresh) / options.messages, 1),
            )
            times = tell("login", options.logins, options.active)
            del times["seconds"]
            rig.report("login beside them", active=options.active, **times)
            tell("close")
            clients.stdin.close()  # type: ignore[union-attr]


def settled(pid: int) -> int:
    """Resident memory in kB after two quiet seconds."""
    time.sleep(2.0)
    return rig.memory_kb(pid)["Rss"]


class Client:
    """One TLS connection to the submission port; this machine may relay, so only logins log in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def ask(self, octets: bytes) -> bytes:
        """Sends, and reads one whole reply; empty at the end of the connection."""
        self.writer.write(octets)
        while (line := await self._reader.readline())[3:4] == b"-":
            continue
        return line

    async def send(self, size: int) -> None:
        """One message to the reader's mailbox."""
        to = rig.USER.encode()
        for command in (b"MAIL FROM:<a@bench.test>\r\n", b"RCPT TO:<" + to + b">\r\n", b"DATA\r\n"):
            said = await self.ask(command)
            assert said[:1] in b"23", said
        said = await self.ask(b"Subject: x\r\n\r\n" + (b"x" * 78 + b"\r\n") * (size // 80) + b".\r\n")
        assert said.startswith(b"250 "), said


class Clients:
    """The other process: does what its standard input says, and answers each line with one of JSON."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self._clients: list[Client] = []
        self._opened = 0

    async def obey(self) -> None:
        """Until standard input ends."""
        loop = asyncio.get_running_loop()
        while words := (await loop.run_in_executor(None, sys.stdin.readline)).split():
            began = loop.time()
            found = await getattr(self, words[0])(*map(int, words[1:])) or {}
            print(json.dumps(found | {"seconds": loop.time() - began}), flush=True)

    async def connect(self) -> Client:
        """A connection that has said EHLO."""
        self._opened += 1
        source = f"127.0.0.{2 + self._opened % SOURCES}"
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=self._tls, local_addr=(source, 0), ssl_handshake_timeout=60
        )
        client = Client(reader, writer)
        greeting = await client.ask(b"")
        assert greeting.startswith(b"220 "), greeting
        await client.ask(b"EHLO bench.test\r\n")
        return client

    async def open(self, count: int) -> None:
        """So many connections more, some at a time."""

        async def one(_: int) -> None:
            self._clients.append(await self.connect())

        await some_at_a_time(one, range(count))

    async def close(self) -> None:
        """All of them."""
        for client in self._clients:
            client.writer.close()
        self._clients.clear()
        await asyncio.sleep(1.0)

    async def send(self, count: int, size: int) -> None:
        """A message on each of the first connections."""
        await some_at_a_time(lambda client: client.send(size), self._clients[:count])

    async def login(self, count: int, active: int) -> dict[str, float]:
        """Logins one after the other while others send; milliseconds."""
        busy = [asyncio.create_task(self._keep_sending(n / active)) for n in range(active)]
        await asyncio.sleep(3.0)
        initial = base64.b64encode(f"\0{rig.USER}\0{rig.PASSWORD}".encode())
        took: list[float] = []
        for _ in range(count + 1):
            began = time.perf_counter()
            client = await self.connect()
            said = await client.ask(b"AUTH PLAIN " + initial + b"\r\n")
            took.append(1000 * (time.perf_counter() - began))
            assert said.startswith(b"235 "), said
            client.writer.close()
        for task in busy:
            task.cancel()
        first, *rest = took  # the first proves the password
        rest.sort()
        return {
            "p50_ms": round(rest[len(rest) // 2], 1),
            "p99_ms": round(rest[int(len(rest) * 0.99) - 1], 1),
            "first_ms": round(first, 1),
        }

    async def _keep_sending(self, delay: float) -> None:
        await asyncio.sleep(delay)
        client = await self.connect()
        while True:
            await client.send(SMALL)
            await asyncio.sleep(1.0)


async def some_at_a_time(work: Callable[[Thing], Awaitable[None]], things: Iterable[Thing]) -> None:
    """Does `work` for each, `AT_ONCE` at a time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(thing: Thing) -> None:
        async with room:
            await work(thing)

    await asyncio.gather(*map(one, things))


if __name__ == "__main__":
    main()
