"""Keys of DKIM: made, read once into objects that sign, and written as the records in which a domain publishes them.

A private key is PKCS #8 in DER wherever it is kept. Reading an RSA key with all its checks takes 33 ms, without them
11 us: `load_key` checks when a key comes in, and `SigningKey.load` trusts what was checked then.

    >>> parse_record("v=DKIM1; k=rsa; p=AAAA").algorithm
    'rsa'
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

RSA: Final = "rsa"
ED25519: Final = "ed25519"
ALGORITHMS: Final = (RSA, ED25519)
"""Key types of RFC 6376 section 3.6.1 and RFC 8463 section 4, in the order in which they sign."""

RSA_BITS: Final = 2048
"""RFC 8301 section 3.2: "Signers SHOULD use RSA keys of at least 2048 bits"; a longer one fits no UDP answer beside
its signatures, and some receivers do not take it."""

RSA_BITS_MIN: Final = 1024
"""RFC 8301 section 3.2: "Signers MUST use RSA keys of at least 1024 bits for all keys"."""

_PUBLIC_EXPONENT: Final = 65537

Private = RSAPrivateKey | Ed25519PrivateKey


class KeyUnusable(ValueError):
    """Octets that are no key to sign with; the text says why and shows nothing of them."""


def make_key(algorithm: str) -> bytes:
    """A fresh private key, PKCS #8 in DER; RSA takes about 25 ms."""
    made: Private = (
        Ed25519PrivateKey.generate() if algorithm == ED25519 else generate_private_key(_PUBLIC_EXPONENT, RSA_BITS)
    )
    return _der(made)


def _der(key: Private) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def read_pem(octets: bytes) -> tuple[str, bytes]:
    """Algorithm and DER of a private key that another program wrote as PEM; raises `KeyUnusable`. Checks it."""
    try:
        key = load_pem_private_key(octets, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyUnusable("this is no private key in PEM without a passphrase") from None
    if isinstance(key, Ed25519PrivateKey):
        return ED25519, _der(key)
    if not isinstance(key, RSAPrivateKey):
        raise KeyUnusable("DKIM knows RSA and Ed25519 keys only")
    if key.key_size < RSA_BITS_MIN:
        raise KeyUnusable(f"an RSA key of {key.key_size} bits is too short to be believed (RFC 8301)")
    return RSA, _der(key)


def load_key(algorithm: str, private: bytes, *, checked: bool = False) -> Private:
    """The key of kept octets; raises `KeyUnusable`. `checked` says that its arithmetic was verified before."""
    try:
        key = load_der_private_key(private, None, unsafe_skip_rsa_key_validation=checked)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyUnusable("these octets are no private key") from None
    wanted = Ed25519PrivateKey if algorithm == ED25519 else RSAPrivateKey
    if algorithm not in ALGORITHMS or not isinstance(key, wanted):
        raise KeyUnusable(f"this is no key for {algorithm[:20]}")
    assert isinstance(key, RSAPrivateKey | Ed25519PrivateKey)
    return key


class SigningKey:
    """A private key ready to sign, under its selector. Shows nothing of itself."""

    __slots__ = ("_key", "algorithm", "selector")

    def __init__(self, selector: str, algorithm: str, key: Private) -> None:
        self.selector = selector
        self.algorithm = algorithm
        self._key = key

    @classmethod
    def load(cls, selector: str, algorithm: str, private: bytes) -> SigningKey:
        """The key of octets that were checked when they were taken in; raises `KeyUnusable`."""
        return cls(selector, algorithm, load_key(algorithm, private, checked=True))

    @property
    def tag(self) -> str:
        """The value of a=: "rsa-sha256" or "ed25519-sha256"."""
        return f"{self.algorithm}-sha256"

    def sign(self, signed: bytes) -> bytes:
        """The signature of canonical octets: 0.3 ms with RSA-2048, 0.03 ms with Ed25519."""
        if isinstance(self._key, RSAPrivateKey):
            return self._key.sign(signed, padding.PKCS1v15(), SHA256())
        # RFC 8463 section 3: it "signs the hash with the PureEdDSA variant Ed25519".
        return self._key.sign(hashlib.sha256(signed).digest())

    def __repr__(self) -> str:
        return f"SigningKey({self.selector}, {self.algorithm})"


# -- records -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What a TXT record at selector._domainkey says."""

    algorithm: str
    public: bytes
    """Octets of p=; empty: the key was revoked."""


class RecordUnusable(ValueError):
    """A TXT record that no verifier takes as a key; the text says why."""


def public_octets(algorithm: str, private: bytes) -> bytes:
    """What p= holds: SubjectPublicKeyInfo of an RSA key, 32 octets of an Ed25519 key. Raises `KeyUnusable`."""
    public = load_key(algorithm, private, checked=True).public_key()
    if algorithm == ED25519:
        # RFC 8463 section 4.2: "The p= value in the key record is the Ed25519 public key encoded in base64."
        return public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_record(algorithm: str, public: bytes) -> str:
    """The text of the TXT record that publishes a key (RFC 6376 section 3.6.1)."""
    return f"v=DKIM1; k={algorithm}; p={base64.b64encode(public).decode()}"


def parse_record(text: str) -> KeyRecord:
    """The key of a published record; raises `RecordUnusable`."""
    tags: dict[str, str] = {}
    for part in text.split(";"):
        name, equals, value = part.partition("=")
        if not part.strip():
            continue
        if not equals or name.strip() in tags:
            # RFC 6376 section 3.2: "Tags with duplicate names MUST NOT occur within a single tag-list".
            raise RecordUnusable(f"it is no list of tags: {part.strip()[:40]!r}")
        tags[name.strip()] = value.strip()
    # Section 3.6.1: v= is optional, but "This tag MUST be the first tag in the record", and values are case-sensitive.
    if "v" in tags and (tags["v"] != "DKIM1" or next(iter(tags)) != "v"):
        raise RecordUnusable("it does not begin with v=DKIM1")
    if "p" not in tags:
        raise RecordUnusable("it has no p=")
    if "sha256" not in tags.get("h", "sha256").replace(" ", "").split(":"):
        raise RecordUnusable("its h= does not allow sha256")
    try:
        public = base64.b64decode("".join(tags["p"].split()), validate=True)
    except (binascii.Error, ValueError):
        raise RecordUnusable("its p= is no base64") from None
    return KeyRecord(tags.get("k", RSA), public)
