"""SMTP from the server's side, without I/O: octets in, commands as events out, replies as octets out.

The machine is the "check" of check, ask, do: syntax, sequence and limits are decided and answered here, and only a
command that could be carried out becomes an event.

Invariant: at most one command is open. While it is open no octet behind it is looked at, so pipelined commands are
answered in order, a slow driver slows the peer, and nothing sent in the clear is read after STARTTLS.
Every end of a transaction, accepted or refused, throws the one object away that holds all of it.

All commands stand in one file, of more lines than most, because they share that invariant and one state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from postroad.values.errors import PeerError
from postroad.values.reply import Reply
from postroad.wire.data import TOO_BIG, ChunkReader, DataReader
from postroad.wire.lines import Fault, LineBuffer, LineError
from postroad.wire.sasl import MAX_ENCODED, SaslError, decode_base64
from postroad.wire.smtp import grammar, refusals
from postroad.wire.smtp.commands import initial_response, is_http, read_mail, read_rcpt, refuse_argument
from postroad.wire.smtp.events import (
    Auth,
    AuthCancel,
    AuthResponse,
    ChunkEnd,
    Command,
    Content,
    ContentEnd,
    ContentRefused,
    DataStart,
    EndOfStream,
    Event,
    Hello,
    Help,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Verify,
    XClient,
)
from postroad.wire.smtp.extensions import Door, ehlo_wire
from postroad.wire.smtp.grammar import MAX_COMMAND, MAX_LONG_COMMAND, CommandError
from postroad.wire.smtp.limits import DEFAULT_LIMITS, MAX_AUTH_COMMAND, MAX_HELLO_NAME, MachineLimits
from postroad.wire.smtp.mode import Mode
from postroad.wire.smtp.transaction import Transaction
from postroad.wire.smtp.xclient import read_xclient

_COMMAND = Mode.COMMAND
_DATA = Mode.DATA
_CHUNK = Mode.CHUNK
_AUTH = Mode.AUTH
_OVER = Mode.OVER

_CLOSING: Final = frozenset((421, 521))


class ServerMachine:
    """One connection. The driver's part:

    `greet`; then `receive` what comes and pull `next_event` until it is None, answering each command with `answer`;
    write `take_output` after that; stop when `closed`. `wall_us` tells microseconds since 1970; a door that offers
    FUTURERELEASE needs it.
    """

    __slots__ = (
        "_deaf",
        "_door",
        "_eof",
        "_errors",
        "_events",
        "_failed_logins",
        "_greeted",
        "_hostname",
        "_junk",
        "_last_chunk",
        "_limits",
        "_line_limit",
        "_lines",
        "_long_lines",
        "_mode",
        "_open",
        "_output",
        "_reader",
        "_swallowed",
        "_transaction",
        "_wall_us",
        "authenticated_as",
        "note",
        "refusals",
        "tls",
    )

    def __init__(
        self,
        *,
        hostname: str,
        door: Door,
        limits: MachineLimits | None = None,
        wall_us: Callable[[], int] | None = None,
    ) -> None:
        if door.future_release_s and wall_us is None:
            raise ValueError("FUTURERELEASE needs a clock")
        self._hostname = hostname
        self._door = door
        self._wall_us = wall_us or _no_clock
        self._limits = limits or DEFAULT_LIMITS
        self._lines = LineBuffer()
        self._output: list[bytes] = []
        self._mode = Mode.GREETING
        self._open: Command | None = None
        self._events: deque[Event] = deque()
        self._line_limit = MAX_LONG_COMMAND
        self._eof = False
        self._deaf = False
        self._greeted = False
        self._errors = 0
        self._junk = 0
        self._failed_logins = 0
        self._long_lines = 0
        self._transaction: Transaction | None = None
        self._reader: DataReader | ChunkReader | None = None
        self._last_chunk = False
        self._swallowed: Reply | None = None
        self.tls = door.name == "submissions"
        """Whether TLS protects the connection."""
        self.authenticated_as = ""
        """The login of a successful AUTH; empty before."""
        self.note: Callable[[bytes, Reply], Reply] = self._remember
        """Told of each command that this machine refuses by itself (empty: of content), with the reply; returns what to
        say, so that a driver can write the refusal down and put a reference behind it."""
        self.refusals: list[tuple[bytes, Reply]] = []
        """Commands this machine refused by itself, with what it said, where nobody else takes note."""

    # --- what the driver calls ---------------------------------------------------------------------------------

    def greet(self, reply: Reply) -> None:
        """Say the first word: 220 opens the session, 554 leaves only QUIT (RFC 5321 section 3.1), others close it."""
        if self._mode is not Mode.GREETING:
            return
        self._output.append(reply.wire())
        if reply.code in (220, 554):
            self._mode = _COMMAND
            self._deaf = reply.code == 554
        else:
            self._finish("refused at the greeting", reply)

    def receive(self, octets: bytes) -> None:
        """Take octets from the peer; nothing is read before `next_event`."""
        if self._mode is Mode.GREETING and octets:
            self._end("talked before the greeting", refusals.PREGREET)
        elif self._mode is not _OVER:
            self._lines.receive(octets)

    def receive_eof(self) -> None:
        """The peer has closed its side; commands already received are still carried out."""
        self._eof = True

    def next_event(self) -> Event | None:
        """The next thing to do, or None when that waits for the peer or for `answer`."""
        events = self._events
        while not events:
            if self._open is not None:
                return None
            if not self._step():
                if not self._eof or self._mode is _OVER:
                    return None
                self._finish("peer closed", None)
        return events.popleft()

    def answer(self, reply: Reply) -> None:
        """Answer the open command; 421 and 521 close the connection."""
        command = self._open
        if command is None:
            raise RuntimeError("no command is open")
        self._open = None
        if reply.code >= 500:
            self._errors += 1
        _ANSWERS.get(type(command), ServerMachine._say)(self, command, reply)
        if reply.code in _CLOSING and self._mode is not _OVER:
            self._finish("closed by us", reply)

    def answer_all(self, replies: Sequence[Reply]) -> None:
        """Answer the end of the content at an LMTP door: one reply for each accepted recipient, in the order of RCPT.

        RFC 2033 section 4.2: "Even if there were multiple successful RCPT commands giving the same forward-path, there
        must be one reply for each successful RCPT command."
        """
        if not self._door.lmtp or type(self._open) is not ContentEnd or len(replies) != self.accepted_recipients:
            raise RuntimeError("a reply for each accepted recipient belongs behind the content of LMTP")
        self._open = None
        self._output += [reply.wire() for reply in replies]
        self._transaction = None
        codes = [reply.code for reply in replies]
        # One command is one error, whatever the number of its recipients.
        self._errors += max(codes) >= 500
        if min(codes) < 300:
            self._junk = 0
        last_word = next((reply for reply in replies if reply.code in _CLOSING), None)
        if last_word is not None:
            self._finish("closed by us", last_word)

    def take_output(self) -> bytes:
        """Octets to write to the peer; empty when there are none."""
        output = self._output
        if not output:
            return b""
        octets = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return octets

    @property
    def closed(self) -> bool:
        """Whether the driver shall close the connection once the output is written."""
        return self._mode is _OVER

    @property
    def wants_input(self) -> bool:
        """Whether the driver may go on reading; False when enough waits behind the open command."""
        return self._mode is not _OVER and self._lines.unread < self._limits.unread

    @property
    def patience(self) -> float:
        """Seconds the driver may wait for the peer now."""
        limits = self._limits
        return limits.handshake_patience if self._mode is Mode.HANDSHAKE else limits.command_patience

    @property
    def lmtp(self) -> bool:
        """Whether the content is answered for each recipient, by `answer_all`."""
        return self._door.lmtp

    @property
    def mode(self) -> Mode:
        """What the next octets mean."""
        return self._mode

    @property
    def in_line(self) -> bool:
        """Whether a part of a command line has come and its end has not."""
        return self._lines.unread > 0 and (self._mode is _COMMAND or self._mode is _AUTH)

    @property
    def errors(self) -> int:
        """Commands refused for good (5yz) since the connection began."""
        return self._errors

    @property
    def accepted_recipients(self) -> int:
        """Recipients accepted in the open transaction."""
        return self._transaction.accepted if self._transaction is not None else 0

    def tls_started(self) -> None:
        """The handshake behind our 220 is done: all that was said before is forgotten."""
        # RFC 3207 section 4.2: "The server MUST discard any knowledge obtained from the client, such as the argument
        # to the EHLO command, which was not obtained from the TLS negotiation itself."
        self._lines = LineBuffer()
        self._transaction = None
        self._greeted = False
        self.authenticated_as = ""
        self.tls = True
        self._mode = _COMMAND

    def authenticated(self, login: str) -> None:
        """Keep who has logged in; called before the 235 is answered."""
        self.authenticated_as = login

    def close_with(self, reply: Reply) -> None:
        """Say a last word that answers no command, such as 421 after a timeout, and close; what was open is void."""
        if self._mode is not _OVER:
            self._output.append(reply.wire())
            self._finish("closed by us", reply)

    # --- reading -------------------------------------------------------------------------------------------------

    def _step(self) -> bool:
        """Read one line or one stretch of content; False when more octets are needed for that."""
        mode = self._mode
        if mode is _DATA or mode is _CHUNK:
            return self._read_content()
        if mode is not _COMMAND and mode is not _AUTH:
            return False
        try:
            line = self._lines.next_line(self._line_limit)
        except LineError as error:
            self._bad_line(error)
            return True
        if line is None:
            return False
        if mode is _AUTH:
            self._auth_response(line)
        else:
            self._command(line)
        return True

    def _command(self, line: bytes) -> None:
        if self._line_limit != MAX_LONG_COMMAND:
            self._line_limit = MAX_LONG_COMMAND
        verb = line[:4]
        take = _VERBS.get(verb) or _VERBS.get(verb.upper())
        if self._errors >= self._limits.errors and take is not ServerMachine._quit:
            self._end("too many errors", refusals.TOO_MANY_ERRORS)
        elif take is None or line[4:5] not in (b"", b" "):
            self._long_verb(line)
        elif len(line) > MAX_COMMAND - 2 and take not in _LONG_VERBS:
            self._too_long(line)
        elif self._deaf and take is not ServerMachine._quit:
            self._refuse(line, refusals.NOT_WELCOME)
        else:
            try:
                take(self, line)
            except CommandError as error:
                self._refuse(line, error.reply)

    def _long_verb(self, line: bytes) -> None:
        """Verbs that are not four letters, and what is no command at all."""
        if len(line) > MAX_COMMAND - 2:
            self._too_long(line)
        elif is_http(line):
            self._end("HTTP", refusals.HTTP, line)
        elif self._deaf:
            self._refuse(line, refusals.NOT_WELCOME)
        elif (verb := line.partition(b" ")[0].upper()) == b"STARTTLS":
            self._starttls(line)
        elif verb == b"XCLIENT" and self._door.xclient:
            self._xclient(line)
        elif verb in _NOT_IMPLEMENTED:
            self._refuse(line, refusals.NOT_IMPLEMENTED)
        else:
            self._refuse(line, refusals.UNKNOWN)

    def _bad_line(self, error: LineError) -> None:
        before = error.before
        if error.fault is Fault.TOO_LONG:
            self._too_long_so_far(before)
        elif error.fault is Fault.BARE_LF or self._mode is _AUTH or not _is_argument(before):
            self._end(error.fault.value, refusals.BARE_LINE, b"AUTH" if self._mode is _AUTH else before)
        else:
            self._line_limit = MAX_LONG_COMMAND
            self._lines.skip_line()
            self._refuse(before, refusals.NUL_IN_ARGUMENT if error.fault is Fault.NUL else refusals.CR_IN_ARGUMENT)

    def _too_long_so_far(self, before: bytes) -> None:
        if self._mode is _AUTH:
            self._lines.skip_line()
            self._auth_over(refusals.AUTH_LONG_LINE)
        elif before[:5].upper() == b"AUTH " and self._line_limit == MAX_LONG_COMMAND:
            self._line_limit = MAX_AUTH_COMMAND
        else:
            self._line_limit = MAX_LONG_COMMAND
            self._lines.skip_line()
            self._too_long(before)

    def _too_long(self, line: bytes) -> None:
        self._long_lines += 1
        if self._long_lines >= self._limits.long_lines:
            self._end("line too long", refusals.LONG_LINE, line)
        else:
            self._refuse(line, refusals.LONG_LINE)

    # --- commands ------------------------------------------------------------------------------------------------

    def _hello(self, line: bytes) -> None:
        verb = line[:4].upper().decode("ascii")
        # RFC 2033 section 4.1: LHLO takes the place of EHLO and HELO, which an LMTP server does not know
        if (verb == "LHLO") is not self._door.lmtp:
            raise CommandError(refusals.UNKNOWN)
        name = grammar.read_text(line[5:]).strip(" ")
        if not name or len(name) > MAX_HELLO_NAME:
            raise CommandError(Reply(501, "5.5.2", f"Syntax: {verb} your-name"))
        if self._greeted and self._is_junk():
            return
        if self._door.strict_hello and not self._greeted and self._lines.unread:
            self._end("pipelined behind EHLO", refusals.EARLY_HELLO, line)
            return
        self._ask(Hello(verb, name))

    def _mail(self, line: bytes) -> None:
        if not self._greeted:
            raise CommandError(refusals.NO_HELLO)
        if self._transaction is not None:
            raise CommandError(refusals.MAIL_IS_OPEN)
        if self._door.must_tls and not self.tls:
            raise CommandError(refusals.NEEDS_TLS)
        if self._door.must_auth and not self.authenticated_as:
            raise CommandError(refusals.NEEDS_LOGIN)
        sender, params = read_mail(line, self._door, self._wall_us, tls=self.tls)
        if params.size > self._limits.size:
            raise CommandError(TOO_BIG)
        self._ask(Mail(sender, params))

    def _rcpt(self, line: bytes) -> None:
        transaction = self._without_content()
        if transaction.accepted >= self._limits.recipients:
            raise CommandError(refusals.TOO_MANY_RECIPIENTS)
        self._ask(read_rcpt(line, transaction.params.smtputf8, self._hostname))

    def _data(self, line: bytes) -> None:
        refuse_argument(line)
        transaction = self._without_content()
        # RFC 3030 section 3: BINARYMIME "can only be used with the "CHUNKING" service extension"
        if transaction.binary:
            raise CommandError(refusals.BINARY_BY_BDAT)
        if not transaction.accepted:
            raise CommandError(self._no_recipient())
        # RFC 2920 section 3.1: DATA "can only appear as the last command in a group"
        if self._lines.unread:
            self._end("pipelined behind DATA", refusals.EARLY_DATA, line)
        else:
            self._ask(DataStart())

    def _no_recipient(self) -> Reply:
        return refusals.NO_RECIPIENT_LMTP if self._door.lmtp else refusals.NO_RECIPIENT

    def _without_content(self) -> Transaction:
        """The open transaction before any of its content; raises `CommandError`."""
        transaction = self._transaction
        if transaction is None:
            raise CommandError(refusals.NO_MAIL)
        # RFC 3030 section 2: "If a DATA statement is issued after a BDAT for the current transaction, a 503 ... MUST be
        # issued."
        if transaction.check is not None:
            raise CommandError(refusals.CHUNKS_ARE_OPEN)
        return transaction

    def _bdat(self, line: bytes) -> None:
        asked = grammar.read_bdat(line)
        # Where the chunk ends is unknown now, or too far away: nothing behind it can be told from a command.
        if asked is None:
            self._end("bad BDAT", refusals.BAD_BDAT, line)
            return
        size, last = asked
        if size > self._limits.size:
            self._end("chunk too big", TOO_BIG, line)
            return
        transaction = self._transaction
        if transaction is not None and transaction.chunks >= self._limits.chunks:
            self._end("too many chunks", refusals.TOO_MANY_CHUNKS, line)
        elif transaction is not None and transaction.accepted:
            self._read_chunk(ChunkReader(size, transaction.begin_chunk(self._limits)), last)
        else:
            # RFC 3030 section 2: with a 5yz to BDAT the octets of the chunk are still on their way
            self._swallowed = refusals.NO_MAIL if transaction is None else self._no_recipient()
            self._read_chunk(ChunkReader(size, None), last)

    def _read_chunk(self, reader: ChunkReader, last: bool) -> None:
        self._reader = reader
        self._last_chunk = last
        self._mode = _CHUNK

    def _rset(self, line: bytes) -> None:
        refuse_argument(line)
        if not self._is_junk():
            self._transaction = None
            self._ask(Rset())

    def _noop(self, line: bytes) -> None:
        if not self._is_junk():
            self._ask(Noop())

    def _help(self, line: bytes) -> None:
        about = grammar.read_text(line[5:])
        if not self._is_junk():
            self._ask(Help(about))

    def _verify(self, line: bytes) -> None:
        text = grammar.read_text(line[5:]).strip(" ")
        if not text:
            raise CommandError(grammar.bad_parameter("Syntax: VRFY address"))
        if not self._is_junk():
            self._ask(Verify(line[:4].upper().decode("ascii"), text))

    def _quit(self, line: bytes) -> None:
        refuse_argument(line)
        self._ask(Quit())

    def _starttls(self, line: bytes) -> None:
        # RFC 3207 section 4: "501 Syntax error (no parameters allowed)"
        if len(line) > 8:
            self._refuse(line, grammar.bad_parameter("STARTTLS takes no argument"))
        elif self.tls:
            self._refuse(line, refusals.TLS_IS_ON)
        elif not self._door.starttls:
            self._refuse(line, refusals.NOT_IMPLEMENTED)
        elif not self._greeted:
            self._refuse(line, refusals.NO_HELLO)
        elif self._transaction is not None:
            self._refuse(line, refusals.MAIL_IS_OPEN)
        elif self._lines.unread:
            self._end("pipelined behind STARTTLS", refusals.EARLY_TLS, line)
        else:
            self._ask(StartTls())

    def _xclient(self, line: bytes) -> None:
        if self._transaction is not None:
            self._refuse(line, refusals.MAIL_IS_OPEN)
            return
        try:
            said = read_xclient(line)
        except CommandError as error:
            self._refuse(line, error.reply)
        else:
            if not self._is_junk():
                self._ask(said)

    # --- AUTH ----------------------------------------------------------------------------------------------------

    def _auth(self, line: bytes) -> None:
        if not self._door.auth:
            raise CommandError(refusals.NOT_IMPLEMENTED)
        if not self._greeted:
            raise CommandError(refusals.NO_HELLO)
        if not self.tls:
            raise CommandError(refusals.AUTH_NEEDS_TLS)
        # RFC 4954 section 4: "After a successful AUTH command completes, a server MUST reject any further AUTH
        # commands with a 503 reply", and "The AUTH command is not permitted during a mail transaction."
        if self.authenticated_as:
            raise CommandError(refusals.AUTH_TWICE)
        if self._transaction is not None:
            raise CommandError(refusals.AUTH_IN_MAIL)
        if self._failed_logins >= self._limits.logins:
            self._end("too many failed logins", refusals.TOO_MANY_LOGINS, b"AUTH")
            return
        words = line.split(b" ")
        mechanism = words[1].upper().decode("latin-1") if 2 <= len(words) <= 3 else ""
        if not mechanism:
            raise CommandError(grammar.bad_parameter("Syntax: AUTH mechanism"))
        if mechanism not in self._door.auth:
            raise CommandError(refusals.AUTH_MECHANISM)
        try:
            initial = initial_response(words[2]) if len(words) == 3 else None
        except SaslError:
            self._failed_logins += 1
            raise CommandError(refusals.AUTH_JUNK) from None
        self._ask(Auth(mechanism, initial))

    def _auth_response(self, line: bytes) -> None:
        # RFC 4954 section 4: "If the client wishes to cancel the authentication exchange, it issues a line with a
        # single "*"."
        if line == b"*":
            self._auth_over(refusals.AUTH_CANCELLED)
            return
        try:
            response = decode_base64(line)
        except SaslError:
            self._auth_over(refusals.AUTH_JUNK)
        else:
            self._mode = _COMMAND
            self._line_limit = MAX_LONG_COMMAND
            self._ask(AuthResponse(response))

    def _auth_over(self, reply: Reply) -> None:
        self._mode = _COMMAND
        self._line_limit = MAX_LONG_COMMAND
        self._ask(AuthCancel(reply))

    # --- content -------------------------------------------------------------------------------------------------

    def _read_content(self) -> bool:
        reader = self._reader
        assert reader is not None
        octets = self._lines.take_all()
        if not octets and not reader.done:
            return False
        try:
            content = reader.feed(octets)
            if reader.done:
                self._content_ends(reader, content)
            elif content:
                self._events.append(Content(content))
        except PeerError as error:
            self._end("bare CR, LF or NUL in content", error.reply)
        return True

    def _content_ends(self, reader: DataReader | ChunkReader, content: bytes) -> None:
        """DATA or one chunk has come whole; raises `PeerError`."""
        transaction = self._transaction
        check = transaction.check if transaction is not None else None
        if check is not None and self._last_chunk:
            check.finish()
        if content:
            self._events.append(Content(content))
        self._lines.receive(reader.rest)
        self._mode = _COMMAND
        self._reader = None
        if self._swallowed is not None:
            self._swallowed_whole(self._swallowed)
            return
        assert transaction is not None
        assert check is not None
        if check.refusal is not None:
            self._events.append(ContentRefused(check.refusal, check.size))
            self._refuse(b"", check.refusal, transaction.accepted if self._door.lmtp and self._last_chunk else 1)
            self._transaction = None
        elif self._last_chunk:
            self._ask(ContentEnd(check.size))
        else:
            assert isinstance(reader, ChunkReader)
            self._ask(ChunkEnd(reader.size, check.size))

    def _swallowed_whole(self, reply: Reply) -> None:
        """A chunk that belonged to nothing has come whole."""
        self._swallowed = None
        # RFC 2033 section 4.3: "If there were no previously successful RCPT commands in the mail transaction, then the
        # BDAT LAST command returns zero replies."
        if self._door.lmtp and self._last_chunk and self._transaction is not None:
            self._events.append(ContentRefused(reply, 0))
            self._refuse(b"BDAT", reply, 0)
            self._transaction = None
        else:
            self._refuse(b"BDAT", reply)

    # --- answers -------------------------------------------------------------------------------------------------

    def _say(self, _command: Command, reply: Reply) -> None:
        self._output.append(reply.wire())

    def _answer_hello(self, command: Command, reply: Reply) -> None:
        if reply.code != 250:
            self._output.append(reply.wire())
            return
        # RFC 5321 section 4.1.4: behind a later EHLO the server "MUST clear all buffers and reset the state exactly as
        # if a RSET command had been issued"
        self._transaction = None
        self._greeted = True
        assert isinstance(command, Hello)
        # RFC 2034 section 4: no enhanced codes in the greeting and in replies to EHLO and HELO
        first = Reply(250, "", f"{self._hostname} {reply.text}" if reply.text else self._hostname).wire()
        if command.verb != "HELO":
            door, limits = self._door, self._limits
            minute = self._wall_us() // 60_000_000 if door.future_release_s else 0
            first = b"250-" + first[4:] + ehlo_wire(door, limits.size, self.tls, limits.recipients, minute)
        self._output.append(first)

    def _answer_mail(self, command: Command, reply: Reply) -> None:
        self._output.append(reply.wire())
        if reply.code < 300:
            assert isinstance(command, Mail)
            self._transaction = Transaction(command.params)

    def _answer_rcpt(self, _command: Command, reply: Reply) -> None:
        self._output.append(reply.wire())
        if reply.code < 300:
            assert self._transaction is not None
            self._transaction.accepted += 1

    def _answer_data(self, _command: Command, reply: Reply) -> None:
        if self._lines.unread:
            self._end("pipelined behind DATA", refusals.EARLY_DATA, b"DATA")
            return
        self._output.append(reply.wire())
        if reply.code == 354:
            assert self._transaction is not None
            self._reader = self._transaction.begin_data(self._limits)
            self._last_chunk = True
            self._mode = _DATA
        else:
            self._transaction = None

    def _answer_content(self, _command: Command, reply: Reply) -> None:
        self._output.append(reply.wire() * (self.accepted_recipients if self._door.lmtp else 1))
        self._transaction = None
        if reply.code < 300:
            self._junk = 0

    def _answer_chunk(self, _command: Command, reply: Reply) -> None:
        self._output.append(reply.wire())
        if reply.code >= 300:
            self._transaction = None

    def _answer_starttls(self, _command: Command, reply: Reply) -> None:
        if reply.code != 220:
            self._output.append(reply.wire())
        elif self._lines.unread:
            self._end("pipelined behind STARTTLS", refusals.EARLY_TLS, b"STARTTLS")
        else:
            self._output.append(reply.wire())
            self._mode = Mode.HANDSHAKE

    def _answer_auth(self, _command: Command, reply: Reply) -> None:
        self._output.append(reply.wire())
        if reply.code == 334:
            self._mode = _AUTH
            self._line_limit = MAX_ENCODED + 2
        elif reply.code == 235:
            if not self.authenticated_as:
                raise RuntimeError("235 without a login")
        else:
            self.authenticated_as = ""
            self._failed_logins += 1

    def _answer_xclient(self, command: Command, reply: Reply) -> None:
        self._output.append(reply.wire())
        # As behind the greeting: all that was said before is forgotten, and 554 leaves only QUIT.
        if reply.code in (220, 554):
            assert isinstance(command, XClient)
            self._greeted = False
            self.authenticated_as = command.login or ""
            self._deaf = reply.code == 554

    def _answer_quit(self, _command: Command, reply: Reply) -> None:
        self._output.append(reply.wire())
        self._finish("quit", reply)

    # --- small steps ---------------------------------------------------------------------------------------------

    def _ask(self, command: Command) -> None:
        self._open = command
        self._events.append(command)

    def _refuse(self, line: bytes, reply: Reply, times: int = 1) -> None:
        self._output.append(self._noted(line, reply).wire() * times)
        if reply.code >= 500:
            self._errors += 1

    def _end(self, why: str, reply: Reply, line: bytes = b"") -> None:
        """Say a last word and close."""
        self._output.append(self._noted(line, reply).wire())
        self._finish(why, reply)

    def _finish(self, why: str, reply: Reply | None) -> None:
        self._mode = _OVER
        self._open = None
        self._lines = LineBuffer()
        self._transaction = None
        self._reader = None
        self._events.clear()
        self._events.append(EndOfStream(why, reply))

    def _noted(self, line: bytes, reply: Reply) -> Reply:
        verb = line[:4].upper()
        if verb == b"AUTH" or (self._door.auth and verb not in _VERBS):
            # Where passwords are sent, what is no command may be one: a client that goes on after a refused AUTH.
            line = b"AUTH" if verb == b"AUTH" else b"?"
        return self.note(line[:_MAX_KEPT_LINE], reply)

    def _remember(self, line: bytes, reply: Reply) -> Reply:
        if len(self.refusals) < _MAX_REFUSALS:
            self.refusals.append((line, reply))
        return reply

    def _is_junk(self) -> bool:
        """Count a command that moves no mail; True when it was one too many."""
        self._junk += 1
        if self._junk <= self._limits.junk:
            return False
        self._end("too much junk", refusals.TOO_MUCH_JUNK)
        return True


def _no_clock() -> int:
    raise RuntimeError("this door was made without a clock")


_MAX_REFUSALS: Final = 64
_MAX_KEPT_LINE: Final = 200
_NOT_IMPLEMENTED: Final = frozenset((b"SEND", b"SOML", b"SAML", b"TURN", b"ETRN", b"ATRN", b"XCLIENT", b"XFORWARD"))

_TAKERS: Final[dict[bytes, Callable[[ServerMachine, bytes], None]]] = {
    b"EHLO": ServerMachine._hello,
    b"HELO": ServerMachine._hello,
    b"LHLO": ServerMachine._hello,
    b"MAIL": ServerMachine._mail,
    b"RCPT": ServerMachine._rcpt,
    b"DATA": ServerMachine._data,
    b"BDAT": ServerMachine._bdat,
    b"RSET": ServerMachine._rset,
    b"NOOP": ServerMachine._noop,
    b"HELP": ServerMachine._help,
    b"VRFY": ServerMachine._verify,
    b"EXPN": ServerMachine._verify,
    b"AUTH": ServerMachine._auth,
    b"QUIT": ServerMachine._quit,
}
_VERBS: Final = _TAKERS | {verb.lower(): taker for verb, taker in _TAKERS.items()}
_LONG_VERBS: Final = frozenset((ServerMachine._mail, ServerMachine._rcpt, ServerMachine._auth))

_ANSWERS: Final[dict[type[Command], Callable[[ServerMachine, Command, Reply], None]]] = {
    Hello: ServerMachine._answer_hello,
    Mail: ServerMachine._answer_mail,
    Rcpt: ServerMachine._answer_rcpt,
    DataStart: ServerMachine._answer_data,
    ContentEnd: ServerMachine._answer_content,
    ChunkEnd: ServerMachine._answer_chunk,
    StartTls: ServerMachine._answer_starttls,
    Auth: ServerMachine._answer_auth,
    AuthResponse: ServerMachine._answer_auth,
    AuthCancel: ServerMachine._answer_auth,
    XClient: ServerMachine._answer_xclient,
    Quit: ServerMachine._answer_quit,
}


def _is_argument(before: bytes) -> bool:
    """Whether what has come of a line is a known verb and part of its argument."""
    return before[4:5] == b" " and before[:4].upper() in _VERBS
