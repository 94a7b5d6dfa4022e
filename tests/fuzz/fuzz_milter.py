"""Invariant: whatever a milter sends, cut anywhere, is understood alike or is one `MilterError` and changes nothing."""

from __future__ import annotations

from postroad.values.address import Address
from postroad.wire.milter.machine import MilterMachine
from postroad.wire.milter.message import EditedMessage
from postroad.wire.milter.packets import MilterError
from postroad.wire.milter.words import Command
from postroad.wire.mime.edit import EditedHeader
from postroad.wire.mime.headers import HeaderIndex

NEGOTIATED = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\x04\0"
SEEDS = (
    b"\x00\x05\0\0\0\x01c",
    b"\x09\x03\0\0\0\x05hA\x001\0\0\0\0\x01c",
    b"\x09\x02\0\0\0\x09i\0\0\0\x01A\x001\0\0\0\0\x0am\0\0\0\x01\x46\x00x\0\0\0\0\x01a",
    b"\x09\x07\0\0\0\x06bnew\r\n\0\0\0\x01p\0\0\0\x03qx\0\0\0\0\x01c",
    b"\x09\x04\0\0\0\x0c+<a@b.test>\0\0\0\0\x0c-<c@d.test>\0\0\0\0\x04e<>\0\0\0\0\x01c",
    b"\x03\x01\0\0\0\x0fy550 5.7.1 no%%\0",
    b"\x03\x01\0\0\0\x20y450-4.7.1 one\r\n450 4.7.1 two\0\0\0",
    b"\x0a\x03" + NEGOTIATED,
    b"\x0a\x03\0\0\0\x18O\0\0\0\x06\0\0\x01\x11\0\0\0\0\0\0\0\x02i j {x}\0",
)
WORDS = (
    b"\0\0\0\x01", b"\0", b"\r\n", b"\n ", b"\r", b"<", b">", b"@", b"550 ", b"550-", b"5.7.1", b"%",
    *(bytes((letter,)) for letter in b"+-2ehimbqpcadrtysf4O"),
)  # fmt: skip

STEPS = (
    Command.CONNECT, Command.HELO, Command.MAIL, Command.RCPT, Command.DATA, Command.HEADER, Command.END_OF_HEADER,
    Command.BODY, Command.UNKNOWN, Command.END_OF_BODY, Command.NEGOTIATE,
)  # fmt: skip
HEADER = b"From: a@b.test\r\nSubject: hi\r\n there\r\n\r\n"
BODY_MAX = 100
SENDER = Address.parse("a@b.test")


def check(octets: bytes) -> None:
    """The first octet says at which step the others come, the second where they are cut."""
    if len(octets) < 2:
        return
    step, size, rest = STEPS[octets[0] % len(STEPS)], octets[1] + 1, octets[2:]
    whole = outcome(step, [rest])
    assert outcome(step, [rest[at : at + size] for at in range(0, len(rest), size)]) == whole


def outcome(step: Command, pieces: list[bytes]) -> object:
    """What came of it: the answers and the changed message, or that the protocol was broken."""
    machine = waiting_at(step)
    answers = []
    try:
        for piece in pieces:
            answers += machine.receive(piece)
        first = EditedMessage(EditedHeader(HEADER), SENDER, (SENDER,))
        message = first.changed(machine.changes, leading_space=machine.negotiated is None or machine.leading_space)
    except MilterError:
        return "broken"
    sound(message)
    for answer in answers:
        assert answer.reply is None or 400 <= answer.reply.code < 600
        assert answer.reply is None or answer.reply.wire().count(b"\n") == len(answer.reply.lines) + 1
    kept = (message.header.block, message.header.above, message.body, message.added, message.removed, message.sender)
    return answers, kept, machine.waiting, machine.over


def sound(message: EditedMessage) -> None:
    """Nothing that a milter may ask for ends the header or the message early."""
    for block in (message.header.block, message.header.above):
        assert block.count(b"\r\n") == block.count(b"\r") == block.count(b"\n")
        assert b"\0" not in block
        assert all(HeaderIndex(block).names)
    assert message.header.block.endswith(b"\r\n\r\n") or message.header.block == b"\r\n"
    assert b"\r\n\r\n" not in message.header.above + message.header.block[:-1]
    body = message.body
    assert body is None or body.count(b"\r\n") == body.count(b"\r") == body.count(b"\n")
    assert body is None or len(body) <= 2 * BODY_MAX + 2


def waiting_at(step: Command) -> MilterMachine:
    """A machine that has come to a step and waits for its answer."""
    machine = MilterMachine(body_max=BODY_MAX)
    machine.negotiate()
    if step is Command.NEGOTIATE:
        return machine
    machine.receive(NEGOTIATED)
    says = {
        Command.CONNECT: lambda: machine.connect(b"host", b"4", 25, b"192.0.2.1"),
        Command.HELO: lambda: machine.hello(b"host"),
        Command.RCPT: lambda: machine.rcpt(b"<c@d.test>"),
        Command.DATA: machine.data,
        Command.HEADER: lambda: machine.header(b"A", b" 1"),
        Command.END_OF_HEADER: machine.end_of_header,
        Command.BODY: lambda: machine.body(b"x"),
        Command.UNKNOWN: lambda: machine.unknown(b"XYZZY"),
        Command.END_OF_BODY: machine.end_of_body,
    }
    if step not in (Command.CONNECT, Command.HELO):
        machine.mail(b"<a@b.test>")
        if step is Command.MAIL:
            return machine
        machine.receive(b"\0\0\0\x01c")
    says[step]()
    return machine
