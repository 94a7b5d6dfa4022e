"""One policy process as its worker sees it: started, asked, heard, and killed with all that it has started.

Invariant: the worker never waits for it without an end. Each call has its time; whatever the process does instead of
answering (ending, garbage, silence) ends it, and the call raises `PolicyEnded`.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from postroad.rules.policy import Opinion
from postroad.serve.logs import log_line
from postroad.serve.policy_frames import (
    Beginning,
    Failed,
    Load,
    Loaded,
    Order,
    Question,
    Reply,
    Told,
    Unframer,
    Want,
    frame,
)
from postroad.values.errors import StoreBroken
from postroad.values.facts import Content
from postroad.wire.mime.words import display_text

READY_MAX_S: Final = 10.0
"""Seconds that a file may take to load, imports and all."""

REAP_MAX_S: Final = 5.0
"""Seconds until a killed process is given up: the kernel holds it in a call that does not end."""

REAP_LOOK_S: Final = 0.01

ENDING_S: Final = 0.2
"""How long a process that closed its socket may take to end by itself, so that its status can be told."""

OUTPUT_MAX: Final = 65_536
"""Octets a second that are read of what a file prints; then the process waits at its print."""

OUTPUT_LINES_MAX: Final = 20
"""Lines a second of it that reach the log."""

OUTPUT_LINE_MAX: Final = 500
"""Characters of such a line."""

COMMAND: Final = (sys.executable, "-P", "-m", "postroad.serve.policy_child")

_NOT_FOR_IT: Final = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "CREDENTIALS_DIRECTORY")
"""Variables by which systemd hands things to a server."""


class PolicyEnded(Exception):
    """The process is gone or useless; `hung` when it was its time that was over. The text says what it did."""

    def __init__(self, what: str, *, hung: bool = False) -> None:
        super().__init__(what)
        self.hung = hung


class PolicyFailed(Exception):
    """The function of a stage failed and the process lives; the text has kind and place of the error."""


class PolicyProcess(asyncio.Protocol):
    """One process; made by `start`. Only one call at a time may be open."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._transport: asyncio.Transport | None = None
        self._unframer = Unframer()
        self._replies: asyncio.Queue[Reply | None] = asyncio.Queue()
        self._garbage = ""
        self._output: asyncio.ReadTransport | None = None
        self._end: asyncio.Task[str] | None = None
        self.ended = asyncio.Event()
        """Set when the process is gone or was given up."""
        self.busy = False
        """A call is open."""
        self.started = self._loop.time()
        self.answered = 0
        """Questions that it has answered."""
        self.hung = False
        self.stages: frozenset[str] = frozenset()

    @classmethod
    async def start(cls, *, user: str = "") -> PolicyProcess:
        """Start a process that has loaded nothing yet, as another account where `user` names one.

        Raises OSError when the system has none for us.
        """
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            process = _spawned(theirs, user)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        assert process.stdout is not None
        made: PolicyProcess | None = None
        try:
            _, made = await loop.create_unix_connection(lambda: cls(process), sock=ours)
            made._output, _ = await loop.connect_read_pipe(Output, process.stdout)
        except BaseException:
            process.stdout.close()
            if made is None:
                ours.close()
                made = cls(process)
            made.kill()
            await asyncio.shield(made.ended.wait())
            raise
        return made

    @property
    def gone(self) -> bool:
        """Whether it is being ended, or has ended."""
        return self._end is not None

    @property
    def pid(self) -> int:
        """Its process id, which is that of its group too."""
        return self._process.pid

    async def load(self, path: Path, source: bytes, patience_s: float = READY_MAX_S) -> Loaded:
        """Run a file's source; a `Loaded` with an error ends the process. Raises `PolicyEnded`."""
        reply = await self._call(Load(str(path), source), patience_s, None)
        if not isinstance(reply, Loaded):
            raise await self.killed("answered out of order")
        self.stages = frozenset(reply.stages)
        if reply.error:
            await self.killed("")
        return reply

    async def ask(self, question: Question, content: Content | None, patience_s: float) -> tuple[Opinion, ...]:
        """What the file says to a question. Raises `PolicyFailed`, and `PolicyEnded` when the process is no more."""
        reply = await self._call(question, patience_s, content)
        self.answered += 1
        if isinstance(reply, Failed):
            raise PolicyFailed(display_text(reply.evidence))
        if not isinstance(reply, Told):
            raise await self.killed("answered out of order")
        return reply.opinions

    async def _call(self, order: Order, patience_s: float, content: Content | None) -> Reply:
        self.busy = True
        try:
            async with asyncio.timeout(patience_s):
                self._send(order)
                while (reply := await self._replies.get()) is not None:
                    if not isinstance(reply, Want) or content is None:
                        return reply
                    self._send(Beginning(await beginning(content, reply.octets)))
        except TimeoutError:
            raise await self.killed(f"took more than {patience_s:g} s", hung=True) from None
        except (OSError, ValueError, StoreBroken) as error:
            raise await self.killed(f"could not be asked ({type(error).__name__})") from None
        except BaseException:
            self.kill()  # the answer that may still come would be taken for another question's
            raise
        finally:
            self.busy = False
        raise await self.killed(self._garbage)

    def _send(self, order: Order) -> None:
        octets = frame(order)
        if self._transport is None or self._transport.is_closing():
            raise OSError("closed")
        self._transport.write(octets)

    async def killed(self, what: str, *, hung: bool = False) -> PolicyEnded:
        """End the process; returns what to raise, with `what` it did, or else how it ended by itself."""
        self.hung = hung
        self.kill(at_once=bool(what))
        assert self._end is not None
        how = await asyncio.shield(self._end)
        return PolicyEnded(what or how, hung=hung)

    def kill(self, *, at_once: bool = True) -> None:
        """End the process and its group without waiting for it."""
        if self._end is None:
            self._end = self._loop.create_task(self._ended(at_once))

    async def close(self) -> None:
        """End the process and wait until nothing of it is left, not even an open pipe."""
        self.kill()
        await self.ended.wait()
        if self._output is not None:
            self._output.close()
        await asyncio.sleep(0)  # transports close in the next round of the loop

    async def _ended(self, at_once: bool) -> str:
        """How the process ended; nothing of its group is left then."""
        if not at_once:
            await self._until(lambda: _status(self.pid) is not None, ENDING_S)
        own_end = _status(self.pid)
        # Before it is reaped: until then nobody else can have its number.
        _kill_group(self.pid)
        reaped = await self._until(lambda: self._process.poll() is not None, REAP_MAX_S)
        if not reaped:
            log_line("error", "the policy process cannot be killed and is given up", pid=self.pid)
            self._process.returncode = -signal.SIGKILL  # Popen would complain of a process left behind
        if self._transport is not None:
            self._transport.abort()
        if self._output is not None:
            # What it printed last is in the pipe and is read now; a process that left the group may keep it open.
            self._output.resume_reading()
            self._loop.call_later(ENDING_S, self._output.close)
        self.ended.set()
        return own_end or "closed its socket"

    async def _until(self, done: Callable[[], bool], patience_s: float) -> bool:
        end = self._loop.time() + patience_s
        # The end of a process has no event that every loop tells of; this look is short and rare.
        while not (finished := done()) and self._loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(REAP_LOOK_S)
        return finished

    # -- called by the loop ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of classes of their own

    def data_received(self, data: bytes) -> None:
        try:
            for reply in self._unframer.feed(data):
                if not self.busy or not self._replies.empty():
                    raise ValueError("a reply without a question")
                self._replies.put_nowait(reply)
        except ValueError:
            self._garbage = "wrote garbage on its socket"
            while not self._replies.empty():  # what came with garbage is no answer either
                self._replies.get_nowait()
            self._over()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over()

    def _over(self) -> None:
        if self.busy:
            self._replies.put_nowait(None)
        else:
            self.kill(at_once=bool(self._garbage))


class Output(asyncio.Protocol):
    """What the file prints, as lines of the log; more than it may say makes it wait."""

    def __init__(self) -> None:
        self._transport: asyncio.ReadTransport | None = None
        self._rest = b""
        self._second = 0
        self._octets = 0
        self._lines = 0
        self._left_out = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.ReadTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._begin_second()
        self._octets += len(data)
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._say(line)
        self._rest = rest[:OUTPUT_LINE_MAX]
        if self._octets > OUTPUT_MAX and self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(1.0, self._go_on)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._say(self._rest)
        self._tell_left_out()

    def _go_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _begin_second(self) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._tell_left_out()
            self._second, self._octets, self._lines = second, 0, 0

    def _say(self, line: bytes) -> None:
        text = display_text(line[:OUTPUT_LINE_MAX].decode("utf-8", "backslashreplace")).strip()
        if not text:
            return
        self._lines += 1
        if self._lines > OUTPUT_LINES_MAX:
            self._left_out += 1
        else:
            log_line("info", f"policy.py: {text}")

    def _tell_left_out(self) -> None:
        if self._left_out:
            log_line("info", "policy.py printed more than the log takes", lines_left_out=self._left_out)
            self._left_out = 0


async def beginning(content: Content, octets: int) -> bytes:
    """The first `octets` of a body; raises what its reader raises."""
    if octets <= 0:
        return b""
    found = bytearray()
    async for piece in content.body():
        found += piece
        if len(found) >= octets:
            break
    return bytes(found[:octets])


def _spawned(theirs: socket.socket, user: str) -> subprocess.Popen[bytes]:
    """The process; every descriptor of ours but the three standard ones is closed in it."""
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_IT}
    group = pwd.getpwnam(user).pw_gid if user else None
    return subprocess.Popen(
        COMMAND,
        stdin=theirs.fileno(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=environment,
        start_new_session=True,
        user=user or None,
        group=group,
        extra_groups=os.getgrouplist(user, group) if group is not None else None,
    )


def _status(pid: int) -> str | None:
    """How a child ended, without reaping it; None while it lives."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return "ended"
    if ended is None:
        return None
    if ended.si_code == os.CLD_EXITED:
        return f"ended with status {ended.si_status}"
    try:
        return f"was ended by {signal.Signals(ended.si_status).name}"
    except ValueError:
        return f"was ended by signal {ended.si_status}"


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
