"""Units of the lock on a maildrop: one POP3 session per account, whichever worker it is in.

The lock belongs to the caller's incarnation and so dies with it: nobody has to be asked, and no time has to pass.
RFC 1939 section 4 wants it against other POP3 sessions; deliveries and IMAP never look at it.
"""

from __future__ import annotations

from postroad.store.records import Record
from postroad.store.units import Tx, unit


class PopLock(Record, frozen=True):
    """Take or leave the lock of an account's maildrop."""

    account: int


class PopLocked(Record, frozen=True):
    """Whether the lock is the caller's now."""

    taken: bool


@unit
def pop_lock(tx: Tx, args: PopLock) -> PopLocked:
    """Takes the lock unless a living incarnation has it, the caller's own among them."""
    living = sorted(tx.live)
    marks = ", ".join("?" * len(living))
    guard = f" WHERE pop_locks.owner NOT IN ({marks})" if living else ""
    taken = tx.execute(
        "INSERT INTO pop_locks (account, owner) VALUES (?, ?)"
        f" ON CONFLICT (account) DO UPDATE SET owner = excluded.owner{guard} RETURNING account",
        [args.account, tx.owner, *living],
    )
    return PopLocked(bool(taken))


@unit
def pop_unlock(tx: Tx, args: PopLock) -> None:
    """Leaves the lock, if it is the caller's."""
    tx.execute("DELETE FROM pop_locks WHERE account = ? AND owner = ?", (args.account, tx.owner))
