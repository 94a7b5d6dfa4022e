"""Accepting for doors behind proxies: a listed peer's connection begins with a PROXY header, read before anything else.

Exactly the octets of the header are taken from the socket, so what follows them (a command, or the first octets of a
TLS handshake) meets a door that has seen nothing. Invariant: a socket is in one place at a time: it waits here for its
header, or was handed on, or is closed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from postroad.values.errors import PeerError
from postroad.values.networks import Networks
from postroad.wire.proxy import Header, read_header

log = logging.getLogger(__name__)

HEADER_S: Final = 5.0
"""Section 2 of proxy-protocol.txt: "at least 3 seconds to cover a TCP retransmit"."""

ACCEPTS_A_ROUND: Final = 64
"""Connections taken before the loop looks at the others again."""

AGAIN_S: Final = 0.2
"""Pause behind an accept that failed for want of descriptors or memory: the socket stays readable all the time."""

_PEEK: Final = 4096
_WANT: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


@dataclass(frozen=True, slots=True)
class Origin:
    """Who is at the other end: the client, and the proxy that passed it on, if one did."""

    address: str
    port: int
    via: str = ""


class ProxyListener:
    """One listening socket. `accepted` takes each socket with its origin; `refused` hears why one was closed."""

    __slots__ = ("_accepted", "_listed", "_loop", "_pause", "_refused", "_sock", "_waiting")

    def __init__(
        self,
        sock: socket.socket,
        listed: Networks,
        accepted: Callable[[socket.socket, Origin], None],
        refused: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._listed = listed
        self._accepted = accepted
        self._refused = refused
        self._waiting: set[_Waiting] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._resume()

    def close(self) -> None:
        """Stop accepting and close what still waits for its header; the listening socket stays open elsewhere."""
        if self._sock.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        for waiting in list(self._waiting):
            waiting.close()

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_ROUND):
            try:
                sock, name = self._sock.accept()
            except BlockingIOError:  # another worker was faster
                return
            except OSError as error:
                if error.errno in _WANT:
                    self._loop.remove_reader(self._sock.fileno())
                    self._pause = self._loop.call_later(AGAIN_S, self._resume)
                    return
                continue  # accept(2): the connection was gone before we came, which is no fault of the others
            sock.setblocking(False)
            if name[0] in self._listed:
                _Waiting(self, sock, name[0])
            else:
                self._accepted(sock, Origin(name[0], name[1]))


class _Waiting:
    """A listed peer whose header has not come in full yet."""

    __slots__ = ("_came", "_owner", "_proxy", "_sock", "_timer")

    def __init__(self, owner: ProxyListener, sock: socket.socket, proxy: str) -> None:
        self._owner = owner
        self._sock = sock
        self._proxy = proxy
        self._came = b""
        self._timer = owner._loop.call_later(HEADER_S, self._end, "no PROXY header in time")
        owner._waiting.add(self)
        owner._loop.add_reader(sock.fileno(), self._read)

    def close(self) -> None:
        """Let go of the socket and end the connection."""
        self._let_go()
        self._sock.close()

    def _let_go(self) -> None:
        self._timer.cancel()
        self._owner._loop.remove_reader(self._sock.fileno())
        self._owner._waiting.discard(self)

    def _end(self, why: str) -> None:
        # Nobody but a listed proxy gets here, so this is a set-up that somebody has to mend, and no flood of strangers.
        log.warning("%s: closed. %s is in listen.proxy_from, so it has to send one (send-proxy-v2).", why, self._proxy)
        self.close()
        self._owner._refused(why)

    def _read(self) -> None:
        try:
            seen = self._sock.recv(_PEEK, socket.MSG_PEEK)
            header = read_header(self._came + seen) if seen else None
            # A header that is not whole takes all that came, else a socket with half of one stays readable.
            take = len(seen) if header is None else header.length - len(self._came)
            self._came += self._sock.recv(take) if take else b""
        except BlockingIOError:
            return
        except PeerError as error:
            self._end(str(error))
        except OSError:
            self.close()
        else:
            self._judge(header, seen)

    def _judge(self, header: Header | None, seen: bytes) -> None:
        if header is not None:
            self._let_go()
            address, port = header.address, header.port
            if not address:
                # A health check, or a client the proxy cannot name: the connection is the proxy's own.
                address, port = self._sock.getpeername()[:2]
            self._owner._accepted(self._sock, Origin(address, port, self._proxy))
        elif not seen:
            # A probe that only connects is how many proxies look whether we live.
            self.close()
