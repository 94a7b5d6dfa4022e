"""Certificates for tests: authorities above authorities, and servers with whatever shall be wrong with them."""

from __future__ import annotations

import datetime
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

NOW = datetime.datetime.fromtimestamp(int(time.time()), datetime.UTC)
"""TLS judges by the real date, so certificates are made at it."""


@dataclass
class Cert:
    """A certificate with its key, and those above it."""

    certificate: x509.Certificate
    key: Key
    above: list[Cert] = field(default_factory=list)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def key_info(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def chain(self) -> list[bytes]:
        """What a server sends that sends all it has."""
        return [self.der, *(one.der for one in self.above)]

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def context(self, folder: Path) -> ssl.SSLContext:
        """A server's TLS with this certificate and those above it."""
        file = folder / f"{self.certificate.serial_number:x}.pem"
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(key + b"".join(one.pem for one in (self, *self.above)))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def make_key(kind: str = "ec") -> Key:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())


def authority(
    name: str,
    issuer: Cert | None = None,
    *,
    ca: bool = True,
    room: int | None = None,
    days: tuple[int, int] = (-1, 30),
    permitted: str = "",
    key: str = "ec",
) -> Cert:
    """An authority, signed by itself or by another one."""
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=ca, path_length=room if ca else None), True)
    ]
    if ca:
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        extensions.append((usage, True))
    if permitted:
        extensions.append((x509.NameConstraints([x509.DNSName(permitted)], None), True))
    return _make(name, issuer, extensions, days, key)


def server(
    *names: str,
    issuer: Cert | None = None,
    common_name: str = "",
    days: tuple[int, int] = (-1, 30),
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    key: str = "ec",
    strange: bool = False,
) -> Cert:
    """A server's certificate for these names, signed by itself without `issuer`."""
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.ExtendedKeyUsage([usage]), False),
    ]
    if names:
        extensions.append((x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False))
    if strange:
        extensions.append((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True))
    return _make(common_name or (names[0] if names else "nobody"), issuer, extensions, days, key)


def _make(
    name: str,
    issuer: Cert | None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
    days: tuple[int, int],
    kind: str,
) -> Cert:
    key = make_key(kind)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + datetime.timedelta(days=days[0]))
        .not_valid_after(NOW + datetime.timedelta(days=days[1]))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer is not None:
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
        builder = builder.add_extension(above, critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    signer = issuer.key if issuer else key
    hashing = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Cert(builder.sign(signer, hashing), key, [issuer, *issuer.above] if issuer else [])
