"""The doors of a worker: which service answers at which socket, who is let in, and how all are closed."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from postroad.net.tls import ServerTls
from postroad.serve.admission import Admission
from postroad.serve.conversation import TLS_HANDSHAKE_S, Conversation, Session, Watch
from postroad.serve.counters import SessionCounters
from postroad.serve.local_submission import LOCAL, name_peer
from postroad.serve.logs import log_line
from postroad.serve.smtp import Service as SmtpService
from postroad.serve.smtp import SmtpSession
from postroad.values.reply import Reply
from postroad.wire.smtp.extensions import MX, SUBMISSION, SUBMISSIONS, Door, without_binding
from postroad.wire.smtp.limits import MachineLimits
from postroad.wire.smtp.server import ServerMachine

IMPLICIT_TLS: Final = frozenset(("submissions", "imaps", "pop3s"))

MakeSession = Callable[[Conversation], Session]


class Doors:
    """All listeners of one worker. `sessions` makes the session of a connection, by service."""

    def __init__(
        self,
        sessions: Mapping[str, MakeSession],
        *,
        admission: Admission,
        counters: SessionCounters,
        watch: Watch,
        tls: ServerTls,
        turn_away: dict[str, Callable[[Reply], bytes]],
    ) -> None:
        self._sessions = sessions
        self._admission = admission
        self._counters = counters
        self._watch = watch
        self._tls = tls
        self._turn_away = turn_away
        self._servers: list[asyncio.AbstractServer] = []

    async def open(self, listeners: dict[str, list[socket.socket]]) -> None:
        """Begin to accept on every socket; they are ours from now on."""
        loop = asyncio.get_running_loop()
        for service, sockets in listeners.items():
            implicit = service in IMPLICIT_TLS
            for sock in sockets:
                if sock.family == socket.AF_UNIX:
                    self._servers.append(await self._open_unix(service, sock, loop))
                    continue
                self._servers.append(
                    await loop.create_server(
                        self._factory(service, implicit, loop),
                        sock=sock,
                        ssl=self._tls.context if implicit else None,
                        ssl_handshake_timeout=TLS_HANDSHAKE_S if implicit else None,
                    )
                )

    async def _open_unix(
        self, service: str, sock: socket.socket, loop: asyncio.AbstractEventLoop
    ) -> asyncio.AbstractServer:
        # Python 3.13 would remove the socket's name with the first worker that ends; it belongs to the supervisor.
        keep: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        return await loop.create_unix_server(self._factory(service, False, loop), sock=sock, **keep)

    def _factory(
        self, service: str, implicit: bool, loop: asyncio.AbstractEventLoop
    ) -> Callable[[], asyncio.BaseProtocol]:
        make = self._sessions[service]
        away = self._turn_away[service.removesuffix("s")]

        def admit(conversation: Conversation) -> Session | None:
            if service == LOCAL.name:
                name_peer(conversation)
            refusal = self._admission.admit(conversation.peer)
            if refusal is not None:
                self._counters.refused(service, refusal.code, "too many connections")
                conversation.transport.write(away(refusal))
                return None
            conversation.on_close = lambda: self._admission.leave(conversation.peer)
            return make(conversation)

        return lambda: Conversation(self._watch, loop, admit, tls=implicit)

    def close(self) -> None:
        """Stop accepting (the socket itself stays open in the supervisor) and ask every session to end."""
        self._admission.draining = True
        for server in self._servers:
            server.close()
        for conversation in list(self._watch.conversations):
            conversation.session.drain()
        if self._watch.conversations:
            log_line("info", "waiting for open connections", count=len(self._watch.conversations))


def smtp_sessions(service: SmtpService, *, limits: MachineLimits) -> dict[str, MakeSession]:
    """The makers of SMTP sessions by service.

    The MX offers no login: whoever has one uses a submission port (RFC 6409 section 4.3), where nothing else is taken.
    """

    def maker(door: Door) -> MakeSession:
        def make(conversation: Conversation) -> Session:
            offered = door if service.tls.end_point else without_binding(door)
            machine = ServerMachine(hostname=service.hostname, door=offered, limits=limits)
            return SmtpSession(conversation, machine, service, door.name)

        return make

    return {door.name: maker(door) for door in (MX, SUBMISSION, SUBMISSIONS)}


def turned_away() -> dict[str, Callable[[Reply], bytes]]:
    """How each protocol says that a connection is not taken now, as bytes to write before closing."""
    return {
        "mx": Reply.wire,
        "submission": Reply.wire,
        LOCAL.name: Reply.wire,
        "imap": lambda reply: f"* BYE {reply.text}\r\n".encode(),
        "pop3": lambda reply: f"-ERR [SYS/TEMP] {reply.text}\r\n".encode(),
    }
