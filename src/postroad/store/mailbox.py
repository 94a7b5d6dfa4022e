"""Units that put messages into mailboxes, change their flags and take them out.

Invariants: an account's `used_bytes` and `messages`, and a mailbox's `messages`, `unseen` and `bytes`, change in the
transaction that changes the rows they count. A uid is given out once, a modseq belongs to one change, and both only
rise. Every removed uid of a living mailbox stands in `expunged`.

The units for the tree of mailboxes, for copies and for what is left to erase stand in `mailbox_tree`, `mailbox_copy`
and `mailbox_sweep`; importing this module registers them all.
"""

from __future__ import annotations

from typing import Final

from postroad.store import mailbox_copy, mailbox_sweep, mailbox_tree
from postroad.store.journal import note_events, remember
from postroad.store.mailbox_records import (
    ADD,
    ALL_FLAGS,
    DELETED,
    DONE,
    REMOVE,
    SEEN,
    TOO_MANY_KEYWORDS,
    Append,
    Appended,
    Entry,
    Expunge,
    Expunged,
    FlagsStore,
    FlagsStored,
    RecentClaim,
    RecentClaimed,
)
from postroad.store.mailbox_records import NO_MAILBOX as GONE
from postroad.store.mailbox_records import OVER_QUOTA as FULL
from postroad.store.mailbox_rows import (
    MAILBOX_MESSAGES,
    charge_account,
    credit_account,
    expunge,
    few,
    lock_mailbox,
    lock_with_account,
    marks,
    remember_keywords,
    rows_of,
    tidy,
)
from postroad.store.queue import MESSAGES
from postroad.store.records import FILED, NO_MAILBOX, OVER_QUOTA, Copy
from postroad.store.units import ROWS_PER_UNIT, Tx, Withdrawn, unit
from postroad.values.event import Event

__all__ = ["file_copy", "mailbox_copy", "mailbox_sweep", "mailbox_tree"]

_CHARGE: Final = (
    "UPDATE accounts SET used_bytes = used_bytes + ?, messages = messages + 1"
    " WHERE id = ? AND state = 0 AND (quota_bytes = 0 OR used_bytes + ? <= quota_bytes) RETURNING id"
)
_NUMBER: Final = (
    "UPDATE mailboxes SET uidnext = uidnext + 1, modseq = modseq + 1, messages = messages + 1, unseen = unseen + 1,"
    " bytes = bytes + ? WHERE account = ? AND name = ? RETURNING id, uidnext, modseq"
)


def file_copy(tx: Tx, message: int, received_us: int, size: int, copy: Copy) -> int:
    """Files one copy of a message that this transaction accepts; `size` counts header and body.

    Returns FILED, NO_MAILBOX (gone or disabled meanwhile) or OVER_QUOTA; in the last two cases nothing has changed.
    """
    whole = size + len(copy.prefix)
    if not tx.execute(_CHARGE, (whole, copy.account, whole)):
        return _why_not(tx, copy.account)
    rows = tx.execute(_NUMBER, (whole, copy.account, copy.mailbox))
    if not rows:
        credit_account(tx, copy.account, 1, whole)
        return NO_MAILBOX
    mailbox, uidnext, modseq = rows[0]
    tx.append(MAILBOX_MESSAGES, (mailbox, uidnext - 1, message, 0, modseq, whole, received_us, "", copy.prefix))
    tx.hint("mailbox", mailbox)
    return FILED


def _why_not(tx: Tx, account: int) -> int:
    return OVER_QUOTA if tx.execute("SELECT 1 FROM accounts WHERE id = ? AND state = 0", (account,)) else NO_MAILBOX


@unit
def mailbox_append(tx: Tx, args: Append) -> Appended:
    """Puts a client's own message into a mailbox: message and mailbox row in one transaction.

    Answers DONE, NO_MAILBOX, OVER_QUOTA or TOO_MANY_KEYWORDS; unless DONE, nothing has changed, and a body file that
    was named is still the caller's to remove.
    """
    if not charge_account(tx, args.account, 1, args.size):
        return Appended(FULL)
    flags = args.flags & ALL_FLAGS
    rows = tx.execute(
        "UPDATE mailboxes SET uidnext = uidnext + 1, modseq = modseq + 1, messages = messages + 1,"
        " unseen = unseen + ?, bytes = bytes + ? WHERE account = ? AND name = ?"
        " RETURNING id, uidnext, modseq, uidvalidity, keywords",
        (int(not flags & SEEN), args.size, args.account, args.mailbox),
    )
    if not rows:
        raise Withdrawn(Appended(GONE))
    mailbox, uidnext, modseq, uidvalidity, known = rows[0]
    keywords = tidy(args.keywords.split())
    if not remember_keywords(tx, mailbox, known, keywords):
        raise Withdrawn(Appended(TOO_MANY_KEYWORDS))
    # Never delivered anywhere: no sender, and nothing that could expire.
    tx.append(
        MESSAGES,
        (args.id, tx.now_us, tx.now_us, args.size, 0, 0, "", "", "", "", args.body_file, args.header, args.body),
    )
    date = args.internal_us or tx.now_us
    tx.append(MAILBOX_MESSAGES, (mailbox, uidnext - 1, args.id, flags, modseq, args.size, date, keywords, b""))
    tx.hint("mailbox", mailbox)
    _tell_append(tx, args)
    return Appended(DONE, mailbox, uidvalidity, uidnext - 1)


def _tell_append(tx: Tx, args: Append) -> None:
    """The story of an appended message: `why` finds it by its account and its Message-ID."""
    [(address,)] = tx.execute("SELECT address FROM accounts WHERE id = ?", (args.account,))
    remember(tx, args.id, "\n".join(filter(None, (address.lower(), args.message_id))))
    note_events(
        tx,
        args.id,
        [
            Event(kind="received", at_us=tx.now_us, cause=f"by APPEND, {args.size} bytes", by=f"login {address}"),
            Event(
                kind="delivered",
                at_us=tx.now_us,
                recipient=address,
                by="a mail client",
                where=f"mailbox {args.mailbox}",
            ),
        ],
    )


# -- flags -----------------------------------------------------------------------------------------------------------


@unit
def mailbox_flags(tx: Tx, args: FlagsStore) -> FlagsStored:
    """Changes flags of messages and answers with all of them as they are now.

    Answers DONE, NO_MAILBOX or TOO_MANY_KEYWORDS. A message whose flags were as wanted keeps its modseq.
    """
    tx.flush()
    locked = lock_mailbox(tx, args.mailbox)
    if locked is None:
        return FlagsStored(GONE, [], [])
    keywords = tidy(args.keywords.split())
    if args.mode != REMOVE and not remember_keywords(tx, args.mailbox, locked.keywords, keywords):
        return FlagsStored(TOO_MANY_KEYWORDS, [], [])
    entries: list[Entry] = []
    modified: list[int] = []
    groups: dict[tuple[int, str], list[int]] = {}
    unseen = 0
    rows = rows_of(tx, "uid, modseq, flags, keywords", args.mailbox, few(args.uids), below=locked.below)
    for uid, at, flags, words in rows:
        if at > args.unchanged_since >= 0:
            modified.append(uid)
            continue
        after = changed_flags(flags, words, args.mode, args.flags & ALL_FLAGS, keywords)
        if after == (flags, words):
            entries.append((uid, at, flags, words))
            continue
        groups.setdefault(after, []).append(uid)
        unseen += bool(flags & SEEN) - bool(after[0] & SEEN)
        entries.append((uid, locked.modseq + 1, *after))
    _set_flags(tx, args.mailbox, groups, locked.modseq + 1, unseen)
    return FlagsStored(DONE, entries, modified)


def _set_flags(tx: Tx, mailbox: int, groups: dict[tuple[int, str], list[int]], modseq: int, unseen: int) -> None:
    """Writes what became of messages, grouped by flags and keywords, under one new modseq."""
    if not groups:
        return
    for (flags, words), uids in groups.items():
        for question, part in marks(uids):
            tx.execute(
                "UPDATE mailbox_messages SET flags = ?, keywords = ?, modseq = ?"
                f" WHERE mailbox = ? AND uid IN ({question})",
                [flags, words, modseq, mailbox, *part],
            )
    tx.execute("UPDATE mailboxes SET modseq = ?, unseen = unseen + ? WHERE id = ?", (modseq, unseen, mailbox))
    tx.hint("mailbox", mailbox)


def changed_flags(flags: int, words: str, mode: int, given: int, keywords: str) -> tuple[int, str]:
    """Flags and keywords of one message after a STORE."""
    if mode == ADD:
        return flags | given, tidy([*words.split(), *keywords.split()]) if keywords else words
    if mode == REMOVE:
        left = tidy(list(set(words.split()) - set(keywords.split()))) if keywords else words
        return flags & ~given, left
    return given, keywords


@unit
def mailbox_recent(tx: Tx, args: RecentClaim) -> RecentClaimed:
    """Gives the \\Recent marks of a mailbox to the session that asks; nobody else gets them again."""
    locked = lock_mailbox(tx, args.mailbox)
    if locked is None:
        return RecentClaimed(0)
    # What an unfinished copy hides stays recent for a later session.
    recent_from = int(tx.execute("SELECT recent_from FROM mailboxes WHERE id = ?", (args.mailbox,))[0][0])
    if recent_from < locked.below:
        tx.execute("UPDATE mailboxes SET recent_from = ? WHERE id = ?", (locked.below, args.mailbox))
    return RecentClaimed(recent_from)


# -- removal ---------------------------------------------------------------------------------------------------------


@unit
def mailbox_expunge(tx: Tx, args: Expunge) -> Expunged:
    """Removes messages that carry \\Deleted, all of them or those among some uids; at most `ROWS_PER_UNIT` a call."""
    tx.flush()
    locked = lock_with_account(tx, args.mailbox)
    if locked is None:
        return Expunged([])
    if args.uids is None:
        found = tx.execute(
            "SELECT uid FROM mailbox_messages WHERE mailbox = ? AND uid < ? AND flags & ? <> 0 ORDER BY uid LIMIT ?",
            (args.mailbox, locked.below, DELETED, ROWS_PER_UNIT + 1),
        )
        uids = [uid for (uid,) in found]
    else:
        wanted = rows_of(tx, "uid, flags", args.mailbox, few(args.uids), below=locked.below)
        uids = [uid for uid, flags in wanted if flags & DELETED]
    more = len(uids) > ROWS_PER_UNIT
    return expunge(tx, locked.account, args.mailbox, uids[:ROWS_PER_UNIT], more=more)
