"""63-bit time-ordered message ids and the short text people see.

An id is microseconds since 2024-01-01 (51 bits, enough until 2095) followed by 12 bits of the worker incarnation that
made it, so ids of two living workers never meet and rows append at the end of every index.
"""

from __future__ import annotations

from typing import Final

EPOCH_US: Final = 1_704_067_200_000_000
"""2024-01-01T00:00:00Z in microseconds since 1970."""

WRITER_BITS: Final = 12
ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O, U, so an id can be read aloud."""
TEXT_LENGTH: Final = 13
_READ: Final = {c: i for i, c in enumerate(ALPHABET)} | {"O": 0, "I": 1, "L": 1}


class IdMaker:
    """Strictly increasing ids of one incarnation, even when the wall clock steps back."""

    __slots__ = ("_last_us", "_writer")

    def __init__(self, incarnation: int, last_id: int = 0) -> None:
        self._writer = incarnation & ((1 << WRITER_BITS) - 1)
        self._last_us = last_id >> WRITER_BITS

    def make(self, now_us: int) -> int:
        """A fresh id for something that begins at `now_us` (microseconds since 1970)."""
        since = now_us - EPOCH_US
        if since <= self._last_us:
            since = self._last_us + 1
        self._last_us = since
        return (since << WRITER_BITS) | self._writer


def made_at_us(ident: int) -> int:
    """When an id was made: microseconds since 1970."""
    return (ident >> WRITER_BITS) + EPOCH_US


_PAIRS: Final = [a + b for a in ALPHABET for b in ALPHABET]


def id_text(ident: int) -> str:
    """The 13 letters that stand for an id in replies, headers, logs and commands."""
    pairs = _PAIRS
    return (
        ALPHABET[ident >> 60 & 31]
        + pairs[ident >> 50 & 1023]
        + pairs[ident >> 40 & 1023]
        + pairs[ident >> 30 & 1023]
        + pairs[ident >> 20 & 1023]
        + pairs[ident >> 10 & 1023]
        + pairs[ident & 1023]
    )


def parse_id(text: str) -> int | None:
    """The id that a text of 13 letters stands for, in any case; None when it is none."""
    text = text.strip().upper()
    if len(text) != TEXT_LENGTH:
        return None
    ident = 0
    for letter in text:
        value = _READ.get(letter)
        if value is None:
            return None
        ident = ident << 5 | value
    return ident if ident < 1 << 63 else None
