"""Which domain answers for a message that leaves, and the DKIM-Signature fields it leaves with.

A message is signed once, when it is accepted: the fields are the prefix of its deliveries and become durable with them,
so every attempt sends the same octets. Only mail that was handed in by somebody who may use our names is signed; what
the world sends and an alias or a gateway passes on keeps the signatures it came with.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple, Protocol

from postroad.store.dkim_records import DkimKey
from postroad.trust.dkim.canonical import BodyHash, body_hash
from postroad.trust.dkim.keys import KeyUnusable, SigningKey
from postroad.trust.dkim.sign import Unsignable, signature_fields
from postroad.values.address import AddressError, domain_to_ascii
from postroad.values.ports import Clock
from postroad.wire.mime.addresses import read_addresses
from postroad.wire.mime.headers import HeaderIndex, HeaderTooLarge

log = logging.getLogger(__name__)

KNOWN_S: Final = 60.0
"""How long the keys of a domain, or that it has none, are used without asking again: what a lost hint costs."""

KNOWN_MAX: Final = 10_000
"""Author domains whose keys are remembered."""

KeysOf = Callable[[str], Awaitable[tuple[str, list[DkimKey]]]]
"""The domain that signs for an author's domain, and its keys: `store.dkim_reads.DkimKeys.signing`."""


class Bodies(Protocol):
    """Where body files are read from (`store.spool.Spool`)."""

    def read(self, body_file: str) -> AsyncIterator[bytes]:
        """The octets in pieces; raises StoreBroken."""
        ...


class Signed(NamedTuple):
    """The fields to put before a message, and in words who signed."""

    fields: bytes = b""
    words: str = ""


UNSIGNED: Final = Signed()


class Identity(NamedTuple):
    """A domain with its keys, read and ready."""

    domain: str
    keys: tuple[SigningKey, ...]
    words: str


NOBODY: Final = Identity("", (), "")


class Signer:
    """Signs for the domains of one store. Whoever makes one calls `forget` for every hint about the directory."""

    __slots__ = ("_bodies", "_clock", "_keys_of", "_known")

    def __init__(self, keys_of: KeysOf, bodies: Bodies, clock: Clock) -> None:
        self._keys_of = keys_of
        self._bodies = bodies
        self._clock = clock
        self._known: dict[str, tuple[float, Identity]] = {}

    def forget(self) -> None:
        """Something in the directory has changed; what is being read at this moment is not kept either."""
        self._known = {}

    async def sign(
        self, header: bytes, body: bytes | None, body_file: str = "", hashed: BodyHash | None = None
    ) -> Signed:
        """The signatures of a message whose author's domain is ours; UNSIGNED for every other.

        `hashed` is the hash of a body that stands in a file, where it was made while the body came; without it the file
        is read. Raises StoreBroken.
        """
        author = author_domain(header)
        identity = await self._identity(author) if author else NOBODY
        if not identity.keys:
            return UNSIGNED
        index = HeaderIndex(header)
        at_s = self._clock.wall_us() // 1_000_000
        # A text that came without any header stands behind the fields that were put before it.
        rest = header[index.ends[-1] + 2 :]
        try:
            if hashed is None or body is not None or rest:
                digest = await self._digest(rest, body, body_file)
            else:
                digest = hashed.digest()
            return Signed(signature_fields(index, digest, identity.domain, identity.keys, at_s=at_s), identity.words)
        except Unsignable:
            return UNSIGNED

    async def signs_for(self, domain: str) -> bool:
        """Whether mail whose author's domain this is gets a signature."""
        return bool((await self._identity(domain.lower())).keys)

    async def _digest(self, beginning: bytes, body: bytes | None, body_file: str) -> bytes:
        if body is not None:
            return body_hash(beginning + body)
        hashing = BodyHash()
        hashing.update(beginning)
        async for piece in self._bodies.read(body_file):
            hashing.update(piece)
        return hashing.digest()

    async def _identity(self, author: str) -> Identity:
        now, known = self._clock.monotonic(), self._known
        found = known.get(author)
        if found is not None and found[0] > now:
            return found[1]
        identity = _ready(*await self._keys_of(author))
        if len(known) >= KNOWN_MAX:
            known.clear()
        known[author] = (now + KNOWN_S, identity)
        return identity


def author_domain(header: bytes) -> str:
    """The domain of the first author in A-labels and lower case, which DMARC looks at; empty when there is none, or the
    header is too large to be read."""
    value = _plain_from(header)
    if value is None:
        try:
            value = HeaderIndex(header).first(b"from")
        except HeaderTooLarge:
            value = None
    for address in read_addresses(value or b""):
        if address.host:
            try:
                return domain_to_ascii(address.host.decode("utf-8"))
            except (AddressError, UnicodeDecodeError):
                return ""
    return ""


def _plain_from(header: bytes) -> bytes | None:
    """The value of the first From as nearly all mail spells it, without an index: most mail is not ours to sign."""
    at = 0 if header.startswith(b"From:") else header.find(b"\nFrom:") + 1
    if not at and not header.startswith(b"From:"):
        return None
    end = header.find(b"\r\n", at)
    if end < 0 or header[end + 2 : end + 3] in (b" ", b"\t") or header.find(b"\r\n\r\n", 0, at) >= 0:
        return None
    return header[at + 5 : end].strip(b" \t")


def _ready(domain: str, stored: list[DkimKey]) -> Identity:
    keys = []
    for key in stored:
        try:
            keys.append(SigningKey.load(key.selector, key.algorithm, key.private))
        except KeyUnusable as error:
            # The others still sign; without any, mail leaves unsigned rather than not at all.
            log.error("the DKIM key %s of %s cannot sign: %s", key.selector, domain, error)
    return Identity(domain, tuple(keys), f"DKIM d={domain} s={','.join(key.selector for key in keys)}")
