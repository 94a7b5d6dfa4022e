"""Reports of failed delivery, as others send them: RFC 3464 by its fields, older forms by their words.

    multipart/report; report-type=delivery-status
        text/plain                what a person reads
        message/delivery-status   a block of fields for the message, then one for each recipient
        message/rfc822            what was sent, or text/rfc822-headers

A report without the second part is read line by line: an address, and near it a reply or a status code. Nothing here
raises, and everything is read once: at most TEXT_OCTETS of words and RECIPIENTS_MAX recipients.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from postroad.wire.mime.content import part_content, part_text, walk
from postroad.wire.mime.headers import HeaderIndex, HeaderTooLarge, split_header, unfold
from postroad.wire.mime.tree import Part, read_tree
from postroad.wire.mime.words import decode_charset

TEXT_OCTETS: Final = 64 * 1024
"""Octets of words that are looked through: what a person would read of a report, many times over."""

RECIPIENTS_MAX: Final = 1000
"""Recipients of one report, as many as a transaction of ours can have."""

FIELD_MAX: Final = 1000
"""Characters kept of one field."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What a report says of one recipient; everything is as the reporter wrote it, without type and comments."""

    recipient: str = ""
    original: str = ""
    """As the sender had written it, where the report says so (Original-Recipient)."""
    action: str = ""
    """"failed", "delayed", "delivered", "relayed" or "expanded" in small letters; "failed" where words alone say it."""
    status: str = ""
    """An enhanced status code: "5.1.1"."""
    code: int = 0
    """The code of an SMTP reply that it quotes; 0 for none."""
    diagnostic: str = ""
    """The words of whoever refused it."""
    remote: str = ""
    """The host that refused it."""


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """One report. `recipients` is never empty."""

    recipients: tuple[Reported, ...]
    envelope_id: str = ""
    reporter: str = ""
    """Reporting-MTA."""
    message_id: str = ""
    """Message-ID of what was sent, without brackets."""
    by_fields: bool = True
    """It has the fields of RFC 3464; otherwise its words were read."""


_ADDRESS: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9][A-Za-z0-9.-]{1,253}[A-Za-z0-9]"
_address = re.compile(rf"<?({_ADDRESS})>?")
_status = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d.])")
_reply = re.compile(r"(?<![\d.#-])([245]\d\d)(?:[ -]|(?=#)|$)")
_typed = re.compile(r"\s*[A-Za-z0-9.-]+\s*;\s*(.*)", re.DOTALL)
_copy_begins = re.compile(
    r"-{2,}.*(?:copy of|below this line|original message|returned message|message header|forwarded message|unsent)"
    r"|(?:received|return-path|message-id|x-mailer|mime-version):\s",
    re.IGNORECASE,
).match


def read_report(header: bytes, body: bytes) -> DeliveryReport | None:
    """What a message reports of deliveries; None when it is no such report.

    Words alone make one only of a message whose sender or subject says what it is.
    """
    tree = read_tree(header, body)
    parts = list(walk(tree.root))
    returned = _returned_id(parts, body)
    for part in parts:
        if (part.main, part.sub) in (_STATUS, _GLOBAL_STATUS):
            report = _by_fields(part_content(body, part, TEXT_OCTETS))
            if report is not None:
                report = _with_words(report, _words(parts, body))
                return replace(report, message_id=returned)
    index = _index(header)
    if index is None or not _claims_to_be_one(index):
        return None
    text = _words(parts, body)
    found = _by_words(text, _failed_fields(index))
    if not found:
        return None
    return DeliveryReport(tuple(found), message_id=returned or _id_in(text), by_fields=False)


_STATUS: Final = (b"message", b"delivery-status")
_GLOBAL_STATUS: Final = (b"message", b"global-delivery-status")
"""RFC 6533 section 6: the same with UTF-8."""


# -- the fields of RFC 3464 ------------------------------------------------------------------------------------------


def _by_fields(octets: bytes) -> DeliveryReport | None:
    blocks = [block for block in re.split(rb"(?:\r?\n){2,}", octets.strip(b"\r\n")) if block.strip()]
    envelope_id = reporter = ""
    recipients: list[Reported] = []
    for block in blocks[: RECIPIENTS_MAX + 1]:
        index = _index(block + b"\r\n\r\n")
        if index is None:
            continue
        reporter = reporter or _typed_value(index, b"reporting-mta")
        envelope_id = envelope_id or _value(index, b"original-envelope-id")
        # RFC 3464 section 2.3: every block behind the first has a Final-Recipient; some reporters send one block only.
        if index.first(b"final-recipient") or index.first(b"original-recipient") or index.first(b"action"):
            recipients.append(_recipient(index))
    return DeliveryReport(tuple(recipients), envelope_id, reporter) if recipients else None


def _recipient(index: HeaderIndex) -> Reported:
    diagnostic = _typed_value(index, b"diagnostic-code")
    status = _status.search(_value(index, b"status"))
    if status is None or status[1].endswith(".0.0"):
        # X.0.0 says nothing; the reply that the reporter was given may.
        status = _status.search(diagnostic) or status
    reply = _reply.search(diagnostic)
    return Reported(
        recipient=_bare(_typed_value(index, b"final-recipient")),
        original=_bare(_typed_value(index, b"original-recipient")),
        action=_value(index, b"action").partition(" ")[0].partition("(")[0].lower(),
        status=status[1] if status else "",
        code=int(reply[1]) if reply else 0,
        diagnostic=diagnostic,
        remote=_typed_value(index, b"remote-mta"),
    )


def _value(index: HeaderIndex, name: bytes) -> str:
    raw = index.first(name)
    if raw is None:
        return ""
    return " ".join(decode_charset(unfold(raw), b"utf-8").split())[:FIELD_MAX]


def _typed_value(index: HeaderIndex, name: bytes) -> str:
    """RFC 3464 section 2.1.2: the value behind its type, as in "rfc822; anna@example.org"."""
    text = _value(index, name)
    typed = _typed.fullmatch(text)
    return typed[1].strip() if typed else text


def _bare(text: str) -> str:
    found = _address.search(text)
    return found[1] if found else text.strip("<> ")


def _with_words(report: DeliveryReport, text: str) -> DeliveryReport:
    """A report whose recipient has no diagnostic of its own, with what the words for people say of it."""
    if all(one.diagnostic or one.status[2:] not in ("", "0.0") for one in report.recipients):
        return report
    said = {one.recipient.lower(): one for one in _by_words(text, [one.recipient for one in report.recipients])}
    mended = []
    for one in report.recipients:
        words = said.get(one.recipient.lower())
        if words is not None and not one.diagnostic:
            vague = one.status[2:] in ("", "0.0")
            one = replace(
                one,
                diagnostic=words.diagnostic,
                code=words.code,
                status=words.status if vague and words.status else one.status,
            )
        mended.append(one)
    return replace(report, recipients=tuple(mended))


# -- words -----------------------------------------------------------------------------------------------------------


def _claims_to_be_one(index: HeaderIndex) -> bool:
    """Whether the message looks like a report at all: nobody's letter about an error may be taken for one."""
    sender = _value(index, b"from").lower()
    subject = _value(index, b"subject").lower()
    return (
        index.first(b"x-failed-recipients") is not None
        or any(word in sender for word in _SENDERS)
        or any(word in subject for word in _SUBJECTS)
    )


_SENDERS: Final = ("mailer-daemon", "postmaster", "mail delivery sub", "mail delivery sys", "double-bounce")
_SUBJECTS: Final = (
    "undeliver",
    "delivery status notification",
    "delivery failure",
    "delivery failed",
    "failure notice",
    "returned mail",
    "mail delivery failed",
    "mail system error",
    "non-delivery",
    "could not be delivered",
    "delivery problem",
    "delivery notification",
    "warning: message",
)


def _failed_fields(index: HeaderIndex) -> list[str]:
    """Recipients that a header field names (Exim writes X-Failed-Recipients)."""
    return _address.findall(_value(index, b"x-failed-recipients"))[:RECIPIENTS_MAX]


def _words(parts: list[Part], body: bytes) -> str:
    """What a person would read: the first text, up to where the returned message begins."""
    for part in parts:
        if part.main == b"text" and part.sub in (b"plain", b"html"):
            text = part_text(body, part, TEXT_OCTETS)
            if part.sub == b"html":
                text = re.sub(r"<br ?/?>|</p>|</td>|</div>", "\n", text)
                text = re.sub(r"<(?![^<>@]+@[^<>]+>)[^<>]{0,500}>", " ", text)
            if text.strip():
                return text
    return ""


def _by_words(text: str, known: list[str]) -> list[Reported]:
    """Recipients in the words of a report, each with the reply or status that stands nearest behind it.

    `known` are recipients that other fields name; without any, an address that opens a line or stands beside a reply
    is taken for one.
    """
    wanted = {address.lower() for address in known}
    found: dict[str, Reported] = {}
    current = ""
    for line in _lines(text):
        for address in _address.findall(line):
            lowered = address.lower()
            if (lowered in wanted) if wanted else _may_fail(line, address):
                if lowered not in found and len(found) < RECIPIENTS_MAX:
                    found[lowered] = Reported(recipient=address, action="failed")
                current = lowered if lowered in found else current
        status, reply = _status.search(line), _reply.search(line)
        if current and (status or reply):
            found[current] = _with_line(found[current], line, status, reply)
        elif not current and (status or reply) and not found:
            # A transcript above the address: what was said is kept for whoever comes first.
            found[""] = _with_line(found.get("", Reported(action="failed")), line, status, reply)
    return _settled(found, known)


def _settled(found: dict[str, Reported], known: list[str]) -> list[Reported]:
    above = found.pop("", None)
    for address in known:
        found.setdefault(address.lower(), Reported(recipient=address, action="failed"))
    if above is not None:
        for key, one in found.items():
            if not one.diagnostic:
                found[key] = replace(one, status=above.status, code=above.code, diagnostic=above.diagnostic)
    return list(found.values())


def _with_line(one: Reported, line: str, status: re.Match[str] | None, reply: re.Match[str] | None) -> Reported:
    """What is known of a recipient after one more line that has a code; the first of each kind counts."""
    return replace(
        one,
        status=one.status or (status[1] if status else ""),
        code=one.code or (int(reply[1]) if reply else 0),
        diagnostic=one.diagnostic or " ".join(line.split())[:FIELD_MAX],
    )


def _may_fail(line: str, address: str) -> bool:
    """Whether a line seems to name a recipient: it begins with the address, or a reply stands in it."""
    opened = line.strip().lstrip("<>:*- ")
    return opened.startswith(address) or _status.search(line) is not None or _reply.search(line) is not None


def _lines(text: str) -> Iterator[str]:
    for line in text[:TEXT_OCTETS].replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if _copy_begins(line.strip()):
            return
        yield line


# -- what was sent ---------------------------------------------------------------------------------------------------


def _returned_id(parts: list[Part], body: bytes) -> str:
    """The Message-ID of the returned message, or of its returned header."""
    for part in parts:
        if part.is_message or (part.main, part.sub) in _RETURNED:
            octets = part_content(body, part, TEXT_OCTETS)
            end, _ = split_header(octets)
            index = _index(octets[:end] if end else octets)
            found = _value(index, b"message-id") if index is not None else ""
            if found:
                return found.strip("<> ")
    return ""


_RETURNED: Final = (
    (b"message", b"rfc822"),
    (b"message", b"global"),
    (b"text", b"rfc822-headers"),
    (b"message", b"global-headers"),
)


def _id_in(text: str) -> str:
    found = re.search(r"^[> \t]*message-id:\s*<([^<>\s]{3,250})>", text, re.IGNORECASE | re.MULTILINE)
    return found[1] if found else ""


def _index(block: bytes) -> HeaderIndex | None:
    try:
        return HeaderIndex(block)
    except HeaderTooLarge:
        return None
