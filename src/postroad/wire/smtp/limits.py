"""How much one SMTP connection may ask for, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from postroad.wire.data import DEFAULT_MAX_LINE
from postroad.wire.sasl import MAX_ENCODED


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """How much one connection may ask for."""

    size: int = 52_428_800
    """Octets of one message; announced as SIZE."""
    recipients: int = 1_000
    """Accepted recipients of one transaction; RFC 5321 section 4.5.3.1.8 wants at least 100."""
    errors: int = 20
    """5yz replies to commands before the connection is closed: guessing recipients becomes slow."""
    junk: int = 100
    """NOOP, RSET, VRFY, EXPN, HELP and repeated EHLO between two accepted messages."""
    chunks: int = 10_000
    """BDAT commands of one message: 50 MB in 5 kB chunks."""
    logins: int = 3
    """Failed AUTH commands before the connection is closed."""
    long_lines: int = 2
    """Command lines beyond their limit before the connection is closed."""
    content_line: int = DEFAULT_MAX_LINE
    """Octets of one line of content."""
    unread: int = 32_768
    """Octets kept for later before `wants_input` says stop."""
    command_patience: float = 300.0
    """Seconds to wait for a command or for more content (RFC 5321 section 4.5.3.2.7)."""
    handshake_patience: float = 30.0
    """Seconds to wait for the TLS handshake."""


DEFAULT_LIMITS: Final = MachineLimits()


MAX_AUTH_COMMAND: Final = MAX_ENCODED + 64
"""Octets of an AUTH line: the verb, a mechanism's name and an initial response."""
MAX_HELLO_NAME: Final = 255
"""Octets of what a client may call itself (RFC 5321 section 4.5.3.1.2)."""
