"""The Message-ID of a header block, without an index of the whole: every message is looked at, and most are small."""

from __future__ import annotations


def find_message_id(header: bytes) -> str:
    """The Message-ID without brackets, in lower case; empty when there is none that can be read."""
    lowered = header.lower()
    at = lowered.find(b"\nmessage-id:")
    if at < 0:
        if not lowered.startswith(b"message-id:"):
            return ""
        at = -1
    end = lowered.find(b"\r\n", at + 1)
    raw = lowered[at + 12 : end if end >= 0 else None]
    if not raw.strip() and end >= 0:  # folded right behind the name
        raw = lowered[end + 2 : lowered.find(b"\r\n", end + 2)]
    return raw.strip().strip(b"<>").decode("ascii", "replace")[:998]
