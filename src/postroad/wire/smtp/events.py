"""What the SMTP machines say to their drivers.

Server side: an event that is a command stays open until the driver answers it with one `Reply`; those that are not
(`Content`, `ContentRefused`, `EndOfStream`) say so. Client side: no event is answered, each tells how far it got.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from postroad.values.address import Address
from postroad.values.reply import Reply
from postroad.wire.smtp.extensions import Extensions

# --- server: commands, each needs exactly one answer -------------------------------------------------------------


@dataclass(slots=True)
class Hello:
    """EHLO, HELO or LHLO. A 250 puts the driver's text behind our own name; the machine adds the extensions."""

    verb: str
    """"EHLO", "HELO" or, at an LMTP door, "LHLO"."""
    name: str
    """What the client calls itself: printable text, checked for nothing else."""


@dataclass(frozen=True, slots=True)
class MailParams:
    """Parameters of MAIL FROM; an absent one has its default."""

    size: int = 0
    """Octets the client expects to send (RFC 1870); 0 when it did not say."""
    body: str = ""
    """"7BIT", "8BITMIME" (RFC 6152), "BINARYMIME" (RFC 3030 section 3) or empty."""
    smtputf8: bool = False
    auth: str | None = None
    """AUTH= decoded from xtext (RFC 4954 section 5); "<>" for a sender unknown, None when absent."""
    ret: str = ""
    """"FULL", "HDRS" or empty (RFC 3461 section 4.3)."""
    envid: str = ""
    """ENVID as sent, still in xtext (RFC 3461 section 4.4)."""
    requiretls: bool = False
    """REQUIRETLS (RFC 8689 section 2)."""
    hold_until_us: int = 0
    """When the message shall leave (RFC 4865), in microseconds since 1970; 0 for at once.

    HOLDFOR and HOLDUNTIL both end up here, HOLDFOR counted from the MAIL command."""


@dataclass(frozen=True, slots=True)
class RcptParams:
    """Parameters of RCPT TO (RFC 3461 sections 4.1 and 4.2); empty when absent."""

    notify: str = ""
    """Upper case: "NEVER" or any of "SUCCESS", "FAILURE", "DELAY" joined by commas."""
    orcpt: str = ""
    """ORCPT as sent, still in xtext: "rfc822;anna@example.org"."""


NO_MAIL_PARAMS: Final = MailParams()
NO_RCPT_PARAMS: Final = RcptParams()


@dataclass(slots=True)
class Mail:
    """MAIL FROM: a 2yz answer opens the transaction."""

    sender: Address | None
    """None for the null reverse-path."""
    params: MailParams = NO_MAIL_PARAMS


@dataclass(slots=True)
class Rcpt:
    """RCPT TO: a 2yz answer accepts the recipient."""

    address: Address
    params: RcptParams = NO_RCPT_PARAMS
    bare_postmaster: bool = False
    """The client wrote `<Postmaster>` alone, which every server takes (RFC 5321 section 4.5.1): `address` is the
    postmaster of our own host name."""


@dataclass(slots=True)
class DataStart:
    """DATA: a 354 answer lets the content in, any other one ends the transaction."""


@dataclass(slots=True)
class ChunkEnd:
    """A BDAT chunk that is not the last has come whole."""

    size: int
    total: int


@dataclass(slots=True)
class ContentEnd:
    """The content has come whole; whatever is answered, the transaction ends with it.

    At an LMTP door `answer` says the same for every recipient, and `answer_all` something for each.
    """

    size: int
    """Octets of content, without dots of transparency."""


@dataclass(slots=True)
class StartTls:
    """STARTTLS: behind the 220 the driver makes the handshake and calls `tls_started`."""


@dataclass(slots=True)
class Auth:
    """AUTH: answered by 334 (a challenge), 235 or a refusal."""

    mechanism: str
    """Upper case, one of those offered."""
    initial: bytes | None = field(repr=False)
    """Initial response decoded from base64; None when there was none."""


@dataclass(slots=True)
class AuthResponse:
    """The client's answer to a 334, decoded from base64; answered like AUTH itself."""

    octets: bytes = field(repr=False)


@dataclass(slots=True)
class AuthCancel:
    """The exchange is over without a result; `reply` is what to answer."""

    reply: Reply


@dataclass(slots=True)
class Rset:
    """RSET: the transaction is gone already."""


@dataclass(slots=True)
class Noop:
    """NOOP."""


@dataclass(slots=True)
class Help:
    """HELP with what stood behind it."""

    about: str


@dataclass(slots=True)
class Verify:
    """VRFY or EXPN with what stood behind it."""

    verb: str
    text: str


@dataclass(slots=True)
class XClient:
    """XCLIENT: a 220 answer begins the session anew, for the client that the peer speaks for.

    What is None was not given and stays as it was; what is empty or 0 is said to be unavailable.
    """

    name: str | None = None
    """Host name of the client."""
    name_later: bool = False
    """The name could not be looked up for the moment; `name` is empty."""
    address: str | None = None
    """IP address of the client, in canonical form."""
    port: int | None = None
    protocol: str | None = None
    """"SMTP" or "ESMTP"."""
    helo: str | None = None
    """What the client called itself: it stays so whatever the peer says behind EHLO."""
    login: str | None = None
    """Whom the peer has authenticated."""
    local_address: str | None = None
    """IP address that the client connected to."""
    local_port: int | None = None

    def hello(self, said: Hello) -> Hello:
        """What the client said by way of greeting, when the peer that speaks for it says `said`."""
        verb = {"SMTP": "HELO", "ESMTP": "EHLO"}.get(self.protocol or "", said.verb)
        return Hello(verb, self.helo or said.name)


@dataclass(slots=True)
class Quit:
    """QUIT: the connection ends with the answer."""


# --- server: not commands ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Content:
    """Octets of the message, dots removed; needs no answer."""

    chunk: bytes = field(repr=False)


@dataclass(slots=True)
class ContentRefused:
    """The machine itself has refused the message (too big, a line too long) and told the peer; needs no answer.

    The transaction is gone and so must be what the driver has kept of the content.
    """

    reply: Reply
    size: int


@dataclass(slots=True)
class EndOfStream:
    """No more commands will come, and an open transaction is void; needs no answer.

    Comes once: when the peer closed, or when the machine said its last word (`reply`) by itself.
    """

    why: str
    """Short and stable: "peer closed", "bare LF", "too many errors", ..."""
    reply: Reply | None = None


Command = (
    Hello
    | Mail
    | Rcpt
    | DataStart
    | ChunkEnd
    | ContentEnd
    | StartTls
    | Auth
    | AuthResponse
    | AuthCancel
    | Rset
    | Noop
    | Help
    | Verify
    | XClient
    | Quit
)
Event = Command | Content | ContentRefused | EndOfStream


# --- client --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Ready:
    """The session is open and no transaction is: `begin` or `quit` may follow."""

    extensions: Extensions


@dataclass(slots=True)
class TlsWanted:
    """The server said 220 to STARTTLS: the driver makes the handshake and calls `tls_started`."""


@dataclass(slots=True)
class StartTlsRefused:
    """The server would not start TLS; `reply` is None when it did not offer it.

    With "may" the session goes on in the clear, with "must" the machine says QUIT.
    """

    reply: Reply | None


@dataclass(slots=True)
class SendContent:
    """The driver writes the content now and calls `content_sent`.

    `stuffed`: in the form `wire.data.Stuffer` makes, with the end mark. Otherwise exactly `size` octets as they are
    (BDAT).
    """

    stuffed: bool
    size: int = 0


@dataclass(slots=True)
class TransactionResult:
    """What became of one transaction, recipient by recipient."""

    mail: Reply | None
    """The reply to MAIL; None when none came."""
    recipients: list[Reply]
    """The final fate of each recipient, in the order given to `begin`."""
    final: Reply | None = None
    """The reply to the content (or the one that refused DATA); None when it did not come to that."""
    unsure: bool = False
    """The content was sent whole and its reply never came: the server may or may not have the message."""
    finals: list[Reply] = field(default_factory=list)
    """LMTP: the replies to the content, one for each recipient that was accepted."""


@dataclass(slots=True)
class TransactionDone:
    """A transaction has ended, well or not."""

    result: TransactionResult


@dataclass(slots=True)
class Refused:
    """The session did not come to be: `stage` is "greeting", "hello" or "auth". The machine says QUIT."""

    stage: str
    reply: Reply


@dataclass(slots=True)
class Lost:
    """The connection cannot be used any more: closed, out of step, or closed by a 421 (`reply`)."""

    stage: str
    """"greeting", "hello", "starttls", "auth", "ready", "mail", "rcpt", "data", "content", "final", "reset" or
    "quit"."""
    why: str
    reply: Reply | None = None


@dataclass(slots=True)
class Closed:
    """The server answered QUIT or closed after it."""


ClientEvent = Ready | TlsWanted | StartTlsRefused | SendContent | TransactionDone | Refused | Lost | Closed
