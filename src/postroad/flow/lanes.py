"""Lanes: the mail waiting for one set of hosts, the connections that serve it, and what is known of the hosts' health.

    Site: one provider, or one set of hosts    limits, shape, connections of all its lanes together
      Lane: one set of hosts of the site         mail waiting, health of each host

All domains served by the same hosts share a lane; all lanes of one provider share what the provider allows, because it
counts what comes from one source address and not for which domain. Pure state: it decides who may connect and who must
wait; `flow.pool` does it.

Invariant: a delivery is in at most one place - in the queue of one lane, or in the hands of one connection - because a
`Parcel` is only ever moved.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from random import Random
from typing import Final, NamedTuple, Protocol

from postroad.flow.providers import Providers
from postroad.flow.route import Hop, Plan
from postroad.flow.shaping import Limits, Permit, Shape, State
from postroad.flow.sharing import Waiting
from postroad.flow.turns import Turns

SUSPEND_FIRST_S: Final = 1.0
SUSPEND_MAX_S: Final = 300.0
"""How long a host that failed is left alone: doubled at every failure in a row, forgotten at the first success."""

PLAIN_S: Final = 3600.0
"""How long a host whose TLS handshake failed is spoken to in the clear at once."""

WAITING_MAX: Final = 200
"""Parcels waiting in one lane above which no more is claimed for it: others need the memory."""

LANES_KEPT: Final = 10_000
"""Lanes without mail or connections that are remembered for the health of their hosts."""

KNOCKING_MAX: Final = 2000
"""Connections to hosts that have not answered for a message before: they cost a socket and wait for a timeout, and must
not keep those that answer from their places."""


class Health:
    """What is known of one host after failures in a row."""

    __slots__ = ("failures", "until", "why")

    def __init__(self) -> None:
        self.failures = 0
        self.until = 0.0
        self.why = ""


class Site:
    """What counts together at the other side, for one source address: a provider, or one set of hosts."""

    __slots__ = (
        "beginning",
        "connections",
        "elsewhere_until",
        "held",
        "key",
        "lanes",
        "line",
        "name",
        "opening",
        "paced",
        "provider",
        "shape",
        "told",
        "turns",
    )

    def __init__(self, key: str, name: str, provider: str, shape: Shape) -> None:
        self.key = key
        """Source address and name: what limits hold for, over all workers."""
        self.name = name
        self.provider = provider
        """Name in the provider file; empty for hosts it does not know."""
        self.shape = shape
        self.connections = 0
        """Connections of this worker, open or being opened."""
        self.opening = 0
        """Those of them that are not ready for mail yet."""
        self.beginning = 0
        """Those, and others that have sent nothing yet: a message each is promised to them."""
        self.held = 0
        """Connections that the store has this worker down for, where it has to be asked; never below `connections`."""
        self.elsewhere_until = 0.0
        """Until when another worker is known to be the home of its mail."""
        self.turns = Turns()
        """What waits in its lanes, by user."""
        self.lanes: dict[Lane, None] = {}
        """In the order in which they were made; whose turn it is stands in `line` and `paced`."""
        self.line: OrderedDict[Lane, None] = OrderedDict()
        """Lanes that wait for a connection of the site, in the order of asking."""
        self.paced: OrderedDict[Lane, None] = OrderedDict()
        """Lanes without a connection that wait for the moment when one more message may go, in the same order."""
        self.told: set[str] = set()
        """Domains for which the store knows that the site is suspended."""

    def __str__(self) -> str:
        return self.name

    @property
    def wanted(self) -> int:
        """Connections that there would be something to do for, within the limit: one being opened has its parcel."""
        waiting = max(0, self.turns.count - self.opening)
        return min(self.shape.limits.connections, self.connections + waiting)

    @property
    def crowded(self) -> bool:
        """Whether a lane waits for a connection that another lane of the site holds."""
        line = self.line
        while line:
            if next(iter(line)).queue:
                return True
            line.popitem(last=False)
        return False

    def next_paced(self) -> Lane | None:
        """The lane that has waited longest until one more message may go."""
        while self.paced:
            lane = next(iter(self.paced))
            if lane.queue and not lane.connections:
                return lane
            del self.paced[lane]
        return None

    def may_begin(self, now: float) -> bool:
        """Whether one more connection could be begun now and send a message, where messages are counted."""
        permit = self.shape.permit(now)
        return permit.wait_s <= 0.0 and self.connections < permit.connections and self.beginning < self.shape.ready(now)

    def is_short(self, now: float) -> bool:
        """Whether what may go now is needed by lanes that wait for it and connections that have sent nothing yet."""
        return self.next_paced() is not None and self.shape.ready(now) - self.beginning <= len(self.paced)

    @property
    def over(self) -> bool:
        """Whether it has more connections than its share: another worker waits for one."""
        return self.connections > self.shape.share


class Lane:
    """The mail for one set of hosts for which the same must hold of TLS."""

    __slots__ = (
        "_hops", "_hops_of", "connections", "forgotten", "health", "key", "opening", "per_connection", "plain_until",
        "plan", "proven", "queue", "site", "unchunked",
    )  # fmt: skip

    def __init__(self, plan: Plan, site: Site) -> None:
        self.key = plan.key
        self.site = site
        self.plan = plan
        self._hops: list[Hop] = []
        self._hops_of: Plan | None = None
        self.queue = Waiting(site.turns)
        self.connections = 0
        """Connections open or being opened."""
        self.opening = 0
        """Those of them that are not ready for mail yet."""
        self.proven = False
        """A host of it has answered for a message since the last time that all of them failed."""
        self.per_connection = 0
        """Messages after which a host took no more over one connection; 0: none has said so."""
        self.health: dict[Hop, Health] = {}
        """Hosts that failed and have not succeeded since."""
        self.unchunked: set[Hop] = set()
        """Hosts that announce CHUNKING and do not know it."""
        self.plain_until: dict[Hop, float] = {}
        self.forgotten = False
        """It counts for nothing any more: no mail may be put in, for its site does not know of it."""

    def hops(self, now: float, rng: Random) -> list[Hop]:
        """The hosts to try now, in order: those left alone are passed over."""
        hops = self.plan.hops(rng)
        if not self.health:
            return hops
        return [hop for hop in hops if (health := self.health.get(hop)) is None or health.until <= now]

    def left_alone(self, now: float) -> str:
        """Why `hops` passes a host over now; empty when it passes over none."""
        if not self.health:
            return ""
        return next(
            (
                f"{hop} failed just before ({health.why})"
                for hop in self._every_hop()
                if (health := self.health.get(hop)) is not None and health.until > now
            ),
            "",
        )

    def failed(self, hop: Hop, why: str, now: float) -> None:
        """A host failed: it is left alone for a while, longer every time."""
        health = self.health.setdefault(hop, Health())
        # Connections opened together fail together; that is one failure.
        if health.until > now:
            return
        wait = min(SUSPEND_FIRST_S * 2.0 ** min(health.failures, 20), SUSPEND_MAX_S)
        health.failures += 1
        health.until = now + wait
        health.why = why
        if self.is_probing():
            self.proven = False
            self.site.shape.failed(now)

    def succeeded(self, hop: Hop) -> None:
        """A host took a session: all its failures are forgotten."""
        if self.health:
            self.health.pop(hop, None)

    def suspended_until(self, now: float) -> float:
        """When the first host may be tried again, and the site takes mail; 0 when both is so now."""
        shape = self.site.shape
        if not shape.easy and shape.state is State.SUSPENDED and shape.until > now:
            return max(shape.until, self._hosts_until(now))
        return self._hosts_until(now)

    def _hosts_until(self, now: float) -> float:
        health = self.health
        if not health:
            return 0.0
        soonest = 0.0
        for hop in self._every_hop():
            known = health.get(hop)
            if known is None or known.until <= now:
                return 0.0
            soonest = min(soonest, known.until) if soonest else known.until
        return soonest

    def why(self, now: float) -> str:
        """Why nothing goes, for people: the policy of the site, else the last failure of a host."""
        if self.site.shape.state is State.SUSPENDED and self.site.shape.until > now:
            return f"{self.site} is suspended: {self.site.shape.why}"
        failure = max(self.health.values(), key=lambda known: known.until).why if self.health else ""
        return f"the host failed just before ({failure})"

    @property
    def is_crowded(self) -> bool:
        """Whether so much waits that more should be left in the queue."""
        return len(self.queue) >= WAITING_MAX

    @property
    def has_room(self) -> bool:
        """Whether so little waits that more should be fetched before the connections run out of it."""
        return len(self.queue) <= WAITING_MAX // 2

    @property
    def hosts(self) -> frozenset[str]:
        """All hosts that are tried for its mail, sooner or later."""
        return frozenset(hop.host for hop in self._every_hop())

    def _every_hop(self) -> list[Hop]:
        if self._hops_of is not self.plan:
            self._hops, self._hops_of = self.plan.hops(_UNMOVED), self.plan
        return self._hops

    def is_probing(self) -> bool:
        """Whether every host has failed and none has been seen to work again: one connection is enough to find out."""
        return bool(self.health) and all(hop in self.health for hop in self._every_hop())

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is connected."""
        return not self.queue and not self.connections


_UNMOVED: Final = Random(0)
"""For lists whose order does not matter."""


class Place(Enum):
    """What a connection about to be opened is counted as."""

    NONE = "none"
    OURS = "ours"
    """One of the connections of this worker."""
    KNOCKING = "knocking"
    """One to a host of which it is not known that it answers; it becomes one of ours when it has, for a message."""


class Sharer(Protocol):
    """Where the limits of a site are shared out between workers (`flow.grants`)."""

    def join(self, key: str, limits: Limits) -> Shape:
        """The shape of a site whose share is still to be asked for."""
        ...

    def known(self, site: Site) -> None:
        """A site that `join` made a shape for has a lane."""
        ...

    def want(self, site: Site) -> None:
        """The site could use a larger share."""
        ...

    def review(self, site: Site) -> None:
        """A connection of the site has ended."""
        ...


class Alone:
    """One worker has every limit for itself."""

    def join(self, key: str, limits: Limits) -> Shape:
        """All of it at once."""
        return Shape(limits)

    def known(self, site: Site) -> None:
        """Nothing is kept of it."""

    def want(self, site: Site) -> None:
        """There is no more."""

    def review(self, site: Site) -> None:
        """Nobody else waits for it."""


class SiteName(NamedTuple):
    """What a plan's hosts count as, for one source address."""

    key: str
    """Source address and name, which limits and suspensions are for."""
    name: str
    provider: str
    """Name in the provider file; empty for hosts it does not know."""


def site_of(plan: Plan, providers: Providers, source: str) -> SiteName:
    """The site of a plan's hosts; `source` is where mail leaves from when the plan does not say."""
    hosts = [target.host for group in plan.groups for target in group]
    # A way that somebody configured is a host of their own, whatever its name.
    provider = "" if plan.fixed else providers.of(hosts)
    known = providers.get(provider)
    name = provider if known is not None and known.shared else plan.site
    source = " ".join(plan.guise.sources) or source
    return SiteName(f"{source}>{name}" if source else name, name, provider)


class Lanes:
    """All lanes of a worker and their shares of its connections.

    Fairness: a lane that wants a connection while all are taken waits in line, and every freed one goes to the head of
    the line; a lane in line is behind those that asked before it, however much mail it has. So it is among the lanes of
    a site, and among those of the worker; and so it is among those that wait until one more message may go.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        total: int,
        providers: Providers | None = None,
        source: str = "",
        sharer: Sharer | None = None,
    ) -> None:
        self.limits = limits
        self.total = total
        self.source = source
        self.connections = 0
        self.knocking = 0
        self._providers = providers or Providers({})
        self._sharer: Sharer = sharer or Alone()
        self._lanes: OrderedDict[str, Lane] = OrderedDict()
        self._sites: dict[str, Site] = {}
        self._line: OrderedDict[Lane, None] = OrderedDict()
        self._knocking_line: OrderedDict[Lane, None] = OrderedDict()
        self.on_site: Callable[[Site], None] = lambda site: None
        """Called with every site that was not known before."""

    def lane(self, plan: Plan) -> Lane:
        """The lane of a plan's hosts and TLS policy, with this newest plan."""
        lane = self._lanes.get(plan.key)
        if lane is None:
            self._forget()
            lane = self._lanes[plan.key] = Lane(plan, self._site(plan))
            lane.site.lanes[lane] = None
            self._sharer.known(lane.site)
        else:
            lane.plan = plan
            self._lanes.move_to_end(plan.key)
        return lane

    def _site(self, plan: Plan) -> Site:
        key, name, provider = site_of(plan, self._providers, self.source)
        site = self._sites.get(key)
        if site is None:
            shape = self._sharer.join(key, self.limits.within(self._providers.get(provider)))
            site = self._sites[key] = Site(key, name, provider, shape)
            self.on_site(site)
        return site

    def _forget(self) -> None:
        """Makes room: those planned longest ago go first."""
        if len(self._lanes) < LANES_KEPT:
            return
        for key, lane in list(self._lanes.items())[: LANES_KEPT // 10]:
            if lane.idle:
                del self._lanes[key]
                lane.forgotten = True
                site = lane.site
                site.lanes.pop(lane, None)
                if not site.lanes and not site.held and site.shape.easy:
                    del self._sites[site.key]
            else:
                self._lanes.move_to_end(key)

    def all(self) -> list[Lane]:
        """Every lane that is remembered."""
        return list(self._lanes.values())

    @property
    def count(self) -> int:
        """How many are remembered."""
        return len(self._lanes)

    def shut(self, now: float) -> dict[Lane, float]:
        """Lanes that can do nothing with more mail now, and the time until which; the present time where that is not
        known, because they have enough mail."""
        shut: dict[Lane, float] = {}
        for lane in self._lanes.values():
            site = lane.site
            crowded = lane.is_crowded
            # Nearly all lanes are well, and this is asked at every claim.
            if not lane.health and not crowded and site.shape.easy and not site.elsewhere_until:
                continue
            until = max(lane.suspended_until(now), site.elsewhere_until)
            if until > now or crowded:
                shut[lane] = max(until, now)
        return shut

    def site(self, key: str) -> Site | None:
        """A site by its key."""
        return self._sites.get(key)

    def sites(self) -> list[Site]:
        """Every site that is remembered."""
        return list(self._sites.values())

    def may_connect(self, lane: Lane, now: float) -> Place:
        """Takes a connection's place for the lane when it should have one more; else it may be put in line."""
        waiting = len(lane.queue)
        if lane.opening >= waiting or (lane.connections and lane.is_probing()):
            return Place.NONE
        site = lane.site
        permit = site.shape.permit(now)
        if not site.shape.easy and not self._is_its_turn(lane, permit, now):
            # Nobody likes to be called on for nothing.
            if not lane.connections:
                site.paced.setdefault(lane, None)
            return Place.NONE
        if site.connections >= permit.connections:
            site.line.setdefault(lane, None)
            if site.connections >= site.shape.share:
                self._sharer.want(site)
            return Place.NONE
        place = Place.OURS if lane.proven else Place.KNOCKING
        if place is Place.OURS and self.connections >= self.total:
            self._line.setdefault(lane, None)
            return Place.NONE
        if place is Place.KNOCKING and self.knocking >= KNOCKING_MAX:
            self._knocking_line.setdefault(lane, None)
            return Place.NONE
        site.paced.pop(lane, None)
        self._count(place, 1)
        site.connections += 1
        site.opening += 1
        site.beginning += 1
        lane.connections += 1
        lane.opening += 1
        return place

    @staticmethod
    def _is_its_turn(lane: Lane, permit: Permit, now: float) -> bool:
        """Whether a message of the lane may go now that nobody else waits for, and no connection that has sent none."""
        site = lane.site
        if permit.wait_s > 0.0 or site.beginning >= site.shape.ready(now):
            return False
        return site.next_paced() in (None, lane) or not site.is_short(now)

    def _count(self, place: Place, change: int) -> None:
        if place is Place.OURS:
            self.connections += change
        else:
            self.knocking += change

    def answered(self, lane: Lane, place: Place) -> Place:
        """A host has answered for a message over a connection; returns what that is counted as from here on.

        A session alone is no proof: who takes one and is silent then would hold a place for minutes.
        """
        lane.proven = True
        if place is Place.KNOCKING:
            self.knocking -= 1
            self.connections += 1
        return Place.OURS

    def unopened(self, lane: Lane) -> None:
        """A connection is not being opened any more: it is ready for mail, or has ended."""
        lane.opening -= 1
        lane.site.opening -= 1

    @staticmethod
    def begun(lane: Lane) -> None:
        """A connection sends its first message, or will send none: nothing is promised to it any more."""
        lane.site.beginning -= 1

    def disconnected(self, lane: Lane, place: Place) -> None:
        """A connection's place is free again."""
        self._count(place, -1)
        lane.site.connections -= 1
        lane.connections -= 1

    def next_in_line(self, site: Site) -> Lane | None:
        """The lane that has waited longest for a place like the one just freed, taken out of the line: of this site, of
        the worker, or among those that knock."""
        return _first_with_mail(site.line) or self.next_of_worker()

    def next_of_worker(self) -> Lane | None:
        """The same without the line of a site."""
        lane = _first_with_mail(self._line) if self.connections < self.total else None
        if lane is None and self.knocking < KNOCKING_MAX:
            lane = _first_with_mail(self._knocking_line)
        return lane

    @property
    def crowded(self) -> bool:
        """Whether a lane waits for a connection that others hold."""
        return bool(self._line)


def _first_with_mail(line: OrderedDict[Lane, None]) -> Lane | None:
    while line:
        lane, _ = line.popitem(last=False)
        if lane.queue:
            return lane
    return None
