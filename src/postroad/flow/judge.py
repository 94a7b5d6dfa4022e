"""What an answer means: whom it is about, whether it is final, and what to do next. The one place that knows.

Mail bounces only by an answer about its sender, recipient or content, given by a host that took part in a mail
transaction. Whatever is about the host - a greeting of 554, a refused HELO, a lost connection, a 421 - sends us to
another host or to another time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from postroad.values.outcome import About, Fate, Outcome
from postroad.values.reply import Reply
from postroad.wire.smtp.events import TransactionResult


class Step(Enum):
    """What becomes of the connection and of the recipient next."""

    GO_ON = "go on"
    """The recipient's attempt has ended; the connection may take more mail."""
    REST = "rest"
    """The host takes no more recipients in this transaction: the rest goes in another one, now."""
    OTHER_HOST = "other host"
    """This host will not do; another of the plan may."""
    UNFIT = "unfit"
    """The host lacks what the mail needs, and was not asked: another of the plan may have it."""
    IN_THE_CLEAR = "in the clear"
    """TLS did not come to be, and policy allows the same host again without it."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """How one answer is understood."""

    fate: Fate
    about: About
    step: Step
    cause: str


NO_SUPPORT: Final = "5.7.30"
"""RFC 8689 section 4.2.1: "REQUIRETLS not supported by server"."""
NEEDS_ENCRYPTION: Final = "5.7.10"
"""The same section: "Unable to establish TLS-protected SMTP session"."""

SESSION_STAGES: Final = frozenset({"connect", "greeting", "hello", "starttls", "tls", "auth", "ready", "reset", "quit"})
"""Before and between mail transactions: whatever is said there is about the host."""

ASKS_FOR_MORE: Final = frozenset({530, 534, 535, 538})
"""RFC 4954 section 6, RFC 3207 section 4: the host wants a login or TLS first; the mail itself was not judged."""

UNKNOWN_COMMAND: Final = frozenset({500, 502})
"""RFC 5321 section 4.2.4: "a command that is not recognized should return code 500", one not implemented 502."""

TOO_MANY: Final = frozenset({452, 552})
"""RFC 5321 section 4.5.3.1.10: "The correct reply code for this condition is 452. Clients SHOULD treat a 552 code in
this case as a temporary, rather than permanent, failure"."""

_FULL: Final = ".2.2"
"""RFC 3463 X.2.2, mailbox full: says 552 too, and means this recipient only."""

_ABOUT: Final = {
    "mail": About.SENDER,
    "rcpt": About.RECIPIENT,
    "data": About.BODY,
    "content": About.BODY,
    "final": About.BODY,
}


def judge(stage: str, reply: Reply) -> Meaning:
    """The meaning of a refusal at a stage of the dialog ("greeting", "mail", "rcpt", "data", "final", ...)."""
    code = reply.code
    cause = f"{_PLACES.get(stage, stage)} was answered {code}"
    # RFC 5321 section 4.2.2: 421 "may be a reply to any command" - the host is closing, the command was not judged.
    if stage in SESSION_STAGES or code == 421 or code in ASKS_FOR_MORE:
        return Meaning(Fate.DEFERRED, About.HOST, Step.OTHER_HOST, cause)
    about = _ABOUT.get(stage, About.HOST)
    if stage == "rcpt" and code in TOO_MANY and _means_too_many(reply):
        return Meaning(Fate.DEFERRED, About.RECIPIENT, Step.REST, "too many recipients at once")
    # RFC 1870 section 6.1: MAIL with SIZE= is refused for the message's size, not for the sender.
    if stage == "mail" and (code == 552 or reply.enhanced.endswith(".3.4")):
        about = About.BODY
    if reply.permanent:
        return Meaning(Fate.FAILED, about, Step.GO_ON, cause)
    return Meaning(Fate.DEFERRED, about, Step.GO_ON, cause)


_PLACES: Final = {
    "connect": "the connection",
    "greeting": "the connection",
    "hello": "EHLO",
    "starttls": "STARTTLS",
    "auth": "AUTH",
    "mail": "the sender",
    "rcpt": "the recipient",
    "data": "the message",
    "content": "the message",
    "final": "the message",
    "reset": "RSET",
}


def _means_too_many(reply: Reply) -> bool:
    if reply.enhanced:
        return reply.enhanced.endswith(".5.3")
    text = reply.text.lower()
    # 452 without a status code says "insufficient system storage" as well; 552 of a mailbox says so.
    return "quota" not in text if reply.code == 552 else "too many" in text


def judge_transaction(result: TransactionResult, index: int, where: str, tls: str) -> tuple[Outcome, Step]:
    """One recipient's outcome of a transaction that came to its end, and the step after it."""
    reply = result.recipients[index]
    if reply.positive:
        return Outcome(Fate.DELIVERED, About.HOST, "", reply, where, tls), Step.GO_ON
    if result.mail is None or not result.mail.positive:
        stage = "mail"
    elif (result.final is not None and reply == result.final) or any(reply is final for final in result.finals):
        # RFC 2033 section 4.2: LMTP answers the content once for each recipient, and not alike for all.
        stage = "final"
    else:
        stage = "rcpt"
    meaning = judge(stage, reply)
    return Outcome(meaning.fate, meaning.about, meaning.cause, reply, where, tls), meaning.step


def judge_loss(stage: str, why: str, reply: Reply | None, where: str, tls: str) -> Outcome:
    """The outcome of an attempt whose connection was lost: always about the host, never final."""
    place = _STAGES_AS_PLACES.get(stage, stage)
    # Whether the message arrived is unknown after the final dot; it is sent again (RFC 1047).
    doubt = "; it may have arrived" if stage == "final" else ""
    cause = f"{why} {place}{doubt}"
    if reply is None:
        # The host said nothing, so `where` stands in the words only.
        named = f"{cause} ({where})" if where else cause
        return Outcome(Fate.DEFERRED, About.HOST, named, Reply(451, "4.4.2", cause), "", tls)
    return Outcome(Fate.DEFERRED, About.HOST, cause, reply, where, tls)


_STAGES_AS_PLACES: Final = {
    "greeting": "before the greeting",
    "hello": "at EHLO",
    "starttls": "at STARTTLS",
    "tls": "in the TLS handshake",
    "auth": "at AUTH",
    "ready": "between messages",
    "mail": "at MAIL",
    "rcpt": "at RCPT",
    "data": "at DATA",
    "content": "while the message was sent",
    "final": "after the message was sent",
    "reset": "at RSET",
    "quit": "at QUIT",
}


def judge_connect(why: str, where: str) -> Outcome:
    """The outcome of a connection that never came to be."""
    return Outcome(Fate.DEFERRED, About.HOST, f"{why} ({where})" if where else why, Reply(451, "4.4.1", why), "")


def unsendable(status: str, cause: str, where: str, tls: str = "") -> Outcome:
    """The end of mail that this host's extensions cannot carry (RFC 6531 section 3.2, RFC 6152 section 3).

    The host said nothing, so `where` stands in the words only.
    """
    return Outcome(Fate.FAILED, About.BODY, _ours(status, cause, where), Reply(554, status, cause), "", tls)


def unrequired(cause: str, where: str = "", tls: str = "", status: str = NO_SUPPORT) -> Outcome:
    """The end of a message with REQUIRETLS at hosts that cannot fulfil it, which said nothing themselves."""
    return Outcome(Fate.FAILED, About.HOST, _ours(status, cause, where), Reply(550, status, cause), "", tls)


def _ours(status: str, cause: str, where: str) -> str:
    """A verdict of ours in words, with the status that the sender's report bears."""
    return f"{cause} ({where}; {status})" if where else f"{cause} ({status})"
