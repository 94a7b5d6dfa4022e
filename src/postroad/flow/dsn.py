"""What a delivery status notification says (RFC 3464): words for people, fields for programs, and the mail it is about.

Pure: notices of what became of recipients go in, the message in wire form comes out. Who gets one, and whether, is
`flow.bounce`'s to decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum
from typing import Final

from postroad.flow.parcels import Letter
from postroad.values.ids import id_text
from postroad.values.outcome import Outcome
from postroad.wire.mime.compose import Composer, quoted_part, raw_part, text_part
from postroad.wire.smtp.grammar import MAX_ORCPT, encode_xtext

HEADER_KEPT: Final = 30_000
"""Octets of the message's header that a report carries: whole in nearly all mail, and no bomb in any."""

FULL_MAX: Final = 40_000
"""Octets up to which RET=FULL returns the whole message; larger mail comes back as its header (RFC 3461 section 6.2
lets a server have such a length)."""

DIAGNOSTIC_MAX: Final = 500
"""Characters of a host's answer that a report repeats."""


HEADERS_TYPE: Final = "text/rfc822-headers"


class Action(Enum):
    """What became of a recipient, in the words of RFC 3464 section 2.3.3 and in the order of a report."""

    FAILED = "failed"
    DELAYED = "delayed"
    EXPANDED = "expanded"
    RELAYED = "relayed"
    DELIVERED = "delivered"


_KEYWORDS: Final = {Action.FAILED: "FAILURE", Action.DELAYED: "DELAY"}
"""The NOTIFY keyword that asks for each action; the others belong to SUCCESS."""

_CLASSES: Final = {Action.FAILED: "5", Action.DELAYED: "4"}
"""First number of the status code of each action (RFC 3463 section 3.1); the others have 2."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a report says of one recipient."""

    action: Action
    recipient: str
    outcome: Outcome
    notify: str = ""
    orcpt: str = ""
    expired: bool = False
    """It did not fail for good: its time was up."""
    attempts: int = 1
    until_us: int = 0
    """Of a delay: how long it is still tried."""

    @property
    def wanted(self) -> bool:
        """Whether the sender asked to hear of this, or did not say and it is told unasked (RFC 3461 section 4.1)."""
        if not self.notify:
            return self.action in _KEYWORDS
        return _KEYWORDS.get(self.action, "SUCCESS") in self.notify

    @property
    def status(self) -> str:
        """RFC 3463 code of the action's own class; X.4.7 is "delivery time expired"."""
        if self.expired:
            return "4.4.7"
        status, group = self.outcome.status, _CLASSES.get(self.action, "2")
        return status if status.startswith(group) else f"{group}.0.0"


def original_recipient(address: str) -> str:
    """An address as the ORCPT that we add ourselves; empty where that would be longer than every host must take."""
    orcpt = f"rfc822;{encode_xtext(address)}" if address.isascii() else f"utf-8;{_unicode(address, utf8=False)}"
    return orcpt if len(orcpt) <= MAX_ORCPT else ""


def without_success(notify: str) -> str:
    """What an address behind an alias of many inherits of a NOTIFY (RFC 3461 section 5.2.7.3 (c)).

    "any SUCCESS keyword is removed"; what is left of SUCCESS alone is the wish to hear nothing more.
    """
    return ",".join(word for word in notify.split(",") if word != "SUCCESS") or ("NEVER" if notify else "")


# -- the message -------------------------------------------------------------------------------------------------------


def compose(letter: Letter, notices: Sequence[Notice], ident: int, hostname: str, now_us: int) -> bytes:
    """The report on a letter whose header is there, as a message in wire form; `ident` is its own queue id."""
    notices = sorted(notices, key=lambda notice: _ORDER[notice.action])
    mail = Composer()
    mail.add_structured("Received", f"by {hostname} with LOCAL id {id_text(ident)}; {date_text(now_us)}")
    mail.add_structured("From", f"Mail Delivery System <mailer-daemon@{hostname}>")
    mail.add_structured("To", f"<{letter.sender}>")
    mail.add("Subject", _subject(notices))
    mail.add_structured("Date", date_text(now_us))
    mail.add_structured("Message-ID", f"<{message_id(ident, hostname)}>")
    # RFC 3834 section 5: what answers by itself says so, and nothing answers it.
    mail.add_structured("Auto-Submitted", "auto-replied")
    whole = _returns_whole(letter, notices)
    parts = [
        text_part(_words(letter, notices, hostname, whole)),
        _status_part(letter, notices, hostname, now_us),
        _original(letter, whole),
    ]
    return mail.multipart("report", parts, id_text(ident).encode(), report_type="delivery-status")


_ORDER: Final = {action: place for place, action in enumerate(Action)}

_SUBJECTS: Final = {
    Action.FAILED: "Not delivered: your mail to",
    Action.DELAYED: "Delayed, still trying: your mail to",
    Action.EXPANDED: "Passed on to a list of recipients: your mail to",
    Action.RELAYED: "Handed on to another system: your mail to",
    Action.DELIVERED: "Delivered: your mail to",
}


def _subject(notices: Sequence[Notice]) -> str:
    first = _readable(notices[0].recipient)[:200]
    more = f" and {len(notices) - 1} more" if len(notices) > 1 else ""
    return f"{_SUBJECTS[notices[0].action]} {first}{more}"


# -- words for people --------------------------------------------------------------------------------------------------


def _words(letter: Letter, notices: Sequence[Notice], hostname: str, whole: bool) -> str:
    """The part for people: what happened, why, and what to do, recipient by recipient."""
    lines = [f"This is the mail server {hostname}."]
    for action in Action:
        members = [notice for notice in notices if notice.action is action]
        if members:
            lines += ["", *_OPENINGS[action](f"Your message of {date_text(letter.received_us)}", members)]
            for notice in members:
                lines += _recipient_words(notice)
    lines += [
        "",
        f"{'Your message' if whole else 'The header of your message'} is attached.",
        "If you ask somebody for help, give this reference:",
        f"    {id_text(letter.id)}",
    ]
    return "\n".join(lines) + "\n"


def _failed(message: str, members: Sequence[Notice]) -> list[str]:
    whom = "these recipients" if len(members) > 1 else "its recipient"
    return [f"{message} did not reach {whom}.", "We have stopped trying."]


def _delayed(message: str, members: Sequence[Notice]) -> list[str]:
    whom = "these recipients" if len(members) > 1 else "its recipient"
    return [
        f"{message} has not reached {whom} yet.",
        f"We keep trying until {date_text(members[0].until_us)}. You need not send it again:",
        "if it cannot be delivered by then, you are told.",
    ]


def _expanded(message: str, members: Sequence[Notice]) -> list[str]:
    return [
        f"{message} came to an address that stands for several recipients, and was passed on to all of them.",
        "You asked to hear of its delivery; from here on you hear only of failures.",
    ]


def _relayed(message: str, members: Sequence[Notice]) -> list[str]:
    return [
        f"{message} was handed on to another mail system, which confirms no deliveries.",
        "You asked to hear of its delivery; this is the last that can be known.",
    ]


def _delivered(message: str, members: Sequence[Notice]) -> list[str]:
    whom = "the mailboxes of these recipients" if len(members) > 1 else "the mailbox of its recipient"
    return [f"{message} is in {whom}.", "You asked to hear of its delivery. It says nothing about being read."]


_OPENINGS: Final = {
    Action.FAILED: _failed,
    Action.DELAYED: _delayed,
    Action.EXPANDED: _expanded,
    Action.RELAYED: _relayed,
    Action.DELIVERED: _delivered,
}


def _recipient_words(notice: Notice) -> Iterator[str]:
    """One recipient's lines: the address, and what there is to say of it."""
    outcome = notice.outcome
    yield from ("", f"    {_readable(notice.recipient)}")
    if notice.action in (Action.FAILED, Action.DELAYED):
        yield from ("", f"    What happened: {_what(notice)}")
        if outcome.reply is not None and outcome.where:
            yield f"    What {_clean(outcome.where)} said:"
            yield f"        {_clean(str(outcome.reply))[:DIAGNOSTIC_MAX]}"
    elif notice.action is Action.RELAYED and outcome.where:
        yield f"    Taken over by {_clean(outcome.where)}"
    if notice.action is Action.FAILED:
        yield f"    What you can do: {advice(notice)}"


def _what(notice: Notice) -> str:
    cause = _clean(notice.outcome.cause) or "it was refused"
    times = f"{notice.attempts} attempts" if notice.attempts > 1 else "One attempt"
    if notice.expired:
        return f"{times} failed until its time was up; at last: {cause}."
    if notice.action is Action.DELAYED:
        return f"{times} failed so far; at last: {cause}."
    return f"{cause}."


_ADVICE: Final = {
    "1.1": "Check the spelling of the address; the host says that nobody has it.",
    "1.2": "Check the spelling of the part behind the @; there is no such mail domain.",
    "1.10": "Write to another address; this domain takes no mail at all.",
    "2.1": "Reach the recipient in another way; the mailbox is switched off.",
    "2.2": "Try again later or reach the recipient in another way; the mailbox is full.",
    "3.4": "Send a smaller message, or a link to what was attached.",
    "4.4": "Ask the recipient's administrator: the domain publishes no host that mail could go to.",
    "4.6": "Tell the administrator: the mail would have run in a circle.",
    "4.7": "Check the address; if it is right, send again later. The host could not be reached for a long time.",
    "5.3": "Write to fewer recipients at once.",
    "7.10": "Send it without requiring TLS all the way, or not by mail; a server on the way has no TLS to be trusted.",
    "7.30": "Send it without requiring TLS all the way, or not by mail; the recipient's server cannot promise that.",
    "6.0": "Send it again from another mail program; the content is not well-formed.",
    "6.3": "Send it as plain text without special characters; the host takes nothing else.",
    "6.7": "Use an address without special characters; the host does not know any others.",
    "6.9": "Use a subject and names without special characters; the host does not know them.",
}
"""By the last two numbers of the status code; RFC 3463 section 3 names them."""

_ADVICE_BY_CLASS: Final = {
    "1": "Check the address.",
    "2": "Reach the recipient in another way; the mailbox cannot take the message.",
    "3": "Try again later; the recipient's mail system has a problem.",
    "4": "Try again later; the way to the recipient's mail system has a problem.",
    "5": "Tell the administrator; the two mail systems did not understand each other.",
    "6": "Send it in a simpler form; the host does not take this content.",
    "7": "Ask the recipient's administrator why: the host refused the message by its rules.",
}


def advice(notice: Notice) -> str:
    """What the sender of undelivered mail can do, by the status code."""
    subject, _, detail = notice.status[2:].partition(".")
    return (
        _ADVICE.get(f"{subject}.{detail}")
        or _ADVICE_BY_CLASS.get(subject)
        or "Check the address, or reach the recipient in another way."
    )


# -- fields for programs -----------------------------------------------------------------------------------------------


def _status_part(letter: Letter, notices: Sequence[Notice], hostname: str, now_us: int) -> bytes:
    """The part for programs (RFC 3464 section 2).

    RFC 6533 section 4: addresses beyond ASCII stand as they are in message/global-delivery-status. Only a sender who
    used SMTPUTF8 is known to read that; for others they are written in ASCII.
    """
    lines = [f"Reporting-MTA: dns; {hostname}"]
    if letter.envid:
        lines.append(f"Original-Envelope-Id: {_clean(decode_xtext(letter.envid))}")
    lines += [f"Arrival-Date: {date_text(letter.received_us)}", f"X-Postroad-Queue-Id: {id_text(letter.id)}"]
    for notice in notices:
        lines += ["", *_recipient_fields(notice, now_us, utf8=letter.smtputf8)]
    text = "\r\n".join(lines) + "\r\n"
    kind = "message/delivery-status" if text.isascii() else "message/global-delivery-status"
    return raw_part(text.encode("utf-8", "replace"), kind)


def _recipient_fields(notice: Notice, now_us: int, *, utf8: bool) -> Iterator[str]:
    """The fields of one recipient (RFC 3464 section 2.3, RFC 3461 section 6.3)."""
    outcome = notice.outcome
    if notice.orcpt:
        # RFC 3461 section 6.3 (d): "If no ORCPT parameter was provided for this recipient, the Original-Recipient
        # field MUST NOT appear."
        kind, _, address = notice.orcpt.partition(";")
        text = _unicode(address, utf8=utf8) if kind.lower() == "utf-8" else _clean(decode_xtext(address))
        yield f"Original-Recipient: {_clean(kind)}; {text}"
    # RFC 6533 section 3: an address that is no ASCII has a type of its own.
    ascii_only = notice.recipient.isascii()
    address = _clean(notice.recipient) if ascii_only else _unicode(notice.recipient, utf8=utf8)
    yield f"Final-Recipient: {'rfc822' if ascii_only else 'utf-8'}; {address}"
    yield f"Action: {notice.action.value}"
    yield f"Status: {notice.status}"
    if outcome.reply is not None and outcome.where:
        yield f"Remote-MTA: dns; {_clean(outcome.where.partition(' ')[0])}"
        yield f"Diagnostic-Code: smtp; {_clean(str(outcome.reply))[:DIAGNOSTIC_MAX]}"
    elif notice.action in (Action.FAILED, Action.DELAYED):
        yield f"Diagnostic-Code: x-postroad; {_clean(outcome.cause)[:DIAGNOSTIC_MAX]}"
    yield f"Last-Attempt-Date: {date_text(now_us)}"
    if notice.action is Action.DELAYED and notice.until_us:
        yield f"Will-Retry-Until: {date_text(notice.until_us)}"


# -- the mail it is about ----------------------------------------------------------------------------------------------


def _returns_whole(letter: Letter, notices: Sequence[Notice]) -> bool:
    """Whether the whole message goes back: RET=FULL, it is small, and something failed.

    RFC 3461 section 6.2: "If a DSN contains no notifications of delivery failure, the MTA SHOULD return only the
    headers."
    """
    if letter.ret != "FULL" or letter.body is None or len(letter.header or b"") + len(letter.body) > FULL_MAX:
        return False
    return any(notice.action is Action.FAILED for notice in notices)


def _original(letter: Letter, whole: bool) -> bytes:
    """The message or its header; header fields in UTF-8 have types of their own (RFC 6533 sections 4.2 and 4.3)."""
    header = letter.header or b""
    utf8 = letter.smtputf8 and not header.isascii()
    if whole:
        return raw_part(header + (letter.body or b""), "message/global" if utf8 else "message/rfc822")
    if len(header) > HEADER_KEPT:
        header = header[: header.rfind(b"\r\n", 0, HEADER_KEPT) + 2] + b"\r\n"
    if utf8:
        return raw_part(header, "message/global-headers")
    # RFC 6522 section 4: broken headers "MAY be encoded with quoted-printable", so that a host without 8BITMIME takes
    # the report.
    return raw_part(header, HEADERS_TYPE) if header.isascii() else quoted_part(header, HEADERS_TYPE)


# -- texts -------------------------------------------------------------------------------------------------------------


def decode_xtext(text: str) -> str:
    """RFC 3461 section 4: "+XX" stands for the octet XX; what is not well-formed stays as it is."""
    return _hexchar.sub(lambda found: chr(int(found[1], 16)), text)


_hexchar: Final = re.compile(r"\+([0-9A-Fa-f]{2})")
_embedded: Final = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")


def _clean(text: str) -> str:
    """Peers' words on one line of printable ASCII, so that they end no line and begin no field of ours."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


def _readable(text: str) -> str:
    """An address for people: any letters, but nothing that ends a line or turns the direction of writing."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _unicode(address: str, *, utf8: bool) -> str:
    r"""An address of type utf-8 (RFC 6533 section 3): its letters as they are, or as \x{HEX} where only ASCII may be.

    It may come in either form; other characters that stand for themselves in neither are written as \x{HEX} too.
    """
    plain = _embedded.sub(lambda found: _letter(found[0], int(found[1], 16)), address)
    return "".join(
        letter if letter in _PLAIN or (utf8 and not letter.isascii() and letter.isprintable())
        else f"\\x{{{ord(letter):02X}}}"
        for letter in plain
    )  # fmt: skip


_PLAIN: Final = frozenset(chr(code) for code in range(0x21, 0x7F)) - frozenset("\\+=")


def _letter(written: str, code: int) -> str:
    """The letter of a code point; what is written when there is none (surrogates, beyond Unicode)."""
    return chr(code) if code < 0xD800 or 0xE000 <= code <= 0x10FFFF else written


def message_id(ident: int, hostname: str) -> str:
    """The Message-ID of a report, without brackets."""
    return f"{id_text(ident).lower()}@{hostname.lower()}"


def date_text(at_us: int) -> str:
    """A wall time as RFC 5322 writes it, in the machine's zone."""
    return formatdate(at_us // 1_000_000, localtime=True)
