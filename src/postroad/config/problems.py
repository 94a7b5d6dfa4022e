"""What is wrong with a configuration: one value per complaint, and how people read it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing a rule found: which key, what is wrong, what to do. `fatal` is false for a hint.

    The rules make these without knowing files and lines; whoever reads the file adds both.
    """

    path: Path
    what: str
    fix: str
    fatal: bool = True

    def at(self, file: str, line: int) -> Problem:
        """The complaint with its place."""
        return Problem(file, line, key_text(self.path), self.what, self.fix, self.fatal)


@dataclass(frozen=True, slots=True)
class Problem:
    """One complaint with its place; `line` is 0 when the file does not name the key."""

    file: str
    line: int
    key: str
    what: str
    fix: str
    fatal: bool = True

    def __str__(self) -> str:
        place = f"{self.file} line {self.line}" if self.line else self.file
        key = f"{self.key}: " if self.key else ""
        mark = "" if self.fatal else "hint: "
        end = "" if self.fix.endswith(("?", ".")) else "."
        return f"{place}: {mark}{key}{self.what}. {self.fix}{end}"


class ConfigError(Exception):
    """A configuration cannot be used; `problems` holds every fatal problem and every hint found on the way."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def key_text(path: Path) -> str:
    """A key as people write it: "relay.port", or with quotes where a part needs them."""
    return ".".join(part if part.replace("_", "").replace("-", "").isalnum() else f'"{part}"' for part in path)


def closest(word: str, known: Iterable[str]) -> str:
    """The known word that `word` most likely was meant to be; empty when none is near."""
    near = difflib.get_close_matches(word.lower().replace("-", "_"), list(known), n=1, cutoff=0.6)
    return near[0] if near else ""
