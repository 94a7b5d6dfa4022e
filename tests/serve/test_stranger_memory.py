"""Class E8: before a login no connection holds more than 64 kB, whatever its client sends, at any door.

The client is as fast as it can be, and where a command is open its session does not answer: what is held is what the
driver has read and the machine has kept. What a machine holds by itself: tests/wire/smtp/test_server_memory.py.
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

MACHINES: dict[str, tuple[Callable[[], Any], bytes]] = {
    "mx": (lambda: ServerMachine(hostname="mx.test", door=MX), b"NOOP\r\n"),
    "submissions": (lambda: ServerMachine(hostname="mx.test", door=SUBMISSIONS), b"EHLO client.test\r\n"),
    "imaps": (lambda: ImapMachine(tls=True), b"a LOGIN anna secret\r\n"),
    "pop3s": (lambda: Pop3Machine(tls_active=True), b"USER anna\r\nPASS secret\r\n"),
}
"""Each door's machine, and a command that its session begins to carry out."""


class Stuck:
    """A session that never finishes the first command it is given."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.began = 0

    def opened(self) -> None:
        if isinstance(self.machine, ServerMachine):
            self.machine.greet(Reply(220, "", "mx.test"))
        elif isinstance(self.machine, ImapMachine):
            self.machine.greet()

    def penalty_s(self) -> float:
        return 0.0

    async def handle(self, event: Any) -> None:
        self.began += 1
        await asyncio.get_running_loop().create_future()

    def deadline(self, now: float) -> float:
        return now + 60

    def lost(self) -> None: ...


async def flooded(door: str, first: bytes, more: bytes) -> tuple[Stuck, Conversation, int]:
    """What stands when a client has sent `first`, and then `more` until nobody takes it; and how much it sent."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours.setblocking(False)
    session = Stuck(MACHINES[door][0]())
    made = Conversation(Watch(loop), loop, lambda _: session)  # type: ignore[arg-type,return-value]
    await loop.connect_accepted_socket(lambda: made, ours)
    octets, sent, idle = first + more, 0, 0
    while idle < 10 and sent < 5_000_000:
        try:
            taken = theirs.send(octets)
            sent, octets, idle = sent + taken, octets[taken:] or more, 0
        except BlockingIOError:
            idle += 1
        except OSError:  # it has been thrown out
            break
        await asyncio.sleep(0.001)
    theirs.close()
    return session, made, sent


def held(session: Stuck) -> int:
    """Octets that the machine keeps unread."""
    return len(session.machine._lines._octets)


both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@both_loops
@pytest.mark.parametrize("door", MACHINES)
@pytest.mark.parametrize("more", [b"x" * 256_000, b"NOOP\r\n" * 40_000], ids=["one line", "many"])
def test_what_waits_behind_an_open_command(door: str, more: bytes, run: Callable[..., Any]) -> None:
    async def scene() -> None:
        session, made, sent = await flooded(door, MACHINES[door][1], more)
        assert session.began == 1
        assert sent > LIMIT
        assert READ_OCTETS <= held(session) <= LIMIT
        made.transport.abort()

    run(scene())


@both_loops
@pytest.mark.parametrize("door", MACHINES)
@pytest.mark.parametrize("more", [b"x" * 256_000, b"a b {999999}\r\n" * 20_000, b"\0" * 256_000])
def test_what_is_kept_of_commands_that_never_end(door: str, more: bytes, run: Callable[..., Any]) -> None:
    async def scene() -> None:
        session, made, sent = await flooded(door, b"", more)
        kept = held(session) if hasattr(made, "session") else 0
        assert sent > READ_OCTETS
        assert kept <= LIMIT
        made.transport.abort()

    run(scene())


def test_replies_to_who_does_not_read_are_bounded_too() -> None:
    """Row S61; the driver takes no command while more than this is unsent."""
    assert WRITE_HIGH_WATER <= LIMIT
