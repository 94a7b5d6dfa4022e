"""Reads dialogs (see README.md beside this file) and replays them against `ServerMachine`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from postroad.values.reply import Reply
from postroad.wire.sasl import SaslError, decode_login, decode_plain
from postroad.wire.smtp import events
from postroad.wire.smtp.extensions import LMTP, MX, SUBMISSION, SUBMISSIONS, Door
from postroad.wire.smtp.limits import MachineLimits
from postroad.wire.smtp.server import ServerMachine

FOLDER = Path(__file__).parent / "server"
DOORS = {door.name: door for door in (MX, SUBMISSION, SUBMISSIONS, LMTP)}
NOW_US = 1_795_760_285_000_000
"""When every dialog takes place: 2026-11-27T06:18:05Z."""


@dataclass
class Flight:
    """What the client sends without waiting."""

    octets: bytes


@dataclass
class Expect:
    """One line of expectation: `kind` is its keyword, `text` what stands behind it, `line` its place in the file."""

    kind: str
    text: str
    line: int


@dataclass
class Dialog:
    name: str
    door: Door = MX
    limits: MachineLimits = field(default_factory=MachineLimits)
    cut: bool = True
    steps: list[Flight | Expect] = field(default_factory=list)


def dialogs() -> list[Path]:
    """Every dialog file, by name."""
    return sorted(FOLDER.glob("*.txt"))


def parse(path: Path) -> Dialog:
    """The dialog in a file."""
    dialog = Dialog(path.stem)
    for number, raw in enumerate(path.read_text("utf-8").split("\n"), 1):
        if not raw.strip() or raw.startswith("#"):
            continue
        word, _, text = raw.partition(" ")
        if word in ("C:", "C-"):
            octets = unescape(text) + (b"\r\n" if word == "C:" else b"")
            if dialog.steps and isinstance(dialog.steps[-1], Flight):
                dialog.steps[-1].octets += octets
            else:
                dialog.steps.append(Flight(octets))
        elif word in ("S:", "+", "-", "TLS", "HANGUP", "CLOSED", "STORED", "CONTENT"):
            dialog.steps.append(Expect(word, text, number))
        else:
            _setting(dialog, word, text)
    return dialog


def _setting(dialog: Dialog, word: str, text: str) -> None:
    if word == "door":
        dialog.door = DOORS[text]
    elif word == "offers":
        dialog.door = replace(dialog.door, **dict(map(_offer, text.split(" "))))
    elif word == "limits":
        dialog.limits = MachineLimits(**{name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", text)})
    elif word == "splits" and text == "none":
        dialog.cut = False
    else:
        raise ValueError(f"{dialog.name}: {word} {text} is no line of a dialog")


def _offer(word: str) -> tuple[str, Any]:
    """A field of `Door`: `xclient`, `future_release_s=3600` or `auth=PLAIN,LOGIN`."""
    name, _, value = word.partition("=")
    return name, True if not value else int(value) if value.isdigit() else tuple(value.split(","))


_escape = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([rnt0\\]))|\{([0-9]+)\*(.)\}")
_letters = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


def unescape(text: str) -> bytes:
    """The octets a client line stands for."""

    def octets(found: re.Match[bytes]) -> bytes:
        if found[1]:
            return bytes.fromhex(found[1].decode())
        return _letters[found[2]] if found[2] else found[4] * int(found[3])

    return _escape.sub(octets, text.encode())


class FakeSession:
    """Answers commands by the words in them, and keeps what it accepted."""

    def __init__(self, machine: ServerMachine) -> None:
        self.machine = machine
        self.stored: list[bytes] = []
        self.ends: list[events.EndOfStream] = []
        self.recipients = 0
        self._accepted: list[str] = []
        self._draft = b""
        self._login_user: bytes | None = None
        self._mechanism = ""

    def run(self) -> None:
        """Carry out all that can be carried out now."""
        while (event := self.machine.next_event()) is not None:
            match event:
                case events.Content():
                    self._draft += event.chunk
                case events.ContentRefused():
                    self._draft = b""
                case events.EndOfStream():
                    self.ends.append(event)
                    self._draft = b""
                case events.ContentEnd() if self.machine.lmtp:
                    self.machine.answer_all(self._each_content())
                case _:
                    self.machine.answer(self._answer(event))

    def _answer(self, command: events.Command) -> Reply:
        match command:
            case events.Hello():
                return Reply(250, "", "hello")
            case events.Mail() | events.Rset():
                self._draft = b""
                self._accepted = []
                return Reply(250, "2.1.0", "Ok")
            case events.Rcpt():
                return self._recipient(command.address.local)
            case events.DataStart():
                return Reply(354, "", "Go ahead")
            case events.ChunkEnd():
                return Reply(451, "4.3.0", "Failed") if b"FAIL" in self._draft else Reply(250, "2.0.0", "Ok")
            case events.ContentEnd():
                return self._content()
            case events.StartTls():
                return Reply(220, "2.0.0", "Go ahead")
            case events.Auth():
                self._mechanism = command.mechanism
                self._login_user = None
                return self._login(command.initial)
            case events.AuthResponse():
                return self._login(command.octets)
            case events.AuthCancel():
                return command.reply
            case events.XClient():
                refused = command.address == "192.0.2.66"
                return Reply(554, "5.7.1", "Go away") if refused else Reply(220, "", "mx.test ESMTP")
            case events.Quit():
                return Reply(221, "2.0.0", "Bye")
            case events.Verify():
                return Reply(252, "2.1.5", "Send some mail")
            case _:
                return Reply(250, "2.0.0", "Ok")

    def _recipient(self, local: str) -> Reply:
        if local == "nobody":
            return Reply(550, "5.1.1", "Unknown")
        if local == "later":
            return Reply(450, "4.7.1", "Later")
        self.recipients += 1
        self._accepted.append(local)
        return Reply(250, "2.1.5", "Ok")

    def _content(self) -> Reply:
        draft, self._draft = self._draft, b""
        if b"REFUSE" in draft:
            return Reply(554, "5.7.1", "Refused")
        self.stored.append(draft)
        return Reply(250, "2.0.0", "Ok")

    def _each_content(self) -> list[Reply]:
        reply = self._content()
        return [Reply(452, "4.2.2", "Full") if local == "full" else reply for local in self._accepted]

    def _login(self, response: bytes | None) -> Reply:
        if self._mechanism.startswith("SCRAM-"):
            return self._login_by_scram(response)
        if response is None:
            return Reply(334, "", "" if self._mechanism == "PLAIN" else "VXNlcm5hbWU6")
        try:
            if self._mechanism == "PLAIN":
                claim = decode_plain(response)
            elif self._login_user is None:
                self._login_user = response
                return Reply(334, "", "UGFzc3dvcmQ6")
            else:
                claim = decode_login(self._login_user, response)
        except SaslError:
            return Reply(501, "5.5.2", "Malformed")
        if (claim.user, claim.password) != ("user", "secret"):
            return Reply(535, "5.7.8", "Wrong")
        self.machine.authenticated(claim.user)
        return Reply(235, "2.7.0", "Ok")

    def _login_by_scram(self, response: bytes | None) -> Reply:
        """The steps of an exchange, not its mathematics: a challenge for "first", the proof of us for "final"."""
        match response:
            case None:
                return Reply(334, "", "")
            case b"first":
                return Reply(334, "", "c2VydmVyLWZpcnN0")
            case b"final":
                return Reply(334, "", "c2VydmVyLWZpbmFs")
            case b"":
                self.machine.authenticated("user")
                return Reply(235, "2.7.0", "Ok")
            case _:
                return Reply(535, "5.7.8", "Wrong")


Cutter = Callable[[int, bytes], list[bytes]]
"""Number of a flight and its octets to the pieces in which it arrives."""


def whole(_number: int, octets: bytes) -> list[bytes]:
    return [octets]


def single_octets(_number: int, octets: bytes) -> list[bytes]:
    return [octets[at : at + 1] for at in range(len(octets))]


def every_cut(dialog: Dialog) -> Iterator[Cutter]:
    """A cutter for every place where one flight of the dialog can be cut in two."""
    flights = [step.octets for step in dialog.steps if isinstance(step, Flight)]
    for flight, octets in enumerate(flights):
        for place in range(1, len(octets)):
            yield _cut_at(flight, place)


def _cut_at(flight: int, place: int) -> Cutter:
    return lambda number, octets: [octets[:place], octets[place:]] if number == flight else [octets]


_reply = re.compile(r"(?:(\d\d\d)-[^\r]*\r\n(?:\1-[^\r]*\r\n)*\1 [^\r]*|(\d\d\d) [^\r]*)\r\n")


def replay(dialog: Dialog, cutter: Cutter = whole) -> FakeSession:
    """Play a dialog against a machine; an AssertionError names the line of the file that did not come true."""
    machine = ServerMachine(hostname="mx.test", door=dialog.door, limits=dialog.limits, wall_us=lambda: NOW_US)
    session = FakeSession(machine)
    if isinstance(dialog.steps[0], Expect):
        machine.greet(Reply(220, "", "mx.test ESMTP"))
    output = machine.take_output().decode()
    reply = ""
    flights = 0
    for step in dialog.steps:
        if isinstance(step, Flight):
            assert output == "", f"{dialog.name}: not expected: {output!r}"
            for piece in cutter(flights, step.octets):
                machine.receive(piece)
                session.run()
            output = machine.take_output().decode()
            flights += 1
            continue
        where = f"{dialog.name}, line {step.line}: {step.kind} {step.text}"
        if step.kind == "S:":
            found = _reply.match(output)
            assert found is not None, f"{where}: there is only {output!r}"
            reply, output = found[0], output[found.end() :]
            last = reply.rstrip("\r\n").rsplit("\r\n", 1)[-1]
            assert _begins(last, step.text), f"{where}: {reply!r}"
        elif step.kind == "HANGUP":
            machine.receive_eof()
            session.run()
        elif step.kind == "TLS":
            machine.tls_started()
        else:
            _check(step, where, reply, session)
    assert output == "", f"{dialog.name}: not expected: {output!r}"
    assert machine.closed == _claims_the_end(dialog), f"{dialog.name}: closed or not"
    assert len(session.ends) == machine.closed, f"{dialog.name}: EndOfStream comes once"
    return session


def _begins(line: str, wanted: str) -> bool:
    return line == wanted or line.startswith((wanted + " ", wanted.ljust(4)))


def _check(step: Expect, where: str, reply: str, session: FakeSession) -> None:
    lines = [line[4:] for line in reply.split("\r\n")]
    if step.kind == "+":
        assert step.text in lines, f"{where}: {reply!r}"
    elif step.kind == "-":
        assert not any(line.startswith(step.text) for line in lines), f"{where}: {reply!r}"
    elif step.kind == "STORED":
        assert len(session.stored) == int(step.text), f"{where}: {session.stored!r}"
    elif step.kind == "CONTENT":
        assert session.stored[-1] == unescape(step.text), f"{where}: {session.stored[-1]!r}"
    else:
        assert session.machine.closed, where


def _claims_the_end(dialog: Dialog) -> bool:
    return any(isinstance(step, Expect) and step.kind in ("CLOSED", "HANGUP") for step in dialog.steps)
