"""Reports of mail that ended undelivered: who gets one, what it says, and how it becomes mail itself.

RFC 3464 (multipart/report): words for the sender first, then the same for programs, then the header of the message.
A report goes to the sender of the message with the null sender of its own, so that no report answers a report
(RFC 5321 section 6.1). It is recorded in the transaction that ends the deliveries it tells of.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

from postroad.flow.lanes import Delivery, Letter
from postroad.flow.local import Plan
from postroad.store.records import TLS_BY_POLICY, TLS_REQUIRED, Accept, Copy, Leg
from postroad.values.address import Address, AddressError
from postroad.values.event import Event
from postroad.values.ids import IdMaker, id_text
from postroad.values.outcome import Outcome
from postroad.wire.mime.compose import Composer, raw_part, text_part

HEADER_KEPT: Final = 30_000
"""Octets of the message's header that a report carries: whole in nearly all mail, and no bomb in any."""

FULL_MAX: Final = 40_000
"""Octets up to which RET=FULL returns the whole message; larger mail comes back as its header (RFC 3461 section 4.3
lets a server choose)."""

DIAGNOSTIC_MAX: Final = 500
"""Characters of a host's answer that a report repeats."""

ANY_QUOTA: Final = -(1 << 62)
"""Size to plan with: a full mailbox is no reason to drop a report, it waits as an open local delivery."""

PlanFor = Callable[[Address], Awaitable[Plan]]
"""Where mail for an address goes, reports included."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One delivery that ended undelivered."""

    delivery: Delivery
    outcome: Outcome
    expired: bool = False
    """It did not fail for good: its time was up."""

    @property
    def status(self) -> str:
        """RFC 3463 code of the end; X.4.7 is "delivery time expired"."""
        return "4.4.7" if self.expired else self.outcome.status


def wants_report(delivery: Delivery) -> bool:
    """Whether the sender asked to hear of a failure, or did not say (RFC 3461 section 4.1)."""
    return not delivery.notify or "FAILURE" in delivery.notify


class Reporter:
    """Makes reports in the name of one host."""

    def __init__(self, *, hostname: str, plan_for: PlanFor, ids: IdMaker, lifetime_s: float, note: Note) -> None:
        self._hostname = hostname
        self._plan_for = plan_for
        self._ids = ids
        self._lifetime_us = int(lifetime_s * 1_000_000)
        self._note = note

    async def report(self, letter: Letter, failures: Sequence[Failure], now_us: int) -> Accept | str:
        """A report of these ends, ready to be recorded with them; or in words why there is to be none.

        `letter.header` must be there.
        """
        if not letter.sender:
            # RFC 5321 section 4.5.5: mail with a null reverse-path is itself a notification.
            return "double bounce: the message is a report itself"
        wanted = [failure for failure in failures if wants_report(failure.delivery)]
        if not wanted:
            return "the sender wants no report (NOTIFY)"
        try:
            address = Address.parse(letter.sender, utf8=True)
        except AddressError as error:
            return f"the sender's address cannot be written to: {error.reason}"
        plan = await self._plan_for(address)
        if plan.refusal is not None:
            return f"double bounce: the sender's own address takes no mail ({plan.refusal})"
        return self._accept(letter, wanted, address, plan, now_us)

    def _accept(self, letter: Letter, failures: Sequence[Failure], address: Address, plan: Plan, now_us: int) -> Accept:
        ident = self._ids.make(now_us)
        message = compose(letter, failures, ident, self._hostname, now_us)
        cut = message.find(b"\r\n\r\n") + 4
        header, body = message[:cut], message[cut:]
        copies = [
            Copy(
                recipient=recipient,
                account=account,
                prefix=f"Return-Path: <>\r\nDelivered-To: {recipient}\r\n".encode(),
                mailbox=mailbox,
            )
            for account, mailbox, recipient in plan.copies
        ]
        # RFC 8689 section 5: what tells of a message is protected like the message.
        tls = TLS_REQUIRED if any(failure.delivery.tls == TLS_REQUIRED for failure in failures) else TLS_BY_POLICY
        legs = [Leg(self._ids.make(now_us), str(to), to.domain_ascii, due_us=now_us, tls=tls) for to in plan.remotes]
        events = [
            Event(
                kind="received",
                at_us=now_us,
                by="report",
                cause=f"reports {id_text(letter.id)}",
                link=id_text(letter.id),
            )
        ]
        events += [
            Event(
                kind="delivered",
                at_us=now_us,
                recipient=copy.recipient,
                by="local delivery",
                where=f"mailbox {copy.mailbox}",
            )
            for copy in copies
        ]
        events += [Event(kind="queued", at_us=now_us, recipient=leg.recipient, next_us=now_us) for leg in legs]
        return Accept(
            id=ident,
            received_us=now_us,
            sender="",
            header=header,
            body=body,
            body_file="",
            size=len(message),
            copies=copies,
            legs=legs,
            expires_us=now_us + self._lifetime_us,
            keys="\n".join(dict.fromkeys([_message_id(ident, self._hostname), str(address).lower()])),
            events=self._note(ident, events),
            smtputf8=not message.isascii() and not str(address).isascii(),
            eightbit=not body.isascii(),
        )


Note = Callable[[int, Sequence[Event]], bytes]
"""The journal's entrance: `flow.journal.Journal.note`."""


# -- the message -------------------------------------------------------------------------------------------------------


def compose(letter: Letter, failures: Sequence[Failure], ident: int, hostname: str, now_us: int) -> bytes:
    """The report as a message, in wire form."""
    mail = Composer()
    mail.add_structured("Received", f"by {hostname} with LOCAL id {id_text(ident)}; {_date(now_us)}")
    mail.add_structured("From", f"Mail Delivery System <mailer-daemon@{hostname}>")
    mail.add_structured("To", f"<{letter.sender}>")
    mail.add("Subject", _subject(failures))
    mail.add_structured("Date", _date(now_us))
    mail.add_structured("Message-ID", f"<{_message_id(ident, hostname)}>")
    # RFC 3834 section 5: what answers by itself says so, and nothing answers it.
    mail.add_structured("Auto-Submitted", "auto-replied")
    parts = [
        text_part(_words(letter, failures, hostname)),
        raw_part(_fields(letter, failures, hostname, now_us), "message/delivery-status"),
        _original(letter),
    ]
    return mail.multipart("report", parts, id_text(ident).encode(), report_type="delivery-status")


def _subject(failures: Sequence[Failure]) -> str:
    first = _clean(failures[0].delivery.recipient)[:200]
    more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    return f"Not delivered: your mail to {first}{more}"


def _words(letter: Letter, failures: Sequence[Failure], hostname: str) -> str:
    """The part for people: what happened, why, and what to do, recipient by recipient."""
    many = len(failures) > 1
    lines = [
        f"This is the mail server {hostname}.",
        "",
        f"Your message of {_date(letter.received_us)} did not reach {'these recipients' if many else 'its recipient'}.",
        "We have stopped trying.",
    ]
    for failure in failures:
        delivery, outcome = failure.delivery, failure.outcome
        lines += ["", f"    {_clean(delivery.recipient)}", "", f"    What happened: {_what(failure)}"]
        if outcome.reply is not None and outcome.where:
            lines += [
                f"    What {_clean(outcome.where)} said:",
                f"        {_clean(str(outcome.reply))[:DIAGNOSTIC_MAX]}",
            ]
        lines += [f"    What you can do: {advice(failure)}"]
    lines += [
        "",
        "The header of your message is attached. If you ask somebody for help, give this reference:",
        f"    {id_text(letter.id)}",
    ]
    return "\n".join(lines) + "\n"


def _what(failure: Failure) -> str:
    cause = _clean(failure.outcome.cause) or "it was refused"
    if failure.expired:
        tries = failure.delivery.attempt
        times = f"{tries} attempts" if tries > 1 else "One attempt"
        return f"{times} failed until its time was up; at last: {cause}."
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


def advice(failure: Failure) -> str:
    """What the sender can do, by the status code."""
    subject, _, detail = failure.status[2:].partition(".")
    return (
        _ADVICE.get(f"{subject}.{detail}")
        or _ADVICE_BY_CLASS.get(subject)
        or "Check the address, or reach the recipient in another way."
    )


def _fields(letter: Letter, failures: Sequence[Failure], hostname: str, now_us: int) -> bytes:
    """The part for programs (RFC 3464 section 2)."""
    lines = [f"Reporting-MTA: dns; {hostname}"]
    if letter.envid:
        lines.append(f"Original-Envelope-Id: {_clean(decode_xtext(letter.envid))}")
    lines += [f"Arrival-Date: {_date(letter.received_us)}", f"X-Postroad-Queue-Id: {id_text(letter.id)}"]
    for failure in failures:
        lines += ["", *_recipient_fields(failure, now_us)]
    return ("\r\n".join(lines) + "\r\n").encode("ascii", "replace")


def _recipient_fields(failure: Failure, now_us: int) -> list[str]:
    delivery, outcome = failure.delivery, failure.outcome
    lines = []
    if delivery.orcpt:
        kind, _, address = delivery.orcpt.partition(";")
        lines.append(f"Original-Recipient: {_clean(kind)}; {_clean(decode_xtext(address))}")
    # RFC 6533 section 4.2.1: an address that is no ASCII has a type of its own.
    kind = "rfc822" if delivery.recipient.isascii() else "utf-8"
    lines += [
        f"Final-Recipient: {kind}; {_clean(delivery.recipient) if kind == 'rfc822' else _escaped(delivery.recipient)}",
        "Action: failed",
        f"Status: {failure.status}",
    ]
    if outcome.reply is not None and outcome.where:
        lines += [
            f"Remote-MTA: dns; {_clean(outcome.where.partition(' ')[0])}",
            f"Diagnostic-Code: smtp; {_clean(str(outcome.reply))[:DIAGNOSTIC_MAX]}",
        ]
    else:
        lines.append(f"Diagnostic-Code: x-postroad; {_clean(outcome.cause)[:DIAGNOSTIC_MAX]}")
    lines.append(f"Last-Attempt-Date: {_date(now_us)}")
    return lines


def _original(letter: Letter) -> bytes:
    """The message itself when that was asked for and is small, else its header."""
    header = letter.header or b""
    if letter.ret == "FULL" and letter.body is not None and len(header) + len(letter.body) <= FULL_MAX:
        return raw_part(header + letter.body, "message/rfc822")
    if len(header) > HEADER_KEPT:
        header = header[: header.rfind(b"\r\n", 0, HEADER_KEPT) + 2] + b"\r\n"
    return raw_part(header, "text/rfc822-headers")


def decode_xtext(text: str) -> str:
    """RFC 3461 section 4: "+XX" stands for the octet XX; what is not well-formed stays as it is."""
    return _hexchar.sub(lambda found: chr(int(found[1], 16)), text)


_hexchar: Final = re.compile(r"\+([0-9A-Fa-f]{2})")


def _clean(text: str) -> str:
    """Peers' words on one line of printable ASCII, so that they end no line and begin no field of ours."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


def _escaped(text: str) -> str:
    r"""RFC 6533 section 3, utf-8-addr-xtext: what is no printable ASCII as \x{HEX}."""
    return "".join(c if "!" <= c <= "~" and c not in "\\+=" else f"\\x{{{ord(c):X}}}" for c in text)


def _message_id(ident: int, hostname: str) -> str:
    return f"{id_text(ident).lower()}@{hostname.lower()}"


def _date(at_us: int) -> str:
    return formatdate(at_us // 1_000_000, localtime=True)
