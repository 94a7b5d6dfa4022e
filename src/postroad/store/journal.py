"""The journal's writing side: one row per message and transaction with all its events packed, one row per message
with the keys that `why` searches. Both tables only grow here; `store.dayfiles` moves closed hours away.
"""

from __future__ import annotations

from typing import Final

from postroad.store.records import Noted
from postroad.store.units import Table, Tx, unit
from postroad.values.event import Event, pack

HISTORY: Final = Table("history", "id at_us keys")
JOURNAL: Final = Table("journal", "position message at_us events")


def note(tx: Tx, message: int, events: bytes) -> None:
    """Journals packed events of a message in this transaction."""
    tx.append(JOURNAL, (tx.position(), message, tx.now_us, events))


def note_events(tx: Tx, message: int, events: list[Event]) -> None:
    """The same for events that the store itself makes."""
    note(tx, message, pack(events))


def remember(tx: Tx, message: int, keys: str) -> None:
    """Writes what a new message is found by: lines in lower case."""
    tx.append(HISTORY, (message, tx.now_us, keys))


@unit
def journal(tx: Tx, args: Noted) -> None:
    """Journals events that go with no other change: an attempt that began, a fetched message."""
    note(tx, args.message, args.events)
