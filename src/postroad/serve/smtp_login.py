"""AUTH at an SMTP door (RFC 4954): one exchange at a time, answered through the machine.

The machine has already checked that AUTH may stand here and undone base64. What the session keeps of a login is what
`take` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from postroad.serve.logins import LoggedIn, Logins, Trouble
from postroad.serve.sasl_exchange import Challenge, Circumstances, begin
from postroad.values.reply import Reply
from postroad.wire import sasl

CHALLENGE: Final = 334
OK: Final = Reply(235, "2.7.0", "Authentication successful")
SYNTAX: Final = Reply(501, "5.5.2", "That is not what this mechanism expects")
REFUSED: Final = {
    "wrong": Reply(535, "5.7.8", "Wrong user name or password. Log in with your whole mail address."),
    "busy": Reply(454, "4.7.0", "Too many logins at once. Please retry in a minute."),
    "braked": Reply(421, "4.7.0", "Too many failed logins from your network. Please retry in a quarter of an hour."),
}
"""By the kind of trouble. 535 says the same for every reason (RFC 4954 section 6, "credentials invalid")."""

Refuse = Callable[[Reply, str, str], Reply]
"""Writes a refusal down (reply, stable word, command) and returns the reply with its reference."""


class SmtpLogin:
    """One exchange at one connection; it ends with the first answer that is no challenge."""

    __slots__ = ("_exchange", "_refuse", "mechanism")

    def __init__(self, logins: Logins, mechanism: str, where: Circumstances, refuse: Refuse) -> None:
        self.mechanism = mechanism
        self._exchange = begin(logins, mechanism, where)
        self._refuse = refuse

    async def take(self, octets: bytes | None) -> tuple[Reply, LoggedIn | Trouble | None]:
        """Go on with what the client said, None for no initial response: what to answer, and what came of it.

        That is None while the exchange is open, and after a message that was none.
        """
        try:
            step = await self._exchange.take(octets)
        except sasl.SaslError as error:
            return self._refuse(SYNTAX, "login not well formed", f"login by {self.mechanism}: {error}"), None
        if isinstance(step, Challenge):
            return Reply(CHALLENGE, "", sasl.encode_base64(step.octets).decode()), None
        if isinstance(step, LoggedIn):
            return OK, step
        command = f"login as {self._exchange.user[:80]} by {self.mechanism}"
        return self._refuse(REFUSED[step.kind], step.value, command), step
