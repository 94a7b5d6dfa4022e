"""The site of each domain as its way was planned, told to the store so that people see the queue by site.

Gathered and told in batches that nobody waits for; what is lost is learnt again at the next plan.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from postroad.flow.recorder import Store
from postroad.store.client import UnitFailed
from postroad.store.sites import Planned, SitesLearnt, sites_learnt
from postroad.store.units import ROWS_PER_UNIT
from postroad.values.errors import StoreBroken, StoreFull

log = logging.getLogger(__name__)

TOLD_KEPT: Final = 50_000
"""Domains remembered as told; when it is more they are told again."""

TELL_AGAIN_S: Final = 86_400.0
"""After so long everything is told again: the store forgets sites that nobody goes to any more."""

GATHER_S: Final = 1.0
"""How long news waits for company."""


class SiteBook:
    """What one worker has learnt and told."""

    __slots__ = ("_began", "_news", "_store", "_task", "_timer", "_told")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._told: dict[str, str] = {}
        self._news: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._began = 0.0

    def learn(self, domain: str, site: str, now: float) -> None:
        """Notes where a domain's mail goes; `now` is monotonic."""
        if len(self._told) >= TOLD_KEPT or now - self._began > TELL_AGAIN_S:
            self._told.clear()
            self._began = now
        if self._told.get(domain) == site:
            return
        self._told[domain] = self._news[domain] = site
        if self._timer is None and self._task is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        try:
            while self._news:
                part = [self._news.popitem() for _ in range(min(len(self._news), ROWS_PER_UNIT))]
                await self._store.call(sites_learnt, SitesLearnt([Planned(*entry) for entry in part]))
        except (StoreBroken, StoreFull, UnitFailed) as error:
            log.warning("the sites of %d domains could not be kept: %s", len(self._news), error)
            self._told.clear()
        finally:
            self._task = None

    def close(self) -> None:
        """Tells nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
