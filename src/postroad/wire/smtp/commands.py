"""Command lines read into events: for MAIL and RCPT one pattern of what nearly every client sends, the grammar else."""

from __future__ import annotations

import re

from postroad.values.address import Address, AddressError
from postroad.wire.sasl import decode_base64
from postroad.wire.smtp import grammar
from postroad.wire.smtp.events import NO_MAIL_PARAMS, NO_RCPT_PARAMS, MailParams, Rcpt, RcptParams
from postroad.wire.smtp.grammar import CommandError

_mail_line = re.compile(
    r"(?:MAIL FROM|mail FROM):<([^<>\"\s,:]*+)>(?: (?:SIZE|size)=([0-9]{1,20}))?+(?: BODY=(8BITMIME|7BIT))?+"
).fullmatch
_rcpt_line = re.compile(r"(?:RCPT TO|rcpt TO):<([^<>\"\s,:@]++@[^<>\"\s,:]++)>").fullmatch
_http_line = re.compile(
    rb"(?:GET|POST|PUT|HEAD|DELETE|OPTIONS|CONNECT|TRACE|PATCH|PRI) \S|.* HTTP/[0-9.]+\Z|Host:", re.IGNORECASE
).match


def read_mail(line: bytes) -> tuple[Address | None, MailParams]:
    """Sender and parameters of a MAIL line; raises `CommandError`."""
    found = _mail_line(line.decode("latin-1"))
    if found is not None:
        text, size, body = found.groups()
        params = MailParams(int(size) if size else 0, body or "") if size or body else NO_MAIL_PARAMS
        if not text:
            return None, params
        try:
            return Address.parse(text), params
        except AddressError:
            pass  # the full grammar below knows which reply this deserves
    mailbox, given = grammar.read_path(grammar.read_text(line[5:]), "FROM:")
    auth = grammar.take_xtext(given, "AUTH", grammar.MAX_ORCPT)
    params = MailParams(
        size=grammar.take_number(given, "SIZE"),
        body=grammar.take_word(given, "BODY", ("7BIT", "8BITMIME")),
        smtputf8=grammar.take_flag(given, "SMTPUTF8"),
        auth=None if auth is None else grammar.decode_xtext(auth),
        ret=grammar.take_word(given, "RET", ("FULL", "HDRS")),
        envid=grammar.take_xtext(given, "ENVID", grammar.MAX_ENVID) or "",
    )
    grammar.refuse_unknown(given)
    return grammar.read_address(mailbox, utf8=params.smtputf8, sender=True) if mailbox else None, params


def read_rcpt(line: bytes, utf8: bool, hostname: str) -> Rcpt:
    """A RCPT line; raises `CommandError`."""
    found = _rcpt_line(line.decode("latin-1"))
    if found is not None:
        try:
            return Rcpt(Address.parse(found[1]), NO_RCPT_PARAMS)
        except AddressError:
            pass  # the full grammar below knows which reply this deserves
    mailbox, given = grammar.read_path(grammar.read_text(line[5:]), "TO:")
    notify = grammar.take_notify(given)
    orcpt = grammar.take_orcpt(given)
    grammar.refuse_unknown(given)
    params = RcptParams(notify, orcpt) if notify or orcpt else NO_RCPT_PARAMS
    # RFC 5321 section 4.5.1: "Any system that includes an SMTP server supporting mail relaying or delivery MUST
    # support the reserved mailbox "postmaster" as a case-insensitive local name", also without a domain
    if mailbox.lower() == "postmaster":
        return Rcpt(Address("postmaster", hostname.lower()), params, bare_postmaster=True)
    return Rcpt(grammar.read_address(mailbox, utf8=utf8, sender=False), params)


def refuse_argument(line: bytes) -> None:
    """Raise `CommandError` when something stands behind a verb of four letters that takes nothing."""
    if line[4:].strip(b" "):
        raise CommandError(grammar.bad_parameter("This command takes no argument"))


def initial_response(word: bytes) -> bytes:
    """The initial response of AUTH; raises `SaslError`."""
    # RFC 4954 section 4: a zero-length initial response is "transmitted as a single equals sign"
    return b"" if word == b"=" else decode_base64(word)


def is_http(line: bytes) -> bool:
    """Whether a line comes from a web client, by accident or because somebody lets a browser speak for him."""
    return _http_line(line) is not None
