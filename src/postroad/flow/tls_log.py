"""What each session with another server showed of its TLS: counted for its domain's report, and remembered.

The memory answers one question: did this domain protect its mail better before? Opportunistic mail is delivered all the
same, and the journal notes the loss. Sessions are counted only for domains that publish where reports go (RFC 8460).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import logging
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Final, Protocol

from postroad.flow.outbound import Courier, NoCourier
from postroad.flow.route import Hop
from postroad.flow.tls_policy import Level, Noted, TlsPolicies, is_address
from postroad.store.client import UnitFailed
from postroad.store.tls import Counted, KeptLevel, SeenLevels, TlsCounts, tls_count, tls_levels
from postroad.store.units import ROWS_PER_UNIT
from postroad.trust import tlsrpt
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.ports import Clock, Lookup, LookupStatus

log = logging.getLogger(__name__)

DAY_US: Final = 86_400_000_000
FLUSH_S: Final = 60.0
"""How often what was counted is written: so much of it may a crash lose."""
LAST_FLUSH_S: Final = 3.0
ASKED_AT_ONCE: Final = 50
"""TXT records asked for at the same time."""
COUNTS_MAX: Final = 10_000
"""Different results held until the next writing; beyond it they are counted without host and address."""
LEVELS_MAX: Final = 20_000
"""Domains whose level is held in memory after a writing; the oldest goes first."""
DETAIL_MAX: Final = 200
"""Characters of a failure's description that a report repeats."""

HELD_US: Final = DAY_US
"""Protection that was seen over at least a day is worth missing."""
FORGOTTEN_US: Final = 60 * DAY_US
"""After two months without it nobody misses it."""
SPREAD_S: Final = 4 * 3600.0
"""Reports leave within the first four hours of the next day, each at a time of its own (RFC 8460 section 4.1)."""
GIVE_UP_S: Final = 24 * 3600.0
"""RFC 8460 section 5.5: tries go on for 24 hours."""

LEVELS: Final = ("in the clear", "encrypted without proof", "verified")
"""What was seen, by its number in the store."""


class Store(Protocol):
    """Where it is written (`store.client.StoreClient`)."""

    async def call(self, unit: Callable[..., Any], args: Any) -> Any:
        """Runs a unit."""
        ...


class TlsLog:
    """Counts and remembers; `opened` and `failed` are told of every session, `flush` writes."""

    def __init__(self, *, policies: TlsPolicies, lookup: Lookup, store: Store, clock: Clock, rng: Random) -> None:
        self._policies = policies
        self._lookup = lookup
        self._store = store
        self._clock = clock
        self._rng = rng
        self._counts: dict[tuple[int, str, str, str, str, str, str], int] = {}
        self._levels: dict[str, KeptLevel] = {}
        self._changed: set[str] = set()
        self._flushing: asyncio.Task[None] | None = None

    # -- sessions ----------------------------------------------------------------------------------------------------

    def opened(self, domain: str, courier: Courier) -> str:
        """A session that carries mail of a domain; returns what the journal shall note of it, or nothing."""
        if courier.policy.level is Level.NONE:
            return ""
        noted = self._policies.noted(domain)
        # For a host that the configuration names a session counts once, whatever it carries.
        counted, found = noted.counted_as(domain, courier.hop.host)
        if noted.hosts is None or len(courier.domains) == 1:
            self._count(counted, found, courier.hop, *_result(found, courier))
        level = 2 if courier.verified else 1 if courier.tls else 0
        return self._remember(domain, level, noted.level)

    def failed(self, domains: Iterable[str], hop: Hop, refusal: NoCourier) -> None:
        """A host that took no session, for the mail of these domains; counted when TLS was the reason."""
        if refusal.fault:
            counted = dict(self._policies.noted(domain).counted_as(domain, hop.host) for domain in domains)
            for domain, found in counted.items():
                self._count(domain, found, hop, refusal.fault, refusal.detail)

    def _count(self, domain: str, noted: Noted, hop: Hop, result: str, detail: str = "") -> None:
        day = self._clock.wall_us() // DAY_US
        policy = tlsrpt.pack_published(noted.published(hop.host))
        key = (day, domain, policy, result, *((hop.host, hop.address, detail[:DETAIL_MAX]) if result else ("", "", "")))
        if key not in self._counts and len(self._counts) >= COUNTS_MAX:
            key = (day, domain, policy, result, "", "", "")
        self._counts[key] = self._counts.get(key, 0) + 1

    def _remember(self, domain: str, level: int, kept: KeptLevel | None) -> str:
        known = self._levels.get(domain) or kept
        now_us = self._clock.wall_us()
        if known is None or level > known.level or known.seen_us + FORGOTTEN_US < now_us:
            self._learn(domain, KeptLevel(level, now_us, now_us))
        elif level == known.level:
            if now_us - known.seen_us >= DAY_US:
                self._learn(domain, known._replace(seen_us=now_us))
        elif known.seen_us - known.since_us < HELD_US:
            self._learn(domain, KeptLevel(level, now_us, now_us))
        else:
            last = datetime.datetime.fromtimestamp(known.seen_us // 1_000_000, datetime.UTC)
            return f"{LEVELS[level]}, though {domain} was {LEVELS[known.level]} until {last:%Y-%m-%d}"
        return ""

    def _learn(self, domain: str, level: KeptLevel) -> None:
        self._levels[domain] = level
        self._changed.add(domain)

    # -- writing -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to write what was counted every FLUSH_S seconds."""
        self._flushing = asyncio.get_running_loop().create_task(self._flush_for_ever())

    async def stop(self) -> None:
        """Ends that, and writes what is left."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        # What cannot be written in a moment is not worth a slow end.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_FLUSH_S):
                await self.flush()

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except Exception:
                log.exception("TLS sessions could not be written down")

    async def flush(self) -> None:
        """Writes what was counted and learnt; what cannot be written now is lost, and said so."""
        counts, self._counts = self._counts, {}
        changed, self._changed = self._changed, set()
        try:
            await self._write_levels(sorted(changed))
            await self._write_counts(counts)
        except (StoreBroken, StoreFull, UnitFailed) as error:
            log.warning("counted TLS sessions are lost: %s", error)
        for domain in list(itertools.islice(self._levels, max(0, len(self._levels) - LEVELS_MAX))):
            del self._levels[domain]

    async def _write_levels(self, domains: list[str]) -> None:
        for at in range(0, len(domains), ROWS_PER_UNIT):
            slice_ = domains[at : at + ROWS_PER_UNIT]
            levels = [(domain, *self._levels[domain]) for domain in slice_ if domain in self._levels]
            await self._store.call(tls_levels, SeenLevels(levels))

    async def _write_counts(self, counts: dict[tuple[int, str, str, str, str, str, str], int]) -> None:
        wanted = await self._wanting(sorted({key[1] for key in counts}))
        by_day: dict[int, list[Counted]] = {}
        for key, sessions in counts.items():
            if key[1] in wanted:
                by_day.setdefault(key[0], []).append(Counted(*key, sessions))
        half = ROWS_PER_UNIT // 2
        for day, rows in by_day.items():
            for at in range(0, len(rows), half):
                await self._store.call(tls_count, self._slice(day, rows[at : at + half]))

    def _slice(self, day: int, rows: list[Counted]) -> TlsCounts:
        # Not at midnight itself: other workers still write down the last minute of the day.
        first_us = (day + 1) * DAY_US + int(5 * FLUSH_S * 1e6)
        due_us = first_us + int(self._rng.random() * SPREAD_S * 1e6)
        return TlsCounts(rows, due_us, due_us + int(GIVE_UP_S * 1e6))

    async def _wanting(self, domains: list[str]) -> set[str]:
        """Those of them that publish where reports go, asked for some at a time."""
        wanting: set[str] = set()
        for at in range(0, len(domains), ASKED_AT_ONCE):
            some = domains[at : at + ASKED_AT_ONCE]
            answers = await asyncio.gather(*(self._wants_reports(domain) for domain in some))
            wanting.update(domain for domain, wants in zip(some, answers, strict=True) if wants)
        return wanting

    async def _wants_reports(self, domain: str) -> bool:
        if domain.startswith("[") or is_address(domain):
            return False
        answer = await self._lookup.txt(tlsrpt.name_of_record(domain))
        return answer.status is LookupStatus.FOUND and bool(tlsrpt.read_rua(answer.records))


def _result(noted: Noted, courier: Courier) -> tuple[str, str]:
    """How a session that came to be counts, and why: both empty when it was as the domain's policy wants it.

    A policy in mode testing hinders nothing, and what would have failed under it is counted (RFC 8461 section 5). So is
    a policy that could not be fetched, also where an older one still holds (section 6).
    """
    host = courier.hop.host
    if courier.fault:
        return courier.fault, ""
    if noted.published(host).kind != tlsrpt.STS:
        return "", ""
    policy = noted.sts.policy
    if policy is not None and not policy.allows(host):
        return "validation-failure", f"{host} is none of the hosts that the MTA-STS policy names"
    if policy is not None and courier.unproved:
        return courier.unproved, ""
    return noted.sts.fault, noted.sts.why
