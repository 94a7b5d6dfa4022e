"""-bs: standard input and output joined to the server's socket, until either side ends."""

from __future__ import annotations

import os
import select
import socket
from typing import Final

from postroad.console.sysexits import OK, TRY_AGAIN

PIECE: Final = 65_536


def join(path: str, source: int, sink: int) -> int:
    """Pass octets both ways until the server ends; returns the exit status.

    Without a server the program gets a 421, which every SMTP client understands.
    """
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.connect(path)
    except OSError:
        _write(sink, b"421 4.3.2 The mail server is down. Please retry later\r\n")
        return TRY_AGAIN
    sources: list[int] = [source, server.fileno()]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if source in ready:
            octets = os.read(source, PIECE)
            try:
                if octets:
                    server.sendall(octets)
                else:
                    sources.remove(source)
                    server.shutdown(socket.SHUT_WR)
            except OSError:
                sources = [server.fileno()]
        if server.fileno() in ready:
            try:
                octets = server.recv(PIECE)
            except OSError:
                return TRY_AGAIN
            if not octets:
                return OK
            if not _write(sink, octets):
                return OK


def _write(sink: int, octets: bytes) -> bool:
    """All of it; False when nobody reads any more."""
    left = memoryview(octets)
    try:
        while left:
            left = left[os.write(sink, left) :]
    except OSError:
        return False
    return True
