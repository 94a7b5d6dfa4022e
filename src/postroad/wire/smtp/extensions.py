"""Service extensions: what a server announces behind EHLO, and what a client reads there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from postroad.wire.sasl import SCRAM, SCRAM_PLUS, offered
from postroad.wire.smtp.grammar import decimal
from postroad.wire.smtp.release import utc_text


@dataclass(frozen=True, slots=True)
class Door:
    """One kind of listener and what it offers."""

    name: str
    """"mx", "submission", "submissions" or "lmtp"."""
    starttls: bool = False
    """STARTTLS is announced until TLS is on."""
    auth: tuple[str, ...] = ()
    """SASL mechanisms announced under TLS, upper case, the best first."""
    dsn: bool = False
    """DSN (RFC 3461) is announced; its parameters are understood in any case."""
    binarymime: bool = False
    """BODY=BINARYMIME (RFC 3030 section 3): content of any octets, by BDAT only."""
    future_release_s: int = 0
    """Seconds for which a client may ask us to hold a message (RFC 4865), at most 999,999,999; 0: not offered."""
    requiretls: bool = False
    """REQUIRETLS (RFC 8689) is announced under TLS."""
    xclient: bool = False
    """XCLIENT: the peer is listed as one that may speak for others."""
    lmtp: bool = False
    """LMTP (RFC 2033) instead of SMTP: LHLO, and a reply for each accepted recipient behind the content."""
    must_tls: bool = False
    """MAIL without TLS is answered 530 5.7.0 (RFC 3207 section 4)."""
    must_auth: bool = False
    """MAIL without a login is answered 530 5.7.0 (RFC 4954 section 6)."""
    strict_hello: bool = False
    """A client that sends more behind its first EHLO without waiting for the answer is turned away (521)."""


MECHANISMS: Final = (SCRAM_PLUS, SCRAM, "PLAIN", "LOGIN")
"""CRAM-MD5 is never offered: a server must keep the password in clear for it, and MD5 protects nobody."""

MX: Final = Door("mx", starttls=True, binarymime=True, requiretls=True, strict_hello=True)
"""Mail from the world, port 25. Without DSN: a report of success to whomever a stranger names would be backscatter."""
SUBMISSION: Final = Door("submission", starttls=True, auth=MECHANISMS, dsn=True, binarymime=True, requiretls=True)
"""Mail from users, port 587: TLS by STARTTLS."""
SUBMISSIONS: Final = Door("submissions", auth=MECHANISMS, dsn=True, binarymime=True, requiretls=True)
"""Mail from users, port 465: TLS from the first octet (RFC 8314)."""
LMTP: Final = Door("lmtp", dsn=True, binarymime=True, lmtp=True)
"""Mail from our own neighbours, by unix socket or a port that the world does not reach (RFC 2033 section 5)."""


@lru_cache(maxsize=64)
def without_binding(door: Door) -> Door:
    """The same door where a login cannot be bound to the TLS channel, so that no mechanism with PLUS is offered."""
    return replace(door, auth=offered(door.auth, binding=False))


def ehlo_lines(door: Door, *, size: int, tls: bool, recipients: int = 0, now_s: int = 0) -> tuple[str, ...]:
    """The keywords to announce, one a line.

    `size` in octets is the largest message, `recipients` the limit of one transaction (0: not told), `now_s` the time
    in seconds since 1970, which only FUTURERELEASE looks at.
    """
    lines = [*_ALWAYS, f"SIZE {size}"]
    # RFC 3207 section 4.2: "A server MUST NOT return the STARTTLS extension in response to an EHLO command received
    # after a TLS handshake has completed."
    if door.starttls and not tls:
        lines.append("STARTTLS")
    if door.auth and tls:
        lines.append("AUTH " + " ".join(door.auth))
    if door.dsn:
        lines.append("DSN")
    # RFC 8689 section 2: it is announced "Following the negotiation of STARTTLS"; nothing stands behind the keyword.
    if door.requiretls and tls:
        lines.append("REQUIRETLS")
    if door.binarymime:
        lines.append("BINARYMIME")
    if door.future_release_s:
        # RFC 4865 section 3: the longest interval in seconds and the latest date-time
        lines.append(f"FUTURERELEASE {door.future_release_s} {utc_text(now_s + door.future_release_s)}")
    # RFC 9422 section 4.2: RCPTMAX has six digits at most
    if 0 < recipients < 1_000_000:
        lines.append(f"LIMITS RCPTMAX={recipients}")
    if door.xclient:
        lines.append("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT")
    return tuple(lines)


@lru_cache(maxsize=64)
def ehlo_wire(door: Door, size: int, tls: bool, recipients: int, minute: int) -> bytes:
    """The lines of `ehlo_lines` as they stand behind the first line of the reply, `minute` being minutes since 1970."""
    *earlier, last = ehlo_lines(door, size=size, tls=tls, recipients=recipients, now_s=minute * 60)
    return "".join([*(f"250-{line}\r\n" for line in earlier), f"250 {last}\r\n"]).encode()


_ALWAYS: Final = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "SMTPUTF8")


@dataclass(frozen=True, slots=True)
class Extensions:
    """What a server announced; all False and empty after HELO."""

    size: int = 0
    """Largest message in octets; 0 when it named no limit."""
    declares_size: bool = False
    """SIZE= may be sent with MAIL."""
    pipelining: bool = False
    chunking: bool = False
    eightbitmime: bool = False
    smtputf8: bool = False
    starttls: bool = False
    dsn: bool = False
    requiretls: bool = False
    """REQUIRETLS (RFC 8689): it passes mail on under TLS alone where that is asked for."""
    enhanced: bool = False
    """ENHANCEDSTATUSCODES: the digits in front of a text are status codes (RFC 2034)."""
    auth: tuple[str, ...] = ()
    """SASL mechanisms, upper case."""
    max_recipients: int = 0
    """RCPTMAX of LIMITS (RFC 9422); 0 when it named none."""
    max_transactions: int = 0
    """MAILMAX of LIMITS (RFC 9422); 0 when it named none."""
    max_domains: int = 0
    """RCPTDOMAINMAX of LIMITS (RFC 9422), of a whole session; 0 when it named none."""


NO_EXTENSIONS: Final = Extensions()


def read_extensions(lines: tuple[str, ...]) -> Extensions:
    """What the lines behind the first of an EHLO reply announce; lines nobody here knows are ignored."""
    words: dict[str, list[str]] = {}
    for line in lines:
        # Some old servers announce "AUTH=PLAIN LOGIN" beside or instead of "AUTH PLAIN LOGIN".
        keyword, *arguments = line.upper().replace("AUTH=", "AUTH ", 1).split()[:_MAX_WORDS] or [""]
        words.setdefault(keyword, []).extend(arguments)
    limits = dict(word.split("=", 1) for word in words.get("LIMITS", ()) if "=" in word)
    return Extensions(
        size=_number(words.get("SIZE", [""])[:1]),
        declares_size="SIZE" in words,
        pipelining="PIPELINING" in words,
        chunking="CHUNKING" in words,
        eightbitmime="8BITMIME" in words,
        smtputf8="SMTPUTF8" in words,
        starttls="STARTTLS" in words,
        dsn="DSN" in words,
        requiretls="REQUIRETLS" in words,
        enhanced="ENHANCEDSTATUSCODES" in words,
        auth=tuple(dict.fromkeys(words.get("AUTH", ()))),
        max_recipients=_number([limits.get("RCPTMAX", "")]),
        max_transactions=_number([limits.get("MAILMAX", "")]),
        max_domains=_number([limits.get("RCPTDOMAINMAX", "")]),
    )


_MAX_WORDS: Final = 64
"""Words of one line that are read: more than any server has mechanisms."""


def _number(words: list[str]) -> int:
    return (decimal(words[0]) or 0) if words else 0
