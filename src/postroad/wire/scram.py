"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS as a server speaks them (RFC 5802, RFC 7677): messages in, messages out.

The exchange, whose messages travel in base64 that the caller puts on and takes off:

    client first    n,,n=user,r=abc                       `take_first` gives the user
    server first    r=abcdef,s=W22ZaJ0SNY7soEsU...,i=4096 `challenge` with the keys of that user
    client final    c=biws,r=abcdef,p=dHzbZapWIk4jUhN...  `take_final` gives the last message, or None
    server final    v=6rriTRBi23WpRR/wtup+mMhUZUn/...

Whoever hears the exchange learns nothing he could log in with, and the client learns that the server knows its keys.
With PLUS the proof covers the TLS channel, so that somebody in the middle who holds another certificate gains nothing.

Invariant: each step is taken once and in order; any octets give a value or `ScramError`, and after that nothing.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from postroad.wire.sasl import MAX_FIELD, SCRAM, SCRAM_PLUS, SaslError, decode_base64, encode_base64

END_POINT: Final = "tls-server-end-point"
"""The channel binding of RFC 5929 section 4: a hash of the server's certificate."""

MAX_NONCE: Final = 256
"""Octets of a client's nonce; common ones have 24 to 64."""

# RFC 5802 section 7: saslname, cb-name, printable (of a nonce)
_name = re.compile(r"(?:[^\0=,]|=2C|=3D)+").fullmatch
_binding_name = re.compile(r"[A-Za-z0-9.-]+").fullmatch
_nonce = re.compile(r"[\x21-\x2b\x2d-\x7e]+").fullmatch
# "m=" is reserved: "Its presence in a client or a server message MUST cause authentication failure" (section 5.1)
_extensions = re.compile(r"(?:,[A-Za-ln-z]=[^\0,]+)*").fullmatch


class ScramError(SaslError):
    """A message that is not well formed, or asks for what is not offered; the text holds nothing of the message."""


class ChannelError(ScramError):
    """The exchange is not bound to this channel: a mistake of the client, or somebody is in the middle."""


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What is stored of a password (RFC 5802 section 3)."""

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


class ScramServer:
    """One exchange. `bindings` are the channel bindings of this connection by name; without any, PLUS is not offered.

    `nonce` is the server's part: fresh random text that nobody can guess.
    """

    __slots__ = ("_bindings", "_first", "_gs2", "_keys", "_nonce", "_plus", "_said", "on_behalf_of", "user")

    def __init__(self, mechanism: str, *, nonce: str, bindings: Mapping[str, bytes]) -> None:
        self._plus = mechanism == SCRAM_PLUS
        self._bindings = bindings
        self._nonce = nonce
        self._gs2 = b""
        self._first = ""
        self._said = ""
        self._keys: ScramKeys | None = None
        self.user = ""
        """Who wants to log in; known after `take_first`."""
        self.on_behalf_of = ""
        """Authorization identity; empty when it is the user itself."""

    def __repr__(self) -> str:
        return f"ScramServer({SCRAM_PLUS if self._plus else SCRAM})"

    def take_first(self, message: bytes) -> str:
        """Read the client's first message; returns the user name. Raises `ScramError`."""
        if self._first:
            raise ScramError("the first message came twice")
        flag, behalf, bare = _split(_text(message), 3)
        self._gs2 = f"{flag},{behalf},".encode() + self._binding(flag)
        if behalf:
            self.on_behalf_of = _unescaped(_value(behalf, "a"))
        user, nonce, *_ = [*bare.split(",", 2), ""]
        name = _unescaped(_value(user, "n"))
        nonce = _value(nonce, "r")
        if len(nonce) > MAX_NONCE or not _nonce(nonce) or not _extensions(bare[len(user) + len(nonce) + 3 :]):
            raise ScramError("no usable nonce")
        self._first = bare
        self._nonce = nonce + self._nonce
        self.user = name
        return name

    def _binding(self, flag: str) -> bytes:
        """The channel binding data that the flag asks for."""
        if flag in ("n", "y"):
            if self._plus:
                raise ChannelError("PLUS without a channel binding")
            # RFC 5802 section 6: "If the flag is set to "y" and the server supports channel binding, the server MUST
            # fail authentication": somebody has hidden from the client that PLUS was offered.
            if flag == "y" and self._bindings:
                raise ChannelError("the offer of PLUS did not reach the client")
            return b""
        name = _value(flag, "p")
        if not self._plus:
            raise ChannelError("a channel binding without PLUS")
        if not _binding_name(name) or name not in self._bindings:
            raise ChannelError("unknown channel binding")
        return self._bindings[name]

    def challenge(self, keys: ScramKeys) -> bytes:
        """The server's first message, with the salt of this user."""
        if not self._first or self._said:
            raise ScramError("out of order")
        self._keys = keys
        self._said = f"r={self._nonce},s={encode_base64(keys.salt).decode()},i={keys.iterations}"
        return self._said.encode()

    def take_final(self, message: bytes) -> bytes | None:
        """Read the client's last message; returns the server's, or None when the proof does not hold.

        Raises `ScramError`, also when the message belongs to another channel or exchange.
        """
        keys, self._keys = self._keys, None
        if keys is None:
            raise ScramError("out of order")
        without_proof, _, proof_text = _text(message).rpartition(",p=")
        binding, nonce, *_ = [*without_proof.split(",", 2), ""]
        channel, proof = _octets(_value(binding, "c")), _octets(proof_text)
        given = _value(nonce, "r")
        if not _extensions(without_proof[len(binding) + len(nonce) + 1 :]):
            raise ScramError("no usable extensions")
        if not hmac.compare_digest(channel, self._gs2):
            raise ChannelError("another channel")
        if not hmac.compare_digest(given.encode(), self._nonce.encode()):
            raise ScramError("another nonce")
        if len(proof) != sha256().digest_size:
            raise ScramError("no proof")
        # RFC 5802 section 3: AuthMessage, ClientSignature, ClientProof, ServerSignature
        said = f"{self._first},{self._said},{without_proof}".encode()
        signature = hmac.digest(keys.stored_key, said, "sha256")
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        last = b"v=" + encode_base64(hmac.digest(keys.server_key, said, "sha256"))
        return last if hmac.compare_digest(sha256(client_key).digest(), keys.stored_key) else None


def _text(message: bytes) -> str:
    try:
        return message.decode("utf-8")
    except UnicodeDecodeError:
        raise ScramError("not UTF-8") from None


def _split(text: str, parts: int) -> list[str]:
    found = text.split(",", parts - 1)
    if len(found) != parts:
        raise ScramError("too few commas")
    return found


def _value(attribute: str, name: str) -> str:
    """The value of `name=value`."""
    found, _, value = attribute.partition("=")
    if found != name or not value:
        raise ScramError(f"no {name}=")
    return value


def _unescaped(name: str) -> str:
    if not _name(name) or len(name.encode()) > MAX_FIELD:
        raise ScramError("no usable name")
    # RFC 5802 section 5.1: "=2C" and "=3D" stand for "," and "="
    return name.replace("=2C", ",").replace("=3D", "=")


def _octets(text: str) -> bytes:
    try:
        return decode_base64(text.encode())
    except SaslError as error:
        raise ScramError(str(error)) from None
