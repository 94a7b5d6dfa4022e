"""TLS on a connection that was accepted: between the loop's transport and a protocol, with little memory.

The loops have TLS of their own, but a client decides there how much memory it costs: they read 256 KiB at once and keep
what that took (asyncio 279 kB for each idle connection; uvloop 27 kB, and 290 after a message of 200 kB). Here a read
takes at most what fits into one buffer that all connections of a worker share, so no connection holds more than that of
octets not yet deciphered.

Invariant: octets reach the protocol only after the handshake, in order, and not while it has paused reading.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

READ_OCTETS: Final = 32 * 1024
"""What is read from one connection at once: two records of TLS."""


class Receiver(asyncio.BufferedProtocol):
    """A protocol that takes its octets out of a buffer shared with all others; `data_received` gets a copy.

    The loop fills the buffer and calls `buffer_updated` in one go, so nobody else can be in between.
    """

    __slots__ = ("_shared",)

    def __init__(self, shared: memoryview) -> None:
        self._shared = shared

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._shared[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        raise NotImplementedError


class TlsLink(Receiver):
    """The server's side of TLS: the protocol of the plain transport, and in place of it for the protocol behind."""

    __slots__ = ("_closing", "_incoming", "_loop", "_outgoing", "_paused", "_plain", "_protocol", "_tls", "_waiter")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        plain: asyncio.Transport,
        protocol: Receiver,
        context: ssl.SSLContext,
    ) -> None:
        super().__init__(protocol._shared)
        self._loop = loop
        self._plain = plain
        self._protocol = protocol
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._closing = False

    async def shake(self, patience: float) -> None:
        """The handshake; from its first step on, what the plain transport reads comes here.

        Raises OSError, ssl.SSLError among it, when it fails, the peer goes, or it takes more than `patience` seconds.
        """
        self._waiter = waiter = self._loop.create_future()
        timer = self._loop.call_later(patience, self._fail, ConnectionAbortedError("TLS handshake took too long"))
        self._plain.set_protocol(self)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    # -- from the plain transport -----------------------------------------------------------------------------------

    def buffer_updated(self, nbytes: int) -> None:
        self._incoming.write(self._shared[:nbytes])
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._read()
        else:
            self._step(waiter)

    def _step(self, waiter: asyncio.Future[None]) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
        except ssl.SSLError as error:
            self._send()  # the alert
            self._fail(error)
        else:
            self._send()
            waiter.set_result(None)
            self._read()

    def _fail(self, error: OSError) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def _read(self) -> None:
        """Hand out what can be deciphered, a record at a time, as long as it is wanted."""
        tls = self._tls
        while not self._paused and not self._closing:
            try:
                octets = tls.read(READ_OCTETS)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError:
                self.abort()
                return
            if not octets:  # close_notify
                self._protocol.eof_received()
                self.close()
                return
            self._protocol.data_received(octets)
            # Asking saves the exception that the next read would end in.
            if not self._incoming.pending and not tls.pending():
                break
        self._send()  # the answer to a change of keys (RFC 8446 section 4.6.3)

    def eof_received(self) -> bool:
        self._fail(ConnectionResetError("the peer has gone in the TLS handshake"))
        if self._waiter is None and not self._closing:
            self._protocol.eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self._waiter is not None:
            self._fail(ConnectionResetError("the peer has gone in the TLS handshake"))
        else:
            self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    # -- for the protocol -------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encipher and send; nothing once the connection is closing."""
        if self._closing or not data:
            return
        try:
            done = self._tls.write(data)
            while done < len(data):  # a record at a time
                done += self._tls.write(memoryview(data)[done:])
        except ssl.SSLError:
            self.abort()
        else:
            self._send()

    def _send(self) -> None:
        if self._outgoing.pending:
            self._plain.write(self._outgoing.read())

    def pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            self._plain.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading; what has been read already comes first, on the next round of the loop."""
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._read()
        if not self._paused and not self.is_closing():
            self._plain.resume_reading()

    def is_reading(self) -> bool:
        return not self._paused and self._plain.is_reading()

    def is_closing(self) -> bool:
        return self._closing or self._plain.is_closing()

    def close(self) -> None:
        """Send what is left and close_notify (RFC 8446 section 6.1), without waiting for the peer's."""
        if self._closing:
            return
        self._closing = True
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass
        self._send()
        self._plain.close()

    def abort(self) -> None:
        self._closing = True
        self._plain.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tls if name == "ssl_object" else self._plain.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._plain.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._plain.get_write_buffer_size()


def shared_buffer() -> memoryview:
    """A buffer for all connections of one loop."""
    return memoryview(bytearray(READ_OCTETS))
