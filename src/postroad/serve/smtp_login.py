"""AUTH at an SMTP door (RFC 4954): one exchange at a time, answered through the machine.

The machine has already checked that AUTH may stand here and undone base64. What the session keeps of a login is
whatever `take` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from postroad.serve.logins import LoggedIn, Logins, Trouble
from postroad.serve.sasl_exchange import Challenge, Circumstances, Exchange, Step, begin
from postroad.values.reply import Reply
from postroad.wire import sasl

OK: Final = Reply(235, "2.7.0", "Authentication successful")
SYNTAX: Final = Reply(501, "5.5.2", "That is not what this mechanism expects")
REFUSED: Final = {
    "wrong": Reply(535, "5.7.8", "Wrong user name or password."),
    "busy": Reply(454, "4.7.0", "Too many logins at once. Please retry in a minute."),
    "braked": Reply(421, "4.7.0", "Too many failed logins from your network. Please retry in a quarter of an hour."),
}
"""By the kind of trouble. 535 says the same for every reason: RFC 4954 section 6, "invalid credentials"."""

Refuse = Callable[[Reply, str, str], Reply]
"""Writes a refusal down (reply, stable word, command) and returns the reply with its reference."""


class SmtpLogin:
    """The exchange that is open at one connection, if any.

    Invariant: an exchange ends with its first answer that is no challenge, and nothing of it is left then.
    """

    __slots__ = ("_exchange", "_logins", "_refuse", "_where", "mechanism")

    def __init__(self, logins: Logins, where: Circumstances, refuse: Refuse) -> None:
        self._logins = logins
        self._where = where
        self._refuse = refuse
        self._exchange: Exchange | None = None
        self.mechanism = ""
        """Of the exchange that was begun last."""

    def begin(self, mechanism: str) -> None:
        """AUTH was said; `take` follows with its initial response, or None."""
        self.mechanism = mechanism
        self._exchange = begin(self._logins, mechanism, self._where)

    def cancel(self) -> None:
        """The client gave up, or the machine did."""
        self._exchange = None

    async def take(self, octets: bytes | None) -> tuple[Reply, LoggedIn | Trouble | None]:
        """Go on with what the client said: what to answer, and what came of it, None while that is open."""
        exchange = self._exchange
        assert exchange is not None
        try:
            step: Step = await exchange.take(octets)
        except sasl.SaslError as error:
            self._exchange = None
            return self._refuse(SYNTAX, "login not well formed", f"login by {self.mechanism}: {error}"), None
        if isinstance(step, Challenge):
            return Reply(334, "", sasl.encode_base64(step.octets).decode()), None
        self._exchange = None
        if isinstance(step, LoggedIn):
            return OK, step
        return self._refuse(REFUSED[step.kind], step.value, f"login as {exchange.user[:80]} by {self.mechanism}"), step
