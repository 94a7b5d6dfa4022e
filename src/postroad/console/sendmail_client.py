"""The client's side of SMTP over the server's unix socket, as small as one program's one message allows.

Every recipient ends in one of three ways: taken, refused for good, or later; a connection that breaks makes "later" of
all that nobody answered for.
"""

from __future__ import annotations

import re
import socket
import sys
from typing import Final, NamedTuple

from postroad.console.sysexits import (
    DATA,
    NO_HOST,
    NO_PERMISSION,
    NO_USER,
    SOFTWARE,
    UNAVAILABLE,
    Failure,
)

PATIENCE_S: Final = 60.0
"""Seconds for each answer; the server's last one takes at most 30."""
LINE_OCTETS: Final = 8192
"""Octets of a reply line; the server's have at most 512."""

_ENHANCED: Final = re.compile(r"([245]\.\d{1,3}\.\d{1,3}) ")
_QUEUED: Final = re.compile(r"[Qq]ueued as ([0-9A-Za-z]+)")
_TOO_MANY: Final = "4.5.3"
GO_AHEAD: Final = 354


class Down(Exception):
    """Nobody answers at the socket; the text says why."""


class Answer(NamedTuple):
    """One reply."""

    code: int
    text: str
    """All its lines, with the enhanced code in front."""

    @property
    def good(self) -> bool:
        """Whether it says yes."""
        return 200 <= self.code < 300

    @property
    def later(self) -> bool:
        """Whether it says not now."""
        return 400 <= self.code < 500

    @property
    def enhanced(self) -> str:
        """The status code of RFC 3463; empty when it has none."""
        found = _ENHANCED.match(self.text)
        return found[1] if found else ""

    @property
    def status(self) -> int:
        """The exit status that tells a program of this refusal."""
        enhanced = self.enhanced
        if enhanced[2:] in _BY_ENHANCED:
            return _BY_ENHANCED[enhanced[2:]]
        subject = enhanced[2:3]
        return _BY_SUBJECT.get(subject) or _BY_CODE.get(self.code, UNAVAILABLE)

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


_BY_ENHANCED: Final = {
    "1.0": NO_USER, "1.1": NO_USER, "1.6": NO_USER, "1.2": NO_HOST, "1.10": NO_HOST, "4.4": NO_HOST,
    "1.3": DATA, "1.7": DATA, "2.3": DATA, "3.4": DATA, "5.2": DATA, "5.4": DATA,
}  # fmt: skip
_BY_SUBJECT: Final = {"5": SOFTWARE, "6": DATA, "7": NO_PERMISSION}
_BY_CODE: Final = {
    500: SOFTWARE, 501: DATA, 502: SOFTWARE, 503: SOFTWARE, 530: NO_PERMISSION, 535: NO_PERMISSION, 552: DATA,
    553: DATA,
}  # fmt: skip


class Parcel(NamedTuple):
    """A message with its envelope, ready to be handed over; addresses have domains."""

    sender: str
    recipients: list[str]
    octets: bytes
    notify: str = ""
    ret: str = ""
    envid: str = ""
    smtputf8: bool = False
    requiretls: bool = False


class Fate:
    """What became of each recipient of a parcel."""

    __slots__ = ("ids", "later", "refused", "taken")

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.refused: list[tuple[str, Answer]] = []
        self.later: list[tuple[str, str]] = []
        """With the reason in words."""
        self.ids: list[str] = []
        """Queue ids, in the order of the transactions."""


class Door:
    """One connection to the server. Raises Down when there is none, or when it breaks."""

    def __init__(self, path: str, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PATIENCE_S)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise Down(f"nobody listens on {path} ({error.strerror or error})") from error
        self._lines = self._socket.makefile("rb")
        try:
            self.host, self.offers = self._meet()
        except BaseException:
            self._lines.close()
            self._socket.close()
            raise

    def _meet(self) -> tuple[str, set[str]]:
        """What the server calls itself, which is the domain of every local name, and what it offers."""
        greeting = self.answer()
        if not greeting.good:
            raise Down(f"the server says {greeting}")
        hello = self.ask("EHLO localhost")
        if not hello.good:
            raise Down(f"the server says {hello}")
        return greeting.text.split(" ")[0], {line.split(" ")[0].upper() for line in hello.text.split("\n")[1:]}

    def close(self) -> None:
        """Say goodbye as far as somebody listens."""
        try:
            self._send(b"QUIT\r\n")
        except Down:
            pass
        self._lines.close()
        self._socket.close()

    def ask(self, command: str) -> Answer:
        """Send one line and read its reply."""
        if self._verbose:
            print(f">>> {command}", file=sys.stderr)
        self._send(command.encode("utf-8", "surrogateescape") + b"\r\n")
        return self.answer()

    def answer(self) -> Answer:
        """The next reply. Raises Failure(SOFTWARE) for what is no SMTP."""
        texts = []
        while True:
            try:
                line = self._lines.readline(LINE_OCTETS)
            except OSError as error:
                raise Down(f"the server does not answer ({error.strerror or 'too slow'})") from error
            if not line:
                raise Down("the server ended the connection")
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if self._verbose:
                print(f"<<< {text}", file=sys.stderr)
            if not (text[:3].isascii() and text[:3].isdigit()) or text[3:4] not in ("", " ", "-"):
                raise Failure(SOFTWARE, f"Whoever listens there speaks no SMTP: {text[:80]!r}")
            texts.append(text[4:])
            if text[3:4] != "-":
                return Answer(int(text[:3]), "\n".join(texts))

    def _send(self, octets: bytes) -> None:
        try:
            self._socket.sendall(octets)
        except OSError as error:
            raise Down(f"the server ended the connection ({error.strerror or error})") from error

    # -- mail --------------------------------------------------------------------------------------------------------

    def deliver(self, parcel: Parcel) -> Fate:
        """Hand a parcel over; never raises Down, because the fate of each recipient is known then too."""
        fate = Fate()
        if parcel.requiretls and "REQUIRETLS" not in self.offers:
            raise Failure(UNAVAILABLE, "requiretls=yes was asked for, and this server does not offer REQUIRETLS")
        waiting = list(dict.fromkeys(parcel.recipients))
        try:
            while waiting:
                # Beyond its limit a server answers 452 4.5.3, and the rest goes into another transaction.
                left = self._transaction(parcel, waiting, fate)
                if len(left) == len(waiting):
                    fate.later += [(recipient, "the server takes no more recipients") for recipient in left]
                    break
                waiting = left
        except Down as down:
            known = {*fate.taken, *(name for name, _ in (*fate.refused, *fate.later))}
            fate.later += [(recipient, str(down)) for recipient in parcel.recipients if recipient not in known]
        return fate

    def _transaction(self, parcel: Parcel, recipients: list[str], fate: Fate) -> list[str]:
        """One transaction; returns the recipients that did not fit into it."""
        mail = self.ask(f"MAIL FROM:<{parcel.sender}>{_mail_words(parcel)}")
        if not mail.good:
            _all(recipients, mail, fate)
            return []
        accepted: list[str] = []
        left: list[str] = []
        wishes = f" NOTIFY={parcel.notify}" if parcel.notify else ""
        for recipient in recipients:
            answer = self.ask(f"RCPT TO:<{recipient}>{wishes}")
            if answer.good:
                accepted.append(recipient)
            elif answer.enhanced == _TOO_MANY:
                left.append(recipient)
            else:
                _all([recipient], answer, fate)
        if not accepted:
            self.ask("RSET")
            return left
        answer = self.ask("DATA")
        if answer.code == GO_AHEAD:
            self._send(stuffed(parcel.octets))
            answer = self.answer()
        elif answer.good:
            raise Failure(SOFTWARE, f"Whoever listens there speaks no SMTP: {answer} to DATA")
        if answer.good:
            fate.taken += accepted
            found = _QUEUED.search(answer.text)
            fate.ids.append(found[1] if found else "")
        else:
            _all(accepted, answer, fate)
        return left

    def examine(self, recipients: list[str]) -> list[tuple[str, Answer]]:
        """What the server says to each recipient; nothing is sent."""
        answers = []
        mail = self.ask("MAIL FROM:<>")
        for recipient in recipients:
            answers.append((recipient, self.ask(f"RCPT TO:<{recipient}>") if mail.good else mail))
        self.ask("RSET")
        return answers


def _all(recipients: list[str], answer: Answer, fate: Fate) -> None:
    if answer.later:
        fate.later += [(recipient, str(answer)) for recipient in recipients]
    else:
        fate.refused += [(recipient, answer) for recipient in recipients]


def _mail_words(parcel: Parcel) -> str:
    """The parameters of MAIL."""
    words = [f"SIZE={len(parcel.octets)}"]
    if not parcel.octets.isascii():
        words.append("BODY=8BITMIME")
    if parcel.smtputf8 or not all(one.isascii() for one in (parcel.sender, *parcel.recipients)):
        words.append("SMTPUTF8")
    if parcel.requiretls:
        words.append("REQUIRETLS")
    if parcel.ret:
        words.append(f"RET={parcel.ret}")
    if parcel.envid:
        words.append(f"ENVID={xtext(parcel.envid)}")
    return " " + " ".join(words)


def stuffed(octets: bytes) -> bytes:
    """Content in wire form as DATA carries it: dots doubled at line starts, the lone dot behind it (RFC 5321 4.5.2)."""
    doubled = octets.replace(b"\r\n.", b"\r\n..")
    return (b"." if doubled.startswith(b".") else b"") + doubled + b".\r\n"


def xtext(text: str) -> str:
    """RFC 3461 section 4: printable ASCII without "+" and "=", everything else as +XX."""
    octets = text.encode("utf-8", "surrogateescape")
    return "".join(chr(one) if 33 <= one <= 126 and one not in b"+=" else f"+{one:02X}" for one in octets)
