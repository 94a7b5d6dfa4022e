"""A receiving host with moods: it takes mail, puts it off, or hangs up before or after it has stored it.

What it does follows from its seed alone; everything it stores is written into the ledger.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from typing import cast

from tests.fakes.ledger import Ledger


@dataclass(frozen=True)
class Moods:
    """Odds per answer."""

    refuse_recipient: float = 0.04
    """451 to RCPT."""
    refuse_content: float = 0.04
    """451 after the content."""
    hang_up: float = 0.01
    """The connection ends after the content; nothing is stored."""
    lose_reply: float = 0.01
    """The same, but the mail has been stored."""


CALM = Moods(0, 0, 0, 0)


class Sink:
    """The host; `async with Sink(ledger, seed) as sink: sink.port`."""

    def __init__(self, ledger: Ledger, seed: int, moods: Moods | None = None) -> None:
        self.ledger = ledger
        self.rng = Random(seed)
        self.moods = moods or Moods()
        self.port = 0
        self.replies_lost = 0
        self.open = 0
        self.most_open = 0
        """Connections at once: each counts from its first packet until it has said QUIT or is lost."""
        self.pause_s = 0.0
        """How long the answer to a content takes."""
        self.arrivals: list[tuple[float, str]] = []
        """When each recipient's mail arrived, on the loop's clock."""
        self._sessions: set[_Session] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> Sink:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Session(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for session in list(self._sessions):
            session.transport.abort()
        await self._server.wait_closed()

    def mood(self, odds: float) -> bool:
        """Whether it happens this time."""
        return odds > 0 and self.rng.random() < odds


class _Session(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.buffer = bytearray()
        self.recipients: list[str] = []
        self.in_content = False
        self.searched = 0
        self.counted = False

    def count(self, change: int) -> None:
        """Counts the connection once in and once out."""
        if self.counted is (change < 0):
            self.counted = change > 0
            self.sink.open += change
            self.sink.most_open = max(self.sink.most_open, self.sink.open)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.sink._sessions.add(self)
        self.count(1)
        self.say(b"220 sink.test ESMTP")

    def connection_lost(self, exc: Exception | None) -> None:
        self.sink._sessions.discard(self)
        self.count(-1)

    def say(self, line: bytes) -> None:
        self.transport.write(line + b"\r\n")

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while not self.transport.is_closing() and (self.take_content() if self.in_content else self.take_line()):
            pass

    def take_line(self) -> bool:
        end = self.buffer.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 2]
        self.command(line[:4].upper(), line)
        return True

    def command(self, verb: bytes, line: bytes) -> None:
        sink = self.sink
        if verb == b"EHLO":
            self.say(b"250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 100000000")
        elif verb == b"RCPT":
            if sink.mood(sink.moods.refuse_recipient):
                self.say(b"451 4.2.1 not now")
            else:
                self.recipients.append(line[line.find(b"<") + 1 : line.find(b">")].decode())
                self.say(b"250 2.1.5 ok")
        elif verb == b"DATA":
            self.in_content = bool(self.recipients)
            self.searched = 0
            self.say(b"354 go on" if self.recipients else b"554 5.5.1 no recipients")
        elif verb == b"QUIT":
            self.count(-1)
            self.say(b"221 2.0.0 bye")
            self.transport.close()
        else:
            self.recipients = []
            self.say(b"250 2.0.0 ok")

    def take_content(self) -> bool:
        end = self.buffer.find(b"\r\n.\r\n", max(0, self.searched - 4))
        if end < 0:
            self.searched = len(self.buffer)
            return False
        content = bytes(self.buffer[: end + 2]).replace(b"\r\n..", b"\r\n.")
        del self.buffer[: end + 5]
        self.in_content = False
        recipients, self.recipients = self.recipients, []
        self.finish(content, recipients)
        return True

    def finish(self, content: bytes, recipients: list[str]) -> None:
        sink = self.sink
        if sink.mood(sink.moods.refuse_content):
            self.say(b"451 4.3.0 try again")
            return
        if sink.mood(sink.moods.hang_up):
            self.transport.abort()
            return
        lost = sink.mood(sink.moods.lose_reply)
        sink.replies_lost += lost
        for recipient in recipients:
            sink.arrivals.append((asyncio.get_running_loop().time(), recipient))
            sink.ledger.arrived(recipient, content, reply_lost=lost)
        if lost:
            self.transport.abort()
        elif sink.pause_s:
            asyncio.get_running_loop().call_later(sink.pause_s, self.say, b"250 2.0.0 stored")
        else:
            self.say(b"250 2.0.0 stored")
