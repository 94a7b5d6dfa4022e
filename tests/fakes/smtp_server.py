"""A badly behaved SMTP server on loopback: what it does at each command is a script, and it remembers what it got.

    async with FakeSmtp(RCPT=["450 4.2.0 later", OK], DOT=Drop()) as host: ...

A step of the script is a reply line, an act (`Silent`, `Drop`, `Raw`, ...), a function of the command line that returns
either, or a list of them, one for each time (the last one stays). Commands: CONNECT, EHLO, HELO, STARTTLS, MAIL, RCPT,
DATA, DOT (after the content), BDAT, RSET, QUIT. It speaks for itself, without the product's machine, on purpose.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

OK = "250 2.0.0 ok"


@dataclass(frozen=True)
class Silent:
    """Says nothing, ever again."""


@dataclass(frozen=True)
class Drop:
    """Closes the connection without a word."""


@dataclass(frozen=True)
class Raw:
    """These octets, whatever they mean."""

    octets: bytes
    close: bool = False


@dataclass(frozen=True)
class Endless:
    """Continuation lines until the client has had enough."""

    line: bytes = b"250-and so on\r\n"
    times: int = 100_000


@dataclass(frozen=True)
class Drip:
    """These octets, one at a time."""

    octets: bytes
    every_s: float


Step = str | Silent | Drop | Raw | Endless | Drip
Script = Step | list[Step] | Callable[[str], Step]


@dataclass
class Got:
    """One message as it arrived."""

    sender: str
    recipients: list[str]
    content: bytes
    """Without the dots of transparency; with the end mark taken off."""
    tls: bool
    connection: int
    mail_line: str = ""
    rcpt_lines: list[str] = field(default_factory=list)
    peer: str = ""
    """Address that it came from."""


class FakeSmtp:
    """The server; `extensions` are its EHLO lines, `tls` makes STARTTLS work."""

    def __init__(
        self,
        extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "SIZE 10000000"),
        tls: ssl.SSLContext | None = None,
        lmtp: bool = False,
        **script: Script,
    ) -> None:
        self.extensions = (*extensions, "STARTTLS") if tls or "STARTTLS" in script else extensions
        self.tls = tls
        self.lmtp = lmtp
        """LHLO instead of EHLO, and the content is answered once for each recipient (RFC 2033)."""
        self.script = dict(script)
        self.messages: list[Got] = []
        self.commands: list[str] = []
        self.connections = 0
        self.resumed: list[bool] = []
        """Of every TLS handshake whether it resumed a session."""
        self.open = 0
        self.most_open = 0
        self.port = 0
        self.unwelcome: dict[str, str] = {}
        """Addresses of clients, and what they hear at MAIL instead of what the script says."""
        self.turned_away: dict[str, str] = {}
        """The same at the greeting."""
        self.hold: asyncio.Event | None = None
        """While set and not released, the answer to the content waits."""
        self._server: asyncio.Server | None = None
        self._sessions: set[_Session] = set()

    @property
    def recipients(self) -> list[str]:
        """Every recipient of every message, in order of arrival."""
        return [recipient for got in self.messages for recipient in got.recipients]

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> FakeSmtp:
        if host.startswith("/"):
            self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Session(self), host)
            return self
        self._server = await asyncio.get_running_loop().create_server(lambda: _Session(self), host, port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for session in list(self._sessions):
            session.transport.abort()
        await self._server.wait_closed()

    async def __aenter__(self) -> FakeSmtp:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def step(self, command: str, line: str, usual: str) -> Step:
        """What to do now at a command."""
        found = self.script.get(command)
        if found is None:
            return usual
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        if callable(found):
            return found(line)
        return found


class _Session(asyncio.Protocol):
    def __init__(self, server: FakeSmtp) -> None:
        self.server = server
        self.buffer = bytearray()
        self.in_data = False
        self.deaf = False
        self.secure = False
        self.chunk_left = -1
        self.chunk_last = False
        self.content = bytearray()
        self.transport: asyncio.Transport
        self.reset()

    def reset(self) -> None:
        self.sender: str | None = None
        self.mail_line = ""
        self.rcpts: list[str] = []
        self.rcpt_lines: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.secure:
            return
        server = self.server
        server._sessions.add(self)
        server.connections += 1
        self.peer = str((transport.get_extra_info("peername") or ("",))[0])
        self.number = server.connections
        server.open += 1
        server.most_open = max(server.most_open, server.open)
        self.act(server.turned_away.get(self.peer) or server.step("CONNECT", "", "220 fake.test ESMTP"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.server._sessions:
            self.server._sessions.discard(self)
            self.server.open -= 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while not self.deaf and self.take():
            pass

    def take(self) -> bool:
        """Handles one thing that has come whole."""
        buffer = self.buffer
        if self.chunk_left >= 0:
            piece = bytes(buffer[: self.chunk_left])
            del buffer[: len(piece)]
            self.content += piece
            self.chunk_left -= len(piece)
            if self.chunk_left:
                return False
            self.chunk_left = -1
            if self.chunk_last:
                self.finish("BDAT", bytes(self.content))
            else:
                self.act(OK)
            return True
        if self.in_data:
            end = 0 if buffer.startswith(b".\r\n") else buffer.find(b"\r\n.\r\n")
            if end < 0:
                return False
            cut = 3 if buffer.startswith(b".\r\n") else end + 5
            raw = bytes(buffer[: cut - 3])
            del buffer[:cut]
            self.in_data = False
            content = raw.replace(b"\r\n..", b"\r\n.")
            self.finish("DOT", content[1:] if content.startswith(b"..") else content)
            return True
        end = buffer.find(b"\r\n")
        if end < 0:
            return False
        line = buffer[:end].decode("utf-8", "replace")
        del buffer[: end + 2]
        self.server.commands.append(line)
        self.command(line)
        return True

    def command(self, line: str) -> None:
        verb = line.partition(" ")[0].upper()
        server = self.server
        if verb == ("LHLO" if server.lmtp else "EHLO"):
            lines = ["fake.test", *(e for e in server.extensions if not (self.secure and e == "STARTTLS"))]
            text = "\r\n".join(f"250{'-' if i < len(lines) - 1 else ' '}{one}" for i, one in enumerate(lines))
            self.act(server.step("EHLO", line, text))
        elif verb == "MAIL":
            self.mail_line = line
            step = server.unwelcome.get(self.peer) or server.step("MAIL", line, OK)
            if isinstance(step, str) and step.startswith("2"):
                self.sender = address_in(line)
            self.act(step)
        elif verb == "RCPT":
            step = server.step("RCPT", line, OK)
            if isinstance(step, str) and step.startswith("2") and self.sender is not None:
                self.rcpts.append(address_in(line))
                self.rcpt_lines.append(line)
            elif self.sender is None:
                step = "503 5.5.1 MAIL first"
            self.act(step)
        elif verb == "DATA":
            usual = "354 go on" if self.rcpts else "554 5.5.1 no valid recipients"
            step = server.step("DATA", line, usual)
            self.in_data = isinstance(step, str) and step.startswith("354")
            self.act(step)
        elif verb == "BDAT":
            _, size, *last = line.split()
            self.chunk_left, self.chunk_last = int(size), bool(last)
            self.content = bytearray()
        elif verb == "STARTTLS":
            step = server.step("STARTTLS", line, "220 2.0.0 go ahead")
            self.act(step)
            if server.tls is not None and isinstance(step, str) and step.startswith("220"):
                self.deaf = True
                self.secure = True
                self.task = asyncio.ensure_future(self.start_tls(server.tls))
        elif verb == "RSET":
            self.reset()
            self.act(server.step("RSET", line, OK))
        elif verb == "QUIT":
            self.act(server.step("QUIT", line, "221 2.0.0 bye"))
            self.transport.close()
        else:
            self.act(server.step(verb, line, "502 5.5.1 what?" if verb != "HELO" else "250 fake.test"))

    async def start_tls(self, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            transport = await loop.start_tls(self.transport, self, context, server_side=True)
        except (OSError, ssl.SSLError):
            return
        assert transport is not None
        self.transport = transport
        self.server.resumed.append(transport.get_extra_info("ssl_object").session_reused)
        self.deaf = False
        self.reset()
        self.data_received(b"")

    def finish(self, command: str, content: bytes) -> None:
        server = self.server
        if server.lmtp:
            self.finish_each(content)
            return
        step = server.step("DOT", command, OK)
        if (self.rcpts and isinstance(step, str) and step.startswith("2")) or isinstance(step, Drop | Silent):
            got = Got(self.sender or "", self.rcpts, content, self.secure, self.number, self.mail_line, self.rcpt_lines)
            got.peer = self.peer
            server.messages.append(got)
        elif not self.rcpts:
            step = "554 5.5.1 no valid recipients"
        self.reset()
        if server.hold is not None:
            self.deaf = True
            self.task = asyncio.ensure_future(self.answer_later(server.hold, step))
        else:
            self.act(step)

    def finish_each(self, content: bytes) -> None:
        """LMTP: the step is asked with each recipient, and those that get a yes have the message."""
        server = self.server
        steps = [(recipient, server.step("DOT", recipient, OK)) for recipient in self.rcpts]
        taken = [recipient for recipient, step in steps if isinstance(step, str) and step.startswith("2")]
        if taken:
            server.messages.append(Got(self.sender or "", taken, content, self.secure, self.number, self.mail_line))
        self.reset()
        for _, step in steps:
            self.act(step)

    async def answer_later(self, hold: asyncio.Event, step: Step) -> None:
        await hold.wait()
        self.deaf = False
        self.act(step)
        self.data_received(b"")

    async def drip(self, octets: bytes, every_s: float) -> None:
        for at in range(len(octets)):
            if self.transport.is_closing():
                return
            self.transport.write(octets[at : at + 1])
            await asyncio.sleep(every_s)

    def act(self, step: Step) -> None:
        match step:
            case str():
                self.transport.write(step.encode() + b"\r\n")
            case Silent():
                self.deaf = True
            case Drop():
                self.deaf = True
                self.transport.abort()
            case Raw(octets, close):
                self.transport.write(octets)
                if close:
                    self.transport.close()
            case Endless(line, times):
                self.transport.write(line * times)
            case Drip(octets, every_s):
                self.deaf = True
                self.task = asyncio.ensure_future(self.drip(octets, every_s))


def address_in(line: str) -> str:
    """What stands between the brackets of MAIL or RCPT."""
    return line[line.find("<") + 1 : line.find(">")]
