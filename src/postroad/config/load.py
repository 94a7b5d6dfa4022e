"""From a TOML file to a `Config`, with every problem named by file, line, key and fix.

`load` is for those who need a usable configuration or an exception, `examine` for those who show everything that is
wrong at once. Neither looks at the machine; `config.machine` does.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Final

import msgspec

from postroad.config import Config
from postroad.config.lines import KeyLines
from postroad.config.problems import Complaint, ConfigError, Problem
from postroad.config.rules import complaints as rule_complaints
from postroad.config.shape import complaints as shape_complaints

FILE_MAX: Final = 1 << 20
"""Octets; a configuration is a few kB, so a larger file is the wrong file."""

_PLACE: Final = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")
_NAMED: Final = re.compile(r"[ \t\[\"']*[A-Za-z0-9_.-]+")

_SYNTAX: Final = (
    ("Cannot overwrite a value", "this key is written twice", "Keep one of the two"),
    ("twice", "this section is opened twice", "Put all of its keys under one header"),
    ("Cannot mutate immutable namespace", "this section was written inline before", "Put all of its keys in one place"),
    ("Invalid value", "there is no value TOML understands", 'Put text in quotes: key = "value"'),
    (
        "Expected '=' after a key",
        'this is not a line of the form key = "value"',
        "Write the equals sign, or # before a remark",
    ),
    ("Unclosed array", "a list is not closed, or a comma is missing in it", 'Write it as ["one", "two"]'),
    ("Unterminated string", "a text is not closed", "Close it with a quote on the same line"),
    ("Illegal character", "a text is not closed on its line", "Close it with a quote on the same line"),
    ("Unescaped '\\'", "a backslash stands in the text", "Write the text in single quotes, or the backslash twice"),
    (
        "Expected newline or end of document",
        "something follows the value",
        "Put text in quotes and the next key on its own line",
    ),
    ("Expected ']' at the end of a table", "the section header is not closed", "Write it as [section]"),
    (
        "Invalid statement",
        "this is neither a key nor a section",
        'Write key = "value", [section], or # before a remark',
    ),
    ("Invalid initial character for a key", "this is no name of a key", 'Write key = "value", or # before a remark'),
)
"""What tomllib says, what is meant, and the usual cure."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of one file: the configuration when it is usable, the problems either way."""

    file: str
    config: Config | None
    problems: tuple[Problem, ...]
    lines: KeyLines
    given: frozenset[str] = frozenset()
    """Keys the file sets, as people write them ("relay.port")."""

    def with_complaints(self, more: list[Complaint]) -> Reading:
        """The same file with further complaints placed on its lines; unusable when one is fatal."""
        problems = self.problems + tuple(one.at(self.file, self.lines.line(one.path)) for one in more)
        usable = None if any(problem.fatal for problem in problems) else self.config
        return Reading(self.file, usable, problems, self.lines, self.given)


def load(file: FilePath | str) -> Config:
    """The configuration in a file; raises ConfigError with every problem when it cannot be used."""
    reading = examine(file)
    if reading.config is None:
        raise ConfigError(reading.problems)
    return reading.config


def examine(file: FilePath | str) -> Reading:
    """Read a file and say everything that is wrong with it; never raises for what the file holds."""
    name = str(file)
    try:
        with open(file, "rb") as opened:
            raw = opened.read(FILE_MAX + 1)
    except OSError as error:
        return _unreadable(name, *_why_unreadable(error))
    if len(raw) > FILE_MAX:
        return _unreadable(name, f"the file is larger than {FILE_MAX} octets", "Name the configuration file")
    return examine_text(raw, name)


def examine_text(raw: bytes, name: str) -> Reading:
    """The same for octets already read; `name` is what messages call the file."""
    tables, lines, problem = _parsed(raw, name)
    if problem is not None:
        return Reading(name, None, (problem,), lines)
    return _judge(tables, lines, name)


def read_tables(file: str) -> tuple[dict[str, Any], KeyLines, Problem | None]:
    """The tables of any TOML file and the lines of its keys, or what stands in the way; never raises for it."""
    try:
        with open(file, "rb") as opened:
            raw = opened.read(FILE_MAX + 1)
    except OSError as error:
        return {}, KeyLines(""), Problem(file, 0, "", *_why_unreadable(error))
    if len(raw) > FILE_MAX:
        what = f"the file is larger than {FILE_MAX} octets"
        return {}, KeyLines(""), Problem(file, 0, "", what, "Name the right file")
    return _parsed(raw, file)


def _parsed(raw: bytes, name: str) -> tuple[dict[str, Any], KeyLines, Problem | None]:
    nothing: dict[str, Any] = {}
    try:
        source = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = "the text is not UTF-8 from here on"
        return nothing, KeyLines(""), Problem(name, line, "", what, "Save the file as UTF-8")
    source = source.removeprefix("\ufeff").replace("\r\n", "\n")
    try:
        return tomllib.loads(source), KeyLines(source), None
    except tomllib.TOMLDecodeError as error:
        what, fix, line, key = _syntax(str(error), source)
        return nothing, KeyLines(""), Problem(name, line, key, what, fix)
    except RecursionError:
        what = "lists stand in lists too deep to read"
        return nothing, KeyLines(""), Problem(name, 0, "", what, "Close the brackets")


def _judge(tables: dict[str, Any], lines: KeyLines, name: str) -> Reading:
    found = list(shape_complaints(tables))
    config = None
    if not found:
        config = msgspec.convert(tables, Config)
        found = list(rule_complaints(config))
    problems = sorted((one.at(name, lines.line(one.path)) for one in found), key=lambda problem: problem.line)
    if any(problem.fatal for problem in problems):
        config = None
    return Reading(name, config, tuple(problems), lines, _given(tables))


def _given(tables: dict[str, Any]) -> frozenset[str]:
    given = set()
    for name, value in tables.items():
        given |= {f"{name}.{inner}" for inner in value} if isinstance(value, dict) else {name}
    return frozenset(given)


def _unreadable(name: str, what: str, fix: str, line: int = 0, key: str = "") -> Reading:
    return Reading(name, None, (Problem(name, line, key, what, fix),), KeyLines(""))


def _why_unreadable(error: OSError) -> tuple[str, str]:
    if isinstance(error, FileNotFoundError):
        return "there is no such file", "Make one with: postroad config sample > FILE"
    if isinstance(error, PermissionError):
        return "this account may not read the file", "Run as root, or let the group of the service read it"
    if isinstance(error, IsADirectoryError):
        return "this is a folder", "Name the file in it"
    return f"the file cannot be read ({error.strerror or error})", "Check the disk and the path"


def _syntax(said: str, source: str) -> tuple[str, str, int, str]:
    """What the parser's complaint means, its cure, the line, and the key or section that stands on it."""
    place = _PLACE.search(said)
    line = int(place[1]) if place and place[1] else source.rstrip("\n").count("\n") + 1
    named = _NAMED.match(source.split("\n")[line - 1])
    key = named[0].strip(" \t[\"'") if named else ""
    for theirs, what, fix in _SYNTAX:
        if theirs in said:
            return what, fix, line, key
    return f"this is not TOML ({_PLACE.sub('', said)})", "Compare with: postroad config sample", line, key
