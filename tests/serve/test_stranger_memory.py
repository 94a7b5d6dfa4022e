"""Class E8: before a login no connection holds more than 64 kB, whatever its client sends, at any door.

The client is as fast as it can be and the server's session does not answer: what waits is what the driver has read and
the machine has kept. Machines by themselves: tests/wire.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from postroad.net.tls_link import READ_OCTETS
from postroad.serve.conversation import WRITE_HIGH_WATER, Conversation, Watch
from postroad.values.reply import Reply
from postroad.wire.imap.machine import ImapMachine
from postroad.wire.pop3 import Pop3Machine
from postroad.wire.smtp.extensions import MX, SUBMISSIONS
from postroad.wire.smtp.server import ServerMachine

LIMIT = 64 * 1024


class Stuck:
    """A session that never finishes the first command it is given."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.handled = 0

    def opened(self) -> None:
        greet = getattr(self.machine, "greet", None)
        if isinstance(self.machine, ServerMachine):
            self.machine.greet(Reply(220, "", "mx.test"))
        elif greet is not None:
            greet()

    def penalty_s(self) -> float:
        return 0.0

    async def handle(self, event: Any) -> None:
        self.handled += 1
        await asyncio.get_running_loop().create_future()

    def deadline(self, now: float) -> float:
        return now + 60

    def lost(self) -> None: ...

    def drain(self) -> None: ...


MACHINES: dict[str, tuple[Callable[[], Any], bytes]] = {
    "mx": (lambda: ServerMachine(hostname="mx.test", door=MX), b"NOOP\r\n"),
    "submissions": (lambda: ServerMachine(hostname="mx.test", door=SUBMISSIONS), b"EHLO c.test\r\n"),
    "imap": (lambda: ImapMachine(tls=True), b"a LOGIN anna secret\r\n"),
    "pop3": (lambda: Pop3Machine(tls_active=True), b"USER anna\r\nPASS secret\r\n"),
}


async def flood(door: str, first: bytes, more: bytes) -> Conversation:
    """A connection whose client has sent `first` and as much of `more` as goes."""
    loop = asyncio.get_running_loop()
    make, _ = MACHINES[door]
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    made = Conversation(Watch(loop), loop, lambda _: Stuck(make()))  # type: ignore[return-value]
    await loop.connect_accepted_socket(lambda: made, ours)
    octets, idle = first + more * 20_000, 0
    while octets and idle < 20:
        try:
            octets = octets[theirs.send(octets) :]
            idle = 0
        except BlockingIOError:
            idle += 1
        except OSError:
            break
        await asyncio.sleep(0.001)
    made.client = theirs if False else None  # type: ignore[attr-defined]
    return made
