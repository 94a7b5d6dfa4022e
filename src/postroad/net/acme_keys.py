"""Keys, certificate requests and certificates as ACME needs them; ECDSA P-256 throughout."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from postroad.net.acme_words import AcmeError, joined
from postroad.net.tls import key_pem, write_private

ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""id-pe-acmeIdentifier, RFC 8737 section 3."""
CHALLENGE_DAYS: Final = 7
"""The certificate of a challenge lives for minutes; clocks may differ by days."""

_encode: Final = msgspec.json.Encoder(order="sorted").encode


def kept_key(file: Path) -> ec.EllipticCurvePrivateKey:
    """The key in a file; one that is not there yet is made and is on the disk when this returns.

    Raises ValueError when the file holds no such key, OSError when it cannot be read or written.
    """
    if not file.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(file, key_pem(key))
        return key
    kept = serialization.load_pem_private_key(file.read_bytes(), password=None)
    if not isinstance(kept, ec.EllipticCurvePrivateKey) or not isinstance(kept.curve, ec.SECP256R1):
        raise ValueError(f"{file} holds no ECDSA P-256 key")
    return kept


def b64url(octets: bytes) -> str:
    """RFC 8555 section 6.1: base64url without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def b64url_octets(text: str) -> bytes:
    """The way back; raises ValueError."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """The public key as RFC 7518 section 6.2.1 writes it."""
    public = key.public_key().public_numbers()
    return {"crv": "P-256", "kty": "EC", "x": b64url(public.x.to_bytes(32)), "y": b64url(public.y.to_bytes(32))}


def thumbprint(key: ec.EllipticCurvePrivateKey) -> str:
    """RFC 7638: the hash that names a key; its members stand in the order of the alphabet."""
    return b64url(hashlib.sha256(_encode(jwk(key))).digest())


def signed(key: ec.EllipticCurvePrivateKey, header: dict[str, Any], payload: bytes) -> bytes:
    """A flattened JWS (RFC 7515) by ES256; an empty payload makes a POST-as-GET (RFC 8555 section 6.3)."""
    protected = b64url(_encode({"alg": "ES256", **header}))
    body = b64url(payload)
    r, s = decode_dss_signature(key.sign(f"{protected}.{body}".encode(), ec.ECDSA(hashes.SHA256())))
    # RFC 7518 section 3.4: both numbers in 32 octets, one behind the other, not DER.
    signature = b64url(r.to_bytes(32) + s.to_bytes(32))
    return _encode({"protected": protected, "payload": body, "signature": signature})


def bound(key: ec.EllipticCurvePrivateKey, url: str, key_id: str, secret: bytes) -> dict[str, str]:
    """RFC 8555 section 7.3.4: our key, vouched for by the secret of an account made elsewhere (HS256)."""
    protected = b64url(_encode({"alg": "HS256", "kid": key_id, "url": url}))
    body = b64url(_encode(jwk(key)))
    signature = hmac.digest(secret, f"{protected}.{body}".encode(), "sha256")
    return {"protected": protected, "payload": body, "signature": b64url(signature)}


def certificate_request(key: ec.EllipticCurvePrivateKey, names: Sequence[str]) -> bytes:
    """A PKCS #10 request in DER; the names stand in the SAN alone."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def challenge_certificate(name: str, proof: str, now_us: int) -> bytes:
    """RFC 8737 section 3: key and self-signed certificate in PEM form that prove control of a name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ACME challenge")])
    now = datetime.datetime.fromtimestamp(now_us // 1_000_000, datetime.UTC)
    around = datetime.timedelta(days=CHALLENGE_DAYS)
    # An OCTET STRING (tag 4) of the 32 octets of the hash; "The acmeIdentifier extension MUST be critical".
    digest = b"\x04\x20" + hashlib.sha256(proof.encode()).digest()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - around)
        .not_valid_after(now + around)
        # "The subjectAlternativeName extension MUST contain a single dNSName entry".
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key_pem(key) + certificate.public_bytes(serialization.Encoding.PEM)


def checked_chain(pem: bytes, key: ec.EllipticCurvePrivateKey, names: Sequence[str], now_us: int) -> bytes:
    """The authority's certificates written anew in PEM form, our own first.

    Raises AcmeError when they are not what we asked for: nothing unusable may replace a certificate that works.
    """
    try:
        chain = x509.load_pem_x509_certificates(pem)
        own = chain[0]
        same_key = own.public_key() == key.public_key()
        lacking = sorted(set(names) - set(dns_names(own)))
    except (ValueError, IndexError) as error:
        raise AcmeError("the authority issued something that is no certificate") from error
    if not same_key:
        raise AcmeError("the authority issued a certificate for another key")
    if lacking:
        raise AcmeError(f"the authority issued a certificate without {joined(lacking)}")
    if own.not_valid_after_utc.timestamp() * 1e6 <= now_us:
        raise AcmeError(f"the authority issued a certificate that ended on {own.not_valid_after_utc:%Y-%m-%d}")
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)


def dns_names(certificate: x509.Certificate) -> list[str]:
    """The host names that a certificate is for, in small letters."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in names.get_values_for_type(x509.DNSName)]
