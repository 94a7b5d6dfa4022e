"""One outgoing TCP connection as a byte pipe with one reader: connect, receive, write, TLS, all with patience.

`asyncio.Protocol` and not streams: those cost three times the CPU per message. Invariant: at most one coroutine waits
on a link, and what has come but was not taken stays in `_received`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Iterable
from typing import Final, cast

WRITE_HIGH: Final = 256 * 1024
"""Octets waiting for a slow peer above which `room` makes us wait."""

LATE_S: Final = 0.001
"""How much later than asked a wait may end: one that is asked for again differs by an error of rounding."""

READ_HIGH: Final = 1024 * 1024
"""Octets that came while nobody read, above which the peer is cut off: no dialog of ours has that many unasked ones."""


_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", 0)
"""Linux only; others acknowledge as they like."""


class Unreachable(Exception):
    """No connection came to be; the text says why in plain words ("connection refused", "timeout after 30 s")."""


class TlsFailed(Exception):
    """The handshake failed; the connection is gone. The text says why."""


class Link(asyncio.Protocol):
    """The connection itself; made by `dial`."""

    __slots__ = (
        "_deadline", "_loop", "_received", "_size", "_timer", "_timer_at", "_transport", "_waiter", "_writable",
        "ended", "why",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._received: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._writable = True
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._deadline = 0.0
        self.ended = False
        """The peer has closed or the connection broke: nothing more will come."""
        self.why = ""
        """Why it ended, when it was not the peer's orderly close."""

    # -- for the one who drives it -----------------------------------------------------------------------------------

    async def receive(self, patience: float) -> bytes:
        """The octets that have come, waiting up to `patience` seconds for some; empty when the connection ended.

        Raises TimeoutError.
        """
        if not self._received and not self.ended:
            await self._wait(patience)
        received = self._received
        if len(received) == 1:
            octets = received[0]
        else:
            octets = b"".join(received)
        received.clear()
        self._size = 0
        return octets

    @property
    def unread(self) -> bool:
        """Whether something has come that nobody took, or the end."""
        return bool(self._received) or self.ended

    def acknowledge(self) -> None:
        """Tells the peer now that its octets have come; for whoever knows that more follow without being asked for.

        Nagle's algorithm (RFC 9293 section 3.7.4) makes the peer wait for that before it sends the next small segment,
        and our kernel, with nothing to send itself, would wait 40 ms.
        """
        sock = self._transport.get_extra_info("socket") if self._transport is not None and not self.ended else None
        if sock is not None and _QUICKACK and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def write(self, octets: bytes) -> None:
        """Queues octets for the peer; nothing happens on a connection that ended."""
        if self._transport is not None and not self.ended:
            self._transport.write(octets)

    async def room(self, patience: float) -> None:
        """Waits until the peer has taken enough of what was written, or the connection ended; raises TimeoutError."""
        if self._writable:
            return
        until = self._loop.time() + patience
        while not self._writable and not self.ended:
            # What the peer says meanwhile wakes us too, and is no reason to wait longer.
            await self._wait(max(0.0, until - self._loop.time()))

    async def start_tls(self, context: ssl.SSLContext, host: str, patience: float) -> ssl.SSLObject | None:
        """Makes the TLS handshake as the client; returns the TLS object for its description. Raises TlsFailed."""
        assert self._transport is not None
        try:
            async with asyncio.timeout(patience):
                transport = await self._loop.start_tls(
                    self._transport, self, context, server_hostname=host, ssl_handshake_timeout=patience
                )
        except TimeoutError:
            self.abort()
            raise TlsFailed(f"TLS handshake took longer than {patience:g} s") from None
        except (OSError, ValueError, EOFError) as error:
            self.abort()
            raise TlsFailed(_tls_words(error)) from None
        if transport is None:
            raise TlsFailed("the peer closed in the TLS handshake")
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH)
        return cast("ssl.SSLObject | None", transport.get_extra_info("ssl_object"))

    def close(self) -> None:
        """Sends what is queued and closes."""
        self._stop_timer()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes at once; what is queued is lost."""
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def _wait(self, patience: float) -> None:
        """Sleeps until something happens. One timer serves many waits: it looks again when it rings too early."""
        assert self._waiter is None, "two readers of one link"
        loop = self._loop
        self._deadline = deadline = loop.time() + patience
        if self._timer is None or self._timer_at > deadline + LATE_S:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = loop.call_at(deadline, self._ring)
        self._waiter = waiter = loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _ring(self) -> None:
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._loop.time() + 0.001 >= self._deadline:
            waiter.set_exception(TimeoutError())
        else:
            self._timer_at = self._deadline
            self._timer = self._loop.call_at(self._deadline, self._ring)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- called by the loop ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH)

    def data_received(self, data: bytes) -> None:
        """Keeps the octets and wakes the reader."""
        self._received.append(data)
        self._size += len(data)
        if self._waiter is not None:
            self._wake()
        elif self._size > READ_HIGH:
            self.why = "the peer sent more than was asked for"
            self.abort()

    def eof_received(self) -> bool:
        """The peer will send no more; a mail client has nothing to say to it then."""
        self.ended = True
        self._wake()
        return False

    def pause_writing(self) -> None:
        """The peer is slow."""
        self._writable = False

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._writable = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wakes whoever waits."""
        self.ended = True
        if exc is not None and not self.why:
            self.why = words_of(exc)
        self._stop_timer()
        self._wake()


async def dial(address: str, port: int, *, patience: float, bind: Iterable[str] = ()) -> Link:
    """Connects to an IP address, or to a unix socket when `address` is a path; raises Unreachable.

    `bind` are our source addresses, the first of the same family is used.
    """
    loop = asyncio.get_running_loop()
    if address.startswith("/"):
        return await _connected(loop.create_unix_connection(lambda: Link(loop), address), patience)
    six = ":" in address
    source = next((own for own in bind if (":" in own) is six), None)
    return await _connected(
        loop.create_connection(lambda: Link(loop), address, port, local_addr=(source, 0) if source else None), patience
    )


async def _connected(connecting: Awaitable[tuple[asyncio.Transport, Link]], patience: float) -> Link:
    try:
        async with asyncio.timeout(patience):
            _, link = await connecting
    except TimeoutError:
        raise Unreachable(f"timeout after {patience:g} s") from None
    except OSError as error:
        raise Unreachable(words_of(error)) from None
    return link


async def dial_unix(path: str, *, patience: float) -> Link:
    """Connects to a unix socket. Raises Unreachable."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(patience):
            _, link = await loop.create_unix_connection(lambda: Link(loop), path)
    except TimeoutError:
        raise Unreachable(f"timeout after {patience:g} s") from None
    except OSError as error:
        raise Unreachable(words_of(error)) from None
    return link


def words_of(error: BaseException) -> str:
    """An operating system's error in plain lower-case words: "connection refused", "no route to host"."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return (str(error) or type(error).__name__).lower()


def _tls_words(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    if isinstance(error, ssl.SSLError) and isinstance(reason, str):
        return f"TLS handshake failed: {reason.lower().replace('_', ' ')}"
    return f"TLS handshake failed: {words_of(error)}"
