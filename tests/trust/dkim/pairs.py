"""Keys that tests sign with, made once for a run, and their records."""

from __future__ import annotations

from functools import cache

from postroad.trust.dkim.keys import ALGORITHMS, ED25519, RSA, SigningKey, key_record, make_key, public_octets

SELECTORS = {RSA: "pr202611r", ED25519: "pr202611e"}


@cache
def private(algorithm: str) -> bytes:
    return make_key(algorithm)


def pair() -> tuple[SigningKey, ...]:
    """An RSA-2048 and an Ed25519 key."""
    return tuple(SigningKey.load(SELECTORS[alg], alg, private(alg)) for alg in ALGORITHMS)


def records(domain: str = "example.com") -> dict[str, str]:
    """What `domain` publishes for `pair`: name without the final dot -> text."""
    return {
        f"{SELECTORS[alg]}._domainkey.{domain}": key_record(alg, public_octets(alg, private(alg))) for alg in ALGORITHMS
    }
