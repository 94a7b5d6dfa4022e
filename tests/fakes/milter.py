"""A scripted milter: what it does at each command is a script, and it remembers what it was told.

    async with FakeMilter(RCPT=[reply("550 5.1.1 no"), CONTINUE], EOM=[add("X-A", "1") + CONTINUE]) as milter: ...

A step of the script is the octets to send, or an act (`Silent`, `Drop`, `Slowly`); a list has one for each time (the
last one stays). Commands: NEGOTIATE, CONNECT, HELO, MAIL, RCPT, DATA, HEADER, EOH, BODY, EOM, UNKNOWN. It reads and
writes packets for itself, without the product's code, on purpose.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from postroad.config.endpoints import MilterPlace

NAMES = {
    b"O": "NEGOTIATE", b"D": "MACRO", b"C": "CONNECT", b"H": "HELO", b"M": "MAIL", b"R": "RCPT", b"T": "DATA",
    b"L": "HEADER", b"N": "EOH", b"B": "BODY", b"E": "EOM", b"A": "ABORT", b"Q": "QUIT", b"K": "QUIT_NC",
    b"U": "UNKNOWN",
}  # fmt: skip
UNANSWERED = ("MACRO", "ABORT", "QUIT", "QUIT_NC")


def say(word: str, *texts: str | bytes, number: int | None = None, end: bytes = b"\0") -> bytes:
    """One packet: a letter, a number where there is one, and texts with their NULs."""
    octets = word.encode() + (b"" if number is None else struct.pack(">I", number))
    octets += b"".join((text.encode() if isinstance(text, str) else text) + end for text in texts)
    return struct.pack(">I", len(octets)) + octets


CONTINUE, ACCEPT, REJECT, TEMPFAIL, DISCARD, SKIP, PROGRESS = map(say, "cartdsp")
SHUTDOWN, CONNECTION_FAILED = map(say, "4f")


def reply(text: str) -> bytes:
    return say("y", text)


def add(name: str, value: str) -> bytes:
    return say("h", name, value)


def insert(index: int, name: str, value: str) -> bytes:
    return say("i", name, value, number=index)


def change(index: int, name: str, value: str) -> bytes:
    return say("m", name, value, number=index)


def body(octets: bytes) -> bytes:
    return say("b", octets, end=b"")


@dataclass(frozen=True)
class Silent:
    """Says nothing more."""


@dataclass(frozen=True)
class Drop:
    """Closes the connection without a word."""


@dataclass(frozen=True)
class Slowly:
    """These octets one after the other, with a pause before each."""

    pause_s: float
    octets: tuple[bytes, ...]


Step = bytes | Silent | Drop | Slowly
Script = Step | Sequence[Step]


class FakeMilter:
    """The server. `steps` and `actions` are its side of the negotiation, `lists` the octets that follow them; it hangs
    up when it is offered a version newer than `knows`."""

    def __init__(
        self,
        script: Mapping[str, Script] | None = None,
        *,
        version: int = 6,
        actions: int = 0x1FF,
        steps: int = 0,
        lists: bytes = b"",
        knows: int = 6,
        **more: Script,
    ) -> None:
        self.script = {**(script or {}), **more}
        self._turns: Counter[str] = Counter()
        self.version, self.actions, self.steps = version, actions, steps
        self.lists, self.knows = lists, knows
        self.heard: list[tuple[str, bytes]] = []
        self.macros: list[tuple[str, dict[str, str]]] = []
        self.connections = self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def names(self) -> list[str]:
        """The commands without their arguments, macros left out."""
        return [name for name, _ in self.heard]

    def told(self, name: str) -> list[bytes]:
        """The arguments of each command of that name."""
        return [arguments for known, arguments in self.heard if known == name]

    @property
    def place(self) -> MilterPlace:
        """Where it listens, as the configuration names it."""
        return MilterPlace("", "127.0.0.1", self.port)

    async def __aenter__(self) -> FakeMilter:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                (length,) = struct.unpack(">I", await reader.readexactly(4))
                packet = await reader.readexactly(length)
                if not await self._answer(NAMES[packet[:1]], packet[1:], writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, name: str, arguments: bytes, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        if name == "MACRO":
            words = [word.decode() for word in arguments[1:].split(b"\0")[:-1]]
            self.macros.append((NAMES[arguments[:1]], dict(zip(words[::2], words[1::2], strict=True))))
            return True
        self.heard.append((name, arguments))
        if name in UNANSWERED:
            return not name.startswith("QUIT")
        step = self._step(name, arguments)
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        if isinstance(step, Slowly):
            for octets in step.octets:
                await asyncio.sleep(step.pause_s)
                writer.write(octets)
        return not isinstance(step, Drop)

    def _step(self, name: str, arguments: bytes) -> Step:
        found: Script | None = self.script.get(name)
        if isinstance(found, list):
            self._turns[name] += 1
            step: Step = found[min(self._turns[name], len(found)) - 1]
            return step
        if isinstance(found, bytes | Silent | Drop | Slowly):
            return found
        if name != "NEGOTIATE":
            return CONTINUE
        if struct.unpack(">I", arguments[:4])[0] > self.knows:
            return Drop()
        return say("O", struct.pack(">III", self.version, self.actions, self.steps) + self.lists, end=b"")
