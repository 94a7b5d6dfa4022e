"""How commands print rows: a table on a terminal, tab-separated in a pipe, JSON when asked."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import click

GAP: Final = "  "


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --json, handed over as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_json(schema: str, **content: Any) -> None:
    """One JSON object with the name and version of its shape, such as "users/1"; one line in a pipe."""
    import msgspec

    raw = msgspec.json.encode({"schema": schema, **content})
    if sys.stdout.isatty():
        raw = msgspec.json.format(raw, indent=2)
    click.echo(raw.decode())


def print_rows(head: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
    """Rows under their heads, or the sentence that says why there are none; no heads and tabs in a pipe."""
    rows = list(rows)
    if not rows:
        click.echo(empty, err=not sys.stdout.isatty())
        return
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(cell.replace("\t", " ") for cell in row))
        return
    for line in table(head, rows):
        click.echo(line)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose columns are as wide as their widest cell; numbers stand to the right."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    right = [all(_is_figure(row[at]) for row in rows) for at in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(cells, widths, right, strict=True)
        ]
        return GAP.join(padded).rstrip()

    return [click.style(line(head), bold=True), *map(line, rows)]


_FIGURE: Final = re.compile(r"-?|[\d.,]+(?: [A-Za-z]{1,3}(?: \d+ [a-z]+)?)?")
"""A count, a size, a length of time; not an id and not a date."""


def _is_figure(cell: str) -> bool:
    return _FIGURE.fullmatch(cell) is not None


def plain(text: str) -> str:
    """Words of strangers on one line, without what could move the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun: "1 message", "2 messages"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")


def size_text(octets: int) -> str:
    """Octets as people say it: "1.4 MB"."""
    value = float(octets)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError("the last unit takes everything")


def parse_size(text: str) -> int | None:
    """Octets of a text like "5GB", "500 MiB", "0" or "none"; None when it is none."""
    word = text.strip().lower().replace(" ", "").removesuffix("b")
    if word in ("none", "unlimited", "off"):
        return 0
    factor = 1
    for letter, power in zip("kmgtp", range(1, 6), strict=True):
        if word.endswith(letter):
            word, factor = word[:-1], 1000**power
        elif word.endswith(letter + "i"):
            word, factor = word[:-2], 1024**power
    try:
        value = float(word)
    except ValueError:
        return None
    return round(value * factor) if 0 <= value * factor < 1 << 60 else None


def wall(at_us: int) -> str:
    """A wall time in the machine's zone: "2026-09-23 10:11:12"."""
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_us / 1_000_000))


def confirm(question: str, yes: bool) -> None:
    """Ask before something is lost; without a terminal only --yes lets it happen."""
    if yes:
        return
    if not sys.stdin.isatty():
        from postroad.console.cli.exits import Trouble

        raise Trouble("Nothing was changed: nobody can be asked here.", "Add --yes if you mean it.", exit_code=2)
    click.confirm(question, abort=True)
