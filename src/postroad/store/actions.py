"""What people do to the queue: retry, hold, release, move, drop, fail; and taking that back.

An action is a row with a number: who did what to which selection. Whoever acts reads which deliveries are meant
(`store.selection`) and hands them over in slices, each a unit of its own; a slice looks at every row again, so nothing
that ended or changed meanwhile is touched.

Invariants: what a worker has in its hands stays its worker's - only its state changes, and the worker's own result
respects that (`store.queue.record`); so a hand loses nothing and doubles nothing. A dropped delivery stands, held,
until its action is final, and `queue_before` says what it was before; both go in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from postroad.store.journal import note_events
from postroad.store.queue import DUE, as_due
from postroad.store.records import DEFERRED, DROPPED, HELD, KIND_LOCAL, NEVER_US, QUEUED, Due, Record
from postroad.store.slices import Slices
from postroad.store.units import ROWS_PER_UNIT, Table, Tx, unit
from postroad.store.writer import Writer
from postroad.values.event import Event
from postroad.values.reason import reason_number

UNDO_US: Final = 60_000_000
"""How long a drop, a hold or a move can be taken back."""

RETRY: Final = "retry"
HOLD: Final = "hold"
RELEASE: Final = "release"
MOVE: Final = "move"
DROP: Final = "drop"
FAIL: Final = "fail"
UNDOABLE: Final = (HOLD, MOVE, DROP)

ACTIONS_KEPT_US: Final = 90 * 86_400_000_000
"""How long the list of actions goes back."""

BEFORE: Final = Table("queue_before", "action delivery due_us state next_hop held left_us")


class ActionBegin(Record, frozen=True):
    """A new action: `detail` is the reason of a hold or a failure, the next hop of a move."""

    what: str
    by: str
    selection: str
    """Which deliveries are meant, in words."""
    detail: str = ""


class Act(Record, frozen=True):
    """One slice of an action: at most ROWS_PER_UNIT deliveries by their ids; `owner` is who seizes them (FAIL)."""

    action: int
    deliveries: list[int]
    owner: int = 0


class Acted(Record, frozen=True):
    """What became of a slice."""

    touched: int
    under_way: list[int]
    """Of these, or left alone because of it: what a worker has in its hands."""
    until_us: int = 0
    """Until when it can be taken back; 0: it cannot be, or nothing was touched."""


class Seized(Record, frozen=True):
    """Deliveries that the caller owns now, and those that it cannot have because a worker does."""

    deliveries: list[Due]
    under_way: list[int]


class Counted(Record, frozen=True):
    """So many deliveries more were touched by an action."""

    action: int
    deliveries: int


class Undo(Record, frozen=True):
    """Take an action back, a slice at a time."""

    action: int
    by: str


UNKNOWN: Final = "unknown"
FINAL: Final = "final"
"""The answers of `undo` that mean no."""


class Undone(Record, frozen=True):
    """What one slice of taking back did."""

    word: str = ""
    """Empty, or why nothing can be taken back."""
    restored: int = 0
    passed: int = 0
    """Deliveries that ended, or that somebody changed since."""
    more: bool = False


class _Row(NamedTuple):
    """A delivery as an action meets it."""

    id: int
    message: int
    recipient: str
    kind: int
    owner: int
    due_us: int
    state: int
    next_hop: str
    held: str
    left_us: int
    last_reply: str
    expires_us: int

    @property
    def waits_for_a_hand(self) -> bool:
        return self.due_us >= NEVER_US


_ROWS: Final = (
    "SELECT d.id, d.message, d.recipient, d.kind, d.owner, d.due_us, d.state, d.next_hop, d.held, d.left_us,"
    " d.last_reply, m.expires_us FROM deliveries d JOIN messages m ON m.id = d.message WHERE d.id IN ({}) ORDER BY d.id"
)


class _Action(NamedTuple):
    what: str
    by: str
    detail: str
    undone: int
    until_us: int


@unit
def action_begin(tx: Tx, args: ActionBegin) -> int:
    """Writes down that somebody begins an action; returns its number, which `undo` takes."""
    [(number,)] = tx.execute("UPDATE counters SET value = value + 1 WHERE name = 'queue_action' RETURNING value")
    tx.execute(
        "INSERT INTO queue_actions (number, at_us, what, by_whom, selection, detail, deliveries, until_us, undone)"
        " VALUES (?, ?, ?, ?, ?, ?, 0, 0, 0)",
        (number, tx.now_us, args.what, args.by, args.selection, args.detail),
    )
    return int(number)


# -- acting ------------------------------------------------------------------------------------------------------------


@unit
def act(tx: Tx, args: Act) -> Acted:
    """Does an action to one slice of deliveries; those that it does not fit, or that are gone, are passed over.

    The time to take it back begins with the last slice that touched something.
    """
    action = _opened(tx, args.action)
    change, live = _CHANGES[action.what], tx.live
    touched: list[_Row] = []
    after: list[_Row] = []
    under_way: list[int] = []
    for row in _rows(tx, args.deliveries):
        if row.owner in live and row.state != DROPPED:
            under_way.append(row.id)
            if action.what == RETRY:
                continue
        changed = change(row, action, tx.now_us)
        if changed is not None:
            touched.append(row)
            after.append(changed if row.owner in live else changed._replace(owner=0))
        elif under_way and under_way[-1] == row.id:
            under_way.pop()
    _write(tx, after)
    until_us = 0
    if action.what in UNDOABLE and touched:
        until_us = tx.now_us + UNDO_US
        for row in touched:
            tx.append(BEFORE, (args.action, row.id, row.due_us, row.state, row.next_hop, row.held, row.left_us))
    if action.what == RELEASE:
        _give_time(tx, touched)
    _count(tx, args.action, len(touched), until_us)
    _tell(tx, touched, lambda row: _event(row, args.action, action, tx.now_us, until_us))
    if after and action.what in (RETRY, RELEASE, MOVE):
        tx.hint("queue")
    if under_way and action.what != RETRY:
        tx.hint("recall")
    return Acted(len(touched), under_way, until_us)


def _opened(tx: Tx, number: int) -> _Action:
    rows = tx.execute(
        f"SELECT what, by_whom, detail, undone, until_us FROM queue_actions WHERE number = ?{tx.row_lock}", (number,)
    )
    if not rows:
        raise ValueError(f"there is no action {number}")
    return _Action(*rows[0])


def _rows(tx: Tx, deliveries: Sequence[int]) -> list[_Row]:
    """The deliveries that still exist; nobody else changes them before this transaction ends."""
    tx.flush()
    chosen = list(deliveries[:ROWS_PER_UNIT])
    if not chosen:
        return []
    lock = f"{tx.row_lock} OF d" if tx.row_lock else ""
    return [_Row(*row) for row in tx.execute(_ROWS.format(", ".join("?" * len(chosen))) + lock, chosen)]


def _retry(row: _Row, action: _Action, now_us: int) -> _Row | None:
    if row.waits_for_a_hand:
        return None
    return row._replace(due_us=now_us, state=QUEUED, held="") if row.state == HELD else row._replace(due_us=now_us)


def _hold(row: _Row, action: _Action, now_us: int) -> _Row | None:
    if row.waits_for_a_hand:
        return None
    return row._replace(due_us=NEVER_US, state=HELD, held=action.detail, left_us=_left(row, now_us))


def _release(row: _Row, action: _Action, now_us: int) -> _Row | None:
    if row.state != HELD:
        return None
    return row._replace(due_us=now_us, state=DEFERRED if row.last_reply else QUEUED, held="", left_us=0)


def _move(row: _Row, action: _Action, now_us: int) -> _Row | None:
    if row.state == DROPPED or row.kind == KIND_LOCAL or row.next_hop == action.detail:
        return None
    return row._replace(next_hop=action.detail, due_us=row.due_us if row.state == HELD else now_us)


def _drop(row: _Row, action: _Action, now_us: int) -> _Row | None:
    if row.state == DROPPED:
        return None
    left_us = row.left_us if row.waits_for_a_hand else _left(row, now_us)
    return row._replace(due_us=NEVER_US, state=DROPPED, held=f"dropped by {action.by}", left_us=left_us)


def _left(row: _Row, now_us: int) -> int:
    return max(0, row.expires_us - now_us)


_CHANGES: Final[dict[str, Callable[[_Row, _Action, int], _Row | None]]] = {
    RETRY: _retry, HOLD: _hold, RELEASE: _release, MOVE: _move, DROP: _drop,
}  # fmt: skip
"""What an action makes of a delivery; None where it does not fit."""


def _write(tx: Tx, rows: Iterable[_Row]) -> None:
    tx.executemany(
        "UPDATE deliveries SET owner = ?, due_us = ?, state = ?, next_hop = ?, held = ?, left_us = ?, reason = ?"
        " WHERE id = ?",
        [
            (
                row.owner,
                row.due_us,
                row.state,
                row.next_hop,
                row.held,
                row.left_us,
                reason_number(row.held or row.last_reply),
                row.id,
            )
            for row in rows
        ],
    )


def _give_time(tx: Tx, rows: Iterable[_Row]) -> None:
    """A held message does not age: it ends no sooner after its release than it would have without the hold."""
    left: dict[int, int] = {}
    for row in rows:
        left[row.message] = max(left.get(row.message, 0), row.left_us)
    tx.executemany(
        "UPDATE messages SET expires_us = ? WHERE id = ? AND expires_us < ?",
        [(tx.now_us + span, message, tx.now_us + span) for message, span in sorted(left.items())],
    )


def _count(tx: Tx, number: int, deliveries: int, until_us: int) -> None:
    tx.execute(
        "UPDATE queue_actions SET deliveries = deliveries + ?, until_us = CASE WHEN ? > 0 THEN ? ELSE until_us END"
        " WHERE number = ?",
        (deliveries, until_us, until_us, number),
    )


_KINDS: Final = {RETRY: "retried", HOLD: "held", RELEASE: "released", MOVE: "moved", DROP: "dropped"}


def _event(row: _Row, number: int, action: _Action, now_us: int, until_us: int) -> Event:
    cause, where, next_us = "", "", 0
    if action.what == HOLD:
        cause = action.detail
    elif action.what == RELEASE:
        cause, next_us = f"was held: {row.held}" if row.held else "", now_us
    elif action.what == MOVE:
        where = action.detail
        cause = f"goes to {action.detail}" if action.detail else "goes the usual way again"
    elif action.what == DROP:
        cause, next_us = f"can be taken back for 60 s: postroad queue undo {number}", until_us
    return Event(
        kind=_KINDS[action.what], at_us=now_us, recipient=row.recipient, cause=cause, by=_by(action), where=where,
        next_us=next_us,
    )  # fmt: skip


def _by(action: _Action) -> str:
    return f"postroad queue, {action.by}"


def _tell(tx: Tx, rows: Iterable[_Row], event: Callable[[_Row], Event]) -> None:
    events: dict[int, list[Event]] = {}
    for row in rows:
        events.setdefault(row.message, []).append(event(row))
    for message, own in events.items():
        note_events(tx, message, own)


# -- failing -----------------------------------------------------------------------------------------------------------


@unit
def seize(tx: Tx, args: Act) -> Seized:
    """Gives deliveries to the caller, who ends them by `record` with the report that is due (FAIL).

    Their times stay as they are, so that they go on as before when the caller dies.
    """
    under_way: list[int] = []
    mine: list[int] = []
    for row in _rows(tx, args.deliveries):
        if row.state == DROPPED:
            continue
        (under_way if row.owner in tx.live else mine).append(row.id)
    if not mine:
        return Seized([], under_way)
    tx.executemany("UPDATE deliveries SET owner = ? WHERE id = ?", [(args.owner, ident) for ident in mine])
    rows = tx.execute(f"{DUE} WHERE d.id IN ({', '.join('?' * len(mine))}) ORDER BY d.id", mine)
    return Seized([as_due(row, row[_DUE_AT]) for row in rows], under_way)


_DUE_AT: Final = Due.__struct_fields__.index("due_us")


@unit
def action_count(tx: Tx, args: Counted) -> None:
    """Adds what was recorded elsewhere to the count of an action."""
    _count(tx, args.action, args.deliveries, 0)


# -- taking back -------------------------------------------------------------------------------------------------------


@unit
def undo(tx: Tx, args: Undo) -> Undone:
    """Takes back one slice of an action; once it has begun it goes to its end, however long that takes."""
    tx.flush()
    rows = tx.execute(
        f"SELECT what, by_whom, detail, undone, until_us FROM queue_actions WHERE number = ?{tx.row_lock}",
        (args.action,),
    )
    if not rows:
        return Undone(UNKNOWN)
    action = _Action(*rows[0])
    if action.until_us == 0 or (not action.undone and action.until_us <= tx.now_us):
        return Undone(FINAL)
    if not action.undone:
        # From here on the store process goes on by itself if the caller does not.
        tx.execute("UPDATE queue_actions SET undone = 1, until_us = ? WHERE number = ?", (tx.now_us, args.action))
    return _restore(tx, args.action, action, f"postroad queue undo, {args.by}")


class _Before(NamedTuple):
    delivery: int
    due_us: int
    state: int
    next_hop: str
    held: str
    left_us: int


_CHANGED: Final = (
    "SELECT delivery, due_us, state, next_hop, held, left_us FROM queue_before"
    " WHERE action = ? ORDER BY delivery LIMIT ?"
)


def _restore(tx: Tx, number: int, action: _Action, by: str) -> Undone:
    before = {row[0]: _Before(*row) for row in tx.execute(_CHANGED, (number, ROWS_PER_UNIT))}
    restored: list[_Row] = []
    for row in _rows(tx, list(before)):
        old = _as_before(row, before[row.id], action)
        if old is not None:
            restored.append(old)
    _write(tx, restored)
    _tell(
        tx,
        restored,
        lambda row: Event(
            kind="restored", at_us=tx.now_us, recipient=row.recipient, by=by, cause=f"took back: {action.what}",
            next_us=row.due_us if row.due_us < NEVER_US else 0,
        ),
    )  # fmt: skip
    tx.executemany(_FORGET, [(number, delivery) for delivery in before])
    more = len(before) == ROWS_PER_UNIT
    if not more:
        tx.execute("UPDATE queue_actions SET until_us = 0 WHERE number = ?", (number,))
    if restored:
        tx.hint("queue")
    return Undone("", len(restored), len(before) - len(restored), more)


def _as_before(row: _Row, before: _Before, action: _Action) -> _Row | None:
    """The delivery as it was, unless somebody changed it since."""
    if action.what == MOVE:
        return row._replace(next_hop=before.next_hop) if row.next_hop == action.detail else None
    untouched = row.state == (DROPPED if action.what == DROP else HELD) and row.waits_for_a_hand
    if not untouched or (action.what == HOLD and row.held != action.detail):
        return None
    return row._replace(due_us=before.due_us, state=before.state, held=before.held, left_us=before.left_us)


_FORGET: Final = "DELETE FROM queue_before WHERE action = ? AND delivery = ?"


# -- finishing ---------------------------------------------------------------------------------------------------------

POLL_S: Final = 5.0
"""How often the store looks for actions whose time to be taken back is over."""


class Finishing(Slices):
    """Actions made final when they can no longer be taken back, by the store process (`store.server.Chore`).

    What was dropped is deleted, what was being taken back when its caller died is taken back.
    """

    __slots__ = ()

    def __init__(self, writer: Writer) -> None:
        super().__init__(writer, POLL_S)

    def _slice(self, tx: Tx) -> None:
        rows = tx.execute(
            "SELECT number, what, by_whom, detail, undone, until_us FROM queue_actions"
            " WHERE until_us > 0 AND until_us <= ? ORDER BY until_us LIMIT 1" + tx.skip_locked("queue_actions"),
            (tx.now_us,),
        )
        if not rows:
            self._more = False
            self._forget(tx)
            return
        self._more = True
        number, action = rows[0][0], _Action(*rows[0][1:])
        if action.undone:
            _restore(tx, number, action, "postroad queue undo, finished by the store")
        else:
            _finish(tx, number, action)

    @staticmethod
    def _forget(tx: Tx) -> None:
        old = tx.execute(
            "SELECT number FROM queue_actions WHERE until_us = 0 AND at_us < ? ORDER BY number LIMIT ?",
            (tx.now_us - ACTIONS_KEPT_US, ROWS_PER_UNIT),
        )
        if old:
            tx.executemany("DELETE FROM queue_actions WHERE number = ?", old)


def _finish(tx: Tx, number: int, action: _Action) -> None:
    live = sorted(tx.live)
    # What a worker has in its hands ends or comes back first: its end is not ours to write.
    free = f" AND (d.owner IS NULL OR d.owner NOT IN ({', '.join('?' * len(live))}))" if live else ""
    rows = tx.execute(
        "SELECT b.delivery, d.message, d.state FROM queue_before b LEFT JOIN deliveries d ON d.id = b.delivery"
        f" WHERE b.action = ?{free} ORDER BY b.delivery LIMIT ?",
        (number, *live, ROWS_PER_UNIT),
    )
    if action.what == DROP:
        gone = [(delivery, message) for delivery, message, state in rows if state == DROPPED]
        tx.executemany("DELETE FROM deliveries WHERE id = ?", [(delivery,) for delivery, _ in gone])
        for _, message in gone:
            tx.release(message)
    tx.executemany(_FORGET, [(number, row[0]) for row in rows])
    if len(rows) < ROWS_PER_UNIT:
        waits = tx.execute("SELECT 1 FROM queue_before WHERE action = ? LIMIT 1", (number,))
        until_us = tx.now_us + int(POLL_S * 1_000_000) if waits else 0
        tx.execute("UPDATE queue_actions SET until_us = ? WHERE number = ?", (until_us, number))
