"""Grants: limits that hold over all workers of a machine, shared out by the store process from memory.

A worker asks for connections to a site and for messages where their rate is limited; what it is given is its own
until it gives it back. The lease is the worker's open socket, as it is for deliveries: a worker that stands still keeps
what it has, because its connections stand still with it; when it is killed (ten seconds later, `serve.supervisor`), its
share waits LINGER_S more, until the hosts have seen those connections end.

Invariant: at every moment the shares of a site, with those of workers that just died, add up to its limit at most; and
what was given of a rate fits into every span of the rate's length, reckoned with the time that a worker may keep a
message it was given.

Fairness: a site's limit is divided evenly among the workers that want more than they have; who holds more than such a
part is told to give back what is above it. A site whose limit is below twice the workers has one home: the worker that
asked first has all of it, and the others leave their mail to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from postroad.store.records import Record
from postroad.store.units import Tx, unit
from postroad.values.ports import Clock
from postroad.values.rate import Rate

LINGER_S: Final = 1.0
"""How long the share of a dead worker is kept: the kernel ends all its connections, and hosts must hear of it."""

TOKEN_S: Final = 2.0
"""How long a message that was given may wait to be sent; then it is given up."""

BATCH_S: Final = 1.0
"""For how much time a worker is given messages at once."""

HINT_S: Final = 0.2
"""Hints about one site are this far apart: each makes every worker ask."""

SWEEP_S: Final = 10.0
IDLE_S: Final = 3700.0
"""When a site nobody asked for is forgotten: after the longest span of its rates."""

MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0


class Ask(Record, frozen=True):
    """What a worker wants of one site."""

    site: str
    limit: int
    """Connections over all workers."""
    keep: int
    """Connections it has and keeps; the rest of its share is given back."""
    want: int
    """Connections it would have something to do for; 0 with nothing kept: it is done with this site."""
    per_minute: int = 0
    per_hour: int = 0
    messages: int = 0
    """Messages that wait, where a rate is limited."""


class Asks(Record, frozen=True):
    """Everything a worker wants now."""

    workers: int
    asks: list[Ask]


class Share(Record, frozen=True):
    """What a worker has of one site, in the order of the asks."""

    connections: int
    most: int
    """What it should come down to, because others want a part."""
    messages: int = 0
    """May be sent within TOKEN_S."""
    wait_s: float = 0.0
    """When to ask for messages again, where there were none."""
    home: int = 0
    """Another worker to which this site's mail is to be left; 0: none."""


class Shares(Record, frozen=True):
    """The answer to `Asks`."""

    shares: list[Share]


@unit
def lease(tx: Tx, args: Asks) -> Shares:
    """Gives everything: who asks in a transaction is alone. The store process answers this call itself, without one,
    from an `Authority`."""
    return Shares([Share(ask.want, ask.limit, ask.messages) for ask in args.asks])


class _Site:
    """Who has what of one site."""

    __slots__ = ("asked_at", "ghosts", "hinted_at", "home", "limit", "rates", "shares", "wants")

    def __init__(self) -> None:
        self.limit = 0
        self.shares: dict[int, int] = {}
        self.wants: dict[int, int] = {}
        self.ghosts: list[tuple[float, int]] = []
        """Shares of the dead: until when, how much."""
        self.home = 0
        self.rates: dict[float, Rate] = {}
        self.asked_at = 0.0
        self.hinted_at = float("-inf")

    def free(self, now: float) -> int:
        """Connections that nobody has."""
        if self.ghosts:
            self.ghosts = [(until, count) for until, count in self.ghosts if until > now]
        return self.limit - sum(self.shares.values()) - sum(count for _, count in self.ghosts)

    def fair(self) -> int:
        """The part of each worker that wants any."""
        return max(1, self.limit // max(1, len(self.wants)))

    def is_starving(self, worker: int) -> bool:
        """Whether a worker has less than its part and wants more."""
        has = self.shares.get(worker, 0)
        return has < min(self.wants.get(worker, 0), self.fair())

    def keep(self, worker: int, count: int, want: int) -> None:
        """Writes down what a worker keeps and wants."""
        for counts, number in ((self.shares, count), (self.wants, want)):
            if number:
                counts[worker] = number
            else:
                counts.pop(worker, None)


class Authority:
    """Shares out all limits; asked between transactions, and a chore of the store's loop (`store.server.Chore`)."""

    def __init__(self, clock: Clock, hint: Callable[[str], None]) -> None:
        """`hint("grants")` lets every worker look at its shares again."""
        self._now = clock.monotonic
        self._hint = hint
        self._sites: dict[str, _Site] = {}
        self.due = self._now() + SWEEP_S

    def ask(self, worker: int, asks: Asks) -> Shares:
        """Takes back what a worker does not keep and gives what it may have."""
        now = self._now()
        return Shares([self._ask(worker, each, asks.workers, now) for each in asks.asks])

    def _ask(self, worker: int, ask: Ask, workers: int, now: float) -> Share:
        site = self._sites.get(ask.site)
        if site is None:
            site = self._sites[ask.site] = _Site()
        site.limit = ask.limit
        site.asked_at = now
        before = site.shares.get(worker, 0)
        keep = min(ask.keep, before)
        if ask.limit < 2 * workers and not self._is_home(site, worker, bool(ask.want or keep)):
            site.keep(worker, keep, 0)
            return Share(keep, 0, home=site.home)
        site.keep(worker, keep, ask.want)
        starving = any(site.is_starving(other) for other in site.wants if other != worker)
        most = site.fair() if starving else site.limit
        given = max(0, min(min(ask.want, most) - keep, site.free(now)))
        site.keep(worker, keep + given, ask.want)
        if (starving and keep < before) or (site.is_starving(worker) and site.shares.keys() - {worker}):
            self._tell(site, now)
        messages, wait_s = self._messages(site, ask, now)
        return Share(keep + given, most, messages, wait_s)

    def _tell(self, site: _Site, now: float) -> None:
        """Hints, but not so often that hints and the asks they cause chase each other."""
        if now - site.hinted_at >= HINT_S:
            site.hinted_at = now
            self._hint("grants")

    def _is_home(self, site: _Site, worker: int, stays: bool) -> bool:
        """Whether the worker is the site's home, or becomes it: nobody else is, or has anything of it."""
        if site.home not in (0, worker) and not site.shares.get(site.home) and not site.wants.get(site.home):
            site.home = 0
        if site.home == 0 and stays:
            site.home = worker
        if site.home == worker and not stays:
            site.home = 0
            return True
        return site.home == worker

    def _messages(self, site: _Site, ask: Ask, now: float) -> tuple[int, float]:
        limits = ((ask.per_minute, MINUTE_S), (ask.per_hour, HOUR_S))
        if not ask.messages or not any(limit for limit, _ in limits):
            return 0, 0.0
        rates = []
        for limit, span_s in limits:
            if limit:
                rate = site.rates.get(span_s)
                if rate is None or rate.limit != limit:
                    rate = site.rates[span_s] = Rate(limit, span_s + TOKEN_S)
                rates.append(rate)
        at_once = min(max(1, int(rate.limit / rate.span_s * BATCH_S)) for rate in rates)
        count = min(ask.messages, at_once, *(rate.free(now) for rate in rates))
        for rate in rates:
            for _ in range(count):
                rate.take(now)
        return count, max(rate.wait(now) for rate in rates)

    def died(self, worker: int) -> None:
        """A worker's socket has ended: what it had passes on a little later."""
        until = self._now() + LINGER_S
        for site in self._sites.values():
            site.wants.pop(worker, None)
            count = site.shares.pop(worker, 0)
            if count:
                site.ghosts.append((until, count))
                self.due = min(self.due, until)
            if site.home == worker:
                site.home = 0

    def step(self, now: float) -> None:
        """Lets the workers know of shares that have become free, and forgets sites that nobody asks for."""
        freed = False
        for name, site in list(self._sites.items()):
            if site.ghosts:
                before = len(site.ghosts)
                site.free(now)
                freed = freed or len(site.ghosts) < before
            elif not site.shares and not site.wants and (not site.rates or now - site.asked_at > IDLE_S):
                del self._sites[name]
        if freed:
            self._hint("grants")
        ends = [until for site in self._sites.values() for until, _ in site.ghosts]
        self.due = min([*ends, now + SWEEP_S])
