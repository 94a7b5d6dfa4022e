"""How a client logs in (RFC 4954): the mechanism it chooses and what it answers to each challenge, without I/O.

Invariant: the password is in a line only of PLAIN and LOGIN, and no line is made before the caller has seen to TLS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from postroad.wire.sasl import (
    SCRAM,
    SCRAM_PLUS,
    Credentials,
    SaslError,
    decode_base64,
    encode_base64,
    encode_login,
    encode_plain,
)
from postroad.wire.scram_client import ScramClient
from postroad.wire.smtp.grammar import MAX_COMMAND

CANCEL: Final = b"*"
"""RFC 4954 section 4: a line of one asterisk ends the exchange."""


class ClientLogin:
    """One login. `nonce` is fresh text that nobody can guess; without one SCRAM is not used."""

    __slots__ = ("_credentials", "_nonce", "_responses", "_scram", "cancelled", "proved")

    def __init__(self, credentials: Credentials, nonce: str = "") -> None:
        self._credentials = credentials
        self._nonce = nonce
        self._responses: list[bytes] = []
        self._scram: ScramClient | None = None
        self.cancelled = False
        """Whether the last response was CANCEL: nothing but a refusal may follow it."""
        self.proved = True
        """Whether the server has proved what the mechanism lets it prove: success before that is an impostor's."""

    def begin(self, offered: Sequence[str], end_point: bytes = b"") -> bytes | None:
        """The AUTH command without its line end, by the best mechanism of those `offered`; None when there is none.

        `end_point` is the channel binding of this connection, empty where it has none.
        """
        plus = SCRAM_PLUS in offered
        if self._nonce and (SCRAM in offered or (plus and end_point)):
            scram = ScramClient(self._credentials, nonce=self._nonce, end_point=end_point, offered_plus=plus)
            self._scram, self.proved = scram, False
            return f"AUTH {scram.mechanism} ".encode() + encode_base64(scram.first())
        if "PLAIN" in offered:
            message = encode_base64(encode_plain(self._credentials))
            line = b"AUTH PLAIN " + message
            if len(line) + 2 <= MAX_COMMAND:
                return line
            self._responses = [message]
            return b"AUTH PLAIN"
        if "LOGIN" in offered:
            self._responses = [encode_base64(part) for part in encode_login(self._credentials)]
            return b"AUTH LOGIN"
        return None

    def respond(self, challenge: str) -> bytes:
        """The line to answer a challenge with; `CANCEL` when it is none that belongs here."""
        line = self._respond(challenge)
        self.cancelled = line == CANCEL
        return line

    def _respond(self, challenge: str) -> bytes:
        if self._scram is None:
            return self._responses.pop(0) if self._responses else CANCEL
        try:
            message = decode_base64(challenge.encode())
            if message.startswith(b"v="):
                self.proved = self._scram.prove(message)
                return b"" if self.proved else CANCEL
            return encode_base64(self._scram.final(message))
        except SaslError:
            return CANCEL
