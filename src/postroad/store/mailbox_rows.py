"""What all mailbox units share: the tables they append to, numbers that never return, locks, lists of uids, jobs.

Order of locks: the account's row, then mailbox rows by id, then messages. A unit that changes what an account holds
begins with the account; one that only changes flags locks one mailbox and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from postroad.store.mailbox_records import KEYWORD_LENGTH_MAX, KEYWORDS_MAX, SEEN, Expunged
from postroad.store.units import ROWS_PER_UNIT, Table, Tx

MAILBOX_MESSAGES: Final = Table(
    "mailbox_messages",
    "mailbox uid message flags modseq size internal_us keywords prefix",
    order=20,
    holds="message",
)
EXPUNGED: Final = Table("expunged", "mailbox modseq uid", order=30)

COPY: Final = 1
"""Job: a copy in slices; its rows are hidden until the last slice."""
POP_REMOVAL: Final = 2
"""Job: uids that a POP3 session removes at QUIT; decided when all of them are known."""
ERASE_MAILBOX: Final = 3
"""Job: rows of a mailbox that was deleted."""
ERASE_ACCOUNT: Final = 4
"""Job: everything of an account that was removed."""

JOB_PATIENCE_US: Final = 60_000_000
"""How long a job in slices may stand still before the sweep gives it up: a busy worker pauses far less."""

UIDS_AT_ONCE: Final = 512
"""Most uids in one statement; SQLite and PostgreSQL both allow far more parameters."""


def next_number(tx: Tx, name: str, at_least: int = 0) -> int:
    """The next value of a counter that never goes back, and is never below `at_least`."""
    rows = tx.execute(
        "UPDATE counters SET value = CASE WHEN value >= ? THEN value + 1 ELSE ? END WHERE name = ? RETURNING value",
        (at_least, at_least, name),
    )
    return int(rows[0][0])


def next_uidvalidity(tx: Tx) -> int:
    """A UIDVALIDITY no mailbox here ever had: seconds since 1970, or one more than the last when that is higher.

    RFC 3501 section 2.3.1.1: the value "MUST be greater than" the one before for a name that is used again; the clock
    makes that hold even after a server was set up anew.
    """
    return next_number(tx, "uidvalidity", tx.now_us // 1_000_000)


def add_mailbox(tx: Tx, account: int, name: str, special_use: str = "", *, subscribed: bool = True) -> int:
    """Makes an empty mailbox and returns its id; the caller has made sure that the name is free."""
    mailbox = next_number(tx, "mailbox")
    tx.execute(
        "INSERT INTO mailboxes (id, account, name, uidvalidity, uidnext, modseq, messages, unseen, bytes, recent_from,"
        " hidden_from, hidden_modseq, log_from, subscribed, special_use, keywords)"
        " VALUES (?, ?, ?, ?, 1, 1, 0, 0, 0, 1, 0, 0, 0, ?, ?, '')",
        (mailbox, account, name, next_uidvalidity(tx), int(subscribed), special_use),
    )
    return mailbox


def find_mailbox(tx: Tx, account: int, name: str) -> int:
    """Id of a mailbox by name, 0 when there is none."""
    rows = tx.execute("SELECT id FROM mailboxes WHERE account = ? AND name = ?", (account, name))
    return rows[0][0] if rows else 0


def begin_job(tx: Tx, kind: int, account: int, mailbox: int, *, due_us: int) -> int:
    """Notes work that takes more than one unit; returns the job's number."""
    job = next_number(tx, "mailbox_job")
    tx.execute(
        "INSERT INTO mailbox_jobs (id, kind, account, mailbox, due_us, decided, messages, unseen, bytes)"
        " VALUES (?, ?, ?, ?, ?, 0, 0, 0, 0)",
        (job, kind, account, mailbox, due_us),
    )
    return job


def end_job(tx: Tx, job: int) -> None:
    """Forgets a job and what it was about."""
    tx.execute("DELETE FROM mailbox_job_uids WHERE job = ?", (job,))
    tx.execute("DELETE FROM mailbox_jobs WHERE id = ?", (job,))


@dataclass(slots=True)
class Tally:
    """A sum over rows of mailbox_messages: what a change adds to or takes from a mailbox and its account."""

    messages: int = 0
    unseen: int = 0
    size: int = 0

    def count(self, flags: int, size: int) -> None:
        """Adds one message."""
        self.messages += 1
        self.unseen += not flags & SEEN
        self.size += size


def charge_account(tx: Tx, account: int, messages: int, size: int) -> bool:
    """Locks an account and adds to what it holds; False, and nothing changed, when its quota does not allow it."""
    return bool(
        tx.execute(
            "UPDATE accounts SET used_bytes = used_bytes + ?, messages = messages + ?"
            " WHERE id = ? AND (quota_bytes = 0 OR used_bytes + ? <= quota_bytes) RETURNING id",
            (size, messages, account, size),
        )
    )


def credit_account(tx: Tx, account: int, messages: int, size: int) -> None:
    """Takes from what an account holds."""
    tx.execute(
        "UPDATE accounts SET used_bytes = used_bytes - ?, messages = messages - ? WHERE id = ?",
        (size, messages, account),
    )


def lock_account(tx: Tx, account: int) -> bool:
    """Locks an account; False when it was removed."""
    return bool(
        tx.execute("UPDATE accounts SET messages = messages WHERE id = ? AND state <> 2 RETURNING id", (account,))
    )


class Locked(NamedTuple):
    """A mailbox whose row is locked."""

    account: int
    modseq: int
    below: int
    """The uid below which its messages are visible."""
    keywords: str


def lock_mailbox(tx: Tx, mailbox: int) -> Locked | None:
    """Locks a mailbox; None when it was removed."""
    rows = tx.execute(
        "UPDATE mailboxes SET uidnext = uidnext WHERE id = ? AND account IS NOT NULL"
        " RETURNING account, modseq, CASE WHEN hidden_from > 0 THEN hidden_from ELSE uidnext END, keywords",
        (mailbox,),
    )
    return Locked(*rows[0]) if rows else None


def lock_with_account(tx: Tx, mailbox: int) -> Locked | None:
    """Locks the account of a mailbox and then the mailbox; None when it was removed."""
    rows = tx.execute("SELECT account FROM mailboxes WHERE id = ? AND account IS NOT NULL", (mailbox,))
    if not rows or not lock_account(tx, rows[0][0]):
        return None
    return lock_mailbox(tx, mailbox)


def marks(values: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Splits values for `IN (...)`: the question marks and the values of each part.

    Counts are padded to a power of two, so that few different statements are ever prepared.
    """
    for start in range(0, len(values), UIDS_AT_ONCE):
        part = list(values[start : start + UIDS_AT_ONCE])
        part += part[-1:] * ((1 << (len(part) - 1).bit_length()) - len(part))
        yield ", ".join("?" * len(part)), part


def few(uids: Sequence[int]) -> Sequence[int]:
    """The uids of one call; raises ValueError when there are more than a unit may touch."""
    if len(uids) > ROWS_PER_UNIT:
        raise ValueError(f"{len(uids)} uids in one call; at most {ROWS_PER_UNIT} are taken")
    return uids


def rows_of(tx: Tx, columns: str, mailbox: int, uids: Sequence[int], *, below: int) -> list[tuple[Any, ...]]:
    """Visible rows of mailbox_messages, ascending by uid; uids that are absent or hidden are left out."""
    found: list[tuple[Any, ...]] = []
    for question, part in marks(sorted({uid for uid in uids if uid < below})):
        found += tx.execute(
            f"SELECT {columns} FROM mailbox_messages WHERE mailbox = ? AND uid IN ({question}) ORDER BY uid",
            [mailbox, *part],
        )
    return found


def tidy(keywords: Iterable[str]) -> str:
    """Keywords as they are stored: each once, sorted, separated by spaces."""
    return " ".join(sorted(set(keywords)))


def remember_keywords(tx: Tx, mailbox: int, known: str, keywords: str) -> bool:
    """Adds new keywords to those of the mailbox; False when there would be too many, or one is too long."""
    before = set(known.split())
    new = set(keywords.split()) - before
    if not new:
        return True
    if len(before) + len(new) > KEYWORDS_MAX or max(map(len, new)) > KEYWORD_LENGTH_MAX:
        return False
    tx.execute("UPDATE mailboxes SET keywords = ? WHERE id = ?", (tidy([*before, *new]), mailbox))
    return True


def fit_keywords(tx: Tx, mailbox: int, known: str, words: list[str]) -> list[str]:
    """Keywords of messages that come from another mailbox; those that are one too many here are taken off."""
    if not any(words):
        return words
    if remember_keywords(tx, mailbox, known, " ".join(words)):
        return words
    allowed = set(known.split())
    return [tidy(allowed & set(each.split())) for each in words]


def remove_rows(tx: Tx, mailbox: int, uids: Sequence[int]) -> Tally:
    """Deletes rows by uid and lets go of their messages; the caller settles the numbers of mailbox and account."""
    gone = Tally()
    for question, part in marks(sorted(set(uids))):
        for message, flags, size in tx.execute(
            f"DELETE FROM mailbox_messages WHERE mailbox = ? AND uid IN ({question}) RETURNING message, flags, size",
            [mailbox, *part],
        ):
            gone.count(flags, size)
            tx.release(message)
    return gone


LOG_KEPT: Final = 100_000
"""Changes of a mailbox for which the log of removals is kept: a client that missed more compares all uids."""


def log_removed(tx: Tx, mailbox: int, uids: Sequence[int], gone: Tally) -> int:
    """Settles a mailbox after rows were removed, under a new modseq, and notes their uids; returns the modseq."""
    rows = tx.execute(
        "UPDATE mailboxes SET modseq = modseq + 1, messages = messages - ?, unseen = unseen - ?, bytes = bytes - ?"
        " WHERE id = ? RETURNING modseq",
        (gone.messages, gone.unseen, gone.size, mailbox),
    )
    modseq = int(rows[0][0])
    for uid in uids:
        tx.append(EXPUNGED, (mailbox, modseq, uid))
    if modseq > LOG_KEPT:
        _trim_log(tx, mailbox, modseq - LOG_KEPT, 2 * len(uids))
    tx.hint("mailbox", mailbox)
    return modseq


def _trim_log(tx: Tx, mailbox: int, until: int, count: int) -> None:
    """Forgets twice as many old removals as were just noted, so the log stays bounded and no call takes long."""
    old = tx.execute(
        "SELECT modseq, uid FROM expunged WHERE mailbox = ? AND modseq <= ? ORDER BY modseq, uid LIMIT ?",
        (mailbox, until, count),
    )
    if old:
        tx.executemany(
            "DELETE FROM expunged WHERE mailbox = ? AND modseq = ? AND uid = ?", [(mailbox, *row) for row in old]
        )
        tx.execute("UPDATE mailboxes SET log_from = ? WHERE id = ?", (old[-1][0], mailbox))


def expunge(tx: Tx, account: int, mailbox: int, uids: list[int], *, more: bool = False) -> Expunged:
    """Removes messages by uid, whatever their flags; the caller holds both locks and has read the uids."""
    if not uids:
        return Expunged([])
    gone = remove_rows(tx, mailbox, uids)
    credit_account(tx, account, gone.messages, gone.size)
    return Expunged(uids, log_removed(tx, mailbox, uids, gone), more)


def detach_mailbox(tx: Tx, account: int, mailbox: int) -> None:
    """Takes a mailbox from its account, which is credited with all of it at once; a job erases the rows afterwards."""
    [(messages, size)] = tx.execute(
        "UPDATE mailboxes SET account = NULL WHERE id = ? RETURNING messages, bytes", (mailbox,)
    )
    # An unfinished copy has charged the account, but is not counted in the mailbox.
    [(placed, placed_size)] = tx.execute(
        "SELECT coalesce(sum(messages), 0), coalesce(sum(bytes), 0) FROM mailbox_jobs WHERE mailbox = ? AND kind = ?",
        (mailbox, COPY),
    )
    credit_account(tx, account, messages + int(placed), size + int(placed_size))
    begin_job(tx, ERASE_MAILBOX, account, mailbox, due_us=0)
