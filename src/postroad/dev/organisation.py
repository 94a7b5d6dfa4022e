"""Another organisation: a small but real mail server behind its own MX, and the people who write from there.

It receives through the same protocol machine as our own server, and sends with Python's own smtplib after asking the
private DNS, so that not both ends of every conversation are ours. What arrives is kept in memory.
"""

from __future__ import annotations

import asyncio
import re
import smtplib
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate, make_msgid
from typing import Final

import dns.exception
import dns.resolver

from postroad.dev.layout import HERE, mail_host
from postroad.dev.threads import in_thread
from postroad.net.tls import ServerTls
from postroad.serve.conversation import Conversation, Watch
from postroad.values.reply import Reply
from postroad.wire.mime.compose import Composer, UnsafeHeader
from postroad.wire.smtp import events as on
from postroad.wire.smtp.extensions import Door
from postroad.wire.smtp.server import ServerMachine

LETTERS_MAX: Final = 1000
"""Letters kept; the oldest goes first, so that a load test against the playground does not fill the memory."""
CLIENT_PATIENCE_S: Final = 10.0

ACCEPTED: Final = Reply(250, "2.1.5", "Recipient OK")
SENDER_OK: Final = Reply(250, "2.1.0", "Sender OK")
GO_AHEAD: Final = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
OK: Final = Reply(250, "2.0.0", "OK")
BYE: Final = Reply(221, "2.0.0", "Bye")
NO_TLS: Final = Reply(454, "4.7.0", "TLS is not available")
NOT_HERE: Final = Reply(550, "5.7.1", "We do not relay")
PLEASE_WAIT: Final = Reply(451, "4.7.1", "Not before my coffee. Come back in a moment.")
BUG: Final = Reply(421, "4.3.0", "Internal problem")
GOING_DOWN: Final = Reply(421, "4.3.2", "The playground ends")
TIMEOUT: Final = Reply(421, "4.4.2", "Timeout")


@dataclass(frozen=True, slots=True)
class Letter:
    """One message for one recipient, as an organisation received it."""

    sender: str
    recipient: str
    message: bytes
    tls: str
    """Version of TLS it came by; empty when it came in the clear."""
    peer: str
    at: float
    """Monotonic time."""

    def has(self, message_id: str) -> bool:
        """Whether this is the message with a Message-ID (without brackets)."""
        return has_message_id(self.message, message_id)


@dataclass(frozen=True, slots=True)
class Posted:
    """What another server said to a mail somebody here sent."""

    recipient: str
    reply: str
    """The reply that decided: to RCPT when that was refused, else to the content."""
    code: int
    host: str
    tls: str
    message_id: str
    answers: str = ""
    """Message-ID of the mail that this one answers."""


Answer = Callable[[str, str], Reply]
"""Sender and recipient -> what RCPT is answered."""
Reaction = Callable[["Organisation", Letter], Awaitable[None]]


def welcoming(sender: str, recipient: str) -> Reply:
    """Everybody gets mail here, but for those whom every organisation lacks."""
    return by_name(recipient) or ACCEPTED


class FirstSayLater:
    """Says 451 to the first attempt from a sender to a recipient, accepts the next one, and begins again."""

    def __init__(self) -> None:
        self.met: set[tuple[str, str]] = set()

    def __call__(self, sender: str, recipient: str) -> Reply:
        """The answer to one RCPT."""
        named = by_name(recipient)
        if named is not None:
            return named
        pair = (sender, recipient)
        if pair in self.met:
            self.met.remove(pair)
            return ACCEPTED
        self.met.add(pair)
        return PLEASE_WAIT


def by_name(recipient: str) -> Reply | None:
    """The answer that a recipient's name itself asks for: nobody@ is unknown, 552@ is answered 552."""
    local = recipient.partition("@")[0].lower()
    if local == "nobody":
        return Reply(550, "5.1.1", f"No mailbox {recipient} here")
    if re.fullmatch("[45][0-5][0-9]", local):
        return Reply(int(local), f"{local[0]}.0.0", f"{local}, as the address asks for")
    return None


@dataclass(slots=True)
class Organisation:
    """One domain with its mail server; `start` makes it listen."""

    domain: str
    address: str
    answer: Answer = welcoming
    react: Reaction | None = None
    """Called for every letter that arrived."""
    letters: list[Letter] = field(default_factory=list)
    refused: list[tuple[str, Reply]] = field(default_factory=list)
    """Recipients and what they were answered, when it was not 250."""
    posted: list[Posted] = field(default_factory=list)
    tls: ServerTls | None = None
    nameserver_port: int = 53
    world_port: int = 25
    """Port of the servers that this organisation sends to."""
    ca_file: str = ""
    _server: asyncio.Server | None = None
    _watch: Watch | None = None
    _reactions: set[asyncio.Task[None]] = field(default_factory=set)

    # -- receiving ---------------------------------------------------------------------------------------------------

    async def start(self, port: int) -> int:
        """Listens on its own address; returns the port. Raises OSError when that is not possible."""
        loop = asyncio.get_running_loop()
        watch = self._watch = Watch(loop)
        self._server = await loop.create_server(
            lambda: Conversation(watch, loop, lambda wire: Reception(wire, self)), self.address, port
        )
        watch.start()
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stops listening and hangs up."""
        for task in self._reactions:
            task.cancel()
        if self._server is not None:
            self._server.close()
        if self._watch is not None:
            self._watch.stop()
            for conversation in list(self._watch.conversations):
                conversation.close()

    def take(self, letter: Letter) -> None:
        """Keeps a letter that arrived, and lets somebody react."""
        self.letters.append(letter)
        del self.letters[:-LETTERS_MAX]
        if self.react is not None:
            task = asyncio.get_running_loop().create_task(_quietly(self.react(self, letter)))
            self._reactions.add(task)
            task.add_done_callback(self._reactions.discard)

    # -- sending (blocking: called in a thread of its own) -------------------------------------------------------------

    def post(self, sender: str, recipient: str, message: bytes, message_id: str, answers: str = "") -> Posted:
        """Sends a mail to the MX of its recipient's domain, over TLS when that is offered.

        Raises OSError, smtplib.SMTPException or dns.exception.DNSException when it does not come to an answer.
        """
        host, address = self._mail_exchanger(recipient.rpartition("@")[2])
        with ToHost(host, address, self.world_port, mail_host(self.domain), self.address) as connection:
            connection.ehlo()
            tls = ""
            if connection.has_extn("starttls"):
                connection.starttls(context=ssl.create_default_context(cafile=self.ca_file or None))
                connection.ehlo()
                tls = tls_version(connection.sock)
            code, text = send_one(connection, sender, recipient, message)
        posted = Posted(recipient, f"{code} {text}", code, host, tls, message_id, answers)
        self.posted.append(posted)
        del self.posted[:-LETTERS_MAX]
        return posted

    def _mail_exchanger(self, domain: str) -> tuple[str, str]:
        """Host and IPv4 address of a domain's best MX, asked of the private DNS by real packets."""
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = [HERE]
        resolver.port = self.nameserver_port
        resolver.lifetime = CLIENT_PATIENCE_S
        best = min(resolver.resolve(domain, "MX"), key=lambda mx: mx.preference)
        host = best.exchange.to_text(omit_final_dot=True)
        return host, resolver.resolve(host, "A")[0].address


async def _quietly(reaction: Awaitable[None]) -> None:
    """Runs a reaction; the other server may be gone or refuse, which is not our organisation's trouble."""
    try:
        await reaction
    except (OSError, smtplib.SMTPException, dns.exception.DNSException, UnsafeHeader):
        return


class ToHost(smtplib.SMTP):
    """A connection to an address by which a host was found; TLS is verified against the host's name."""

    def __init__(self, host: str, address: str, port: int, own_name: str, own_address: str) -> None:
        self._address = address
        super().__init__(
            host, port, local_hostname=own_name, timeout=CLIENT_PATIENCE_S, source_address=(own_address, 0)
        )

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return socket.create_connection((self._address, port), timeout, self.source_address)


def send_one(connection: smtplib.SMTP, sender: str, recipient: str, message: bytes) -> tuple[int, str]:
    """One transaction for one recipient; returns the reply that decided, its lines joined."""
    for code, said in (connection.mail(sender), connection.rcpt(recipient)):
        if code >= 400:
            connection.rset()
            return code, _text(said)
    code, said = connection.data(message)
    return code, _text(said)


def _text(said: bytes) -> str:
    return said.decode("utf-8", "replace").replace("\n", " / ")


def tls_version(sock: socket.socket | None) -> str:
    """ "TLSv1.3" for a protected connection, else empty."""
    return (sock.version() or "") if isinstance(sock, ssl.SSLSocket) else ""


# -- one conversation ------------------------------------------------------------------------------------------------


class Reception:
    """One client at an organisation's door: the session of a `Conversation`."""

    def __init__(self, wire: Conversation, organisation: Organisation) -> None:
        self._wire = wire
        self._organisation = organisation
        door = Door("mx", starttls=organisation.tls is not None)
        self.machine = ServerMachine(hostname=mail_host(organisation.domain), door=door)
        self._sender = ""
        self._recipients: list[str] = []
        self._content: list[bytes] = []

    def opened(self) -> None:
        """Greets."""
        self.machine.greet(Reply(220, "", "ESMTP"))

    async def handle(self, event: on.Event) -> None:
        """Carries out one event."""
        match event:
            case on.Mail(sender):
                self._sender = str(sender) if sender is not None else ""
                self._forget()
                self.machine.answer(SENDER_OK)
            case on.Rcpt(address):
                self.machine.answer(self._recipient(str(address), address.domain))
            case on.DataStart():
                self.machine.answer(GO_AHEAD)
            case on.Content(chunk):
                self._content.append(chunk)
            case on.ContentEnd():
                self._deliver()
                self.machine.answer(Reply(250, "2.0.0", f"Thank you, {self._organisation.domain} has it"))
            case on.StartTls():
                await self._start_tls()
            case on.Quit():
                self.machine.answer(BYE)
            case on.AuthCancel(reply):
                self.machine.answer(reply)
            case on.ContentRefused() | on.EndOfStream():
                self._forget()
            case on.Verify():
                self.machine.answer(Reply(252, "2.5.2", "Send some mail"))
            case _:
                if isinstance(event, on.Hello | on.Rset):
                    self._forget()
                self.machine.answer(OK if not isinstance(event, on.Hello) else Reply(250, "", ""))

    def _recipient(self, recipient: str, domain: str) -> Reply:
        organisation = self._organisation
        reply = organisation.answer(self._sender, recipient) if domain == organisation.domain else NOT_HERE
        if reply.positive:
            self._recipients.append(recipient)
        else:
            organisation.refused.append((recipient, reply))
            del organisation.refused[:-LETTERS_MAX]
        return reply

    def _deliver(self) -> None:
        message = b"".join(self._content)
        tls = self._wire.tls_text().partition(" ")[0]
        for recipient in self._recipients:
            letter = Letter(self._sender, recipient, message, tls, self._wire.peer, time.monotonic())
            self._organisation.take(letter)
        self._forget()

    async def _start_tls(self) -> None:
        tls = self._organisation.tls
        if tls is None:
            self.machine.answer(NO_TLS)
            return
        self.machine.answer(Reply(220, "2.0.0", "Ready to start TLS"))
        try:
            await self._wire.start_tls(tls.context)
        except OSError as error:
            raise ConnectionResetError(f"TLS handshake failed: {error}") from None
        self.machine.tls_started()

    def _forget(self) -> None:
        self._recipients = []
        self._content = []

    def timed_out(self) -> None:
        """Says 421 and closes."""
        self.machine.close_with(TIMEOUT)

    def failed(self) -> None:
        """Says that it is our fault, and closes."""
        self.machine.close_with(BUG)

    def lost(self) -> None:
        """Nothing was promised for what is open."""
        self._forget()

    def drain(self) -> None:
        """Says that this ends, and closes."""
        self.machine.close_with(GOING_DOWN)
        self._wire.turn_soon()

    def penalty_s(self) -> float:
        """Nothing is held back here."""
        return 0.0

    def deadline(self, now: float) -> float:
        """As long as the machine is patient."""
        return now + self.machine.patience


# -- answering mail ----------------------------------------------------------------------------------------------------

_ID: Final = re.compile(rb"^message-id:\s*<([^>\r\n]{1,200})>", re.IGNORECASE | re.MULTILINE)
_AUTOMATIC: Final = re.compile(rb"^auto-submitted:[ \t]*(?!no\b)(?=\S)", re.IGNORECASE | re.MULTILINE)


def message_id_of(message: bytes) -> str:
    """The Message-ID of a message without brackets, empty when it has none."""
    found = _ID.search(_head(message))
    return found[1].decode("ascii", "replace") if found else ""


def has_message_id(message: bytes, message_id: str) -> bool:
    """Whether a message has this Message-ID (without brackets)."""
    return bool(message_id) and message_id_of(message) == message_id


def _head(message: bytes) -> bytes:
    end = message.find(b"\r\n\r\n")
    return message if end < 0 else message[:end]


def wants_answer(letter: Letter) -> bool:
    """Whether a person would answer: never a report or another automatic answer (RFC 3834 section 2)."""
    return bool(letter.sender) and not _AUTOMATIC.search(_head(letter.message))


async def write_back(organisation: Organisation, letter: Letter) -> None:
    """The recipient of a letter answers it, by the MX of the sender's domain."""
    if not wants_answer(letter):
        return
    message_id, message = answer_to(letter)
    answers = message_id_of(letter.message)
    await in_thread(organisation.post, letter.recipient, letter.sender, message, message_id, answers)


def answer_to(letter: Letter) -> tuple[str, bytes]:
    """Message-ID (without brackets) and octets of a friendly answer."""
    domain = letter.recipient.rpartition("@")[2]
    message_id = make_msgid(domain=domain).strip("<>")
    mail = Composer()
    mail.add_structured("From", letter.recipient)
    mail.add_structured("To", letter.sender)
    mail.add("Subject", "Thank you for your mail")
    mail.add_structured("Date", formatdate(localtime=True))
    mail.add_structured("Message-ID", f"<{message_id}>")
    if answered := message_id_of(letter.message):
        mail.add_structured("In-Reply-To", f"<{answered}>")
    mail.add_structured("Auto-Submitted", "auto-replied")
    how = f"by {letter.tls}" if letter.tls else "without encryption"
    text = f"Your mail has reached {domain} {how}.\nThis answer came to you by the MX record of your domain.\n"
    return message_id, mail.text(text)
