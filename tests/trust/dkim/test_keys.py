"""Keys and their records."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from postroad.trust.dkim.keys import (
    ED25519,
    RSA,
    KeyRecord,
    KeyUnusable,
    RecordUnusable,
    SigningKey,
    key_record,
    load_key,
    parse_record,
    public_octets,
    read_pem,
)
from tests.testdata import testdata
from tests.trust.dkim.pairs import private

RFC8463_SECRET = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="
RFC8463_PUBLIC = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


def ed25519_of(secret: str) -> bytes:
    """PKCS #8 of an Ed25519 seed in base64 (RFC 8410 section 7)."""
    return bytes.fromhex("302e020100300506032b657004220420") + base64.b64decode(secret)


def test_the_public_half_of_rfc_8463() -> None:
    """Appendix A.2 of RFC 8463."""
    assert base64.b64encode(public_octets(ED25519, ed25519_of(RFC8463_SECRET))).decode() == RFC8463_PUBLIC


@pytest.mark.parametrize("algorithm", [RSA, ED25519])
def test_a_record_says_what_the_key_is(algorithm: str) -> None:
    public = public_octets(algorithm, private(algorithm))
    text = key_record(algorithm, public)
    assert text.startswith(f"v=DKIM1; k={algorithm}; p=")
    assert parse_record(text) == KeyRecord(algorithm, public)


def test_lengths_of_made_keys() -> None:
    key = load_key(RSA, private(RSA))
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == 2048
    assert len(public_octets(ED25519, private(ED25519))) == 32


@pytest.mark.parametrize(
    "text, found",
    [
        ("p=AAAA", KeyRecord("rsa", b"\0\0\0")),
        (" v = DKIM1 ; p = AA\r\n\tAA ; n = a note ", KeyRecord("rsa", b"\0\0\0")),
        ("v=DKIM1; k=ed25519; p=AAAA; t=s;", KeyRecord("ed25519", b"\0\0\0")),
        ("v=DKIM1; h=sha1:sha256; p=", KeyRecord("rsa", b"")),
    ],
)
def test_records_of_others_are_read(text: str, found: KeyRecord) -> None:
    assert parse_record(text) == found


@pytest.mark.parametrize(
    "text",
    ["", "v=DKIM1", "v=dkim1; p=AAAA", "k=rsa; v=DKIM1; p=AAAA", "v=DKIM1; p=AAAA; p=AAAA", "v=DKIM1; p=!",
     "v=DKIM1; h=sha1; p=AAAA", "some words"],
)  # fmt: skip
def test_what_no_verifier_takes(text: str) -> None:
    with pytest.raises(RecordUnusable):
        parse_record(text)


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, form: PrivateFormat) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def test_a_key_of_another_program_is_taken_over() -> None:
    made = load_key(RSA, private(RSA))
    assert isinstance(made, rsa.RSAPrivateKey)
    for form in (PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8):
        assert read_pem(pem(made, form)) == (RSA, private(RSA))


def test_what_cannot_sign_is_not_taken_over() -> None:
    for octets in (b"", b"junk", pem(ec.generate_private_key(ec.SECP256R1()), PrivateFormat.PKCS8)):
        with pytest.raises(KeyUnusable):
            read_pem(octets)


def test_a_key_that_was_tampered_with_is_found_when_it_comes_in() -> None:
    whole = private(RSA)
    key = load_key(RSA, whole)
    assert isinstance(key, rsa.RSAPrivateKey)
    wrong = key.private_numbers().d.to_bytes(256)
    assert whole.count(wrong) == 1
    broken = whole.replace(wrong, bytes([wrong[0], wrong[1] ^ 1]) + wrong[2:])
    with pytest.raises(KeyUnusable):
        load_key(RSA, broken)


@pytest.mark.parametrize("algorithm, octets", [(RSA, b"junk"), (ED25519, private(RSA)), ("dsa", private(RSA))])
def test_octets_that_are_no_such_key(algorithm: str, octets: bytes) -> None:
    with pytest.raises(KeyUnusable) as raised:
        SigningKey.load("s", algorithm, octets)
    assert octets.hex()[:20] not in str(raised.value)


def test_keys_of_the_public_suite_are_read() -> None:
    folder = testdata("dkim/dkimpy")
    assert read_pem((folder / "2048_testkey.key").read_bytes())[0] == RSA
    assert read_pem((folder / "2048_testkey_PKCS8.key").read_bytes())[0] == RSA
