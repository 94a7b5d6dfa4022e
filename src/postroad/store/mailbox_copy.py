"""Units that copy and move messages between mailboxes of one account, in slices of at most `ROWS_PER_UNIT`.

A move is finished slice by slice (RFC 6851 section 3.3 lets each message move by itself). A copy of several slices is
seen by nobody before its last one (RFC 3501 section 6.4.7: an unsuccessful COPY leaves the mailbox as it was).

Invariant of an unfinished copy: its rows have their final uids, all at or above `hidden_from` of the mailbox, and stand
in `mailbox_job_uids`; they count for the account, and for the mailbox only once they are shown. New mail that comes
meanwhile stands above them and is hidden with them, because uids must appear in ascending order. Readers continue
from `hidden_modseq`, the modseq before the first hidden row, so that none of them is left out afterwards.
"""

from __future__ import annotations

from typing import Any

from postroad.store.mailbox_records import (
    DONE,
    INTERRUPTED,
    NO_MAILBOX,
    OVER_QUOTA,
    Copied,
    CopyAbandon,
    CopySlice,
    MoveSlice,
)
from postroad.store.mailbox_rows import (
    COPY,
    JOB_PATIENCE_US,
    MAILBOX_MESSAGES,
    Tally,
    begin_job,
    charge_account,
    end_job,
    few,
    fit_keywords,
    lock_account,
    lock_mailbox,
    log_removed,
    remove_rows,
    rows_of,
)
from postroad.store.units import Tx, unit

_ROW = "uid, message, flags, size, internal_us, keywords, prefix"

Rows = list[tuple[Any, ...]]


@unit
def mailbox_copy_slice(tx: Tx, args: CopySlice) -> Copied:
    """Copies messages; answers DONE, NO_MAILBOX, OVER_QUOTA or INTERRUPTED. Unless DONE, nothing of the copy is left.

    The first slice is sent without a job, the others with the one it answered. Messages that were removed meanwhile
    are left out.
    """
    tx.flush()
    if not lock_account(tx, args.account):
        return Copied(NO_MAILBOX)
    if args.job and not _goes_on(tx, args):
        return Copied(INTERRUPTED)
    target, uidvalidity, rows = _looked_up(tx, args)
    if not target:
        return _given_up(tx, args.job, INTERRUPTED if args.job else NO_MAILBOX)
    tally = tallied(rows)
    if not charge_account(tx, args.account, tally.messages, tally.size):
        return _given_up(tx, args.job, OVER_QUOTA)
    job = args.job
    if not (job or args.last):
        job = begin_job(tx, COPY, args.account, target, due_us=tx.now_us + JOB_PATIENCE_US)
    first = place(tx, target, rows, tally, hidden=bool(job))
    if job:
        _note_slice(tx, job, first, tally)
    if job and args.last:
        finish_copy(tx, job)
        job = 0
    uids = list(range(first, first + len(rows)))
    return Copied(DONE, job, target, uidvalidity, [row[0] for row in rows], uids)


def _goes_on(tx: Tx, args: CopySlice) -> bool:
    """Whether the job is this copy, and not given up."""
    return bool(
        tx.execute(
            "UPDATE mailbox_jobs SET due_us = ? WHERE id = ? AND kind = ? AND account = ? AND due_us > 0 RETURNING id",
            (tx.now_us + JOB_PATIENCE_US, args.job, COPY, args.account),
        )
    )


def _looked_up(tx: Tx, args: CopySlice | MoveSlice) -> tuple[int, int, Rows]:
    """Target and its UIDVALIDITY (0 when it or the source is gone), and the messages that are still there."""
    found = tx.execute(
        "SELECT id, uidvalidity FROM mailboxes WHERE account = ? AND name = ?", (args.account, args.target)
    )
    source = lock_mailbox(tx, args.source)
    if not found or source is None or source.account != args.account:
        return 0, 0, []
    return found[0][0], found[0][1], rows_of(tx, _ROW, args.source, few(args.uids), below=source.below)


def _given_up(tx: Tx, job: int, word: str) -> Copied:
    if job:
        _abandon(tx, job)
    return Copied(word)


def _abandon(tx: Tx, job: int) -> None:
    tx.execute("UPDATE mailbox_jobs SET due_us = 0 WHERE id = ? AND kind = ?", (job, COPY))


@unit
def mailbox_copy_abandon(tx: Tx, args: CopyAbandon) -> None:
    """Gives up an unfinished copy; the sweep removes its rows, and until then they stay hidden."""
    _abandon(tx, args.job)


def tallied(rows: Rows) -> Tally:
    """The sum over rows read as `_ROW`."""
    tally = Tally()
    for row in rows:
        tally.count(row[2], row[3])
    return tally


def place(tx: Tx, target: int, rows: Rows, tally: Tally, *, hidden: bool) -> int:
    """Gives rows read as `_ROW` their uids in a mailbox; returns the first. Hidden rows are not counted there yet."""
    counted = Tally() if hidden else tally
    [(uidnext, modseq, known)] = tx.execute(
        "UPDATE mailboxes SET uidnext = uidnext + ?, modseq = modseq + 1, messages = messages + ?,"
        " unseen = unseen + ?, bytes = bytes + ? WHERE id = ? RETURNING uidnext, modseq, keywords",
        (len(rows), counted.messages, counted.unseen, counted.size, target),
    )
    first = int(uidnext) - len(rows)
    if hidden:
        tx.execute(
            "UPDATE mailboxes SET hidden_from = ?, hidden_modseq = ? WHERE id = ? AND hidden_from = 0",
            (first, modseq - 1, target),
        )
    words = fit_keywords(tx, target, known, [row[5] for row in rows])
    for uid, (row, keywords) in enumerate(zip(rows, words, strict=True), first):
        _, message, flags, size, internal_us, _, prefix = row
        tx.append(MAILBOX_MESSAGES, (target, uid, message, flags, modseq, size, internal_us, keywords, prefix))
    if not hidden and rows:
        tx.hint("mailbox", target)
    return first


def _note_slice(tx: Tx, job: int, first: int, tally: Tally) -> None:
    tx.execute(
        "UPDATE mailbox_jobs SET messages = messages + ?, unseen = unseen + ?, bytes = bytes + ? WHERE id = ?",
        (tally.messages, tally.unseen, tally.size, job),
    )
    if tally.messages:
        tx.execute(
            "INSERT INTO mailbox_job_uids (job, first_uid, last_uid) VALUES (?, ?, ?)",
            (job, first, first + tally.messages - 1),
        )


def finish_copy(tx: Tx, job: int) -> None:
    """Shows what a copy placed, as far as no other unfinished copy hides it, and forgets the copy."""
    [(mailbox, messages, unseen, size)] = tx.execute(
        "SELECT mailbox, messages, unseen, bytes FROM mailbox_jobs WHERE id = ?", (job,)
    )
    end_job(tx, job)
    hidden_from = tx.execute(
        "SELECT coalesce(min(u.first_uid), 0) FROM mailbox_jobs j JOIN mailbox_job_uids u ON u.job = j.id"
        " WHERE j.mailbox = ? AND j.kind = ?",
        (mailbox, COPY),
    )[0][0]
    tx.execute(
        "UPDATE mailboxes SET messages = messages + ?, unseen = unseen + ?, bytes = bytes + ?, modseq = modseq + 1,"
        " hidden_from = ? WHERE id = ?",
        (messages, unseen, size, hidden_from, mailbox),
    )
    tx.hint("mailbox", mailbox)


@unit
def mailbox_move_slice(tx: Tx, args: MoveSlice) -> Copied:
    """Moves messages; answers DONE or NO_MAILBOX. Those that were removed meanwhile are left out."""
    tx.flush()
    if not lock_account(tx, args.account):
        return Copied(NO_MAILBOX)
    target, uidvalidity, rows = _looked_up(tx, args)
    if not target:
        return Copied(NO_MAILBOX)
    if not rows:
        return Copied(DONE, 0, target, uidvalidity)
    tally = tallied(rows)
    first = place(tx, target, rows, tally, hidden=False)
    uids = [row[0] for row in rows]
    log_removed(tx, args.source, uids, remove_rows(tx, args.source, uids))
    return Copied(DONE, 0, target, uidvalidity, uids, list(range(first, first + len(rows))))
