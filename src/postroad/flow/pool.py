"""The connections of a worker: one long-lived coroutine each, taking parcel after parcel of its lane.

What a parcel's journey can look like:

    submit -> queue of its lane -> a connection carries it -> `on_result` for every delivery
                 ^                     |  host failed: another host of the plan, at most RETURNS_MAX times
                 |                     |  host lacks what it needs: each other host of the plan, once
                 +---------------------+  too many recipients: the rest, at once

A connection asks `Site.shape` before every message and tells it what came of it (`flow.shaping`, `flow.signals`): what
may not go yet waits in its lane, or is put off until its turn (`flow.turns`).

Invariant: every delivery that was submitted reaches `on_result` exactly once, or `give_back` when the pool drains. All
that takes a parcel out of a queue and puts it back stands in these lines together, so that this can be checked by
reading; that is why there are so many.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from random import Random
from typing import Final, Protocol

from postroad.flow.families import FamilyMemory
from postroad.flow.idle import Idle
from postroad.flow.judge import Step, judge_connect
from postroad.flow.lanes import PLAIN_S, Lane, Lanes, Place, Site
from postroad.flow.outbound import Bodies, Courier, Manner, NoCourier, Trip
from postroad.flow.parcels import Delivery, Parcel
from postroad.flow.providers import Providers
from postroad.flow.route import Hop
from postroad.flow.shaping import PROBE_S, State
from postroad.flow.signals import Lesson, heard, heard_at_the_door, is_used_up, wants_fewer
from postroad.flow.turns import PATIENCE_S
from postroad.values.outcome import About, Fate, Outcome
from postroad.values.ports import Clock
from postroad.values.reply import Reply

log = logging.getLogger(__name__)

RETURNS_MAX: Final = 3
"""Other hosts one parcel is taken to in one attempt after a host failed in the middle of it."""

SITE_WAITING_MAX: Final = 500
"""Parcels waiting in all lanes of one site above which mail out of the queue goes back there for PATIENCE_S when room
is short: a slow provider with a lane for each customer must not have all of it."""

HOLD_S: Final = 2.0
"""How long a connection is kept open for the next message that may go; longer waits end it, as a polite client does."""

HOLD_FIRST_S: Final = 120.0
"""The same before its first message: what might go when it was begun may have been given up while it was being opened,
and the next connection would fare no better. RFC 5321 section 4.5.3.2.7: a server waits "at least 5 minutes"."""

TURN_MESSAGES: Final = 3
"""Messages that one connection carries while other lanes of its site wait for the pace: enough to be worth a
connection, and few enough that the others do not wait long."""

LOOK_AGAIN_S: Final = 1.0
"""When a lane is looked at again whose turn it was, while another lane of its site took what might go."""

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

    def on_untried(self, parcel: Parcel, why: str, until: float, *, throttled: bool = False) -> None:
        """This parcel was not tried and waits until its lane is open again, or until its turn comes in a lane whose
        rate is limited, at `until` of the monotonic clock."""
        ...

    def on_unwelcome(self, lane: Lane, parcel: Parcel) -> bool:
        """The lane's source address is not welcome at its site: takes out of the parcel what may leave from another;
        returns whether anything is left."""
        ...

    def on_elsewhere(self, parcel: Parcel) -> None:
        """This parcel's site has its home in another worker."""
        ...

    def on_lesson(self, site: Site, lesson: Lesson) -> None:
        """The site's shape has changed in a way that others should know of."""
        ...

    def on_disconnected(self, site: Site) -> None:
        """A connection to the site has ended."""
        ...

    def on_open_again(self, site: Site) -> None:
        """A probe of a suspended site was taken."""
        ...

    @property
    def cramped(self) -> bool:
        """Whether there is little room left for mail out of the queue."""
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


class _Berth:
    """What a connection is counted as just now."""

    __slots__ = ("first", "place")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.first = True
        """It has sent nothing yet: a message of its site is promised to it until then."""


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
        providers: Providers | None = None,
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
        self._providers = providers or Providers({})
        self._wakes: dict[Site, asyncio.TimerHandle] = {}
        self._on_open = on_open
        self._on_close = on_close
        self._tls_watch = tls_watch
        self._families = FamilyMemory()
        self._idle = Idle(clock, idle_s)
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self.busy = 0
        """Parcels in the hands of a connection."""

    # -- the way in --------------------------------------------------------------------------------------------------

    def submit(self, lane: Lane, parcel: Parcel) -> None:
        """Takes a parcel: to a waiting connection, to the queue of its lane, or back at once when the lane's hosts
        have just failed."""
        if self._idle.hand(lane, parcel):
            return
        now = self._now()
        if lane.site.elsewhere_until and lane.site.elsewhere_until > now:
            self._sink.on_elsewhere(parcel)
            return
        until = lane.suspended_until(now)
        if until and (not lane.connections or lane.site.shape.state is State.SUSPENDED):
            self._suspended(lane, parcel)
            return
        if not lane.site.shape.easy and self._throttled(lane, parcel, now):
            return
        if self._has_enough(lane.site, parcel):
            why = f"not tried yet: enough mail waits for {lane.site}, and goes first"
            self._untried(lane, parcel, why, now + PATIENCE_S, throttled=True)
            return
        lane.queue.append(parcel)
        self._connect(lane)

    def _has_enough(self, site: Site, parcel: Parcel) -> bool:
        """Whether a parcel out of the queue finds so much of its user's mail waiting for the site that it had better
        make room for mail to others."""
        enough = site.turns.count >= SITE_WAITING_MAX and parcel.letter.user in site.turns.users
        return enough and not parcel.letter.fresh and self._sink.cramped

    def _suspended(self, lane: Lane, parcel: Parcel) -> None:
        if lane.site.shape.by_source and not self._sink.on_unwelcome(lane, parcel):
            return
        now = self._now()
        self._untried(lane, parcel, f"not tried: {lane.why(now)}", lane.suspended_until(now))

    def _untried(self, lane: Lane, parcel: Parcel, why: str, until: float, *, throttled: bool = False) -> None:
        parcel.shut_s = lane.site.shape.shut_s(self._now())
        self._sink.on_untried(parcel, why, until, throttled=throttled)

    def _ended(self, lane: Lane, parcel: Parcel, results: Results) -> None:
        parcel.shut_s = lane.site.shape.shut_s(self._now())
        self._sink.on_result(parcel, results)

    def _throttled(self, lane: Lane, parcel: Parcel, now: float) -> bool:
        """Puts a parcel off whose turn is too far away to wait for it in memory."""
        shape, turns, letter = lane.site.shape, lane.site.turns, parcel.letter
        wait_s, pace_s = shape.permit(now).wait_s, shape.pace_s
        if turns.has_room(letter.user, wait_s, pace_s, now, fresh=letter.fresh):
            return False
        if shape.by_source and not self._sink.on_unwelcome(lane, parcel):
            return True
        if shape.is_shut(now):
            # The probe is answered in seconds as a rule; what it is about is no pace and nobody's turn.
            why = f"not tried yet: {lane.site} was suspended ({shape.why}), and one message is finding out"
            self._untried(lane, parcel, why, now + min(wait_s, max(PATIENCE_S, PROBE_S - wait_s)), throttled=True)
            return True
        why = f"not tried yet: {lane.site} may get {shape.pace_text}, and others come first"
        until = turns.put_off(letter.user, wait_s, pace_s, now)
        if shape.state is State.SLOWED and not shape.limits.is_paced:
            # Then there is no pace any more.
            until = min(until, max(shape.until, now + PATIENCE_S))
        self._untried(lane, parcel, why, until, throttled=True)
        return True

    def _connect(self, lane: Lane) -> None:
        if self._draining:
            return
        while (place := self._lanes.may_connect(lane, self._now())) is not Place.NONE:
            task = asyncio.get_running_loop().create_task(self._live(lane, place))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        site = lane.site
        if not site.shape.easy and lane.queue and not lane.connections:
            self._wake_later(lane)
        if site.crowded:
            self._idle.make_way_in(site)
        if self._lanes.crowded:
            self._idle.make_way()

    def connect_site(self, site: Site) -> None:
        """More may connect than before, or something may be sent again: lanes in line come first."""
        if not site.shape.easy:
            self._give_turns(site)
        before = -1
        while site.crowded and site.connections != before:
            before = site.connections
            lane, _ = site.line.popitem(last=False)
            self._connect(lane)
        if not site.shape.easy and not (site.turns.users and site.may_begin(self._now())):
            # A paced site may have thousands of lanes; those that wait stand in its lines.
            return
        for lane in list(site.lanes):
            if lane.queue:
                self._connect(lane)

    def _give_turns(self, site: Site) -> None:
        """Lanes that wait for the pace of a site may connect, as many as messages may go now, in their order."""
        while (lane := site.next_paced()) is not None:
            self._connect(lane)
            if not lane.connections and lane.queue:
                return

    def _wake_later(self, lane: Lane) -> None:
        """Looks again when the next message may go, or puts off what would wait too long."""
        site = lane.site
        wait_s = site.shape.permit(self._now()).wait_s
        if wait_s > PATIENCE_S:
            for parcel in lane.queue.take_all():
                self.submit(lane, parcel)
        elif site not in self._wakes:
            loop = asyncio.get_running_loop()
            self._wakes[site] = loop.call_later(max(wait_s, 0.01) if wait_s else LOOK_AGAIN_S, self._wake, site)

    def _wake(self, site: Site) -> None:
        self._wakes.pop(site, None)
        self.connect_site(site)

    def take_waiting(self, site: Site) -> list[Parcel]:
        """Everything that waits in the lanes of a site, taken out."""
        return [parcel for lane in site.lanes for parcel in lane.queue.take_all()]

    def shrink(self, site: Site) -> None:
        """The site has more connections than its share: those without mail end now, others after their message."""
        self._idle.make_way_in(site, site.connections - site.shape.share)

    # -- one connection's life ---------------------------------------------------------------------------------------

    async def _live(self, lane: Lane, place: Place) -> None:
        courier: Courier | None = None
        opening = True
        berth = _Berth(place)
        try:
            courier = await self._open(lane)
            opening = False
            self._lanes.unopened(lane)
            if courier is not None:
                lane.succeeded(courier.hop)
                await self._serve(lane, courier, berth)
        except Exception:
            log.exception("a connection of lane %s ended by a bug", lane.key)
            self._give_up(lane)
        finally:
            if opening:
                self._lanes.unopened(lane)
            self._begun(lane, berth)
            await self._end(lane, berth.place, courier)

    def _give_up(self, lane: Lane) -> None:
        """After a bug: the site is left alone for a while, as if its hosts had failed, so that nothing spins."""
        now = self._now()
        for hop in lane.hops(now, self._rng):
            lane.failed(hop, BUG.cause, now)
        self._defer_all(lane, [], BUG)

    async def _end(self, lane: Lane, place: Place, courier: Courier | None) -> None:
        try:
            if courier is not None:
                await courier.quit()
        finally:
            self._lanes.disconnected(lane, place)
            if courier is not None:
                self._on_close()
            self._offer(lane.site)
            if not lane.site.shape.easy:
                self._give_turns(lane.site)
            self._connect(lane)
            self._sink.on_disconnected(lane.site)

    def _offer(self, site: Site) -> None:
        """A place has become free at a site and in the worker: who has waited longest and can use it now gets it."""
        lane = self._lanes.next_in_line(site)
        while lane is not None:
            before = lane.connections
            self._connect(lane)
            if lane.connections > before:
                return
            if lane in site.line:
                site.line.move_to_end(lane, last=False)
            # Slowed or suspended meanwhile: nobody shall wait behind it.
            lane = self._lanes.next_of_worker()

    async def _open(self, lane: Lane) -> Courier | None:
        """A session with the first host of the lane that takes one; without any, the lane's mail is deferred."""
        trail: list[tuple[str, str]] = []
        last: Outcome | None = None
        decisive = 0
        unwelcome = False
        now = self._now()
        passed_over = lane.left_alone(now)
        hops, bypass = self._fit(lane, self._families.order(lane.hops(now, self._rng), now))
        for hop in hops:
            opened = await self._open_hop(lane, hop)
            self._on_open(opened)
            if isinstance(opened, Courier):
                opened.chunks = hop not in lane.unchunked
                if lane.queue:
                    lane.queue.peek().trail += trail
                opened.bypass = bypass
                return opened
            if self._tls_watch is not None and opened.fault:
                self._tls_watch.failed(_domains(lane), hop, opened)
            if last is None or last.fate is Fate.FAILED:
                # A host that did not answer may still do what the others refuse for good.
                last, decisive = opened.outcome, len(trail)
            trail.append((str(hop), _words(opened.outcome)))
            if lane.connections < 2 or not wants_fewer(lane.site, opened.outcome, self._providers):
                lane.failed(hop, opened.outcome.cause, self._now())
            lesson = heard_at_the_door(lane.site, opened.outcome, self._providers, self._now())
            if lesson is not None:
                self._learnt(lane, lane.queue.peek() if lane.queue else None, lesson)
                if lane.site.shape.state is State.SUSPENDED:
                    unwelcome = True
                    break
        if last is not None and last.fate is Fate.FAILED and passed_over:
            # What a host that is left alone for now would have said is not known.
            last, decisive = judge_connect(f"not tried: {passed_over}", ""), len(trail)
        trail = [*trail[:decisive], *trail[decisive + 1 :]]
        if unwelcome and last is not None:
            # One message has found out; the others were not tried, and may leave from another source address.
            self._defer_next(lane, trail, last)
        elif bypass and last is not None:
            self._defer_unfit(lane, trail, last)
        else:
            self._defer_all(lane, trail, last)
        self._put_off_suspended(lane.site)
        return None

    def _fit(self, lane: Lane, hops: list[Hop]) -> tuple[list[Hop], bool]:
        """Of these hosts those that may carry the parcel that goes next; and whether others are left out because they
        cannot. What none of them may carry waits for the hosts that are left alone now."""
        while lane.queue and lane.queue.peek().unfit:
            parcel = lane.queue.take()
            fit = [hop for hop in hops if hop.host not in parcel.unfit]
            if fit:
                lane.queue.put_back(parcel)
                return fit, len(fit) < len(hops)
            self._defer(lane, parcel, [], judge_connect(f"not tried: {lane.left_alone(self._now())}", ""))
        return hops, False

    def _defer_unfit(self, lane: Lane, trail: list[tuple[str, str]], outcome: Outcome) -> None:
        """No host that may carry a parcel past better ones took a session; other mail is not concerned."""
        if lane.queue and lane.queue.peek().unfit:
            self._defer_next(lane, trail, outcome)

    def _defer_next(self, lane: Lane, trail: list[tuple[str, str]], outcome: Outcome) -> None:
        if lane.queue:
            self._defer(lane, lane.queue.take(), trail, outcome)

    def _defer(self, lane: Lane, parcel: Parcel, trail: list[tuple[str, str]], outcome: Outcome) -> None:
        """Ends the attempt of a parcel that no host took a session for."""
        parcel.trail += trail
        self._ended(lane, parcel, [(delivery, outcome) for delivery in parcel.deliveries])

    def _learnt(self, lane: Lane, parcel: Parcel | None, lesson: Lesson) -> None:
        """Tells of a change of the lane's shape: in the journal of the parcel, and to who must know."""
        if parcel is not None:
            parcel.remarks.append(lesson.remark)
        self._sink.on_lesson(lane.site, lesson)

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
                lane.queue.peek().trail.append((str(hop), f"{opened.outcome.cause}; again without TLS"))
            fault = opened.fault
            opened = await Courier.open(hop, self._manner, self._bodies, plain=True, policy=policy, guise=guise)
            if isinstance(opened, Courier):
                opened.fault = fault
        return opened

    def _defer_all(self, lane: Lane, trail: list[tuple[str, str]], outcome: Outcome | None) -> None:
        """No host of the lane took a session; while other connections of it live, its mail is left to them."""
        if lane.connections > 1:
            return
        for parcel in lane.queue.take_all():
            if outcome is None:
                self._suspended(lane, parcel)
            else:
                self._defer(lane, parcel, trail, outcome)

    async def _serve(self, lane: Lane, courier: Courier, berth: _Berth) -> None:
        """Carries parcels until there is none, the host has had enough, or others need the place."""
        queue, site = lane.queue, lane.site
        shape = site.shape
        sink = self._sink
        mails = shape.limits.messages_per_connection
        mails = min(mails, courier.extensions.max_transactions or mails)
        while not self._draining and courier.carried < mails and site.connections <= shape.share:
            if lane.per_connection and courier.carried >= lane.per_connection:
                return
            if sink.full:
                await sink.room()
            if not queue and site.next_paced() is not None:
                # Another lane waits until it may send: this place is of more use to it.
                return
            if not shape.easy and not (self._may_stay(site, courier) and await self._may_send(lane, berth.first)):
                return
            if queue:
                parcel = queue.take(paced=not shape.easy)
            elif self._lanes.crowded or site.crowded or courier.bypass:
                return
            else:
                self._begun(lane, berth)
                handed = await self._idle.wait(lane)
                if handed is None:
                    return
                parcel = handed
            if not courier.usable or courier.hop.host in parcel.unfit or (courier.bypass and not parcel.unfit):
                # The host closed while nothing was going on, or another one has to carry this parcel.
                queue.put_back(parcel)
                return
            if courier.extensions.max_domains and not self._fits(lane, courier, parcel):
                queue.put_back(parcel)
                return
            if not shape.easy:
                if shape.permit(self._now()).wait_s > 0.0:
                    # Another connection was faster, or the lane was shaped while this one waited for mail.
                    queue.put_back(parcel)
                    continue
                shape.take(self._now())
            self._begun(lane, berth)
            if not await self._carry(lane, courier, parcel, berth):
                return

    def _may_stay(self, site: Site, courier: Courier) -> bool:
        """Whether a connection to a paced site has not had its turn, or nobody else waits for one."""
        return courier.carried < TURN_MESSAGES or not (site.crowded or site.is_short(self._now()))

    def _begun(self, lane: Lane, berth: _Berth) -> None:
        if berth.first:
            berth.first = False
            self._lanes.begun(lane)

    async def _may_send(self, lane: Lane, first: bool) -> bool:
        """Waits until the next message may go; False when this connection should not wait for it."""
        site = lane.site
        shape = site.shape
        while True:
            now = self._now()
            permit = shape.permit(now)
            wait_s = permit.wait_s
            if wait_s <= 0.0 and not first and site.beginning and shape.ready(now) <= site.beginning:
                # Promised to connections that have sent nothing yet.
                wait_s = max(shape.pace_s, 0.01)
            hold_s = HOLD_FIRST_S if first and lane.queue else HOLD_S
            if permit.connections < site.connections or wait_s > hold_s:
                return False
            if wait_s <= 0.0:
                return True
            await asyncio.sleep(min(wait_s, HOLD_S))
            if self._draining:
                return False

    # -- one parcel --------------------------------------------------------------------------------------------------

    async def _carry(self, lane: Lane, courier: Courier, parcel: Parcel, berth: _Berth) -> bool:
        """Carries one parcel and sorts its results; returns whether the connection may go on."""
        if parcel.letter.header is None and not await self._load(lane, parcel):
            lane.site.shape.spared()
            return True
        if len(parcel.deliveries) > courier.limit:
            self._split(lane, parcel, courier.limit)
        parcel.started = parcel.started or self._now()
        self.busy += 1
        try:
            if self._tls_watch is not None:
                self._tell(self._tls_watch, courier, parcel)
            trip = await courier.carry(parcel)
        except asyncio.CancelledError:
            courier.abort()
            raise
        except Exception:
            log.exception("a parcel of lane %s met a bug", lane.key)
            courier.abort()
            trip = Trip([(delivery, BUG, Step.GO_ON) for delivery in parcel.deliveries], lost=True)
        finally:
            self.busy -= 1
        if courier.carried and not trip.lost and (berth.place is Place.KNOCKING or not lane.proven):
            berth.place = self._lanes.answered(lane, berth.place)
        if trip.unknown_chunks:
            lane.unchunked.add(courier.hop)
        if parcel.returned < RETURNS_MAX and is_used_up(lane.site, trip, self._providers):
            self._used_up(lane, courier, parcel, trip)
            return False
        if trip.stale and not parcel.returned:
            parcel.returned += 1
            lane.site.shape.spared()
            lane.queue.put_back(parcel)
            return False
        results = trip.results
        if len(results) == 1 and results[0][1].fate is Fate.DELIVERED and not trip.lost:
            # What nearly every parcel is: nothing to sort out, nothing to learn but that all is well.
            shape = lane.site.shape
            if shape.window < shape.limits.connections or not shape.easy:
                self._succeeded(lane.site)
            self._sink.on_result(parcel, [results[0][:2]])
            return True
        return self._sort(lane, courier, parcel, trip)

    def _sort(self, lane: Lane, courier: Courier, parcel: Parcel, trip: Trip) -> bool:
        """Learns from a trip that was not all well, and sends each of its deliveries on, to the end or to another host;
        returns whether the connection may go on."""
        results = trip.results
        lesson = heard(lane.site, trip, self._providers, self._now())
        if lesson is not None:
            self._learnt(lane, parcel, lesson)
        ended: Results = []
        unfit: Results = []
        again: list[Delivery] = []
        failure: Outcome | None = None
        for delivery, outcome, step in results:
            if step is Step.GO_ON or step is Step.UNFIT:
                (ended if step is Step.GO_ON else unfit).append((delivery, outcome))
                continue
            again.append(delivery)
            if step is not Step.REST:
                failure = outcome
        if failure is None and again and not ended:
            # "Too many" of a host that took none: sending them again at once would go on for ever.
            ended = [(delivery, outcome) for delivery, outcome, step in results if step is not Step.UNFIT]
            again = []
        if failure is not None:
            self._host_failed(lane, courier, parcel, failure, again, ended)
        elif again:
            lane.queue.put_back(self._part(parcel, again))
            self._connect(lane)
        if len(unfit) == len(results):
            # Nothing was offered, so nothing was learnt either.
            lane.site.shape.spared()
        elif failure is None and not trip.lost:
            self._succeeded(lane.site)
        if unfit:
            ended += self._seek_fit(lane, courier, parcel, unfit)
        if ended:
            self._ended(lane, parcel, ended)
        self._put_off_suspended(lane.site)
        return not trip.lost and failure is None

    def _used_up(self, lane: Lane, courier: Courier, parcel: Parcel, trip: Trip) -> None:
        """The host takes no more over this connection: the parcel goes over another, and later ones end in time."""
        enough = trip.number - 1
        lane.per_connection = min(lane.per_connection or enough, enough)
        parcel.returned += 1
        parcel.trail.append((courier.where, f"{trip.results[0][1].reply}; again over a new connection"))
        lane.site.shape.spared()
        lane.queue.put_back(parcel)

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

    def _succeeded(self, site: Site) -> None:
        was_probing = site.shape.state is State.PROBING
        if site.shape.succeeded(self._now()) or was_probing:
            self.connect_site(site)
        if was_probing:
            self._sink.on_open_again(site)

    def _put_off_suspended(self, site: Site) -> None:
        """After a refusal: a site that is suspended, by its rule or by a probe that failed, keeps no mail in memory."""
        if site.shape.state is State.SUSPENDED and site.shape.until > self._now():
            self.put_off(site)

    def put_off(self, site: Site) -> None:
        """Nothing goes to this site for a while: what waits goes back to the queue of the store."""
        for lane in list(site.lanes):
            for parcel in lane.queue.take_all():
                self._suspended(lane, parcel)

    async def _load(self, lane: Lane, parcel: Parcel) -> bool:
        try:
            return await self._sink.load(parcel)
        except Exception:
            log.exception("a parcel of lane %s could not be read", lane.key)
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
            lane.queue.put_back(following)
        else:
            ended += [(delivery, failure) for delivery in again]

    def _seek_fit(self, lane: Lane, courier: Courier, parcel: Parcel, unfit: Results) -> Results:
        """Sends on to other hosts what this one cannot carry; returns what none of them can."""
        hosts = parcel.unfit | {courier.hop.host}
        if lane.hosts <= hosts:
            return unfit
        part = self._part(parcel, [delivery for delivery, _ in unfit])
        part.unfit = hosts
        part.trail = [*parcel.trail, (courier.where, unfit[0][1].cause)]
        lane.queue.put_back(part)
        return []

    def _fits(self, lane: Lane, courier: Courier, parcel: Parcel) -> bool:
        """Leaves in the parcel what may still go over this connection; False when nothing may.

        RFC 9422 section 4.3: a host may take recipients of only so many domains in one session.
        """
        taken: list[Delivery] = []
        left: list[Delivery] = []
        for delivery in parcel.deliveries:
            if delivery.domain in courier.reached or len(courier.reached) < courier.extensions.max_domains:
                courier.reached.add(delivery.domain)
                taken.append(delivery)
            else:
                left.append(delivery)
        if taken and left:
            parcel.deliveries = taken
            lane.queue.put_back(self._part(parcel, left))
            self._connect(lane)
        return bool(taken)

    def _split(self, lane: Lane, parcel: Parcel, limit: int) -> None:
        """Leaves `limit` deliveries in the parcel and queues the rest right behind it."""
        rest = self._part(parcel, parcel.deliveries[limit:])
        parcel.deliveries = parcel.deliveries[:limit]
        lane.queue.put_back(rest)
        self._connect(lane)

    @staticmethod
    def _part(parcel: Parcel, deliveries: list[Delivery]) -> Parcel:
        part = Parcel(parcel.letter, deliveries)
        part.returned = parcel.returned
        part.started = parcel.started
        part.unfit = parcel.unfit
        return part

    # -- the end -----------------------------------------------------------------------------------------------------

    async def drain(self, grace: float, give_back: Callable[[Parcel], None]) -> None:
        """Starts nothing new, waits up to `grace` seconds for what is under way, then cuts it off.

        Parcels that were never carried go to `give_back`; those cut off are neither given back nor reported: what
        their hosts have of them is unknown, and their next time stands already in the store.
        """
        self._draining = True
        self._idle.end_all()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for wake in self._wakes.values():
            wake.cancel()
        self.give_back_waiting(give_back)

    def give_back_waiting(self, give_back: Callable[[Parcel], None]) -> None:
        """Empties all lanes: nothing waits here any more."""
        for lane in self._lanes.all():
            for parcel in lane.queue.take_all():
                give_back(parcel)


def _domains(lane: Lane) -> set[str]:
    """The domains whose mail waits in a lane, without mail whose sender has a wish of his own."""
    waiting = (delivery for parcel in lane.queue for delivery in parcel.deliveries)
    return {delivery.domain for delivery in waiting if not delivery.wishes}


def _words(outcome: Outcome) -> str:
    if outcome.where and outcome.reply is not None:
        return f"{outcome.cause}: {outcome.reply}"
    return outcome.cause
