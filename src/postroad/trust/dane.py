"""DANE for SMTP (RFC 7672, with RFC 7671 and 6698): TLSA records read, sorted and held against a server's chain.

Pure. Which records may be believed at all is the business of whoever looked them up: these functions know no DNS.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from postroad.trust import chain as certificates

DANE_TA: Final = 2
"""RFC 7218: an authority that issued the server's certificate."""
DANE_EE: Final = 3
"""RFC 7218: the server's own certificate or key."""

FULL, SHA_256, SHA_512 = 0, 1, 2
"""Matching types (RFC 6698 section 2.1.3)."""
CERTIFICATE, KEY = 0, 1
"""Selectors (RFC 6698 section 2.1.2)."""

_DIGESTS: Final = {SHA_256: (hashlib.sha256, 32), SHA_512: (hashlib.sha512, 64)}


@dataclass(frozen=True, slots=True, order=True)
class Tlsa:
    """One TLSA record."""

    usage: int
    selector: int
    matching: int
    association: bytes

    def __str__(self) -> str:
        """As a zone file writes it, the association shortened: for people."""
        return self.whole[: len("3 1 1 ") + 128]

    @property
    def whole(self) -> str:
        """As a zone file writes it, on one line: what a report repeats (RFC 8460 section 4.5)."""
        return f"{self.usage} {self.selector} {self.matching} {self.association.hex()}"

    @property
    def is_usable(self) -> bool:
        """Whether a mail server can be held to this record.

        RFC 7672 section 3.1.3: "SMTP client MTAs cannot be expected to be configured with a suitably complete set of
        trusted public CAs", so PKIX-TA(0) and PKIX-EE(1) are unusable, and so is what nobody knows.
        """
        if self.usage not in (DANE_TA, DANE_EE) or self.selector not in (CERTIFICATE, KEY):
            return False
        if self.matching == FULL:
            return bool(self.association)
        digest = _DIGESTS.get(self.matching)
        return digest is not None and len(self.association) == digest[1]

    def fits(self, der: bytes) -> bool:
        """Whether a certificate, or its key, is the one that the record names."""
        selected = der if self.selector == CERTIFICATE else certificates.public_key_of(der)
        if not selected:
            return False
        if self.matching == FULL:
            return selected == self.association
        return _DIGESTS[self.matching][0](selected).digest() == self.association


def read(rdata: bytes) -> Tlsa | None:
    """A record from its RDATA; None when it is too short to be one (row D9), which makes it unusable."""
    return Tlsa(rdata[0], rdata[1], rdata[2], rdata[3:]) if len(rdata) > 3 else None


def usable(rdatas: Iterable[bytes]) -> tuple[Tlsa, ...]:
    """The records that a server can be held to, in a fixed order; empty when none of them is usable."""
    known = {record for rdata in rdatas if (record := read(rdata)) is not None and record.is_usable}
    return tuple(sorted(record for record in known if not _is_outdone(record, known)))


def _is_outdone(record: Tlsa, known: set[Tlsa]) -> bool:
    """RFC 7671 section 9, digest agility: of one usage and selector only the strongest digest counts, and FULL does."""
    return record.matching == SHA_256 and any(
        (other.usage, other.selector, other.matching) == (record.usage, record.selector, SHA_512) for other in known
    )


def authenticate(chain: Sequence[bytes], records: Sequence[Tlsa], hosts: Sequence[str], now: datetime.datetime) -> str:
    """Whether a chain of DER certificates, the server's own first, fits the records; empty when it does, else why not.

    `hosts` are the names that the server may go by; they count for DANE-TA(2) only. RFC 7672 section 3.1.1: with
    DANE-EE(3) "the expiration date of the server certificate MUST be ignored", and so must its names.
    """
    if not chain:
        return "the host sent no certificate"
    if any(record.usage == DANE_EE and record.fits(chain[0]) for record in records):
        return ""
    anchors = [record for record in records if record.usage == DANE_TA]
    if not anchors:
        return "its certificate does not match its TLSA records"
    return _by_authority(chain, anchors, hosts, now)


def _by_authority(chain: Sequence[bytes], anchors: Sequence[Tlsa], hosts: Sequence[str], now: datetime.datetime) -> str:
    known = certificates.load(chain)
    if not known:
        return "its certificate cannot be read"
    own = known[0]
    path = _Paths(known, anchors, now).find(own, [])
    if path is None:
        return "no certificate that it sent leads to the authority of its TLSA records"
    if not certificates.is_in_date(own, now):
        return "its certificate has expired or is not valid yet"
    if not certificates.may_serve(own):
        return "its certificate is not for servers"
    if not certificates.bears_a_name(own, hosts):
        return f"its certificate does not name {' or '.join(hosts)}"
    presented = certificates.names(own)
    if not all(certificates.may_name(authority, presented) for authority in path):
        return "the authority may not issue for its name"
    return ""


class _Paths:
    """The search for a way from a server's certificate up to an authority that a record names."""

    def __init__(self, known: Sequence[x509.Certificate], anchors: Sequence[Tlsa], now: datetime.datetime) -> None:
        self._anchors = anchors
        self._keys = [one.association for one in anchors if (one.selector, one.matching) == (KEY, FULL)]
        # RFC 7671 section 5.2.2: with a full certificate in DNS the server need not send it.
        full = [one.association for one in anchors if (one.selector, one.matching) == (CERTIFICATE, FULL)]
        self._issuers = [*known[1:], *(one for der in full for one in certificates.load([der]))]
        self._now = now
        self._seen: set[bytes] = set()

    def find(self, certificate: x509.Certificate, path: list[x509.Certificate]) -> list[x509.Certificate] | None:
        """The authorities from the one that issued `certificate` up to the anchor; None when there is no way.

        Each certificate is gone through once, so that a chain made for it cannot keep us busy.
        """
        if any(certificates.is_signed_by(certificate, key) for key in self._keys):
            return path
        for issuer in self._issuers:
            der = issuer.public_bytes(Encoding.DER)
            if der in self._seen or not certificates.is_issued_by(certificate, issuer):
                continue
            anchor = any(record.fits(der) for record in self._anchors)
            if not certificates.is_in_date(issuer, self._now):
                continue
            if not certificates.may_issue(issuer, len(path), anchor=anchor):
                continue
            if anchor:
                return [*path, issuer]
            self._seen.add(der)
            found = self.find(issuer, [*path, issuer])
            if found is not None:
                return found
        return None
