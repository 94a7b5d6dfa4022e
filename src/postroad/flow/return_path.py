"""Return paths that name their message and are signed: what bounces later finds its way back, and forgeries do not.

    news@example.org  ->  news+b=mq4t7x2vnd3kcs6y5jw4p7a2ehrlu@example.org

Behind "+b=" stand 29 letters of base 32: 8 octets of message id, 2 that name the recipient when there is only one, and
8 of an HMAC over both and the address. The domain is the sender's own, so that SPF stays aligned for DMARC, and whoever
takes the mark off has the sender again. Letters may change their case on the way, which RFC 5321 section
2.4 forbids and some hosts do. Pure.
"""

from __future__ import annotations

import hmac
import re
from base64 import b32decode, b32encode
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from postroad.values.address import Address
from postroad.values.ids import made_at_us

SECRET: Final = "return paths"
"""Name of this installation's secret in the store."""

MARK: Final = "+b="
LOCAL_MAX: Final = 64
"""RFC 5321 section 4.5.3.1.1: octets of a local part."""

LIFETIME_US: Final = 30 * 86_400_000_000
"""How long a return path takes mail, from the acceptance of its message: five days in a queue of ours, five in the next
one, and a holiday of somebody's answering machine."""

AHEAD_US: Final = 3_600_000_000
"""How far in the future a message may seem to have been accepted: clocks that were set back."""

_SIGNED: Final = 8
_OCTETS: Final = 18
_LETTERS: Final = 29
_find = re.compile(r"(.+)\+b=([a-z2-7]{29})", re.IGNORECASE).fullmatch


@dataclass(frozen=True, slots=True)
class Returned:
    """Whom a return path names."""

    sender: Address
    """The address whose mail it was sent with."""
    message: int
    recipient: int = 0
    """`recipient_mark` of the one recipient of its transaction; 0 when there were several."""


def recipient_mark(recipient: str) -> int:
    """Two octets that stand for a recipient among those of one message; never 0."""
    return int.from_bytes(blake2b(recipient.lower().encode(), digest_size=2).digest()) or 1


def is_marked(local: str) -> bool:
    """Whether a local part has the form of a return path, signed well or not."""
    return MARK in local and _find(local) is not None


class ReturnPaths:
    """Makes and checks return paths with a secret of this installation."""

    __slots__ = ("_domains", "_secret")

    def __init__(self, secret: bytes, domains: Iterable[str]) -> None:
        """`domains` in A-labels: whose mail is sent with signed return paths; what comes back is checked for all."""
        self._secret = secret
        self._domains = frozenset(domains)

    def __repr__(self) -> str:
        return f"ReturnPaths({sorted(self._domains)})"

    def wants(self, sender: str) -> bool:
        """Whether mail of an envelope sender gets a return path; that of reports (an empty sender) never does."""
        return bool(self._domains) and sender.rpartition("@")[2].lower() in self._domains

    def make(self, sender: Address, message: int, recipients: Iterable[str]) -> Address:
        """The return path of a transaction; the sender itself when there is no room for a mark or it has one."""
        local = sender.local
        if sender.needs_utf8 or len(local) + len(MARK) + _LETTERS > LOCAL_MAX or is_marked(local):
            return sender
        if not _is_plain(local):
            return sender
        names = list(recipients)
        mark = recipient_mark(names[0]) if len(names) == 1 else 0
        named = message.to_bytes(8) + mark.to_bytes(2)
        token = b32encode(named + self._sign(named, sender)).decode().lower().rstrip("=")
        return Address(f"{local}{MARK}{token}", sender.domain)

    def read(self, address: Address, now_us: int) -> Returned | None:
        """Whom a marked address names; None when we did not make it, or too long ago."""
        found = _find(address.local)
        if found is None:
            return None
        sender = Address(found[1], address.domain)
        octets = b32decode(found[2].upper() + "===")
        named, signature = octets[: _OCTETS - _SIGNED], octets[_OCTETS - _SIGNED :]
        if not hmac.compare_digest(signature, self._sign(named, sender)):
            return None
        message = int.from_bytes(named[:8])
        if not -AHEAD_US <= now_us - made_at_us(message) <= LIFETIME_US:
            return None
        return Returned(sender, message, int.from_bytes(named[8:]))

    def _sign(self, named: bytes, sender: Address) -> bytes:
        said = b"return path\0" + named + sender.local.lower().encode() + b"@" + sender.domain_ascii.encode()
        return hmac.digest(self._secret, said, "sha256")[:_SIGNED]


def _is_plain(local: str) -> bool:
    """Whether a local part needs no quotes, so that it needs none with a mark either."""
    return re.fullmatch(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*", local) is not None
