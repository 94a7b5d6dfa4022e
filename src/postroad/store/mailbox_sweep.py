"""What interrupted and large operations leave behind, cleared in slices of at most `ROWS_PER_UNIT` rows.

The store process runs `MailboxSweep` between its batches; `sweep_mailboxes` is one slice for whoever cannot wait.

=============== ====================================== ==================================================
job             taken up                               what is done
=============== ====================================== ==================================================
copy            when it stood still, or was given up   its hidden rows are removed, then nothing is hidden
POP3 removal    undecided: when it stood still         it is forgotten
POP3 removal    decided: at once                       its messages are removed
erase mailbox   at once                                rows, log of removals, then the mailbox's own row
erase account   at once                                its mailboxes in turn, whom it wrote to, then its own row
=============== ====================================== ==================================================
"""

from __future__ import annotations

from typing import Final

from postroad.store.allowances import forget_account
from postroad.store.mailbox_copy import finish_copy
from postroad.store.mailbox_records import Sweep, Swept
from postroad.store.mailbox_rows import (
    COPY,
    ERASE_ACCOUNT,
    ERASE_MAILBOX,
    POP_REMOVAL,
    credit_account,
    detach_mailbox,
    end_job,
    expunge,
    lock_with_account,
    remove_rows,
    rows_of,
)
from postroad.store.slices import Slices
from postroad.store.units import ROWS_PER_UNIT, Tx, unit
from postroad.store.writer import Writer

PAUSE_S: Final = 2.0
"""Between two looks for work, when there was none."""

PUT_OFF_US: Final = 1_000_000
"""How long an account waits for other jobs that still stand on its row."""


@unit
def sweep_mailboxes(tx: Tx, args: Sweep) -> Swept:
    """Does one slice of each of the first due jobs; answers whether more is due now."""
    for _ in range(args.jobs):
        if not sweep_once(tx):
            return Swept(more=False)
    return Swept(more=bool(_due(tx)))


def _due(tx: Tx) -> list[tuple[int, int, int, int, int]]:
    return tx.execute(
        "SELECT id, kind, account, mailbox, decided FROM mailbox_jobs WHERE due_us <= ? ORDER BY due_us, id LIMIT 1",
        (tx.now_us,),
    )


def sweep_once(tx: Tx) -> bool:
    """Does one slice of the first due job; False when none was due."""
    tx.flush()
    due = _due(tx)
    if not due:
        return False
    job, kind, account, mailbox, decided = due[0]
    if kind == COPY:
        _undo_copy(tx, job, mailbox)
    elif kind == POP_REMOVAL:
        _remove_popped(tx, job, mailbox, decided)
    elif kind == ERASE_MAILBOX:
        if not _erase_mailbox(tx, mailbox):
            end_job(tx, job)
    elif kind == ERASE_ACCOUNT:
        _erase_account(tx, job, account)
    return True


def _undo_copy(tx: Tx, job: int, mailbox: int) -> None:
    locked = lock_with_account(tx, mailbox)
    # From now on no slice of it is taken any more.
    tx.execute("UPDATE mailbox_jobs SET due_us = 0 WHERE id = ?", (job,))
    placed = tx.execute(
        "SELECT first_uid, last_uid FROM mailbox_job_uids WHERE job = ? ORDER BY first_uid LIMIT 1", (job,)
    )
    if locked is None or not placed:
        finish_copy(tx, job)
        return
    first, last = placed[0]
    gone = remove_rows(tx, mailbox, range(first, last + 1))
    credit_account(tx, locked.account, gone.messages, gone.size)
    tx.execute(
        "UPDATE mailbox_jobs SET messages = messages - ?, unseen = unseen - ?, bytes = bytes - ? WHERE id = ?",
        (gone.messages, gone.unseen, gone.size, job),
    )
    tx.execute("DELETE FROM mailbox_job_uids WHERE job = ? AND first_uid = ?", (job, first))


def _remove_popped(tx: Tx, job: int, mailbox: int, decided: int) -> None:
    locked = lock_with_account(tx, mailbox) if decided else None
    ranges = tx.execute(
        "SELECT first_uid, last_uid FROM mailbox_job_uids WHERE job = ? ORDER BY first_uid LIMIT ?",
        (job, ROWS_PER_UNIT),
    )
    if locked is None or not ranges:
        end_job(tx, job)
        return
    uids: list[int] = []
    done: list[int] = []
    for first, last in ranges:
        if done and len(uids) + last + 1 - first > ROWS_PER_UNIT:
            break
        uids += range(first, last + 1)
        done.append(first)
    found = rows_of(tx, "uid", mailbox, uids, below=locked.below)
    expunge(tx, locked.account, mailbox, [uid for (uid,) in found])
    tx.executemany("DELETE FROM mailbox_job_uids WHERE job = ? AND first_uid = ?", [(job, first) for first in done])


def _erase_mailbox(tx: Tx, mailbox: int) -> bool:
    """One slice of a mailbox's end; False when nothing of it is left. Its account was settled when it was removed."""
    found = tx.execute(
        "SELECT uid FROM mailbox_messages WHERE mailbox = ? ORDER BY uid LIMIT ?", (mailbox, ROWS_PER_UNIT)
    )
    if found:
        remove_rows(tx, mailbox, [uid for (uid,) in found])
        return True
    logged = tx.execute("SELECT modseq, uid FROM expunged WHERE mailbox = ? LIMIT ?", (mailbox, ROWS_PER_UNIT))
    if logged:
        tx.executemany(
            "DELETE FROM expunged WHERE mailbox = ? AND modseq = ? AND uid = ?", [(mailbox, *row) for row in logged]
        )
        return True
    tx.execute("DELETE FROM mailboxes WHERE id = ?", (mailbox,))
    return False


def _erase_account(tx: Tx, job: int, account: int) -> None:
    found = tx.execute("SELECT id FROM mailboxes WHERE account = ? ORDER BY id LIMIT 1", (account,))
    if found:
        detach_mailbox(tx, account, found[0][0])
        return
    if tx.execute("SELECT 1 FROM mailbox_jobs WHERE account = ? AND id <> ? LIMIT 1", (account, job)):
        tx.execute("UPDATE mailbox_jobs SET due_us = ? WHERE id = ?", (tx.now_us + PUT_OFF_US, job))
        return
    if forget_account(tx, account):
        return
    tx.execute("DELETE FROM subscriptions WHERE account = ?", (account,))
    # On PostgreSQL a login that another writer notes may have slipped in while the account was removed.
    tx.execute("DELETE FROM known_networks WHERE account = ?", (account,))
    tx.execute("DELETE FROM accounts WHERE id = ?", (account,))
    end_job(tx, job)


class MailboxSweep(Slices):
    """The sweep as a chore of the store process (`store.server.Chore`)."""

    __slots__ = ()

    def __init__(self, writer: Writer) -> None:
        super().__init__(writer, PAUSE_S)

    def _slice(self, tx: Tx) -> None:
        self._more = sweep_once(tx)
