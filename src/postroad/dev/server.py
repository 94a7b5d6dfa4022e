"""Our server as the playground sees it: a child process, its log lines, and its end.

Invariant: the child holds the reading end of a pipe whose only writing end is ours, so it cannot outlive us.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TextIO

import msgspec

from postroad.dev.child import KEEP
from postroad.dev.layout import Layout
from postroad.values.event import Event

READY_S: Final = 30.0
"""Four interpreters start one after the other; on an idle machine that takes about a second."""
END_S: Final = 4.0
"""The child itself enforces its end before that."""
DEATHS_MAX: Final = 2
"""Children that may die before the server is up until it is given up: one may be chance."""
TAIL_LINES: Final = 20
LINE_MAX: Final = 1 << 20


class NotStarted(Exception):
    """The server did not come up; the text says what it said last."""


@dataclass(frozen=True, slots=True)
class Said:
    """One line of the server's log: an event of the journal, or a line of operation."""

    ident: str = ""
    """Queue id or reference of the event."""
    event: Event | None = None
    level: str = ""
    """"info", "warning", "error"; empty for text that is no line of the log, and for warnings of Python itself."""
    text: str = ""


def read_line(line: bytes) -> Said:
    """A line of the log as the server writes it in JSON; what is none (a traceback) is text without a level."""
    try:
        fields = msgspec.json.decode(line)
        if "kind" in fields:
            return Said(ident=str(fields.get("id", "")), event=msgspec.convert(fields, Event))
        level = "" if fields.get("logger") == "py.warnings" else str(fields["level"])
        return Said(level=level, text=_with_fields(fields))
    except (msgspec.MsgspecError, AttributeError, KeyError, TypeError):
        return Said(text=line.decode("utf-8", "replace").rstrip())


def _with_fields(fields: dict[str, object]) -> str:
    known = ("ts", "level", "text", "process", "logger")
    more = ", ".join(f"{name}: {value}" for name, value in fields.items() if name not in known)
    return f"{fields['text']} ({more})" if more else str(fields["text"])


class Server:
    """One run of our server; `hear` is called with every line that it says."""

    def __init__(self, layout: Layout, *, remove: bool, hear: Callable[[Said], None]) -> None:
        self._layout = layout
        self._remove = remove
        self._hear = hear
        self._process: asyncio.subprocess.Process | None = None
        self._log: TextIO | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._hopeless = asyncio.Event()
        self._deaths = 0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.ended = asyncio.Event()
        """Set when the process is gone, for whatever reason."""

    async def start(self) -> None:
        """Starts the process; raises OSError."""
        command = [sys.executable, "-m", "postroad.dev.child", str(self._layout.config_file)]
        if self._remove:
            command += ["--remove", str(self._layout.root)]
        self._log = self._layout.log_file.open("a", encoding="utf-8")
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_MAX,
            process_group=0,  # Ctrl-C on a terminal reaches only us; the lifeline tells the child
        )
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def ready(self) -> None:
        """Waits until mail is served; raises NotStarted."""
        waits = [asyncio.ensure_future(one.wait()) for one in (self._ready, self._hopeless, self.ended)]
        await asyncio.wait(waits, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not self._ready.is_set():
            raise NotStarted(self.last_words())

    async def stop(self, *, keep: bool) -> None:
        """Lets go of the lifeline and waits for the end; `keep` leaves a temporary folder where it is."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        if keep:
            process.stdin.write(KEEP)
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), END_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=1.0)
            self._reading.cancel()
        if self._log is not None:
            self._log.close()

    def last_words(self) -> str:
        """The last lines of the log, for somebody who has to find out what went wrong."""
        return "\n".join(self._tail) or "it said nothing"

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        assert self._log is not None
        while line := await _line(self._process.stderr):
            with contextlib.suppress(OSError):  # a full disk; the server has its own words for that
                self._log.write(line.decode("utf-8", "replace"))
                self._log.flush()
            said = read_line(line)
            if said.event is None:
                self._tail.append(said.text)
                self._take(said)
            self._hear(said)
        await self._process.wait()
        self.ended.set()

    def _take(self, said: Said) -> None:
        """Notices when the server is up, and when it will never be."""
        if said.level == "info" and said.text.startswith("ready"):
            self._ready.set()
        elif said.level == "warning" and "is started again" in said.text:
            self._deaths += 1
            if self._deaths >= DEATHS_MAX:
                self._hopeless.set()


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line; one that is too long is left out. Empty at the end."""
    while True:
        try:
            return await stream.readline()
        except ValueError:
            continue
