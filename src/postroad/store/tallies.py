"""What waits, in groups: by site, domain, user or reason, with the ages of its mail.

Deliveries that nobody has in hand are counted from an index that holds all columns of the question and no others
(`deliveries_waiting`), in pieces of PIECE rows: each is a reading transaction of its own, and two threads share them.
The few that a worker has in hand are read one by one. While the pieces are read the queue goes on, so a delivery that
changes hands in that moment may be counted twice or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

from postroad.store.reader import Reader
from postroad.store.records import DROPPED, HELD, NEVER_US, THROTTLED
from postroad.store.selection import first_id
from postroad.values.reason import reason_text

BY: Final = ("site", "domain", "user", "reason")

AGES_MIN: Final = (5, 10, 20, 40, 80, 160, 320, 640, 1280)
"""Upper ends of the ages in minutes, as Postfix's qshape has them; the last column is everything older."""

PIECE: Final = 32_000
"""Rows that one statement counts, about 10 ms; fewer than a counter of _BITS holds."""
READERS: Final = 2
"""Threads that count; more find the rows no faster out of one cache."""
IN_HAND_SHOWN: Final = 20_000
"""Deliveries in the hands of workers that are looked at; a worker has 3,000 at most."""

MINUTE_US: Final = 60_000_000


class Group(NamedTuple):
    """Open deliveries that have one thing in common."""

    name: str
    """The site, domain, login or reason; empty for mail without one."""
    deliveries: int
    due: int
    """Of these, how many may be tried now."""
    under_way: int
    """In the hands of a worker."""
    throttled: int
    held: int
    dropped: int
    """Dropped by hand, and not gone yet."""
    oldest: int
    """Id of the message that waits longest (`values.ids.made_at_us` tells since when)."""
    next_us: int
    """When the next of them may be tried; 0 when all wait for a hand."""
    heat: tuple[int, ...]
    """How many are at most as old as each of AGES_MIN and older than the one before, and how many older than all."""
    reason: str
    """Why one of them waits."""


class Overview(NamedTuple):
    """The groups, those with most mail first, and the sum of all of them."""

    groups: list[Group]
    total: Group
    more: int
    """Groups left out."""


class _Sum:
    """A group while it is counted."""

    __slots__ = ("counts", "heat", "next_us", "oldest", "sample")

    def __init__(self) -> None:
        self.counts = [0] * 6
        """As the numbers of a Group, in its order."""
        self.oldest = self.next_us = NEVER_US
        self.sample = 0
        self.heat = [0] * (len(AGES_MIN) + 1)

    def add(self, counts: Sequence[int], heat: Sequence[int], oldest: int, next_us: int, sample: int) -> None:
        """Adds a piece of it, or another group."""
        for own, more in ((self.counts, counts), (self.heat, heat)):
            for at, number in enumerate(more):
                own[at] += number
        self.oldest = min(self.oldest, oldest)
        self.next_us = min(self.next_us, next_us)
        self.sample = self.sample or sample


_KEY: Final = "domain, next_hop, reason, login"
_PLACE: Final = f"{_KEY}, message"
_NO_PLACE: Final = ("", "", -1, "", 0)
"""Before every row. A place is the five columns of a row, or a domain, at whose end it lies."""
_NAMES: Final = {
    "site": ("domain, next_hop", "CASE WHEN next_hop <> '' THEN next_hop ELSE coalesce(site, domain) END"),
    "domain": ("domain", "domain"),
    "user": (_KEY, "login"),
    "reason": ("domain, next_hop, reason", "reason"),
}
"""For each grouping: the columns of the index that tell its groups apart, and the name of a group."""


def overview(data_dir: Path, by: str, now_us: int, limit: int) -> Overview:
    """Groups of everything that is open; raises StoreBroken when there is no store."""
    reader = Reader(data_dir)
    try:
        sums: dict[Any, _Sum] = {}
        for rows in _counted(data_dir, reader, by, now_us):
            _take(sums, rows)
        _take_in_hand(sums, reader, by, now_us)
        return _overview(reader, sums, by, limit)
    finally:
        reader.close()


def _counted(data_dir: Path, reader: Reader, by: str, now_us: int) -> Iterable[list[Any]]:
    """The rows of each piece; where the next piece begins is found while those before are counted."""
    low = _NO_PLACE
    high = _border(reader, low)
    if high is None:
        yield reader.rows_now(_question(by, now_us, low, high), low)
        return
    readers = SimpleQueue[Reader]()

    def count(sql: str, values: tuple[Any, ...]) -> list[Any]:
        own = readers.get()
        try:
            return own.rows_now(sql, values)
        finally:
            readers.put(own)

    with ExitStack() as stack:
        for _ in range(READERS):
            own = Reader(data_dir)
            stack.callback(own.close)
            readers.put(own)
        pool = stack.enter_context(ThreadPoolExecutor(READERS, "tally"))
        pieces = []
        while high is not None:
            pieces.append(pool.submit(count, _question(by, now_us, low, high), (*low, *high)))
            low, high = high, _border(reader, high)
        pieces.append(pool.submit(count, _question(by, now_us, low, None), low))
        for each in pieces:
            yield each.result()


def _border(reader: Reader, low: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The last place of the piece that begins behind `low`; None when it is the last piece.

    It is the end of a domain where that is near: to compare one column costs less than to compare five.
    """
    slack = PIECE // 8
    waiting = "FROM deliveries INDEXED BY deliveries_waiting WHERE owner = 0 AND"
    rows = reader.rows_now(
        f"SELECT {_PLACE} {waiting} {_side(low, '>')} ORDER BY {_PLACE} LIMIT 1 OFFSET {PIECE - slack - 1}", low
    )
    if not rows:
        return None
    place: tuple[Any, ...] = rows[0]
    beyond = reader.rows_now(
        f"SELECT 1 {waiting} domain = ? AND ({_PLACE}) > (?, ?, ?, ?, ?) LIMIT 1 OFFSET {slack}", (place[0], *place)
    )
    return place if beyond else place[:1]


def _side(place: tuple[Any, ...], sign: str) -> str:
    return f"domain {sign} ?" if len(place) == 1 else f"({_PLACE}) {sign} (?, ?, ?, ?, ?)"


_BITS: Final = 15
"""Four counters of so many bits share one sum: that takes a third less time than a sum for each."""
_MASK: Final = (1 << _BITS) - 1


def _question(by: str, now_us: int, low: tuple[Any, ...], high: tuple[Any, ...] | None) -> str:
    """The statement that counts one piece; numbers stand in it as they are, because they do not change."""
    columns, name = _NAMES[by]
    below = f" AND {_side(high, '<=')}" if high is not None else ""
    edges = [first_id(now_us - minutes * MINUTE_US) for minutes in AGES_MIN]
    one = [1 << _BITS * at for at in range(4)]
    young = _case(edges[:4], one)
    middle = f"CASE WHEN message >= {edges[3]} THEN 0 {_case(edges[4:8], one)[5:]}"
    oldest = f"CASE WHEN message < {edges[8]} THEN 0 WHEN message < {edges[7]} THEN {one[3]} ELSE 0 END"
    # throttled, held and dropped are 2, 3 and 4, and become the first three counters
    states = f"((1 << ({_BITS} * state)) >> {2 * _BITS}) + {oldest}"
    in_order = (
        f"SELECT {columns}, count(*) AS a, sum(due_us <= {now_us}) AS b, min(message) AS c, min(due_us) AS d,"
        f" max(CASE WHEN reason <> 0 THEN id ELSE 0 END) AS e,"
        f" sum({states}) AS f, sum({young}) AS g, sum({middle}) AS h"
        f" FROM deliveries INDEXED BY deliveries_waiting WHERE owner = 0 AND {_side(low, '>')}{below}"
        f" GROUP BY {columns}"
    )
    if columns == name:
        return in_order
    sites = " LEFT JOIN sites USING (domain)" if by == "site" else ""
    figures = "sum(a), sum(b), min(c), min(d), max(e), sum(f), sum(g), sum(h)"
    return f"SELECT {name}, {figures} FROM ({in_order}){sites} GROUP BY 1"


def _case(edges: Sequence[int], values: Sequence[int]) -> str:
    """The value of the first edge that a message is not older than; most are older than all, so that comes first."""
    steps = " ".join(f"WHEN message >= {edge} THEN {value}" for edge, value in zip(edges, values, strict=True))
    return f"CASE WHEN message < {edges[-1]} THEN 0 {steps} END"


def _counters(packed: int) -> list[int]:
    return [packed >> _BITS * at & _MASK for at in range(4)]


def _take(sums: dict[Any, _Sum], rows: Iterable[Any]) -> None:
    for name, number, due, oldest, next_us, sample, states, young, middle in rows:
        known = sums.get(name)
        if known is None:
            known = sums[name] = _Sum()
        *waiting, at_last = _counters(states)
        heat = [*_counters(young), *_counters(middle), at_last]
        known.add((number, due, 0, *waiting), (*heat, number - sum(heat)), oldest, next_us, sample)


def _take_in_hand(sums: dict[Any, _Sum], reader: Reader, by: str, now_us: int) -> None:
    edges = [first_id(now_us - minutes * MINUTE_US) for minutes in AGES_MIN]
    sites = " LEFT JOIN sites USING (domain)" if by == "site" else ""
    for name, reason, message, due_us, state, ident in reader.rows_now(
        f"SELECT {_NAMES[by][1]}, reason, message, due_us, state, id FROM deliveries{sites} WHERE id IN"
        f" (SELECT id FROM deliveries INDEXED BY deliveries_due WHERE owner <> 0 LIMIT {IN_HAND_SHOWN})"
    ):
        # The next time is written before an attempt begins: when it has come, the worker of the last one is gone.
        due = due_us <= now_us
        counts = (1, int(due), int(not due), int(state == THROTTLED), int(state == HELD), int(state == DROPPED))
        heat = [0] * (len(AGES_MIN) + 1)
        heat[next((at for at, edge in enumerate(edges) if message >= edge), -1)] = 1
        sums.setdefault(name, _Sum()).add(counts, heat, message, due_us, ident if reason else 0)


def _overview(reader: Reader, sums: dict[Any, _Sum], by: str, limit: int) -> Overview:
    total = _Sum()
    for one in sums.values():
        total.add(one.counts, one.heat, one.oldest, one.next_us, one.sample)
    fullest = sorted(sums.items(), key=lambda entry: (-entry[1].counts[0], entry[0]))[:limit]
    reasons = _reasons(reader, [one.sample for _, one in fullest])
    groups = []
    for name, one in fullest:
        reason = reasons.get(one.sample, "")
        groups.append(_group(reason_text(reason) if by == "reason" else name, one, reason))
    return Overview(groups, _group("", total, ""), len(sums) - len(groups))


def _reasons(reader: Reader, samples: list[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    wanted = [ident for ident in samples if ident]
    for start in range(0, len(wanted), 500):
        part = wanted[start : start + 500]
        marks = ", ".join("?" * len(part))
        sql = "SELECT id, CASE WHEN state >= ? THEN held ELSE last_reply END FROM deliveries WHERE id IN"
        found.update(reader.rows_now(f"{sql} ({marks})", (HELD, *part)))
    return found


def _group(name: str, one: _Sum, reason: str) -> Group:
    next_us = one.next_us if one.next_us < NEVER_US else 0
    oldest = one.oldest if one.oldest < NEVER_US else 0
    deliveries, due, under_way, throttled, held, dropped = one.counts
    return Group(
        name, deliveries, due, under_way, throttled, held, dropped, oldest, next_us, tuple(one.heat), reason
    )  # fmt: skip
