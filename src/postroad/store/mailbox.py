"""Units that put messages into mailboxes, change their flags and take them out.

Invariants: an account's `used_bytes` and `messages`, and a mailbox's `messages`, `unseen` and `bytes`, change in the
transaction that changes the rows they count. A uid is given out once, a modseq belongs to one change, and both only
rise. Every removed uid of a living mailbox stands in `expunged`.
"""

from __future__ import annotations

from typing import Final

from postroad.store.mailbox_rows import MAILBOX_MESSAGES
from postroad.store.records import FILED, NO_MAILBOX, OVER_QUOTA, Copy
from postroad.store.units import Tx

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
        tx.execute(
            "UPDATE accounts SET used_bytes = used_bytes - ?, messages = messages - 1 WHERE id = ?",
            (whole, copy.account),
        )
        return NO_MAILBOX
    mailbox, uidnext, modseq = rows[0]
    tx.append(MAILBOX_MESSAGES, (mailbox, uidnext - 1, message, 0, modseq, whole, received_us, "", copy.prefix))
    tx.hint("mailbox", mailbox)
    return FILED


def _why_not(tx: Tx, account: int) -> int:
    return OVER_QUOTA if tx.execute("SELECT 1 FROM accounts WHERE id = ? AND state = 0", (account,)) else NO_MAILBOX
