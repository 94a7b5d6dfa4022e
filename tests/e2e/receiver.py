"""What a test sees of a server of others that takes our mail, whichever program it is."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.mail import until

USERS = ("bob", "late", "böb")
"""Who exists at a receiver; everybody else is refused at RCPT."""

LATE = "after my coffee"
"""How a receiver puts off mail for late@, until it has changed its mind."""

SIZE = 200_000
"""Octets of the longest message that a receiver takes."""


@dataclass
class Receiver:
    """A running server for the mailboxes `USERS` of one domain."""

    domain: str
    folder: Path
    log_file: Path
    change_mind: Callable[[], None]
    """From now on it takes mail for late@."""

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    def mail(self, user: str = "bob") -> list[bytes]:
        """Messages in a mailbox, with line ends as on the wire."""
        inbox = self.folder / "mail" / user / "new"
        if not inbox.exists():
            return []
        return [file.read_bytes().replace(b"\n", b"\r\n") for file in sorted(inbox.iterdir())]

    def arrived(self, subject: str, user: str = "bob") -> bytes:
        """Waits for the message with this subject and returns it."""
        line = f"\r\nSubject: {subject}\r\n".encode()
        return until(lambda: next((raw for raw in self.mail(user) if line in raw), None)) or b""

    def count(self, subject: str, user: str = "bob") -> int:
        """How many messages with a subject that begins so have arrived."""
        start = f"\r\nSubject: {subject}".encode()
        return sum(start in raw for raw in self.mail(user))


def greets(host: str, port: int) -> bool:
    """Whether somebody says 220 there."""
    try:
        with socket.create_connection((host, port), timeout=5) as sock:
            return sock.recv(3) == b"220"
    except OSError:
        return False
