"""The POP3 server as a machine without I/O: octets in, a few questions to the driver, octets out.

RFC 1939 (POP3), 2449 (CAPA, response codes, PIPELINING), 2595 (STLS), 5034 (AUTH with initial response), 3206 (AUTH and
SYS codes).

The machine keeps the session's view of the maildrop: it answers STAT, LIST, UIDL, DELE, RSET, NOOP and CAPA by itself.
The driver is asked only for what needs the world: a login, TLS, a message's content, the deletions at QUIT.

Invariants: at most one event is open, and while it is, later octets stay unread; nothing read before TLS or before
its start is used after it; a message is deleted only by the `Quit` event, which is raised only by a QUIT
command in the TRANSACTION state.

    >>> machine = Pop3Machine(tls_active=True)
    >>> machine.receive(b"USER ada\\r\\nPASS secret\\r\\nRETR 1\\r\\nQUIT\\r\\n")
    >>> machine.next_event()
    Login(user=b'ada')
    >>> machine.open_maildrop([MaildropEntry(12, b"uid-1")])
    >>> machine.next_event()
    Retrieve(number=1, top_lines=None)
    >>> machine.begin_message()
    >>> machine.send_header(b"A: b\\r\\n\\r\\n")
    >>> machine.send_body(b".x\\r\\n")
    True
    >>> machine.end_message()
    >>> machine.next_event()
    Quit(deleted=())
    >>> machine.finish_quit(complete=True)
    >>> machine.take_output().endswith(b"A: b\\r\\n\\r\\n..x\\r\\n.\\r\\n+OK bye\\r\\n"), machine.closed
    (True, True)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from postroad.wire.lines import Fault, LineBuffer, LineError
from postroad.wire.sasl import MAX_ENCODED, SaslError, decode_base64, encode_base64, offered

MAX_COMMAND_LINE: Final = 512
"""Octets of a command with CRLF. RFC 2449 section 4 gives 255; a long address and password together need more."""

MAX_UNREAD: Final = 32 * 1024
"""Octets waiting behind an open event at which the driver stops reading."""

MAX_LOGIN_TRIES: Final = 3
MAX_BAD_COMMANDS: Final = 10
"""Commands answered -ERR in a row after which we hang up."""

AUTHORIZATION_PATIENCE: Final = 60.0
"""Seconds for a command before login; a stranger holds a connection no longer."""

TRANSACTION_PATIENCE: Final = 600.0
"""Seconds for a command after login. RFC 1939 section 3: "such a timer MUST be of at least 10 minutes' duration"."""


class MaildropEntry(NamedTuple):
    """One message as this session sees it."""

    size: int
    """Octets, as LIST shows them: header and body with CRLF line ends, not dot-stuffed."""
    uid: bytes
    """The UIDL: 1 to 70 octets in 0x21-0x7E (RFC 1939 section 7), never used for another message."""


@dataclass(frozen=True, slots=True)
class Login:
    """USER and PASS were given. Answer with `open_maildrop` or `refuse_login`."""

    user: bytes
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authenticate:
    """AUTH was given. Answer with `challenge`, `open_maildrop` or `refuse_login`."""

    mechanism: str
    """Upper case."""
    initial: bytes | None = field(repr=False)
    """The decoded initial response; None when there was none."""


@dataclass(frozen=True, slots=True)
class SaslResponse:
    """The answer to a `challenge`, base64 undone. Answer as `Authenticate`."""

    octets: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StartTls:
    """STLS was given. Call `begin_tls`, send the output, do the handshake, then call `tls_started`."""


@dataclass(frozen=True, slots=True)
class Retrieve:
    """RETR or TOP of an existing message. Answer with the four message calls, or `refuse`."""

    number: int
    """1 for the first entry of the maildrop."""
    top_lines: int | None
    """For TOP: after how many body lines the machine stops; None for RETR."""


@dataclass(frozen=True, slots=True)
class Quit:
    """QUIT after login: delete these messages, all or none, then `finish_quit`."""

    deleted: tuple[int, ...]
    """Numbers as in `Retrieve`, ascending."""


Event = Login | Authenticate | SaslResponse | StartTls | Retrieve | Quit


class State(Enum):
    """RFC 1939 section 3; UPDATE lasts while the `Quit` event is open."""

    AUTHORIZATION = "AUTHORIZATION"
    TRANSACTION = "TRANSACTION"
    UPDATE = "UPDATE"


class Pop3Machine:
    """One POP3 session; see the module for its invariants and an example."""

    def __init__(
        self,
        *,
        tls_active: bool = False,
        tls_offered: bool = False,
        plaintext_login: bool = False,
        mechanisms: Sequence[str] = ("PLAIN",),
        greeting: str = "Postroad POP3 ready",
    ) -> None:
        """A session that has just been connected.

        `tls_offered`: STLS may be used. `plaintext_login`: passwords are taken without TLS too (loopback, tests).
        """
        self.state = State.AUTHORIZATION
        self.closed = False
        """Nothing more will be said or read; close once the output is sent."""
        self.tls_active = tls_active
        self._tls_offered = tls_offered
        self._plaintext_login = plaintext_login
        self._mechanisms = tuple(mechanisms)
        self._lines = LineBuffer()
        self._out: list[bytes] = []
        self._open: Event | None = None
        self._awaiting_sasl = False
        self._tls_pending = False
        self._ended = False
        self._user: bytes | None = None
        self._tries = 0
        self._bad = 0
        self._entries: Sequence[MaildropEntry] = ()
        self._deleted: set[int] = set()
        self._body_lines_left: int | None = None
        self._at_line_start = True
        self._ok(greeting)

    # -- what the driver reads

    @property
    def patience(self) -> float:
        """Seconds to wait for the peer's next octets; then close without a word (RFC 1939 section 3)."""
        return AUTHORIZATION_PATIENCE if self.state is State.AUTHORIZATION else TRANSACTION_PATIENCE

    @property
    def in_line(self) -> bool:
        """Whether octets have come that are no whole command yet."""
        return self._lines.unread > 0

    @property
    def logged_in(self) -> bool:
        """Whether a maildrop is open."""
        return self.state is not State.AUTHORIZATION

    def receive(self, octets: bytes) -> None:
        """Take what the peer sent; ignored once closed, and between STLS and the handshake (RFC 2595 section 4)."""
        if not self.closed and not self._tls_pending:
            self._lines.receive(octets)

    def receive_eof(self) -> None:
        """The peer sends nothing more: what came before is still carried out, then the session ends."""
        self._ended = True

    @property
    def wants_input(self) -> bool:
        """Whether the driver may go on reading; False when enough waits behind the open event."""
        return not self.closed and self._lines.unread < MAX_UNREAD

    def take_output(self) -> bytes:
        """Everything to be sent now."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    def next_event(self) -> Event | None:
        """The next thing the driver must do; None when more octets are needed, an event is open, or all is over."""
        while not self.closed and self._open is None and not self._tls_pending:
            try:
                line = self._lines.next_line(MAX_ENCODED + 2 if self._awaiting_sasl else MAX_COMMAND_LINE)
            except LineError as error:
                self._bad_line(error.fault)
                continue
            if line is None:
                self.closed = self._ended
                return None
            self._open = self._sasl_line(line) if self._awaiting_sasl else self._command(line)
            if self._open is not None:
                return self._open
        return None

    # -- what the driver answers

    def open_maildrop(self, entries: Sequence[MaildropEntry]) -> None:
        """The login holds: the session now has these messages, in this order, whatever arrives later."""
        self._end(Login, Authenticate, SaslResponse)
        self.state = State.TRANSACTION
        self._entries = entries
        self._ok(f"{len(entries)} messages")

    def refuse_login(self, text: str = "wrong user or password", code: str = "AUTH") -> None:
        """The login does not hold; after `MAX_LOGIN_TRIES` the session ends.

        `code` is AUTH, SYS/TEMP, SYS/PERM (RFC 3206), IN-USE or LOGIN-DELAY (RFC 2449 section 8.1).
        """
        self._end(Login, Authenticate, SaslResponse)
        self._user = None
        self._error(text, code)
        self._tries += 1
        if self._tries >= MAX_LOGIN_TRIES:
            self.closed = True

    def challenge(self, octets: bytes = b"") -> None:
        """Send a SASL challenge; the answer comes as `SaslResponse`."""
        self._end(Authenticate, SaslResponse)
        self._awaiting_sasl = True
        self._out.append(b"+ " + encode_base64(octets) + b"\r\n")

    def begin_tls(self) -> None:
        """Say yes to STLS and forget whatever came after it in clear text."""
        self._end(StartTls)
        self._ok("begin TLS")
        self._tls_pending = True
        # RFC 2595 section 4: knowledge obtained before TLS must be discarded; the same goes for octets.
        self._lines.take_all()
        self._user = None

    def tls_started(self) -> None:
        """The handshake is done; from here on octets are what came through TLS."""
        self._tls_pending = False
        self.tls_active = True

    def begin_message(self) -> None:
        """The message of the open `Retrieve` exists and its content follows."""
        retrieve = self._open
        assert isinstance(retrieve, Retrieve)
        self._body_lines_left = retrieve.top_lines
        self._at_line_start = True
        self._ok(f"{self._entries[retrieve.number - 1].size} octets" if retrieve.top_lines is None else "top follows")

    def send_header(self, octets: bytes) -> None:
        """Content that TOP always shows: the header with its blank line, in any number of pieces."""
        if octets:
            self._out.append(self._stuffed(octets))

    def send_body(self, octets: bytes) -> bool:
        """A piece of the body, any size; False when no more of it is wanted (TOP has its lines)."""
        left = self._body_lines_left
        if left is not None:
            octets, self._body_lines_left = _first_lines(octets, left)
        if octets:
            self._out.append(self._stuffed(octets))
        return self._body_lines_left is None or self._body_lines_left > 0

    def end_message(self) -> None:
        """The content is complete: the closing dot follows, after a CRLF if the message had none at its end."""
        self._end(Retrieve)
        self._out.append(b".\r\n" if self._at_line_start else b"\r\n.\r\n")

    def refuse(self, text: str, code: str = "SYS/TEMP") -> None:
        """The open command cannot be carried out now; the session goes on."""
        self._end(Retrieve, StartTls)
        self._error(text, code)

    def finish_quit(self, complete: bool) -> None:
        """The deletions of `Quit` are durable (`complete`) or none was made; the session ends."""
        self._end(Quit)
        if complete:
            self._ok("bye")
        else:
            # RFC 1939 section 6: "some deleted messages not removed"
            self._error("deleted messages not removed", "SYS/TEMP")
        self.closed = True

    def shut_down(self, text: str = "server is closing") -> None:
        """End the session from our side; nothing is deleted."""
        if not self.closed:
            self._error(text, "SYS/TEMP")
            self.closed = True

    # -- lines

    def _end(self, *kinds: type[Event]) -> None:
        assert isinstance(self._open, kinds), f"no such event is open: {self._open!r}"
        self._open = None

    def _ok(self, text: str = "") -> None:
        self._bad = 0
        self._out.append(f"+OK {text}".rstrip().encode("ascii", "replace") + b"\r\n")

    def _error(self, text: str, code: str = "") -> None:
        mark = f"[{code}] " if code else ""
        octets = f"-ERR {mark}{text}".encode("ascii", "replace").translate(None, b"\r\n\0")
        self._out.append(octets[: MAX_COMMAND_LINE - 2] + b"\r\n")

    def _bad_command(self, text: str) -> None:
        self._error(text)
        self._bad += 1
        if self._bad >= MAX_BAD_COMMANDS:
            self._error("too many bad commands")
            self.closed = True

    def _bad_line(self, fault: Fault) -> None:
        self._awaiting_sasl = False
        self._bad_command(fault.value)
        if fault is Fault.BARE_LF:
            # Whoever ends lines with LF alone would read our answers out of step.
            self.closed = True
        else:
            self._lines.skip_line()

    def _multiline(self, text: str, lines: Sequence[bytes]) -> None:
        self._ok(text)
        self._out.append(b"".join(line + b"\r\n" for line in lines) + b".\r\n")

    def _stuffed(self, octets: bytes) -> bytes:
        """Dots doubled at line starts (RFC 1939 section 3), also after a bare LF, lest a lax reader stop there."""
        first = b"." if self._at_line_start and octets.startswith(b".") else b""
        self._at_line_start = octets.endswith(b"\n")
        return first + octets.replace(b"\n.", b"\n..")

    # -- commands

    def _command(self, line: bytes) -> Event | None:
        word, _, argument = line.partition(b" ")
        verb = word.upper()
        command = _COMMANDS.get(verb)
        if command is None:
            self._bad_command("unknown command")
            return None
        allowed, act = command
        if self.state not in allowed:
            self._bad_command("not in this state")
            return None
        return act(self, argument)

    def _passwords_allowed(self) -> bool:
        return self.tls_active or self._plaintext_login

    def _capa(self, argument: bytes) -> Event | None:
        lines = [b"TOP", b"UIDL", b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING", b"IMPLEMENTATION Postroad"]
        if self._may_start_tls():
            lines.append(b"STLS")
        if self._passwords_allowed():
            lines.append(b"USER")
            if self._mechanisms:
                lines.append(b"SASL " + " ".join(self._offered()).encode("ascii"))
        self._multiline("capabilities follow", lines)
        return None

    def _may_start_tls(self) -> bool:
        return self._tls_offered and not self.tls_active and self.state is State.AUTHORIZATION

    def _stls(self, argument: bytes) -> Event | None:
        if argument or not self._may_start_tls():
            self._bad_command("STLS not possible here")
            return None
        return StartTls()

    def _user_name(self, argument: bytes) -> Event | None:
        if not self._passwords_allowed():
            self._bad_command("use STLS first")
        elif not argument:
            self._bad_command("USER needs a name")
        else:
            self._user = argument
            self._ok("now the password")
        return None

    def _password(self, argument: bytes) -> Event | None:
        if self._user is None:
            self._bad_command("USER first")
            return None
        # RFC 1939 section 7: a server "may treat spaces in the argument as part of the password".
        user, self._user = self._user, None
        return Login(user, argument)

    def _auth(self, argument: bytes) -> Event | None:
        name, _, initial = argument.partition(b" ")
        mechanism = name.decode("ascii", "replace").upper()
        if not self._passwords_allowed():
            self._bad_command("use STLS first")
        elif not mechanism:
            self._multiline("mechanisms follow", [name.encode("ascii") for name in self._offered()])
        elif mechanism not in self._offered():
            self._bad_command("unknown mechanism")
        elif not initial:
            return Authenticate(mechanism, None)
        elif initial == b"=":
            # RFC 5034 section 4: a single "=" is an empty initial response.
            return Authenticate(mechanism, b"")
        else:
            octets = _base64(initial)
            if octets is not None:
                return Authenticate(mechanism, octets)
            self._bad_command("bad base64")
        return None

    def _offered(self) -> tuple[str, ...]:
        return offered(self._mechanisms, binding=self.tls_active)

    def _sasl_line(self, line: bytes) -> Event | None:
        self._awaiting_sasl = False
        octets = None if line == b"*" else _base64(line)
        if octets is None:
            self._bad_command("authentication cancelled" if line == b"*" else "bad base64")
            return None
        return SaslResponse(octets)

    def _quit(self, argument: bytes) -> Event | None:
        if self.state is State.AUTHORIZATION:
            self._ok("bye")
            self.closed = True
            return None
        self.state = State.UPDATE
        return Quit(tuple(sorted(self._deleted)))

    def _noop(self, argument: bytes) -> Event | None:
        self._ok()
        return None

    def _stat(self, argument: bytes) -> Event | None:
        kept = [entry.size for number, entry in enumerate(self._entries, 1) if number not in self._deleted]
        self._ok(f"{len(kept)} {sum(kept)}")
        return None

    def _list(self, argument: bytes) -> Event | None:
        self._listing(argument, lambda entry: b"%d" % entry.size)
        return None

    def _uidl(self, argument: bytes) -> Event | None:
        self._listing(argument, lambda entry: entry.uid)
        return None

    def _listing(self, argument: bytes, show: Callable[[MaildropEntry], bytes]) -> None:
        if argument:
            number = self._message_number(argument)
            if number is not None:
                self._ok(f"{number} {show(self._entries[number - 1]).decode('ascii', 'replace')}")
            return
        lines = [
            b"%d %b" % (number, show(entry))
            for number, entry in enumerate(self._entries, 1)
            if number not in self._deleted
        ]
        self._multiline(f"{len(lines)} messages", lines)

    def _message_number(self, argument: bytes) -> int | None:
        """The number of a message that is there and not deleted; otherwise the -ERR is said."""
        number = _number(argument)
        if number is None:
            self._bad_command("a message number is needed")
        elif not 1 <= number <= len(self._entries) or number in self._deleted:
            self._bad_command("no such message")
        else:
            return number
        return None

    def _retr(self, argument: bytes) -> Event | None:
        number = self._message_number(argument)
        return None if number is None else Retrieve(number, None)

    def _top(self, argument: bytes) -> Event | None:
        which, _, count = argument.partition(b" ")
        lines = _number(count)
        if lines is None:
            self._bad_command("TOP needs a message number and a line count")
            return None
        number = self._message_number(which)
        return None if number is None else Retrieve(number, lines)

    def _dele(self, argument: bytes) -> Event | None:
        number = self._message_number(argument)
        if number is not None:
            self._deleted.add(number)
            self._ok("marked")
        return None

    def _rset(self, argument: bytes) -> Event | None:
        self._deleted.clear()
        self._ok(f"{len(self._entries)} messages")
        return None


_BEFORE = frozenset({State.AUTHORIZATION})
_AFTER = frozenset({State.TRANSACTION})
_BOTH = _BEFORE | _AFTER

_COMMANDS: Final[dict[bytes, tuple[frozenset[State], Callable[[Pop3Machine, bytes], Event | None]]]] = {
    b"CAPA": (_BOTH, Pop3Machine._capa),
    b"STLS": (_BEFORE, Pop3Machine._stls),
    b"USER": (_BEFORE, Pop3Machine._user_name),
    b"PASS": (_BEFORE, Pop3Machine._password),
    b"AUTH": (_BEFORE, Pop3Machine._auth),
    b"QUIT": (_BOTH, Pop3Machine._quit),
    b"NOOP": (_AFTER, Pop3Machine._noop),
    b"STAT": (_AFTER, Pop3Machine._stat),
    b"LIST": (_AFTER, Pop3Machine._list),
    b"UIDL": (_AFTER, Pop3Machine._uidl),
    b"RETR": (_AFTER, Pop3Machine._retr),
    b"TOP": (_AFTER, Pop3Machine._top),
    b"DELE": (_AFTER, Pop3Machine._dele),
    b"RSET": (_AFTER, Pop3Machine._rset),
}


def _number(digits: bytes) -> int | None:
    digits = digits.strip(b" ")
    return int(digits) if digits.isdigit() and len(digits) <= 10 else None


def _base64(text: bytes) -> bytes | None:
    try:
        return decode_base64(text)
    except SaslError:
        return None


def _first_lines(octets: bytes, lines: int) -> tuple[bytes, int]:
    """As much of `octets` as `lines` lines take, and how many lines are left after it."""
    here = octets.count(b"\n")
    if here < lines or (here == lines and octets.endswith(b"\n")):
        return octets, lines - here
    end = 0
    for _ in range(lines):
        end = octets.find(b"\n", end) + 1
    return octets[:end], 0
