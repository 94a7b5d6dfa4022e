"""The connections of a worker: one long-lived coroutine each, taking parcel after parcel of its lane.

What a parcel's journey can look like:

    submit -> queue of its lane -> a connection carries it -> `on_result` for every delivery
                 ^                     |  host failed: another host of the plan, at most RETURNS_MAX times
                 +---------------------+  too many recipients: the rest, at once

Invariant: every delivery that was submitted reaches `on_result` exactly once, or `give_back` when the pool drains.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from random import Random
from typing import Final, Protocol

from postroad.flow.families import FamilyMemory
from postroad.flow.judge import Step
from postroad.flow.lanes import PLAIN_S, Delivery, Lane, Lanes, Parcel
from postroad.flow.outbound import Bodies, Courier, Manner, NoCourier, Trip
from postroad.flow.route import Hop
from postroad.values.outcome import About, Fate, Outcome
from postroad.values.ports import Clock
from postroad.values.reply import Reply

log = logging.getLogger(__name__)

RETURNS_MAX: Final = 3
"""Other hosts one parcel is taken to in one attempt after a host failed in the middle of it."""

SWEEP_S: Final = 0.5
"""How often connections without mail are looked at."""

Results = list[tuple[Delivery, Outcome]]


BUG: Final = Outcome(
    Fate.DEFERRED, About.HOST, "an error of our own; see the log", Reply(451, "4.3.0", "internal error")
)
"""The end of an attempt that met a bug: the mail stays, and the log has the traceback."""


class Sink(Protocol):
    """Where the pool's results go (`flow.runner.Runner`)."""

    def on_result(self, parcel: Parcel, results: Results) -> None:
        """These deliveries of the parcel have ended their attempt."""
        ...

    def on_untried(self, parcel: Parcel, why: str, until: float) -> None:
        """This parcel was not tried and waits until its lane is open again, at `until` of the monotonic clock."""
        ...

    @property
    def full(self) -> bool:
        """Whether so many results are not in the store yet that no more may be made now."""
        ...

    async def room(self) -> None:
        """Waits until more results may be made."""
        ...

    async def load(self, parcel: Parcel) -> bool:
        """Reads the letter's content when it is not in memory; False when the message is gone."""
        ...


class TlsWatch(Protocol):
    """Who is told what sessions showed of TLS (`flow.tls_log.TlsLog`)."""

    def opened(self, domain: str, courier: Courier) -> str:
        """A session that carries mail of a domain; returns what the journal shall note of it, or nothing."""
        ...

    def failed(self, domains: Iterable[str], hop: Hop, refusal: NoCourier) -> None:
        """A host that took no session, for the mail of these domains."""
        ...


class _Idle:
    """A connection that waits for mail."""

    __slots__ = ("future", "since")

    def __init__(self, future: asyncio.Future[Parcel | None], since: float) -> None:
        self.future = future
        self.since = since


class Pool:
    """Carries parcels; `submit` is the way in, the sink the way out."""

    def __init__(
        self,
        *,
        sink: Sink,
        lanes: Lanes,
        manner: Manner,
        bodies: Bodies,
        clock: Clock,
        rng: Random,
        messages_per_connection: int = 100,
        idle_s: float = 5.0,
        on_open: Callable[[Courier | NoCourier], None] = lambda opened: None,
        on_close: Callable[[], None] = lambda: None,
        tls_watch: TlsWatch | None = None,
    ) -> None:
        self._sink = sink
        self._lanes = lanes
        self._manner = manner
        self._bodies = bodies
        self._now = clock.monotonic
        self._rng = rng
        self._messages = messages_per_connection
        self._idle_s = idle_s
        self._on_open = on_open
        self._on_close = on_close
        self._tls_watch = tls_watch
        self._families = FamilyMemory()
        self._idle: dict[Lane, list[_Idle]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._draining = False
        self.busy = 0
        """Parcels in the hands of a connection."""

    # -- the way in --------------------------------------------------------------------------------------------------

    def submit(self, lane: Lane, parcel: Parcel) -> None:
        """Takes a parcel: to a waiting connection, to the queue of its lane, or back at once when the lane's hosts
        have just failed."""
        waiting = self._idle.get(lane)
        if waiting:
            # The one that waited least: those at the bottom grow old and end.
            idle = waiting.pop()
            if not waiting:
                del self._idle[lane]
            idle.future.set_result(parcel)
            return
        until = lane.suspended_until(self._now())
        if until and not lane.connections:
            self._suspended(lane, parcel)
            return
        lane.queue.append(parcel)
        self._connect(lane)

    def _suspended(self, lane: Lane, parcel: Parcel) -> None:
        until = lane.suspended_until(self._now())
        self._sink.on_untried(parcel, f"not tried: the host failed just before ({lane.why()})", until)

    def _connect(self, lane: Lane) -> None:
        while not self._draining and self._lanes.may_connect(lane):
            task = asyncio.get_running_loop().create_task(self._live(lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._lanes.crowded:
            self._make_way()

    def _make_way(self) -> None:
        """Others wait for a connection: the one that has been without mail longest gives up its place."""
        lane = min(self._idle, key=lambda lane: self._idle[lane][0].since, default=None)
        if lane is not None:
            waiting = self._idle[lane]
            waiting.pop(0).future.set_result(None)
            if not waiting:
                del self._idle[lane]

    # -- one connection's life ---------------------------------------------------------------------------------------

    async def _live(self, lane: Lane) -> None:
        courier: Courier | None = None
        opening = True
        try:
            courier = await self._open(lane)
            opening = False
            lane.opening -= 1
            if courier is not None:
                lane.succeeded(courier.hop)
                await self._serve(lane, courier)
        except Exception:
            log.exception("a connection of lane %s ended by a bug", lane.site)
            self._give_up(lane)
        finally:
            if opening:
                lane.opening -= 1
            await self._end(lane, courier)

    def _give_up(self, lane: Lane) -> None:
        """After a bug: the site is left alone for a while, as if its hosts had failed, so that nothing spins."""
        now = self._now()
        for hop in lane.hops(now, self._rng):
            lane.failed(hop, BUG.cause, now)
        self._defer_all(lane, [], BUG)

    async def _end(self, lane: Lane, courier: Courier | None) -> None:
        try:
            if courier is not None:
                await courier.quit()
        finally:
            self._lanes.disconnected(lane)
            if courier is not None:
                self._on_close()
            following = self._lanes.next_in_line()
            if following is not None:
                self._connect(following)
            self._connect(lane)

    async def _open(self, lane: Lane) -> Courier | None:
        """A session with the first host of the lane that takes one; without any, the lane's mail is deferred."""
        trail: list[tuple[str, str]] = []
        last: Outcome | None = None
        decisive = 0
        now = self._now()
        for hop in self._families.order(lane.hops(now, self._rng), now):
            opened = await self._open_hop(lane, hop)
            self._on_open(opened)
            if isinstance(opened, Courier):
                if lane.queue:
                    lane.queue[0].trail += trail
                return opened
            if self._tls_watch is not None and opened.fault:
                self._tls_watch.failed(_domains(lane), hop, opened)
            if last is None or last.fate is Fate.FAILED:
                # A host that did not answer may still do what the others refuse for good.
                last, decisive = opened.outcome, len(trail)
            trail.append((str(hop), _words(opened.outcome)))
            lane.failed(hop, opened.outcome.cause, self._now())
        self._defer_all(lane, [*trail[:decisive], *trail[decisive + 1 :]], last)
        return None

    async def _open_hop(self, lane: Lane, hop: Hop) -> Courier | NoCourier:
        plain = lane.plain_until.get(hop, 0.0) > self._now()
        policy = lane.plan.tls_of(hop.host)
        guise = lane.plan.guise
        opened = await Courier.open(hop, self._manner, self._bodies, plain=plain, policy=policy, guise=guise)
        if isinstance(opened, NoCourier) and opened.unreached:
            self._families.unreached(hop, self._now())
        else:
            self._families.reached(hop)
        if isinstance(opened, NoCourier) and opened.try_plain:
            # RFC 7435: encryption that fails must not cost the mail; the same host again, in the clear.
            lane.plain_until[hop] = self._now() + PLAIN_S
            if lane.queue:
                lane.queue[0].trail.append((str(hop), f"{opened.outcome.cause}; again without TLS"))
            fault = opened.fault
            opened = await Courier.open(hop, self._manner, self._bodies, plain=True, policy=policy, guise=guise)
            if isinstance(opened, Courier):
                opened.fault = fault
        return opened

    def _defer_all(self, lane: Lane, trail: list[tuple[str, str]], outcome: Outcome | None) -> None:
        """No host of the lane took a session; while other connections of it live, its mail is left to them."""
        if lane.connections > 1:
            return
        waiting = list(lane.queue)
        lane.queue.clear()
        for parcel in waiting:
            if outcome is None:
                self._suspended(lane, parcel)
                continue
            parcel.trail += trail
            self._sink.on_result(parcel, [(delivery, outcome) for delivery in parcel.deliveries])

    async def _serve(self, lane: Lane, courier: Courier) -> None:
        """Carries parcels until there is none, the host has had enough, or others need the place."""
        queue = lane.queue
        sink = self._sink
        mails = min(self._messages, courier.extensions.max_transactions or self._messages)
        while not self._draining and courier.carried < mails:
            if sink.full:
                await sink.room()
            if queue:
                parcel = queue.popleft()
            elif self._lanes.crowded:
                return
            else:
                handed = await self._wait(lane)
                if handed is None:
                    return
                parcel = handed
            if not courier.usable:
                # The host closed while nothing was going on; that says nothing about this parcel.
                queue.appendleft(parcel)
                return
            if not await self._carry(lane, courier, parcel):
                return

    async def _wait(self, lane: Lane) -> Parcel | None:
        future: asyncio.Future[Parcel | None] = asyncio.get_running_loop().create_future()
        idle = _Idle(future, self._now())
        self._idle.setdefault(lane, []).append(idle)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(min(SWEEP_S, self._idle_s), self._sweep)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and (parcel := future.result()) is not None:
                lane.queue.appendleft(parcel)
            raise

    def _sweep(self) -> None:
        """Ends connections that have waited long enough."""
        self._sweeper = None
        oldest = self._now() - self._idle_s
        for lane, waiting in list(self._idle.items()):
            kept = []
            for idle in waiting:
                if idle.since <= oldest and not idle.future.done():
                    idle.future.set_result(None)
                else:
                    kept.append(idle)
            if kept:
                self._idle[lane] = kept
            else:
                del self._idle[lane]
        if self._idle:
            self._sweeper = asyncio.get_running_loop().call_later(min(SWEEP_S, self._idle_s), self._sweep)

    # -- one parcel --------------------------------------------------------------------------------------------------

    async def _carry(self, lane: Lane, courier: Courier, parcel: Parcel) -> bool:
        """Carries one parcel and sorts its results; returns whether the connection may go on."""
        if parcel.letter.header is None and not await self._load(lane, parcel):
            return True
        if len(parcel.deliveries) > courier.limit:
            self._split(lane, parcel, courier.limit)
        parcel.started = parcel.started or self._now()
        if self._tls_watch is not None:
            self._tell(self._tls_watch, courier, parcel)
        self.busy += 1
        try:
            trip = await courier.carry(parcel)
        except asyncio.CancelledError:
            courier.abort()
            raise
        except Exception:
            log.exception("a parcel of lane %s met a bug", lane.site)
            courier.abort()
            trip = Trip([(delivery, BUG, Step.GO_ON) for delivery in parcel.deliveries], lost=True)
        finally:
            self.busy -= 1
        if trip.stale and not parcel.returned:
            parcel.returned += 1
            lane.queue.appendleft(parcel)
            return False
        ended: Results = []
        again: list[Delivery] = []
        failure: Outcome | None = None
        for delivery, outcome, step in trip.results:
            if step is Step.GO_ON:
                ended.append((delivery, outcome))
                continue
            again.append(delivery)
            if step is not Step.REST:
                failure = outcome
        if failure is None and again and not ended:
            # "Too many" of a host that took none: sending them again at once would go on for ever.
            ended = [(delivery, outcome) for delivery, outcome, _ in trip.results]
            again = []
        if failure is not None:
            self._host_failed(lane, courier, parcel, failure, again, ended)
        elif again:
            lane.queue.appendleft(self._part(parcel, again))
            self._connect(lane)
        if ended:
            self._sink.on_result(parcel, ended)
        return not trip.lost and failure is None

    @staticmethod
    def _tell(watch: TlsWatch, courier: Courier, parcel: Parcel) -> None:
        """Tells of the session once for every domain whose mail it carries; mail with a wish of its own counts not."""
        for delivery in parcel.deliveries:
            domain = delivery.domain
            if domain not in courier.domains and not delivery.wishes:
                courier.domains.add(domain)
                note = watch.opened(domain, courier)
                if note:
                    parcel.trail.append((courier.where, note))

    async def _load(self, lane: Lane, parcel: Parcel) -> bool:
        try:
            return await self._sink.load(parcel)
        except Exception:
            log.exception("a parcel of lane %s could not be read", lane.site)
            self._sink.on_result(parcel, [(delivery, BUG) for delivery in parcel.deliveries])
            return False

    def _host_failed(
        self, lane: Lane, courier: Courier, parcel: Parcel, failure: Outcome, again: list[Delivery], ended: Results
    ) -> None:
        """The host broke off: its deliveries go to another host of the plan, when one is left to try."""
        now = self._now()
        lane.failed(courier.hop, failure.cause, now)
        if parcel.returned < RETURNS_MAX and not lane.suspended_until(now):
            following = self._part(parcel, again)
            following.returned = parcel.returned + 1
            following.trail = [*parcel.trail, (courier.where, _words(failure))]
            lane.queue.appendleft(following)
        else:
            ended += [(delivery, failure) for delivery in again]

    def _split(self, lane: Lane, parcel: Parcel, limit: int) -> None:
        """Leaves `limit` deliveries in the parcel and queues the rest right behind it."""
        rest = self._part(parcel, parcel.deliveries[limit:])
        parcel.deliveries = parcel.deliveries[:limit]
        lane.queue.appendleft(rest)
        self._connect(lane)

    @staticmethod
    def _part(parcel: Parcel, deliveries: list[Delivery]) -> Parcel:
        part = Parcel(parcel.letter, deliveries)
        part.returned = parcel.returned
        part.started = parcel.started
        return part

    # -- the end -----------------------------------------------------------------------------------------------------

    async def drain(self, grace: float, give_back: Callable[[Parcel], None]) -> None:
        """Starts nothing new, waits up to `grace` seconds for what is under way, then cuts it off.

        Parcels that were never carried go to `give_back`; those cut off are neither given back nor reported: what
        their hosts have of them is unknown, and their next time stands already in the store.
        """
        self._draining = True
        self._release_idle()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._sweeper is not None:
            self._sweeper.cancel()
        for lane in self._lanes.all():
            while lane.queue:
                give_back(lane.queue.popleft())

    def _release_idle(self) -> None:
        waiting, self._idle = self._idle, {}
        for every in waiting.values():
            for idle in every:
                if not idle.future.done():
                    idle.future.set_result(None)


def _domains(lane: Lane) -> set[str]:
    """The domains whose mail waits in a lane, without mail whose sender has a wish of his own."""
    waiting = (delivery for parcel in lane.queue for delivery in parcel.deliveries)
    return {delivery.domain for delivery in waiting if not delivery.wishes}


def _words(outcome: Outcome) -> str:
    if outcome.where and outcome.reply is not None:
        return f"{outcome.cause}: {outcome.reply}"
    return outcome.cause
