"""Due mail of users who would wait behind somebody else's backlog.

Claims go by time: who has thousands of deliveries due to a domain has the first places for long. While a worker has
enough of them in its hands, it asks here for those of other users. Groups of one user and one reason stand together in
the index of what waits (`deliveries_waiting`), so a backlog is stepped over and not read.
"""

from __future__ import annotations

from typing import Any, Final

from postroad.store.engine import Row
from postroad.store.queue import DUE, hand_over
from postroad.store.records import Claimed, ClaimOthers, Crowd
from postroad.store.units import Tx, unit

CROWDS_MAX: Final = 10
"""Domains of one call."""
GROUPS_MAX: Final = 100
"""Groups of a domain that are stepped over, about 20 us each: the next call begins anew, when some have gone."""
OTHERS_MAX: Final = 20
"""Deliveries of one domain: as many as let a handful of users take part."""
LOOKED_AT_MAX: Final = 200
"""The oldest of a group that are looked at: what is not due has just been tried."""


@unit
def claim_others(tx: Tx, args: ClaimOthers) -> Claimed:
    """Gives due deliveries of users that the crowds do not name, each with its next time already written."""
    tx.flush()
    idents = [ident for crowd in args.crowds[:CROWDS_MAX] for ident in _others(tx, crowd)]
    if not idents:
        return Claimed([], 0)
    marks = ", ".join("?" * len(idents))
    # Somebody may have taken them since, on an engine with several writers; without a step of the clock the veil hides
    # nothing.
    sql = f"{DUE} WHERE d.id IN ({marks}) AND d.owner = 0 AND d.due_us <= ? AND (d.due_us <= ? OR d.due_us >= ?)"
    rows = tx.execute(f"{sql} ORDER BY d.due_us" + tx.skip_locked("d"), [*idents, tx.now_us, *tx.veil])
    return Claimed(hand_over(tx, rows, args.owner, args.delays_s), 0)


def _others(tx: Tx, crowd: Crowd) -> list[int]:
    """Due deliveries of other users, at most OTHERS_MAX, of each user and reason the oldest."""
    found: list[int] = []
    group = _next_group(tx, crowd.domain, None)
    for _ in range(GROUPS_MAX):
        if group is None or len(found) >= OTHERS_MAX:
            break
        if group[1] not in crowd.users:
            found += _due_of(tx, crowd.domain, group, OTHERS_MAX - len(found))
        group = _next_group(tx, crowd.domain, group)
    return found


def _next_group(tx: Tx, domain: str, behind: Row | None) -> Row | None:
    """Reason and login of the group that follows in the index; what was moved has a lane of its own."""
    values: list[Any] = [domain]
    condition = ""
    if behind is not None:
        condition = " AND (reason, login) > (?, ?)"
        values += behind
    rows = tx.execute(
        f"SELECT reason, login FROM deliveries WHERE owner = 0 AND domain = ? AND next_hop = ''{condition}"
        " ORDER BY reason, login LIMIT 1",
        values,
    )
    return rows[0] if rows else None


def _due_of(tx: Tx, domain: str, group: Row, limit: int) -> list[int]:
    rows = tx.execute(
        "SELECT id FROM (SELECT id, due_us FROM deliveries WHERE owner = 0 AND domain = ? AND next_hop = ''"
        f" AND reason = ? AND login = ? ORDER BY message LIMIT {LOOKED_AT_MAX}) oldest WHERE due_us <= ? LIMIT ?",
        (domain, *group, tx.now_us, limit),
    )
    return [ident for (ident,) in rows]
