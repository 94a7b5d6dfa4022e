"""Handing a message to a server by SMTP, for `postroad send`."""

from __future__ import annotations

import ipaddress
import re
import smtplib
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from postroad.config.endpoints import Endpoint, is_address, parse_endpoint
from postroad.console.cli.exits import NO_PERMISSION, UNAVAILABLE, Trouble

if TYPE_CHECKING:
    from postroad.config import Config
    from postroad.values.address import Address

PATIENCE_S: Final = 60.0
"""Seconds for each answer; our own final reply takes at most 30."""
SUBMISSIONS: Final = 465
_QUEUED: Final = re.compile(r"[Qq]ueued as ([0-9A-Za-z-]+)")


@dataclass(slots=True)
class Sent:
    """What became of a message that was handed in."""

    id: str = ""
    """Its queue id, when the server named one."""
    reply: str = ""
    accepted: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def submit(
    config: Config,
    sender: Address | None,
    recipients: list[Address],
    message: bytes,
    server: str | None,
    user: str | None,
    password: str,
) -> Sent:
    """Hands a message to `server`, else to our own listener; raises Trouble when nobody answers or the login fails."""
    place = _server(config, server, user)
    try:
        with _connected(place) as smtp:
            if user:
                _log_in(smtp, place, user, password)
            return _transact(smtp, sender, recipients, message)
    except (OSError, smtplib.SMTPException) as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Trouble(
            f"The server at {place} did not take the message: {words}.",
            "Is it running? postroad serve     Another one: --server HOST:PORT     Without SMTP: --direct",
            exit_code=UNAVAILABLE,
        ) from error


def _server(config: Config, server: str | None, user: str | None) -> Endpoint:
    """Where to connect: the named server, else our own door for this kind of client."""
    if server:
        try:
            return parse_endpoint(server)
        except ValueError as error:
            raise Trouble(f"{error}.", exit_code=2) from error
    doors = (*config.listen.submission, *config.listen.submissions) if user else config.listen.mx
    for text in doors:
        place = parse_endpoint(text, every_host=True, port_zero=True)
        if place.port:
            return Endpoint(_reachable(place.host), place.port)
    raise Trouble("The configuration names no port to hand it to.", "Name one: --server HOST:PORT", exit_code=2)


def _reachable(host: str) -> str:
    """An address to call for one that is listened on."""
    if host in ("", "0.0.0.0"):
        return "127.0.0.1"
    return "::1" if host == "::" else host


def _connected(place: Endpoint) -> smtplib.SMTP:
    if place.port == SUBMISSIONS or place.port % 1000 == SUBMISSIONS:
        return smtplib.SMTP_SSL(place.host, place.port, timeout=PATIENCE_S, context=_tls(place.host))
    return smtplib.SMTP(place.host, place.port, timeout=PATIENCE_S)


def _tls(host: str) -> ssl.SSLContext:
    """Certificates are checked unless the server is this machine, whose own may be self-signed."""
    context = ssl.create_default_context()
    if host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _log_in(smtp: smtplib.SMTP, place: Endpoint, user: str, password: str) -> None:
    smtp.ehlo_or_helo_if_needed()
    if not isinstance(smtp, smtplib.SMTP_SSL):
        # A password never leaves in the clear: without STARTTLS this raises.
        smtp.starttls(context=_tls(place.host))
        smtp.ehlo()
    try:
        smtp.login(user, password)
    except smtplib.SMTPAuthenticationError as error:
        raise Trouble(
            f"The login was refused: {_text(error.smtp_code, error.smtp_error)}",
            f"A new password: postroad user passwd {user}",
            exit_code=NO_PERMISSION,
        ) from error


def _transact(smtp: smtplib.SMTP, sender: Address | None, recipients: list[Address], message: bytes) -> Sent:
    sent = Sent()
    smtp.ehlo_or_helo_if_needed()
    options = [f"SIZE={len(message)}"] if smtp.has_extn("size") else []
    if smtp.has_extn("8bitmime") and not message.isascii():
        options.append("BODY=8BITMIME")
    if smtp.has_extn("smtputf8") and any(one is not None and one.needs_utf8 for one in (sender, *recipients)):
        options.append("SMTPUTF8")
        smtp.command_encoding = "utf-8"
    code, said = smtp.mail(sender.to_ascii() if sender else "", options)
    sent.reply = _text(code, said)
    if code != 250:
        sent.refused = [(str(recipient), sent.reply) for recipient in recipients]
        return sent
    for recipient in recipients:
        code, said = smtp.rcpt(recipient.to_ascii())
        if code in (250, 251):
            sent.accepted.append(str(recipient))
        else:
            sent.reply = _text(code, said)
            sent.refused.append((str(recipient), sent.reply))
    if not sent.accepted:
        return sent
    code, said = smtp.data(message)
    sent.reply = _text(code, said)
    if code != 250:
        sent.refused += [(name, sent.reply) for name in sent.accepted]
        sent.accepted = []
    elif found := _QUEUED.search(sent.reply):
        sent.id = found[1]
    return sent


def _text(code: int, said: bytes | str) -> str:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return f"{code} {' / '.join(text.split(chr(10)))}"
