"""Sites that nothing or less goes to for a while: noted by the worker that learnt it, read by the others and by `why`.

A suspension ends with its time, by a probe that was taken, or because somebody lifts it. The workers that learnt it
believe only the last of these when the row is gone: their own note may not be written yet.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from postroad.store.engine import Params, Row
from postroad.store.reader import Reader
from postroad.store.records import NEVER_US, Record
from postroad.store.units import ROWS_PER_UNIT, Table, Tx, unit

LIFTED_TOLD_US: Final = 60_000_000
"""How long a lifted suspension stands for the workers to see; a hint brings it to them at once."""

DOMAINS_NOTED: Final = ROWS_PER_UNIT - 1
"""Domains of one call; a provider serves more, and each is noted when there is mail for it."""


class Suspension(Record, frozen=True):
    """Nothing goes to this site until then."""

    site: str
    """Source address and site, as `flow.lanes` names them."""
    domains: list[str]
    until_us: int
    cause: str
    """The rule and what the reply meant, for people."""
    by_source: bool = False
    """It is about the source address alone: mail may leave from another."""


class Resumption(Record, frozen=True):
    """Mail goes to this site again."""

    site: str


class Lift(Record, frozen=True):
    """Somebody wants mail to go to this site again, now."""

    site: str


SUSPENSIONS: Final = Table("suspensions", "domain site until_us cause by_source lifted")


@unit
def note_suspension(tx: Tx, args: Suspension) -> None:
    """Writes down that a site is suspended, for each domain given; tells the other workers."""
    tx.flush()
    tx.execute("DELETE FROM suspensions WHERE until_us <= ?", (tx.now_us,))
    for domain in args.domains[:DOMAINS_NOTED]:
        tx.execute("DELETE FROM suspensions WHERE domain = ? AND site = ?", (domain, args.site))
        tx.append(SUSPENSIONS, (domain, args.site, args.until_us, args.cause, int(args.by_source), 0))
    tx.hint("suspensions")


@unit
def forget_suspension(tx: Tx, args: Resumption) -> None:
    """Removes what stands of a site; tells the other workers when there was anything."""
    tx.flush()
    if tx.execute("DELETE FROM suspensions WHERE site = ? RETURNING domain", (args.site,)):
        tx.hint("suspensions")


@unit
def lift_suspension(tx: Tx, args: Lift) -> int:
    """Ends a suspension before its time, for all workers; returns for how many domains it was known, 0 for none."""
    tx.flush()
    rows = tx.execute(
        "UPDATE suspensions SET until_us = ?, lifted = 1 WHERE site = ? AND until_us > ? AND lifted = 0"
        " RETURNING domain",
        (tx.now_us + LIFTED_TOLD_US, args.site, tx.now_us),
    )
    if rows:
        tx.hint("suspensions")
    return len(rows)


class Slowdown(Record, frozen=True):
    """Mail goes to this site slower until then."""

    site: str
    until_us: int
    cause: str


@unit
def note_slowdown(tx: Tx, args: Slowdown) -> None:
    """Writes down that a site is slowed; tells the other workers."""
    tx.execute("DELETE FROM slowdowns WHERE until_us <= ?", (tx.now_us,))
    tx.execute(
        "INSERT INTO slowdowns (site, until_us, cause) VALUES (?, ?, ?)"
        " ON CONFLICT (site) DO UPDATE SET until_us = excluded.until_us, cause = excluded.cause",
        (args.site, args.until_us, args.cause),
    )
    tx.hint("suspensions")


class Suspended(NamedTuple):
    """A site that is suspended now, or slowed."""

    site: str
    until_us: int
    cause: str
    by_source: bool = False
    lifted: bool = False
    """It is not any more: somebody has lifted it. `until_us` says until when that is told."""
    slowed: bool = False
    """Mail goes there, but slower."""


class Rows(Protocol):
    """A worker's reading side (`store.reader.Reader`)."""

    async def rows(self, sql: str, params: Params = ()) -> list[Row]:
        """The rows of one SELECT."""
        ...


async def suspended_sites(reader: Rows, now_us: int) -> list[Suspended]:
    """Every site that is suspended or was just lifted, once, and every one that is slowed; raises StoreBroken."""
    rows = await reader.rows(
        "SELECT site, max(until_us), max(cause), min(by_source), lifted FROM suspensions WHERE until_us > ?"
        " GROUP BY site, lifted ORDER BY lifted DESC",
        (now_us,),
    )
    # What was suspended again since counts: it comes behind.
    found = {site: Suspended(site, until_us, why, bool(own), bool(over)) for site, until_us, why, own, over in rows}
    slowed = await reader.rows("SELECT site, until_us, cause FROM slowdowns WHERE until_us > ?", (now_us,))
    return [*found.values(), *(Suspended(site, end, why, slowed=True) for site, end, why in slowed)]


class Shaped(NamedTuple):
    """A suspended or slowed site as people see it."""

    site: str
    """Source address and site, as `flow.lanes` names them: what `Lift` takes."""
    until_us: int
    cause: str
    by_source: bool
    domains: int
    waiting: int
    """Deliveries to these domains that are not held."""
    slowed: bool = False
    """Mail goes there, but slower; of how many domains is not written down then."""


def shaped_sites(reader: Reader, now_us: int) -> list[Shaped]:
    """Every suspension, the one that ends first first, and then what is slowed; raises StoreBroken."""
    rows = reader.rows_now(
        "SELECT site, max(until_us), max(cause), min(by_source), count(*), (SELECT count(*) FROM deliveries WHERE"
        " owner = 0 AND due_us < ? AND next_hop = '' AND domain IN (SELECT domain FROM suspensions own"
        " WHERE own.site = suspensions.site AND own.until_us > ? AND own.lifted = 0))"
        " FROM suspensions WHERE until_us > ? AND lifted = 0 GROUP BY site ORDER BY 2, 1",
        (NEVER_US, now_us, now_us),
    )
    slowed = reader.rows_now("SELECT site, until_us, cause FROM slowdowns WHERE until_us > ? ORDER BY 2, 1", (now_us,))
    return [
        *(Shaped(*row)._replace(by_source=bool(row[3])) for row in rows),
        *(Shaped(site, end, why, False, 0, _waiting(reader, site), slowed=True) for site, end, why in slowed),
    ]


def _waiting(reader: Reader, site: str) -> int:
    """Deliveries to the domains whose mail went to a site last, those that are not held."""
    sql = (
        "SELECT count(*) FROM deliveries WHERE owner = 0 AND due_us < ? AND next_hop = ''"
        " AND domain IN (SELECT domain FROM sites WHERE site = ?)"
    )
    return int(reader.rows_now(sql, (NEVER_US, site.rpartition(">")[2]))[0][0])
