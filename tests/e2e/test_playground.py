"""`postroad dev` as a newcomer starts it: in a process of its own, over real ports, ended in every way there is."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import re
import select
import shlex
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroad.dev.journeys import JOURNEYS
from postroad.dev.layout import Layout, Ports
from postroad.dev.playground import CANNOT_START, INTERRUPTED, WENT_WRONG
from postroad.dev.ports import obstacles
from tests.programs import needs_program
from tests.testdata import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]

COMMAND = [sys.executable, "-m", "postroad"]
SERVES = "What happens from now on"
END_S = 3.0
"""Ctrl-C to the last process gone."""
PATIENCE_S = 40.0


def free_ports() -> tuple[int, Ports]:
    """A random offset at which everything is free, and the ports it gives."""
    while True:
        offset = random.randint(
            20_000, 32_767 - Ports().metrics
        )  # below the ports of outgoing connections, above tests.live
        ports = Ports().moved(offset)
        if not obstacles(Layout(Path("/"), ports, ipv6=True)):
            return offset, ports


def surroundings() -> dict[str, str]:
    """The environment of somebody without a terminal, and without what pytest has set."""
    return {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}


class Running:
    """A playground in a process of its own; what it prints gathers in `shown`."""

    def __init__(self, *arguments: str, command: list[str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*(command or [*COMMAND, "dev"]), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=surroundings(),
            cwd=REPOSITORY, start_new_session=True,
        )  # fmt: skip
        self.shown = ""
        self._read = threading.Thread(target=self._gather, daemon=True)
        self._read.start()

    def _gather(self) -> None:
        assert self.process.stdout is not None
        while octets := os.read(self.process.stdout.fileno(), 65536):
            self.shown += octets.decode()

    def until(self, words: str) -> str:
        """What was printed up to now, once `words` are in it."""
        end = time.monotonic() + PATIENCE_S
        while words not in self.shown:
            assert time.monotonic() < end, f"no {words!r} in:\n{self.shown}"
            assert self.process.poll() is None or not self._read.is_alive() or time.monotonic() < end, self.shown
            if self.process.poll() is not None:
                self._read.join(5)
                assert words in self.shown, self.shown
            time.sleep(0.02)
        return self.shown

    def end(self, number: int | None = None) -> int:
        """Waits for the exit status, after a signal when one is given."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(PATIENCE_S)
        self._read.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@contextlib.contextmanager
def running(*arguments: str, command: list[str] | None = None) -> Iterator[Running]:
    """A playground that is certainly gone afterwards."""
    playground = Running(*arguments, command=command)
    try:
        yield playground
    finally:
        if playground.process.poll() is None:
            playground.end(signal.SIGTERM)


def processes_of(folder: Path) -> list[str]:
    """Command lines of living processes that were started for a data folder, and of their children."""
    found = {}
    parents = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            state, parent = (entry / "stat").read_text().rpartition(") ")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found[int(entry.name)], parents[int(entry.name)] = words, int(parent)
    ours = {pid for pid, words in found.items() if str(folder) in words and "postroad" in words}
    ours |= {pid for pid in found if parents[pid] in ours}
    return [found[pid] for pid in ours]


def gone_within(folder: Path, seconds: float) -> bool:
    """Whether no process of a data folder is left in time."""
    end = time.monotonic() + seconds
    while processes_of(folder):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def ids_in(shown: str) -> list[str]:
    """The id of each journey, in order, as the printed commands name it."""
    return re.findall(r"why\? .* why ([0-9A-Z]{13}) --data", shown)


# -- the show alone ----------------------------------------------------------------------------------------------------


def test_once_walks_every_journey_and_twice_in_one_folder_at_once(tmp_path: Path) -> None:
    offset, _ = free_ports()
    folder = tmp_path / "kept"
    for _ in range(2):
        with running("--once", "--port-offset", str(offset), "--keep", str(folder)) as playground:
            status = playground.end()
        shown = playground.shown
        assert status == 0, shown
        for number, journey in enumerate(JOURNEYS, 1):
            assert f"\n{number}. {journey.title}\n" in shown
        assert "All 6 journeys ended as they should" in shown
        assert "✗" not in shown
        assert "\x1b" not in shown, "no colours without a terminal"
        assert "our server:" not in shown, "nothing worth a warning happens in a show"
        for line in (
            "250 2.0.0 Queued as ",
            "550 5.1.1 No mailbox nobody@dev.test here.",
            "451 4.7.1 ",
            "Status: 5.1.1",
        ):
            assert line in shown
    ids = ids_in(shown)
    assert len(ids) == len(JOURNEYS)
    expected = ("delivered", "delivered", "delivered", "refused", "deferred", "bounced")
    for ident, word in zip(ids, expected, strict=True):
        told = subprocess.run(
            [*COMMAND, "why", ident, "--data", str(folder / "data")],
            capture_output=True, text=True, check=False, cwd=REPOSITORY,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        assert word in told.stdout


def test_a_journey_that_goes_wrong_fails_the_show_and_says_where_to_look(tmp_path: Path) -> None:
    """friends.test refuses everybody: journeys 2 and 3 cannot end well, the others do."""
    offset, _ = free_ports()
    script = """
import asyncio, sys
from postroad.dev.playground import Cast, Playground, Wishes
from postroad.dev.screen import Screen
from postroad.values.reply import Reply
cast = Cast(patience=3.0)
cast.friends.answer = lambda sender, recipient: Reply(550, "5.7.1", "We take nothing today")
wishes = Wishes(once=True, offset=int(sys.argv[1]))
sys.exit(asyncio.run(Playground(wishes, Screen.on(sys.stdout), cast).run()))
"""
    command = ["env", f"TMPDIR={tmp_path}", sys.executable, "-c", script]
    with running(str(offset), command=command) as playground:
        status = playground.end()
    shown = playground.shown
    assert status == WENT_WRONG, shown
    assert "2 of 6 journeys did not end as they should: 2, 3" in shown
    assert "✗ did not end as it should" in shown
    assert "We take nothing today" in shown, "the line that shows the cause"
    log = re.search(r"the server's log: (\S+)", shown)
    assert log is not None
    assert Path(log[1]).exists(), "the temporary folder stays after a failure"
    assert Path(log[1]).is_relative_to(tmp_path)
    assert gone_within(tmp_path, 0)


def test_a_temporary_folder_is_gone_at_the_end(tmp_path: Path) -> None:
    offset, _ = free_ports()
    environ = surroundings() | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*COMMAND, "dev", "--once", "--port-offset", str(offset)],
        capture_output=True, text=True, check=False, env=environ, cwd=REPOSITORY, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
    assert "Nothing is left behind" in done.stdout
    assert gone_within(tmp_path, 0)


def test_without_ipv6(tmp_path: Path) -> None:
    """A network of its own that has 127.0.0.1 and nothing else."""
    unshare, ip = needs_program("unshare"), needs_program("ip")
    if os.geteuid() != 0:
        pytest.skip("only root may make a network namespace")
    inside = (
        f"echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 2>/dev/null; {ip} link set lo up;"
        ' test -z "$(cat /proc/net/if_inet6 2>/dev/null)" || exit 99; exec "$@"'
    )
    command = [str(unshare), "--net", "sh", "-c", inside, "sh", *COMMAND, "dev"]
    with running("--once", "--keep", str(tmp_path / "kept"), command=command) as playground:
        status = playground.end()
    if "Operation not permitted" in playground.shown:
        pytest.skip("this machine does not let root make a network namespace")
    assert status == 0, playground.shown
    assert "[::1]" not in (tmp_path / "kept/postroad.toml").read_text()


# -- ports -------------------------------------------------------------------------------------------------------------


def test_a_port_in_use_names_its_holder_and_the_way_out(tmp_path: Path) -> None:
    offset, ports = free_ports()
    wishes = ("--once", "--port-offset", str(offset), "--keep", str(tmp_path / "kept"))
    with socket.create_server(("127.0.0.1", ports.pop3s)), running(*wishes) as playground:
        status = playground.end()
    assert status == CANNOT_START
    assert f"Port {ports.pop3s}: in use by " in playground.shown
    assert f"(pid {os.getpid()})" in playground.shown
    way_out = re.search(r"postroad dev --port-offset (\d+)", playground.shown)
    assert way_out is not None
    assert len(playground.shown.splitlines()) == 3
    assert not (tmp_path / "kept").exists(), "nothing was begun"


@pytest.mark.parametrize("words", [["--port-offset", "60000"], ["--port-offset", "x"], ["--onec"], ["more"]])
def test_wrong_usage_is_answered_at_once(words: list[str]) -> None:
    done = subprocess.run([*COMMAND, "dev", *words], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 2
    assert "usage: postroad dev" in done.stderr
    assert "Traceback" not in done.stderr


# -- serving, and ways to end ------------------------------------------------------------------------------------------


def test_it_goes_on_serving_and_every_printed_command_works(tmp_path: Path) -> None:
    """The commands are copied from the screen to a shell, as a newcomer would."""
    for program in ("swaks", "curl"):
        needs_program(program)
    offset, ports = free_ports()
    folder = tmp_path / "kept"
    with running("--port-offset", str(offset), "--keep", str(folder)) as playground:
        shown = playground.until(SERVES)
        commands = re.findall(r"^   ((?:swaks|printf|curl|\S+ -m postroad why) .*)$", shown, re.MULTILINE)
        assert [command.split()[0].rpartition("/")[2][:6] for command in commands] == [
            "swaks",
            "printf",
            "curl",
            "python",
        ]
        for command in commands:
            done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, cwd=REPOSITORY)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            if command.startswith("curl"):
                assert "Subject: " in done.stdout
        with smtplib.SMTP("127.0.0.1", ports.smtp, timeout=10) as app:  # as a program in development would send
            app.sendmail("app@dev.test", ["dev@dev.test", "bob@friends.test"], "Subject: hello\r\n\r\nHello\r\n")
        playground.until("from <app@dev.test>")
        live = playground.until("try 2").partition(SERVES)[2]  # greta's mail, which was deferred first
        for words in ("received ", "delivered  bob@friends.test", "deferred   greta@grumpy.test", "451 4.7.1"):
            assert words in live
        with contextlib.ExitStack() as programs:  # that are still connected when it ends
            for port in (ports.smtp, ports.submission, ports.imap, ports.pop3):
                programs.enter_context(socket.create_connection(("127.0.0.1", port))).recv(4096)
            began = time.monotonic()
            assert playground.end(signal.SIGINT) == 0
            assert time.monotonic() - began < END_S
    assert playground.shown.rstrip().splitlines()[-1].startswith("Ended. ")
    assert "Traceback" not in playground.shown
    assert gone_within(folder, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_the_show_ends_all_of_it(number: signal.Signals, tmp_path: Path) -> None:
    offset, _ = free_ports()
    folder = tmp_path / "kept"
    with running("--once", "--port-offset", str(offset), "--keep", str(folder)) as playground:
        playground.until("\n5. ")
        began = time.monotonic()
        assert playground.end(number) == INTERRUPTED
        assert time.monotonic() - began < END_S
    assert "✗" not in playground.shown
    assert "Traceback" not in playground.shown
    assert gone_within(folder, 0)


def test_a_signal_before_it_is_ready_ends_it(tmp_path: Path) -> None:
    offset, _ = free_ports()
    folder = tmp_path / "kept"
    with running("--port-offset", str(offset), "--keep", str(folder)) as playground:
        end = time.monotonic() + PATIENCE_S
        while not (folder / "server.log").exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert playground.end(signal.SIGTERM) == 0, playground.shown
    assert "Traceback" not in playground.shown
    assert gone_within(folder, 0)


def test_nothing_outlives_a_killed_playground(tmp_path: Path) -> None:
    offset, _ = free_ports()
    environ_folder = tmp_path / "tmp"
    environ_folder.mkdir()
    command = ["env", f"TMPDIR={environ_folder}", *COMMAND, "dev"]
    with running("--port-offset", str(offset), command=command) as playground:
        playground.until(SERVES)
        assert len(processes_of(environ_folder)) == 3, "the server, its store and its worker"
        playground.end(signal.SIGKILL)
        assert gone_within(environ_folder, 2 * END_S)
    assert list(environ_folder.iterdir()) == [], "the server removes the folder when the playground cannot"


def test_the_death_of_our_server_is_told(tmp_path: Path) -> None:
    offset, _ = free_ports()
    folder = tmp_path / "kept"
    with running("--port-offset", str(offset), "--keep", str(folder)) as playground:
        playground.until(SERVES)
        children = Path(f"/proc/{playground.process.pid}/task/{playground.process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        assert playground.end() == WENT_WRONG
    assert "Our server has ended by itself" in playground.shown
    assert gone_within(folder, 2 * END_S)


def test_a_closed_pipe_ends_it_quietly(tmp_path: Path) -> None:
    offset, _ = free_ports()
    folder = tmp_path / "kept"
    command = shlex.join([*COMMAND, "dev", "--port-offset", str(offset), "--keep", str(folder)])
    done = subprocess.run(
        f"{command} | head -n 1", shell=True, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=60
    )
    assert done.stdout.startswith("Starting a private DNS server")
    assert done.stderr == ""
    assert gone_within(folder, END_S)


def test_a_terminal_gets_colours(tmp_path: Path) -> None:
    offset, _ = free_ports()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "dev", "--once", "--port-offset", str(offset), "--keep", str(tmp_path / "kept")],
        stdin=theirs, stdout=theirs, stderr=theirs, env=surroundings() | {"TERM": "xterm"}, cwd=REPOSITORY,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is gone with the process
        while select.select([ours], [], [], PATIENCE_S)[0] and (octets := os.read(ours, 65536)):
            shown += octets
    os.close(ours)
    assert process.wait(PATIENCE_S) == 0, shown.decode()
    assert b"\x1b[32m\xe2\x9c\x93\x1b[0m dev logs in" in shown
