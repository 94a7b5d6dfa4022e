"""The administrator's `policy.py` as a judge of the gate: one policy process for each worker.

Invariant: every question is answered within `timeout_s` and `WAIT_MAX_S`, whatever the file does. What ends, hangs or
fails is a doubt, never an error of the session, and is logged. A process that ended is replaced by one that runs the
same source, so a file that is being edited is not picked up by accident: that is what `reload` is for, and a file that
cannot be loaded then leaves the one in use where it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from postroad.config import Policy
from postroad.flow.meters import Meters
from postroad.rules.opinions import verdict_of
from postroad.serve.logs import log_bug, log_line
from postroad.serve.policy_frames import Loaded, question
from postroad.serve.policy_process import PolicyEnded, PolicyFailed, PolicyProcess
from postroad.values.facts import Facts, Stage
from postroad.values.verdict import Ruling, Verdict, doubt
from postroad.wire.mime.headers import MAX_HEADER_OCTETS

SOURCE_MAX: Final = 1_048_576
"""Octets of a policy file; more is no policy but a program, which belongs into modules of its own."""

WAITING_MAX: Final = 1_000
"""Questions of one worker that wait for the process."""

WAIT_MAX_S: Final = 10.0
"""Seconds that a question waits for its turn: a final dot is answered within 30 s, whatever else is asked."""

QUICK_DEATH_S: Final = 5.0
"""A process that lived shorter than this after it was ready is replaced after a growing pause."""

FIRST_PAUSE_S: Final = 0.2
PAUSE_MAX_S: Final = 30.0

SAID_AGAIN_S: Final = 60.0
"""The same failure stands in the log once in this time; the journal has each."""

STOPPING: Final = "the server stops"

UNTOLD: Final = frozenset((Stage.MAIL, Stage.RCPT, Stage.MESSAGE))
"""Stages that are in doubt while nobody knows what the file asks for: those where mail can wait."""


@dataclass(slots=True)
class Waiting:
    """A question and who waits for its answer."""

    facts: Facts
    answer: asyncio.Future[Verdict | None]


class SourceError(Exception):
    """A policy file that cannot be read; the text is for people."""


def read_source(file: Path) -> bytes:
    """The source of a policy file; raises `SourceError`."""
    try:
        with file.open("rb") as opened:
            source = opened.read(SOURCE_MAX + 1)
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}") from None
    if len(source) > SOURCE_MAX:
        raise SourceError(f"{file} has more than {SOURCE_MAX:,} octets")
    return source


def told(file: Path, loaded: Loaded) -> str:
    """Why a file cannot be loaded, for people, with the line."""
    return f"{file} line {loaded.line}: {loaded.error}" if loaded.line else f"{file}: {loaded.error}"


class UserPolicy:
    """A judge of the gate (`rules.ports.Judge`); used from one event loop."""

    def __init__(self, policy: Policy, meters: Meters) -> None:
        self._file = Path(policy.file)
        self._policy = policy
        self._meters = meters
        self._restarts = meters.counter("postroad_policy_restarts_total")
        self._source: bytes | None = None
        self._stages: frozenset[str] | None = None
        self._process: PolicyProcess | None = None
        self._waiting: deque[Waiting] = deque()
        self._asked = asyncio.Event()
        self._ready = asyncio.Event()
        self._paused = False
        self._tasks: list[asyncio.Task[None]] = []
        self._reload: asyncio.Task[None] | None = None
        self._said: dict[str, float] = {}

    def start(self) -> None:
        """Start the process; questions wait until it is ready."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep()), loop.create_task(self._serve())]

    def stop(self) -> None:
        """End the process; what still waits is in doubt."""
        for task in (*self._tasks, self._reload):
            if task is not None:
                task.cancel()
        if self._process is not None:
            self._process.kill()
        self._paused = True
        self._give_up_waiting(STOPPING)

    # -- the judge ---------------------------------------------------------------------------------------------------

    async def ask(self, facts: Facts) -> Verdict | None:
        """What the file says of these facts; None where it has no function for the stage. Never raises."""
        if not self._concerns(facts):
            return None
        self._meters.counter("postroad_policy_questions_total", stage=facts.stage.value).add()
        if self._paused:
            return self._doubt("policy not running", "see the log")
        if len(self._waiting) >= WAITING_MAX:
            return self._doubt("policy busy", f"{WAITING_MAX} questions wait")
        loop = asyncio.get_running_loop()
        waiting = Waiting(facts, loop.create_future())
        self._waiting.append(waiting)
        self._asked.set()
        # No asyncio.timeout(): a session runs this outside of a task until it waits (`serve.eager`).
        overdue = loop.call_later(WAIT_MAX_S + self._policy.timeout_s, self._overdue, waiting)
        try:
            return await waiting.answer
        finally:
            overdue.cancel()

    def _overdue(self, waiting: Waiting) -> None:
        if not waiting.answer.done():
            waiting.answer.set_result(self._doubt("policy busy", f"no turn within {WAIT_MAX_S:g} s"))

    def ended(self, session: int) -> None:
        """Nothing is kept for a session."""

    def _concerns(self, facts: Facts) -> bool:
        if self._stages is None:
            return facts.stage in UNTOLD
        if facts.content is not None and len(facts.content.header) > MAX_HEADER_OCTETS:
            return False  # refused for its size before it is kept
        return facts.stage.value in self._stages

    def _doubt(self, why: str, evidence: str) -> Verdict:
        self._meters.counter("postroad_policy_doubts_total", why=why).add()
        verdict = doubt(why, evidence)
        return verdict if self._policy.undecided == "defer" else doubt(why, evidence, say=None)

    # -- questions ---------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Ask one question after the other."""
        while True:
            while not self._waiting:
                self._asked.clear()
                await self._asked.wait()
            await self._ready.wait()
            if not self._waiting:  # they were given up meanwhile
                continue
            process = self._process
            if process is None or process.gone:
                self._ready.clear()
                continue
            waiting = self._waiting.popleft()
            if waiting.answer.done():
                continue
            try:
                verdict = await self._one(process, waiting.facts)
            except asyncio.CancelledError:
                self._give_up(waiting, STOPPING)
                raise
            if not waiting.answer.done():
                waiting.answer.set_result(verdict)

    async def _one(self, process: PolicyProcess, facts: Facts) -> Verdict | None:
        stage = facts.stage.value
        if stage not in process.stages:  # asked before a reload, or before the file was known
            return None
        try:
            opinions = await process.ask(question(facts), facts.content, self._policy.timeout_s)
            verdict = verdict_of(opinions, facts)
        except PolicyFailed as failure:
            self._say("error", "policy.py failed; nothing was decided by it", str(failure))
            return self._doubt("policy failed", str(failure))
        except PolicyEnded as end:
            what = f"{stage}() {end}" if end.hung else f"in {stage}(), the policy process {end}"
            log_line("error", "policy.py gave no answer and its process was ended", cause=what, pid=process.pid)
            return self._doubt("policy hung" if end.hung else "policy failed", what)
        except Exception as bug:
            log_bug(bug, f"policy.py at {stage}")
            return self._doubt("policy failed", type(bug).__name__)
        finally:
            if process is not self._process:
                process.kill()  # it was replaced while it answered
        if verdict is not None and verdict.ruling is Ruling.COULD_NOT_TELL:
            return self._doubt(verdict.why, verdict.evidence)
        return verdict

    def _say(self, level: str, text: str, cause: str) -> None:
        """One line of the log for each cause in a while."""
        now = asyncio.get_running_loop().time()
        self._said = {one: at for one, at in self._said.items() if now - at < SAID_AGAIN_S}
        if cause not in self._said:
            self._said[cause] = now
            log_line(level, text, cause=cause)

    def _give_up_waiting(self, evidence: str) -> None:
        while self._waiting:
            self._give_up(self._waiting.popleft(), evidence)

    def _give_up(self, waiting: Waiting, evidence: str) -> None:
        if not waiting.answer.done():
            waiting.answer.set_result(self._doubt("policy not running", evidence))

    # -- the process -------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Keep one process ready; pause longer and longer while they end at once."""
        pause, first, quick_deaths = 0.0, True, 0
        while True:
            process = self._process
            if process is None:
                if not first:
                    self._restarts.add()
                process, first = await self._begin(), False
            if process is not None:
                await process.ended.wait()
                if process is not self._process:
                    continue  # replaced by a reload, and its end was ours
                self._process = None
                self._ready.clear()
            quick_deaths = quick_deaths + 1 if process is None or self._useless(process) else 0
            # A process that a single question has ended is replaced at once: others wait for the next one.
            hold = process is None or quick_deaths > 1
            pause = min(PAUSE_MAX_S, max(FIRST_PAUSE_S, pause * 2)) if hold else 0.0
            if pause:
                await self._pause(pause)

    @staticmethod
    def _useless(process: PolicyProcess) -> bool:
        """Whether it ended at once; one that hung has taken its time already."""
        lived = asyncio.get_running_loop().time() - process.started
        return lived < QUICK_DEATH_S and not process.answered and not process.hung

    async def _pause(self, pause_s: float) -> None:
        """Wait until the next start, or until a reload has brought a process; every question is a doubt meanwhile."""
        log_line("warning", "policy.py is not running; it is started again", pause_s=pause_s)
        self._paused = True
        self._give_up_waiting("it ended at once")
        try:
            async with asyncio.timeout(pause_s):
                await self._ready.wait()
        except TimeoutError:
            pass
        self._paused = False

    async def _begin(self) -> PolicyProcess | None:
        """A process that runs the source in use, or the file where none is yet; None when it cannot be had."""
        try:
            source = self._source if self._source is not None else read_source(self._file)
        except SourceError as error:
            self._cannot_load(str(error))
            return None
        process = await self._loaded(source)
        if process is not None and self._process is None:
            self._use(process, source)
        elif process is not None:
            process.kill()  # a reload was quicker
        return self._process

    def _use(self, process: PolicyProcess, source: bytes) -> None:
        old, self._process = self._process, process
        self._source, self._stages = source, process.stages
        self._paused = False
        self._ready.set()
        if old is not None and not old.busy:
            old.kill()

    async def _loaded(self, source: bytes) -> PolicyProcess | None:
        """A process that has loaded this source; None, with a line in the log, when it does not come to that."""
        process: PolicyProcess | None = None
        ready = False
        try:
            process = await PolicyProcess.start()
            loaded = await process.load(self._file, source)
            ready = not loaded.error
            if not ready:
                self._cannot_load(told(self._file, loaded))
        except PolicyEnded as end:
            self._cannot_load(f"{self._file}: it {end}")
        except OSError as error:
            self._cannot_load(f"no process can be started: {error.strerror}")
        finally:
            if process is not None and not ready:
                process.kill()
        return process if ready else None

    def _cannot_load(self, cause: str) -> None:
        kept = "policy.py cannot be loaded; the one in use stays"
        log_line("error", kept if self._process is not None else "policy.py cannot be loaded", cause=cause)

    # -- reload ------------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Use the file as it is on the disk, once it has been loaded; one that cannot be leaves the old one in use."""
        if self._reload is not None:
            self._reload.cancel()
        self._reload = asyncio.get_running_loop().create_task(self._take_file())

    async def _take_file(self) -> None:
        try:
            source = read_source(self._file)
        except SourceError as error:
            self._cannot_load(str(error))
            return
        process = await self._loaded(source)
        if process is not None:
            self._use(process, source)
            log_line("info", "policy.py reloaded", stages=", ".join(sorted(process.stages)))


async def examine(file: Path, user: str = "") -> tuple[PolicyProcess | None, Loaded]:
    """Load a file outside of a server, as another account where `user` names one: the process and what it tells.

    Raises `SourceError` and OSError.
    """
    source = read_source(file)
    process = await PolicyProcess.start(user=user)
    usable = False
    try:
        loaded = await process.load(file, source)
        usable = not loaded.error
    except PolicyEnded as end:
        loaded = Loaded(error=f"it {end}")
    finally:
        if not usable:
            await process.close()
    return (process if usable else None), loaded
