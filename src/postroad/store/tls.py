"""What is remembered of other servers' TLS: fetched MTA-STS policies, levels seen, sessions counted for reports.

Units write it, `TlsMemory` reads it. All of it may be lost without losing mail; it is kept because a policy that a
restart forgets protects nobody on the day of the attack (RFC 8461 section 10.2).
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from postroad.store.engine import Params, Row
from postroad.store.records import Record
from postroad.store.units import ROWS_PER_UNIT, Tx, unit

RETRY_US: Final = 3_600_000_000
"""A report that could not be sent is tried again an hour later."""

POLICIES_KEPT: Final = 200_000
"""MTA-STS policies; those that expire first go first. Few domains of the world publish one."""

ROWS_OF_REPORT: Final = 1000
"""Different results of one domain and day that its report tells; the rest would be the work of somebody playing."""


class StsPolicy(Record, frozen=True):
    """One policy to keep, or to keep in place of an older one."""

    domain: str
    record: str
    """The id of the TXT record."""
    policy: str
    """The file as it was fetched."""
    expires_us: int


class SeenLevels(Record, frozen=True):
    """Levels of domains as they are to be remembered: domain, level, since, last seen."""

    levels: list[tuple[str, int, int, int]]


class Counted(Record, frozen=True):
    """Sessions of one domain and day with one result."""

    day: int
    domain: str
    policy: str
    """Which policy held, as JSON (`trust.tlsrpt.Published`)."""
    result: str
    """A word of RFC 8460 section 4.3; empty for a good session."""
    host: str
    address: str
    detail: str
    sessions: int


class TlsCounts(Record, frozen=True):
    """A slice of counted sessions; at most ROWS_PER_UNIT / 2."""

    counts: list[Counted]
    due_us: int
    """When the reports of these domains are due, where none is planned yet."""
    until_us: int


class TakeReports(Record, frozen=True):
    """Ask for reports whose time has come."""

    limit: int


class ReportDay(Record, frozen=True):
    """One report: its UTC day in days since 1970, and its domain."""

    day: int
    domain: str


class ReportDays(Record, frozen=True):
    """Reports to send now, by the caller alone."""

    reports: list[ReportDay]


@unit
def sts_keep(tx: Tx, args: StsPolicy) -> None:
    """Keeps a fetched policy in place of the domain's older one."""
    tx.execute(
        "INSERT INTO sts_policies (domain, record, policy, fetched_us, expires_us) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (domain) DO UPDATE SET record = excluded.record, policy = excluded.policy,"
        " fetched_us = excluded.fetched_us, expires_us = excluded.expires_us",
        (args.domain, args.record, args.policy, tx.now_us, args.expires_us),
    )
    expired = tx.execute("SELECT domain FROM sts_policies WHERE expires_us < ? LIMIT 100", (tx.now_us,))
    beyond = "SELECT domain FROM sts_policies ORDER BY expires_us DESC LIMIT 100 OFFSET ?"
    tx.executemany("DELETE FROM sts_policies WHERE domain = ?", [*expired, *tx.execute(beyond, (POLICIES_KEPT,))])


@unit
def tls_levels(tx: Tx, args: SeenLevels) -> None:
    """Remembers the levels of domains."""
    tx.executemany(
        "INSERT INTO tls_levels (domain, level, since_us, seen_us) VALUES (?, ?, ?, ?) ON CONFLICT (domain)"
        " DO UPDATE SET level = excluded.level, since_us = excluded.since_us, seen_us = excluded.seen_us",
        args.levels,
    )


@unit
def tls_count(tx: Tx, args: TlsCounts) -> None:
    """Adds counted sessions to those of their day, and plans the reports that tell of them."""
    tx.executemany(
        "INSERT INTO tls_sessions (day, domain, policy, result, host, address, detail, sessions)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (day, domain, policy, result, host, address, detail)"
        " DO UPDATE SET sessions = tls_sessions.sessions + excluded.sessions",
        [(c.day, c.domain, c.policy, c.result, c.host, c.address, c.detail, c.sessions) for c in args.counts],
    )
    tx.executemany(
        "INSERT INTO tls_reports (day, domain, due_us, until_us) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [(day, domain, args.due_us, args.until_us) for day, domain in sorted({(c.day, c.domain) for c in args.counts})],
    )


@unit
def tls_reports_take(tx: Tx, args: TakeReports) -> ReportDays:
    """Gives due reports to the caller, each with the time of its next try already written.

    Those whose time is over are forgotten with their sessions.
    """
    tx.flush()
    rows = tx.execute(
        "SELECT day, domain, until_us FROM tls_reports WHERE due_us <= ? ORDER BY due_us LIMIT ?"
        + tx.skip_locked("tls_reports"),
        (tx.now_us, args.limit),
    )
    taken = []
    for day, domain, until_us in rows:
        if until_us < tx.now_us:
            _forget(tx, ReportDay(day, domain))
        else:
            taken.append(ReportDay(day, domain))
    if taken:
        later = [(tx.now_us + RETRY_US, report.day, report.domain) for report in taken]
        tx.executemany("UPDATE tls_reports SET due_us = ? WHERE day = ? AND domain = ?", later)
    return ReportDays(taken)


@unit
def tls_report_done(tx: Tx, args: ReportDay) -> None:
    """Forgets a report that was sent, or that nobody wants, with the sessions it told of."""
    _forget(tx, args)


def _forget(tx: Tx, report: ReportDay) -> None:
    """What does not fit into one unit goes with the next try."""
    where = "day = ? AND domain = ?"
    key = (report.day, report.domain)
    rows = tx.execute(
        f"SELECT policy, result, host, address, detail FROM tls_sessions WHERE {where} LIMIT ?", (*key, ROWS_PER_UNIT)
    )
    tx.executemany(
        f"DELETE FROM tls_sessions WHERE {where} AND policy = ? AND result = ? AND host = ? AND address = ?"
        " AND detail = ?",
        [(*key, *row) for row in rows],
    )
    if len(rows) < ROWS_PER_UNIT:
        tx.execute(f"DELETE FROM tls_reports WHERE {where}", key)


# -- reading -----------------------------------------------------------------------------------------------------------


class Rows(Protocol):
    """A read-only connection (`store.reader.Reader`)."""

    async def rows(self, sql: str, params: Params = ()) -> list[Row]:
        """The rows of one SELECT."""
        ...


class KeptPolicy(NamedTuple):
    """A policy as it was fetched."""

    record: str
    policy: str
    fetched_us: int
    expires_us: int


class KeptLevel(NamedTuple):
    """The best protection seen at a domain."""

    level: int
    since_us: int
    seen_us: int


class TlsMemory:
    """Reads what the units wrote."""

    def __init__(self, reader: Rows) -> None:
        self._rows = reader.rows

    async def sts(self, domain: str) -> KeptPolicy | None:
        """The policy kept for a domain, expired or not."""
        rows = await self._rows(
            "SELECT record, policy, fetched_us, expires_us FROM sts_policies WHERE domain = ?", (domain,)
        )
        return KeptPolicy(*rows[0]) if rows else None

    async def level(self, domain: str) -> KeptLevel | None:
        """What was seen at a domain."""
        rows = await self._rows("SELECT level, since_us, seen_us FROM tls_levels WHERE domain = ?", (domain,))
        return KeptLevel(*rows[0]) if rows else None

    async def stale(self, fetched_us: int, before_us: int, now_us: int, limit: int) -> list[str]:
        """Domains whose policies were fetched before one time or end before the other, and have not ended yet.

        Those that end first come first.
        """
        sql = (
            "SELECT domain FROM sts_policies WHERE expires_us >= ? AND (fetched_us < ? OR expires_us < ?)"
            " ORDER BY expires_us LIMIT ?"
        )
        return [domain for (domain,) in await self._rows(sql, (now_us, fetched_us, before_us, limit))]

    async def sessions(self, report: ReportDay) -> list[Counted]:
        """What a report tells, at most ROWS_OF_REPORT results."""
        rows = await self._rows(
            "SELECT day, domain, policy, result, host, address, detail, sessions FROM tls_sessions"
            " WHERE day = ? AND domain = ? ORDER BY policy, result, host, address, detail LIMIT ?",
            (report.day, report.domain, ROWS_OF_REPORT),
        )
        return [Counted(*row) for row in rows]
