"""The one driver between a socket and a machine, for every line protocol that we serve.

It knows no protocol: bytes go into the machine, events come out and are handled by the session, output goes to the
socket. Invariant: at most one event is being handled at a time; while it is, later bytes wait unread in the machine,
and beyond a limit in the peer's socket. From this follow pipelining order, backpressure and the STARTTLS boundary.
"""

from __future__ import annotations

import asyncio
import math
import os
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from postroad.net.tls_link import Receiver, TlsLink, shared_buffer
from postroad.serve.eager import run_eagerly
from postroad.serve.logs import log_bug
from postroad.serve.turns import Turns
from postroad.values.reply import Reply

WRITE_HIGH_WATER: Final = 64 * 1024
"""Unsent output of a peer that stopped reading its replies; no further command is taken above it (row S61)."""

TLS_HANDSHAKE_S: Final = 30.0
"""Row S42: a half-open handshake ends here."""

SWEEP_S: Final = 1.0
"""How often deadlines are looked at: one pass over all conversations costs less than a timer per command."""


DISCARDED_OCTETS: Final = 64 * 1024
DISCARDED_READS: Final = 16
"""A megabyte at most: who sends more than that behind an error sees the reset."""

EARLY_MAX: Final = 32 * 1024
"""Octets kept of a client that speaks behind the handshake before the session can hear it."""

EMPTY_S: Final = 0.05
"""How often a draining worker looks whether everybody has gone."""


class Machine(Protocol):
    """What the driver needs of a protocol machine."""

    @property
    def closed(self) -> bool:
        """Whether the connection shall be closed once the output is written."""
        ...

    @property
    def wants_input(self) -> bool:
        """Whether there is room for more bytes behind what waits unread."""
        ...

    @property
    def patience(self) -> float:
        """Seconds the peer may take in this state."""
        ...

    def receive(self, data: bytes) -> None: ...
    def receive_eof(self) -> None: ...
    def next_event(self) -> Any: ...
    def take_output(self) -> bytes: ...


class Session(Protocol):
    """What a protocol's session offers the driver."""

    @property
    def machine(self) -> Machine:
        """The connection's protocol machine."""
        ...

    def opened(self) -> Coroutine[Any, Any, None] | None:
        """The connection stands (TLS done, when implicit): greet, or return what must be awaited for that."""
        ...

    def penalty_s(self) -> float:
        """Seconds that the replies now waiting are held back, for errors since this was asked last; mostly 0.0."""
        ...

    def handle(self, event: Any) -> Coroutine[Any, Any, None]:
        """Carry out one event and answer it through the machine."""
        ...

    def timed_out(self) -> None:
        """The peer used up its time, or we used up the `work_s` of an event: let the machine say goodbye."""
        ...

    def lost(self) -> None:
        """The connection is gone: drop what was open."""
        ...

    def drain(self) -> None:
        """The server is going down: say goodbye as soon as nothing is open."""
        ...

    def failed(self) -> None:
        """A bug ended the handling of an event: let the machine say so and close."""
        ...

    def deadline(self, now: float) -> float:
        """The latest monotonic time at which the next bytes must have come."""
        ...


class Watch:
    """All conversations of a worker, with one sweep a second for those out of time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.conversations: set[Conversation] = set()
        self.turns = Turns(loop)
        self.shared = shared_buffer()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin sweeping."""
        self._timer = self._loop.call_later(SWEEP_S, self._sweep)

    def stop(self) -> None:
        """End sweeping; conversations stay as they are."""
        if self._timer is not None:
            self._timer.cancel()

    async def emptied(self, grace: float) -> None:
        """Wait until the last conversation has ended, at most `grace` seconds."""
        until = self._loop.time() + grace
        while self.conversations and self._loop.time() < until:  # noqa: ASYNC110 - once in a worker's life
            await asyncio.sleep(EMPTY_S)

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(SWEEP_S, self._sweep)
        now = self._loop.time()
        for conversation in [c for c in self.conversations if c.due < now]:
            try:
                conversation.check_time(now)
            except Exception as bug:  # one conversation's bug must not take the time limits from all others
                log_bug(bug, where="deadlines")


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """What a client that is not let in hears before it is gone; where TLS comes first, behind the handshake or not."""

    reply: Reply
    words: bytes
    """The reply as this protocol says it."""
    behind_tls: bool = False


@dataclass(frozen=True, slots=True)
class Entrance:
    """What stands before the sessions of one door: who is let in, and the TLS that begins with the first octet."""

    admit: Callable[[Conversation], TurnedAway | None]
    """Asked once, before anything is read; who is let in has an `on_close` afterwards."""
    tls: ssl.SSLContext | None = None
    tls_failed: Callable[[], None] = lambda: None
    """Told when a client that was let in did not complete its handshake."""


class Conversation(Receiver):
    """One connection of one peer, from accept to close.

    Replies to a peer that makes errors may be held back for seconds; until they are let go nothing further is handled,
    as with a peer that does not read. A timer of the loop is all that this takes.
    """

    __slots__ = (
        "_busy",
        "_clogged",
        "_closing",
        "_early",
        "_ended",
        "_entrance",
        "_hold",
        "_loop",
        "_make_session",
        "_paused",
        "_task",
        "_tls_text",
        "_watch",
        "_writable",
        "due",
        "machine",
        "on_close",
        "peer",
        "port",
        "session",
        "tls",
        "transport",
        "via",
        "work_s",
    )

    def __init__(
        self,
        watch: Watch,
        loop: asyncio.AbstractEventLoop,
        make_session: Callable[[Conversation], Session | None],
        *,
        entrance: Entrance | None = None,
        origin: tuple[str, int, str] | None = None,
    ) -> None:
        """`origin` is the client's address and port and the proxy that told them; else it is who connected."""
        super().__init__(watch.shared)
        self._watch = watch
        self._loop = loop
        self._make_session = make_session
        self._entrance = entrance
        self.tls = entrance is not None and entrance.tls is not None
        """Whether TLS protects what is said, or will before the first word."""
        self.transport: Any = None
        self.peer, self.port, self.via = origin or ("", 0, "")
        self._tls_text = ""
        self.due = 0.0
        self.on_close: Callable[[], None] | None = None
        self.work_s = math.inf
        """Seconds that handling one event may take before `timed_out` is asked for an answer without it."""
        self._busy = False
        self._paused = False
        self._clogged = False
        self._closing = False
        self._ended = False
        self._writable: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._early: bytearray | None = None
        self._hold: asyncio.TimerHandle | None = None

    # -- from the event loop ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)  # type: ignore[attr-defined]
        if not self.peer:
            name = transport.get_extra_info("peername")
            self.peer, self.port = name[:2] if isinstance(name, tuple) else ("", 0)
        entrance = self._entrance
        away = entrance.admit(self) if entrance is not None else None
        if away is not None:
            self._turn_away(away)
        elif entrance is not None and entrance.tls is not None:
            self._run(self._open_with_tls(entrance.tls))
        else:
            self._open()

    def _open(self) -> None:
        """Let the session begin; what it does before the greeting is carried out as one event."""
        opening = self._begin()
        if opening is not None:
            self._run(opening)
        else:
            self._turn()

    def _begin(self) -> Coroutine[Any, Any, None] | None:
        session = self._make_session(self)
        if session is None:
            self.close()
            return None
        self.session = session
        self.machine = session.machine
        self._watch.conversations.add(self)
        return session.opened()

    def _run(self, opening: Coroutine[Any, Any, None]) -> None:
        try:
            rest = run_eagerly(opening)
            if rest is not None:
                self._wait(rest)
                return
        except ConnectionError:
            self._cut()
        except Exception as bug:
            self._bug(bug)
        self._turn()

    async def _open_with_tls(self, context: ssl.SSLContext) -> None:
        await self._shake(context)
        if (opening := self._begin()) is not None:
            self.due = self._loop.time() + self.work_s
            await opening

    def _turn_away(self, away: TurnedAway) -> None:
        if away.behind_tls and self._entrance is not None and self._entrance.tls is not None:
            self._run(self._turn_away_with_tls(away, self._entrance.tls))
            return
        self.transport.write(away.words)
        self.close()

    async def _turn_away_with_tls(self, away: TurnedAway, context: ssl.SSLContext) -> None:
        await self._shake(context)
        self.transport.write(away.words)
        self.close()

    async def _shake(self, context: ssl.SSLContext) -> None:
        """The handshake before the first word; raises ConnectionError when it fails."""
        self._watch.conversations.add(self)
        try:
            await self._secure(context)
        except OSError as error:
            assert self._entrance is not None
            self._entrance.tls_failed()
            raise ConnectionResetError(f"TLS handshake failed: {error}") from None

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._early is not None:
            self._early += data
            if len(self._early) > EARLY_MAX and not self._paused:
                self._paused = True
                self.transport.pause_reading()
            return
        self.machine.receive(data)
        if self._busy or self._clogged:
            if not self._paused and not self.machine.wants_input:
                self._paused = True
                self.transport.pause_reading()
            return
        self._turn()

    def eof_received(self) -> bool:
        self._ended = True
        if not self._closing and hasattr(self, "machine"):
            self.machine.receive_eof()
            if not self._busy:
                self._turn()
        # Stay open for writing while a command is still being carried out, or its reply held back: it may be read.
        return (self._busy or self._hold is not None) and not self.tls

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, once: also called by us where the loop may have lost the protocol, as in a failed handshake."""
        self._closing = True
        if self._hold is not None:
            self._hold.cancel()
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(ConnectionResetError("the peer is gone"))
            self._writable.exception()  # often nobody waits for it, which is no bug to log
        if self in self._watch.conversations:
            self._watch.conversations.discard(self)
            if hasattr(self, "session"):
                self.session.lost()
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()
            self.on_close = None
        if not self._busy:
            self._let_go()

    def _let_go(self) -> None:
        """Break the ring of conversation and session, so that an ended connection needs no search for garbage."""
        if hasattr(self, "session"):
            del self.session, self.machine

    def pause_writing(self) -> None:
        self._clogged = True
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        self._clogged = self._hold is not None
        waiting, self._writable = self._writable, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
        self._turn_if_idle()

    # -- the turn ---------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Handle events until the machine has none, one has to wait, or the peer does not read."""
        if self._closing:
            return
        machine, session = self.machine, self.session
        try:
            while not self._must_stop() and (event := machine.next_event()) is not None:
                rest = run_eagerly(session.handle(event))
                if rest is not None:
                    self._wait(rest)
                    return
            self._must_stop()
        except ConnectionError:
            self._cut()
        except Exception as bug:
            self._bug(bug)
        self._settle()

    def _must_stop(self) -> bool:
        """Whether nothing further is handled now; errors that the peer has made since the last look are paid for."""
        if not self._clogged and (seconds := self.session.penalty_s()):
            self._clogged = True
            self._hold = self._loop.call_later(seconds, self.release)
        return self._clogged

    def release(self) -> None:
        """Let replies go that were held back, and go on."""
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.cancel()
            self._clogged = self._writable is not None
            self._turn_if_idle()

    def _wait(self, rest: Awaitable[None]) -> None:
        self._busy = True
        self.due = self._loop.time() + self.work_s
        if hasattr(self, "machine"):  # else it is the handshake that comes before the session
            self.flush()
        self._task = self._loop.create_task(self._finish(rest))

    async def _finish(self, rest: Awaitable[None]) -> None:
        try:
            await rest
        except ConnectionError:
            self._cut()
        except Exception as bug:
            self._bug(bug)
        self._busy = False
        self._task = None
        early, self._early = self._early, None
        if early and not self._closing:
            self.machine.receive(bytes(early))
        if self._closing:
            if self not in self._watch.conversations:
                self._let_go()
            return
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        self._turn()

    def _cut(self) -> None:
        """The connection broke: the loop need not know it yet, and after a failed handshake it never tells."""
        self.transport.abort()
        self.connection_lost(None)

    def _bug(self, bug: Exception) -> None:
        if not hasattr(self, "session"):
            log_bug(bug, where="before the session")
            self._cut()
            return
        log_bug(bug, where=type(self.session).__name__)
        self.session.failed()

    def _settle(self) -> None:
        if self._closing:
            return
        self.flush()
        if self._hold is not None:
            self.due = math.inf  # its own timer ends this, and then the time of the peer begins
        elif self.machine.closed:
            self.close()
        else:
            if self._paused and not self._clogged and self.machine.wants_input:
                self._paused = False
                self.transport.resume_reading()
            now = self._loop.time()
            self.due = self.session.deadline(now)

    def check_time(self, now: float) -> None:
        """Called by the watch when `due` has passed."""
        if self._closing:
            self._cut()  # it had its time to read our last words
            return
        self.session.timed_out()
        self._settle()

    # -- for sessions -----------------------------------------------------------------------------------------------

    @property
    def admitted(self) -> bool:
        """Whether the session has begun."""
        return hasattr(self, "session")

    @property
    def over(self) -> bool:
        """Whether the peer has gone, or has said its last word."""
        return self._closing or self._ended

    @property
    def busy(self) -> bool:
        """Whether an event is being handled right now."""
        return self._busy

    def flush(self) -> None:
        """Send what the machine has to say so far, unless it is held back."""
        if self._hold is not None:
            return
        out = self.machine.take_output()
        if out and not self.transport.is_closing():
            self.transport.write(out)

    def write(self, data: bytes) -> None:
        """Send bytes beside the machine's output, in order (large bodies)."""
        if not self.transport.is_closing():
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the peer has read enough for more to be written; raises ConnectionError when it is gone."""
        if self._closing or self.transport.is_closing():
            raise ConnectionResetError("the peer is gone")
        if self._writable is not None:
            await self._writable

    async def others_first(self) -> None:
        """Give everybody else a look in before a session that has much to do goes on (`serve.turns`)."""
        await self._watch.turns.next()

    def turn_soon(self) -> None:
        """Look for output and events on the next loop round: for what happens between commands (IDLE, drain)."""
        self._loop.call_soon(self._turn_if_idle)

    def _turn_if_idle(self) -> None:
        if not self._busy and not self._closing and not self._clogged:
            self._turn()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Shake hands as the server after our 220; raises OSError (ssl.SSLError among it) when that fails.

        What comes through TLS before the session has told its machine so is kept until the event is handled.
        """
        self.flush()
        await self._secure(context)

    async def _secure(self, context: ssl.SSLContext) -> None:
        self._early = bytearray()
        link = TlsLink(self._loop, self.transport, self, context)
        await link.shake(TLS_HANDSHAKE_S)
        self.transport = link
        self.tls = True

    def tls_text(self) -> str:
        """Version and cipher of the protected connection for Received lines and the journal; empty when plain."""
        if not self.tls:
            return ""
        if not self._tls_text:  # nothing of it changes behind the handshake: renegotiation is off
            ssl_object = self.transport.get_extra_info("ssl_object")
            if ssl_object is None:
                return ""
            cipher = ssl_object.cipher()
            self._tls_text = f"{ssl_object.version()} {cipher[0]}" if cipher else str(ssl_object.version())
        return self._tls_text

    def become(self, address: str, port: int) -> Reply | None:
        """From now on the peer is the client that a trusted one names; a reply when that client is not let in."""
        self.via = self.via or self.peer
        left, self.on_close = self.on_close, None
        if left is not None:
            left()
        self.peer, self.port = address, port
        away = self._entrance.admit(self) if self._entrance is not None else None
        return away.reply if away is not None else None

    def go_down(self) -> None:
        """The server ends: whoever waits for a handshake is cut off, every session says goodbye when it can."""
        if not hasattr(self, "session"):
            if not self._closing:
                self._cut()
            return
        self.release()
        self.session.drain()

    def close(self) -> None:
        """Close after everything written so far has been sent."""
        self._closing = True
        self.due = self._loop.time() + TLS_HANDSHAKE_S
        discard_unread(self.transport.get_extra_info("socket"))
        self.transport.close()


def discard_unread(sock: Any) -> None:
    """Take what a peer has sent and nobody will read: closing with it in the socket would reset the connection, and a
    reset overtakes our last words."""
    try:
        for _ in range(DISCARDED_READS):
            if len(os.read(sock.fileno(), DISCARDED_OCTETS)) < DISCARDED_OCTETS:
                return
    except OSError:  # nothing there, or nobody
        return
