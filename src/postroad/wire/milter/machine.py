"""One conversation with a milter, without I/O: what may be said next, and what an answer means there.

The caller asks for the octets of a step (`hello`, `mail`, ...), sends them, and while `waiting` is set feeds what comes
to `receive` until an answer is among it. A step that the milter has negotiated away, or that its earlier answers have
made pointless, has no octets and nothing to wait for.

Invariant: at most one command waits for its answer; a packet that comes while none does, or that does not fit the
command, is a `MilterError`; and `changes` is filled only by the answer that ends a message well. After a `MilterError`
the machine is of no further use.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

from postroad.wire.milter.packets import (
    CONTINUE,
    AddHeader,
    AddRecipient,
    Answer,
    Change,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    InsertHeader,
    MilterError,
    Negotiated,
    Quarantine,
    ReplaceBody,
    Said,
    Unpacketer,
    macros,
    packet,
    read_packet,
    texts,
)
from postroad.wire.milter.words import (
    LEFT_OUT,
    MACRO_STAGES,
    MACROS,
    MAX_CHUNK,
    MAX_PACKET,
    OFFERED,
    OLDEST,
    SINCE,
    UNANSWERED,
    USUAL_PACKET,
    VERSION,
    Actions,
    Command,
    Steps,
    Word,
)

MAX_CHANGES: Final = 2_000
"""Changes of one message, as many as a header may have lines; pieces of a body are bounded by their octets instead."""

_SESSION: Final = frozenset((Command.CONNECT, Command.HELO))
"""Their answer is about the connection; RCPT's is about the recipient, those of the others about the message."""
_MESSAGE: Final = frozenset(
    (
        Command.MAIL, Command.RCPT, Command.DATA, Command.HEADER, Command.END_OF_HEADER, Command.BODY,
        Command.END_OF_BODY,
    )
)  # fmt: skip
_SKIPPABLE: Final = frozenset((Command.RCPT, Command.HEADER, Command.BODY, Command.UNKNOWN))

_LETS_BE: Final = frozenset((Word.ACCEPT, Word.DISCARD))
REFUSALS: Final = frozenset((Word.REJECT, Word.TEMPFAIL, Word.REPLY_CODE))
"""Words that refuse what the command was about."""
HANG_UPS: Final = frozenset((Word.SHUTDOWN, Word.CONNECTION_FAILED))
"""Words that end the client's connection."""

_PERMITS: Final[dict[type, Actions]] = {
    AddHeader: Actions.ADD_HEADERS,
    InsertHeader: Actions.ADD_HEADERS,
    ChangeHeader: Actions.CHANGE_HEADERS,
    ChangeSender: Actions.CHANGE_SENDER,
    AddRecipient: Actions.ADD_RECIPIENTS | Actions.ADD_RECIPIENTS_PARAMS,
    DeleteRecipient: Actions.DELETE_RECIPIENTS,
    ReplaceBody: Actions.CHANGE_BODY,
    Quarantine: Actions.QUARANTINE,
}
"""What a milter must have agreed on (one of the flags suffices) before it may ask for a change."""


class MilterMachine:
    """The server's side of one connection to a milter. `body_max` bounds the octets of a body that replaces another."""

    __slots__ = (
        "_begun", "_body_max", "_longest", "_message_over", "_new_body", "_pending", "_session_over", "_skipped",
        "_unpacketer", "_version", "changes", "macros", "negotiated", "waiting",
    )  # fmt: skip

    def __init__(self, *, body_max: int, version: int = VERSION) -> None:
        self._version = version
        self._body_max = body_max
        self._unpacketer = Unpacketer()
        self._longest = USUAL_PACKET
        self._session_over = False
        self._message_over = True
        self._begun = False
        self._skipped: set[Command] = set()
        self._pending: list[Change] = []
        self._new_body: BytesIO | None = None
        self.negotiated: Negotiated | None = None
        """The milter's side, once it has come."""
        self.waiting: Command | None = None
        """The command whose answer must come before anything else may be said."""
        self.changes: tuple[Change, ...] = ()
        """What the milter asked for in the message that ended last, when it let it pass."""
        self.macros: dict[str, str] = {}
        """Values of macros by name, as they are at the next step."""

    # -- what is said ------------------------------------------------------------------------------------------------

    def negotiate(self) -> bytes:
        """The first packet: our version, all changes that may be asked for, all steps that may be left out."""
        actions, steps = OFFERED[self._version]
        self.waiting = Command.NEGOTIATE
        return packet(Command.NEGOTIATE, b"".join(n.to_bytes(4, "big") for n in (self._version, actions, steps)))

    def connect(self, host: bytes, family: bytes, port: int, address: bytes) -> bytes:
        """A client has connected: its name (or its address in brackets), "4" or "6", its port and its address."""
        return self._say(Command.CONNECT, texts(host) + family + port.to_bytes(2, "big") + texts(address))

    def hello(self, name: bytes) -> bytes:
        """What the client calls itself; may come again, and ends an open message."""
        return self.abort() + self._say(Command.HELO, texts(name))

    def mail(self, sender: bytes, *parameters: bytes) -> bytes:
        """A message begins: the sender in angle brackets and the ESMTP parameters."""
        self._message_over = False
        self._begun = True
        self._skipped.clear()
        self._forget()
        return self._say(Command.MAIL, texts(sender, *parameters))

    def rcpt(self, recipient: bytes, *, refused: bool = False) -> bytes:
        """A recipient in angle brackets; one that was `refused` is told only to those who asked for it."""
        if refused and not (self._steps & Steps.REFUSED_RCPT):
            return b""
        return self._say(Command.RCPT, texts(recipient))

    def data(self) -> bytes:
        """The envelope is complete."""
        return self._say(Command.DATA)

    def header(self, name: bytes, value: bytes) -> bytes:
        """One header field: its name, and what stands behind the colon, folded with LF and without its line end."""
        if not self.leading_space:
            # xxfi_header: one blank behind the colon is the server's, unless SMFIP_HDR_LEADSPC was agreed on.
            value = value.removeprefix(b" ")
        return self._say(Command.HEADER, texts(name, value))

    def end_of_header(self) -> bytes:
        """The header is complete."""
        return self._say(Command.END_OF_HEADER)

    def body(self, chunk: bytes | memoryview) -> bytes:
        """The next piece of the body, at most `MAX_CHUNK` octets."""
        assert len(chunk) <= MAX_CHUNK
        return self._say(Command.BODY, bytes(chunk))

    def end_of_body(self) -> bytes:
        """The message is complete; what the milter wants changed comes before its answer."""
        return self._say(Command.END_OF_BODY)

    def unknown(self, line: bytes) -> bytes:
        """A command line that SMTP does not know."""
        return self._say(Command.UNKNOWN, texts(line))

    def abort(self) -> bytes:
        """The message is over without an end; empty where none was begun since the last ABORT."""
        assert self.waiting is None
        begun, self._begun = self._begun, False
        self._message_over = True
        self._forget()
        return packet(Command.ABORT) if begun and not self._session_over else b""

    def quit(self, *, another: bool = False) -> bytes:
        """The session is over; with `another` the next one may `connect` here, for a milter of version 6."""
        if another and self.negotiated is not None and self.negotiated.version >= VERSION:
            self._session_over = False
            self._message_over = True
            self._begun = False
            self.macros.clear()
            return packet(Command.QUIT_FOR_ANOTHER)
        self._session_over = True
        return packet(Command.QUIT)

    def wants(self, command: Command) -> bool:
        """Whether the milter shall hear this command at all now: what it does without need not be prepared."""
        negotiated = self.negotiated
        assert negotiated is not None, "negotiated first"
        if self._session_over or command in self._skipped or (self._message_over and command in _MESSAGE):
            return False
        left_out = LEFT_OUT.get(command)
        if left_out is not None and negotiated.steps & left_out:
            return False
        return negotiated.version >= SINCE.get(command, OLDEST)

    @property
    def over(self) -> bool:
        """Whether the milter has had its last word about the whole session."""
        return self._session_over

    @property
    def leading_space(self) -> bool:
        """Whether header values come and go with the blank behind the colon."""
        return bool(self._steps & Steps.LEADING_SPACE)

    @property
    def _steps(self) -> Steps:
        assert self.negotiated is not None, "negotiated first"
        return self.negotiated.steps

    def _say(self, command: Command, arguments: bytes = b"") -> bytes:
        assert self.waiting is None, "one command at a time"
        if not self.wants(command):
            return b""
        if len(arguments) > self._longest:
            raise MilterError(f"{command.name} of {len(arguments)} octets is too long for this milter")
        unanswered = UNANSWERED.get(command)
        if unanswered is None or not self._steps & unanswered:
            self.waiting = command
        return self._told(command) + packet(command, arguments)

    def _told(self, command: Command) -> bytes:
        """The packet with the macros of this point; empty where there is none to tell."""
        stage = MACRO_STAGES.get(command)
        if stage is None:
            return b""
        assert self.negotiated is not None
        names = self.negotiated.macros.get(stage, MACROS[stage])
        known = {name: self.macros[name] for name in names if name in self.macros}
        return macros(command, known) if known else b""

    # -- what is heard -----------------------------------------------------------------------------------------------

    def receive(self, octets: bytes) -> list[Answer]:
        """The answers in these octets: any number of PROGRESS, then the one that ends the waiting. Raises MilterError.

        The end of the negotiation is CONTINUE.
        """
        try:
            answers = [answer for one in self._unpacketer.feed(octets) if (answer := self._hear(read_packet(one)))]
            if self.waiting is None and not self._unpacketer.empty:
                raise MilterError("octets that nothing asked for")
        except MilterError:
            self._forget()
            raise
        return answers

    def _hear(self, said: Said) -> Answer | None:
        command = self.waiting
        if command is None:
            raise MilterError("an answer that nothing asked for")
        if isinstance(said, Negotiated) or command is Command.NEGOTIATE:
            return self._agree(said, command)
        if not isinstance(said, Answer):
            self._keep(said, command)
            return None
        return said if said.word is Word.PROGRESS else self._answered(said, command)

    def _agree(self, said: Said, command: Command) -> Answer:
        if not isinstance(said, Negotiated) or command is not Command.NEGOTIATE:
            raise MilterError(f"{type(said).__name__} as an answer to {command.name}")
        actions, _ = OFFERED[self._version]
        if not OLDEST <= said.version <= self._version:
            raise MilterError(f"protocol version {said.version}")
        if int(said.actions) & ~int(actions):
            raise MilterError(f"wants to make changes that are not offered: {int(said.actions):#x}")
        steps = said.steps & OFFERED[said.version][1]
        self.negotiated = Negotiated(said.version, said.actions, steps, said.macros)
        if steps & Steps.PACKETS_1M:
            self._longest = MAX_PACKET - 1
        elif steps & Steps.PACKETS_256K:
            self._longest = 256 * 1024 - 1
        self.waiting = None
        return CONTINUE

    def _keep(self, change: Change, command: Command) -> None:
        """A change that is asked for; it counts once the message has ended well."""
        assert self.negotiated is not None
        if command is not Command.END_OF_BODY:
            raise MilterError(f"{type(change).__name__} as an answer to {command.name}")
        if not self.negotiated.actions & _PERMITS[type(change)]:
            raise MilterError(f"{type(change).__name__} was not agreed on")
        if isinstance(change, ReplaceBody):
            self._new_body = self._new_body or BytesIO()
            if self._new_body.tell() + len(change.chunk) > self._body_max:
                raise MilterError(f"a new body of more than {self._body_max} octets")
            self._new_body.write(change.chunk)
            return
        if len(self._pending) >= MAX_CHANGES:
            raise MilterError(f"more than {MAX_CHANGES} changes")
        self._pending.append(change)

    def _forget(self) -> None:
        self._pending.clear()
        self._new_body = None
        self.changes = ()

    def _answered(self, answer: Answer, command: Command) -> Answer:
        word = answer.word
        if word is Word.SKIP and not (command in _SKIPPABLE and self._steps & Steps.SKIP):
            raise MilterError(f"SKIP as an answer to {command.name}")
        if word is Word.DISCARD and command not in _MESSAGE:
            raise MilterError(f"DISCARD as an answer to {command.name}")
        self.waiting = None
        if word is Word.SKIP:
            self._skipped.add(command)
        elif word in HANG_UPS or (command in _SESSION and word is not Word.CONTINUE):
            self._session_over = True
        elif command in _MESSAGE and (word in _LETS_BE or (word in REFUSALS and command is not Command.RCPT)):
            self._message_over = True
        if command is Command.END_OF_BODY:
            self._end_message(word in (Word.CONTINUE, Word.ACCEPT))
        return answer

    def _end_message(self, well: bool) -> None:
        self._message_over, self._begun = True, False
        changes = self._pending[:]
        if self._new_body is not None:
            # BytesIO hands its buffer out without a copy: a body is never in memory twice.
            changes.append(ReplaceBody(self._new_body.getvalue()))
        self._forget()
        if well:
            self.changes = tuple(changes)
