"""The metrics page: every process's counters in one place, in the text format that Prometheus reads.

One process (the supervisor, which outlives its workers) serves `/metrics` and `/healthz` on a loopback address. It
reads the counters' files of all processes (`flow.meters`), adds them up, and makes the figures of the machine itself
when asked. Nobody needs a password and nothing on the page names a person, so the address should stay on loopback.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from postroad import __version__
from postroad.flow.meters import BY_NAME, METERS, Meter, read_series, series_text, writer_pid
from postroad.serve.logs import log_bug

FOLDER: Final = "metrics"
"""Below the data folder's `run`: one file per process."""
SUFFIX: Final = ".meters"

REQUEST_MAX: Final = 8192
"""Octets of a request's head; a scraper's has about 300."""
REQUEST_S: Final = 5.0
"""A request that is not complete by then is cut off."""
CONNECTIONS_MAX: Final = 32
GATHER_S: Final = 10.0
"""Figures that cost a query are at most this old."""

PAGE_METERS: Final = (
    Meter("postroad_build_info", "gauge", ("version",), "Always 1; the label says which version runs."),
    Meter("postroad_up_seconds", "gauge", (), "Seconds since the server started."),
    Meter("postroad_process_cpu_seconds_total", "counter", ("process",), "CPU time of each living process."),
    Meter("postroad_process_resident_bytes", "gauge", ("process",), "Resident memory of each living process."),
    Meter("postroad_spool_free_bytes", "gauge", (), "Space that mail may still use on the data folder's disk."),
    Meter("postroad_queue_messages", "gauge", ("state",), "Open deliveries: due now, waiting for an attempt, or held."),
    Meter(
        "postroad_queue_oldest_seconds",
        "gauge",
        (),
        "Age of the oldest message that waits, held mail apart; 0 without.",
    ),
    Meter("postroad_cert_expiry_timestamp_seconds", "gauge", ("name",), "When the certificate ends, as Unix time."),
)
"""Figures made when the page is asked for."""

ALL_METERS: Final = (*METERS, *PAGE_METERS)

Figures = Mapping[str, float]
"""Values by series text, as `flow.meters.series_text` writes it."""
Gather = Callable[[], Awaitable[Figures]]
"""Asks the store and others for figures; called at most every GATHER_S seconds."""


def meters_file(data_dir: Path, process: str) -> Path:
    """Where a process ("worker-0", "store") counts; makes the folder."""
    folder = data_dir / "run" / FOLDER
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    return folder / f"{process}{SUFFIX}"


def forget_meters(data_dir: Path) -> None:
    """Start counting from zero: called once when the server starts, before any worker does."""
    for file in (data_dir / "run" / FOLDER).glob(f"*{SUFFIX}"):
        file.unlink(missing_ok=True)


class MetricsPage:
    """Makes the page; `gather` adds figures that cost a query."""

    def __init__(self, data_dir: Path, gather: Gather | None = None) -> None:
        self._data_dir = data_dir
        self._gather = gather
        self._gathered: Figures = {}
        self._gathered_at = float("-inf")
        self._started = time.monotonic()

    async def text(self) -> str:
        """The whole page, as it stands now."""
        now = time.monotonic()
        if self._gather is not None and now - self._gathered_at >= GATHER_S:
            self._gathered_at = now
            try:
                self._gathered = await self._gather()
            except Exception as bug:  # a page without these figures is better than none
                log_bug(bug, where="metrics page")
                self._gathered = {}
        files = _read_files(self._data_dir / "run" / FOLDER)
        figures: dict[str, float] = dict(total(files.values()))
        figures |= self._gathered
        figures |= self._machine(files)
        return render(figures)

    def _machine(self, files: Mapping[str, bytes]) -> dict[str, float]:
        disk = os.statvfs(self._data_dir)
        figures: dict[str, float] = {
            series_text("postroad_build_info", {"version": __version__}): 1,
            "postroad_up_seconds": round(time.monotonic() - self._started, 3),
            "postroad_spool_free_bytes": disk.f_bavail * disk.f_frsize,
        }
        processes = {name: writer_pid(raw) for name, raw in files.items()} | {"supervisor": os.getpid()}
        for name, pid in processes.items():
            used = _process(pid)
            if used is not None:
                figures[series_text("postroad_process_cpu_seconds_total", {"process": name})] = used[0]
                figures[series_text("postroad_process_resident_bytes", {"process": name})] = used[1]
        return figures


def _read_files(folder: Path) -> dict[str, bytes]:
    try:
        return {file.name.removesuffix(SUFFIX): file.read_bytes() for file in sorted(folder.glob(f"*{SUFFIX}"))}
    except OSError:
        return {}


def total(files: Iterable[bytes]) -> dict[str, int]:
    """Every series added up over all processes."""
    sums: dict[str, int] = {}
    for raw in files:
        for text, value in read_series(raw):
            sums[text] = sums.get(text, 0) + value
    return sums


def _process(pid: int) -> tuple[float, int] | None:
    """CPU seconds and resident octets of a process; None when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        pages = int(Path(f"/proc/{pid}/statm").read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    fields = stat.rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGESIZE")


def render(figures: Mapping[str, float]) -> str:
    """The page in Prometheus' text format 0.0.4: what each meter tells, then its series."""
    by_meter: dict[str, list[tuple[str, float]]] = {}
    for text, value in figures.items():
        name = text.partition("{")[0]
        by_meter.setdefault(_family(name), []).append((text, value))
    lines: list[str] = []
    for meter in ALL_METERS:
        series = by_meter.get(meter.name)
        if series:
            lines += (f"# HELP {meter.name} {meter.help}", f"# TYPE {meter.name} {meter.kind}")
            lines += _histogram(meter, dict(series)) if meter.kind == "histogram" else _plain(series)
    return "\n".join(lines) + "\n"


def _family(name: str) -> str:
    for suffix in ("_bucket", "_sum"):
        base = name.removesuffix(suffix)
        if base != name and base in BY_NAME:
            return base
    return name


def _plain(series: list[tuple[str, float]]) -> list[str]:
    return [f"{text} {_number(value)}" for text, value in sorted(series)]


def _histogram(meter: Meter, series: dict[str, float]) -> list[str]:
    """Buckets are counted one by one and shown as Prometheus wants them, each with all below it."""
    lines, count = [], 0.0
    for bound in (*(f"{bound:g}" for bound in meter.bounds), "+Inf"):
        text = series_text(f"{meter.name}_bucket", {"le": bound})
        count += series.get(text, 0)
        lines.append(f"{text} {_number(count)}")
    lines.append(f"{meter.name}_sum {_number(series.get(f'{meter.name}_sum', 0) / 1e6)}")
    lines.append(f"{meter.name}_count {_number(count)}")
    return lines


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


# -- the server ------------------------------------------------------------------------------------------------------

_REQUEST: Final = re.compile(rb"(GET|HEAD|[A-Z]{1,16}) (\S{1,512}) HTTP/1\.[01]\r\n")


class MetricsServer:
    """Answers GET /metrics and GET /healthz on sockets that are listening already."""

    def __init__(self, page: MetricsPage, health: Callable[[], str] = lambda: "") -> None:
        """`health` returns what is wrong, or an empty text when all is well."""
        self._page = page
        self._health = health
        self._servers: list[asyncio.Server] = []
        self._open = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, *sockets: socket.socket) -> None:
        """Begin to answer; the sockets are this server's from now on."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._servers.append(await loop.create_server(lambda: _Request(self), sock=sock))

    async def stop(self) -> None:
        """Close the sockets; answers under way are cut off."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        self._servers.clear()

    def admit(self) -> bool:
        """Whether one more connection may be open; counts it in."""
        if self._open >= CONNECTIONS_MAX:
            return False
        self._open += 1
        return True

    def leave(self) -> None:
        """Count a connection out."""
        self._open -= 1

    def answer(self, request: _Request, method: str, path: str) -> None:
        """Answer one request in a task of its own."""
        task = asyncio.get_running_loop().create_task(self._answer(request, method, path))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: _Request, method: str, path: str) -> None:
        path = path.partition("?")[0]
        if path not in ("/metrics", "/healthz", "/"):
            request.reply(404, "There is nothing here. Ask for /metrics or /healthz.\n", method)
        elif method not in ("GET", "HEAD"):
            request.reply(405, "Only GET is answered here.\n", method)
        elif path == "/metrics":
            request.reply(200, await self._page.text(), method)
        elif path == "/healthz":
            wrong = self._health()
            request.reply(503 if wrong else 200, f"{wrong or 'ok'}\n", method)
        else:
            request.reply(200, "Postroad: /metrics for Prometheus, /healthz for a watchdog.\n", method)


_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class _Request(asyncio.Protocol):
    """One connection, one request, one answer."""

    def __init__(self, server: MetricsServer) -> None:
        self._server = server
        self._head = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._admitted = False
        self._asked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._admitted = self._server.admit()
        if not self._admitted:
            transport.abort()
            return
        self._timer = asyncio.get_running_loop().call_later(REQUEST_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._asked:
            return
        self._head += data
        if len(self._head) > REQUEST_MAX:
            self._refuse(431, "The request is too large.\n")
        elif b"\r\n\r\n" in self._head:
            asked = _REQUEST.match(self._head)
            if asked is None:
                self._refuse(400, "This is no HTTP/1.1 request.\n")
                return
            self._asked = True
            self._server.answer(self, asked[1].decode(), asked[2].decode("ascii", "replace"))

    def _refuse(self, code: int, text: str) -> None:
        self._asked = True
        self.reply(code, text, "GET")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._admitted:
            self._server.leave()

    def reply(self, code: int, text: str, method: str) -> None:
        """Write the answer and close."""
        if self._transport is None or self._transport.is_closing():
            return
        body = text.encode()
        kind = "text/plain; version=0.0.4; charset=utf-8"
        head = (
            f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        )
        self._transport.write(head.encode() + (b"" if method == "HEAD" else body))
        self._transport.close()
