"""A server's certificates looked at without a list of authorities: its key, its names, and whether one issued another.

Every function takes whatever octets a stranger sent: what cannot be read proves nothing and raises nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

E = TypeVar("E", bound=x509.ExtensionType)

CERTIFICATES_READ: Final = 10
"""Certificates of one chain that are looked at: real ones have two to four."""

_UNDERSTOOD: Final = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.NAME_CONSTRAINTS,
    ExtensionOID.CERTIFICATE_POLICIES,
}
"""RFC 5280 section 4.2: a certificate with a critical extension that is none of these must be rejected."""


def load(chain: Sequence[bytes]) -> list[x509.Certificate]:
    """The certificates that can be read, at most CERTIFICATES_READ; empty when the first one cannot."""
    found = []
    for place, der in enumerate(chain[:CERTIFICATES_READ]):
        try:
            found.append(x509.load_der_x509_certificate(der))
        except Exception:  # whatever a stranger's octets break in the library
            if not place:
                return []
    return found


def public_key_of(der: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a certificate exactly as it stands there; empty when there is none."""
    try:
        body, _ = _element(der, 0)
        fields, end = _element(der, body)
        at = fields
        if der[at] == 0xA0:  # [0] version, absent in version 1
            at = _element(der, at)[1]
        for _ in range(5):  # serialNumber, signature, issuer, validity, subject
            at = _element(der, at)[1]
        after = _element(der, at)[1]
    except IndexError:
        return b""
    return der[at:after] if after <= end and der[at] == 0x30 else b""


def _element(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the DER element at `at` begins and ends; raises IndexError beyond the octets."""
    size, start = der[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        if not 0 < count <= 4:
            raise IndexError
        size = int.from_bytes(der[start : start + count], "big")
        start += count
    if start + size > len(der):
        raise IndexError
    return start, start + size


def names(certificate: x509.Certificate) -> list[str]:
    """The host names of a certificate in lower case: those of its SAN, or its common name when that names no host."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = found.get_values_for_type(x509.DNSName)
    except Exception:
        hosts = []
    if not hosts:
        try:
            hosts = [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        except Exception:
            hosts = []
    return [host.lower().rstrip(".") for host in hosts]


def name_matches(presented: str, wanted: str) -> bool:
    """RFC 6125 section 6.4: equal, or a "*" for the whole first label."""
    wanted = wanted.lower().rstrip(".")
    if presented.startswith("*."):
        label, dot, rest = wanted.partition(".")
        return bool(label and dot and "." in rest) and rest == presented[2:]
    return presented == wanted


def bears_a_name(certificate: x509.Certificate, wanted: Iterable[str]) -> bool:
    """Whether a certificate is for one of these hosts."""
    presented = names(certificate)
    return any(name_matches(one, name) for name in wanted for one in presented)


def is_in_date(certificate: x509.Certificate, now: datetime.datetime) -> bool:
    """Whether a certificate is valid at this time."""
    try:
        return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
    except Exception:
        return False


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the names fit and the issuer's key made the signature."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:
        return False
    return True


def is_signed_by(certificate: x509.Certificate, key_info: bytes) -> bool:
    """Whether a bare public key (SubjectPublicKeyInfo) made the signature."""
    try:
        key = load_der_public_key(key_info)
        signature, signed = certificate.signature, certificate.tbs_certificate_bytes
        parameters = certificate.signature_algorithm_parameters
        if isinstance(key, rsa.RSAPublicKey):
            hashing = certificate.signature_hash_algorithm
            assert hashing is not None
            assert isinstance(parameters, padding.PKCS1v15 | padding.PSS)
            key.verify(signature, signed, parameters, hashing)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            assert isinstance(parameters, ec.ECDSA)
            key.verify(signature, signed, parameters)
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, signed)
        else:
            return False
    except Exception:
        return False
    return True


def may_issue(certificate: x509.Certificate, below: int, *, anchor: bool = False) -> bool:
    """Whether a certificate may sign others, with `below` authorities between it and the server's own.

    RFC 5280 section 6.1.4. An anchor of version 1 has no extensions and is taken as it is.
    """
    try:
        extensions = certificate.extensions
        if any(one.critical and one.oid not in _UNDERSTOOD for one in extensions):
            return False
        constraints = _extension(extensions, x509.BasicConstraints)
        if constraints is None:
            return anchor and certificate.version is x509.Version.v1
        usage = _extension(extensions, x509.KeyUsage)
        room = constraints.path_length is None or below <= constraints.path_length
        return constraints.ca and room and (usage is None or usage.key_cert_sign)
    except Exception:
        return False


def may_serve(certificate: x509.Certificate) -> bool:
    """Whether a certificate may stand for a TLS server."""
    try:
        extensions = certificate.extensions
        if any(one.critical and one.oid not in _UNDERSTOOD for one in extensions):
            return False
        usages = _extension(extensions, x509.ExtendedKeyUsage)
    except Exception:
        return False
    allowed = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    return usages is None or any(one in allowed for one in usages)


def may_name(certificate: x509.Certificate, hosts: Sequence[str]) -> bool:
    """Whether the name constraints of an authority let it issue for all these hosts (RFC 5280 section 4.2.1.10)."""
    try:
        constraints = _extension(certificate.extensions, x509.NameConstraints)
    except Exception:
        return False
    if constraints is None:
        return True
    permitted = [one.value.lower() for one in constraints.permitted_subtrees or () if isinstance(one, x509.DNSName)]
    excluded = [one.value.lower() for one in constraints.excluded_subtrees or () if isinstance(one, x509.DNSName)]
    for host in hosts:
        if any(_is_below(host, one) for one in excluded):
            return False
        if permitted and not any(_is_below(host, one) for one in permitted):
            return False
    return True


def _is_below(host: str, domain: str) -> bool:
    domain = domain.removeprefix(".")
    return not domain or host == domain or host.endswith("." + domain)


def _extension(extensions: x509.Extensions, kind: type[E]) -> E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
