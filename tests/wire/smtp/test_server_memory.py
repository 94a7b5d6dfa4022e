"""Class E8: before a login a connection holds at most 64 kB of what has not been read, whatever a stranger sends."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from postroad.values.reply import Reply
from postroad.wire.smtp.extensions import MX, SUBMISSION, SUBMISSIONS, Door
from postroad.wire.smtp.limits import DEFAULT_LIMITS
from postroad.wire.smtp.mode import Mode
from postroad.wire.smtp.server import ServerMachine
from tests.dialogs.runner import FakeSession

PIECE = 4_096
"""Octets that a driver reads at once; the last piece before `wants_input` says stop may lie above the limit."""
BESIDES = 16_384
"""Octets for everything else: the machine itself, refusals kept for the log, replies not yet taken."""


def held(machine: ServerMachine) -> int:
    """Octets in this machine's memory, without what all machines share."""
    shared = {id(machine._door), id(machine._limits), id(machine._wall_us), id(machine._hostname)}
    seen: set[int] = set(shared)
    total = 0
    waiting: list[Any] = [machine]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, Reply | type):
            continue
        seen.add(id(thing))
        total += sys.getsizeof(thing)
        if isinstance(thing, list | tuple | deque):
            waiting += thing
        for kind in type(thing).__mro__:
            slots = getattr(kind, "__slots__", ())
            waiting += [getattr(thing, name) for name in slots if hasattr(thing, name)]
    return total


def greeted(door: Door) -> tuple[ServerMachine, FakeSession]:
    machine = ServerMachine(hostname="mx.test", door=door)
    session = FakeSession(machine)
    machine.greet(Reply(220, "", "mx.test"))
    machine.receive(b"EHLO client.test\r\n")
    session.run()
    return machine, session


def say(door: Door, *lines: bytes) -> tuple[ServerMachine, FakeSession]:
    machine, session = greeted(door)
    for line in lines:
        machine.receive(line + b"\r\n")
        session.run()
    machine.take_output()
    return machine, session


TRANSACTION = (b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@x.test>")
CASES: dict[str, tuple[Callable[[], tuple[ServerMachine, FakeSession]], Mode, bytes]] = {
    "no line end": (lambda: say(MX), Mode.COMMAND, b"x" * PIECE),
    "a long MAIL": (lambda: say(MX, b"NOOP"), Mode.COMMAND, b"MAIL FROM:<" + b"x" * PIECE),
    "a long AUTH": (lambda: say(SUBMISSIONS), Mode.COMMAND, b"AUTH PLAIN " + b"A" * PIECE),
    "a long response": (lambda: say(SUBMISSIONS, b"AUTH PLAIN"), Mode.AUTH, b"A" * PIECE),
    "many small lines": (lambda: say(MX), Mode.COMMAND, b"\r\n" * (PIECE // 2)),
    "content": (lambda: say(MX, *TRANSACTION, b"DATA"), Mode.DATA, b"x" * 70 + b"\r\n.." + b"y" * PIECE),
    "content of dots": (lambda: say(MX, *TRANSACTION, b"DATA"), Mode.DATA, b"\r\n." * (PIECE // 3)),
    "a chunk": (lambda: say(MX, *TRANSACTION, b"BDAT 50000000"), Mode.CHUNK, b"x" * PIECE),
    "a chunk of nobody": (lambda: say(MX, b"BDAT 50000000"), Mode.CHUNK, b"x" * PIECE),
    "a handshake": (lambda: say(SUBMISSION, b"STARTTLS"), Mode.HANDSHAKE, b"\x16\x03\x01" + b"x" * PIECE),
}


@pytest.mark.parametrize("case", CASES)
def test_a_stranger_holds_at_most_64_kb(case: str) -> None:
    begin, mode, piece = CASES[case]
    machine, session = begin()
    assert machine.mode is mode
    session.stored.clear()
    worst = 0
    for _ in range(300):
        if not machine.wants_input:
            break
        machine.receive(piece[:PIECE])
        session.run()
        session._draft = b""
        worst = max(worst, held(machine))
        machine.take_output()
    assert worst <= DEFAULT_LIMITS.unread + PIECE + BESIDES
    if mode is not Mode.HANDSHAKE:
        # Where every octet is looked at as it comes, a line is the most that waits.
        assert worst <= 12_352 + PIECE + BESIDES


@pytest.mark.parametrize("piece", [b"NOOP\r\n" * 682, b"x" * PIECE, b"AUTH PLAIN " + b"A" * 4_085, b"\0" * PIECE])
def test_what_waits_behind_an_open_command_is_bounded(piece: bytes) -> None:
    machine, _ = greeted(MX)
    machine.receive(b"MAIL FROM:<a@x.test>\r\n")
    assert machine.next_event() is not None
    fed = 0
    while machine.wants_input:
        machine.receive(piece)
        assert machine.next_event() is None
        fed += len(piece)
    assert fed <= DEFAULT_LIMITS.unread + PIECE
    assert held(machine) <= DEFAULT_LIMITS.unread + PIECE + BESIDES


def test_nothing_is_held_of_an_early_talker_and_behind_the_end() -> None:
    machine = ServerMachine(hostname="mx.test", door=MX)
    machine.receive(b"x" * 1_000_000)
    assert machine.closed
    assert held(machine) <= BESIDES
    machine.receive(b"x" * 1_000_000)
    assert held(machine) <= BESIDES


def test_refusals_that_are_kept_for_the_log_are_bounded() -> None:
    machine, session = greeted(MX)
    for _ in range(200):
        machine.receive(b"RCPT TO:<" + b"x" * 400 + b"@x.test>\r\n")
        session.run()
        machine.take_output()
    assert held(machine) <= BESIDES


def test_the_measure_sees_what_is_held() -> None:
    """A test that cannot fail would be one that does not count what the machine holds."""
    machine, _ = greeted(MX)
    before = held(machine)
    machine._lines.receive(b"x" * 100_000)
    assert held(machine) - before >= 99_000
