"""Answers to an authority that checks whether a name is ours: HTTP-01 (RFC 8555 section 8.3), TLS-ALPN-01 (RFC 8737).

The listening sockets are open as long as the server runs, because ports below 1024 can only be opened at its start.
Strangers find nothing there: HTTP gets a 404, and TLS is not begun unless a challenge waits for its answer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from postroad.net.acme import HTTP_01, TLS_ALPN_01
from postroad.net.acme_keys import challenge_certificate

HEAD_MAX: Final = 8192
"""Octets of a request's head; an authority's has about 300."""
CONNECTION_MAX_S: Final = 10.0
"""A connection ends after this, whatever happens on it."""
CLOSE_MAX_S: Final = 2.0
"""How long a client may take to end TLS in good order."""
CONNECTIONS_MAX: Final = 50
"""Connections at the same time on each port; an authority makes five, from different places of the world."""
NO_FILES_S: Final = 1.0
"""Pause when the process has no descriptor left for another connection."""

WELL_KNOWN: Final = "/.well-known/acme-challenge/"
ALPN: Final = "acme-tls/1"
"""RFC 8737 section 6.2."""

_ALERT: Final = ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME


class Challenges:
    """Both kinds of answers over sockets that listen already; implements `acme.Answering`."""

    def __init__(
        self, http: Sequence[socket.socket], alpn: Sequence[socket.socket], folder: Path, wall_us: Callable[[], int]
    ) -> None:
        """`folder` is a private one for keys on their way into TLS, which only takes files."""
        self._sockets = {HTTP_01: http, TLS_ALPN_01: alpn}
        self.kinds: tuple[str, ...] = tuple(kind for kind, sockets in self._sockets.items() if sockets)
        self._folder = folder
        self._wall_us = wall_us
        self._proofs: dict[str, str] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._front = _alpn_context()
        self._front.sni_callback = self._choose

    def prefer(self, turn: int) -> None:
        """Put another kind first for each `turn`: where one way is closed, the next attempt takes the other."""
        every = [kind for kind, sockets in self._sockets.items() if sockets]
        at = turn % max(1, len(every))
        self.kinds = tuple(every[at:] + every[:at])

    async def serve(self) -> None:
        """Answer until cancelled."""
        async with asyncio.TaskGroup() as group:
            for sock in self._sockets[HTTP_01]:
                group.create_task(_accept(sock, self._http, lambda: True))
            for sock in self._sockets[TLS_ALPN_01]:
                group.create_task(_accept(sock, self._alpn, lambda: bool(self._contexts)))

    @contextmanager
    def shown(self, kind: str, name: str, token: str, proof: str) -> Iterator[None]:
        """Answer one challenge inside the block."""
        if kind == HTTP_01:
            self._proofs[token] = proof
        else:
            self._contexts[name.lower()] = self._context(name, proof)
        try:
            yield
        finally:
            if kind == HTTP_01:
                self._proofs.pop(token, None)
            else:
                self._contexts.pop(name.lower(), None)

    def _context(self, name: str, proof: str) -> ssl.SSLContext:
        context = _alpn_context()
        descriptor, path = tempfile.mkstemp(dir=self._folder, prefix=".challenge.")
        try:
            with open(descriptor, "wb") as file:
                file.write(challenge_certificate(name, proof, self._wall_us()))
            context.load_cert_chain(path)
        finally:
            os.unlink(path)
        return context

    def _choose(self, tls: ssl.SSLObject, name: str | None, front: ssl.SSLContext) -> int | None:
        """The certificate for the name the client asks for; whoever asks for another one is refused."""
        chosen = self._contexts.get((name or "").lower())
        if chosen is None:
            return _ALERT
        tls.context = chosen
        return None

    async def _http(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        head = b""
        with connection:
            while b"\r\n\r\n" not in head and len(head) < HEAD_MAX:
                more = await loop.sock_recv(connection, HEAD_MAX)
                if not more:
                    return
                head += more
            await loop.sock_sendall(connection, http_answer(head, self._proofs))

    async def _alpn(self, connection: socket.socket) -> None:
        """RFC 8737 section 3: the handshake is the answer, no data follows. The socket is asyncio's from here on."""
        transport, ending = await asyncio.get_running_loop().connect_accepted_socket(
            _Ending,
            connection,
            ssl=self._front,
            ssl_handshake_timeout=CONNECTION_MAX_S,
            ssl_shutdown_timeout=CLOSE_MAX_S,
        )
        transport.close()
        await ending.done.wait()


class _Ending(asyncio.Protocol):
    """A connection on which nothing is said any more."""

    def __init__(self) -> None:
        self.done = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set()


def http_answer(head: bytes, proofs: Mapping[str, str]) -> bytes:
    """The response to the head of a request, given the proofs by token."""
    method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    proof = proofs.get(path.removeprefix(WELL_KNOWN)) if path.startswith(WELL_KNOWN) else None
    if proof is None or method not in ("GET", "HEAD"):
        status, kind = "404 Not Found", "text/plain"
        body = b"This port only answers those who issue the certificate of this mail server.\n"
    else:
        status, kind, body = "200 OK", "application/octet-stream", proof.encode()
    lines = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return lines.encode() + (b"" if method == "HEAD" else body)


async def _accept(
    listener: socket.socket, serve: Callable[[socket.socket], Awaitable[None]], wanted: Callable[[], bool]
) -> None:
    """Take connections until cancelled, each in a task of its own that cannot last."""
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    running: set[asyncio.Task[None]] = set()
    try:
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except ConnectionError:
                continue
            except OSError:
                await asyncio.sleep(NO_FILES_S)
                continue
            if len(running) >= CONNECTIONS_MAX or not wanted():
                connection.close()
                continue
            task = loop.create_task(_bounded(connection, serve))
            running.add(task)
            task.add_done_callback(running.discard)
    finally:
        for task in running:
            task.cancel()


async def _bounded(connection: socket.socket, serve: Callable[[socket.socket], Awaitable[None]]) -> None:
    connection.setblocking(False)
    try:
        async with asyncio.timeout(CONNECTION_MAX_S):
            await serve(connection)
    except (OSError, TimeoutError):  # a stranger's connection failed: nothing of ours is lost
        pass


def _alpn_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # RFC 8737 section 4: who asks "MUST only negotiate TLS 1.2 [RFC5246] or higher".
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    return context
