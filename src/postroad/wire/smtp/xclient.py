"""XCLIENT: a listed peer tells for whom it speaks (Postfix's XCLIENT_README is the specification)."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from postroad.wire.smtp import grammar
from postroad.wire.smtp.events import XClient
from postroad.wire.smtp.grammar import CommandError, bad_parameter

MAX_XCLIENT_VALUE: Final = 255
"""Characters of one attribute: "syntactically valid NAME and HELO attribute-value elements can be up to 255"."""

_attribute = re.compile(r"([A-Za-z]+)=(\S+)").fullmatch
_host_name = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?").fullmatch

UNAVAILABLE: Final = "[UNAVAILABLE]"
TEMPORARILY_UNAVAILABLE: Final = "[TEMPUNAVAIL]"


def read_xclient(line: bytes) -> XClient:
    """The attributes of an XCLIENT line; raises `CommandError` for one that is unknown, bad or there twice."""
    given: dict[str, str] = {}
    for word in grammar.read_text(line).split(" ")[1:]:
        found = _attribute(word)
        if found is None:
            raise CommandError(bad_parameter("Syntax: XCLIENT attribute=value"))
        name = found[1].upper()
        if name in given:
            raise CommandError(bad_parameter(f"{name} is given twice"))
        given[name] = found[2]
    if not given:
        raise CommandError(bad_parameter("Syntax: XCLIENT attribute=value"))
    said = {name: _decoded(name, value) for name, value in given.items()}
    unknown = said.keys() - _ATTRIBUTES
    if unknown:
        raise CommandError(bad_parameter(f"Attribute {min(unknown)} is not known"))
    return XClient(
        name=_host(said.get("NAME")),
        name_later=said.get("NAME", "").upper() == TEMPORARILY_UNAVAILABLE,
        address=_address("ADDR", said.get("ADDR")),
        port=_port("PORT", said.get("PORT")),
        protocol=_protocol(said.get("PROTO")),
        helo=said.get("HELO"),
        login=said.get("LOGIN"),
        local_address=_address("DESTADDR", said.get("DESTADDR")),
        local_port=_port("DESTPORT", said.get("DESTPORT")),
    )


_ATTRIBUTES: Final = frozenset(("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT"))


def _decoded(name: str, value: str) -> str:
    """The text behind an xtext value; empty when it says that it is not available."""
    try:
        # Decoded octets are UTF-8 without control characters, as everything else that a client says about itself.
        text = grammar.read_text(grammar.decode_xtext(grammar.check_xtext(value, name)).encode("latin-1"))
    except CommandError:
        raise CommandError(bad_parameter(f"{name} is not valid xtext")) from None
    if len(text) > MAX_XCLIENT_VALUE:
        raise CommandError(bad_parameter(f"{name} is too long"))
    return "" if text.upper() == UNAVAILABLE else text


def _host(text: str | None) -> str | None:
    if not text:
        return text
    if text.upper() == TEMPORARILY_UNAVAILABLE:
        return ""
    if not _host_name(text):
        raise CommandError(bad_parameter("NAME is no host name"))
    return text


def _address(name: str, text: str | None) -> str | None:
    """An IPv4 address, or an IPv6 one behind "IPV6:", in its canonical form."""
    if not text:
        return text
    try:
        if text[:5].upper() == "IPV6:":
            # A zone is the name of one of the peer's own interfaces and means nothing here.
            if "%" not in text:
                return str(ipaddress.IPv6Address(text[5:]))
        else:
            return str(ipaddress.IPv4Address(text))
    except ValueError:
        pass
    raise CommandError(bad_parameter(f"{name} is no address"))


def _port(name: str, text: str | None) -> int | None:
    if not text:
        return None if text is None else 0
    number = grammar.decimal(text)
    if number is None or not 0 < number < 65_536:
        raise CommandError(bad_parameter(f"{name} is no port"))
    return number


def _protocol(text: str | None) -> str | None:
    if text is not None and text.upper() not in ("SMTP", "ESMTP"):
        raise CommandError(bad_parameter("PROTO must be SMTP or ESMTP"))
    return None if text is None else text.upper()
