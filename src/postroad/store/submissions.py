"""Exactly-once submission: what one of our users submits again within a day is the message that it was the first time.

Invariant: for a day after the commit of a message no other message is accepted under its key. The key's row and the
message are one commit, so it does not matter where the first answer was lost: in a crash, on the way, or in a client
that did not wait for it.
"""

from __future__ import annotations

from typing import Final

from postroad.store.allowances import spend
from postroad.store.journal import note
from postroad.store.records import Accepted, Sending
from postroad.store.slices import Slices
from postroad.store.units import ROWS_PER_UNIT, Tx
from postroad.store.writer import Writer

KEPT_US: Final = 24 * 3_600_000_000
"""How long a submission is known again: clients repeat within minutes, and queues of programs within hours."""
FORGET_EVERY_S: Final = 60.0

# Run at once and not at the end of the batch: the same submission may stand in one batch twice. Where another writer
# has just inserted the key, PostgreSQL waits for that one's end.
_CLAIM: Final = (
    "INSERT INTO submissions (key, message, content, at_us) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET message = excluded.message, content = excluded.content, at_us = excluded.at_us"
    " WHERE submissions.at_us <= ? RETURNING message"
)


def weigh(tx: Tx, message: int, sending: Sending) -> Accepted | None:
    """None when the message shall be taken, and its key and its counts are then written; otherwise the answer instead.

    What was submitted before counts only once against an allowance.
    """
    if sending.key:
        row = (sending.key, message, sending.content, tx.now_us, tx.now_us - KEPT_US)
        if not tx.execute(_CLAIM, row):
            return _seen(tx, sending)
    if not sending.account:
        return None
    short = spend(tx, sending.account, sending.recipients, sending.allowed)
    if short is None:
        return None
    if sending.key:
        tx.execute("DELETE FROM submissions WHERE key = ?", (sending.key,))
    return Accepted([], [], short=short)


def _seen(tx: Tx, sending: Sending) -> Accepted:
    [(first, content)] = tx.execute("SELECT message, content FROM submissions WHERE key = ?", (sending.key,))
    if bytes(content) != sending.content:
        return Accepted([], [], first, other=True)
    note(tx, first, sending.repeated)
    return Accepted([], [], first)


class Forgetting(Slices):
    """Keys whose day is over, removed by the store process between its batches (`store.server.Chore`)."""

    __slots__ = ()

    def __init__(self, writer: Writer) -> None:
        super().__init__(writer, FORGET_EVERY_S)

    def _slice(self, tx: Tx) -> None:
        rows = tx.execute(
            "SELECT key FROM submissions WHERE at_us <= ? ORDER BY at_us LIMIT ?", (tx.now_us - KEPT_US, ROWS_PER_UNIT)
        )
        if rows:
            # The time again: on PostgreSQL another writer may have given the key to a message since.
            over = tx.now_us - KEPT_US
            tx.executemany("DELETE FROM submissions WHERE key = ? AND at_us <= ?", [(key, over) for (key,) in rows])
        self._more = len(rows) == ROWS_PER_UNIT
