"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS as a client speaks them (RFC 5802, RFC 7677): the other side of `wire.scram`.

    `first`   n,,n=user,r=abc                       what the client opens with
    `final`   c=biws,r=abcdef,p=dHzbZapWIk4jUhN...  its proof, made of the server's challenge
    `prove`   whether the server's last message shows that it knows the password too

Invariant: each step is taken once and in order, and the password leaves the object in no message.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from typing import Final

from postroad.wire.sasl import SCRAM, SCRAM_PLUS, Credentials, SaslError, decode_base64, encode_base64
from postroad.wire.scram import END_POINT, ScramError

ITERATIONS_LEAST: Final = 4096
"""RFC 7677 section 4 asks servers for so many at least: with fewer, whoever poses as the server learns enough to guess
the password quickly."""

ITERATIONS_MOST: Final = 200_000
"""A twentieth of a second of CPU: a server that asks for more holds up all other mail."""

_challenge = re.compile(r"r=([\x21-\x2b\x2d-\x7e]+),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{0,8})(?:,[A-Za-ln-z]=[^\0,]+)*")


class ScramClient:
    """One exchange. `nonce` is fresh text that nobody can guess; `end_point` is the hash of the server's certificate
    (RFC 5929 section 4), empty where the channel cannot be bound; `offered_plus`: whether the server offers that."""

    __slots__ = ("_bare", "_credentials", "_gs2", "_nonce", "_server_signature", "mechanism")

    def __init__(self, credentials: Credentials, *, nonce: str, end_point: bytes = b"", offered_plus: bool) -> None:
        self._credentials = credentials
        self._nonce = nonce
        bound = bool(end_point) and offered_plus
        self.mechanism = SCRAM_PLUS if bound else SCRAM
        # RFC 5802 section 6: "y" tells a server that does offer PLUS that somebody has hidden its offer.
        flag = f"p={END_POINT}" if bound else "y" if end_point else "n"
        behalf = f"a={_escaped(credentials.on_behalf_of)}" if credentials.on_behalf_of else ""
        self._gs2 = f"{flag},{behalf},".encode() + (end_point if bound else b"")
        self._bare = f"n={_escaped(credentials.user)},r={nonce}"
        self._server_signature: bytes | None = None

    def __repr__(self) -> str:
        return f"ScramClient({self.mechanism})"

    def first(self) -> bytes:
        """The message that opens the exchange."""
        flag, behalf, _ = self._gs2.split(b",", 2)
        return flag + b"," + behalf + b"," + self._bare.encode()

    def final(self, challenge: bytes) -> bytes:
        """The proof for the server's challenge. Raises `ScramError` for one that is none or asks for too much."""
        if self._server_signature is not None:
            raise ScramError("out of order")
        try:
            text = challenge.decode("ascii")
        except UnicodeDecodeError:
            raise ScramError("the challenge is not ASCII") from None
        found = _challenge.fullmatch(text)
        # RFC 5802 section 5: the nonce must begin with ours, or the answer belongs to somebody else's exchange.
        if found is None or not found[1].startswith(self._nonce) or found[1] == self._nonce:
            raise ScramError("the challenge is none")
        rounds = int(found[3])
        if not ITERATIONS_LEAST <= rounds <= ITERATIONS_MOST:
            raise ScramError(f"the server asks for {rounds} rounds")
        try:
            salt = decode_base64(found[2].encode())
        except SaslError:
            raise ScramError("the salt is none") from None
        without_proof = b"c=" + encode_base64(self._gs2) + b",r=" + found[1].encode()
        said = b",".join((self._bare.encode(), challenge, without_proof))
        salted = hashlib.pbkdf2_hmac("sha256", _prepared(self._credentials.password), salt, rounds)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client_key).digest(), said, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._server_signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), said, "sha256")
        return without_proof + b",p=" + encode_base64(proof)

    def prove(self, last: bytes) -> bool:
        """Whether the server's last message proves that it knows the password, so that it is no impostor."""
        expected = self._server_signature
        if expected is None:
            return False
        return hmac.compare_digest(last.split(b",")[0], b"v=" + encode_base64(expected))


def _escaped(name: str) -> str:
    # RFC 5802 section 5.1: ',' and '=' in a name are sent as '=2C' and '=3D'
    return name.replace("=", "=3D").replace(",", "=2C")


def _prepared(password: str) -> bytes:
    """RFC 5802 section 2.2 asks for SASLprep; of it this is what changes passwords that people type."""
    return unicodedata.normalize("NFKC", password).encode()
