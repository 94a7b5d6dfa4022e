"""What a person sees of the playground: plain lines, in colour where a terminal shows it.

Every line is whole, written at once and flushed, so that a pipe, a file and a terminal show the same in the same
order; the show's thread and the event loop may both write.
"""

from __future__ import annotations

import os
import shutil
import textwrap
import threading
from collections.abc import Mapping
from typing import Final, TextIO

RESET: Final = "\x1b[0m"
STYLES: Final = {
    "good": "\x1b[32m",
    "bad": "\x1b[1;31m",
    "warn": "\x1b[33m",
    "strong": "\x1b[1m",
    "quiet": "\x1b[2m",
    "command": "\x1b[36m",
}
"""Colours by meaning; every meaning is also in the words, for those who see no colours."""

WIDTH_MAX: Final = 110
"""Columns; longer lines are hard to read even where the window is wider."""
INDENT: Final = "   "


class ScreenGone(Exception):
    """Nobody reads any more: the terminal or the pipe was closed."""


class Screen:
    """Writes to one stream; `colour` and `symbols` follow from what it is."""

    def __init__(self, stream: TextIO, *, colour: bool, symbols: bool = True, width: int = 0) -> None:
        """`width` 0: lines are never broken, as fits files and pipes."""
        self._stream = stream
        self._lock = threading.Lock()
        self._width = width
        self.colour = colour
        self.good = "✓" if symbols else "ok"
        self.bad = "✗" if symbols else "FAILED"

    @classmethod
    def on(cls, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Screen:
        """The screen for a stream: colours and broken lines on a terminal only, and no colours with NO_COLOR."""
        terminal = stream.isatty()
        # no-color.org: "when present and not an empty string (regardless of its value)"
        colour = terminal and not environ.get("NO_COLOR") and environ.get("TERM", "") != "dumb"
        width = min(shutil.get_terminal_size().columns, WIDTH_MAX) if terminal else 0
        return cls(stream, colour=colour, symbols=_can_show("✓✗", stream), width=width)

    def style(self, text: str, meaning: str) -> str:
        """The text in the colour of a meaning, or as it is."""
        return f"{STYLES[meaning]}{text}{RESET}" if self.colour and text else text

    def line(self, text: str = "", meaning: str = "") -> None:
        """One line; raises ScreenGone when nobody reads."""
        if meaning:
            text = self.style(text, meaning)
        with self._lock:
            try:
                self._stream.write(text + "\n")
                self._stream.flush()
            except (OSError, ValueError) as error:
                raise ScreenGone from error

    def wrapped(self, text: str, indent: str = INDENT, meaning: str = "") -> None:
        """A longer text, broken to the terminal's width and indented."""
        for part in self._broken(text, indent):
            self.line(indent + self.style(part, meaning) if meaning else indent + part)

    def _broken(self, text: str, indent: str) -> list[str]:
        if not self._width or len(indent) + len(text) <= self._width:
            return [text]
        room = max(20, self._width - len(indent))
        return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]

    def success(self, text: str, aside: str = "") -> None:
        """Something that went as it should; `aside` follows the text quietly and is not broken."""
        self._marked(self.good, "good", text, "", aside)

    def failure(self, text: str) -> None:
        """Something that did not."""
        self._marked(self.bad, "bad", text, "bad", "")

    def _marked(self, mark: str, mark_meaning: str, text: str, meaning: str, aside: str) -> None:
        indent = INDENT + " " * (len(mark) + 1)
        whole = aside.replace(" ", _JOINT)
        *parts, last = self._broken(f"{text} {whole}" if aside else text, indent)
        last = last.removesuffix(whole) if aside else last
        lines = [self.style(part, meaning) if meaning else part for part in (*parts, last)]
        lines[-1] += self.style(aside, "quiet")
        self.line(f"{INDENT}{self.style(mark, mark_meaning)} {lines[0]}")
        for line in lines[1:]:
            self.line(indent + line)


_JOINT: Final = "\x00"
"""Stands for a blank at which a line must not be broken."""


def _can_show(symbols: str, stream: TextIO) -> bool:
    try:
        symbols.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
