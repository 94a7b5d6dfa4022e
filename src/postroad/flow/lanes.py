"""Lanes: the mail waiting for one site, the connections that serve it, and what is known of its hosts' health.

A site is a set of hosts, so all domains served by the same hosts share one lane and its limits. Pure state: it decides
who may connect and who must wait; `flow.pool` does it.

Invariant: a delivery is in at most one place - in the queue of one lane, or in the hands of one connection - because a
`Parcel` is only ever moved.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from random import Random
from typing import Final

from postroad.flow.route import Hop, Plan
from postroad.store.records import INLINE_BODY_MAX, MOVED, TLS_REQUIRED, Accept, Due, Leg

RECIPIENTS_MAX: Final = 100
"""RFC 5321 section 4.5.3.1.8: what every server must take in one transaction."""

SUSPEND_FIRST_S: Final = 1.0
SUSPEND_MAX_S: Final = 300.0
"""How long a host that failed is left alone: doubled at every failure in a row, forgotten at the first success."""

PLAIN_S: Final = 3600.0
"""How long a host whose TLS handshake failed is spoken to in the clear at once."""

CLAIMED_WEIGHT: Final = INLINE_BODY_MAX + 8 * 1024
"""Octets that a message out of the queue is taken to need in memory: its body is inline, or stays in its file."""

WAITING_MAX: Final = 200
"""Parcels waiting in one lane above which no more is claimed for it: others need the memory."""

LANES_KEPT: Final = 10_000
"""Lanes without mail or connections that are remembered for the health of their hosts."""


class Letter:
    """One message as far as sending it needs it; `header` is None until it has been read from the store."""

    __slots__ = (
        "body", "body_file", "eightbit", "envid", "expires_us", "fresh", "header", "id", "open", "received_us", "ret",
        "sender", "size", "smtputf8", "tls", "weight",
    )  # fmt: skip

    def __init__(
        self, source: Accept | Due, ident: int, *, header: bytes | None = None, body: bytes | None = None
    ) -> None:
        self.id = ident
        self.sender = source.sender
        self.received_us = source.received_us
        self.expires_us = source.expires_us
        self.size = source.size
        self.smtputf8 = source.smtputf8
        self.eightbit = source.eightbit
        self.ret = source.ret
        self.envid = source.envid
        self.tls = source.tls
        """What the sender wishes of TLS on the way (`store.records`)."""
        self.body_file = source.body_file
        self.header = header
        self.body = body
        self.fresh = header is not None
        """It came straight from acceptance, not out of the queue."""
        self.open = 0
        """Deliveries of it that this worker holds and whose results are not in the store."""
        self.weight = len(header) + len(body or b"") if header is not None else min(source.size, CLAIMED_WEIGHT)
        """Octets it takes in memory, or will when it is read."""


class Delivery:
    """One recipient of a letter that is ours to deliver now."""

    __slots__ = (
        "account", "attempt", "domain", "due_us", "id", "kind", "last_reply", "letter", "next_hop", "notify", "orcpt",
        "prefix", "recipient", "target", "warn_us", "way",
    )  # fmt: skip

    def __init__(self, letter: Letter, source: Leg | Due, attempt: int, last_reply: str = "") -> None:
        self.letter = letter
        self.id = source.id
        self.recipient = source.recipient
        self.domain = source.domain
        self.kind = source.kind
        self.account = source.account
        self.due_us = source.due_us
        self.prefix = source.prefix
        self.notify = source.notify
        self.orcpt = source.orcpt
        self.warn_us = source.warn_us
        self.next_hop = source.next_hop if isinstance(source, Due) else ""
        """Where somebody moved it to."""
        self.target = f"{MOVED}{self.next_hop}" if self.next_hop else source.domain
        """Where it goes: its domain, or the next hop behind MOVED."""
        self.way = self.target
        """What the way is looked up by: the target, and the wish for TLS where the sender has one."""
        # RFC 8689 section 5: REQUIRETLS of a report SHOULD NOT keep it from a host that does not know it.
        if letter.tls and (letter.sender or letter.tls != TLS_REQUIRED):
            self.way = f"{self.target} {letter.tls}"
        self.attempt = attempt
        """Number of the attempt that is to be made now; the first is 1."""
        self.last_reply = last_reply


class Parcel:
    """Deliveries of one letter that travel in one transaction."""

    __slots__ = ("deliveries", "letter", "returned", "started", "trail")

    def __init__(self, letter: Letter, deliveries: list[Delivery]) -> None:
        self.letter = letter
        self.deliveries = deliveries
        self.returned = 0
        """How often a connection handed it back because of its host."""
        self.started = 0.0
        """When its attempt began, on the monotonic clock; 0 while it waits."""
        self.trail: list[tuple[str, str]] = []
        """Hosts that failed in this attempt: where, and why."""


def parcels(letter: Letter, deliveries: Iterable[Delivery]) -> list[Parcel]:
    """Deliveries to one site in as few transactions as they fit: same prefix, at most RECIPIENTS_MAX each."""
    made: list[Parcel] = []
    for delivery in deliveries:
        for parcel in reversed(made):
            same = parcel.deliveries
            if same[0].prefix == delivery.prefix and len(same) < RECIPIENTS_MAX:
                same.append(delivery)
                break
        else:
            made.append(Parcel(letter, [delivery]))
    return made


class Health:
    """What is known of one host after failures in a row."""

    __slots__ = ("failures", "until", "why")

    def __init__(self) -> None:
        self.failures = 0
        self.until = 0.0
        self.why = ""


class Lane:
    """The mail of one site for which the same must hold of TLS."""

    __slots__ = ("connections", "health", "key", "opening", "plain_until", "plan", "queue", "site")

    def __init__(self, plan: Plan) -> None:
        self.site = plan.site
        self.key = plan.key
        self.plan = plan
        self.queue: deque[Parcel] = deque()
        self.connections = 0
        """Connections open or being opened."""
        self.opening = 0
        """Those of them that are not ready for mail yet."""
        self.health: dict[Hop, Health] = {}
        """Hosts that failed and have not succeeded since."""
        self.plain_until: dict[Hop, float] = {}

    def hops(self, now: float, rng: Random) -> list[Hop]:
        """The hosts to try now, in order: those left alone are passed over."""
        hops = self.plan.hops(rng)
        if not self.health:
            return hops
        return [hop for hop in hops if (health := self.health.get(hop)) is None or health.until <= now]

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

    def succeeded(self, hop: Hop) -> None:
        """A host took part in a whole session: all its failures are forgotten."""
        if self.health:
            self.health.pop(hop, None)

    def suspended_until(self, now: float) -> float:
        """When the first host may be tried again; 0 when one may be tried now."""
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

    def why(self) -> str:
        """The last failure of a host, for people."""
        return max(self.health.values(), key=lambda known: known.until).why if self.health else ""

    @property
    def is_crowded(self) -> bool:
        """Whether so much waits that more should be left in the queue."""
        return len(self.queue) >= WAITING_MAX

    @property
    def has_room(self) -> bool:
        """Whether so little waits that more should be fetched before the connections run out of it."""
        return len(self.queue) <= WAITING_MAX // 2

    def _every_hop(self) -> list[Hop]:
        return self.plan.hops(_UNMOVED)

    def is_probing(self) -> bool:
        """Whether every host has failed and none has been seen to work again: one connection is enough to find out."""
        return bool(self.health) and all(hop in self.health for hop in self._every_hop())

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is connected."""
        return not self.queue and not self.connections


_UNMOVED: Final = Random(0)
"""For lists whose order does not matter."""


class Lanes:
    """All lanes of a worker and their shares of its connections.

    Fairness: a lane that wants a connection while all are taken waits in line, and every freed one goes to the head of
    the line; a lane in line is behind those that asked before it, however much mail it has.
    """

    def __init__(self, *, per_lane: int, total: int) -> None:
        self.per_lane = per_lane
        self.total = total
        self.connections = 0
        self._lanes: OrderedDict[str, Lane] = OrderedDict()
        self._line: OrderedDict[str, Lane] = OrderedDict()

    def lane(self, plan: Plan) -> Lane:
        """The lane of a plan's site, with the hosts of this newest plan."""
        lane = self._lanes.get(plan.key)
        if lane is None:
            self._forget()
            lane = self._lanes[plan.key] = Lane(plan)
        else:
            lane.plan = plan
        return lane

    def _forget(self) -> None:
        if len(self._lanes) < LANES_KEPT:
            return
        for key, lane in list(self._lanes.items())[: LANES_KEPT // 10]:
            if lane.idle:
                del self._lanes[key]

    def all(self) -> list[Lane]:
        """Every lane that is remembered."""
        return list(self._lanes.values())

    def may_connect(self, lane: Lane) -> bool:
        """Takes a connection's place for the lane when it should have one more; else it may be put in line."""
        waiting = len(lane.queue)
        if lane.opening >= waiting or lane.connections >= (1 if lane.is_probing() else self.per_lane):
            return False
        if self.connections >= self.total:
            self._line.setdefault(lane.key, lane)
            return False
        self._lanes.setdefault(lane.key, lane)
        self.connections += 1
        lane.connections += 1
        lane.opening += 1
        return True

    def disconnected(self, lane: Lane) -> None:
        """A connection's place is free again."""
        self.connections -= 1
        lane.connections -= 1

    def next_in_line(self) -> Lane | None:
        """The lane that has waited longest for a connection, taken out of the line."""
        while self._line:
            _, lane = self._line.popitem(last=False)
            if lane.queue:
                return lane
        return None

    @property
    def crowded(self) -> bool:
        """Whether a lane waits for a connection that others hold."""
        return bool(self._line)
