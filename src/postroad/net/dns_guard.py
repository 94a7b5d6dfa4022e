"""Answers of name servers, looked at before the library decodes them: what would keep it busy is let go by.

Measured: 64 kB of records whose names are pointers to one name of a hundred labels take dnspython 7 s, in which the
worker does nothing else.
"""

from __future__ import annotations

from typing import Any, Final

import dns.exception
from dns._asyncio_backend import Backend

from postroad.wire.dns_names import labels

LABELS_MAX: Final = 10_000
"""Labels in one answer: five hundred mail exchangers have half of that; decoding takes 0.1 s at the worst."""


class TooMuch(dns.exception.DNSException):
    """The answer holds more names than anybody needs."""

    msg = "too many names"


def too_much(wire: bytes) -> bool:
    """Whether an answer is more work than it is worth."""
    return labels(wire, LABELS_MAX) >= LABELS_MAX


class GuardedBackend(Backend):
    """The library's sockets, each with a look at what arrives."""

    async def make_socket(self, *arguments: Any, **named: Any) -> Any:
        """A socket like the library's own."""
        made = await super().make_socket(*arguments, **named)  # type: ignore[no-untyped-call]
        return _Datagrams(made) if hasattr(made, "recvfrom") else _Stream(made)


class _Socket:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> _Socket:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._inner.close()


class _Datagrams(_Socket):
    async def recvfrom(self, size: int, timeout: float) -> tuple[bytes, Any]:
        wire, sender = await self._inner.recvfrom(size, timeout)
        # As short as this it is no message: anybody may have sent it, and the true answer may follow.
        return (b"" if too_much(wire) else wire), sender


class _Stream(_Socket):
    """Of a stream the library reads two octets that say how long the message is, and then the message."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._read = b""

    async def recv(self, size: int, timeout: float) -> bytes:
        octets: bytes = await self._inner.recv(size, timeout)
        self._read += octets
        if len(self._read) >= 2 + int.from_bytes(self._read[:2]) and too_much(self._read[2:]):
            raise TooMuch
        return octets
