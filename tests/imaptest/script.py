"""The script language of imaptest, read into groups of commands with the replies they expect.

A script has a header of `key: value` lines, a blank line, and commands in one of three forms:

    [connection] ok|no|bad|"" command              and below it lines of expected untagged replies
    [connection] command ... [connection] ok [prefix of the tagged reply]
    [connection] tagN command ... tagN ok          several at once: pipelined

`* reply` must come, `! reply` must not, `? reply` may. Text between `{{{` and `}}}` is a literal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.imaptest.arguments import Argument, parse

ALL_MESSAGES = -1
ANY = b'""'
_CONNECTION = re.compile(rb"([0-9]+) ?")
_TAG = re.compile(rb"(tag[1-9][0-9]*) ", re.IGNORECASE)
_REPLY = re.compile(rb'(ok|no|bad|"")(?: |$)', re.IGNORECASE)

Segments = list[bytes]
"""A command line: text, literal, text, literal, ..., text. Odd places are literals."""


class BadScript(ValueError):
    """The script is not in the language this interpreter knows."""


@dataclass
class Untagged:
    """One expected (`*`), forbidden (`!`) or optional (`?`) untagged reply."""

    mark: bytes
    pattern: list[Argument]
    line: int


@dataclass
class Command:
    """One command and the tagged reply it must get; `reply` is a list of arguments matched as a prefix."""

    line: int
    tag: bytes
    segments: Segments
    reply: list[Argument] | None


@dataclass
class Group:
    """Commands sent together on one connection, and the untagged replies all of them must bring."""

    connection: int
    commands: list[Command] = field(default_factory=list)
    untagged: list[Untagged] = field(default_factory=list)

    def open_command(self, tag: bytes) -> Command | None:
        """The command of that tag that still lacks its tagged reply."""
        return next((c for c in self.commands if c.tag == tag and c.reply is None), None)


@dataclass
class Script:
    """A whole script."""

    path: Path
    capabilities: list[str] = field(default_factory=list)
    connections: int = 1
    messages: int = 0
    state: str = "selected"
    ignore_extra_untagged: bool = True
    groups: list[Group] = field(default_factory=list)


def read(path: Path) -> Script:
    """The script in that file; raises BadScript with the line number."""
    script = Script(path)
    in_header = True
    for number, segments in _logical_lines(path.read_bytes()):
        if segments == [b""]:
            in_header = False
        elif segments[0].startswith(b"#"):
            continue
        elif in_header:
            _read_header(script, number, segments[0].decode())
        else:
            _read_command(script, number, segments)
    if not script.groups or any(c.reply is None for group in script.groups for c in group.commands):
        raise BadScript(f"{path.name}: no commands, or the last one lacks its reply")
    return script


def _logical_lines(raw: bytes) -> list[tuple[int, Segments]]:
    """Lines with their literals: `{{{` at the end of a line opens one, a line beginning with `}}}` ends it.

    Lines of a literal are joined by CRLF, those of a binary one (`~{{{`) by whatever stands in the file; the line end
    before `}}}` does not count.
    """
    lines: list[tuple[int, Segments]] = []
    segments: Segments = []
    literal: list[bytes] | None = None
    joint = b"\r\n"
    start = 0
    for number, line in enumerate(raw.split(b"\n"), 1):
        if literal is not None:
            if not line.startswith(b"}}}"):
                literal.append(line)
                continue
            segments.append(joint.join(literal))
            line, literal = line[3:], None
        else:
            segments, start = [], number
        if line.endswith(b"{{{") and not line.startswith(b"#"):
            literal, line = [], line[:-3]
            joint = b"\n" if line.endswith(b"~") else b"\r\n"
            segments.append(line)
        else:
            segments.append(line)
            lines.append((start, segments))
    return lines


def _read_header(script: Script, number: int, line: str) -> None:
    key, colon, value = line.partition(":")
    key, value = key.strip().lower(), value.strip()
    if not colon:
        raise BadScript(f"{script.path.name}:{number}: header without a colon")
    if key == "capabilities":
        script.capabilities = value.upper().split()
    elif key == "connections":
        script.connections = int(value)
    elif key == "messages":
        script.messages = ALL_MESSAGES if value == "all" else int(value)
    elif key == "state":
        script.state = value.lower()
    elif key == "ignore_extra_untagged":
        script.ignore_extra_untagged = value.startswith("y")
    elif not key.startswith("user "):
        raise BadScript(f"{script.path.name}:{number}: unknown header {key}")


def _read_command(script: Script, number: int, segments: Segments) -> None:
    group = script.groups[-1] if script.groups else None
    mark = segments[0][:2]
    if mark in (b"* ", b"! ", b"? ") and group is not None:
        group.untagged.append(Untagged(mark[:1], parse(inline([segments[0][2:], *segments[1:]])), number))
        return
    connection, rest = _connection(script, number, segments[0])
    tag, rest = _cut(_TAG, rest)
    reply, after_reply = _cut(_REPLY, rest)
    waiting = group is not None and any(c.reply is None for c in group.commands)
    if waiting and reply:
        assert group is not None
        command = group.open_command(tag)
        if command is None or group.connection != connection:
            raise BadScript(f"{script.path.name}:{number}: reply to no open command")
        command.reply = _reply_pattern(reply, parse(after_reply))
        return
    if group is None or not waiting:
        group = Group(connection)
        script.groups.append(group)
    elif not tag:
        raise BadScript(f"{script.path.name}:{number}: the command before lacks its reply")
    expected = _reply_pattern(reply, []) if reply else None
    group.commands.append(Command(number, tag, [after_reply if reply else rest, *segments[1:]], expected))


def _reply_pattern(reply: bytes, rest: list[Argument]) -> list[Argument]:
    return [] if reply == ANY else [reply, *rest]


def _connection(script: Script, number: int, line: bytes) -> tuple[int, bytes]:
    if script.connections == 1:
        return 0, line
    found = _CONNECTION.match(line)
    if found is None or not 1 <= int(found[1]) <= script.connections:
        raise BadScript(f"{script.path.name}:{number}: no connection number")
    return int(found[1]) - 1, line[found.end() :]


def _cut(pattern: re.Pattern[bytes], line: bytes) -> tuple[bytes, bytes]:
    found = pattern.match(line)
    return (found[1].lower(), line[found.end() :]) if found else (b"", line)


def inline(segments: Segments) -> bytes:
    """A line with its literals written as on the wire, `{size}CRLF` before each."""
    out = [segments[0]]
    for at in range(1, len(segments), 2):
        out.append(b"{%d}\r\n%s%s" % (len(segments[at]), segments[at], segments[at + 1]))
    return b"".join(out)
