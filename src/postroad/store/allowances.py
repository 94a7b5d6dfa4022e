"""Allowances: how much each of our users may send, counted in the transaction that accepts the message.

A stolen password sends as fast as the server lets it, so the counts must hold across workers and crashes: an account
has one row in `sending`, a transaction that counts in it holds that row until it ends, and the message and its count
are one commit. Invariant: within an hour that began with a message (or a day) the counts never pass the limits that
held when they were raised.

The windows are each account's own: one begins with the first message after the last one ended.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

from postroad.store.directory import Rows
from postroad.store.engine import Row
from postroad.store.records import Allowed, Shortfall
from postroad.store.units import ROWS_PER_UNIT, Tx
from postroad.values.address import Address

HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US
RECIPIENT_OCTETS: Final = 16
"""Of the hash by which a recipient is known; this table shows nobody whom an account writes to."""

LIMIT_MAX: Final = 1_000_000_000
"""Of a limit that a person sets: more than anybody sends, and far from what a column cannot hold."""

# The stable words: in the journal, in metrics and in docs/limits.md.
MANY_MESSAGES: Final = "too many messages"
MANY_RECIPIENTS: Final = "too many recipients"
MANY_NEW: Final = "too many new recipients"
MANY_AT_ONCE: Final = "too many recipients at once"
REMOVED_ACCOUNT: Final = "account removed"


class Spent(NamedTuple):
    """What an account has sent since its hour and its day began (microseconds since 1970)."""

    hour_us: int = 0
    messages: int = 0
    day_us: int = 0
    recipients: int = 0
    first_time: int = 0


# -- pure ------------------------------------------------------------------------------------------------------------


def known_by(recipient: Address) -> bytes:
    """What a recipient is counted under: one value for all spellings of an address."""
    return blake2b(recipient.key.encode(), digest_size=RECIPIENT_OCTETS, person=b"recipient").digest()


def effective(own: Allowed, general: Allowed) -> Allowed:
    """The limits of an account: its own where it has any, else those of the configuration; none of them is None."""
    pairs = [(getattr(own, name), getattr(general, name)) for name in Allowed.__struct_fields__]
    return Allowed(*((general or 0) if own is None else own for own, general in pairs))


def unlimited(allowed: Allowed) -> bool:
    """Whether there is nothing to count."""
    return not any(getattr(allowed, name) for name in Allowed.__struct_fields__)


def current(spent: Spent, now_us: int) -> Spent:
    """The counts as they stand at a time: what belongs to an hour or a day that is over counts no more.

    Clocks of two machines may differ by a little, so a window that seems to begin later is not over.
    """
    if abs(now_us - spent.hour_us) >= HOUR_US:
        spent = spent._replace(hour_us=now_us, messages=0)
    if abs(now_us - spent.day_us) >= DAY_US:
        spent = spent._replace(day_us=now_us, recipients=0, first_time=0)
    return spent


def shortfall(spent: Spent, allowed: Allowed, recipients: int, first_time: int) -> Shortfall | None:
    """What one more message to so many recipients would pass, or None; `spent` is current, `allowed` effective."""
    hour_ends, day_ends = spent.hour_us + HOUR_US, spent.day_us + DAY_US
    for why, limit, used, wanted, free_us in (
        (MANY_AT_ONCE, allowed.recipients_per_message, 0, recipients, 0),
        (MANY_MESSAGES, allowed.messages_per_hour, spent.messages, 1, hour_ends),
        (MANY_RECIPIENTS, allowed.recipients_per_day, spent.recipients, recipients, day_ends),
        (MANY_NEW, allowed.first_time_recipients_per_day, spent.first_time, first_time, day_ends),
    ):
        # What wants nothing of a part is not refused for it: a limit may have been lowered below what is used.
        if limit and wanted and used + wanted > limit:
            return Shortfall(why, limit, used, wanted, free_us)
    return None


# -- counting, inside the accepting transaction ------------------------------------------------------------------------

_COUNTS: Final = "hour_us, messages, day_us, recipients, first_time"
_LIMITS: Final = ", ".join(Allowed.__struct_fields__)
_SELECT: Final = f"SELECT {_COUNTS}, {_LIMITS} FROM sending WHERE account = ?"
# A session outlives what becomes of its account: who was disabled or removed meanwhile sends nothing more.
_SELECT_ENABLED: Final = f"{_SELECT} AND EXISTS (SELECT 1 FROM accounts WHERE id = sending.account AND state = 0)"
_BEGIN: Final = (
    f"INSERT INTO sending (account, {_COUNTS}) SELECT id, 0, 0, 0, 0, 0 FROM accounts WHERE id = ? AND state <> 2"
    " ON CONFLICT (account) DO NOTHING"
)


def spend(tx: Tx, account: int, recipients: list[bytes], general: Allowed) -> Shortfall | None:
    """Counts one message to these recipients; or says what it would pass, and counts nothing."""
    rows = tx.execute(_SELECT_ENABLED + tx.row_lock, (account,))
    if not rows:
        tx.execute(_BEGIN, (account,))
        rows = tx.execute(_SELECT_ENABLED + tx.row_lock, (account,))
        if not rows:
            return Shortfall(REMOVED_ACCOUNT)
    spent, own = _of_row(rows[0])
    allowed = effective(own, general)
    if unlimited(allowed):
        return None
    spent = current(spent, tx.now_us)
    new = _not_met(tx, account, recipients) if allowed.first_time_recipients_per_day else []
    short = shortfall(spent, allowed, len(recipients), len(new))
    if short is not None:
        return short
    tx.execute(
        "UPDATE sending SET hour_us = ?, messages = ?, day_us = ?, recipients = ?, first_time = ? WHERE account = ?",
        (
            spent.hour_us,
            spent.messages + 1,
            spent.day_us,
            spent.recipients + len(recipients),
            spent.first_time + len(new),
            account,
        ),
    )
    if new:
        # At once, not at the end of the batch: the account's next message may stand in the same one.
        tx.executemany(
            "INSERT INTO met (account, recipient, first_us) VALUES (?, ?, ?)",
            [(account, one, tx.now_us) for one in new],
        )
    return None


def _not_met(tx: Tx, account: int, recipients: list[bytes]) -> list[bytes]:
    """Those of the recipients that the account has never sent to."""
    met: set[bytes] = set()
    for start in range(0, len(recipients), ROWS_PER_UNIT):
        some = recipients[start : start + ROWS_PER_UNIT]
        # Counts are padded to a power of two, so that few different statements are ever prepared.
        some = some + some[-1:] * ((1 << (len(some) - 1).bit_length()) - len(some))
        marks = ", ".join("?" * len(some))
        sql = f"SELECT recipient FROM met WHERE account = ? AND recipient IN ({marks})"
        met.update(bytes(one) for (one,) in tx.execute(sql, [account, *some]))
    return [one for one in recipients if one not in met]


def _of_row(row: Row) -> tuple[Spent, Allowed]:
    return Spent(*row[:5]), Allowed(*row[5:])


def set_limits(tx: Tx, account: int, limits: dict[str, int | None]) -> bool:
    """Sets some limits of an account's own; False, and nothing is changed, when one is none or no count."""
    for name, limit in limits.items():
        if name not in Allowed.__struct_fields__ or not (limit is None or 0 <= limit <= LIMIT_MAX):
            return False
    tx.execute(_BEGIN, (account,))
    for name, limit in limits.items():
        tx.execute(f"UPDATE sending SET {name} = ? WHERE account = ?", (limit, account))
    return True


def forget_account(tx: Tx, account: int) -> bool:
    """One slice of what is known of an account that is being erased; whether there was any."""
    tx.execute("DELETE FROM sending WHERE account = ?", (account,))
    met = tx.execute("SELECT recipient FROM met WHERE account = ? LIMIT ?", (account, ROWS_PER_UNIT))
    if met:
        tx.executemany("DELETE FROM met WHERE account = ? AND recipient = ?", [(account, one) for (one,) in met])
    return bool(met)


# -- looking ---------------------------------------------------------------------------------------------------------


class Spendings:
    """What accounts have sent, read through a worker's own connection: for an early answer, not for the decision."""

    __slots__ = ("_rows",)

    def __init__(self, reader: Rows) -> None:
        self._rows = reader.rows

    async def spent(self, account: int) -> tuple[Spent, Allowed]:
        """What an account has sent, and the limits of its own."""
        rows = await self._rows(_SELECT, (account,))
        return _of_row(rows[0]) if rows else (Spent(), Allowed())

    async def has_met(self, account: int, recipient: bytes) -> bool:
        """Whether an account has sent to a recipient (`known_by`) before."""
        return bool(await self._rows("SELECT 1 FROM met WHERE account = ? AND recipient = ?", (account, recipient)))
