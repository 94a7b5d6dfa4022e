"""The doors of a worker: which service answers at which socket, who is let in, and how all are closed."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Final, Protocol

from postroad.net.proxy import Origin, ProxyListener
from postroad.net.tls import ServerTls
from postroad.serve.admission import GOING_DOWN, TOO_MANY, TOO_MANY_FROM_YOU, TOO_OFTEN, Admission
from postroad.serve.conversation import Conversation, Entrance, Session, TurnedAway, Watch
from postroad.serve.counters import SessionCounters
from postroad.serve.lmtp import LmtpSession
from postroad.serve.local_submission import LOCAL, name_peer
from postroad.serve.logs import log_line
from postroad.serve.smtp import SmtpSession
from postroad.serve.smtp_service import Service as SmtpService
from postroad.values.networks import Networks
from postroad.values.reply import Reply
from postroad.wire.smtp.extensions import LMTP, MX, SUBMISSION, SUBMISSIONS, Door, without_binding
from postroad.wire.smtp.limits import MachineLimits
from postroad.wire.smtp.server import ServerMachine

IMPLICIT_TLS: Final = frozenset(("submissions", "imaps", "pop3s"))

TELLING_MAX: Final = 64
"""Clients beyond a limit that are told so behind a handshake at the same time; others are only cut off, because a
handshake costs 0.5 ms."""

TLS_ALERT: Final = bytes((21, 3, 3, 0, 2, 2, 80))
"""RFC 8446 sections 5.1 and 6.2: a fatal internal_error, "unrelated to the peer or the correctness of the protocol"."""

MakeSession = Callable[[Conversation], Session]


class Closable(Protocol):
    """What accepts connections until it is closed."""

    def close(self) -> None:
        """Accept nothing further."""
        ...


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
        proxies: Networks | None = None,
    ) -> None:
        self._sessions = sessions
        self._admission = admission
        self._counters = counters
        self._watch = watch
        self._tls = tls
        self._turn_away = turn_away
        self._proxies = proxies or Networks()
        self._servers: list[Closable] = []
        self._telling = 0
        self._accepting: set[asyncio.Task[None]] = set()

    async def open(self, listeners: dict[str, list[socket.socket]]) -> None:
        """Begin to accept on every socket; they are ours from now on."""
        loop = asyncio.get_running_loop()
        for service, sockets in listeners.items():
            entrance = self._entrance(service)
            for sock in sockets:
                self._servers.append(await self._open(service, sock, entrance, loop))

    async def _open(
        self, service: str, sock: socket.socket, entrance: Entrance, loop: asyncio.AbstractEventLoop
    ) -> Closable:
        make, watch = self._sessions[service], self._watch

        def conversation() -> Conversation:
            return Conversation(watch, loop, make, entrance=entrance)

        if sock.family == socket.AF_UNIX:
            # Python 3.13 would remove the socket's name with the first worker that ends; it is the supervisor's.
            keep: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
            return await loop.create_unix_server(conversation, sock=sock, **keep)
        if not self._proxies:
            # TLS that comes first begins in the conversation: whoever is in a handshake has been counted in.
            return await loop.create_server(conversation, sock=sock)

        def accepted(sock: socket.socket, origin: Origin) -> None:
            came_from = (origin.address, origin.port, origin.via)
            protocol = Conversation(watch, loop, make, entrance=entrance, origin=came_from)
            task = loop.create_task(self._accept(sock, protocol, loop))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

        return ProxyListener(sock, self._proxies, accepted, partial(self._counters.refused, service, 0))

    @staticmethod
    async def _accept(sock: socket.socket, protocol: Conversation, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await loop.connect_accepted_socket(lambda: protocol, sock)
        except OSError:  # the client went while we came
            sock.close()

    def _entrance(self, service: str) -> Entrance:
        """Who is let in at a service, and how the others hear it."""
        admission, counters = self._admission, self._counters
        words = self._turn_away[service.removesuffix("s")]
        implicit = service in IMPLICIT_TLS
        context = self._tls.of(service)  # also where it is for STARTTLS: later its files may be broken

        def admit(conversation: Conversation) -> TurnedAway | None:
            if not conversation.peer:
                name_peer(conversation)
            refusal = admission.admit(conversation.peer, service)
            if refusal is None:
                conversation.on_close = lambda: admission.leave(conversation.peer, service)
                return None
            counters.refused(service, refusal.code, TURNED_AWAY[refusal])
            if not implicit or conversation.admitted:
                return TurnedAway(refusal, words(refusal))
            # With no room left, or too many new connections, a handshake is just what is not to be had.
            if refusal is not TOO_MANY_FROM_YOU or self._telling >= TELLING_MAX:
                return TurnedAway(refusal, TLS_ALERT)
            self._telling += 1
            conversation.on_close = self._told
            return TurnedAway(refusal, words(refusal), behind_tls=True)

        failed = partial(counters.refused, service, 0, "tls handshake")
        return Entrance(admit, context if implicit else None, failed)

    def _told(self) -> None:
        self._telling -= 1

    def close(self) -> None:
        """Stop accepting (the socket itself stays open in the supervisor) and ask every session to end."""
        self._admission.draining = True
        for server in self._servers:
            server.close()
        for conversation in list(self._watch.conversations):
            conversation.go_down()
        if self._watch.conversations:
            log_line("info", "waiting for open connections", count=len(self._watch.conversations))


TURNED_AWAY: Final = {
    TOO_MANY_FROM_YOU: "too many connections",
    TOO_OFTEN: "too many new connections",
    TOO_MANY: "too busy",
    GOING_DOWN: "going down",
}
"""The stable word of each refusal before the greeting."""


def smtp_sessions(
    service: SmtpService, *, limits: MachineLimits, speakers: Networks | None = None, hold_s: int = 0
) -> dict[str, MakeSession]:
    """The makers of SMTP sessions by service; `speakers` may name their client by XCLIENT, which no other peer may.
    Users may have messages held for `hold_s` seconds at most.

    The MX offers no login: whoever has one uses a submission port (RFC 6409 section 4.3), where nothing else is taken.
    """
    listed = speakers or Networks()

    def maker(door: Door, kind: type[SmtpSession] = SmtpSession) -> MakeSession:
        def make(conversation: Conversation) -> Session:
            peer = conversation.peer
            # A listed network's reports of success go to people of ours.
            dsn = door.dsn or service.may_relay(peer)
            offered = offer(door, peer in listed, dsn, bool(service.tls.end_point))
            machine = ServerMachine(
                hostname=service.hostname, door=offered, limits=limits, wall_us=service.clock.wall_us
            )
            return kind(conversation, machine, service, door.name)

        return make

    users = [replace(door, future_release_s=hold_s) for door in (SUBMISSION, SUBMISSIONS)]
    return {MX.name: maker(MX), LMTP.name: maker(LMTP, LmtpSession), **{door.name: maker(door) for door in users}}


@lru_cache(maxsize=64)
def offer(door: Door, xclient: bool, dsn: bool, binding: bool) -> Door:
    """What one client is offered at a door; the same object for all of a kind, because replies are cached by it."""
    offered = replace(door, xclient=xclient, dsn=dsn)
    return offered if binding else without_binding(offered)


def turned_away() -> dict[str, Callable[[Reply], bytes]]:
    """How each protocol says that a connection is not taken now, as bytes to write before closing."""
    return {
        "mx": Reply.wire,
        "submission": Reply.wire,
        "lmtp": Reply.wire,
        LOCAL.name: Reply.wire,
        "imap": lambda reply: f"* BYE {reply.text}\r\n".encode(),
        "pop3": lambda reply: f"-ERR [SYS/TEMP] {reply.text}\r\n".encode(),
    }
