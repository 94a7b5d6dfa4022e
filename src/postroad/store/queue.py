"""The queue's units: accepting a message, claiming what is due, recording what became of an attempt.

Invariant (rows S3 to S5 of docs/internals/states.md): a message row stands exactly as long as a delivery or a mailbox
message refers to it, decided by NOT EXISTS at the end of the transaction that removed such a row. A delivery is removed
only together with the journal row that tells its end and, when one is due, the report of that end.
"""

from __future__ import annotations

from typing import Any, Final

from postroad.store.engine import Row
from postroad.store.journal import note, remember
from postroad.store.records import (
    DEFERRED,
    FILED,
    HELD,
    KIND_LOCAL,
    MOVED,
    NEVER_US,
    NO_MAILBOX,
    OVER_QUOTA,
    QUEUED,
    THROTTLED,
    Accept,
    Accepted,
    Claim,
    Claimed,
    Copy,
    Due,
    FileLocal,
    Recorded,
    Unrecorded,
)
from postroad.store.submissions import weigh
from postroad.store.units import Table, Tx, Withdrawn, unit
from postroad.values.event import Event, pack, unpack
from postroad.values.reason import reason_number

MESSAGES: Final = Table(
    "messages",
    "id received_us expires_us size smtputf8 eightbit sender ret envid login body_file header body",
    order=0,
)
DELIVERIES: Final = Table(
    "deliveries",
    "id message due_us owner attempts kind account domain recipient notify orcpt prefix last_reply warn_us tls login",
    order=10,
    holds="message",
)
HELD_DELIVERIES: Final = Table("deliveries", f"{' '.join(DELIVERIES.columns)} state held left_us reason", order=10)

WHY_NOT_FILED: Final = {OVER_QUOTA: "the mailbox is full"}


@unit
def accept(tx: Tx, args: Accept) -> Accepted:
    """The one door into the queue: when its transaction is committed the message is ours (S3 or S3m).

    A copy whose mailbox is gone or full becomes an open local delivery that is due at once; but when reports say that
    it was filed, nothing is accepted and the result says so. A submission that was made before,
    or that its sender may not make now, changes nothing.
    """
    if args.sending is not None:
        instead = weigh(tx, args.id, args.sending)
        if instead is not None:
            return instead
    tx.append(
        MESSAGES,
        (
            args.id,
            args.received_us,
            args.expires_us,
            args.size,
            int(args.smtputf8),
            int(args.eightbit),
            args.sender,
            args.ret,
            args.envid,
            args.login,
            args.body_file,
            args.header,
            args.body,
        ),
    )
    login, tls = args.login, args.tls
    for leg in args.legs:
        row = (
            leg.id,
            args.id,
            leg.due_us,
            leg.owner,
            1 if leg.owner else 0,
            leg.kind,
            leg.account,
            leg.domain,
            leg.recipient,
            leg.notify,
            leg.orcpt,
            leg.prefix,
            "",
            leg.warn_us,
            tls,
            login,
        )
        if leg.held:
            tx.append(HELD_DELIVERIES, (*row, HELD, leg.held, leg.left_us, reason_number(leg.held)))
        else:
            tx.append(DELIVERIES, row)
    if args.legs and not args.legs[-1].owner:
        tx.hint("queue")
    remember(tx, args.id, args.keys)
    for report in args.reports:
        accept(tx, report)
    if not args.copies:
        note(tx, args.id, args.events)
        if not args.legs:
            tx.release(args.id)
        return Accepted([], [])
    return _file_copies(tx, args)


def _file_copies(tx: Tx, args: Accept) -> Accepted:
    # Imported late: mailboxes stand on the queue's message rows, and only this call looks the other way.
    from postroad.store.mailbox import file_copy

    outcomes = [file_copy(tx, args.id, args.received_us, args.size, copy) for copy in args.copies]
    if not any(outcomes):
        note(tx, args.id, args.events)
        return Accepted(outcomes, [0] * len(outcomes))
    if args.reports:
        raise Withdrawn(Accepted(outcomes, [], withdrawn=True))
    if args.answered:
        note(tx, args.id, corrected(args.events, args.copies, outcomes, tx.now_us, "refused"))
        tx.release(args.id)
        return Accepted(outcomes, [0] * len(outcomes))
    legs = [
        0 if filed == FILED else _leave_open(tx, args, copy) for filed, copy in zip(outcomes, args.copies, strict=True)
    ]
    note(tx, args.id, corrected(args.events, args.copies, outcomes, tx.now_us))
    tx.hint("queue")
    return Accepted(outcomes, legs)


def _leave_open(tx: Tx, args: Accept, copy: Copy) -> int:
    ident = tx.make_id()
    domain = copy.recipient.rpartition("@")[2]
    row = (ident, args.id, tx.now_us, 0, 0, KIND_LOCAL, copy.account, domain, copy.recipient)
    tx.append(DELIVERIES, (*row, copy.notify, copy.orcpt, copy.prefix, "", copy.warn_us, args.tls, args.login))
    return ident


def corrected(foretold: bytes, copies: list[Copy], outcomes: list[int], now_us: int, became: str = "deferred") -> bytes:
    """The events as they really went: what the worker foretold of a copy that was not filed is replaced."""
    unfiled = {copy.recipient: outcome for copy, outcome in zip(copies, outcomes, strict=True) if outcome != FILED}
    events = [event for event in unpack(foretold) if event.kind != "delivered" or event.recipient not in unfiled]
    for recipient, outcome in unfiled.items():
        cause = WHY_NOT_FILED.get(outcome, "the mailbox does not exist any more")
        next_us = now_us if became == "deferred" else 0
        events.append(Event(kind=became, at_us=now_us, recipient=recipient, cause=cause, next_us=next_us))
    return pack(events)


_ATTEMPTS: Final = Due.__struct_fields__.index("attempts")
_ATTEMPT_DUE: Final = Due.__struct_fields__.index("due_us")
_FLAGS: Final = [Due.__struct_fields__.index(name) for name in ("smtputf8", "eightbit")]
DUE: Final = (  # in the order of the fields of `Due`
    "SELECT d.id, d.message, d.recipient, d.domain, d.kind, d.attempts, d.due_us, m.received_us, m.expires_us,"
    " m.sender, m.size, d.account, d.prefix, d.notify, d.orcpt, m.smtputf8, m.eightbit, m.ret, m.envid, m.body_file,"
    " d.last_reply, d.warn_us, d.tls, d.next_hop, d.login, d.state"
    " FROM deliveries d JOIN messages m ON m.id = d.message"
)


def as_due(row: Row, due_us: int) -> Due:
    """A row of `DUE` with its next time."""
    due = list(row)
    due[_ATTEMPT_DUE] = due_us
    for flag in _FLAGS:
        due[flag] = due[flag] == 1
    return Due(*due)


@unit
def claim(tx: Tx, args: Claim) -> Claimed:
    """Gives due deliveries to a worker, the longest waiting first, each with its next time already written.

    A delivery is due for anybody when its time has come and its owner is not alive; not while its time is still to be
    put right after a step of the clock.
    """
    tx.flush()
    rows = _due(tx, args)
    claimed = hand_over(tx, rows, args.owner, args.delays_s)
    if len(rows) == args.limit:
        return Claimed(claimed, tx.now_us)
    following = tx.execute("SELECT min(due_us) FROM deliveries WHERE due_us > ? AND due_us < ?", (tx.now_us, NEVER_US))
    return Claimed(claimed, following[0][0] or 0)


def hand_over(tx: Tx, rows: list[Row], owner: int, delays_s: list[float]) -> list[Due]:
    """Makes rows of `DUE` a worker's, each with its next time already written."""
    last = len(delays_s) - 1
    claimed = [as_due(row, tx.now_us + int(delays_s[min(row[_ATTEMPTS], last)] * 1_000_000)) for row in rows]
    if claimed:
        tx.executemany(
            # What its sender had held until a time is held no longer.
            f"UPDATE deliveries SET owner = ?, due_us = ?, attempts = attempts + 1,"
            f" state = CASE WHEN state = {HELD} THEN {QUEUED} ELSE state END WHERE id = ?",
            [(owner, due.due_us, due.id) for due in claimed],
        )
    return claimed


def _due(tx: Tx, args: Claim) -> list[Row]:
    """Rows of `DUE` that the caller may have; what was moved first where a lane that it left keeps others waiting."""
    domains = [name for name in args.domains_not if not name.startswith(MOVED)]
    shut = [name[len(MOVED) :] for name in args.domains_not if name.startswith(MOVED)]

    def ask(condition: str, avoided: list[tuple[str, list[Any]]], limit: int) -> list[Row]:
        sql, params = f"{DUE} WHERE d.due_us <= ?{condition}", [tx.now_us]
        if tx.veil != (0, 0):
            sql += " AND (d.due_us <= ? OR d.due_us >= ?)"
            params += tx.veil
        for column, values in (("owner", sorted(tx.live)), *avoided):
            if values:
                sql += f" AND d.{column} NOT IN ({', '.join('?' * len(values))})"
                params += values
        return tx.execute(f"{sql} ORDER BY d.due_us LIMIT ?" + tx.skip_locked("d"), [*params, limit])

    if not domains:
        return ask("", [("next_hop", shut)], args.limit)
    moved = ask(" AND d.next_hop <> ''", [("next_hop", shut)], args.limit)
    if len(moved) == args.limit:
        return moved
    return moved + ask(" AND d.next_hop = ''", [("domain", domains)], args.limit - len(moved))


# Somebody may have held or dropped it while it was tried: then it waits for a hand, and its time stays away.
_DEFER: Final = (
    f"UPDATE deliveries SET owner = 0, due_us = CASE WHEN state >= {HELD} THEN due_us ELSE ? END,"
    f" state = CASE WHEN state >= {HELD} THEN state ELSE ? END, last_reply = ?,"
    f" reason = CASE WHEN state >= {HELD} THEN reason ELSE ? END, attempts = attempts - ?"
    " WHERE id = ? AND owner = ? RETURNING id"
)
_DEFER_WARNED: Final = _DEFER.replace(" WHERE id", ", warn_us = 0 WHERE id")


@unit
def record(tx: Tx, args: Recorded) -> Unrecorded:
    """Ends or defers deliveries of the caller, with their journal rows and the reports they cause.

    All or nothing: when any of the deliveries is not the caller's any more (its lease ended, somebody dropped it),
    nothing is recorded and the result names those deliveries.
    """
    ended: list[int] = []
    missed: list[int] = []
    for done in args.done:
        rows = tx.execute(
            "DELETE FROM deliveries WHERE id = ? AND owner = ? RETURNING message", (done.delivery, args.owner)
        )
        if rows:
            ended.append(rows[0][0])
        else:
            missed.append(done.delivery)
    for later in args.later:
        sql = _DEFER_WARNED if later.warned else _DEFER
        state = THROTTLED if later.throttled else DEFERRED if later.last_reply else QUEUED
        reply = later.last_reply
        values = (later.due_us, state, reply, reason_number(reply), int(later.untried), later.delivery, args.owner)
        if not tx.execute(sql, values):
            missed.append(later.delivery)
        elif later.due_us <= tx.now_us:
            tx.hint("queue")
    if missed:
        raise Withdrawn(Unrecorded(missed))
    for noted in args.notes:
        note(tx, noted.message, noted.events)
    for report in args.reports:
        accept(tx, report)
    for message in ended:
        tx.release(message)
    return Unrecorded([])


@unit
def deliver_local(tx: Tx, args: FileLocal) -> int:
    """Files the copy of an open local delivery; ends the delivery and returns FILED, or changes nothing and returns why
    not. NO_MAILBOX too when the delivery is not the caller's any more."""
    from postroad.store.mailbox import file_copy

    tx.flush()
    rows = tx.execute(
        "SELECT m.id, m.received_us, m.size FROM deliveries d JOIN messages m ON m.id = d.message"
        " WHERE d.id = ? AND d.owner = ?",
        (args.delivery, args.owner),
    )
    if not rows:
        return NO_MAILBOX
    message, received_us, size = rows[0]
    outcome: int = file_copy(tx, message, received_us, size, args.copy)
    if outcome == FILED:
        tx.execute("DELETE FROM deliveries WHERE id = ?", (args.delivery,))
        note(tx, message, args.events)
        for report in args.reports:
            accept(tx, report)
        tx.release(message)
    return outcome
