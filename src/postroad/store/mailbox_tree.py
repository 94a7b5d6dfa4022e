"""Units that change an account's tree of mailboxes: make, remove, rename, subscribe.

A name is found by its octets in one spelling (`mailbox_names`). Removing is quick whatever stands in the mailbox: the
row loses its account, so name and quota are free and nobody finds it any more, and a job erases the rest.
"""

from __future__ import annotations

from postroad.store.mailbox_names import below, mailbox_name, superiors
from postroad.store.mailbox_records import (
    BAD_NAME,
    DONE,
    EXISTS,
    INBOX,
    MAILBOXES_MAX,
    NO_MAILBOX,
    NOT_INBOX,
    TOO_MANY,
    MailboxCreate,
    MailboxDelete,
    MailboxDone,
    MailboxRename,
    MailboxSubscribe,
)
from postroad.store.mailbox_rows import add_mailbox, detach_mailbox, find_mailbox, lock_account
from postroad.store.units import Tx, unit


@unit
def mailbox_create(tx: Tx, args: MailboxCreate) -> MailboxDone:
    """Makes a mailbox and the missing ones above it; answers BAD_NAME, EXISTS, NO_MAILBOX (no account) or TOO_MANY."""
    name = mailbox_name(args.name)
    if name is None:
        return MailboxDone(BAD_NAME)
    if not lock_account(tx, args.account):
        return MailboxDone(NO_MAILBOX)
    known = find_mailbox(tx, args.account, name)
    if known:
        return MailboxDone(EXISTS, known)
    if _full(tx, args.account):
        return MailboxDone(TOO_MANY)
    _make_superiors(tx, args.account, name)
    mailbox = _make(tx, args.account, name, args.special_use)
    return MailboxDone(DONE, mailbox)


def _full(tx: Tx, account: int) -> bool:
    """Whether an account may have no more mailboxes."""
    count: int = tx.execute("SELECT count(*) FROM mailboxes WHERE account = ?", (account,))[0][0]
    return count >= MAILBOXES_MAX


def _make_superiors(tx: Tx, account: int, name: str) -> None:
    # RFC 3501 section 6.3.3: "the server SHOULD create any superior hierarchical names that are needed"
    for superior in superiors(name):
        if not find_mailbox(tx, account, superior):
            _make(tx, account, superior)


def _make(tx: Tx, account: int, name: str, special_use: str = "") -> int:
    # A name that was subscribed before it was a mailbox stays subscribed, and no other becomes so by itself.
    waiting = tx.execute("DELETE FROM subscriptions WHERE account = ? AND name = ? RETURNING name", (account, name))
    return add_mailbox(tx, account, name, special_use, subscribed=bool(waiting))


@unit
def mailbox_delete(tx: Tx, args: MailboxDelete) -> MailboxDone:
    """Removes a mailbox, not those below it; answers NO_MAILBOX or NOT_INBOX."""
    name = mailbox_name(args.name)
    if name == INBOX:
        return MailboxDone(NOT_INBOX)
    if name is None or not lock_account(tx, args.account):
        return MailboxDone(NO_MAILBOX)
    rows = tx.execute("SELECT id, subscribed FROM mailboxes WHERE account = ? AND name = ?", (args.account, name))
    if not rows:
        return MailboxDone(NO_MAILBOX)
    mailbox, subscribed = rows[0]
    detach_mailbox(tx, args.account, mailbox)
    if subscribed:
        # RFC 3501 section 6.3.9: the server MUST NOT unilaterally remove a name from the subscription list
        tx.execute("INSERT INTO subscriptions (account, name) VALUES (?, ?)", (args.account, name))
    tx.hint("mailbox", mailbox)
    return MailboxDone(DONE, mailbox)


@unit
def mailbox_rename(tx: Tx, args: MailboxRename) -> MailboxDone:
    """Renames a mailbox with all below it; answers BAD_NAME, NO_MAILBOX, EXISTS or TOO_MANY.

    Of INBOX only the messages move: what was INBOX takes the new name, and an empty INBOX takes its place. A renamed
    mailbox keeps its UIDVALIDITY, which no other mailbox here ever has.
    """
    name, new_name = mailbox_name(args.name), mailbox_name(args.new_name)
    if name is None or not lock_account(tx, args.account):
        return MailboxDone(NO_MAILBOX)
    mailbox = find_mailbox(tx, args.account, name)
    if not mailbox:
        return MailboxDone(NO_MAILBOX)
    low, high = below(name)
    if new_name is None or (name != INBOX and low < new_name < high):
        return MailboxDone(BAD_NAME)
    rows = [] if name == INBOX else _below(tx, args.account, name)
    moves = [(new_name + old[len(name) :], ident) for ident, old in [(mailbox, name), *rows]]
    if not all(mailbox_name(moved) == moved for moved, _ in moves):
        return MailboxDone(BAD_NAME)
    taken = {new_name} if find_mailbox(tx, args.account, new_name) else set()
    taken |= {old for _, old in _below(tx, args.account, new_name)}
    if any(moved in taken for moved, _ in moves):
        return MailboxDone(EXISTS)
    # What is made on the way stays when the mailbox moves on, so renaming alone could make any number.
    if (name == INBOX or superiors(new_name)) and _full(tx, args.account):
        return MailboxDone(TOO_MANY)
    _make_superiors(tx, args.account, new_name)
    tx.executemany("UPDATE mailboxes SET name = ? WHERE id = ?", moves)
    for moved, _ in moves:
        tx.execute("DELETE FROM subscriptions WHERE account = ? AND name = ?", (args.account, moved))
    if name == INBOX:
        add_mailbox(tx, args.account, INBOX)
    return MailboxDone(DONE, mailbox)


def _below(tx: Tx, account: int, name: str) -> list[tuple[int, str]]:
    """Id and name of every mailbox below a name."""
    return [
        (ident, found)
        for ident, found in tx.execute(
            "SELECT id, name FROM mailboxes WHERE account = ? AND name > ? AND name < ?", (account, *below(name))
        )
    ]


@unit
def mailbox_subscribe(tx: Tx, args: MailboxSubscribe) -> MailboxDone:
    """Sets or takes a subscription, of any name; answers BAD_NAME, NO_MAILBOX (no account) or TOO_MANY."""
    name = mailbox_name(args.name)
    if name is None:
        return MailboxDone(BAD_NAME)
    if not lock_account(tx, args.account):
        return MailboxDone(NO_MAILBOX)
    rows = tx.execute(
        "UPDATE mailboxes SET subscribed = ? WHERE account = ? AND name = ? RETURNING id",
        (int(args.subscribed), args.account, name),
    )
    if rows:
        return MailboxDone(DONE, rows[0][0])
    tx.execute("DELETE FROM subscriptions WHERE account = ? AND name = ?", (args.account, name))
    if args.subscribed:
        count = tx.execute("SELECT count(*) FROM subscriptions WHERE account = ?", (args.account,))[0][0]
        if count >= MAILBOXES_MAX:
            return MailboxDone(TOO_MANY)
        tx.execute("INSERT INTO subscriptions (account, name) VALUES (?, ?)", (args.account, name))
    return MailboxDone(DONE)
