"""Log lines for people: one event or message per line, in columns, in colour on a terminal."""

from __future__ import annotations

import time
from typing import Any, Final

from postroad.values.event import Event

colour = False
"""Whether lines carry colours; `serve.logs.setup_logs` decides."""

RESET: Final = "\x1b[0m"
DIM: Final = "\x1b[2m"
COLOURS: Final = {
    "delivered": "\x1b[32m",
    "deferred": "\x1b[33m",
    "bounced": "\x1b[31m",
    "refused": "\x1b[31m",
    "returned": "\x1b[31m",
    "discarded": "\x1b[31m",
    "dropped": "\x1b[31m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
}
KIND_WIDTH: Final = 9


def event_text(ident: str, event: Event) -> str:
    """An event as one line: time, queue id, what, whom, why, where, the line that shows it, what comes next."""
    parts = [f"{_clock(event.at_us)} {_dim(ident)} {_word(event.kind)}"]
    if event.recipient:
        parts.append(plain(event.recipient))
    if event.cause:
        parts.append(plain(event.cause))
    if event.where:
        parts.append(f"at {plain(event.where)}")
    if event.by:
        parts.append(f"by {plain(event.by)}")
    if event.attempt > 1:
        parts.append(f"try {event.attempt}")
    if event.next_us > event.at_us:
        parts.append(f"next {_clock(event.next_us)[:8]}")
    if event.evidence:
        parts.append(_dim(f'"{plain(event.evidence)}"'))
    if event.link:
        parts.append(f"see {plain(event.link)}")
    return "  ".join(parts)


def line_text(at_us: int, level: str, text: str, process: str, fields: dict[str, Any]) -> str:
    """A line of the operational log; a traceback keeps its lines, indented."""
    who = f"{_dim(process)} " if process else ""
    trace = str(fields.get("traceback", ""))
    shown = "  ".join(
        f"{name}={value}" for name, value in fields.items() if name != "traceback" and value not in ("", None)
    )
    line = f"{_clock(at_us)} {who}{_word(level)} {plain(text)}" + (f"  {_dim(plain(shown))}" if shown else "")
    if trace:
        line += "\n" + "\n".join(f"    {plain(part)}" for part in trace.rstrip("\n").split("\n"))
    return line


def plain(text: str) -> str:
    """The text without control characters, which could rewrite a terminal; they become \\x1b and the like."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _clock(at_us: int) -> str:
    second, micros = divmod(at_us, 1_000_000)
    return time.strftime("%H:%M:%S", time.localtime(second)) + f".{micros // 1000:03d}"


def _word(word: str) -> str:
    padded = word.ljust(KIND_WIDTH)
    return f"{COLOURS[word]}{padded}{RESET}" if colour and word in COLOURS else padded


def _dim(text: str) -> str:
    return f"{DIM}{text}{RESET}" if colour else text
