"""The mbox files beside the scripts: an endless source of messages, in order and from the start again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_FROM_LINE = re.compile(rb"^From \S+ +(\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4}).*\n", re.MULTILINE)


@dataclass(frozen=True)
class MboxMessage:
    """One message with CRLF line ends and the time of its From line (IMAP date-time)."""

    raw: bytes
    received: str


def read(path: Path) -> list[MboxMessage]:
    """All messages of an mbox file; the blank line before the next From line belongs to the message."""
    whole = path.read_bytes()
    starts = list(_FROM_LINE.finditer(whole))
    ends = [found.start() for found in starts[1:]] + [len(whole)]
    messages = []
    for found, end in zip(starts, ends, strict=True):
        when = datetime.strptime(" ".join(found[1].decode().split()), "%a %b %d %H:%M:%S %Y")  # noqa: DTZ007
        raw = whole[found.end() : end].replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        messages.append(MboxMessage(raw, when.strftime("%d-%b-%Y %H:%M:%S +0000")))
    return messages
