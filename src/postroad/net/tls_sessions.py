"""TLS sessions of hosts we have spoken to, so that the next handshake needs no certificates (RFC 8446 section 2.2).

The loops make the TLS object of a connection themselves and let nobody say which session to resume; the context they
make it from is asked instead. What a resumed session proves is what the full handshake proved: its certificates are
kept with it, and they are judged anew every time. What it saves is the host's signature and two packets of
certificates; to us a resumed handshake costs what a whole one does (0.85 ms, as the check of known certificates is
remembered).
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

SESSIONS_KEPT: Final = 2000
"""Hosts whose session is remembered, 8 kB each with their certificates."""

SESSION_S: Final = 7200.0
"""How long a session is offered: servers rarely keep theirs longer, and a certificate that was replaced should show."""

TICKETLESS_S: Final = 600.0
"""How long a host that handed out no ticket is not looked at for one: the library copies a whole session for every
look, which costs 0.1 ms, a third of a handshake."""


class ResumingContext(ssl.SSLContext):
    """A client's context whose connections resume the session that was laid out for their host name.

    The loops insist on a plain `str` and hand over the very object they were given, so its identity is the key.
    """

    def __new__(cls, protocol: int) -> ResumingContext:
        made = super().__new__(cls, protocol)
        made.laid_out = {}
        return made

    laid_out: dict[int, ssl.SSLSession]
    """By the identity of a host name that somebody holds."""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As always, with the session that was laid out; without it when it belongs to another context."""
        session = session or self.laid_out.get(id(server_hostname))
        with contextlib.suppress(ValueError):
            return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A session, when its full handshake was, and the certificates shown in it."""

    session: ssl.SSLSession
    at: float
    chain: tuple[bytes, ...]


class Sessions:
    """Sessions by key: one for each host, address and policy. Invariant: at most SESSIONS_KEPT, none over SESSION_S."""

    __slots__ = ("_kept", "_now", "_ticketless")

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._ticketless: OrderedDict[str, float] = OrderedDict()
        """When a host handed out no ticket, of at most SESSIONS_KEPT hosts."""

    @contextlib.contextmanager
    def resuming(self, context: ssl.SSLContext, host: str, key: str) -> Iterator[str]:
        """The host's name to begin a handshake with inside, so that the session of this key is resumed if there is
        one."""
        kept = self._kept.get(key)
        if kept is not None and self._now() - kept.at > SESSION_S:
            del self._kept[key]
            kept = None
        if kept is None or not isinstance(context, ResumingContext):
            yield host
            return
        name = host.encode().decode()  # an object of its own
        context.laid_out[id(name)] = kept.session
        try:
            yield name
        finally:
            del context.laid_out[id(name)]

    def chain(self, key: str, own: bytes | None) -> tuple[bytes, ...]:
        """The certificates of a resumed session, of which the library keeps the host's own only."""
        kept = self._kept.get(key)
        if own is None or kept is None or kept.chain[:1] != (own,):
            return () if own is None else (own,)
        return kept.chain

    def keep(self, key: str, tls: ssl.SSLObject, chain: Sequence[bytes]) -> None:
        """Remembers the session of a connection that is about to end, if the host lets it be resumed."""
        if self._now() - self._ticketless.get(key, -TICKETLESS_S) < TICKETLESS_S:
            return
        session = tls.session
        if session is None or not session.has_ticket:
            self._ticketless.pop(key, None)
            if len(self._ticketless) >= SESSIONS_KEPT:
                self._ticketless.popitem(last=False)
            self._ticketless[key] = self._now()
            return
        before = self._kept.pop(key, None)
        # The time of the full handshake counts, or a certificate would never be looked at again.
        at = before.at if before is not None and tls.session_reused else self._now()
        if len(self._kept) >= SESSIONS_KEPT:
            self._kept.popitem(last=False)
        self._kept[key] = _Kept(session, at, tuple(chain))

    def forget(self, key: str) -> None:
        """The next handshake is a whole one."""
        self._kept.pop(key, None)
