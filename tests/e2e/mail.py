"""What the tests with real programs do again and again: run one, write a message, read a mailbox, wait for mail."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import make_msgid
from pathlib import Path
from typing import NamedTuple, TypeVar

from tests.live import LiveServer
from tests.programs import SEARCH

Seen = TypeVar("Seen")
NewAccount = Callable[[], str]
"""What the fixture `new_account` gives."""

HOST = "localhost"
PATIENCE_S = 20.0


class Ran(NamedTuple):
    """How a program ended and all it wrote, both streams in order."""

    status: int
    output: str


def ran(command: Sequence[str | Path | int], given: bytes = b"", environment: Mapping[str, str] | None = None) -> Ran:
    """Run a program to its end with a small environment of its own."""
    surroundings = {"PATH": SEARCH, "LC_ALL": "C.UTF-8", "TZ": "UTC"} | dict(environment or {})
    done = subprocess.run(
        [str(word) for word in command],
        input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=50, env=surroundings, check=False,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout.decode("utf-8", "replace"))


def until(look: Callable[[], Seen], patience: float = PATIENCE_S) -> Seen:
    """The first true answer of `look`; fails when there is none in time."""
    end = time.monotonic() + patience
    while not (answer := look()):
        assert time.monotonic() < end, f"not true in {patience} s; it was {answer!r}"
        time.sleep(0.02)
    return answer


def message(sender: str, recipient: str, subject: str, text: str = "Hello.\n") -> EmailMessage:
    """A short message."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, recipient, subject
    mail["Message-ID"] = make_msgid(domain="client.test")
    mail["Date"] = "Mon, 23 Nov 2026 12:00:00 +0000"
    mail.set_content(text)
    return mail


def trusting(certificate: Path) -> ssl.SSLContext:
    """TLS that accepts this certificate and nothing else, and looks at the name in it."""
    return ssl.create_default_context(cafile=str(certificate))


@contextmanager
def submission(server: LiveServer, user: str, password: str = "secret") -> Iterator[smtplib.SMTP]:
    """A logged-in connection to the submission port."""
    with smtplib.SMTP(HOST, server.ports["submission"], timeout=PATIENCE_S) as client:
        client.starttls(context=trusting(server.certificate))
        client.login(user, password)
        yield client


@contextmanager
def mailbox(server: LiveServer, user: str, folder: str = "INBOX") -> Iterator[imaplib.IMAP4]:
    """An IMAP session with a mailbox selected."""
    context = trusting(server.certificate)
    with imaplib.IMAP4_SSL(HOST, server.ports["imaps"], ssl_context=context, timeout=PATIENCE_S) as client:
        client.login(user, "secret")
        assert client.select(folder)[0] == "OK"
        yield client


@contextmanager
def maildrop(server: LiveServer, user: str) -> Iterator[poplib.POP3]:
    """A POP3 session in its transaction state; ended by QUIT."""
    client = poplib.POP3_SSL(HOST, server.ports["pop3s"], context=trusting(server.certificate), timeout=PATIENCE_S)
    client.user(user)
    client.pass_("secret")
    try:
        yield client
    finally:
        client.quit()


def messages(server: LiveServer, user: str, folder: str = "INBOX") -> list[bytes]:
    """Every message of a mailbox, whole."""
    with mailbox(server, user, folder) as client:
        answer = client.uid("FETCH", "1:*", "(BODY.PEEK[])")[1]
    return [part[1] for part in answer if isinstance(part, tuple)]


def arrived(server: LiveServer, user: str, count: int = 1) -> list[bytes]:
    """Wait until a mailbox holds `count` messages; returns them."""

    def look() -> list[bytes]:
        found = messages(server, user)
        return found if len(found) >= count else []

    found = until(look)
    assert len(found) == count
    return found


def body(raw: bytes) -> bytes:
    """What stands behind the header of a message."""
    return raw.partition(b"\r\n\r\n")[2]
