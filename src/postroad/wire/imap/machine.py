"""IMAP from the server's side, without I/O: octets in, commands as events out, responses as octets out.

The machine reads lines and literals, knows the states of RFC 3501 section 3, parses every command, answers bad ones and
those that need no mailbox, and hands the rest to the driver.

Invariants: at most one command is open, and while it is nothing behind it is read (IDLE is the exception: it waits for
DONE). Memory is bounded: a command is at most `MAX_COMMAND` octets with its literals, and a message being appended is
handed on as it comes. What comes in the clear behind STARTTLS is dropped.

    >>> machine = ImapMachine(tls=True)
    >>> machine.receive(b"a LOGIN ada {6+}\\r\\nsecret\\r\\nb SELECT inbox\\r\\n")
    >>> machine.next_event()
    Login(user='ada')
    >>> machine.logged_in()
    >>> machine.next_event()
    Select(mailbox='INBOX', read_only=False, condstore=False, qresync=None)
    >>> machine.untagged(b"0 EXISTS")
    >>> machine.selected(read_only=False)
    >>> machine.take_output().endswith(b"* 0 EXISTS\\r\\nb OK [READ-WRITE] done\\r\\n"), machine.state
    (True, <State.SELECTED: 'selected'>)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Final

from postroad.wire.imap.commands import (
    AppendContent,
    AppendEnd,
    AppendFailed,
    AppendStart,
    Authenticate,
    Command,
    Event,
    Idle,
    IdleDone,
    List,
    SaslResponse,
    Select,
    StartTls,
)
from postroad.wire.imap.grammar import READERS, Refused, State, read_append, read_id
from postroad.wire.imap.responses import response_text
from postroad.wire.imap.syntax import BadSyntax, Cursor
from postroad.wire.lines import Fault, LineBuffer, LineError
from postroad.wire.sasl import MAX_ENCODED, SaslError, decode_base64, encode_base64, offered

__all__ = ["ImapMachine", "State"]

MAX_COMMAND: Final = 64 * 1024
"""Octets of one command with its literals, after login; a UID set of a few thousand ranges needs half of it."""

MAX_EARLY_COMMAND: Final = 8 * 1024
"""The same before login."""

MAX_NON_SYNC: Final = 4_096
"""Octets of a literal that comes without waiting (RFC 7888 section 5, LITERAL-)."""

MAX_BAD: Final = 10
"""Commands in a row that were answered BAD, after which we say BYE."""

MAX_LOGIN_TRIES: Final = 3

MAX_UNREAD: Final = 128 * 1024
"""Octets waiting behind an open command at which the driver stops reading."""

MAX_EARLY_UNREAD: Final = 32 * 1024
"""The same before login: with what one read may bring on top, 64 kB."""

EARLY_PATIENCE: Final = 60.0
"""Seconds for a command before login."""

PATIENCE: Final = 31 * 60.0
"""Seconds after login, also in IDLE. RFC 3501 section 5.4: an autologout timer "MUST be at least 30 minutes"."""

LITERAL_PATIENCE: Final = 300.0
"""Seconds for the next octets of a literal."""

_LITERAL_AT_END = re.compile(rb"\{(\d{1,20})(\+?)\}\Z")
_TAG = re.compile(rb"[^\x00-\x20\x7f-\xff(){%*\"\\+]{1,200}(?= |\Z)")
_WORD = re.compile(rb" ([A-Za-z][A-Za-z0-9\-]*)(?= |\Z)")
# What no IMAP client says first: HTTP, HTML, TLS and SSH in the clear.
_OTHER_PROTOCOL = re.compile(
    rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|TRACE|PATCH|PRI) (?:/|\*|https?:)|CONNECT \S+:\d|Host:|<|\x16\x03|SSH-"
)


class Mode(Enum):
    """What the next octets mean."""

    COMMAND = "command"
    LITERAL = "literal"
    SASL = "sasl"
    IDLE = "idle"
    MESSAGE = "message"
    MESSAGE_END = "message end"
    HANDSHAKE = "handshake"
    OVER = "over"


class _Wait(Enum):
    """More octets are needed."""

    WAIT = "wait"


_WAIT: Final = _Wait.WAIT


class ImapMachine:
    """One IMAP connection. The driver's part:

    `greet`; then `receive` what comes and pull `next_event` until it is None, answering each command; write
    `take_output` after that; stop when `closed`.
    """

    def __init__(
        self,
        *,
        tls: bool = False,
        tls_offered: bool = False,
        plaintext_login: bool = False,
        mechanisms: Sequence[str] = ("PLAIN",),
        extensions: Sequence[str] = ("IDLE", "UIDPLUS", "UNSELECT", "MOVE", "ENABLE", "CHILDREN"),
    ) -> None:
        """`plaintext_login`: passwords are taken without TLS too. `extensions`: what the driver itself carries out."""
        self.state = State.NOT_AUTHENTICATED
        self.tls = tls
        self.tag = ""
        """The tag of the open command; "*" when it had none."""
        self.read_only = False
        """Whether the selected mailbox was opened by EXAMINE, or `selected` said so."""
        self._tls_offered = tls_offered
        self._plaintext_login = plaintext_login
        self._mechanisms = tuple(mechanisms)
        self._extensions = tuple(extensions)
        self._lines = LineBuffer()
        self._output: list[bytes] = []
        self._mode = Mode.COMMAND
        self._open: Command | None = None
        self._pieces: list[bytes] = []
        self._length = 0
        self._literal_left = 0
        self._message_sync = False
        self._discarding = False
        self._ended = False
        self._idle_broken = False
        self._bad_in_row = 0
        self._failed_logins = 0

    # --- what the driver calls -----------------------------------------------------------------------------------

    def greet(self, text: str = "Postroad ready") -> None:
        """Say the first word, with the capabilities so that clients need not ask."""
        self.status("OK", text, self._capabilities())

    def receive(self, octets: bytes) -> None:
        """Take octets from the peer; dropped once closed, and between STARTTLS and the handshake."""
        if self._mode not in (Mode.OVER, Mode.HANDSHAKE):
            self._lines.receive(octets)

    def receive_eof(self) -> None:
        """The peer sends nothing more: what came whole is still carried out, then the session ends without a word."""
        self._ended = True

    def next_event(self) -> Event | None:
        """The next thing to do, or None when that waits for the peer or for an answer to the open command."""
        while self._mode is not Mode.OVER:
            if self._open is not None and self._mode is not Mode.IDLE:
                return None
            step = self._step()
            if step is _WAIT:
                if self._ended:
                    self._end()
                return None
            if step is not None:
                return step
        return None

    def take_output(self) -> bytes:
        """Octets to write to the peer; empty when there are none."""
        octets = b"".join(self._output)
        self._output.clear()
        return octets

    @property
    def closed(self) -> bool:
        """Whether the driver shall close the connection once the output is written."""
        return self._mode is Mode.OVER

    @property
    def wants_input(self) -> bool:
        """Whether the driver may go on reading; False when enough waits behind the open command."""
        most = MAX_EARLY_UNREAD if self.state is State.NOT_AUTHENTICATED else MAX_UNREAD
        return self._mode is not Mode.OVER and self._lines.unread < most

    @property
    def patience(self) -> float:
        """Seconds the driver may wait for the peer now; then `bye`."""
        if self._mode in (Mode.LITERAL, Mode.MESSAGE, Mode.MESSAGE_END):
            return LITERAL_PATIENCE
        return EARLY_PATIENCE if self.state is State.NOT_AUTHENTICATED else PATIENCE

    @property
    def idling(self) -> bool:
        """Whether the client waits in IDLE for untagged responses."""
        return self._mode is Mode.IDLE

    def untagged(self, response: bytes) -> None:
        """Send `* response`; the octets come from `responses` or are a literal text of the driver."""
        self._output.append(b"* " + response + b"\r\n")

    def send(self, octets: bytes) -> None:
        """Send octets as they are: pieces of a `responses.fetch_response`."""
        self._output.append(octets)

    def status(self, word: str, text: str, code: str = "") -> None:
        """Send an untagged OK, NO, BAD or BYE."""
        self.untagged(_status_line(word, text, code))

    def ok(self, text: str = "done", code: str = "") -> None:
        """Complete the open command: it has been carried out."""
        if self._idle_broken:
            self._idle_broken = False
            self.bad("expected DONE")
            return
        self._bad_in_row = 0
        self._complete("OK", text, code)

    def no(self, text: str, code: str = "") -> None:
        """Complete the open command: it was refused. A refused SELECT leaves no mailbox selected."""
        if isinstance(self._open, Select):
            self.unselected()
        if isinstance(self._open, AppendStart):
            self._refuse_message()
        self._bad_in_row = 0
        self._complete("NO", text, code)

    def bad(self, text: str) -> None:
        """Complete the open command: it cannot be understood. Ten in a row end the session."""
        if isinstance(self._open, AppendStart):
            self._refuse_message()
        self._complete("BAD", text)
        self._count_bad()

    def bye(self, text: str, code: str = "") -> None:
        """End the session from our side."""
        if self._mode is not Mode.OVER:
            self.status("BYE", text, code)
            self._end()

    def challenge(self, octets: bytes = b"") -> None:
        """Go on with AUTHENTICATE: the answer comes as `SaslResponse`."""
        assert isinstance(self._open, Authenticate | SaslResponse)
        self._open = None
        self._mode = Mode.SASL
        self._output.append(b"+ " + encode_base64(octets) + b"\r\n")

    def logged_in(self, text: str = "logged in") -> None:
        """The login holds; completes LOGIN or AUTHENTICATE."""
        self.state = State.AUTHENTICATED
        # RFC 3501 section 6.2.3: a server MAY include a CAPABILITY code, which saves the client a round trip.
        self.ok(text, self._capabilities())

    def login_failed(self, text: str = "wrong user or password", code: str = "AUTHENTICATIONFAILED") -> None:
        """The login does not hold (codes of RFC 5530); the third time ends the session."""
        self.no(text, code)
        self._failed_logins += 1
        if self._failed_logins >= MAX_LOGIN_TRIES:
            self.bye("too many failed logins")

    def selected(self, *, read_only: bool, text: str = "done") -> None:
        """Complete SELECT or EXAMINE, after the untagged responses about the mailbox."""
        self.state = State.SELECTED
        self.read_only = read_only
        self.ok(text, "READ-ONLY" if read_only else "READ-WRITE")

    def unselected(self) -> None:
        """No mailbox is selected any more (CLOSE, UNSELECT, or it is gone); completes nothing."""
        if self.state is State.SELECTED:
            self.state = State.AUTHENTICATED

    def accept_append(self) -> None:
        """Let the message of the open `AppendStart` come, as `AppendContent` events and an `AppendEnd`."""
        start = self._open
        assert isinstance(start, AppendStart)
        self._open = None
        self._begin_message(start.size, discarding=False)
        if self._message_sync:
            self._output.append(b"+ send the message\r\n")

    def begin_tls(self) -> None:
        """Say yes to STARTTLS and forget what came behind it in the clear."""
        assert isinstance(self._open, StartTls)
        self._complete("OK", "begin TLS")
        self._lines = LineBuffer()
        self._mode = Mode.HANDSHAKE

    def tls_started(self) -> None:
        """The handshake is done: what comes now came through TLS."""
        self._lines = LineBuffer()
        self._mode = Mode.COMMAND
        self.tls = True

    # --- reading -------------------------------------------------------------------------------------------------

    def _step(self) -> Event | _Wait | None:
        """Read one line or some octets of a literal: an event, None for none, or that more octets are needed."""
        if self._mode is Mode.LITERAL:
            return self._read_literal()
        if self._mode is Mode.MESSAGE:
            return self._read_message()
        if self._mode is Mode.HANDSHAKE:
            return _WAIT
        try:
            line = self._lines.next_line(self._line_limit())
        except LineError as error:
            return self._bad_line(error)
        if line is None:
            return _WAIT
        match self._mode:
            case Mode.IDLE:
                return self._end_idle(broken=line.upper() != b"DONE")
            case Mode.SASL:
                return self._sasl_line(line)
            case Mode.MESSAGE_END:
                return self._end_message(line)
            case _:
                return self._command_line(line)

    def _limit(self) -> int:
        return MAX_EARLY_COMMAND if self.state is State.NOT_AUTHENTICATED else MAX_COMMAND

    def _line_limit(self) -> int:
        return MAX_ENCODED + 2 if self._mode is Mode.SASL else max(self._limit() - self._length, 2)

    def _bad_line(self, error: LineError) -> Event | None:
        """A line that is none: too long or out of step (bare LF) ends the session, another fault is answered BAD."""
        failed = self._mode is Mode.MESSAGE_END and not self._discarding
        self._discarding = False
        if self._looks_foreign(error.before):
            self.bye("this is an IMAP server")
        elif self._mode is Mode.IDLE:
            self._lines.skip_line()
            return self._end_idle(broken=True)
        else:
            self.tag = self.tag if failed else "*"
            self._complete("BAD", error.fault.value)
            if error.fault in (Fault.TOO_LONG, Fault.BARE_LF):
                self.bye(error.fault.value)
            else:
                self._lines.skip_line()
                self._forget_command()
                self._count_bad()
        return AppendFailed() if failed else None

    def _looks_foreign(self, line: bytes) -> bool:
        return self.state is State.NOT_AUTHENTICATED and not self._pieces and bool(_OTHER_PROTOCOL.match(line))

    def _forget_command(self) -> None:
        self._pieces.clear()
        self._length = 0
        if self._mode is not Mode.OVER:
            self._mode = Mode.COMMAND

    def _command_line(self, line: bytes) -> Event | None:
        if not self._pieces and self._looks_foreign(line):
            self.bye("this is an IMAP server")
            return None
        announced = _LITERAL_AT_END.search(line)
        self._pieces.append(line)
        self._length += len(line) + 2
        if announced is not None:
            return self._announced(int(announced[1]), sync=not announced[2])
        octets = b"".join(self._pieces)
        self._forget_command()
        return self._command(octets)

    # --- literals ------------------------------------------------------------------------------------------------

    def _announced(self, size: int, sync: bool) -> Event | None:
        """The line ends by announcing a literal: read it, or the message of an APPEND, or refuse."""
        word = self._read_tag(self._pieces[0])
        if not sync and size > MAX_NON_SYNC:
            # RFC 7888 section 4: the server may close rather than read what it has to throw away.
            self.bad("literal too large to come without waiting")
            self.bye("literal too large")
            return None
        append = self._append_cursor() if word is not None and word[1].upper() == b"APPEND" else None
        if append is not None:
            self._forget_command()
            return self._append(append, size, sync)
        if size > self._limit() - self._length:
            self._refuse_literal(sync)
            return None
        self._pieces.append(b"\r\n")
        self._literal_left = size
        self._mode = Mode.LITERAL
        if sync:
            self._output.append(b"+ go on\r\n")
        return None

    def _refuse_literal(self, sync: bool) -> None:
        self._forget_command()
        self.bad("literal too large")
        if not sync or self.state is State.NOT_AUTHENTICATED:
            self.bye("literal too large")

    def _read_literal(self) -> _Wait | None:
        octets = self._lines.take(self._literal_left)
        if not octets and self._literal_left:
            return _WAIT
        self._literal_left -= len(octets)
        self._length += len(octets)
        self._pieces.append(octets)
        if self._literal_left == 0:
            self._mode = Mode.COMMAND
        return None

    # --- APPEND --------------------------------------------------------------------------------------------------

    def _append_cursor(self) -> Cursor | None:
        """The cursor behind APPEND, on octets without the announcement, if the message is what is announced."""
        octets = b"".join(self._pieces)
        word = self._read_tag(octets)
        if word is None or self.state is State.NOT_AUTHENTICATED:
            return None
        rest = octets[: octets.rindex(b"{")]
        # Right behind the word the mailbox itself is announced.
        return Cursor(rest, word.end()) if len(rest) > word.end() + 1 else None

    def _append(self, cursor: Cursor, size: int, sync: bool) -> Event | None:
        self._message_sync = sync
        try:
            self._open = read_append(cursor, size)
            return self._open
        except BadSyntax as error:
            self._discard_message(size, sync)
            self.bad(str(error))
        except Refused as error:
            self._discard_message(size, sync)
            self._complete("NO", error.text, error.code)
        return None

    def _refuse_message(self) -> None:
        assert isinstance(self._open, AppendStart)
        self._discard_message(self._open.size, self._message_sync)

    def _discard_message(self, size: int, sync: bool) -> None:
        # A client that waits will not send the literal now; one that does not is sending it.
        if not sync:
            self._begin_message(size, discarding=True)

    def _begin_message(self, size: int, discarding: bool) -> None:
        self._literal_left = size
        self._discarding = discarding
        self._mode = Mode.MESSAGE if size else Mode.MESSAGE_END

    def _read_message(self) -> Event | _Wait | None:
        octets = self._lines.take(self._literal_left)
        if not octets:
            return _WAIT
        self._literal_left -= len(octets)
        if self._literal_left == 0:
            self._mode = Mode.MESSAGE_END
        return None if self._discarding else AppendContent(octets)

    def _end_message(self, line: bytes) -> Event | None:
        self._mode = Mode.COMMAND
        if self._discarding:
            self._discarding = False
            return None
        if line:
            # MULTIAPPEND and CATENATE are not offered.
            self.bad("unexpected text behind the message")
            return AppendFailed()
        self._open = AppendEnd()
        return self._open

    # --- commands ------------------------------------------------------------------------------------------------

    def _read_tag(self, octets: bytes) -> re.Match[bytes] | None:
        """Set `tag` from the beginning of a command; the match of its first word, or None."""
        tag = _TAG.match(octets)
        self.tag = tag[0].decode("ascii") if tag else "*"
        return _WORD.match(octets, tag.end()) if tag else None

    def _command(self, octets: bytes) -> Event | None:
        word = self._read_tag(octets)
        if word is None:
            self.bad("expected a tag and a command")
            return None
        name, cursor = word[1].upper(), Cursor(octets, word.end())
        if name == b"UID":
            second = _WORD.match(octets, word.end())
            if second is not None:
                name, cursor = b"UID " + second[1].upper(), Cursor(octets, second.end())
        try:
            self._open = self._read_command(name, cursor)
        except BadSyntax as error:
            self.bad(str(error))
        except Refused as error:
            self._complete("NO", error.text, error.code)
        return self._open

    def _read_command(self, name: bytes, cursor: Cursor) -> Command | None:
        """The command for the driver, or None when it has been answered here."""
        own = _OWN.get(name)
        if own is not None:
            return own(self, cursor)
        reader = READERS.get(name)
        if reader is None:
            raise BadSyntax("unknown command")
        states, read = reader
        if self.state not in states:
            raise BadSyntax("not in this state")
        if name == b"LOGIN":
            self._check_login_allowed()
        command = read(cursor)
        cursor.end()
        if isinstance(command, Idle):
            self._begin_idle()
        if isinstance(command, List) and not command.pattern:
            self._list_root()
            return None
        return command

    def _list_root(self) -> None:
        # RFC 3501 section 6.3.8: an empty mailbox name asks for the hierarchy delimiter and the root.
        self.untagged(b'LIST (\\Noselect) "/" ""')
        self.ok()

    def _check_login_allowed(self) -> None:
        if not (self.tls or self._plaintext_login):
            # RFC 5530 section 3: PRIVACYREQUIRED
            raise Refused("TLS is needed first", "PRIVACYREQUIRED")

    def _capability(self, cursor: Cursor) -> None:
        cursor.end()
        self.untagged(self._capabilities().encode("ascii"))
        self.ok()

    def _id(self, cursor: Cursor) -> None:
        read_id(cursor)
        cursor.end()
        self.untagged(b'ID ("name" "Postroad")')
        self.ok()

    def _namespace(self, cursor: Cursor) -> None:
        cursor.end()
        if self.state is State.NOT_AUTHENTICATED:
            raise BadSyntax("not in this state")
        self.untagged(b'NAMESPACE (("" "/")) NIL NIL')
        self.ok()

    def _logout(self, cursor: Cursor) -> None:
        cursor.end()
        self.status("BYE", "see you")
        self.ok()
        self._end()

    def _starttls(self, cursor: Cursor) -> Command:
        cursor.end()
        if not self._may_start_tls():
            raise BadSyntax("STARTTLS is not possible here")
        return StartTls()

    def _may_start_tls(self) -> bool:
        return self._tls_offered and not self.tls and self.state is State.NOT_AUTHENTICATED

    def _authenticate(self, cursor: Cursor) -> Command:
        if self.state is not State.NOT_AUTHENTICATED:
            raise BadSyntax("not in this state")
        cursor.space()
        mechanism = cursor.atom().decode("ascii").upper()
        initial = None
        if cursor.skip(b" "):
            text = cursor.octets[cursor.at :]
            # RFC 4959 section 3: a single "=" is an empty initial response.
            initial = b"" if text == b"=" else _decode(text)
        else:
            cursor.end()
        self._check_login_allowed()
        if mechanism not in self._offered():
            raise Refused("mechanism is not offered")
        return Authenticate(mechanism, initial)

    def _offered(self) -> tuple[str, ...]:
        return offered(self._mechanisms, binding=self.tls)

    def _sasl_line(self, line: bytes) -> Event | None:
        self._mode = Mode.COMMAND
        if line == b"*":
            # RFC 3501 section 6.2.2: a line of a single "*" cancels, and the server MUST answer BAD.
            self.bad("cancelled")
            return None
        try:
            self._open = SaslResponse(_decode(line))
        except BadSyntax as error:
            self.bad(str(error))
        return self._open

    # --- IDLE ----------------------------------------------------------------------------------------------------

    def _begin_idle(self) -> None:
        self._mode = Mode.IDLE
        self._output.append(b"+ idling\r\n")

    def _end_idle(self, broken: bool) -> Event:
        self._mode = Mode.COMMAND
        self._idle_broken = broken
        self._open = IdleDone()
        return self._open

    # --- answers -------------------------------------------------------------------------------------------------

    def _complete(self, word: str, text: str, code: str = "") -> None:
        self._output.append(self.tag.encode("ascii") + b" " + _status_line(word, text, code) + b"\r\n")
        self._open = None

    def _count_bad(self) -> None:
        self._bad_in_row += 1
        if self._bad_in_row >= MAX_BAD:
            self.bye("too many bad commands")

    def _end(self) -> None:
        self._mode = Mode.OVER
        self.state = State.LOGOUT
        self._open = None
        self._pieces.clear()
        self._lines = LineBuffer()

    def _capabilities(self) -> str:
        """The CAPABILITY response for the state at hand."""
        words = ["CAPABILITY", "IMAP4rev1", "LITERAL-", "SASL-IR", "ID", "NAMESPACE"]
        if self.state is State.NOT_AUTHENTICATED:
            if self._may_start_tls():
                words.append("STARTTLS")
            if self.tls or self._plaintext_login:
                words += [f"AUTH={mechanism}" for mechanism in self._offered()]
            else:
                words.append("LOGINDISABLED")
        return " ".join([*words, *self._extensions])


_OWN: Final = {
    b"CAPABILITY": ImapMachine._capability,
    b"ID": ImapMachine._id,
    b"NAMESPACE": ImapMachine._namespace,
    b"LOGOUT": ImapMachine._logout,
    b"STARTTLS": ImapMachine._starttls,
    b"AUTHENTICATE": ImapMachine._authenticate,
}


def _decode(text: bytes) -> bytes:
    try:
        return decode_base64(text)
    except SaslError:
        raise BadSyntax("bad base64") from None


def _status_line(word: str, text: str, code: str) -> bytes:
    mark = f"[{code}] " if code else ""
    return f"{word} {mark}".encode("ascii", "replace") + response_text(text)
