"""One conversation with a milter: which steps are said, what an answer means where, and what is no answer."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from postroad.wire.milter.machine import MAX_CHANGES, MilterMachine
from postroad.wire.milter.packets import AddHeader, Answer, MilterError, Quarantine, ReplaceBody, packet
from postroad.wire.milter.words import Command, Steps, Word
from tests.fakes.milter import (
    ACCEPT,
    CONNECTION_FAILED,
    CONTINUE,
    DISCARD,
    PROGRESS,
    REJECT,
    SHUTDOWN,
    SKIP,
    TEMPFAIL,
    add,
    body,
    change,
    insert,
    reply,
    say,
)

OFFER = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\x30\x1f\xff\xff"


def negotiation(version: int = 6, actions: int = 0x1FF, steps: int = 0, lists: bytes = b"") -> bytes:
    return say("O", struct.pack(">III", version, actions, steps) + lists, end=b"")


def ready(version: int = 6, actions: int = 0x1FF, steps: int = 0, lists: bytes = b"") -> MilterMachine:
    machine = MilterMachine(body_max=100)
    assert machine.negotiate() == OFFER
    assert machine.waiting is Command.NEGOTIATE
    assert machine.receive(negotiation(version, actions, steps, lists)) == [Answer(Word.CONTINUE)]
    assert machine.waiting is None
    return machine


STEPS: dict[Command, Callable[[MilterMachine], bytes]] = {
    Command.CONNECT: lambda machine: machine.connect(b"[192.0.2.1]", b"4", 25, b"192.0.2.1"),
    Command.HELO: lambda machine: machine.hello(b"there"),
    Command.MAIL: lambda machine: machine.mail(b"<a@b.test>", b"SIZE=9"),
    Command.RCPT: lambda machine: machine.rcpt(b"<c@d.test>"),
    Command.DATA: lambda machine: machine.data(),
    Command.HEADER: lambda machine: machine.header(b"Subject", b" hi\n there"),
    Command.END_OF_HEADER: lambda machine: machine.end_of_header(),
    Command.BODY: lambda machine: machine.body(b"Hello\r\n"),
    Command.END_OF_BODY: lambda machine: machine.end_of_body(),
}
SAID = {
    Command.CONNECT: b"C[192.0.2.1]\x004\x00\x19192.0.2.1\0",
    Command.HELO: b"Hthere\0",
    Command.MAIL: b"M<a@b.test>\0SIZE=9\0",
    Command.RCPT: b"R<c@d.test>\0",
    Command.DATA: b"T",
    Command.HEADER: b"LSubject\0hi\n there\0",
    Command.END_OF_HEADER: b"N",
    Command.BODY: b"BHello\r\n",
    Command.END_OF_BODY: b"E",
}
UNTIL = list(STEPS)


def reach(machine: MilterMachine, command: Command) -> bytes:
    """Goes on with CONTINUE up to a command, which then waits; its octets."""
    for before in UNTIL[: UNTIL.index(command)]:
        if STEPS[before](machine) and machine.waiting:
            machine.receive(CONTINUE)
    return STEPS[command](machine)


@pytest.mark.parametrize("command", UNTIL)
def test_each_step_is_one_packet_and_waits_for_its_answer(command: Command) -> None:
    machine = ready()
    octets = reach(machine, command)
    assert octets == struct.pack(">I", len(SAID[command])) + SAID[command]
    assert machine.waiting is command
    assert machine.receive(PROGRESS + PROGRESS) == [Answer(Word.PROGRESS)] * 2
    assert machine.waiting is command
    assert machine.receive(CONTINUE) == [Answer(Word.CONTINUE)]
    assert machine.waiting is None


@pytest.mark.parametrize(
    "command, left_out, unanswered",
    [
        (Command.CONNECT, Steps.NO_CONNECT, Steps.UNANSWERED_CONNECT),
        (Command.HELO, Steps.NO_HELO, Steps.UNANSWERED_HELO),
        (Command.MAIL, Steps.NO_MAIL, Steps.UNANSWERED_MAIL),
        (Command.RCPT, Steps.NO_RCPT, Steps.UNANSWERED_RCPT),
        (Command.DATA, Steps.NO_DATA, Steps.UNANSWERED_DATA),
        (Command.HEADER, Steps.NO_HEADERS, Steps.UNANSWERED_HEADER),
        (Command.END_OF_HEADER, Steps.NO_END_OF_HEADER, Steps.UNANSWERED_END_OF_HEADER),
        (Command.BODY, Steps.NO_BODY, Steps.UNANSWERED_BODY),
    ],
)
def test_steps_can_be_left_out_or_unanswered(command: Command, left_out: Steps, unanswered: Steps) -> None:
    machine = ready(steps=left_out)
    assert reach(machine, command) == b""
    assert machine.waiting is None
    machine = ready(steps=unanswered)
    assert reach(machine, command).endswith(SAID[command])
    assert machine.waiting is None
    with pytest.raises(MilterError):
        machine.receive(CONTINUE)


@pytest.mark.parametrize("command", UNTIL)
@pytest.mark.parametrize("octets", [REJECT, TEMPFAIL, reply("550 5.7.1 no"), ACCEPT])
def test_answer_counts_for_the_session_the_recipient_or_the_message(command: Command, octets: bytes) -> None:
    """After it nothing more is said of what it was about; the recipient's refusal is the only one that ends nothing."""
    machine = ready()
    reach(machine, command)
    (answer,) = machine.receive(octets)
    assert answer.word in (Word.REJECT, Word.TEMPFAIL, Word.REPLY_CODE, Word.ACCEPT)
    goes_on = command is Command.RCPT and octets != ACCEPT
    assert machine.over is (command in (Command.CONNECT, Command.HELO))
    for later in UNTIL[UNTIL.index(command) + 1 :]:
        if later not in (Command.HELO, Command.MAIL):
            assert bool(STEPS[later](machine)) is goes_on
            if goes_on:
                machine.receive(CONTINUE)
    abort = machine.abort()
    assert bool(abort) is (not machine.over and not goes_on and command is not Command.END_OF_BODY)
    assert bool(machine.mail(b"<e@f.test>")) is not machine.over


@pytest.mark.parametrize("octets", [SHUTDOWN, CONNECTION_FAILED])
@pytest.mark.parametrize("command", UNTIL)
def test_hanging_up_ends_the_session_at_any_step(command: Command, octets: bytes) -> None:
    machine = ready()
    reach(machine, command)
    machine.receive(octets)
    assert machine.over
    assert machine.mail(b"<e@f.test>") == b""


def test_discard_ends_the_message() -> None:
    machine = ready()
    reach(machine, Command.RCPT)
    assert machine.receive(DISCARD) == [Answer(Word.DISCARD)]
    assert machine.data() == b""
    assert machine.abort()


def test_skip_spares_the_rest_of_one_kind_in_one_message() -> None:
    machine = ready(steps=Steps.SKIP)
    reach(machine, Command.BODY)
    assert machine.receive(SKIP) == [Answer(Word.SKIP)]
    assert not machine.wants(Command.BODY)
    assert machine.body(b"more") == b""
    assert machine.end_of_body()
    machine.receive(CONTINUE)
    machine.mail(b"<e@f.test>")
    machine.receive(CONTINUE)
    assert machine.wants(Command.BODY)


@pytest.mark.parametrize(
    "command, octets",
    [
        (Command.CONNECT, DISCARD), (Command.HELO, DISCARD), (Command.CONNECT, SKIP), (Command.MAIL, SKIP),
        (Command.END_OF_BODY, SKIP), (Command.CONNECT, add("A", "1")), (Command.MAIL, insert(0, "A", "1")),
        (Command.RCPT, say("-", "a@b.test")), (Command.BODY, body(b"x")), (Command.END_OF_HEADER, say("q", "x")),
        (Command.MAIL, negotiation()), (Command.MAIL, CONTINUE + CONTINUE), (Command.MAIL, CONTINUE + b"\0"),
        (Command.MAIL, say("?")), (Command.END_OF_BODY, add("A", "1") + ACCEPT + add("B", "2")),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_step_is_an_error(command: Command, octets: bytes) -> None:
    machine = ready(steps=Steps.SKIP)
    reach(machine, command)
    with pytest.raises(MilterError):
        machine.receive(octets)
    assert machine.changes == ()


def test_skip_that_was_not_agreed_on_is_an_error() -> None:
    machine = ready()
    reach(machine, Command.BODY)
    with pytest.raises(MilterError):
        machine.receive(SKIP)


@pytest.mark.parametrize(
    "octets, permitted",
    [
        (add("A", "1"), 0x001), (insert(1, "A", "1"), 0x001), (change(1, "A", "1"), 0x010), (body(b"x"), 0x002),
        (say("+", "a@b.test"), 0x004), (say("2", "a@b.test"), 0x080), (say("-", "a@b.test"), 0x008),
        (say("e", "a@b.test"), 0x040), (say("q", "odd"), 0x020),
    ],
)  # fmt: skip
def test_only_changes_that_were_agreed_on_are_taken(octets: bytes, permitted: int) -> None:
    machine = ready(actions=permitted)
    reach(machine, Command.END_OF_BODY)
    machine.receive(octets + CONTINUE)
    assert len(machine.changes) == 1
    machine = ready(actions=0x1FF & ~permitted & (~0x84 if permitted in (0x004, 0x080) else ~0))
    reach(machine, Command.END_OF_BODY)
    with pytest.raises(MilterError):
        machine.receive(octets)


def test_changes_come_with_the_answer_that_lets_the_message_pass() -> None:
    machine = ready()
    reach(machine, Command.END_OF_BODY)
    assert machine.receive(add("A", "1") + body(b"new ") + say("q", "odd")) == []
    assert machine.changes == ()
    assert machine.receive(PROGRESS + body(b"body\r\n") + ACCEPT)[-1] == Answer(Word.ACCEPT)
    assert list(machine.changes) == [AddHeader(b"A", b"1"), Quarantine("odd"), ReplaceBody(b"new body\r\n")]
    assert machine.mail(b"<e@f.test>")
    assert machine.changes == ()


@pytest.mark.parametrize("octets", [REJECT, TEMPFAIL, DISCARD, reply("451 4.7.1 later"), SHUTDOWN])
def test_refused_message_has_no_changes(octets: bytes) -> None:
    """Class E12."""
    machine = ready()
    reach(machine, Command.END_OF_BODY)
    machine.receive(add("A", "1") + body(b"new") + octets)
    assert machine.changes == ()


def test_changes_are_bounded() -> None:
    machine = ready()
    reach(machine, Command.END_OF_BODY)
    with pytest.raises(MilterError):
        machine.receive(body(b"x" * 60) + body(b"x" * 41))
    machine = ready()
    reach(machine, Command.END_OF_BODY)
    machine.receive(body(b"x" * 100) + add("A", "1") * MAX_CHANGES)
    with pytest.raises(MilterError):
        machine.receive(add("A", "1"))


@pytest.mark.parametrize("version, left_out", [(2, "DATA UNKNOWN"), (3, "DATA"), (4, ""), (5, ""), (6, "")])
def test_older_milter_hears_what_its_version_has(version: int, left_out: str) -> None:
    machine = ready(version, actions=0x3F, steps=int(Steps.UNANSWERED_CONNECT | Steps.NO_HELO))
    assert machine.wants(Command.DATA) is False  # no message is open
    machine.mail(b"<a@b.test>")
    machine.receive(CONTINUE)
    wanted = {command.name for command in Command if machine.wants(command)}
    assert {"DATA", "UNKNOWN"} - wanted == set(left_out.split())
    assert not machine.wants(Command.HELO)
    assert machine.negotiated is not None
    assert bool(machine.negotiated.steps & Steps.UNANSWERED_CONNECT) is (version == 6)


@pytest.mark.parametrize(
    "octets", [negotiation(7), negotiation(1), negotiation(actions=0x200), CONTINUE, add("A", "1"), reply("550 no")]
)
def test_impossible_negotiation_is_an_error(octets: bytes) -> None:
    machine = MilterMachine(body_max=0)
    machine.negotiate()
    with pytest.raises(MilterError):
        machine.receive(octets)


def test_version_2_is_offered_with_what_it_had() -> None:
    machine = MilterMachine(body_max=0, version=2)
    assert machine.negotiate() == b"\0\0\0\x0dO\0\0\0\x02\0\0\0\x3f\0\0\0\x7f"
    with pytest.raises(MilterError):
        machine.receive(negotiation(6))


def test_macros_are_told_before_their_step() -> None:
    machine = ready()
    machine.macros |= {"j": "mx.test", "i": "42", "{client_addr}": "192.0.2.1", "{tls_version}": "TLSv1.3"}
    assert reach(machine, Command.CONNECT).startswith(
        b"\0\0\0\x24DCj\0mx.test\0{client_addr}\x00192.0.2.1\0" + b"\0\0\0"
    )
    machine.receive(CONTINUE)
    assert machine.hello(b"there").startswith(b"\0\0\0\x18DH{tls_version}\0TLSv1.3\0")
    machine.receive(CONTINUE)
    assert b"DMi\x0042\0{tls_version}\0TLSv1.3\0" in machine.mail(b"<a@b.test>")


def test_milter_names_the_macros_it_wants() -> None:
    lists = b"\0\0\0\0{client_addr}\0" + b"\0\0\0\x02\0"
    machine = ready(lists=lists)
    machine.macros |= {"j": "mx.test", "i": "42", "{client_addr}": "192.0.2.1"}
    assert b"DC{client_addr}\x00192.0.2.1\0" in STEPS[Command.CONNECT](machine)
    machine.receive(CONTINUE)
    assert STEPS[Command.MAIL](machine) == b"\0\0\0\x13M<a@b.test>\0SIZE=9\0"


def test_blank_behind_the_colon_is_the_milters_when_agreed_on() -> None:
    machine = ready(steps=Steps.LEADING_SPACE)
    assert machine.leading_space
    assert reach(machine, Command.HEADER).endswith(b"Subject\0 hi\n there\0")


def test_longest_argument_is_what_was_agreed_on() -> None:
    for steps, longest in ((0, 65_535), (Steps.PACKETS_256K, 262_143), (Steps.PACKETS_1M, 1_048_575)):
        machine = ready(steps=int(steps))
        reach(machine, Command.DATA)
        machine.receive(CONTINUE)
        assert machine.header(b"A", b"x" * (longest - 3))
        machine.receive(CONTINUE)
        with pytest.raises(MilterError):
            machine.header(b"A", b"x" * (longest - 2))


def test_refused_recipients_are_told_on_request() -> None:
    machine = ready()
    reach(machine, Command.RCPT)
    machine.receive(CONTINUE)
    assert machine.rcpt(b"<no@d.test>", refused=True) == b""
    machine = ready(steps=Steps.REFUSED_RCPT)
    reach(machine, Command.RCPT)
    machine.receive(CONTINUE)
    assert machine.rcpt(b"<no@d.test>", refused=True)


def test_unknown_commands_are_told() -> None:
    machine = ready()
    assert machine.unknown(b"XYZZY 1") == b"\0\0\0\x09UXYZZY 1\0"
    assert machine.receive(reply("500 5.5.2 what"))[0].reply is not None
    assert not machine.over


def test_abort_comes_only_behind_a_message() -> None:
    machine = ready()
    assert machine.abort() == b""
    reach(machine, Command.RCPT)
    machine.receive(CONTINUE)
    assert machine.hello(b"again").startswith(packet(Command.ABORT))
    machine.receive(CONTINUE)
    assert machine.abort() == b""


def test_connection_serves_another_session() -> None:
    machine = ready()
    reach(machine, Command.CONNECT)
    machine.receive(ACCEPT)
    machine.macros["i"] = "1"
    assert machine.quit(another=True) == packet(Command.QUIT_FOR_ANOTHER)
    assert not machine.macros
    assert STEPS[Command.CONNECT](machine)
    machine.receive(CONTINUE)
    assert machine.quit() == packet(Command.QUIT)
    assert ready(version=4, actions=0).quit(another=True) == packet(Command.QUIT)
