"""Names of mailboxes: which are allowed, in one spelling each; what lies below and above a name."""

from __future__ import annotations

import unicodedata

from postroad.store.mailbox_records import DEPTH_MAX, INBOX, NAME_MAX, SEPARATOR


def mailbox_name(text: str) -> str | None:
    """A name as it is stored: NFC, INBOX in capitals at the top level, no separator at the end; None when not allowed.

    Refused are control and format characters, the wildcards of LIST, empty levels, and what is too long or too deep.
    """
    name = unicodedata.normalize("NFC", text.removesuffix(SEPARATOR))
    if not name.isprintable() or "*" in name or "%" in name:
        return None
    levels = name.split(SEPARATOR)
    # RFC 3501 section 5.1: "INBOX" is case-insensitive
    if levels[0].upper() == INBOX:
        levels[0] = INBOX
    if len(levels) > DEPTH_MAX or not all(level.strip() for level in levels):
        return None
    name = SEPARATOR.join(levels)
    return name if len(name.encode()) <= NAME_MAX else None


def superiors(name: str) -> list[str]:
    """The names above a name, from the top level down."""
    levels = name.split(SEPARATOR)
    return [SEPARATOR.join(levels[:depth]) for depth in range(1, len(levels))]


def below(name: str) -> tuple[str, str]:
    """Bounds of all names below a name, by octets: more than the first, less than the second."""
    return name + SEPARATOR, name + chr(ord(SEPARATOR) + 1)
