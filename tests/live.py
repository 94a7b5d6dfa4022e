"""A real server for tests: `postroad serve` as users start it, on ports the system chose, in a folder of its own."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

SERVICES = ("mx", "submission", "submissions", "imap", "imaps", "pop3", "pop3s", "lmtp", "metrics")
START_S = 20.0
"""How long a busy machine may take to start three interpreters."""


PORTS_FROM: Final = 10_000
PORTS_EACH: Final = 4_500
"""Below the ports that the kernel gives to whoever asks for any; each test process walks through a part of its own."""

_places = itertools.count(os.getpid() * 37)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, all different; nobody else is given them before a server has opened them."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    first = PORTS_FROM + PORTS_EACH * (int(worker) % 4)
    ports: list[int] = []
    while len(ports) < count:
        port = first + next(_places) % PORTS_EACH
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
    return ports


@dataclass
class LiveServer:
    """One server in `folder`; `config` is TOML text behind the part this class writes, `top` stands before it."""

    folder: Path
    workers: int = 1
    top: str = ""
    config: str = ""
    domain: str = "local.test"
    environment: dict[str, str] = field(default_factory=dict)
    files: int = 0
    """Open files that each of its processes may have; 0: as many as this one."""
    ports: dict[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        self.config_file = self.folder / "postroad.toml"
        self.data_dir = self.folder / "data"
        listen = "".join(
            f'{service} = ["127.0.0.1:{port}"]\n' for service, port in self.ports.items() if service != "metrics"
        )
        self.config_file.write_text(
            f'hostname = "mx.{self.domain}"\ndata_dir = "{self.data_dir}"\nworkers = {self.workers}\n{self.top}\n'
            f'[listen]\n{listen}metrics = "127.0.0.1:{self.ports["metrics"]}"\n{self.config}\n'
        )

    # -- the command line --------------------------------------------------------------------------------------------

    def run(self, *words: str, given: str = "", check: bool = True) -> str:
        """Output of a `postroad` command on this server's configuration."""
        done = subprocess.run(
            [sys.executable, "-m", "postroad", "--config", str(self.config_file), *words],
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check and done.returncode:
            raise AssertionError(f"postroad {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def add_domain(self, domain: str = "") -> None:
        """Serve a domain."""
        self.run("domain", "add", domain or self.domain)

    def add_user(self, address: str, password: str = "secret") -> None:
        """An account with a password."""
        self.run("user", "add", address, "--password-stdin", given=password + "\n")

    # -- its life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start and wait until every service answers."""
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "postroad", "--config", str(self.config_file), "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | self.environment,
            )
            if self.files:  # its children start long after this
                resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (self.files, self.files))
        self.wait_ready()

    def wait_ready(self, patience: float = START_S) -> None:
        """Wait until /healthz says that all processes are up."""
        assert self.process is not None
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended at start:\n{self.log()[-3000:]}")
            if self.healthy():
                return
            time.sleep(0.02)
        raise AssertionError(f"the server was not ready in {patience} s:\n{self.log()[-3000:]}")

    def healthy(self) -> bool:
        """What /healthz says."""
        return self._get("/healthz").startswith("HTTP/1.1 200")

    def metrics(self) -> str:
        """The metrics page."""
        return self._get("/metrics")

    def _get(self, path: str) -> str:
        try:
            with socket.create_connection(("127.0.0.1", self.ports["metrics"]), 2) as sock:
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                with sock.makefile("rb") as answer:
                    return answer.read().decode()
        except OSError:
            return ""

    def signal(self, number: int) -> None:
        """Send a signal to the supervisor."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, patience: float = 30.0) -> int:
        """SIGTERM and wait; returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        status = self.process.wait(patience)
        self.process = None
        return status

    def kill_group(self) -> None:
        """SIGKILL to every process of the server at once, and wait until they are gone."""
        pids = self.pids()
        for pid in pids.values():
            kill(pid)
        if self.process is not None:
            self.process.wait(10)
            self.process = None
        wait_gone(pids.values())

    def pids(self) -> dict[str, int]:
        """Living processes by name: supervisor, store, worker-0, ..."""
        if self.process is None:
            return {}
        found = {"supervisor": self.process.pid}
        number = 0
        for pid in children(self.process.pid):
            command = Path(f"/proc/{pid}/cmdline").read_bytes() if Path(f"/proc/{pid}").exists() else b""
            if b"postroad.store.process" in command:
                found["store"] = pid
            elif b"postroad.app.worker" in command:
                found[f"worker-{number}"] = pid
                number += 1
        return found

    # -- what can be seen --------------------------------------------------------------------------------------------

    @property
    def log_file(self) -> Path:
        """What the server wrote to its standard error."""
        return self.folder / "server.log"

    def log(self) -> str:
        """The log so far."""
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    @property
    def certificate(self) -> Path:
        """The self-signed certificate, made at the first start."""
        return self.data_dir / "tls" / "self-signed.pem"

    def smtp(self, service: str = "mx") -> smtplib.SMTP:
        """A connected client of the standard library that has said EHLO."""
        client = smtplib.SMTP("127.0.0.1", self.ports[service], local_hostname="client.test", timeout=20)
        client.ehlo()
        return client


def children(pid: int) -> list[int]:
    """Child processes as the kernel lists them."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """A signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def wait_gone(pids: Any, patience: float = 10.0) -> None:
    """Wait until none of these processes lives; zombies do not count."""
    end = time.monotonic() + patience
    left = list(pids)
    while left and time.monotonic() < end:
        left = [pid for pid in left if alive(pid)]
        time.sleep(0.01)
    assert not left, f"still alive: {left}"


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def live_server(folder: Path, kind: type[LiveServer] = LiveServer, **options: Any) -> Iterator[LiveServer]:
    """A started server with its domain and anna@ of it; killed at the end, whatever happened."""
    server = kind(folder, **options)
    server.add_domain()
    server.add_user(f"anna@{server.domain}")
    server.start()
    try:
        yield server
    finally:
        if server.process is not None:
            server.kill_group()
