"""TLS contexts, one per policy, and certificates made here: self-signed at first start, a tiny CA for the playground.

Settings follow RFC 9325: TLS 1.2 or newer, no compression, no renegotiation, forward secrecy. Making a context costs
20 ms, so each is made once and kept.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import ssl
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from postroad.net.tls_sessions import ResumingContext, Sessions
from postroad.trust import chain as certificates

SERVER_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""RFC 9325 section 4.2 for TLS 1.2; those of TLS 1.3 are fixed."""

TICKETS: Final = 1
"""Session tickets of one TLS 1.3 connection: mail clients make one connection after another, so each brings the ticket
of the next. OpenSSL's two are for browsers, and each costs 17 of 190 us of a handshake."""

OPPORTUNISTIC_CIPHERS: Final = "HIGH:!aNULL:!MD5:!3DES:@SECLEVEL=1"
"""Without verification the choice is between weak encryption and none (RFC 7435), so more is taken than is offered."""

SELF_SIGNED_DAYS: Final = 3650
"""Nobody checks the dates of a self-signed certificate, but a client that pinned it loses it at the end."""

VERIFIED_MAX: Final = 10_000
"""Results of chain checks kept: one per certificate and host name, about 150 octets each."""


class ServerTls:
    """The contexts of our listeners, one for each service, and their certificate files.

    A context makes the keys of its own session tickets, so a session that began at one service cannot be resumed at
    another, where other rules hold (Postfix 20260805). Raises OSError or ssl.SSLError (also ValueError for an encrypted
    key) when the files cannot be used.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self.certificate = certificate
        self.key = key
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.end_point = b""
        """What a login over a connection made from now on is bound to (`end_point_of`); empty when it cannot be."""
        self.reload()

    @property
    def context(self) -> ssl.SSLContext:
        """The context of a server that has one service only."""
        return self.of("")

    def of(self, service: str) -> ssl.SSLContext:
        """The context of a service; always the same one for the same name."""
        context = self._contexts.get(service)
        if context is None:
            context = server_context()
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
            self._contexts[service] = context
        return context

    def reload(self) -> None:
        """Reads the files again: connections made from now on get the new certificate, living ones keep theirs.

        The pair is tried out first, so a broken one leaves the old in use everywhere. Raises like the constructor.
        """
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password=_no_password)
        end_point = _end_point_in(self.certificate.read_bytes())
        for context in self._contexts.values():
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        self.end_point = end_point


def server_context() -> ssl.SSLContext:
    """A context for accepted connections, as RFC 9325 wants it, without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SERVER_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = TICKETS
    return context


def _end_point_in(pem: bytes) -> bytes:
    """The end point of the first certificate in a file; one that only OpenSSL can read serves without."""
    try:
        return end_point_of(x509.load_pem_x509_certificates(pem)[0])
    except ValueError:
        return b""


def end_point_of(certificate: x509.Certificate) -> bytes:
    """The channel binding "tls-server-end-point": a hash of the certificate, or empty where none is defined.

    RFC 5929 section 4.1: the hash function is that of the certificate's signature, SHA-256 in place of MD5 and SHA-1;
    a signature that uses no hash function (Ed25519, Ed448) leaves the binding undefined.
    """
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return b""
    if algorithm is None:
        return b""
    weak = isinstance(algorithm, (hashes.MD5, hashes.SHA1))
    return certificate.fingerprint(hashes.SHA256() if weak else algorithm)


def _no_password() -> str:
    raise ValueError("the TLS key is encrypted; a server cannot type its password")


def opportunistic_context() -> ssl.SSLContext:
    """The context for mail to hosts that promised nothing: encrypts with whoever answers (RFC 7435)."""
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(OPPORTUNISTIC_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


class ClientTls:
    """Opportunistic TLS of outgoing connections: the context, and afterwards whether the certificate was any good.

    Roots are those of the system and of `ca_file`; they are read when the first certificate is looked at.
    """

    def __init__(self, ca_file: str = "", *, system_roots: bool = True) -> None:
        self.context = opportunistic_context()
        self.sessions = Sessions()
        self._ca_file = ca_file
        self._system_roots = system_roots
        self._store: verification.Store | None = None
        self._results: dict[tuple[bytes, str], str] = {}

    def describe(self, tls: ssl.SSLObject | None, host: str) -> str:
        """How a connection is protected: "TLSv1.3 TLS_AES_256_GCM_SHA384 verified"; empty without TLS.

        "verified" means the certificate chains to a known root, is in date and names `host`.
        """
        if tls is None:
            return ""
        verdict = "verified" if self.verifies(peer_chain(tls), host) else "unverified"
        return f"{protection(tls)} {verdict}"

    def verifies(self, chain: Sequence[bytes], host: str, now: datetime.datetime | None = None) -> bool:
        """Whether a chain of DER certificates, the peer's own first, proves `host`; remembered without `now`."""
        return not self.fault(chain, host, now)

    def fault(self, chain: Sequence[bytes], host: str, now: datetime.datetime | None = None) -> str:
        """Why a chain does not prove `host`, in a word of RFC 8460 section 4.3.1; empty when it does.

        Remembered without `now`.
        """
        if not chain:
            return NOT_TRUSTED
        key = (hashlib.sha256(b"".join(chain)).digest(), host)
        known = self._results.get(key) if now is None else None
        if known is None:
            known = "" if self._verify(chain, host, now) else _fault(chain, host, now)
            if now is None:
                if len(self._results) >= VERIFIED_MAX:
                    self._results.clear()
                self._results[key] = known
        return known

    def _verify(self, chain: Sequence[bytes], host: str, now: datetime.datetime | None) -> bool:
        try:
            certificates = [x509.load_der_x509_certificate(der) for der in chain]
            builder = verification.PolicyBuilder().store(self._roots())
            if now is not None:
                builder = builder.time(now)
            builder.build_server_verifier(_subject(host)).verify(certificates[0], certificates[1:])
        except Exception:  # octets of a stranger: whatever they break in a library, they have proved nothing
            return False
        return True

    def _roots(self) -> verification.Store:
        if self._store is None:
            files = [self._ca_file] if self._ca_file else []
            paths = ssl.get_default_verify_paths()
            if self._system_roots and paths.cafile:
                files.append(paths.cafile)
            roots = [root for name in files for root in read_roots(Path(name).read_bytes())]
            # Raises ValueError when there is no root at all, which verifies nothing.
            self._store = verification.Store(roots)
        return self._store


NOT_TRUSTED: Final = "certificate-not-trusted"


def _fault(chain: Sequence[bytes], host: str, now: datetime.datetime | None) -> str:
    """What is most plainly wrong with a chain that proves nothing."""
    known = certificates.load(chain)
    if known and not certificates.is_in_date(known[0], now or datetime.datetime.now(datetime.UTC)):
        return "certificate-expired"
    if known and not _is_address(host) and not certificates.bears_a_name(known[0], [host]):
        return "certificate-host-mismatch"
    return NOT_TRUSTED


def _is_address(host: str) -> bool:
    return isinstance(_subject(host), x509.IPAddress)


def protection(tls: ssl.SSLObject) -> str:
    """Version and cipher of a connection: "TLSv1.3 TLS_AES_256_GCM_SHA384"."""
    cipher = tls.cipher()
    return f"{tls.version() or 'TLS'} {cipher[0] if cipher else ''}"


def read_roots(pem: bytes) -> list[x509.Certificate]:
    """The certificates of a bundle; one that the library cannot read, or takes only with a warning, is left out."""
    end = b"-----END CERTIFICATE-----"
    roots = []
    for piece in pem.split(end)[:-1]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                roots.append(x509.load_pem_x509_certificate(piece + end + b"\n"))
            except (ValueError, Warning):
                continue
    return roots


def _subject(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]").lower().removeprefix("ipv6:")))
    except ValueError:
        return x509.DNSName(host)


def peer_end_point(tls: ssl.SSLObject | None) -> bytes:
    """What a login to the peer of a connection is bound to; empty when it cannot be bound."""
    chain = peer_chain(tls) if tls is not None else []
    try:
        return end_point_of(x509.load_der_x509_certificate(chain[0])) if chain else b""
    except ValueError:
        return b""


def peer_chain(tls: ssl.SSLObject) -> list[bytes]:
    """The certificates the peer sent, as DER, its own first.

    The public call for all of them came with Python 3.13; before it, the object inside has one.
    """
    for owner in (tls, getattr(tls, "_sslobj", None)):
        method: Any = getattr(owner, "get_unverified_chain", None)
        if method is not None:
            sent = method() or []
            return [der if isinstance(der, bytes) else der.public_bytes(ssl._ssl.ENCODING_DER) for der in sent]  # type: ignore[attr-defined]
    own = tls.getpeercert(binary_form=True)
    return [own] if own else []


# -- certificates made here --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority for one machine: the playground's and the tests'."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate that clients must trust."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, names: Sequence[str], now_us: int, days: int = 397) -> tuple[bytes, bytes]:
        """A server certificate for host names and IP addresses: PEM of certificate and of key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _server_builder(key, names, self.certificate.subject, now_us, days).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), key_pem(key)


def make_authority(name: str, now_us: int, days: int = SELF_SIGNED_DAYS) -> Authority:
    """A fresh root that may sign server certificates and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    subject = _name(name)
    builder = (
        _dated(x509.CertificateBuilder(), now_us, days)
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Authority(builder.sign(key, hashes.SHA256()), key)


def make_self_signed(names: Sequence[str], now_us: int, days: int = SELF_SIGNED_DAYS) -> tuple[bytes, bytes]:
    """A server certificate that only itself vouches for (ECDSA P-256): PEM of certificate and of key."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _server_builder(key, names, _name(names[0]), now_us, days)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), key_pem(key)


def ensure_self_signed(names: Sequence[str], certificate: Path, key: Path, now_us: int) -> bool:
    """Makes both files unless both are there; returns whether it made them, so that somebody can be warned."""
    if certificate.exists() and key.exists():
        return False
    certificate_octets, key_octets = make_self_signed(names, now_us)
    write_private(key, key_octets)
    write_private(certificate, certificate_octets)
    return True


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """An unencrypted PKCS #8 key."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_private(path: Path, octets: bytes) -> None:
    """Writes a file that only its owner may read: whole and on disk when this returns, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _server_builder(
    key: ec.EllipticCurvePrivateKey, names: Iterable[str], issuer: x509.Name, now_us: int, days: int
) -> x509.CertificateBuilder:
    names = list(names)
    public = key.public_key()
    return (
        _dated(x509.CertificateBuilder(), now_us, days)
        .subject_name(_name(names[0]))
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectAlternativeName([_subject(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _name(text: str) -> x509.Name:
    # RFC 5280 appendix A: a common name has at most 64 characters; the names that count stand in the SAN.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _dated(builder: x509.CertificateBuilder, now_us: int, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.fromtimestamp(now_us // 1_000_000, datetime.UTC)
    # A day back, for clients whose clock is slow.
    return builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=days)
    )
