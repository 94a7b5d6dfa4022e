"""A worker's side of the limits that hold over all workers: asks the store process for shares and gives them back.

Mail never waits for an answer while the worker has a share: it is asked for when a lane first wants a connection, and
looked at again every REVIEW_S and at each hint. What is not used is given back then, so a worker that has all the mail
comes to the full limit within seconds.

Invariant: a site's connections are at most its `held`, which is at most what the store has this worker down for: a
share is made smaller here before the store hears of it, and larger after the store has said so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from postroad.flow.lanes import Site
from postroad.flow.recorder import Store
from postroad.flow.shaping import Limits, Shape
from postroad.store.client import UnitFailed
from postroad.store.grants import TOKEN_S, Ask, Asks, Share, lease
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.ports import Clock

log = logging.getLogger(__name__)

REVIEW_S: Final = 1.0
"""How often shares are compared with what is needed, without a hint."""

ELSEWHERE_S: Final = 5.0
"""How long another worker is taken for a site's home before the store is asked again."""

GATHER_S: Final = 0.002
"""How long an ask waits for others, so that a batch of new sites is one call."""


class Tokens:
    """Messages of a limited rate that the store has given to this worker."""

    __slots__ = ("_ask", "_until", "left", "retry_at")

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._until = 0.0
        self.left = 0
        self.retry_at = 0.0
        """When the store may have more."""

    def wait(self, now: float) -> float:
        """Seconds until one may go; asks for more where there is none."""
        if self.free(now):
            return 0.0
        if now >= self.retry_at:
            self._ask()
            return GATHER_S * 2
        return self.retry_at - now

    def free(self, now: float) -> int:
        """How many may go."""
        return self.left if now < self._until else 0

    def take(self, now: float) -> None:
        """One of them goes."""
        self.left -= 1

    def given(self, count: int, wait_s: float, asked_at: float, now: float) -> None:
        """The store has answered; what it gave holds from before it was asked."""
        self.left, self._until = count, asked_at + TOKEN_S
        self.retry_at = now + (wait_s if not count else 0.0)


class Grants:
    """Shares of one worker; `on_change` is called with every site whose share has become larger, or whose mail is to be
    left to another worker (then `elsewhere_until` lies ahead)."""

    def __init__(self, store: Store, workers: int, clock: Clock) -> None:
        self._store = store
        self._workers = workers
        self._now = clock.monotonic
        self._sites: dict[str, Site] = {}
        """Sites of which something is held or wanted."""
        self._keys: dict[str, bool] = {}
        self._asking: set[str] = set()
        self._soon: set[Site] = set()
        self._flush: asyncio.TimerHandle | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_change: Callable[[Site], None] = lambda site: None

    # -- what the lanes call -----------------------------------------------------------------------------------------

    def join(self, key: str, limits: Limits) -> Shape:
        """The shape of a site of which nothing has been asked for yet."""
        tokens = Tokens(lambda: self._short(key)) if limits.per_minute or limits.per_hour else None
        return Shape(limits, share=0, allowance=tokens)

    def known(self, site: Site) -> None:
        """A site that `join` made a shape for has a lane."""
        self._sites[site.key] = site

    def want(self, site: Site) -> None:
        """The site could use a larger share: it is asked for, unless that has just been done."""
        if site.elsewhere_until > self._now():
            return
        self._soon.add(site)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(GATHER_S, self._ask_soon)

    def _short(self, key: str) -> None:
        site = self._sites.get(key)
        if site is not None:
            self.want(site)

    def review(self, site: Site) -> None:
        """A connection of the site has ended: what is above the share is given back now, the rest at the next look."""
        if site.held > site.shape.share:
            self.want(site)

    def look(self) -> None:
        """The store hints that shares have changed."""
        for site in list(self._sites.values()):
            if site.held or site.wanted:
                self.want(site)

    # -- asking ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to look at shares regularly."""
        self._tick = asyncio.get_running_loop().call_later(REVIEW_S, self._review_all)

    def stop(self) -> None:
        """Asks for nothing more."""
        for handle in (self._tick, self._flush):
            if handle is not None:
                handle.cancel()
        self._tick = self._flush = None

    def _review_all(self) -> None:
        self.start()
        for key, site in list(self._sites.items()):
            wanted = site.wanted
            if wanted != site.held:
                self.want(site)
            elif not wanted and not site.lanes:
                del self._sites[key]

    def _ask_soon(self) -> None:
        self._flush = None
        sites = [site for site in self._soon if site.key not in self._asking]
        self._soon.difference_update(sites)
        if sites:
            task = asyncio.get_running_loop().create_task(self._ask(sites))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(self, sites: list[Site]) -> None:
        asked_at = self._now()
        asks = [self._composed(site) for site in sites]
        keys = {site.key for site in sites}
        self._asking |= keys
        try:
            answer = await self._store.call(lease, Asks(self._workers, asks))
        except (StoreBroken, StoreFull, UnitFailed) as error:
            # What was kept is still ours; the rest was given up here and may or may not have been heard of.
            log.warning("shares of %d sites could not be asked for: %s", len(sites), error)
            return
        finally:
            self._asking -= keys
        for site, share in zip(sites, answer.shares, strict=True):
            self._apply(site, share, asked_at)
        if self._soon and self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(GATHER_S, self._ask_soon)

    def _composed(self, site: Site) -> Ask:
        """What to ask for one site; what is not kept may not be used from here on."""
        limits = site.shape.limits
        wanted = site.wanted
        keep = max(site.connections, min(wanted, site.held, site.shape.share))
        site.held = keep
        site.shape.share = min(site.shape.share, keep)
        tokens = site.shape.allowance
        messages = 0
        if isinstance(tokens, Tokens) and not tokens.free(self._now()):
            messages = site.connections + site.turns.count
        return Ask(site.key, limits.connections, keep, wanted, limits.per_minute, limits.per_hour, messages)

    def _apply(self, site: Site, share: Share, asked_at: float) -> None:
        now = self._now()
        site.held = share.connections
        site.shape.share = min(share.connections, share.most)
        tokens = site.shape.allowance
        if isinstance(tokens, Tokens) and not tokens.free(now):
            tokens.given(share.messages, share.wait_s, asked_at, now)
        if share.home:
            site.elsewhere_until = now + ELSEWHERE_S
        self.on_change(site)
