"""What stands on the socket between a worker and its policy process: frames of a 4-octet length and msgpack.

The worker says `Load` once and then one `Question` at a time. The process answers `Loaded`, and each question with
`Told` or `Failed`, before which it may say `Want` and is given a `Beginning`. Neither side believes the other: a longer
frame, another order or anything unreadable ends the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from postroad.rules.policy import Opinion
from postroad.values.facts import Facts
from postroad.values.ids import id_text

LENGTH: Final = 4

FRAME_MAX: Final = 4 * 1024 * 1024
"""Octets of one frame: a header of 256 KiB and 1,000 recipients, or the longest beginning of a body, with room."""


class Load(msgspec.Struct, tag="load", frozen=True):
    """Run this source as the file of this path."""

    path: str
    source: bytes


class Question(msgspec.Struct, tag="ask", frozen=True, omit_defaults=True):
    """The facts of a stage in plain types; the fields are those of the records in `rules.policy`."""

    stage: str
    session: str = ""
    door: str = ""
    peer: str = ""
    port: int = 0
    trusted: bool = False
    helo: str = ""
    esmtp: bool = False
    tls: str = ""
    login: str = ""
    mechanism: str = ""
    sender: str = ""
    size: int = 0
    smtputf8: bool = False
    recipient: str = ""
    recipients: tuple[str, ...] = ()
    id: str = ""
    raw_header: bytes = b""
    eightbit: bool = False


class Beginning(msgspec.Struct, tag="body", frozen=True):
    """The beginning of the body that was wanted."""

    octets: bytes


class Loaded(msgspec.Struct, tag="loaded", frozen=True):
    """The file was run: its stages, or why it cannot be used, with the line of the file (0: none)."""

    stages: tuple[str, ...] = ()
    error: str = ""
    line: int = 0


class Want(msgspec.Struct, tag="want", frozen=True):
    """The function wants to see so many octets of the body."""

    octets: int


class Told(msgspec.Struct, tag="told", frozen=True):
    """What the function wants done."""

    opinions: tuple[Opinion, ...]


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """The function raised or returned what it may not: the kind of error and its place, nothing of a message."""

    evidence: str


Order = Load | Question | Beginning
Reply = Loaded | Want | Told | Failed

_encoder: Final = msgspec.msgpack.Encoder()
decode_order: Final = msgspec.msgpack.Decoder(Order).decode
decode_reply: Final = msgspec.msgpack.Decoder(Reply).decode


def frame(content: Order | Reply) -> bytes:
    """One frame; raises ValueError for one that would be too long."""
    out = bytearray(LENGTH)
    _encoder.encode_into(content, out, LENGTH)
    if len(out) - LENGTH > FRAME_MAX:
        raise ValueError(f"a frame of {len(out) - LENGTH} octets")
    out[:LENGTH] = (len(out) - LENGTH).to_bytes(LENGTH, "big")
    return bytes(out)


class Unframer:
    """Cuts what comes from the policy process into replies."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, octets: bytes) -> Iterator[Reply]:
        """The replies that are whole; raises ValueError for what is none."""
        kept = self._kept
        kept += octets
        while len(kept) >= LENGTH:
            length = int.from_bytes(kept[:LENGTH], "big")
            if length > FRAME_MAX:
                raise ValueError(f"a frame of {length} octets")
            if len(kept) < LENGTH + length:
                return
            content = bytes(kept[LENGTH : LENGTH + length])
            del kept[: LENGTH + length]
            try:
                yield decode_reply(content)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise ValueError(str(error)) from None


def question(facts: Facts) -> Question:
    """The facts as they cross the socket."""
    content = facts.content
    return Question(
        stage=facts.stage.value,
        session=id_text(facts.session) if facts.session else "",
        door=facts.door,
        peer=facts.peer,
        port=facts.port,
        trusted=facts.trusted,
        helo=facts.helo,
        esmtp=facts.esmtp,
        tls=facts.tls,
        login=facts.login,
        mechanism=facts.mechanism,
        sender=facts.sender_text,
        size=content.size if content is not None else facts.size,
        smtputf8=facts.smtputf8,
        recipient="" if facts.recipient is None else str(facts.recipient),
        recipients=tuple(map(str, facts.recipients)),
        id=id_text(facts.message) if facts.message else "",
        raw_header=content.header if content is not None else b"",
        eightbit=content.eightbit if content is not None else False,
    )


def record_fields(asked: Question, names: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a question that a record has."""
    return {name: getattr(asked, name) for name in names}
