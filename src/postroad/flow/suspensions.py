"""Suspended and slowed sites, known to all workers and after a restart: noted by one, read by the others."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from postroad.flow.lanes import Lanes, Site
from postroad.flow.recorder import Store
from postroad.flow.shaping import State
from postroad.store.client import UnitFailed
from postroad.store.suspensions import (
    Resumption,
    Slowdown,
    Suspension,
    forget_suspension,
    note_slowdown,
    note_suspension,
)
from postroad.store.suspensions import Suspended as SuspendedSite
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.ports import Clock

log = logging.getLogger(__name__)

Suspended = Callable[[], Awaitable[list[SuspendedSite]]]
"""Reads the sites that are suspended now (`store.suspensions.suspended_sites`)."""


class Suspensions:
    """`on_change` is called with each site that became suspended, or open, by what another worker learnt."""

    def __init__(
        self,
        store: Store,
        read: Suspended,
        lanes: Lanes,
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._store = store
        self._read = read
        self._lanes = lanes
        self._clock = clock
        self._spawn = spawn
        self._known: dict[str, SuspendedSite] = {}
        self._stood: set[str] = set()
        """Sites that the store named at the last look: what it never named has not ended when it does not."""
        self._lifts: dict[str, int] = {}
        """Lifts that were obeyed: what was suspended again since is not opened by them."""
        self._slowed: dict[str, SuspendedSite] = {}
        self.on_change: Callable[[Site], None] = lambda site: None
        lanes.on_site = self._joined

    # -- telling -----------------------------------------------------------------------------------------------------

    def learnt(self, site: Site, cause: str, domains: list[str]) -> None:
        """A reply to this worker has suspended the site."""
        until_us = self._until_us(site)
        self._known[site.key] = SuspendedSite(site.key, until_us, cause, site.shape.by_source)
        site.told = set(domains)
        self._spawn(self._tell(note_suspension, Suspension(site.key, domains, until_us, cause, site.shape.by_source)))

    def slowed(self, site: Site, cause: str) -> None:
        """A reply to this worker has slowed the site."""
        until_us = self._until_us(site)
        self._slowed[site.key] = SuspendedSite(site.key, until_us, cause, slowed=True)
        self._spawn(self._tell(note_slowdown, Slowdown(site.key, until_us, cause)))

    def _until_us(self, site: Site) -> int:
        return self._clock.wall_us() + int((site.shape.until - self._clock.monotonic()) * 1e6)

    def mail_for(self, site: Site, domain: str) -> None:
        """Mail of this domain waits for the end of the suspension."""
        known = self._known.get(site.key)
        if known is not None and domain not in site.told:
            site.told.add(domain)
            noted = Suspension(site.key, [domain], known.until_us, known.cause, known.by_source)
            self._spawn(self._tell(note_suspension, noted))

    def ended(self, site: Site) -> None:
        """A probe was taken: mail goes there again."""
        site.told.clear()
        if self._known.pop(site.key, None) is not None:
            self._spawn(self._tell(forget_suspension, Resumption(site.key)))

    async def _tell(self, unit: Callable[..., Any], args: Suspension | Slowdown | Resumption) -> None:
        try:
            await self._store.call(unit, args)
        except (StoreBroken, StoreFull, UnitFailed) as error:
            log.warning("what was learnt of %s could not be written down (%s): %s", args.site, unit.__name__, error)

    # -- hearing -----------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Reads what stands in the store."""
        self._spawn(self._look())

    async def _look(self) -> None:
        try:
            rows = await self._read()
        except StoreBroken as error:
            log.warning("suspensions could not be read: %s", error)
            return
        self._hear_slowed([row for row in rows if row.slowed])
        rows = [row for row in rows if not row.slowed]
        stand = {row.site for row in rows}
        gone = (self._stood & self._known.keys()) - stand
        self._stood = stand
        self._lifts = {row.site: self._obey(row) for row in rows if row.lifted}
        for row in rows:
            if not row.lifted and self._known.get(row.site) != row:
                self._known[row.site] = row
                site = self._lanes.site(row.site)
                if site is not None and site.shape.state is not State.SUSPENDED:
                    self._joined(site)
                    self.on_change(site)
        for key in gone:
            self._gone(key)

    def _hear_slowed(self, rows: list[SuspendedSite]) -> None:
        """What is slowed here already, or worse, stays as it is: each worker learns from its own replies."""
        news = [row for row in rows if self._slowed.get(row.site) != row]
        self._slowed = {row.site: row for row in rows}
        for row in news:
            site = self._lanes.site(row.site)
            if site is not None:
                self._slow(site)

    def _slow(self, site: Site) -> None:
        known = self._slowed.get(site.key)
        left_s = (known.until_us - self._clock.wall_us()) / 1e6 if known is not None else 0.0
        if known is not None and left_s > 0 and site.shape.state is State.OPEN:
            site.shape.slow(left_s, known.cause, self._clock.monotonic())

    def _obey(self, row: SuspendedSite) -> int:
        """Opens a site that somebody has lifted; returns which lift that was."""
        site = self._lanes.site(row.site)
        if self._lifts.get(row.site) != row.until_us:
            self._known.pop(row.site, None)
            if site is not None and site.shape.state in (State.SUSPENDED, State.PROBING):
                site.told.clear()
                site.shape.resume()
                self.on_change(site)
        return row.until_us

    def _gone(self, key: str) -> None:
        """Another worker's probe was taken; a suspension whose time is up is probed by everybody."""
        known = self._known[key]
        site = self._lanes.site(key)
        if known.until_us > self._clock.wall_us() and site is not None and not site.told:
            site.shape.resume()
            self.on_change(site)
        if site is None or not site.told:
            del self._known[key]

    def _joined(self, site: Site) -> None:
        """A site that the store may know to be suspended or slowed."""
        self._slow(site)
        known = self._known.get(site.key)
        if known is None:
            return
        left_s = (known.until_us - self._clock.wall_us()) / 1e6
        if left_s > 0:
            site.shape.suspend(left_s, known.cause, self._clock.monotonic(), by_source=known.by_source)
