"""A small SMTP server on a unix socket that says what a test tells it to, and remembers what it heard."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

USUAL = {
    "EHLO": "250-mx.h.test\r\n250-8BITMIME\r\n250 SIZE 1000000",
    "MAIL": "250 2.1.0 ok",
    "RCPT": "250 2.1.5 ok",
    "DATA": "354 go",
    ".": "250 2.0.0 Queued as 0ABC",
    "RSET": "250 2.0.0 ok",
    "QUIT": "221 2.0.0 bye",
}
HANG_UP = ""
"""An answer that is none: the connection ends."""


class Scripted:
    """Answers by the longest beginning of a command that the script knows; one connection after another."""

    def __init__(self, path: Path, script: Mapping[str, str], greeting: str) -> None:
        self.script = USUAL | dict(script)
        self.greeting = greeting
        self.commands: list[str] = []
        self.contents: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let nobody in any more."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as lines:
                try:
                    peer.sendall(self.greeting.encode() + b"\r\n")
                    while (line := lines.readline()) and self._answer(peer, line, lines):
                        pass
                except OSError:
                    continue

    def _answer(self, peer: socket.socket, line: bytes, lines: Iterator[bytes]) -> bool:
        command = line.decode().rstrip("\r\n")
        self.commands.append(command)
        reply = self._reply(command)
        if not reply:
            return False
        peer.sendall(reply.encode() + b"\r\n")
        if reply.startswith("354"):
            content = []
            for octets in lines:
                if octets == b".\r\n":
                    break
                content.append(octets)
            self.contents.append(b"".join(content))
            end = self._reply(".")
            if not end:
                return False
            peer.sendall(end.encode() + b"\r\n")
        return command != "QUIT"

    def _reply(self, command: str) -> str:
        known = [beginning for beginning in self.script if command.startswith(beginning)]
        return self.script[max(known, key=len)] if known else "500 5.5.1 what"


@contextmanager
def scripted(
    path: Path, script: Mapping[str, str] | None = None, greeting: str = "220 mx.h.test ESMTP"
) -> Iterator[Scripted]:
    """A server for one test."""
    server = Scripted(path, script or {}, greeting)
    try:
        yield server
    finally:
        server.close()
