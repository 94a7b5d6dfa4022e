"""Packets of the milter protocol: written, cut out of a stream, and read into values.

A packet is a 32-bit length in network order, one letter and its arguments; the length counts the letter. Texts end
with NUL. Reading is total: any octets give a value or `MilterError` (classes E10 and E12).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from postroad.values.address import Address, AddressError
from postroad.values.reply import Reply
from postroad.wire.milter.replies import read_reply
from postroad.wire.milter.words import MAX_PACKET, Actions, Command, MacroStage, Steps, Word

LENGTH: Final = 4

MAX_MACRO_NAMES: Final = 200
"""Macros of one list that a milter asks for; sendmail knows some hundred in all."""


class MilterError(ValueError):
    """A milter broke the protocol, or something cannot be said in it; the text says what, for the log."""


# -- what a milter says ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Negotiated:
    """A milter's side of the negotiation: its version, what it may ask for, which steps it wants, its macro lists."""

    version: int
    actions: Actions
    steps: Steps
    macros: Mapping[MacroStage, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class AddHeader:
    """A field behind all others."""

    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class InsertHeader:
    """A field before the one that has this number; 0 is the very top."""

    index: int
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class ChangeHeader:
    """Another value for the `index`th field of this name, counted from 1; an empty value removes it."""

    index: int
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class ChangeSender:
    """Another envelope sender; None is the null sender."""

    sender: Address | None


@dataclass(frozen=True, slots=True)
class AddRecipient:
    """One more envelope recipient."""

    recipient: Address


@dataclass(frozen=True, slots=True)
class DeleteRecipient:
    """One envelope recipient less."""

    recipient: Address


@dataclass(frozen=True, slots=True)
class ReplaceBody:
    """Another body, or in a packet the next piece of it."""

    chunk: bytes


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The message shall be kept apart."""

    reason: str


Change = (
    AddHeader | InsertHeader | ChangeHeader | ChangeSender | AddRecipient | DeleteRecipient | ReplaceBody | Quarantine
)
"""What a milter asks for at the end of a message, before its answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a milter answers a command with: `word` decides; `reply` is there for REPLY_CODE."""

    word: Word
    reply: Reply | None = None


CONTINUE: Final = Answer(Word.CONTINUE)

Said = Negotiated | Change | Answer
"""One packet of a milter."""

_BARE: Final = frozenset(
    (
        Word.PROGRESS, Word.CONTINUE, Word.ACCEPT, Word.DISCARD, Word.REJECT, Word.TEMPFAIL, Word.SKIP,
        Word.CONNECTION_FAILED, Word.SHUTDOWN,
    )
)  # fmt: skip
"""Words without arguments."""


class Unpacketer:
    """Cuts a stream of octets into packets (letter and arguments); keeps what is not yet whole, at most one packet."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, octets: bytes) -> list[bytes]:
        """The packets that are whole by these octets, in order; raises MilterError for an impossible length."""
        kept = self._kept
        kept += octets
        packets: list[bytes] = []
        start = 0
        while len(kept) - start >= LENGTH:
            length = int.from_bytes(kept[start : start + LENGTH], "big")
            if not 1 <= length <= MAX_PACKET:
                raise MilterError(f"a packet of {length} octets")
            end = start + LENGTH + length
            if end > len(kept):
                break
            packets.append(bytes(memoryview(kept)[start + LENGTH : end]))
            start = end
        if start:
            del kept[:start]
        return packets

    @property
    def empty(self) -> bool:
        """Whether nothing of an unfinished packet is kept."""
        return not self._kept


def read_packet(packet: bytes) -> Said:
    """The meaning of one packet; raises MilterError."""
    try:
        word = Word(packet[:1])
    except ValueError:
        raise MilterError(f"an unknown answer {packet[:1]!r}") from None
    arguments = packet[1:]
    if word in _BARE:
        if arguments:
            raise MilterError(f"{len(arguments)} octets behind {word.name}")
        return Answer(word)
    if word is Word.NEGOTIATE:
        return _read_negotiated(arguments)
    if word is Word.REPLACE_BODY:
        return ReplaceBody(arguments)
    if word is Word.REPLY_CODE:
        return _read_reply(arguments)
    return _read_change(word, arguments)


def _read_change(word: Word, arguments: bytes) -> Change:
    if word is Word.QUARANTINE:
        (reason,) = _texts(arguments, word, 1)
        return Quarantine(_readable(reason))
    if word is Word.ADD_HEADER:
        name, value = _texts(arguments, word, 2)
        return AddHeader(name, value)
    if word in (Word.INSERT_HEADER, Word.CHANGE_HEADER):
        if len(arguments) < LENGTH:
            raise MilterError(f"{word.name} without a number")
        name, value = _texts(arguments[LENGTH:], word, 2)
        index = int.from_bytes(arguments[:LENGTH], "big")
        return (InsertHeader if word is Word.INSERT_HEADER else ChangeHeader)(index, name, value)
    # ESMTP parameters may follow an address; they have no meaning here.
    texts = _texts(arguments, word, 1, most=2 if word in (Word.CHANGE_SENDER, Word.ADD_RECIPIENT_PARAMS) else 1)
    address = _address(texts[0], word)
    if word is Word.CHANGE_SENDER:
        return ChangeSender(address)
    if address is None:
        raise MilterError(f"{word.name} without an address")
    return DeleteRecipient(address) if word is Word.DELETE_RECIPIENT else AddRecipient(address)


def _read_reply(arguments: bytes) -> Answer:
    (text,) = _texts(arguments, Word.REPLY_CODE, 1)
    try:
        return Answer(Word.REPLY_CODE, read_reply(text))
    except ValueError as error:
        raise MilterError(f"an impossible reply: {error}") from None


def _read_negotiated(arguments: bytes) -> Negotiated:
    if len(arguments) < 3 * LENGTH:
        raise MilterError("a short negotiation")
    version, actions, steps = (int.from_bytes(arguments[at : at + LENGTH], "big") for at in (0, LENGTH, 2 * LENGTH))
    return Negotiated(version, Actions(actions), Steps(steps), _read_macro_lists(arguments[3 * LENGTH :]))


def _read_macro_lists(octets: bytes) -> dict[MacroStage, tuple[str, ...]]:
    """The lists of smfi_setsymlist: a number and the names with blanks between them, for each stage."""
    lists: dict[MacroStage, tuple[str, ...]] = {}
    while octets:
        number = int.from_bytes(octets[:LENGTH], "big")
        text, end, octets = octets[LENGTH:].partition(b"\0")
        if not end:
            raise MilterError("a macro list without an end")
        names = text.decode("ascii", "replace").replace(",", " ").split()
        if len(names) > MAX_MACRO_NAMES:
            raise MilterError(f"a list of {len(names)} macros")
        if number in MacroStage.__members__.values():
            lists[MacroStage(number)] = tuple(map(macro_name, names))
    return lists


def macro_name(name: str) -> str:
    """A macro's name as it stands in packets: one letter alone, a longer name in braces."""
    return name if len(name) == 1 or name.startswith("{") else f"{{{name}}}"


def _texts(octets: bytes, word: Word, fewest: int, most: int = 0) -> list[bytes]:
    """Arguments that end with NUL, between `fewest` and `most` of them."""
    *texts, rest = octets.split(b"\0")
    if rest:
        raise MilterError(f"a text without an end behind {word.name}")
    if not fewest <= len(texts) <= (most or fewest):
        raise MilterError(f"{len(texts)} texts behind {word.name}")
    return texts


def _address(octets: bytes, word: Word) -> Address | None:
    """An envelope address, with or without angle brackets; None for the null one."""
    text = octets.decode("utf-8", "replace").strip(" ")
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    if not text:
        return None
    try:
        return Address.parse(text, utf8=True)
    except AddressError as error:
        raise MilterError(f"{word.name} with no address: {error.reason}") from None


def _readable(octets: bytes) -> str:
    """A text for people: one line without control characters, at most 200 letters."""
    text = octets.decode("utf-8", "replace")[:200]
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


# -- what we say -------------------------------------------------------------------------------------------------------


def packet(command: Command, arguments: bytes = b"") -> bytes:
    """One packet; raises MilterError for one that is too long."""
    length = 1 + len(arguments)
    if length > MAX_PACKET:
        raise MilterError(f"{command.name} of {length} octets cannot be said")
    return b"%b%b%b" % (length.to_bytes(LENGTH, "big"), command.value, arguments)


def texts(*arguments: bytes) -> bytes:
    """Arguments, each ended by NUL; raises MilterError where one holds a NUL."""
    for argument in arguments:
        if b"\0" in argument:
            raise MilterError("a text with a NUL cannot be said")
    return b"\0".join((*arguments, b""))


def macros(stage: Command, values: Mapping[str, str]) -> bytes:
    """The packet that tells macros for the command that follows it."""
    words = [word.encode("utf-8", "replace") for pair in values.items() for word in pair]
    return packet(Command.MACRO, stage.value + texts(*words))
