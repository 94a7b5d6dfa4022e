"""The modes of the SMTP server machine."""

from __future__ import annotations

from enum import Enum


class Mode(Enum):
    """What the next octets mean."""

    GREETING = "greeting"
    COMMAND = "command"
    DATA = "data"
    CHUNK = "chunk"
    AUTH = "auth"
    HANDSHAKE = "handshake"
    OVER = "over"
