"""One milter in one SMTP session: a connection, its patience, and the machine that knows the protocol.

Invariant: when a method returns, the milter has answered and expects the next step; when it raises, whatever it raises,
the connection is gone and `open` is false, so nothing of a broken dialogue reaches the next message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from postroad.config.endpoints import MilterPlace, is_address
from postroad.net.dial import Link, Unreachable, dial, dial_unix
from postroad.values.ports import Lookup
from postroad.wire.milter.machine import MilterMachine
from postroad.wire.milter.packets import CONTINUE, Answer, MilterError
from postroad.wire.milter.words import MAX_CHUNK, OLDEST, VERSION, Command, Word

UNSENT_MAX: Final = 65_536
"""Octets of unanswered steps that are sent together."""


class MilterFailed(Exception):
    """A milter could not be asked: it is not there, is silent, hung up or broke the protocol. The text says which."""


class _HungUp(MilterFailed):
    """The milter closed the connection."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a milter may take, in seconds: to take a connection, to answer a command, to answer about content."""

    connect_s: float
    command_s: float
    content_s: float


@dataclass(frozen=True, slots=True)
class Client:
    """The client of the SMTP session as a milter is told of it."""

    name: str
    """Its proved name, or its address in brackets."""
    address: str
    port: int

    @property
    def family(self) -> bytes:
        """SMFIA_INET6 or SMFIA_INET."""
        return b"6" if ":" in self.address else b"4"


class MilterSession:
    """The connection to one milter. `macros` may be changed at any time and is told with the next step."""

    __slots__ = ("_body_max", "_link", "_lookup", "_machine", "_patience", "_unsent", "_unsent_size", "macros", "place")

    def __init__(self, place: MilterPlace, patience: Patience, lookup: Lookup, *, body_max: int) -> None:
        self.place = place
        self.macros: dict[str, str] = {}
        self._patience = patience
        self._lookup = lookup
        self._body_max = body_max
        self._link: Link | None = None
        self._machine = MilterMachine(body_max=body_max)
        self._unsent: list[bytes] = []
        self._unsent_size = 0

    @property
    def open(self) -> bool:
        """Whether there is a milter at the other end, as far as we know."""
        return self._link is not None and not self._link.ended

    @property
    def machine(self) -> MilterMachine:
        """The state of the dialogue: what the milter wants to hear, and what it asked for."""
        return self._machine

    # -- the steps, each until its answer or the loop's time `deadline`; all raise MilterFailed ------------------------

    async def connect(self, client: Client, deadline: float) -> Answer:
        """Dials, agrees on version and steps, and tells who has connected."""
        try:
            await self._negotiate(VERSION, deadline)
        except _HungUp:
            # A libmilter before 8.14 hangs up when it is offered more than it knows.
            await self._negotiate(OLDEST, deadline)
        with self._failing():
            machine = self._ready()
            octets = machine.connect(client.name.encode(), client.family, client.port, client.address.encode())
            return await self._command(octets, Command.CONNECT, deadline)

    async def hello(self, name: str, deadline: float) -> Answer:
        """Tells what the client calls itself; a message that was open is over."""
        with self._failing():
            return await self._command(self._ready().hello(_octets(name)), Command.HELO, deadline)

    async def mail(self, sender: str, parameters: Iterable[str], deadline: float) -> Answer:
        """Begins a message; one that was open is over. `sender` comes without brackets."""
        with self._failing():
            machine = self._ready()
            octets = machine.abort() + machine.mail(_octets(f"<{sender}>"), *map(_octets, parameters))
            return await self._command(octets, Command.MAIL, deadline)

    async def rcpt(self, recipient: str, deadline: float, *, refused: bool = False) -> Answer:
        """Tells a recipient, accepted so far or `refused` already."""
        with self._failing():
            octets = self._ready().rcpt(_octets(f"<{recipient}>"), refused=refused)
            return await self._command(octets, Command.RCPT, deadline)

    async def unknown(self, line: bytes, deadline: float) -> Answer:
        """Tells a command that SMTP does not know."""
        with self._failing():
            octets = self._ready().unknown(line.replace(b"\0", b"?"))
            return await self._command(octets, Command.UNKNOWN, deadline)

    async def message(
        self, fields: Iterable[tuple[bytes, bytes]], body: AsyncIterator[bytes], deadline: float
    ) -> Answer:
        """Tells the whole message and returns the answer to its end, or an earlier one that ends it.

        What the milter wants changed is then in `machine.changes`. What reading the body raises is passed on.
        """
        with self._failing():
            machine = self._ready()
            answer = await self._command(machine.data(), Command.DATA, deadline)
            if machine.wants(Command.HEADER) and answer.word is Word.CONTINUE:
                answer = await self._header(fields, deadline)
            if answer.word is Word.CONTINUE:
                answer = await self._content(machine.end_of_header(), Command.END_OF_HEADER, deadline)
            if machine.wants(Command.BODY) and answer.word is Word.CONTINUE:
                answer = await self._body(body, deadline)
            if answer.word is Word.CONTINUE:
                answer = await self._content(machine.end_of_body(), Command.END_OF_BODY, deadline)
            return answer

    def abort(self) -> None:
        """The message that was open, if any, is over."""
        if self._link is None:
            return
        if self._machine.waiting is not None:
            self.drop()
            return
        self._unsent.append(self._machine.abort())
        self._send()

    def close(self) -> None:
        """The SMTP session is over."""
        link, self._link = self._link, None
        if link is None:
            return
        if self._machine.waiting is None:
            link.write(b"".join([*self._unsent, self._machine.quit()]))
            link.close()
        else:
            link.abort()
        self._unsent.clear()

    def drop(self) -> None:
        """Ends the connection at once."""
        link, self._link = self._link, None
        self._unsent.clear()
        self._unsent_size = 0
        if link is not None:
            link.abort()

    # -- content -----------------------------------------------------------------------------------------------------

    async def _header(self, fields: Iterable[tuple[bytes, bytes]], deadline: float) -> Answer:
        for name, value in fields:
            answer = await self._content(self._machine.header(name, value), Command.HEADER, deadline)
            if answer.word is Word.SKIP:
                break
            if answer.word is not Word.CONTINUE:
                return answer
        return CONTINUE

    async def _body(self, body: AsyncIterator[bytes], deadline: float) -> Answer:
        async for piece in body:
            rest = memoryview(piece)
            while rest:
                answer = await self._content(self._machine.body(rest[:MAX_CHUNK]), Command.BODY, deadline)
                if answer.word is Word.SKIP:
                    return CONTINUE
                if answer.word is not Word.CONTINUE:
                    return answer
                rest = rest[MAX_CHUNK:]
        return CONTINUE

    async def _command(self, octets: bytes, command: Command, deadline: float) -> Answer:
        return await self._step(octets, command, self._patience.command_s, deadline)

    async def _content(self, octets: bytes, command: Command, deadline: float) -> Answer:
        return await self._step(octets, command, self._patience.content_s, deadline)

    # -- the connection ----------------------------------------------------------------------------------------------

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Any exception ends the connection; the milter's own faults become MilterFailed."""
        try:
            yield
        except MilterError as error:
            self.drop()
            raise MilterFailed(str(error)) from None
        except BaseException:
            self.drop()
            raise

    def _ready(self) -> MilterMachine:
        if self._link is None:
            raise MilterFailed("not connected")
        self._machine.macros = self.macros
        return self._machine

    async def _negotiate(self, version: int, deadline: float) -> None:
        self.drop()
        with self._failing():
            self._link = await self._dial()
            self._machine = MilterMachine(body_max=self._body_max, version=version)
            await self._command(self._machine.negotiate(), Command.NEGOTIATE, deadline)

    async def _dial(self) -> Link:
        place, patience = self.place, self._patience.connect_s
        try:
            async with asyncio.timeout(patience):
                if place.path:
                    return await dial_unix(place.path, patience=patience)
                return await self._dial_any(await self._addresses(place.host), place.port)
        except TimeoutError:
            raise MilterFailed(f"timeout after {patience:g} s") from None
        except Unreachable as error:
            raise MilterFailed(str(error)) from None

    async def _dial_any(self, addresses: Iterable[str], port: int) -> Link:
        failure = Unreachable("its host has no address")
        for address in addresses:
            try:
                return await dial(address, port, patience=self._patience.connect_s)
            except Unreachable as error:
                failure = error
        raise failure

    async def _addresses(self, host: str) -> Iterable[str]:
        if is_address(host):
            return (host,)
        # RFC 6761 section 6.3: names that end in "localhost" mean loopback, whatever DNS says.
        if host == "localhost":
            return ("127.0.0.1", "::1")
        return (await self._lookup.addresses(host)).records

    async def _step(self, octets: bytes, command: Command, patience: float, deadline: float) -> Answer:
        """Sends a step and waits for its answer, when it has one; PROGRESS gives it its patience anew."""
        machine, link, now = self._machine, self._link, asyncio.get_running_loop().time
        assert link is not None
        if octets:
            self._unsent.append(octets)
            self._unsent_size += len(octets)
        if machine.waiting is None and self._unsent_size < UNSENT_MAX:
            return CONTINUE
        self._send()
        try:
            await link.room(min(patience, deadline - now()))
            until = min(now() + patience, deadline)
            while machine.waiting is not None:
                for answer in machine.receive(await self._received(link, until - now(), command)):
                    if answer.word is not Word.PROGRESS:
                        return answer
                    until = min(now() + patience, deadline)
        except TimeoutError:
            raise MilterFailed(f"no answer to {command.name} in time") from None
        return CONTINUE

    async def _received(self, link: Link, patience: float, command: Command) -> bytes:
        if patience <= 0:
            raise TimeoutError
        octets = await link.receive(patience)
        if not octets:
            raise _HungUp(f"hung up at {command.name}" + (f": {link.why}" if link.why else ""))
        return octets

    def _send(self) -> None:
        assert self._link is not None
        self._link.write(b"".join(self._unsent))
        self._unsent.clear()
        self._unsent_size = 0


async def pieces(octets: bytes) -> AsyncIterator[bytes]:
    """A body that is in memory, as one piece."""
    yield octets


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "replace").replace(b"\0", b"?")
