"""SMTP and LMTP from the client's side, without I/O: transactions in, command octets and results out.

Invariant: `_expected` names the replies still owed to what has been sent, in order. A reply nobody is owed, a code
that cannot answer its command, or octets that are no reply end the session (`Lost`): what cannot be told apart any
more must never be taken for the fate of a message.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Literal

from postroad.values.address import Address
from postroad.values.envelope import Recipient
from postroad.values.reply import Reply
from postroad.wire.lines import LineBuffer
from postroad.wire.sasl import Credentials
from postroad.wire.smtp.client_login import ClientLogin
from postroad.wire.smtp.events import (
    ClientEvent,
    Closed,
    Lost,
    Ready,
    Refused,
    SendContent,
    StartTlsRefused,
    TlsWanted,
    TransactionDone,
    TransactionResult,
)
from postroad.wire.smtp.extensions import NO_EXTENSIONS, Extensions, read_extensions
from postroad.wire.smtp.replies import BadReply, ReplyReader

Stage = Literal[
    "greeting",
    "hello",
    "starttls",
    "auth",
    "ready",
    "mail",
    "rcpt",
    "data",
    "content",
    "final",
    "void",
    "reset",
    "quit",
]
TlsWish = Literal["never", "may", "must"]

# RFC 5321 section 4.5.3.2, in its order; the rest by kinship.
PATIENCE: Final[dict[Stage, float]] = {
    "greeting": 300.0,
    "mail": 300.0,
    "rcpt": 300.0,
    "data": 120.0,
    "content": 180.0,
    "final": 600.0,
    "hello": 300.0,
    "starttls": 120.0,
    "auth": 180.0,
    "ready": 300.0,
    "void": 300.0,
    "reset": 300.0,
    "quit": 30.0,
}
"""Seconds to wait for the peer in each stage."""

_NO_COMMON_MECHANISM: Final = Reply(504, "5.5.4", "No authentication mechanism in common")
_UNPROVED: Final = Reply(535, "5.7.8", "The server did not prove that it knows the password")
_NO_TLS_FOR_LOGIN: Final = Reply(538, "5.7.11", "A password is not sent without TLS")

#: Codes that mean one thing only: as the answer to another command they show that the two sides are out of step.
_ONLY_AT: Final[dict[int, tuple[Stage, ...]]] = {
    220: ("greeting", "starttls"),
    221: ("quit",),
    235: ("auth",),
    334: ("auth",),
    354: ("data",),
}
_printable = re.compile(r"[!-~]+").fullmatch


class ClientMachine:
    """One session. The driver's part:

    `start`; then `receive` what comes, pull `next_event` until it is None, write `take_output`. After `Ready`:
    `begin`, at `SendContent` write the content and call `content_sent`, after `TransactionDone` the next `begin`, or
    `quit`.
    """

    __slots__ = (
        "_accepted",
        "_asking",
        "_content_gone",
        "_data_reply",
        "_dirty",
        "_end_point",
        "_eof",
        "_esmtp",
        "_events",
        "_expected",
        "_extensions",
        "_finals",
        "_handshake",
        "_lmtp",
        "_logged_in",
        "_login",
        "_mail_reply",
        "_name",
        "_output",
        "_over",
        "_plan",
        "_rcpt_replies",
        "_recipients",
        "_replies",
        "_sending",
        "_tls_wish",
        "answered",
        "chunked",
        "in_transaction",
        "peer",
        "tls",
    )

    def __init__(self, *, ehlo_name: str, lmtp: bool = False) -> None:
        if not _printable(ehlo_name):
            raise ValueError("the EHLO name must be printable and without spaces")
        self._name = ehlo_name
        self._lmtp = lmtp
        self._output: list[bytes] = []
        self._events: deque[ClientEvent] = deque()
        self._replies = ReplyReader(LineBuffer())
        self._expected: deque[Stage] = deque()
        self._plan: deque[tuple[Stage, bytes]] = deque()
        self._extensions = NO_EXTENSIONS
        self._tls_wish: TlsWish = "may"
        self._login: ClientLogin | None = None
        self._logged_in = False
        self._end_point = b""
        self._esmtp = True
        self._eof = False
        self._over = False
        self._dirty = False
        self._sending = False
        self._handshake = False
        self.answered = 0
        """Whole replies that have come: the patience for the next one begins with each."""
        self.tls = False
        """Whether TLS protects the session."""
        self.peer = ""
        """What the server calls itself, in lower case."""
        self.in_transaction = False
        """Whether `begin` was called and its `TransactionDone` has not come."""
        self._asking = False
        self._recipients = 0
        self._accepted = 0
        self.chunked = False
        """Whether the content of this transaction goes by BDAT, or that of the last one went so."""
        self._content_gone = False
        self._mail_reply: Reply | None = None
        self._rcpt_replies: list[Reply] = []
        self._data_reply: Reply | None = None
        self._finals: list[Reply] = []

    # --- what the driver calls -----------------------------------------------------------------------------------

    def start(
        self,
        tls: TlsWish = "may",
        login: Credentials | None = None,
        *,
        under_tls: bool = False,
        nonce: str = "",
        end_point: bytes = b"",
    ) -> None:
        """Wait for the greeting, then open the session.

        `tls`: what STARTTLS is worth to us; `login` is sent only under TLS, by SCRAM where `nonce` is fresh text that
        nobody can guess; `under_tls`: the driver has made the handshake before the first octet, and `end_point` is the
        channel binding of the connection.
        """
        self._tls_wish = tls
        self._login = ClientLogin(login, nonce) if login is not None else None
        self._end_point = end_point
        self.tls = under_tls
        self._expected.append("greeting")

    def begin(
        self,
        sender: Address | None,
        recipients: Sequence[Recipient | Address],
        *,
        size: int = 0,
        body8bit: bool = False,
        smtputf8: bool = False,
        ret: str = "",
        envid: str = "",
        requiretls: bool = False,
        chunking: bool = False,
    ) -> None:
        """Open a transaction; only after `Ready` or `TransactionDone`.

        `size` is the message in octets, `smtputf8` may only be set when the server announced it. What the server did
        not announce of the rest is left out. `chunking` sends MAIL, RCPT and the content by BDAT in one flight when
        the server announced CHUNKING and PIPELINING: `SendContent` then comes at once.
        Raises `ValueError` for an address that cannot be sent without SMTPUTF8, and when no transaction may begin.
        """
        if self.in_transaction or self._over or self._expected:
            raise ValueError("no transaction may begin now")
        if not recipients:
            raise ValueError("no recipients")
        known = self._extensions
        plan: list[tuple[Stage, bytes]] = [("reset", b"RSET\r\n")] if self._dirty else []
        plan.append(("mail", self._mail_line(sender, size, body8bit, smtputf8, ret, envid, requiretls)))
        for recipient in recipients:
            plan.append(("rcpt", self._rcpt_line(recipient, smtputf8)))
        chunked = chunking and known.chunking and known.pipelining and not self._lmtp
        plan.append(("final", b"BDAT %d LAST\r\n" % size) if chunked else ("data", b"DATA\r\n"))
        self._new_transaction(len(recipients), chunked)
        if known.pipelining:
            for stage, line in plan:
                self._send(stage, line)
        else:
            self._plan.extend(plan)
            self._send_next()
        if chunked:
            self._sending = True
            self._events.append(SendContent(stuffed=False, size=size))

    def ask(self, recipients: Sequence[Address], *, sender: Address | None = None, smtputf8: bool = False) -> None:
        """Open a transaction that ends with its last RCPT: would these be taken, from this sender or the null one?

        As with `begin`, `TransactionDone` tells, and nothing of the transaction is left for the next one.
        Raises `ValueError` like `begin`.
        """
        if self.in_transaction or self._over or self._expected:
            raise ValueError("no transaction may begin now")
        plan: list[tuple[Stage, bytes]] = [("reset", b"RSET\r\n")] if self._dirty else []
        plan.append(("mail", self._mail_line(sender, 0, False, smtputf8, "", "")))
        plan += [("rcpt", self._rcpt_line(recipient, smtputf8)) for recipient in recipients]
        self._new_transaction(len(recipients), False)
        self._asking = True
        if self._extensions.pipelining:
            for stage, line in plan:
                self._send(stage, line)
        else:
            self._plan.extend(plan)
            self._send_next()

    def content_sent(self) -> None:
        """The driver has written the whole content that `SendContent` asked for."""
        if not self._sending:
            raise ValueError("no content was asked for")
        self._sending = False
        self._content_gone = True

    def reset(self) -> None:
        """Ask with RSET whether the session still lives; `Ready` is the answer."""
        self._send("reset", b"RSET\r\n")

    def quit(self) -> None:
        """Say QUIT; `Closed` is the answer. Without effect once the session is over."""
        if not self._over:
            self._send("quit", b"QUIT\r\n")

    def receive(self, octets: bytes) -> None:
        """Take octets from the server; nothing is read before `next_event`."""
        if not self._over:
            self._replies.lines.receive(octets)

    def receive_eof(self) -> None:
        """The server has closed the connection; replies already received still count."""
        self._eof = True

    def take_output(self) -> bytes:
        """Octets to write to the server; empty when there are none."""
        output = self._output
        if not output:
            return b""
        octets = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return octets

    def next_event(self) -> ClientEvent | None:
        """What has happened, or None when that waits for the server or for the driver's content."""
        events = self._events
        while not events:
            if self._over or (self._sending and not self._eof and self._replies.lines.unread <= _MAX_UNREAD):
                return None
            if self._handshake and self._replies.lines.unread:
                self._lose(_BEHIND_STARTTLS, at="starttls")
                continue
            try:
                reply = self._replies.next_reply()
            except BadReply as error:
                self._lose(str(error))
            else:
                if reply is not None:
                    self.answered += 1
                    self._take(reply)
                elif self._eof:
                    self._closed_by_server()
                else:
                    return None
        return events.popleft()

    def tls_started(self, end_point: bytes = b"") -> None:
        """The handshake is done: what was announced before is forgotten (RFC 3207 section 4.2).

        `end_point` is the channel binding of the connection, for a login.
        """
        self._end_point = end_point
        if self._replies.lines.unread:
            self._lose(_BEHIND_STARTTLS, at="starttls")
            return
        self._handshake = False
        self.tls = True
        self._extensions = NO_EXTENSIONS
        self._say_hello()

    @property
    def extensions(self) -> Extensions:
        """What the server announced last."""
        return self._extensions

    @property
    def closed(self) -> bool:
        """Whether the driver shall close the connection."""
        return self._over

    @property
    def stage(self) -> Stage:
        """What the session waits for."""
        return "content" if self._sending else self._expected[0] if self._expected else "ready"

    @property
    def patience(self) -> float:
        """Seconds the driver may wait for the server's next reply, counted from the last one, not from its octets."""
        return PATIENCE[self.stage]

    # --- opening -------------------------------------------------------------------------------------------------

    def _take(self, reply: Reply) -> None:
        if not self._expected:
            self._lose("a reply nobody asked for", reply)
            return
        stage = self._expected[0]
        code = reply.code
        if self._sending and stage == "final":
            self._closed_in_content(reply)
        elif (code in _ONLY_AT or 300 <= code < 400) and stage not in _ONLY_AT.get(code, ()):
            self._lose(f"{code} to {stage}", reply)
        elif code == 421 and stage not in ("greeting", "quit"):
            self._lose("the server is closing", reply)
        else:
            self._expected.popleft()
            _TAKERS[stage](self, reply)

    def _take_greeting(self, reply: Reply) -> None:
        if reply.code == 220:
            self._say_hello()
        elif reply.positive:
            self._lose(f"{reply.code} for a greeting", reply, at="greeting")
        else:
            self._refuse("greeting", reply)

    def _say_hello(self) -> None:
        self._send("hello", f"{'LHLO' if self._lmtp else 'EHLO'} {self._name}\r\n".encode())

    def _take_hello(self, reply: Reply) -> None:
        if reply.code == 250:
            texts = (*reply.lines, reply.text)
            self.peer = texts[0].partition(" ")[0].lower()
            self._extensions = read_extensions(texts[1:]) if self._esmtp else NO_EXTENSIONS
            self._after_hello()
        elif reply.permanent and self._esmtp and not self._lmtp and not self.tls:
            # RFC 5321 section 3.2: a server that knows no EHLO gets HELO
            self._esmtp = False
            self._send("hello", f"HELO {self._name}\r\n".encode())
        elif reply.positive:
            self._lose(f"{reply.code} to hello", reply, at="hello")
        else:
            self._refuse("hello", reply)

    def _after_hello(self) -> None:
        if self.tls or self._tls_wish == "never":
            self._log_in_or_ready()
        elif self._extensions.starttls:
            self._send("starttls", b"STARTTLS\r\n")
        else:
            self._without_tls(None)

    def _take_starttls(self, reply: Reply) -> None:
        if reply.code == 220:
            # Until the handshake is done no octet is read: what stands behind the 220 was sent in the clear, by whoever
            # sits in between.
            self._handshake = True
            if not self._replies.lines.unread:
                self._events.append(TlsWanted())
        elif reply.positive:
            self._lose(f"{reply.code} to starttls", reply, at="starttls")
        else:
            self._without_tls(reply)

    def _without_tls(self, reply: Reply | None) -> None:
        if self._tls_wish == "must":
            self._events.append(StartTlsRefused(reply))
            self.quit()
        else:
            if reply is not None:
                self._events.append(StartTlsRefused(reply))
            self._log_in_or_ready()

    def _log_in_or_ready(self) -> None:
        login = self._login
        if login is None or self._logged_in:
            self._events.append(Ready(self._extensions))
        elif not self.tls:
            self._refuse("auth", _NO_TLS_FOR_LOGIN)
        elif (line := login.begin(self._extensions.auth, self._end_point)) is not None:
            self._send("auth", line + b"\r\n")
        else:
            self._refuse("auth", _NO_COMMON_MECHANISM)

    def _take_auth(self, reply: Reply) -> None:
        login = self._login
        assert login is not None
        if reply.code == 235 and not login.proved:
            self._refuse("auth", _UNPROVED)
        elif reply.code == 235:
            self._logged_in = True
            self._events.append(Ready(self._extensions))
        elif reply.code == 334 and login.cancelled:
            self._lose("a challenge after the login was given up", reply, at="auth")
        elif reply.code == 334:
            self._send("auth", login.respond(reply.text) + b"\r\n")
        elif reply.positive:
            self._lose(f"{reply.code} to auth", reply, at="auth")
        else:
            self._refuse("auth", reply)

    def _refuse(self, stage: str, reply: Reply) -> None:
        self._events.append(Refused(stage, reply))
        if reply.code in (421, 521):
            self._over = True
        else:
            self.quit()

    # --- transactions --------------------------------------------------------------------------------------------

    def _mail_line(
        self,
        sender: Address | None,
        size: int,
        body8bit: bool,
        smtputf8: bool,
        ret: str,
        envid: str,
        requiretls: bool = False,
    ) -> bytes:
        known = self._extensions
        line = "MAIL FROM:<>" if sender is None else f"MAIL FROM:<{_wire(sender, smtputf8)}>"
        if size and known.declares_size:
            line = f"{line} SIZE={size}"
        if body8bit and known.eightbitmime:
            line += " BODY=8BITMIME"
        if smtputf8:
            if not known.smtputf8:
                raise ValueError("the server did not announce SMTPUTF8")
            line += " SMTPUTF8"
        # RFC 8689 section 4.2.1: only under TLS, and only to a server that announced it there.
        if requiretls and known.requiretls and self.tls:
            line += " REQUIRETLS"
        if known.dsn and (ret or envid):
            line += _parameter("RET", ret) + _parameter("ENVID", envid)
        return f"{line}\r\n".encode()

    def _rcpt_line(self, recipient: Recipient | Address, smtputf8: bool) -> bytes:
        if isinstance(recipient, Address):
            return f"RCPT TO:<{_wire(recipient, smtputf8)}>\r\n".encode()
        line = f"RCPT TO:<{_wire(recipient.address, smtputf8)}>"
        if self._extensions.dsn and (recipient.notify or recipient.orcpt):
            # RFC 6533 section 3: an ORCPT of type utf-8 may have any characters where SMTPUTF8 is used.
            orcpt = _parameter("ORCPT", recipient.orcpt, utf8=smtputf8)
            line += _parameter("NOTIFY", recipient.notify) + orcpt
        return f"{line}\r\n".encode()

    def _send(self, stage: Stage, line: bytes) -> None:
        self._expected.append(stage)
        self._output.append(line)

    def _send_next(self) -> None:
        """Without PIPELINING: the next command of the plan, once the one before has its reply."""
        if self._plan:
            self._send(*self._plan.popleft())

    def _take_reset(self, reply: Reply) -> None:
        if not reply.positive:
            self._lose(f"{reply.code} to reset", reply, at="reset")
        elif self.in_transaction:
            self._send_next()
        else:
            self._dirty = False
            self._events.append(Ready(self._extensions))

    def _take_mail(self, reply: Reply) -> None:
        self._mail_reply = reply
        if reply.code >= 400 and self._plan:
            self._plan.clear()
            self._end_transaction()
        else:
            self._send_next()

    def _take_rcpt(self, reply: Reply) -> None:
        self._rcpt_replies.append(reply)
        if reply.code < 300:
            self._accepted += 1
        if self._asking:
            if len(self._rcpt_replies) == self._recipients:
                self._end_transaction()
            else:
                self._send_next()
        elif len(self._plan) == 1 and not self._has_takers():
            # RFC 5321 section 3.3: there is nothing to send when no recipient was accepted
            self._plan.clear()
            self._end_transaction()
        else:
            self._send_next()

    def _has_takers(self) -> bool:
        """Whether a recipient and the sender are accepted, so that content has somewhere to go."""
        return self._accepted > 0 and self._mail_reply is not None and self._mail_reply.code < 300

    def _take_data(self, reply: Reply) -> None:
        if reply.code != 354:
            if reply.positive:
                self._lose(f"{reply.code} to data", reply, at="data")
                return
            self._data_reply = reply
            self._end_transaction()
        elif self._has_takers():
            self._sending = True
            self._expected.extend(["final"] * (self._accepted if self._lmtp else 1))
            self._events.append(SendContent(stuffed=True))
        elif self._lmtp:
            self._lose("354 without a recipient", reply, at="data")
        else:
            # RFC 2920 section 3.1, where every RCPT was refused: "if the DATA command was accepted the client SMTP
            # should send a single dot"
            self._send("void", b".\r\n")

    def _take_void(self, _reply: Reply) -> None:
        self._end_transaction()

    def _take_final(self, reply: Reply) -> None:
        self._finals.append(reply)
        if "final" not in self._expected:
            self._end_transaction()

    def _closed_in_content(self, reply: Reply) -> None:
        """The server closed before it had the whole content, and had said why; a yes counts for nothing then."""
        self._lose("closed during the content", reply if reply.code >= 400 else None)

    def _end_transaction(self) -> None:
        final = self._finals[-1] if self._finals else self._data_reply
        # A transaction that did not get as far as its content may still be open there, and RFC 3030 section 2 wants
        # RSET behind a failed BDAT: RSET goes in front of the next MAIL.
        self._dirty = not self._finals or (self.chunked and self._finals[0].code >= 300)
        self.in_transaction = False
        finals = self._finals if self._lmtp else []
        result = TransactionResult(self._mail_reply, self._fates(None), final, finals=finals)
        self._events.append(TransactionDone(result))

    def _fates(self, otherwise: Reply | None) -> list[Reply]:
        """Each recipient's own end: the first no on the way, else what the content got, else `otherwise`."""
        mail = self._mail_reply
        if mail is not None and mail.code >= 300:
            return [mail] * self._recipients
        finals = iter(self._finals)
        shared = self._data_reply or (self._finals[0] if self._finals and not self._lmtp else otherwise)
        fates = []
        for reply in self._rcpt_replies:
            if reply.code >= 300:
                fates.append(reply)
            elif self._lmtp:
                fates.append(self._data_reply or next(finals, otherwise) or reply)
            else:
                fates.append(shared or reply)
        return fates + [otherwise or _LOST] * (self._recipients - len(fates))

    def _new_transaction(self, recipients: int, chunked: bool) -> None:
        self._asking = False
        self._recipients = recipients
        self._accepted = 0
        self.chunked = chunked
        self._content_gone = False
        self._mail_reply = None
        self._rcpt_replies = []
        self._data_reply = None
        self._finals = []
        self._dirty = False
        self.in_transaction = True

    # --- endings -------------------------------------------------------------------------------------------------

    def _take_quit(self, _reply: Reply) -> None:
        self._over = True
        self._events.append(Closed())

    def _closed_by_server(self) -> None:
        if self.stage == "quit":
            self._over = True
            self._events.append(Closed())
        else:
            self._lose("connection closed")

    def _lose(self, why: str, reply: Reply | None = None, at: Stage | None = None) -> None:
        """End the session; `at` names the command whose reply was the fault when it is no longer owed."""
        stage = at or self.stage
        self._over = True
        if self.in_transaction:
            self.in_transaction = False
            refusal = reply if reply is not None and reply.code >= 400 else None
            fates = self._fates(refusal or _LOST.with_text(f"Connection lost at {stage}: {why}"))
            unsure = self._content_gone and refusal is None and stage == "final"
            finals = self._finals if self._lmtp else []
            self._events.append(TransactionDone(TransactionResult(self._mail_reply, fates, refusal, unsure, finals)))
        self._events.append(Lost(stage, why, reply))


_MAX_UNREAD: Final = 65_536
"""Octets of replies kept while the content is on its way; more than the replies to 1,000 recipients."""
_BEHIND_STARTTLS: Final = "octets behind the 220 to STARTTLS"
_LOST: Final = Reply(421, "4.4.2", "Connection lost")

_TAKERS: Final[dict[Stage, Callable[[ClientMachine, Reply], None]]] = {
    "greeting": ClientMachine._take_greeting,
    "hello": ClientMachine._take_hello,
    "starttls": ClientMachine._take_starttls,
    "auth": ClientMachine._take_auth,
    "reset": ClientMachine._take_reset,
    "mail": ClientMachine._take_mail,
    "rcpt": ClientMachine._take_rcpt,
    "data": ClientMachine._take_data,
    "void": ClientMachine._take_void,
    "final": ClientMachine._take_final,
    "quit": ClientMachine._take_quit,
}


def _wire(address: Address, smtputf8: bool) -> str:
    if smtputf8:
        return str(address)
    if address.needs_utf8:
        raise ValueError("address needs SMTPUTF8")
    return address.to_ascii()


def _parameter(keyword: str, value: str, *, utf8: bool = False) -> str:
    """One ESMTP parameter with a space in front, nothing for an empty value; raises `ValueError` for a bad one.

    `utf8` allows printable characters beyond ASCII.
    """
    if not value:
        return ""
    if not (_printable(value) or (utf8 and value.isprintable() and " " not in value)):
        raise ValueError(f"{keyword} is not printable")
    return f" {keyword}={value}"
