"""Which open deliveries somebody means, and reading them page by page.

Every page is one short reading transaction. A delivery that comes or goes while the pages are read may be in them or
not; whoever changes what is selected looks at each row again (`store.actions`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from postroad.store.reader import Reader
from postroad.store.records import DROPPED, HELD, STATES
from postroad.store.units import ROWS_PER_UNIT
from postroad.values.ids import EPOCH_US, WRITER_BITS
from postroad.values.reason import reason_number

LOOKED_AT: Final = 5000
"""Rows that one statement reads: a few milliseconds."""

DUE: Final = "due"
UNDER_WAY: Final = "trying"
STATE_WORDS: Final = (*STATES, DUE, UNDER_WAY)
"""Words for the state of a delivery: those of the store, and two that follow from time and owner."""


class Selection(NamedTuple):
    """Deliveries that fit every condition given; `every` must be said when none is."""

    message: int = 0
    delivery: int = 0
    sender: str = ""
    """An address, "@domain", or "<>"."""
    recipient: str = ""
    """An address or "@domain"."""
    domain: str = ""
    site: str = ""
    user: str = ""
    reason: str = ""
    """A part of the last reply or of the reason of a hold, or a reason as the grouped view shows it."""
    state: str = ""
    older_us: int = 0
    younger_us: int = 0
    every: bool = False
    dropped: bool = False
    """Also what was dropped and is not gone yet."""

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing, not even that everything is meant."""
        return self._replace(dropped=False) == NOTHING

    def condition(self, now_us: int) -> tuple[str, list[Any]]:
        """What follows WHERE, with its values; `d` is the delivery and `m` its message."""
        parts: list[str] = ["1 = 1"] if self.dropped or self.state == STATES[DROPPED] else [f"d.state <> {DROPPED}"]
        values: list[Any] = []

        def add(part: str, *own: Any) -> None:
            parts.append(part)
            values.extend(own)

        for column, value in (
            ("d.message", self.message), ("d.id", self.delivery), ("d.domain", self.domain), ("d.login", self.user),
        ):  # fmt: skip
            if value:
                add(f"{column} = ?", value)
        for column, address in (("m.sender", self.sender), ("d.recipient", self.recipient)):
            if address == "<>":
                add(f"{column} = ''")
            elif address.startswith("@"):
                add(f"lower(substr({column}, length({column}) - ?)) = ?", len(address) - 1, address.lower())
            elif address:
                add(f"lower({column}) = ?", address.lower())
        if self.site:
            way = "d.next_hop = '' AND (d.domain = ? OR d.domain IN (SELECT domain FROM sites WHERE site = ?))"
            add(f"(d.next_hop = ? OR ({way}))", self.site, self.site, self.site)
        if self.reason:
            part = self.reason.lower()
            either = "instr(lower(d.last_reply), ?) > 0 OR instr(lower(d.held), ?) > 0"
            add(f"(d.reason = ? OR {either})", reason_number(self.reason), part, part)
        if self.state:
            self._add_state(add, now_us)
        if self.older_us:
            add("d.message <= ?", first_id(now_us - self.older_us))
        if self.younger_us:
            add("d.message >= ?", first_id(now_us - self.younger_us))
        return " AND ".join(parts), values

    def _add_state(self, add: Any, now_us: int) -> None:
        if self.state == DUE:
            add(f"d.state < {HELD} AND d.owner = 0 AND d.due_us <= ?", now_us)
        elif self.state == UNDER_WAY:
            add("d.owner <> 0")
        else:
            add("d.state = ?", STATES.index(self.state))


NOTHING: Final = Selection()


class Chosen(NamedTuple):
    """One open delivery with what a list shows of its message."""

    id: int
    message: int
    recipient: str
    domain: str
    attempts: int
    owner: int
    due_us: int
    state: int
    next_hop: str
    held: str
    last_reply: str
    sender: str
    size: int
    login: str

    @property
    def reason(self) -> str:
        """Why it waits; empty before the first attempt ended."""
        return self.held if self.state >= HELD else self.last_reply

    def state_word(self, now_us: int) -> str:
        """One word for its state: how it waits, or "trying" in the hands of a worker."""
        if self.state >= HELD:
            return STATES[self.state]
        # The next time is written before an attempt begins: when it has come, the worker of the last one is gone.
        if self.owner and self.due_us > now_us:
            return UNDER_WAY
        return DUE if self.due_us <= now_us else STATES[self.state]


_COLUMNS: Final = (
    "SELECT d.id, d.message, d.recipient, d.domain, d.attempts, d.owner, d.due_us, d.state, d.next_hop, d.held,"
    " d.last_reply, m.sender, m.size, d.login FROM deliveries d JOIN messages m ON m.id = d.message"
)


def first_id(at_us: int) -> int:
    """The lowest id that is made at a time."""
    return max(0, at_us - EPOCH_US) << WRITER_BITS


def pages(
    reader: Reader, selection: Selection, now_us: int, *, after: int = 0, most: int = ROWS_PER_UNIT
) -> Iterator[list[Chosen]]:
    """Pages of at most `most` selected deliveries in the order of their ids; never an empty one."""
    if selection.is_empty:
        return
    condition, values = selection.condition(now_us)
    direct = bool(selection.message or selection.delivery)
    last = after
    while True:
        top = None if direct else _border(reader, last)
        upper = "" if top is None else " AND d.id <= ?"
        rows = reader.rows_now(
            f"{_COLUMNS} WHERE d.id > ?{upper} AND {condition} ORDER BY d.id LIMIT {most}",
            [last, *(() if top is None else (top,)), *values],
        )
        if rows:
            yield [Chosen(*row) for row in rows]
        if len(rows) == most:
            last = rows[-1][0]
        elif top is None:
            return
        else:
            last = top


def _border(reader: Reader, after: int) -> int | None:
    """The id of the row LOOKED_AT rows further; None when there are fewer."""
    rows = reader.rows_now(
        f"SELECT id FROM deliveries WHERE id > ? ORDER BY id LIMIT 1 OFFSET {LOOKED_AT - 1}", (after,)
    )
    return rows[0][0] if rows else None
