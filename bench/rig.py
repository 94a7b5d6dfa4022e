"""What the figures share: a server started as its users start it, a sink, load, and what /proc says about processes.

The load and the sink are those of the measuring harness (`$HARNESS`, else ../shared/bench beside the checkout). Data
stands below `$BENCH_DIR` (else /var/tmp), which must be a real disk: on tmpfs waiting for it costs nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[1]
HARNESS: Final = Path(os.environ.get("HARNESS", ROOT.parent / "shared/bench"))
PYTHON: Final = os.environ.get("BENCH_PYTHON", sys.executable)
"""The interpreter that runs the server: of a virtual environment with Postroad in it."""

CONFIG: Final = """
hostname = "mx.bench.test"
data_dir = "{folder}/data"
workers = {workers}
insecure_auth = true

[listen]
mx = ["127.0.0.1:{mx}"]
submission = []
submissions = [{submissions}]
imap = ["127.0.0.1:{imap}"]
imaps = []
pop3 = ["127.0.0.1:{pop3}"]
pop3s = []
metrics = "127.0.0.1:{metrics}"

[relay]
relay_from = ["127.0.0.0/8"]
next_hop = "127.0.0.1:{sink}"
allow_private = ["127.0.0.0/8"]
connections_per_lane = 50

[limits]
connections = 15000
connections_per_address = 10000
"""

USER: Final = "reader@box.test"
PASSWORD: Final = "secret"


def free_port() -> int:
    """A port that nobody has right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Server:
    """A server in a folder of its own: the supervisor, the store and `workers` workers."""

    def __init__(self, *, workers: int, sink: int, tls: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="postroad-bench-", dir=os.environ.get("BENCH_DIR", "/var/tmp")))
        self.workers_wanted = workers
        self.mx, self.imap, self.pop3, self.submissions, metrics = (free_port() for _ in range(5))
        self.config = self.folder / "postroad.toml"
        self.config.write_text(
            CONFIG.format(
                folder=self.folder,
                workers=workers,
                submissions=f'"127.0.0.1:{self.submissions}"' if tls else "",
                mx=self.mx,
                imap=self.imap,
                pop3=self.pop3,
                metrics=metrics,
                sink=sink,
            )
        )
        (self.folder / "data").mkdir(mode=0o700)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, *words: str, given: str = "") -> str:
        """Runs a `postroad` command on this server."""
        argv = [PYTHON, "-m", "postroad", "--config", str(self.config), *words]
        return subprocess.run(argv, input=given, capture_output=True, text=True, check=True).stdout

    def add_reader(self) -> None:
        """Makes the mailbox `USER`."""
        self.command("domain", "add", USER.partition("@")[2])
        self.command("user", "add", USER, "--password-stdin", given=PASSWORD + "\n")

    def start(self) -> Self:
        """Starts it and waits for its greeting."""
        with open(self.folder / "log", "ab") as log:
            argv = [PYTHON, "-m", "postroad", "--config", str(self.config), "serve"]
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        self.ready()
        return self

    def ready(self) -> None:
        """Waits until the MX greets and every worker is there."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                with socket.create_connection(("127.0.0.1", self.mx), 5) as sock:
                    if sock.recv(3) == b"220" and len(self.workers) == self.workers_wanted:
                        return
            except OSError:
                pass
            time.sleep(0.01)
        raise RuntimeError((self.folder / "log").read_text()[-2000:])

    def stop(self) -> None:
        """Ends it by SIGTERM, and what does not end by SIGKILL."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    # -- its processes -----------------------------------------------------------------------------------------------

    @property
    def pids(self) -> list[int]:
        """Supervisor and all its children."""
        assert self._process is not None
        pid = self._process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    @property
    def workers(self) -> list[int]:
        """Pids of the workers."""
        return [pid for pid in self.pids if b"postroad.app.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def cpu_us(self) -> float:
        """CPU time of all its processes so far, by the scheduler's count in nanoseconds."""
        return (
            sum(
                int((task / "schedstat").read_text().split()[0])
                for pid in self.pids
                for task in Path(f"/proc/{pid}/task").iterdir()
            )
            / 1000
        )


class Sink:
    """The harness's next hop: accepts everything, counts messages by Message-ID."""

    def __init__(
        self,
        port: int = 0,
        program: Path = HARNESS / "sink.py",
        words: Sequence[str] = (),
        enter: Callable[[], None] | None = None,
    ) -> None:
        """`program` is another sink that prints such lines, `words` its options, `enter` runs in its process first."""
        self.port = port or free_port()
        descriptor, name = tempfile.mkstemp(prefix="postroad-bench-sink-")
        self._out = Path(name)
        argv = [PYTHON, str(program), str(self.port), *words]
        self._process = subprocess.Popen(argv, stdout=descriptor, preexec_fn=enter)
        os.close(descriptor)
        while not can_connect(self.port):
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._out.unlink()

    def numbers(self) -> list[int]:
        """The last line it printed."""
        lines = self._out.read_text().split("\n")[:-1]
        return [int(word) for word in lines[-1].split()] if lines else []

    def distinct(self) -> int:
        """Different messages so far, those of `load` only."""
        return (self.numbers() or [0, 0])[1]

    def wait(self, count: int, patience: float = 120.0) -> float:
        """Waits for so many messages; returns the time when the last came. Raises TimeoutError."""
        until = time.monotonic() + patience
        while self.distinct() < count:
            if time.monotonic() > until:
                raise TimeoutError(f"{self.distinct()} of {count} messages came")
            time.sleep(0.01)
        return time.monotonic()


def can_connect(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def load_argv(port: int, messages: int, **options: object) -> list[str]:
    """The command of the harness's load: options are those of its load.py, `per_conn=100` for --per-conn 100."""
    argv = [PYTHON, str(HARNESS / "load.py"), "--port", str(port), "--messages", str(messages)]
    for name, value in options.items():
        argv += ["--" + name.replace("_", "-"), str(value)]
    return argv


def load(port: int, messages: int, **options: object) -> dict[str, Any]:
    """Sends messages and returns what load.py counted; raises when one was refused."""
    out = subprocess.run(load_argv(port, messages, **options), capture_output=True, text=True, check=True).stdout
    counted: dict[str, Any] = json.loads(out)
    if counted["accepted"] != messages:
        raise RuntimeError(f"not all was accepted: {counted}")
    return counted


def settle_postfix(main: Path) -> None:
    """Leaves the last of several values of a parameter in main.cf: every daemon of Postfix warns of the others."""
    last = {line.partition("=")[0].strip(): line for line in main.read_text().split("\n") if "=" in line}
    main.write_text("".join(line + "\n" for line in last.values()))


def busy_cpu_s() -> float:
    """Busy CPU seconds of the whole machine since it started."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def memory_kb(pid: int) -> dict[str, int]:
    """Rss, Pss and Anonymous of a process in kB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n")[1:]
    found = {line.split(":")[0]: int(line.split()[1]) for line in lines if line}
    return {name: found[name] for name in ("Rss", "Pss", "Anonymous")}


def report(figure: str, **numbers: object) -> None:
    """One figure as a JSON line on standard output, which `bench/figures.py` gathers."""
    print(json.dumps({"figure": figure, **numbers}), flush=True)
