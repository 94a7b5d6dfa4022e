"""What stands on the store's socket: frames of a 4-octet length and msgpack, many calls or answers in one.

A client's frame is a list of [number, unit, arguments]; number 0 asks for no answer. The store's frame is
[[[number, status, value], ...], [[kind, key], ...]]: answers, then hints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

FRAME_MAX: Final = 64 * 1024 * 1024
"""A longer frame is a broken peer: the largest message is 52 MB, and its body does not cross the socket."""

LENGTH: Final = 4

_encoder: Final = msgspec.msgpack.Encoder()


class Called(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One call as the store reads it: its arguments are decoded by the unit's own type."""

    number: int
    unit: str
    args: msgspec.Raw


class Answer(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One answer as a client reads it: its value is decoded by the unit's own type when the status is OK."""

    number: int
    status: int
    value: msgspec.Raw


class Answers(msgspec.Struct, array_like=True, frozen=True):
    """A frame from the store."""

    answers: list[Answer]
    hints: list[tuple[str, int]]


decode_calls: Final = msgspec.msgpack.Decoder(list[Called]).decode
decode_answers: Final = msgspec.msgpack.Decoder(Answers).decode


def frame(content: Any) -> bytearray:
    """One frame around anything msgpack can say."""
    out = bytearray(LENGTH)
    _encoder.encode_into(content, out, LENGTH)
    out[:LENGTH] = (len(out) - LENGTH).to_bytes(LENGTH, "big")
    return out


class Unframer:
    """Cuts a stream of octets into frames; keeps what is not yet whole."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, octets: bytes) -> Sequence[bytes]:
        """The frames that are whole now; raises ValueError for one longer than `FRAME_MAX`."""
        kept = self._kept
        if not kept and len(octets) >= LENGTH and len(octets) == LENGTH + int.from_bytes(octets[:LENGTH], "big"):
            return (octets[LENGTH:],)
        kept += octets
        frames: list[bytes] = []
        start = 0
        while len(kept) - start >= LENGTH:
            length = int.from_bytes(kept[start : start + LENGTH], "big")
            if length > FRAME_MAX:
                raise ValueError(f"a frame of {length} octets")
            end = start + LENGTH + length
            if end > len(kept):
                break
            frames.append(bytes(memoryview(kept)[start + LENGTH : end]))
            start = end
        if start:
            del kept[:start]
        return frames
