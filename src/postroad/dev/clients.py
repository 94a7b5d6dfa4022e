"""What the users of the playground use: mail programs over TLS, made of Python's own smtplib, poplib and imaplib.

They are none of our code, so what they see is what any program would see. All of it blocks.
"""

from __future__ import annotations

import imaplib
import poplib
import re
import smtplib
import ssl
from dataclasses import dataclass
from typing import Final

from postroad.dev.layout import HERE, PASSWORD, Layout
from postroad.dev.organisation import has_message_id, send_one, tls_version

PATIENCE_S: Final = 10.0
NEWEST: Final = 20
"""Messages at the end of a mailbox that are looked at: a kept playground may have thousands."""

_QUEUED: Final = re.compile(r"Queued as ([0-9A-Z]{13})\b")
_REFERENCE: Final = re.compile(r"Ref ([0-9A-Z]{13})\b")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What our server said to a mail handed in."""

    code: int
    reply: str
    """The whole reply in one line."""
    tls: str

    @property
    def ident(self) -> str:
        """Queue id, or the reference of a refusal; empty when the reply names neither."""
        return ident_in(self.reply)


def ident_in(reply: str) -> str:
    """The queue id or reference that a reply of our server names; empty when it names none."""
    found = _QUEUED.search(reply) or _REFERENCE.search(reply)
    return found[1] if found else ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A message as a mailbox shows it, with the line by which the server announced it."""

    message: bytes
    line: str


class User:
    """One person with an account here, and the mail programs that person uses."""

    def __init__(self, address: str, layout: Layout, password: str = PASSWORD) -> None:
        self.address = address
        self._password = password
        self._ports = layout.ports
        self._trust = ssl.create_default_context(cafile=str(layout.ca_file))

    def hand_in(self, recipient: str, message: bytes, *, starttls: bool = True) -> Receipt:
        """Submits a mail with a login: on the port that begins in the clear, or on the one with TLS at once.

        Raises OSError or smtplib.SMTPException (a refused login among them).
        """
        if starttls:
            connection: smtplib.SMTP = smtplib.SMTP(HERE, self._ports.submission, "laptop.dev.test", PATIENCE_S)
        else:
            connection = smtplib.SMTP_SSL(
                HERE, self._ports.submissions, "laptop.dev.test", timeout=PATIENCE_S, context=self._trust
            )
        with connection:
            if starttls:
                connection.starttls(context=self._trust)
            connection.login(self.address, self._password)
            tls = tls_version(connection.sock)
            code, text = send_one(connection, self.address, recipient, message)
        return Receipt(code, f"{code} {text}", tls)

    def by_pop3(self, message_id: str) -> Seen | None:
        """The message with a Message-ID (without brackets) in the mailbox, read by POP3 over TLS; None when absent."""
        mailbox = poplib.POP3_SSL(HERE, self._ports.pop3s, timeout=PATIENCE_S, context=self._trust)
        try:
            mailbox.user(self.address)
            mailbox.pass_(self._password)
            count, _ = mailbox.stat()
            for number in range(count, max(0, count - NEWEST), -1):
                said, lines, _ = mailbox.retr(number)
                message = b"\r\n".join(lines) + b"\r\n"
                if has_message_id(message, message_id):
                    return Seen(message, said.decode("utf-8", "replace"))
        finally:
            mailbox.quit()
        return None

    def reports(self) -> list[bytes]:
        """The newest messages that are delivery reports, newest first, read by POP3 over TLS."""
        mailbox = poplib.POP3_SSL(HERE, self._ports.pop3s, timeout=PATIENCE_S, context=self._trust)
        try:
            mailbox.user(self.address)
            mailbox.pass_(self._password)
            count, _ = mailbox.stat()
            numbers = range(count, max(0, count - NEWEST), -1)
            messages = [b"\r\n".join(mailbox.retr(number)[1]) + b"\r\n" for number in numbers]
        finally:
            mailbox.quit()
        return [message for message in messages if b"report-type=delivery-status" in message]

    def by_imap(self, message_id: str) -> Seen | None:
        """The same by IMAP over TLS, without marking it as read."""
        mailbox = imaplib.IMAP4_SSL(HERE, self._ports.imaps, ssl_context=self._trust, timeout=PATIENCE_S)
        try:
            mailbox.login(self.address, self._password)
            _, counted = mailbox.select("INBOX", readonly=True)
            count = int(counted[0] or b"0")
            for number in range(count, max(0, count - NEWEST), -1):
                message = _fetched(mailbox, number)
                if has_message_id(message, message_id):
                    return Seen(message, f"* {count} EXISTS")
        finally:
            mailbox.logout()
        return None


def _fetched(mailbox: imaplib.IMAP4, number: int) -> bytes:
    _, answered = mailbox.fetch(str(number), "(BODY.PEEK[])")
    first = answered[0] if answered else None
    return first[1] if isinstance(first, tuple) else b""
