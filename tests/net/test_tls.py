"""Certificates made here, contexts made from them, and what a client says about a server's certificate."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import ssl
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from postroad.net.dial import Link, TlsFailed, dial
from postroad.net.tls import (
    ClientTls,
    ServerTls,
    end_point_of,
    ensure_self_signed,
    make_authority,
    make_self_signed,
    read_roots,
)

NOW_US = time.time_ns() // 1000
"""Certificates are judged by the real date, so they are made at it."""


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def write_pair(folder: Path, pair: tuple[bytes, bytes]) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(pair[0])
    key.write_bytes(pair[1])
    return certificate, key


def test_a_self_signed_certificate_names_the_host_and_is_private(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    assert ensure_self_signed(["mail.dev.test", "127.0.0.1"], certificate, key, NOW_US)
    made = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["mail.dev.test"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cert.pem", "key.pem"]
    before = certificate.read_bytes()
    assert not ensure_self_signed(["mail.dev.test"], certificate, key, NOW_US)
    assert certificate.read_bytes() == before


@pytest.mark.parametrize(
    "cert, host, word",
    [
        (("mx.dev.test",), "mx.dev.test", ""),
        (("mx.dev.test",), "other.test", "certificate-host-mismatch"),
        (("127.0.0.2",), "127.0.0.2", ""),
        (("127.0.0.2",), "127.0.0.3", "certificate-not-trusted"),
    ],
)
def test_why_a_certificate_proves_nothing(tmp_path: Path, cert: tuple[str, ...], host: str, word: str) -> None:
    """In the words of RFC 8460 section 4.3.1."""
    authority, stranger = make_authority("Playground", NOW_US), make_authority("Stranger", NOW_US)
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.pem)
    client = ClientTls(str(ca_file), system_roots=False)
    chain = [der(authority.issue(cert, NOW_US)[0])]
    assert client.fault(chain, host) == word
    later = datetime.datetime.fromtimestamp(4_000_000_000, datetime.UTC)
    assert client.fault(chain, host, later) == "certificate-expired"
    assert client.fault([der(stranger.issue([host], NOW_US)[0])], host) == "certificate-not-trusted"
    assert client.fault([b"junk"], host) == client.fault([], host) == "certificate-not-trusted"


def test_what_verifies(tmp_path: Path) -> None:
    authority = make_authority("Playground", NOW_US)
    stranger = make_authority("Stranger", NOW_US)
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.pem)
    client = ClientTls(str(ca_file), system_roots=False)
    good = der(authority.issue(["mx.dev.test", "127.0.0.2"], NOW_US)[0])
    assert client.verifies([good], "mx.dev.test")
    assert client.verifies([good], "127.0.0.2")
    assert client.verifies([good], "mx.dev.test")
    assert not client.verifies([good], "other.test")
    assert not client.verifies([good], "mx.dev.test", datetime.datetime.fromtimestamp(4_000_000_000, datetime.UTC))
    assert not client.verifies([der(stranger.issue(["mx.dev.test"], NOW_US)[0])], "mx.dev.test")
    assert not client.verifies([der(make_self_signed(["mx.dev.test"], NOW_US)[0])], "mx.dev.test")
    assert not client.verifies([b"junk"], "mx.dev.test")
    assert not client.verifies([], "mx.dev.test")
    assert not ClientTls(system_roots=False).verifies([good], "mx.dev.test")


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(b"hello")  # type: ignore[attr-defined]


async def converse(server: asyncio.Server, client: ClientTls, host: str) -> str:
    """How the client describes TLS with the first listener of a server, once the greeting came through it."""
    link = await dial(*server.sockets[0].getsockname()[:2], patience=5)
    described = client.describe(await link.start_tls(client.context, host, 5), host)
    assert await link.receive(5) == b"hello"
    link.close()
    return described


async def test_an_encrypted_connection_says_whether_it_was_verified(tmp_path: Path) -> None:
    authority = make_authority("Playground", NOW_US)
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.pem)
    tls = ServerTls(*write_pair(tmp_path, authority.issue(["mx.dev.test"], NOW_US)))
    server = await asyncio.get_running_loop().create_server(Greeter, "127.0.0.1", 0, ssl=tls.context)
    client = ClientTls(str(ca_file), system_roots=False)
    described = await converse(server, client, "mx.dev.test")
    assert described.startswith("TLSv1.3 TLS_")
    assert described.endswith(" verified")
    assert (await converse(server, client, "other.test")).endswith(" unverified")
    server.close()


async def test_a_reload_changes_the_certificate_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    first, second = make_authority("First", NOW_US), make_authority("Second", NOW_US)
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(second.pem)
    certificate, key = write_pair(tmp_path, first.issue(["mx.dev.test"], NOW_US))
    tls = ServerTls(certificate, key)
    server = await asyncio.get_running_loop().create_server(Greeter, "127.0.0.1", 0, ssl=tls.context)
    client = ClientTls(str(ca_file), system_roots=False)
    assert (await converse(server, client, "mx.dev.test")).endswith(" unverified")
    write_pair(tmp_path, second.issue(["mx.dev.test"], NOW_US))
    tls.reload()
    assert (await converse(server, client, "mx.dev.test")).endswith(" verified")
    key.write_bytes(b"junk")
    with pytest.raises(ssl.SSLError):
        tls.reload()
    assert (await converse(server, client, "mx.dev.test")).endswith(" verified")
    server.close()


def test_old_protocols_are_off(tmp_path: Path) -> None:
    tls = ServerTls(*write_pair(tmp_path, make_self_signed(["x.test"], NOW_US)))
    assert tls.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert ClientTls().context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert all("ECDHE" in c["name"] or c["protocol"] == "TLSv1.3" for c in tls.context.get_ciphers())


async def test_a_peer_that_speaks_no_tls_fails_the_handshake() -> None:
    server = await asyncio.get_running_loop().create_server(Greeter, "127.0.0.1", 0)
    link = await dial(*server.sockets[0].getsockname()[:2], patience=5)
    assert isinstance(link, Link)
    assert await link.receive(5) == b"hello"
    link.write(b"x")
    await asyncio.sleep(0)
    with pytest.raises(TlsFailed, match="TLS handshake"):
        await link.start_tls(ClientTls().context, "x.test", 0.1)
    server.close()


def test_a_bundle_with_a_broken_certificate_gives_the_others() -> None:
    good = make_authority("Root", NOW_US).pem
    broken = b"-----BEGIN CERTIFICATE-----\nbm8gY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n"
    assert len(read_roots(b"# a comment\n" + good + broken + good)) == 2
    assert read_roots(b"") == []


@pytest.mark.parametrize("version", [1, 3, 9], ids=["v2", "v4", "v10"])
def test_a_certificate_of_no_known_version_proves_nothing(version: int) -> None:
    certificate, _ = make_self_signed(["mx.example.net"], NOW_US)
    v3 = b"\xa0\x03\x02\x01\x02"
    assert der(certificate).count(v3) == 1
    strange = der(certificate).replace(v3, v3[:-1] + bytes([version]))
    assert not ClientTls(system_roots=False).verifies([strange], "mx.example.net")


# -- channel binding -------------------------------------------------------------------------------------------------


def signed(key: Any, algorithm: hashes.HashAlgorithm | None) -> x509.Certificate:
    """A certificate whose signature uses a hash function, or none."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mx.dev.test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, now, now + datetime.timedelta(days=1))
    return builder.sign(key, algorithm)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "algorithm, expected",
    [(hashes.SHA256(), "sha256"), (hashes.SHA384(), "sha384"), (hashes.SHA512(), "sha512")],
)
def test_the_end_point_is_hashed_as_the_certificate_is_signed(algorithm: hashes.HashAlgorithm, expected: str) -> None:
    # RFC 5929 section 4.1: with a hash function "neither MD5 nor SHA-1, then use the hash function associated with the
    # certificate's signatureAlgorithm"
    certificate = signed(ec.generate_private_key(ec.SECP256R1()), algorithm)
    assert end_point_of(certificate) == hashlib.new(expected, certificate.public_bytes(Encoding.DER)).digest()


@pytest.mark.parametrize("algorithm", [hashes.MD5(), hashes.SHA1()])
def test_a_weak_signature_is_hashed_with_sha256(algorithm: hashes.HashAlgorithm) -> None:
    class Weak:
        """Nothing here signs like this any more."""

        signature_hash_algorithm = algorithm

        def fingerprint(self, used: hashes.HashAlgorithm) -> bytes:
            return used.name.encode()

    assert end_point_of(Weak()) == b"sha256"  # type: ignore[arg-type]


def test_a_signature_without_a_hash_function_defines_no_end_point() -> None:
    assert end_point_of(signed(ed25519.Ed25519PrivateKey.generate(), None)) == b""


def test_a_new_certificate_is_a_new_end_point_and_a_broken_one_none(tmp_path: Path) -> None:
    tls = ServerTls(*write_pair(tmp_path, make_self_signed(["mx.dev.test"], NOW_US)))
    first = tls.end_point
    assert first == hashlib.sha256(der(tls.certificate.read_bytes())).digest()
    tls.certificate.write_bytes(b"broken")
    with pytest.raises((OSError, ValueError)):
        tls.reload()
    assert tls.end_point == first
    write_pair(tmp_path, make_self_signed(["mx.dev.test"], NOW_US))
    tls.reload()
    assert tls.end_point == hashlib.sha256(der(tls.certificate.read_bytes())).digest() != first


def test_class_e4_each_service_has_a_context_and_ticket_keys_of_its_own(tmp_path: Path) -> None:
    tls = ServerTls(*write_pair(tmp_path, make_self_signed(["x.test"], NOW_US)))
    assert tls.of("imaps") is tls.of("imaps")
    assert tls.of("imaps") is not tls.of("submissions")
    session = shaken(tls.of("imaps"), None)
    assert shaken(tls.of("imaps"), session).session_reused
    assert not shaken(tls.of("submissions"), session).session_reused


def test_a_reload_reaches_every_service(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, make_self_signed(["x.test"], NOW_US))
    tls = ServerTls(certificate, key)
    before = {name: shaken(tls.of(name), None).getpeercert(True) for name in ("mx", "imaps")}
    write_pair(tmp_path, make_self_signed(["x.test"], NOW_US))
    assert shaken(tls.of("imaps"), None).getpeercert(True) == before["imaps"]
    tls.reload()
    for name in ("mx", "imaps", "pop3s"):
        assert shaken(tls.of(name), None).getpeercert(True) != before["mx"]


def test_a_tls13_connection_gets_one_ticket(tmp_path: Path) -> None:
    tls = ServerTls(*write_pair(tmp_path, make_self_signed(["x.test"], NOW_US)))
    assert tls.of("mx").num_tickets == 1


def shaken(context: ssl.SSLContext, like: ssl.SSLObject | None) -> ssl.SSLObject:
    """The client's side of a handshake by TLS 1.2, whose session is whole at its end; `like` is one to resume."""
    client_context = like.context if like is not None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if like is None:
        client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
        client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, session=like.session if like is not None else None)
    open_ends = [client, server]
    while open_ends:
        for end in list(open_ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            open_ends.remove(end)
    return client
