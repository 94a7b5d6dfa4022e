"""The administrator's policy.py in its process: what it may do to itself, and what it never does to a worker.

Class E12: a filter that failed is a 4yz, never a partial result. Class E10: what it writes is decoded or refused whole.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroad.config import Policy
from postroad.flow.meters import Meters
from postroad.serve import policy as policy_module
from postroad.serve import policy_process
from postroad.serve.policy import SOURCE_MAX, UserPolicy, examine
from postroad.serve.policy_frames import FRAME_MAX, Failed, Loaded, Told, Unframer, Want, frame
from postroad.serve.policy_process import Output, PolicyEnded, PolicyProcess
from postroad.values.address import Address
from postroad.values.errors import StoreBroken
from postroad.values.facts import Content, Facts, Stage
from postroad.values.verdict import Ruling, Verdict

pytestmark = pytest.mark.slow

TIMEOUT_S = 1.0
"""Seconds a question may take here: enough for a process on a busy machine, short enough to hang often."""

REFUSE_X = """
from postroad.rules.policy import refuse
def rcpt(r):
    return refuse("No.") if r.recipient.startswith("x") else None
"""

Lines = list[tuple[str, str, dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """What reaches the log."""
    said: Lines = []

    def log(level: str, text: str, **fields: Any) -> None:
        said.append((level, text, fields))

    monkeypatch.setattr(policy_module, "log_line", log)
    monkeypatch.setattr(policy_process, "log_line", log)
    return said


@pytest.fixture(autouse=True)
async def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """No test leaves a process or an open pipe."""
    outputs: set[Output] = set()

    class Watched(Output):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            outputs.add(self)
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            outputs.discard(self)
            super().connection_lost(exc)

    monkeypatch.setattr(policy_process, "Output", Watched)
    _before.clear()
    _before.update(children())
    yield
    await until(lambda: not children() and not outputs)


_before: set[int] = set()
"""What other tests in this process have not reaped; the kernel does not tell what a dead child was."""


def children() -> set[int]:
    """Policy processes of this test that live or were not reaped."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == os.getpid() and (b"policy_child" in command or not command):
            found.add(int(stat.parent.name))
    return found - _before


Start = Callable[..., Awaitable[UserPolicy]]


@pytest.fixture
async def start(tmp_path: Path, lines: Lines) -> AsyncIterator[Start]:
    """Starts a judge over a source; its file is `tmp_path/policy.py`."""
    started: list[UserPolicy] = []

    async def make(
        source: str, *, ready: bool = True, undecided: str = "defer", timeout_s: float = TIMEOUT_S
    ) -> UserPolicy:
        (tmp_path / "policy.py").write_text(source)
        made = UserPolicy(
            Policy(file=str(tmp_path / "policy.py"), undecided=undecided, timeout_s=timeout_s), Meters.private()
        )
        made.start()
        started.append(made)
        if ready:
            await until(made._ready.is_set)
        return made

    yield make
    for one in started:
        one.stop()
    await asyncio.sleep(0)


async def until(true: Callable[[], object], patience_s: float = 20.0) -> None:
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def rcpt(name: str = "anna") -> Facts:
    return Facts(Stage.RCPT, recipient=Address(name, "example.org"))


def message(octets: bytes = b"body\r\n", header: bytes = b"Subject: hi\r\n\r\n", **more: Any) -> Facts:
    async def body() -> AsyncIterator[bytes]:
        for at in range(0, len(octets), 1000):
            yield octets[at : at + 1000]

    return Facts(Stage.MESSAGE, content=Content(header, len(header) + len(octets), body), **more)


def is_doubt(verdict: Verdict | None, why: str) -> str:
    """The evidence of a doubt with this word, for which mail waits."""
    assert verdict is not None
    assert (verdict.ruling, verdict.why) == (Ruling.COULD_NOT_TELL, why), verdict
    assert verdict.say is not None
    assert verdict.say.code == 451
    return verdict.evidence


def count(judge: UserPolicy, name: str) -> int:
    return sum(value for text, value in judge._meters.series() if text.startswith(name))


async def works(judge: UserPolicy) -> None:
    """It refuses x and nobody else."""
    verdict = await judge.ask(rcpt("x"))
    assert verdict is not None
    assert (verdict.why, str(verdict.say)) == ("refused by policy", "550 5.7.1 No.")
    assert await judge.ask(rcpt()) is None


# -- what it is for ----------------------------------------------------------------------------------------------------


async def test_only_stages_with_a_function_are_asked(start: Start) -> None:
    judge = await start(REFUSE_X)
    await works(judge)
    assert await judge.ask(Facts(Stage.CONNECT)) is None
    assert await judge.ask(Facts(Stage.ATTEMPT)) is None
    assert count(judge, "postroad_policy_questions_total") == 2
    assert count(judge, "postroad_policy_doubts_total") == 0


async def test_every_stage_is_given_what_is_known(start: Start) -> None:
    stages = ("connect", "hello", "auth", "mail", "rcpt", "message")
    judge = await start(
        "from postroad.rules.policy import *\n"
        + "\n".join(f"def {stage}(r): return refuse(type(r).__name__ + ' ' + r.peer + told(r))" for stage in stages)
        + "\nnames = ('helo', 'login', 'sender', 'recipient')"
        + "\ndef told(r): return ''.join(' ' + str(getattr(r, n, '-')) for n in names)"
    )
    anna = Address("anna", "example.org")
    known = Facts(Stage.RCPT, peer="192.0.2.1", helo="h", login="l", sender=anna, recipient=Address("bob", "x.test"))
    said = []
    for stage in stages:
        verdict = await judge.ask(
            Facts(Stage(stage), **{n: getattr(known, n) for n in known.__struct_fields__ if n != "stage"})
        )
        assert verdict is not None
        assert verdict.say is not None
        said.append(verdict.say.text)
    assert said == [
        "Connect 192.0.2.1 - - - -",
        "Hello 192.0.2.1 h - - -",
        "Auth 192.0.2.1 h l - -",
        "Mail 192.0.2.1 h l anna@example.org -",
        "Rcpt 192.0.2.1 h l anna@example.org bob@x.test",
        "Message 192.0.2.1 h l anna@example.org -",
    ]


async def test_body_is_sent_as_far_as_it_is_asked_for(start: Start) -> None:
    judge = await start(
        "from postroad.rules.policy import *\n"
        "def message(m): return [add_header('X-Body', f'{len(m.body(1500))} {len(m.body())} {m.text(4)}')]"
    )
    verdict = await judge.ask(message(b"abcdefgh" * 1000))
    assert verdict is not None
    assert verdict.changes.header == b"X-Body: 1500 8000 abcd\r\nSubject: hi\r\n\r\n"


async def test_functions_may_be_asynchronous_and_keep_state(start: Start) -> None:
    judge = await start(
        "from postroad.rules.policy import *\nimport asyncio\ncount = 0\n"
        "async def rcpt(r):\n    global count\n    count += 1\n    await asyncio.sleep(0)\n"
        "    return refuse(str(count))"
    )
    said = await asyncio.gather(*(judge.ask(rcpt()) for _ in range(3)))
    assert [one.say.text for one in said if one is not None and one.say is not None] == ["1", "2", "3"]


async def test_it_inherits_nothing_of_the_worker(start: Start) -> None:
    ours, theirs = socket.socketpair()
    os.set_inheritable(theirs.fileno(), True)
    try:
        judge = await start(
            "from postroad.rules.policy import *\nimport os\n"
            "def rcpt(r):\n    own = os.getsid(0) == os.getpid()\n"
            "    return refuse(' '.join(sorted(os.listdir('/proc/self/fd'))) + f' {own}')"
        )
        verdict = await judge.ask(rcpt())
        assert verdict is not None
        assert verdict.say is not None
        # Three standard ones, the socket, and the folder that is being listed.
        assert verdict.say.text == "0 1 2 3 4 True"
    finally:
        ours.close()
        theirs.close()


async def test_accept_lets_a_doubt_pass_and_notes_it(start: Start) -> None:
    judge = await start("def rcpt(r): 1 / 0", undecided="accept")
    verdict = await judge.ask(rcpt())
    assert verdict is not None
    assert (verdict.ruling, verdict.why, verdict.say) == (Ruling.COULD_NOT_TELL, "policy failed", None)


async def test_unsure_is_a_doubt_too(start: Start) -> None:
    source = "from postroad.rules.policy import unsure\ndef rcpt(r): return unsure('no answer')"
    judge = await start(source)
    assert "no answer" in is_doubt(await judge.ask(rcpt()), "policy undecided")
    noting = await start(source, undecided="accept")
    verdict = await noting.ask(rcpt())
    assert verdict is not None
    assert verdict.say is None


# -- what it may do to itself ------------------------------------------------------------------------------------------

FAILS = {
    "exception": ("def rcpt(r):\n    raise RuntimeError(r.recipient)", "policy.py line 2: RuntimeError in rcpt()"),
    "exit": ("import sys\ndef rcpt(r):\n    sys.exit(0)", "policy.py line 3: SystemExit in rcpt()"),
    "recursion": ("def rcpt(r):\n    return rcpt(r)", "policy.py line 2: RecursionError in rcpt()"),
    "wrong type": ("def rcpt(r):\n    return 'no'", "policy.py: rcpt() returned str"),
    "wrong stage": (
        "from postroad.rules.policy import *\ndef rcpt(r): return quarantine('x')",
        "policy.py: rcpt() returned quarantine()",
    ),
    "unusable": (
        "from postroad.rules.policy import *\ndef rcpt(r):\n    return refuse('a\\r\\nb')",
        "policy.py line 3: the text of a refusal is one line",
    ),
    "interrupt": ("def rcpt(r):\n    raise KeyboardInterrupt", "policy.py line 2: KeyboardInterrupt in rcpt()"),
    "in a coroutine": ("async def rcpt(r):\n    raise OSError(r.recipient)", "policy.py line 2: OSError in rcpt()"),
}


@pytest.mark.parametrize("name", FAILS)
async def test_an_error_is_a_doubt_with_its_place_and_nothing_of_the_mail(
    start: Start, lines: Lines, name: str
) -> None:
    source, evidence = FAILS[name]
    judge = await start(source + "\ndef mail(m): return None")
    for _ in range(2):
        found = is_doubt(await judge.ask(rcpt()), "policy failed")
        assert found.startswith(evidence)
        assert "anna" not in found
    assert await judge.ask(Facts(Stage.MAIL)) is None, "the process lives"
    assert count(judge, "postroad_policy_restarts_total") == 0
    assert [fields["cause"] for level, _, fields in lines if level == "error"] == [found], "each error is said once"


DIES = {
    "ends": ("import os\ndef end(): os._exit(3)", "ended with status 3"),
    "is killed": ("import os\ndef end(): os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
    "segfault": ("import ctypes\ndef end(): ctypes.string_at(0)", "was ended by SIGSEGV"),
    "hangs": ("def end():\n    while True: pass", f"took more than {TIMEOUT_S:g} s"),
    "sleeps": ("import time\ndef end(): time.sleep(60)", f"took more than {TIMEOUT_S:g} s"),
    "hangs in C": ("def end(): 9**9**9", f"took more than {TIMEOUT_S:g} s"),
    "stops itself": ("import os\ndef end(): os.kill(os.getpid(), 19)", f"took more than {TIMEOUT_S:g} s"),
    "prints without end": ("def end():\n    while True: print('x' * 10_000)", f"took more than {TIMEOUT_S:g} s"),
    "prints one line without end": (
        "def end():\n    while True: print('x', end='')",
        f"took more than {TIMEOUT_S:g} s",
    ),
    "garbage": ("import os\ndef end(): os.write(3, b'\\xff' * 100)", "wrote garbage on its socket"),
    "unreadable": ("import os\ndef end(): os.write(3, b'\\0\\0\\0\\1x')", "wrote garbage on its socket"),
    "answers twice": (
        "import os\nfrom postroad.serve.policy_frames import *\ndef end(): os.write(3, frame(Told(())) * 2)",
        "wrote garbage on its socket",
    ),
    "answers out of order": (
        (
            "import os\nfrom postroad.serve.policy_frames import *\n"
            "def end():\n    os.write(3, frame(Loaded()))\n    os.read(3, 1)"
        ),
        "answered out of order",
    ),
    "closes its socket": (
        "import os, time\ndef end():\n    os.close(3)\n    time.sleep(60)",
        "closed its socket",
    ),
    "ignores signals in a child": (
        "import os, signal as s, time\ndef end():\n    s.signal(15, s.SIG_IGN)\n    os.fork()\n    time.sleep(60)",
        f"took more than {TIMEOUT_S:g} s",
    ),
}


@pytest.mark.parametrize("name", DIES)
async def test_a_process_that_is_no_more_is_a_doubt_and_the_next_question_is_answered(
    start: Start, lines: Lines, name: str
) -> None:
    source, how = DIES[name]
    judge = await start(f"{REFUSE_X}\n{source}\ndef mail(m): end()")
    process = judge._process
    assert process is not None
    began = time.monotonic()
    # Asked together: those behind the one that ends it go to the next process.
    verdict, refused, passed = await asyncio.gather(
        judge.ask(Facts(Stage.MAIL)), judge.ask(rcpt("x")), judge.ask(rcpt())
    )
    assert how in is_doubt(verdict, "policy hung" if how.startswith("took") else "policy failed")
    assert refused is not None
    assert refused.why == "refused by policy"
    assert passed is None
    assert time.monotonic() - began < 10
    assert any(level == "error" and how in fields.get("cause", "") for level, _, fields in lines)
    await until(process.ended.is_set)
    await until(lambda: not group(process.pid))


@pytest.mark.parametrize("stage", ["connect", "hello", "auth", "mail", "rcpt", "message"])
async def test_a_hang_in_each_stage_is_a_doubt(start: Start, stage: str) -> None:
    judge = await start(f"import time\ndef {stage}(r): time.sleep(60)", timeout_s=0.2)
    facts = message() if stage == "message" else Facts(Stage(stage))
    assert "took more than 0.2 s" in is_doubt(await judge.ask(facts), "policy hung")


async def test_kill_from_outside_between_questions_costs_nothing(start: Start) -> None:
    judge = await start(REFUSE_X)
    await works(judge)
    for _ in range(3):
        process = judge._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        await until(process.ended.is_set)
        await works(judge)
    assert count(judge, "postroad_policy_restarts_total") == 3
    assert count(judge, "postroad_policy_doubts_total") == 0


async def test_a_body_that_cannot_be_read_is_a_doubt(start: Start) -> None:
    judge = await start(REFUSE_X + "\ndef message(m): m.body()")

    async def broken() -> AsyncIterator[bytes]:
        raise StoreBroken("disk")
        yield b""

    found = is_doubt(await judge.ask(Facts(Stage.MESSAGE, content=Content(b"\r\n", 2, broken))), "policy failed")
    assert "StoreBroken" in found
    await works(judge)


async def test_what_it_prints_is_logged_with_a_limit(start: Start, lines: Lines) -> None:
    judge = await start(
        "import sys\nprint('loaded')\n"
        "def rcpt(r):\n    print('a\\tb\\x1b[31m', file=sys.stderr)\n    for n in range(1000): print('line', n)"
    )
    assert await judge.ask(rcpt()) is None
    judge.stop()
    await until(lambda: any("more than the log takes" in text for _, text, _ in lines))
    printed = [text for level, text, _ in lines if level == "info" and text.startswith("policy.py: ")]
    assert printed[:2] == ["policy.py: loaded", "policy.py: a b [31m"]
    assert len(printed) <= 2 * policy_process.OUTPUT_LINES_MAX
    left_out = sum(fields.get("lines_left_out", 0) for _, _, fields in lines)
    assert len(printed) + left_out == 1002


async def test_cancelled_sessions_leave_nothing_behind(start: Start) -> None:
    judge = await start(REFUSE_X + "\nimport time\ndef mail(m): time.sleep(0.2)")
    asked = [asyncio.create_task(judge.ask(Facts(Stage.MAIL))) for _ in range(20)]
    await asyncio.sleep(0.05)
    for task in asked:
        task.cancel()
    began = time.monotonic()
    await works(judge)
    assert time.monotonic() - began < 2, "those that nobody waits for are not asked"
    assert not judge._waiting


async def test_questions_wait_for_a_bounded_time_in_a_bounded_row(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_module, "WAITING_MAX", 5)
    monkeypatch.setattr(policy_module, "WAIT_MAX_S", 0.5)
    judge = await start("import time\ndef mail(m): time.sleep(0.4)")
    said = await asyncio.gather(*(judge.ask(Facts(Stage.MAIL)) for _ in range(8)))
    busy = [is_doubt(one, "policy busy") for one in said if one is not None]
    assert sum("questions wait" in one for one in busy) == 3
    assert sum("no turn" in one for one in busy) >= 2
    assert said[0] is None


# -- starting ----------------------------------------------------------------------------------------------------------

BROKEN = {
    "syntax": ("def rcpt(r):\n    return (\n", "line 2: SyntaxError"),
    "import": ("\nimport nothing_of_that_name\n", "line 2: ModuleNotFoundError"),
    "exit": ("import sys\nsys.exit('no')", "line 2: SystemExit: no"),
    "arguments": ("def rcpt(a, b): pass", "rcpt() must take one argument, a Rcpt"),
    "no function": ("rcpt = 5", "rcpt is not a function"),
    "bytes": ("\0", "SyntaxError"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_file_that_cannot_be_loaded_is_a_doubt_where_mail_can_wait(
    start: Start, lines: Lines, name: str
) -> None:
    source, why = BROKEN[name]
    judge = await start(source, ready=False)
    is_doubt(await judge.ask(rcpt()), "policy not running")
    assert await judge.ask(Facts(Stage.CONNECT)) is None
    assert await judge.ask(Facts(Stage.AUTH)) is None
    assert any(level == "error" and why in fields.get("cause", "") for level, _, fields in lines)


async def test_a_file_that_is_not_there_or_too_large(start: Start, lines: Lines, tmp_path: Path) -> None:
    judge = UserPolicy(Policy(file=str(tmp_path / "none.py")), Meters.private())
    judge.start()
    is_doubt(await judge.ask(rcpt()), "policy not running")
    judge.stop()
    await start("#" * (SOURCE_MAX + 1), ready=False)
    await until(lambda: any("more than 1,048,576 octets" in fields.get("cause", "") for _, _, fields in lines))
    assert any("No such file" in fields.get("cause", "") for _, _, fields in lines)


async def test_an_import_that_takes_too_long_is_ended(
    start: Start, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert policy_process.READY_MAX_S == 10
    monkeypatch.setattr(PolicyProcess.load, "__defaults__", (0.5,))
    judge = await start("import time\ntime.sleep(60)", ready=False)
    is_doubt(await judge.ask(rcpt()), "policy not running")
    assert any("took more than 0.5 s" in fields.get("cause", "") for _, _, fields in lines)


async def test_processes_that_end_at_once_are_started_less_and_less_often(start: Start, lines: Lines) -> None:
    judge = await start(
        "import os, threading\nthreading.Timer(0.02, os._exit, [1]).start()\ndef rcpt(r): pass", ready=False
    )
    await until(lambda: sum("pause_s" in fields for _, _, fields in lines) >= 3)
    pauses = [fields["pause_s"] for _, _, fields in lines if "pause_s" in fields]
    assert pauses[:3] == [0.2, 0.4, 0.8]
    assert judge._paused
    is_doubt(await judge.ask(rcpt()), "policy not running")


async def test_no_process_to_be_had_is_a_doubt(start: Start, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> subprocess.Popen[bytes]:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(policy_process, "_spawned", none_left)
    judge = await start(REFUSE_X, ready=False)
    is_doubt(await judge.ask(rcpt()), "policy not running")
    monkeypatch.undo()
    await until(judge._ready.is_set)
    await works(judge)


async def test_stop_ends_the_process_and_answers_who_waits(start: Start) -> None:
    judge = await start("import time\ndef mail(m): time.sleep(60)", timeout_s=5)
    asked = [asyncio.create_task(judge.ask(Facts(Stage.MAIL))) for _ in range(3)]
    await asyncio.sleep(0.05)
    judge.stop()
    for verdict in await asyncio.wait_for(asyncio.gather(*asked), 1.0):
        is_doubt(verdict, "policy not running")


# -- reload ------------------------------------------------------------------------------------------------------------


async def test_reload_takes_a_file_that_loads_and_keeps_the_old_one_until_then(
    start: Start, lines: Lines, tmp_path: Path
) -> None:
    judge = await start(REFUSE_X)
    old = judge._process
    assert old is not None
    (tmp_path / "policy.py").write_text("import time\ntime.sleep(0.3)\n" + REFUSE_X.replace("No.", "Never."))
    judge.reload()
    await works(judge)
    await until(lambda: judge._process is not old)
    verdict = await judge.ask(rcpt("x"))
    assert verdict is not None
    assert str(verdict.say) == "550 5.7.1 Never."
    await until(old.ended.is_set)
    assert count(judge, "postroad_policy_restarts_total") == 0
    assert ("info", "policy.py reloaded", {"stages": "rcpt"}) in lines


@pytest.mark.parametrize("name", BROKEN)
async def test_reload_of_a_broken_file_leaves_the_old_one_and_says_why(
    start: Start, lines: Lines, tmp_path: Path, name: str
) -> None:
    source, why = BROKEN[name]
    judge = await start(REFUSE_X)
    (tmp_path / "policy.py").write_text(source)
    judge.reload()
    await until(lambda: any(text.endswith("the one in use stays") for _, text, _ in lines))
    assert any(why in fields.get("cause", "") for _, _, fields in lines)
    await works(judge)
    # A process that has to be replaced runs what was loaded last, not what stands on the disk.
    process = judge._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    await until(process.ended.is_set)
    await works(judge)


async def test_reload_of_a_file_that_is_gone_leaves_the_old_one(start: Start, lines: Lines, tmp_path: Path) -> None:
    judge = await start(REFUSE_X)
    (tmp_path / "policy.py").unlink()
    judge.reload()
    await until(lambda: any("No such file" in fields.get("cause", "") for _, _, fields in lines))
    await works(judge)


async def test_reload_lets_an_open_question_be_answered_by_the_old_file(start: Start, tmp_path: Path) -> None:
    slow = (
        "import time\nfrom postroad.rules.policy import refuse\n"
        "def mail(m):\n    time.sleep(1)\n    return refuse('Old.')"
    )
    judge = await start(slow, timeout_s=5)
    old = judge._process
    assert old is not None
    asked = asyncio.create_task(judge.ask(Facts(Stage.MAIL)))
    behind = asyncio.create_task(judge.ask(Facts(Stage.MAIL)))
    await asyncio.sleep(0.05)
    (tmp_path / "policy.py").write_text("from postroad.rules.policy import refuse\ndef mail(m): return refuse('New.')")
    judge.reload()
    said = [verdict.say.text for verdict in await asyncio.gather(asked, behind) if verdict is not None and verdict.say]
    assert said == ["Old.", "New."]
    await until(old.ended.is_set)


async def test_reload_mends_a_file_that_could_not_be_loaded(start: Start, tmp_path: Path) -> None:
    judge = await start("import", ready=False)
    is_doubt(await judge.ask(rcpt()), "policy not running")
    (tmp_path / "policy.py").write_text(REFUSE_X)
    judge.reload()
    await until(judge._ready.is_set)
    await works(judge)


async def test_many_reloads_at_once_leave_one_process(start: Start, tmp_path: Path) -> None:
    judge = await start(REFUSE_X)
    for number in range(5):
        (tmp_path / "policy.py").write_text(f"# {number}\n{REFUSE_X}")
        judge.reload()
        await asyncio.sleep(0.03)
    await until(lambda: judge._source is not None and judge._source.startswith(b"# 4"))
    await works(judge)
    await until(lambda: len(children()) == 1)


async def test_a_stage_that_a_reload_took_away_is_not_asked(start: Start, tmp_path: Path) -> None:
    judge = await start("def mail(m): 1 / 0", timeout_s=5)
    (tmp_path / "policy.py").write_text(REFUSE_X)
    judge.reload()
    await until(lambda: judge._stages == frozenset(("rcpt",)))
    assert await judge.ask(Facts(Stage.MAIL)) is None
    await works(judge)


# -- the process alone -------------------------------------------------------------------------------------------------


async def test_it_ends_with_its_worker_even_inside_a_function(tmp_path: Path) -> None:
    (tmp_path / "policy.py").write_text("def rcpt(r):\n    while True: pass")
    worker = (
        "import asyncio, sys\nfrom postroad.config import Policy\nfrom postroad.flow.meters import Meters\n"
        "from postroad.serve.policy import UserPolicy\nfrom postroad.values.facts import Facts, Stage\n"
        "async def main():\n"
        f"    judge = UserPolicy(Policy(file={str(tmp_path / 'policy.py')!r}, timeout_s=9.0), Meters.private())\n"
        "    judge.start()\n    await judge._ready.wait()\n"
        "    asked = asyncio.create_task(judge.ask(Facts(Stage.RCPT)))\n"
        "    await asyncio.sleep(0.1)\n    print(judge._process.pid, flush=True)\n    await asked\n"
        "asyncio.run(main())"
    )
    with subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.kill()
    await until(lambda: not running(pid))


def group(leader: int) -> list[str]:
    """States of the living processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if number == str(leader) and state != "Z":
            found.append(state)
    return found


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_its_limits_are_set(tmp_path: Path) -> None:
    (tmp_path / "policy.py").write_text("def rcpt(r): pass")
    process, loaded = await examine(tmp_path / "policy.py")
    assert loaded == Loaded(stages=("rcpt",))
    assert process is not None
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert f"Max address space         {4 * 1024**3}" in limits
    assert "Max open files            256 " in limits
    assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"
    await process.close()


async def test_a_start_that_fails_half_way_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_descriptor(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio.get_running_loop(), "connect_read_pipe", no_descriptor)
    with pytest.raises(OSError, match="Too many open files"):
        await PolicyProcess.start()
    await asyncio.sleep(0)
    assert not children()


async def test_a_process_that_is_gone_cannot_be_asked(tmp_path: Path) -> None:
    process = await PolicyProcess.start()
    process.kill()
    with pytest.raises(PolicyEnded):
        await process.load(tmp_path / "policy.py", b"")


def test_all_of_it_on_uvloop(tmp_path: Path, lines: Lines) -> None:
    """The loop of a real worker, which knows its pipes and transports under other classes."""
    uvloop = pytest.importorskip("uvloop")
    (tmp_path / "policy.py").write_text(
        f"{REFUSE_X}\nimport os\ndef mail(m):\n    while True: print('x' * 1000)\ndef hello(h): os._exit(1)"
    )

    async def scenario() -> None:
        judge = UserPolicy(Policy(file=str(tmp_path / "policy.py"), timeout_s=TIMEOUT_S), Meters.private())
        judge.start()
        await works(judge)
        is_doubt(await judge.ask(Facts(Stage.MAIL)), "policy hung")
        await works(judge)
        is_doubt(await judge.ask(Facts(Stage.HELLO)), "policy failed")
        await works(judge)
        old = judge._process
        judge.reload()
        await until(lambda: judge._process is not old)
        await works(judge)
        judge.stop()
        await until(lambda: not children())

    uvloop.run(scenario())
    assert any(fields.get("lines_left_out") for _, _, fields in lines)


def test_frames_have_a_limit() -> None:
    with pytest.raises(ValueError, match="octets"):
        frame(Loaded(error="x" * FRAME_MAX))
    with pytest.raises(ValueError, match="octets"):
        list(Unframer().feed((FRAME_MAX + 1).to_bytes(4, "big")))
    octets = frame(Told(())) + frame(Loaded(("rcpt",)))
    cut = Unframer()
    assert [reply for at in range(len(octets)) for reply in cut.feed(octets[at : at + 1])] == [
        Told(()),
        Loaded(("rcpt",)),
    ]


def framed(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


def msgpack(**fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


@given(st.binary(max_size=64) | st.binary(max_size=64).map(framed))
@example(framed(b"\x82\xa4type\xa4told\xa1x" + b"\x91" * 100_000))
@example(
    framed(msgpack(type="told", opinions=[{"wish": "refuse", "text": "a\r\nb", "code": 550, "enhanced": "5.7.1"}]))
)
@example(framed(msgpack(type="told", opinions=[{"wish": "add_header", "name": "From", "text": "eve"}])))
@example(framed(msgpack(type="told", opinions=[{"wish": "forbid"}])))
def test_any_octets_are_replies_or_a_value_error(octets: bytes) -> None:
    """Opinions that the process may not have are found here too, where its own checks do not count."""
    try:
        for reply in Unframer().feed(octets):
            assert isinstance(reply, Loaded | Told | Failed | Want)
            assert not isinstance(reply, Told) or not reply.opinions
    except ValueError:
        pass
