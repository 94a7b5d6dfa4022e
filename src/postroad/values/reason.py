"""What is alike in replies that differ only in queue ids, addresses and numbers: the reason that mail is grouped by."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import Final

REASON_MAX: Final = 120
"""Characters kept: what follows in long replies is advice, links and ids."""

_CODES: Final = re.compile(r"[2-5]\d\d(?:[ -]|$)(?:[245]\.\d{1,3}\.\d{1,3}\b)?")
"""The reply code and the enhanced code (RFC 3463), which stay."""

_STEPS: Final = (
    (re.compile(r"https?://\S+|\bwww\.\S+"), "<link>"),
    (re.compile(r"<?[^\s<>@\"'(),;:]+@[A-Za-z0-9.\[\]:_-]*[A-Za-z0-9\]]>?"), "<address>"),
    (re.compile(r"\[?\b\d{1,3}(?:\.\d{1,3}){3}\b\]?"), "<ip>"),
    (re.compile(r"\[?(?<![\w:])(?:IPv6:)?(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![\w:])\]?"), "<ip>"),
    (re.compile(r"(?<![\w<])(?=[\w.=+/-]*\d)(?=[\w.=+/-]*[A-Za-z])[\w.=+/-]{6,}(?<![.])"), "<id>"),
    (re.compile(r"(?<!\w)\d+(?:[.,:]\d+)*(?!\w)"), "#"),
)
"""In this order: a link may hold an address, and an id digits."""


def reason_text(reply: str) -> str:
    """A reply on one line of at most REASON_MAX characters, with marks for what differs from mail to mail."""
    line = " ".join("".join(c if c.isprintable() else " " for c in reply[: 8 * REASON_MAX]).split())
    codes = _CODES.match(line)
    kept = codes[0] if codes else ""
    rest = line[len(kept) :]
    for pattern, mark in _STEPS:
        rest = pattern.sub(mark, rest)
    return (kept + rest).strip()[:REASON_MAX]


@lru_cache(1024)
def reason_number(reply: str) -> int:
    """A number below 2**48 that replies with the same `reason_text` share; 0 for no reply at all."""
    text = reason_text(reply)
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=6).digest(), "big") if text else 0
