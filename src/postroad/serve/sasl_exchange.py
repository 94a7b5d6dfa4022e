"""One SASL exchange of SMTP, IMAP or POP3, message by message (RFC 4422): each service only carries the octets."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Protocol

from postroad.serve.logins import Attempt, LoggedIn, Logins, Trouble
from postroad.wire import sasl
from postroad.wire.scram import END_POINT, ChannelError, ScramServer


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the client is sent, and has to answer."""

    octets: bytes = field(repr=False)


Step = Challenge | LoggedIn | Trouble


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Where an exchange happens."""

    service: str
    """One of `credential_records.SERVICES`."""
    peer: str
    end_point: bytes = b""
    """The certificate's hash on this connection; empty without TLS, or where there is none (RFC 5929)."""


class Exchange(Protocol):
    """One exchange: `take` what the client says until the answer is no `Challenge`."""

    @property
    def user(self) -> str:
        """Who wants to log in, as far as it is known; for the journal."""
        ...

    async def take(self, octets: bytes | None) -> Step:
        """Go on; None stands for an initial response that was not sent. Raises `SaslError` for what is not formed."""
        ...


def begin(logins: Logins, mechanism: str, where: Circumstances) -> Exchange:
    """The exchange of a mechanism that was offered (upper case)."""
    if mechanism == "PLAIN":
        return PlainExchange(logins, where)
    if mechanism == "LOGIN":
        return LoginExchange(logins, where)
    return ScramExchange(logins, mechanism, where)


class PlainExchange:
    """PLAIN (RFC 4616): one message."""

    __slots__ = ("_logins", "_where", "user")

    def __init__(self, logins: Logins, where: Circumstances) -> None:
        self._logins = logins
        self._where = where
        self.user = ""

    async def take(self, octets: bytes | None) -> Step:
        """The message, or an empty challenge that asks for it."""
        if octets is None:
            return Challenge(b"")
        given = sasl.decode_plain(octets)
        self.user = given.user
        # RFC 4616 section 2: acting on behalf of somebody else is not offered to anybody.
        if given.on_behalf_of not in ("", given.user):
            return Trouble.BEHALF
        return await self._logins.verify(given.user, given.password, self._where.service, self._where.peer)


class LoginExchange:
    """LOGIN, which no RFC describes: a user name and a password, each asked for."""

    __slots__ = ("_logins", "_name", "_where", "user")

    def __init__(self, logins: Logins, where: Circumstances) -> None:
        self._logins = logins
        self._where = where
        self._name: bytes | None = None
        self.user = ""

    async def take(self, octets: bytes | None) -> Step:
        """The user name, then the password."""
        if octets is None:
            return Challenge(sasl.LOGIN_USER_PROMPT)
        if self._name is None:
            self._name = octets
            return Challenge(sasl.LOGIN_PASSWORD_PROMPT)
        given = sasl.decode_login(self._name, octets)
        self.user = given.user
        return await self._logins.verify(given.user, given.password, self._where.service, self._where.peer)


class ScramExchange:
    """SCRAM-SHA-256, with or without PLUS: two messages of the client and its nod to the server's own proof.

    RFC 4954 section 4: what a server says with its success travels as a challenge, and the client answers nothing.
    """

    __slots__ = ("_attempt", "_found", "_logins", "_scram", "_where")

    def __init__(self, logins: Logins, mechanism: str, where: Circumstances) -> None:
        self._logins = logins
        self._where = where
        bindings = {END_POINT: where.end_point} if where.end_point else {}
        self._scram = ScramServer(mechanism, nonce=secrets.token_urlsafe(18), bindings=bindings)
        self._attempt: Attempt | None = None
        self._found: LoggedIn | None = None

    @property
    def user(self) -> str:
        """The user of the client's first message."""
        return self._scram.user

    async def take(self, octets: bytes | None) -> Step:
        """The client's first message, its last, then an empty one."""
        if self._found is not None:
            if octets:
                raise sasl.SaslError("something behind the last message")
            return self._found
        if octets is None:
            return Challenge(b"")
        try:
            return await (self._first(octets) if self._attempt is None else self._last(self._attempt, octets))
        except ChannelError:
            return Trouble.CHANNEL

    async def _first(self, octets: bytes) -> Step:
        user = self._scram.take_first(octets)
        if self._scram.on_behalf_of not in ("", user):
            return Trouble.BEHALF
        attempt = await self._logins.scram_attempt(user, self._where.service, self._where.peer)
        if isinstance(attempt, Trouble):
            return attempt
        assert attempt.keys is not None
        self._attempt = attempt
        return Challenge(self._scram.challenge(attempt.keys))

    async def _last(self, attempt: Attempt, octets: bytes) -> Step:
        last = self._scram.take_final(octets)
        found = await self._logins.scram_ended(attempt, last is not None)
        if isinstance(found, Trouble):
            return found
        assert last is not None
        self._found = found
        return Challenge(last)
