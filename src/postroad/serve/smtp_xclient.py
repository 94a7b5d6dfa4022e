"""XCLIENT: a listed peer speaks for a client, and limits, policy and journal see that client from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from postroad.serve.passwords import known_login
from postroad.values.reply import Reply
from postroad.wire.smtp import events as on

if TYPE_CHECKING:
    from postroad.serve.smtp import SmtpSession

NO_SUCH_LOGIN: Final = Reply(501, "5.1.3", "Nobody here has that login")


async def speak_for(session: SmtpSession, event: on.XClient) -> None:
    """Take the client's place in the session, with its login when it is one of ours, and greet anew."""
    account = await known_login(session.service.account, event.login)
    if event.login and account is None:
        reply = session.refused(NO_SUCH_LOGIN, "unknown login", f"XCLIENT LOGIN={event.login[:80]}")
    else:
        reply = await session.become(event, account)
    if not session.machine.closed:
        session.machine.answer(reply)
