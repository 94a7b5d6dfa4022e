"""Invariant: TLSA records and certificates of any octets are read without an error, and only what fits is authentic."""

from __future__ import annotations

import base64
import datetime
import hashlib

from postroad.trust import chain, dane

NOW = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
# An authority and a certificate for mx.test below it, both Ed25519 and good in December 2026: the same in each run.
ROOT = base64.b64decode(
    "MIIBITCB1KADAgECAhQUypL6R1zsz/W0v1Y+8PXNq5553TAFBgMrZXAwDzENMAsGA1UEAwwEUm9vdDAeFw0yNjExMjYwNzM4NTJa"
    "Fw0yNjEyMjcwNzM4NTJaMA8xDTALBgNVBAMMBFJvb3QwKjAFBgMrZXADIQAfA7M/bviPXhLBxgcuhYBla7ylVDstJnHKdI+ErWAM"
    "8aNCMEAwHQYDVR0OBBYEFD+ZAoTFIyLtnGPTJk7QX74GZEg6MA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgEGMAUGAytl"
    "cANBAHA1KpuQql5fj+ORBxZFgj9+zxTCuKGBuU9GK9uommz64E9RGAhokRAB8fja/aCIp3dO6Ba990kLB+I8p96HcgA="
)
LEAF = base64.b64decode(
    "MIIBXDCCAQ6gAwIBAgIUEPsUHUNQPIBKpRYbjvhI6BfrSZ4wBQYDK2VwMA8xDTALBgNVBAMMBFJvb3QwHhcNMjYxMTI2MDczODUy"
    "WhcNMjYxMjI3MDczODUyWjASMRAwDgYDVQQDDAdteC50ZXN0MCowBQYDK2VwAyEAQm6l9L5rVhwCKhmwt5VJQ4b7Gyv3Dis5IQA+"
    "oMEjjZGjeTB3MB0GA1UdDgQWBBTwqnf7HnRKhKgEwMGFsivQHswWDTAfBgNVHSMEGDAWgBQ/mQKExSMi7Zxj0yZO0F++BmRIOjAM"
    "BgNVHRMBAf8EAjAAMBMGA1UdJQQMMAoGCCsGAQUFBwMBMBIGA1UdEQQLMAmCB214LnRlc3QwBQYDK2VwA0EAx89lk6RvzGtgPw0z"
    "adVW0ExIFXGp1J/ieqC7NC2u9L0tStvMJCKgZIRCrW+VBDA9dvSEWYVNeW3X8Nltwri4Aw=="
)
CHAIN = [LEAF, ROOT]
ROOT_KEY, LEAF_KEY = chain.public_key_of(ROOT), chain.public_key_of(LEAF)
SEEDS = (
    bytes([3, 1, 1]) + hashlib.sha256(LEAF_KEY).digest(),
    bytes([2, 0, 1]) + hashlib.sha256(ROOT).digest(),
    bytes([2, 0, 0]) + ROOT,
    bytes([2, 1, 0]) + ROOT_KEY,
    bytes([3, 0, 0]) + LEAF,
    LEAF,
    b"",
)
WORDS = (b"\x00", b"\x01", b"\x02", b"\x03", b"\x30\x82", b"\xa0", b"\x84\xff\xff\xff\xff", b"\xff")

_TRUTHS = {bytes([usage, 0, 0]) + one for usage, one in ((2, ROOT), (3, LEAF))}


def check(octets: bytes) -> None:
    """Octets as a record for a good chain, and as the server's own certificate under a good record."""
    record = dane.read(octets)
    assert (record is None) is (len(octets) < 4)
    records = dane.usable([octets])
    if not dane.authenticate(CHAIN, records, ["mx.test"], NOW):
        assert octets in SEEDS or octets in _TRUTHS or _names_the_key(octets)
    key = chain.public_key_of(octets)
    assert key in octets
    forged = dane.authenticate([octets, ROOT], dane.usable([SEEDS[1]]), ["mx.test"], NOW)
    assert forged or octets == LEAF
    if not dane.authenticate([octets], dane.usable([SEEDS[0]]), ["mx.test"], NOW):
        assert key == LEAF_KEY


def _names_the_key(octets: bytes) -> bool:
    """Whether a record of another form names the key or certificate of the chain."""
    return any(part in octets for part in _parts(ROOT, ROOT_KEY, LEAF, LEAF_KEY))


def _parts(*wholes: bytes) -> list[bytes]:
    digests = [digest(whole).digest() for whole in wholes for digest in (hashlib.sha256, hashlib.sha512)]
    return [*wholes, *digests]
