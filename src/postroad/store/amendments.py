"""Changes to a message that waits: another sender, more recipients. Only people make them, one message at a time."""

from __future__ import annotations

from typing import Final

from postroad.store.journal import note
from postroad.store.queue import DELIVERIES
from postroad.store.records import KIND_LOCAL, KIND_SMTP, Leg, Record
from postroad.store.units import ROWS_PER_UNIT, Tx, unit


class NewSender(Record, frozen=True):
    """Another reverse-path for a message, without brackets; empty for the null sender."""

    message: int
    sender: str
    events: bytes


class NewRecipients(Record, frozen=True):
    """More open deliveries for a message, at most ROWS_PER_UNIT, with the story of that."""

    message: int
    legs: list[Leg]
    keys: str
    """What `why` finds it by from now on, besides: lines in lower case."""
    events: bytes


_RETURN_PATH: Final = b"Return-Path: <"


@unit
def amend_sender(tx: Tx, args: NewSender) -> bool:
    """Changes who gets the reports; whether the message still waits. An attempt under way names the old sender."""
    tx.flush()
    if not tx.execute("UPDATE messages SET sender = ? WHERE id = ? RETURNING id", (args.sender, args.message)):
        return False
    # A copy that is not in its mailbox yet has the sender in its own header lines.
    rows = tx.execute(
        "SELECT id, prefix FROM deliveries WHERE message = ? AND kind = ? ORDER BY id LIMIT ?",
        (args.message, KIND_LOCAL, ROWS_PER_UNIT),
    )
    tx.executemany(
        "UPDATE deliveries SET prefix = ? WHERE id = ?",
        [(_with_sender(bytes(prefix), args.sender), ident) for ident, prefix in rows],
    )
    note(tx, args.message, args.events)
    return True


def _with_sender(prefix: bytes, sender: str) -> bytes:
    if not prefix.startswith(_RETURN_PATH):
        return prefix
    _, _, rest = prefix.partition(b"\r\n")
    return _RETURN_PATH + sender.encode() + b">\r\n" + rest


@unit
def amend_recipients(tx: Tx, args: NewRecipients) -> bool:
    """Adds deliveries to a message; whether it still waits. Their times stand in the legs.

    A message whose deliveries to other hosts have all ended is not signed again.
    """
    tx.flush()
    rows = tx.execute(f"SELECT login FROM messages WHERE id = ?{tx.row_lock}", (args.message,))
    if not rows:
        return False
    # The signature that the message got at its acceptance stands with each of its deliveries to other hosts, and what
    # its sender wishes of TLS with all of them.
    others = tx.execute(
        "SELECT prefix, tls, kind FROM deliveries WHERE message = ? ORDER BY kind LIMIT 1", (args.message,)
    )
    prefix, tls, kind = others[0] if others else (b"", 0, KIND_SMTP)
    for leg in args.legs[:ROWS_PER_UNIT]:
        own = prefix if leg.kind == kind == KIND_SMTP else leg.prefix
        row = (leg.id, args.message, leg.due_us, 0, 0, leg.kind, leg.account, leg.domain, leg.recipient, leg.notify)
        tx.append(DELIVERIES, (*row, leg.orcpt, own, "", leg.warn_us, tls, rows[0][0]))
    tx.execute("UPDATE history SET keys = keys || ? WHERE id = ?", (f"\n{args.keys}", args.message))
    note(tx, args.message, args.events)
    tx.hint("queue")
    return True
