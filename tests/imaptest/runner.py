"""Runs one imaptest script against a live server over its own connections."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.imaptest import mbox
from tests.imaptest.arguments import Argument, parse, text_of
from tests.imaptest.matching import Matcher, Variables
from tests.imaptest.script import ALL_MESSAGES, Command, Group, Script, Segments

MAILBOX = b"imaptest"
_LITERAL_AT_END = re.compile(rb"~?\{([0-9]+)\}\r\n\Z")

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class ScriptFailed(AssertionError):
    """The server did not answer as the script expects; the text names the line and shows the replies."""


class LacksCapability(Exception):
    """The server does not announce what the script needs."""


@dataclass
class Reply:
    """One line of the server with its literals: its tag (`*`, `+` or ours) and the arguments behind it."""

    tag: bytes
    arguments: list[Argument]


@dataclass
class Connection:
    """One connection of a script; it reads only while it is its turn."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    commands_sent: int = 0
    exists: int = 0
    said_bye: bool = False

    @property
    def next_tag(self) -> bytes:
        """The tag that the next command will carry."""
        return b"a%d" % (self.commands_sent + 1)

    async def reply(self) -> Reply:
        """The next line; raises ConnectionError at the end of the connection."""
        raw = await self.reader.readline()
        while found := _LITERAL_AT_END.search(raw):
            raw += await self.reader.readexactly(int(found[1])) + await self.reader.readline()
        if not raw.endswith(b"\r\n"):
            raise ConnectionError(f"connection ended after {raw!r}")
        tag, _, rest = raw[:-2].partition(b" ")
        if tag == b"+":
            return Reply(tag, [])
        arguments = parse(rest)
        self._follow(tag, arguments)
        return Reply(tag, arguments)

    def _follow(self, tag: bytes, arguments: list[Argument]) -> None:
        if tag != b"*":
            return
        words = [word.upper() if isinstance(word, bytes) else b"" for word in arguments[:2]]
        if words[0] == b"BYE":
            self.said_bye = True
        elif words[1:] == [b"EXISTS"]:
            self.exists = int(words[0])
        elif words[1:] == [b"EXPUNGE"]:
            self.exists -= 1

    async def send(self, segments: Segments, seen: Callable[[Reply], None]) -> bytes:
        """Sends one command, waiting for `+` before each literal; returns its tag."""
        tag = self.next_tag
        self.commands_sent += 1
        self.writer.write(tag + b" " + segments[0])
        for at in range(1, len(segments), 2):
            self.writer.write(b"{%d}\r\n" % len(segments[at]))
            while (reply := await self.reply()).tag != b"+":
                seen(reply)
                if reply.tag == tag:
                    return tag
            self.writer.write(segments[at] + segments[at + 1])
        self.writer.write(b"\r\n")
        return tag

    async def do(self, *segments: bytes) -> list[Reply]:
        """Sends one command that must succeed; returns its untagged replies."""
        replies: list[Reply] = []
        tag = await self.send(list(segments), replies.append)
        while not replies or replies[-1].tag != tag:
            replies.append(await self.reply())
        if replies[-1].arguments[0] != b"OK":
            raise ScriptFailed(f"setup: {segments[0]!r} got {text_of(replies[-1].arguments)}")
        return replies


class Run:
    """One script in the course of running."""

    def __init__(self, script: Script, login: bytes, password: bytes) -> None:
        self._script = script
        self._login, self._password = login, password
        self._variables = Variables()
        self._matcher = Matcher(self._variables)
        own = script.path.with_name(script.path.name + ".mbox")
        messages = mbox.read(own if own.exists() else script.path.with_name("default.mbox"))
        self._count = len(messages) if script.messages == ALL_MESSAGES else script.messages
        self._source = itertools.cycle(messages)
        self._connections: list[Connection] = []

    async def run(self, connect: Connect) -> None:
        """Sets the stage and plays all groups; raises ScriptFailed or LacksCapability."""
        try:
            for _ in range(self._script.connections):
                connection = Connection(*await connect())
                self._connections.append(connection)
                await connection.reply()
            await self._set_stage()
            for group in self._script.groups:
                await self._play(group)
        finally:
            for connection in self._connections:
                connection.writer.close()

    async def _set_stage(self) -> None:
        name, _, domain = self._login.partition(b"@")
        self._variables.named = {
            b"user": self._login,
            b"username": name,
            b"domain": domain,
            b"password": self._password,
            b"mailbox": MAILBOX,
            b"mailbox_url": MAILBOX,
        }
        first, state = self._connections[0], self._script.state
        if state != "nonauth":
            for connection in self._connections:
                await connection.do(b'LOGIN "%s" "%s"' % (self._login, self._password))
        await self._check_capabilities(first)
        if state in ("created", "appended", "selected"):
            await first.do(b"CREATE " + MAILBOX)
        if state in ("appended", "selected"):
            for _ in range(self._count):
                await first.do(*self._next_append(MAILBOX, dated=True))
        if state == "selected":
            for connection in self._connections:
                await connection.do(b"SELECT " + MAILBOX)

    async def _check_capabilities(self, connection: Connection) -> None:
        untagged = [reply.arguments for reply in await connection.do(b"CAPABILITY") if reply.tag == b"*"]
        have = {word.decode().upper() for words in untagged for word in words if isinstance(word, bytes)}
        missing = [name for name in self._script.capabilities if name not in have]
        if missing:
            raise LacksCapability(" ".join(missing))

    def _next_append(self, arguments: bytes, *, dated: bool) -> Segments:
        message = next(self._source)
        when = b' "%s"' % message.received.encode() if dated else b""
        return [b"APPEND " + arguments + when + b" ", message.raw, b""]

    async def _play(self, group: Group) -> None:
        connection = self._connections[group.connection]
        self._variables.begin_group(connection.exists)
        seen: list[Reply] = []
        found: set[int] = set()
        sent: dict[bytes, Command] = {}

        def take(reply: Reply) -> None:
            seen.append(reply)
            if reply.tag == b"*":
                self._take_untagged(group, reply, found, seen)
            elif reply.tag in sent:
                self._take_tagged(sent.pop(reply.tag), reply, seen)
            else:
                raise ScriptFailed(self._story(group.commands[0].line, f"unknown tag {reply.tag!r}", seen))

        for command in group.commands:
            # The tag is known before the command is sent: its reply may come while a literal waits for its "+".
            self._variables.named[b"tag"] = tag = connection.next_tag
            sent[tag] = command
            await connection.send(self._segments(command), take)
        while sent:
            try:
                take(await connection.reply())
            except ConnectionError as lost:
                if connection.said_bye and all(c.reply == [] for c in sent.values()):
                    break
                raise ScriptFailed(self._story(group.commands[0].line, str(lost), seen)) from lost
        for number, wanted in enumerate(group.untagged):
            if wanted.mark == b"*" and number not in found:
                text = f"untagged reply is missing: {text_of(wanted.pattern)}"
                raise ScriptFailed(self._story(wanted.line, text, seen))

    def _segments(self, command: Command) -> Segments:
        segments = [self._variables.expand(segment) for segment in command.segments]
        words = segments[0].split()
        if words[0].lower() != b"append" or len(segments) > 1:
            return segments
        return self._next_append(segments[0][7:] or MAILBOX, dated=len(words) == 1)

    def _take_untagged(self, group: Group, reply: Reply, found: set[int], seen: list[Reply]) -> None:
        matched = False
        for number, wanted in enumerate(group.untagged):
            if number in found or not self._matcher.untagged(wanted.pattern, reply.arguments):
                continue
            if wanted.mark == b"!":
                raise ScriptFailed(self._story(wanted.line, f"must not come: {text_of(reply.arguments)}", seen))
            found.add(number)
            matched = True
        if not matched and not self._script.ignore_extra_untagged:
            raise ScriptFailed(self._story(group.commands[0].line, f"unexpected: {text_of(reply.arguments)}", seen))
        number_word = reply.arguments[0]
        if len(reply.arguments) > 1 and isinstance(number_word, bytes) and reply.arguments[1] == b"EXPUNGE":
            self._variables.expunged(int(number_word))

    def _take_tagged(self, command: Command, reply: Reply, seen: list[Reply]) -> None:
        assert command.reply is not None
        if not self._matcher.tagged(command.reply, reply.arguments):
            text = f"expected {text_of(command.reply)}, got {text_of(reply.arguments)}"
            raise ScriptFailed(self._story(command.line, text, seen))

    def _story(self, line: int, what: str, seen: list[Reply]) -> str:
        replies = "".join(f"\n    {reply.tag.decode()} {text_of(reply.arguments)}" for reply in seen)
        script = self._script.path.read_text("utf-8", "replace").split("\n")[line - 1][:200]
        return f"{self._script.path.name}:{line}: {script}\n  {what}\n  replies:{replies or ' none'}"
