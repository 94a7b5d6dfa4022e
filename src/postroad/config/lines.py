"""Where each key of a TOML file stands, so that every complaint can name its line.

`tomllib` says what a file means but not where; this scanner says only where. It reads files that `tomllib` has
already accepted, so it needs no error handling of its own: strings, arrays and inline tables are skipped, not parsed.
"""

from __future__ import annotations

import re
from typing import Final

Path = tuple[str, ...]

_TOKEN: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|\n"
    r"|[\[\]{}=,.]"
    r"|[^\s\[\]{}=,.\"'#]+",
    re.DOTALL,
)


class KeyLines:
    """Line numbers (from 1) of the tables and keys of one TOML text."""

    __slots__ = ("_at",)

    def __init__(self, source: str) -> None:
        self._at = _scan(source)

    def line(self, path: Path) -> int:
        """The line of a key, or of the nearest table or key around it; 0 when the file says nothing of either."""
        while path:
            found = self._at.get(path)
            if found:
                return found
            path = path[:-1]
        return 0


def _scan(source: str) -> dict[Path, int]:
    """Walks the tokens once; `statement` collects those of one key or header until its end."""
    at: dict[Path, int] = {}
    table: Path = ()
    statement: list[str] = []
    depth, line, begun, in_value = 0, 1, 1, False
    for found in _TOKEN.finditer(source):
        token = found[0]
        if token[0] == "#":
            continue
        if token == "\n":
            if depth == 0 and statement:
                if not in_value:
                    table = _names(statement)
                    at.setdefault(table, begun)
                statement, in_value = [], False
            line += 1
            continue
        if not statement:
            begun = line
        if in_value:
            depth += (token in "[{") - (token in "]}") if len(token) == 1 else 0
            line += token.count("\n")
        elif token == "=":
            at.setdefault(table + _names(statement), begun)
            in_value = True
        statement.append(token)
    if statement and not in_value:
        at.setdefault(_names(statement), begun)
    return at


def _names(tokens: list[str]) -> Path:
    """The parts of a dotted key or of a table header, without quotes."""
    return tuple(_unquote(token) for token in tokens if token not in ("[", "]", "."))


def _unquote(token: str) -> str:
    return token[1:-1] if token[0] in "\"'" else token
