"""Which site each domain's mail went to when its way was last planned: what the queue is grouped by."""

from __future__ import annotations

from typing import Final

from postroad.store.records import Record
from postroad.store.slices import Slices
from postroad.store.units import ROWS_PER_UNIT, Tx, unit
from postroad.store.writer import Writer

SITES_KEPT_US: Final = 7 * 86_400_000_000
"""How long a site is kept that nobody has planned a way to: longer than mail lives in the queue."""
FORGET_EVERY_S: Final = 3600.0


class Planned(Record, frozen=True):
    """The site of one domain."""

    domain: str
    site: str


class SitesLearnt(Record, frozen=True):
    """Sites of at most ROWS_PER_UNIT domains."""

    sites: list[Planned]


@unit
def sites_learnt(tx: Tx, args: SitesLearnt) -> None:
    """Keeps the sites of these domains."""
    tx.executemany(
        "INSERT INTO sites (domain, site, seen_us) VALUES (?, ?, ?)"
        " ON CONFLICT (domain) DO UPDATE SET site = excluded.site, seen_us = excluded.seen_us",
        [(one.domain, one.site, tx.now_us) for one in sorted(args.sites[:ROWS_PER_UNIT], key=lambda one: one.domain)],
    )


class ForgottenSites(Slices):
    """Sites nobody has been to for long, removed by the store process (`store.server.Chore`)."""

    __slots__ = ()

    def __init__(self, writer: Writer) -> None:
        super().__init__(writer, FORGET_EVERY_S)

    def _slice(self, tx: Tx) -> None:
        rows = tx.execute(
            "SELECT domain FROM sites WHERE seen_us < ? ORDER BY seen_us LIMIT ?",
            (tx.now_us - SITES_KEPT_US, ROWS_PER_UNIT),
        )
        if rows:
            over = tx.now_us - SITES_KEPT_US
            tx.executemany("DELETE FROM sites WHERE domain = ? AND seen_us < ?", [(row[0], over) for row in rows])
        self._more = len(rows) == ROWS_PER_UNIT
