"""Sites that nothing goes to for a while: noted by the worker that learnt it, read by the others and by `why`."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from postroad.store.engine import Params, Row
from postroad.store.records import Record
from postroad.store.units import ROWS_PER_UNIT, Table, Tx, unit

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


SUSPENSIONS: Final = Table("suspensions", "domain site until_us cause by_source")


@unit
def note_suspension(tx: Tx, args: Suspension) -> None:
    """Writes down that a site is suspended, for each domain given; tells the other workers."""
    tx.flush()
    tx.execute("DELETE FROM suspensions WHERE until_us <= ?", (tx.now_us,))
    for domain in args.domains[:DOMAINS_NOTED]:
        tx.execute("DELETE FROM suspensions WHERE domain = ? AND site = ?", (domain, args.site))
        tx.append(SUSPENSIONS, (domain, args.site, args.until_us, args.cause, int(args.by_source)))
    tx.hint("suspensions")


@unit
def forget_suspension(tx: Tx, args: Resumption) -> None:
    """Removes what stands of a site; tells the other workers when there was anything."""
    tx.flush()
    if tx.execute("DELETE FROM suspensions WHERE site = ? RETURNING domain", (args.site,)):
        tx.hint("suspensions")


class Suspended(NamedTuple):
    """A site that is suspended now."""

    site: str
    until_us: int
    cause: str
    by_source: bool = False


class Rows(Protocol):
    """A worker's reading side (`store.reader.Reader`)."""

    async def rows(self, sql: str, params: Params = ()) -> list[Row]:
        """The rows of one SELECT."""
        ...


async def suspended_sites(reader: Rows, now_us: int) -> list[Suspended]:
    """Every site that is suspended, once; raises StoreBroken."""
    rows = await reader.rows(
        "SELECT site, max(until_us), max(cause), min(by_source) FROM suspensions WHERE until_us > ? GROUP BY site",
        (now_us,),
    )
    return [Suspended(site, until_us, cause, bool(by_source)) for site, until_us, cause, by_source in rows]
