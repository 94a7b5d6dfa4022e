"""Command lines read into events: for MAIL and RCPT one pattern of what nearly every client sends, the grammar else."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from postroad.values.address import Address, AddressError
from postroad.wire.sasl import decode_base64
from postroad.wire.smtp import grammar
from postroad.wire.smtp.events import NO_MAIL_PARAMS, NO_RCPT_PARAMS, MailParams, Rcpt, RcptParams
from postroad.wire.smtp.extensions import Door
from postroad.wire.smtp.grammar import CommandError
from postroad.wire.smtp.release import take_release

_mail_line = re.compile(
    r"(?:MAIL FROM|mail FROM):<([^<>\"\s,:]*+)>(?: (?:SIZE|size)=([0-9]{1,20}))?+(?: BODY=(8BITMIME|7BIT))?+"
).fullmatch
_rcpt_line = re.compile(r"(?:RCPT TO|rcpt TO):<([^<>\"\s,:@]++@[^<>\"\s,:]++)>").fullmatch
_http_line = re.compile(
    rb"(?:GET|POST|PUT|HEAD|DELETE|OPTIONS|CONNECT|TRACE|PATCH|PRI) \S|.* HTTP/[0-9.]+\Z|Host:", re.IGNORECASE
).match

_BODIES: Final = ("7BIT", "8BITMIME")
_BODIES_WITH_BINARY: Final = ("7BIT", "8BITMIME", "BINARYMIME")


def read_mail(
    line: bytes, door: Door, wall_us: Callable[[], int], *, tls: bool = False
) -> tuple[Address | None, MailParams]:
    """Sender and parameters of a MAIL line, as far as `door` offers them; raises `CommandError`.

    `tls`: the connection is protected. `wall_us` gives microseconds since 1970; it is asked only where a message may be
    held.
    """
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
    params = MailParams(
        size=grammar.take_number(given, "SIZE"),
        body=grammar.take_word(given, "BODY", _BODIES_WITH_BINARY if door.binarymime else _BODIES),
        smtputf8=grammar.take_flag(given, "SMTPUTF8"),
        auth=grammar.take_sender(given),
        ret=grammar.take_word(given, "RET", ("FULL", "HDRS")),
        envid=grammar.take_envid(given),
        # RFC 8689 section 4.1: without TLS the parameter is not offered, and an unknown one like any other.
        requiretls=grammar.take_flag(given, "REQUIRETLS") if door.requiretls and tls else False,
        # Where holding is not offered its parameters are left to be refused as unknown.
        hold_until_us=take_release(given, door.future_release_s, wall_us()) if door.future_release_s else 0,
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
    orcpt = grammar.take_orcpt(given, utf8)
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
    # RFC 4954 section 4: a client with a zero-length initial response transmits it "as a single equals sign"
    return b"" if word == b"=" else decode_base64(word)


def is_http(line: bytes) -> bool:
    """Whether a line comes from a web client, by accident or because somebody lets a browser speak for him."""
    return _http_line(line) is not None
