"""Flags between their two spellings: bits and keywords as the store keeps them, names as IMAP writes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from postroad.serve.imap_view import RECENT
from postroad.store.mailbox_records import ANSWERED, DELETED, DRAFT, FLAGGED, KEYWORDS_MAX, SEEN

# RFC 3501 section 2.3.2
SYSTEM_FLAGS: Final = (
    (ANSWERED, b"\\Answered"),
    (FLAGGED, b"\\Flagged"),
    (DELETED, b"\\Deleted"),
    (SEEN, b"\\Seen"),
    (DRAFT, b"\\Draft"),
)
_BITS: Final = {name.lower(): bit for bit, name in SYSTEM_FLAGS}
_SHOWN: Final = ((RECENT, b"\\Recent"), *SYSTEM_FLAGS)


@lru_cache(maxsize=4096)
def flags_text(bits: int, keywords: str) -> bytes:
    """Flags of a message in parentheses, as FETCH shows them."""
    names = [name for bit, name in _SHOWN if bits & bit]
    return b"(" + b" ".join([*names, *keywords.encode().split()]) + b")"


@lru_cache(maxsize=4096)
def searched_flags(bits: int, keywords: str) -> frozenset[bytes]:
    """Flags of a message in lower case, as SEARCH compares them."""
    return frozenset([*(name.lower() for bit, name in _SHOWN if bits & bit), *keywords.lower().encode().split()])


def read_flags(flags: Sequence[bytes], known: str) -> tuple[int, str]:
    """Flags that a client names, as bits and keywords.

    A keyword is spelled as the mailbox already spells it (`known`): "Keywords are case-insensitive" to every client, so
    $label1 and $Label1 must not become two.
    """
    bits = 0
    keywords: dict[str, None] = {}
    spelling = {word.lower(): word for word in known.split()}
    for flag in flags:
        bit = _BITS.get(flag.lower(), 0)
        if bit:
            bits |= bit
        else:
            word = flag.decode("ascii")
            keywords[spelling.setdefault(word.lower(), word)] = None
    return bits, " ".join(keywords)


def defined_flags(keywords: str) -> bytes:
    """What the FLAGS response lists: the system flags and every keyword of the mailbox."""
    return b"(" + b" ".join([*(name for _, name in SYSTEM_FLAGS), *keywords.encode().split()]) + b")"


def permanent_flags(keywords: str) -> str:
    """What PERMANENTFLAGS lists; with `\\*` while a client may still make keywords."""
    words = keywords.split()
    names = [*(name.decode() for _, name in SYSTEM_FLAGS), *words]
    if len(words) < KEYWORDS_MAX:
        names.append("\\*")
    return "(" + " ".join(names) + ")"
