"""Units and reads of POP3: the maildrop at login, and its removals at QUIT, all or none.

Up to `ROWS_PER_UNIT` removals are one unit. More are sent in parts, which only note the uids; the last part decides:
with its commit the messages are gone for every POP3 session, and the sweep takes them out of the mailbox in slices,
after a crash too. A session that never sends its last part has removed nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from postroad.store.directory import Rows
from postroad.store.mailbox_records import DONE, INBOX, INTERRUPTED, NO_MAILBOX, Drop, Maildrop, PopDelete, PopDeleted
from postroad.store.mailbox_rows import (
    JOB_PATIENCE_US,
    POP_REMOVAL,
    begin_job,
    expunge,
    few,
    lock_with_account,
    rows_of,
)
from postroad.store.units import Tx, unit

PAGE: Final = 5000
"""Rows of a maildrop read at once: under 2 ms."""


@unit
def pop_delete(tx: Tx, args: PopDelete) -> PopDeleted:
    """Removes messages of a maildrop; answers DONE, NO_MAILBOX, or INTERRUPTED for a job that was given up.

    The first part is sent without a job, the others with the one it answered. With the last part it is decided: then
    `removed` says how many messages went at once (0 when the sweep takes them). Uids that are gone already count as
    removed by somebody else.
    """
    tx.flush()
    locked = lock_with_account(tx, args.mailbox)
    if locked is None:
        return PopDeleted(NO_MAILBOX)
    if args.last and not args.job:
        found = rows_of(tx, "uid", args.mailbox, few(args.uids), below=locked.below)
        gone = expunge(tx, locked.account, args.mailbox, [uid for (uid,) in found])
        return PopDeleted(DONE, 0, len(gone.uids))
    job = args.job or begin_job(tx, POP_REMOVAL, locked.account, args.mailbox, due_us=tx.now_us + JOB_PATIENCE_US)
    due_us = tx.now_us if args.last else tx.now_us + JOB_PATIENCE_US
    going_on = tx.execute(
        "UPDATE mailbox_jobs SET due_us = ?, decided = ? WHERE id = ? AND kind = ? AND mailbox = ? AND decided = 0"
        " RETURNING id",
        (due_us, int(args.last), job, POP_REMOVAL, args.mailbox),
    )
    if not going_on:
        return PopDeleted(INTERRUPTED)
    tx.executemany(
        "INSERT INTO mailbox_job_uids (job, first_uid, last_uid) VALUES (?, ?, ?)",
        [(job, first, last) for first, last in runs(few(args.uids))],
    )
    return PopDeleted(DONE, 0 if args.last else job)


def runs(uids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Uids as ranges of neighbours, ascending."""
    first = last = 0
    for uid in sorted(set(uids)):
        if uid == last + 1 and first:
            last = uid
            continue
        if first:
            yield first, last
        first = last = uid
    if first:
        yield first, last


async def maildrop(reader: Rows, account: int) -> Maildrop:
    """An account's INBOX as a POP3 session sees it: without what a session before it has decided to remove.

    The empty maildrop of mailbox 0 when there is no INBOX.
    """
    rows = await reader.rows(
        "SELECT id, uidvalidity, CASE WHEN hidden_from > 0 THEN hidden_from ELSE uidnext END FROM mailboxes"
        " WHERE account = ? AND name = ?",
        (account, INBOX),
    )
    if not rows:
        return Maildrop(0, 0, [])
    mailbox, uidvalidity, below = rows[0]
    doomed = await reader.rows(
        "SELECT u.first_uid, u.last_uid FROM mailbox_jobs j JOIN mailbox_job_uids u ON u.job = j.id"
        " WHERE j.mailbox = ? AND j.kind = ? AND j.decided = 1",
        (mailbox, POP_REMOVAL),
    )
    hidden = {uid for first, last in doomed for uid in range(first, last + 1)}
    drops: list[Drop] = []
    last = 0
    while True:
        page = await reader.rows(
            "SELECT uid, size FROM mailbox_messages WHERE mailbox = ? AND uid > ? AND uid < ? ORDER BY uid LIMIT ?",
            (mailbox, last, below, PAGE),
        )
        drops += [Drop(uid, size) for uid, size in page if uid not in hidden]
        if len(page) < PAGE:
            return Maildrop(mailbox, uidvalidity, drops)
        last = page[-1][0]
