"""A worker's outbound side: takes mail from acceptance and from the queue, sends it, and records what became of it.

    enqueue_fresh (from memory, right after the commit) --+
                                                          +-> route -> lane -> connection -> result -> record
    claim (from the store, when something is due) --------+

Invariant: a delivery is in `_flying` from the moment this worker takes it until the store has its result, and what is
in it is never taken again; so nothing is attempted twice at once. Every way into `_flying` and out of it stands in
these lines together, so that this can be checked by reading; that is why there are so many.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Container, Coroutine, Iterable, Iterator, Sequence
from random import Random
from typing import Any, Final, Protocol

from msgspec import structs

from postroad.config import Config
from postroad.config.providers import load as load_providers
from postroad.flow.bounce import Note, PlanFor, Reporter, ended
from postroad.flow.detours import tell_detour, turn_aside
from postroad.flow.fates import Tale, remark_event, tell, tell_untried
from postroad.flow.filing import Filing
from postroad.flow.grants import Grants
from postroad.flow.intake import Story
from postroad.flow.lanes import Alone, Lane, Lanes, Site
from postroad.flow.local import Planner
from postroad.flow.meters import Meters
from postroad.flow.outbound import Bodies, Manner, is_address
from postroad.flow.outbound_meters import OutboundMeters
from postroad.flow.outside import Outside
from postroad.flow.parcels import Delivery, Letter, Parcel, parcels
from postroad.flow.pool import BUG, Pool, Results, TlsWatch
from postroad.flow.protection import Protection
from postroad.flow.providers import Providers
from postroad.flow.recall import Touched, call_back, taken_by_hand
from postroad.flow.recorder import Recorder, Result, Store
from postroad.flow.route import Plan, Signposts
from postroad.flow.routing import Routes
from postroad.flow.schedule import count_hops
from postroad.flow.shaping import Limits, State
from postroad.flow.sign import Signer
from postroad.flow.signals import FEWER, SUSPENDED, Lesson
from postroad.flow.site_book import SiteBook
from postroad.flow.suspensions import Suspended, Suspensions
from postroad.flow.tls_policy import TlsPolicies
from postroad.flow.ways import NextHopOf, no_gateway, plan_way, steer
from postroad.flow.window import Window
from postroad.store.client import UnitFailed
from postroad.store.queue import claim
from postroad.store.reader import StoredMessage
from postroad.store.records import (
    KIND_LOCAL,
    MOVED,
    Accept,
    Claim,
    ClaimOthers,
    Crowd,
    Due,
    Later,
)
from postroad.store.shares import CROWDS_MAX, claim_others
from postroad.store.suspensions import Rows, suspended_sites
from postroad.store.suspensions import Suspended as SuspendedSite
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.ids import IdMaker, id_text
from postroad.values.outcome import About, Fate, Outcome
from postroad.values.ports import Clock, Lookup
from postroad.values.reply import Reply

log = logging.getLogger(__name__)

WINDOW_DELIVERIES: Final = 2000
WINDOW_OCTETS: Final = 64 * 1024 * 1024
"""Fresh mail kept in memory per worker; beyond it mail is committed unowned, for whoever has room."""

USER_SHARE: Final = 0.75
"""What one user may have of that window."""

CLAIMED_DELIVERIES: Final = 1000
CLAIMED_OCTETS: Final = 64 * 1024 * 1024
"""The same for mail out of the queue, apart, so that neither keeps the other from being sent."""

CLAIM_BATCH: Final = 200
"""Deliveries claimed at a time: about 2 ms of the store's time."""

CLAIM_S: Final = 1.0
"""How long an answer of the store to a claim is waited for at the end."""

POLL_S: Final = 5.0
"""How often the queue is looked at without a hint or a known due time: what a lost hint costs."""

OVERFLOW_S: Final = 0.1
"""Pause after a claim most of which was put off because enough of its kind waits: what stands behind it in the queue is
reached soon, and the store does other things too."""

PLAN_S: Final = 60.0
"""How long the way to a domain is used before it is planned again."""

PLANS_AT_ONCE: Final = 100
"""Ways planned at the same time: a resolver that gets hundreds of questions at once drops some, and each costs 5 s."""

STRANGERS_AT_ONCE: Final = 80
"""Those of them for domains that no way was found to before: name servers that are silent hold nobody else up."""

OTHERS_EVERY_S: Final = 1.0
"""How often mail of other users is sought for lanes that have enough of a few: it costs the store some milliseconds."""

CROWD_USERS_MAX: Final = 50
"""Users that are named then: where there are more, nobody has the lane for himself."""

PLANS_KEPT: Final = 20_000
AVOIDED_MAX: Final = 200
"""Domains that one claim may be told to leave alone."""

LANES_LOOKED_AT: Final = 1000
LANES_A_SECOND: Final = 20_000
"""So many lanes may be looked at before each claim, about 1 ms; with more than that, so many in a second: what is out
of date by half a second then costs an untried delivery, and not a claim its speed."""

CONNECTIONS_MAX: Final = 500
"""Outgoing connections of one worker."""

_NO_ADDRESS: Final = Outcome(
    Fate.FAILED, About.RECIPIENT, "the address is no address", Reply(553, "5.1.3", "no address")
)


class Letters(Touched, Protocol):
    """Where messages are read from (`store.reader.Reader`)."""

    async def message(self, ident: int) -> StoredMessage | None:
        """A message by its id; raises StoreBroken."""
        ...


class Reader(Letters, Rows, Protocol):
    """A worker's reading side, whole."""


async def _none_suspended() -> list[SuspendedSite]:
    return []


class Runner:
    """Sends the mail of one worker. `from_config` makes one, `start` sets it going, `drain` brings it to an end."""

    def __init__(
        self,
        *,
        store: Store,
        letters: Letters,
        bodies: Bodies,
        note: Note,
        ids: IdMaker,
        clock: Clock,
        plan_for: PlanFor,
        lookup: Lookup,
        signposts: Signposts,
        manner: Manner,
        hostname: str,
        delays_s: tuple[float, ...],
        lifetime_s: float,
        warn_after_s: float = 0.0,
        max_hops: int = 50,
        connections_per_lane: int = 20,
        messages_per_connection: int = 100,
        providers: Providers | None = None,
        source: str = "",
        workers: int = 1,
        suspended: Suspended = _none_suspended,
        idle_s: float = 5.0,
        meters: Meters | None = None,
        rng: Random | None = None,
        next_hop_of: NextHopOf = no_gateway,
        policies: TlsPolicies | None = None,
        tls_watch: TlsWatch | None = None,
        signer: Signer | None = None,
        routes: Routes | None = None,
    ) -> None:
        self._store = store
        self._letters = letters
        self._note = note
        self._clock = clock
        self._now = clock.monotonic
        self._lookup = lookup
        self._signposts = signposts
        self._next_hop_of = next_hop_of
        self._policies = policies or TlsPolicies(lookup)
        self._routes = None if routes is None or routes.trivial else routes
        self._has_choice = routes is not None and routes.has_choice
        """There are several source addresses for some mail."""
        self._delays_s = delays_s
        self._lifetime_s = lifetime_s
        self._warn_after_s = warn_after_s
        self._max_hops = max_hops
        self._rng = rng or Random()
        self._meters = OutboundMeters(meters or Meters.private())
        self.reporter = Reporter(
            hostname=hostname, plan_for=plan_for, ids=ids, lifetime_s=lifetime_s, note=note, signer=signer
        )
        """Also for what is reported at acceptance."""
        self._recorder = Recorder(store, self._on_recorded)
        self._sites = SiteBook(store)
        self._grants = Grants(store, workers, clock) if workers > 1 else None
        self._sharer = self._grants or Alone()
        self._lanes = Lanes(
            limits=Limits(connections_per_lane, messages_per_connection),
            total=CONNECTIONS_MAX,
            providers=providers,
            source=source,
            sharer=self._sharer,
        )
        self._pool = Pool(
            sink=self,
            lanes=self._lanes,
            manner=manner,
            bodies=bodies,
            clock=clock,
            rng=self._rng,
            providers=providers,
            idle_s=idle_s,
            on_open=self._meters.opened,
            on_close=self._meters.closed,
            tls_watch=tls_watch,
        )
        self._suspensions = Suspensions(store, suspended, self._lanes, clock, self._spawn)
        self._suspensions.on_change = self._reshaped
        if self._grants is not None:
            self._grants.on_change = self._regranted
        self._filing = Filing(store, note, self.reporter, clock, self)
        self._flying: dict[int, Delivery] = {}
        self._fresh = Window()
        self._claimed = Window()
        self._ways: dict[str, tuple[float, Lane]] = {}
        self._planning = asyncio.Semaphore(PLANS_AT_ONCE)
        self._strangers = asyncio.Semaphore(STRANGERS_AT_ONCE)
        self._change = 0
        """How often gateway domains have changed."""
        self._recalls = 0
        """How often somebody has called mail back."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._claiming: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._overflow = 0
        """Deliveries put off since the last claim because enough of their kind waits here."""
        self._starving = False
        """There is more in the queue than there was room for."""
        self._avoid: tuple[list[str], float] = ([], POLL_S)
        self._avoid_again = 0.0
        """When lanes are looked at again for that; until then the last answer is good enough."""
        self._crowded: list[Lane] = []
        """Lanes that had enough at the last claim: their mail was left in the queue."""
        self._others_again = 0.0
        self._draining = False

    @classmethod
    def from_config(
        cls,
        config: Config,
        *,
        store: Store,
        reader: Reader,
        spool: Bodies,
        story: Story,
        ids: IdMaker,
        clock: Clock,
        meters: Meters,
        planner: Planner,
        outside: Outside,
        next_hop_of: NextHopOf,
        protection: Protection,
        signer: Signer | None = None,
        workers: int = 1,
    ) -> Runner:
        """The runner that a configuration describes; raises ConfigError for a provider file that cannot be used."""
        relay = config.relay

        async def suspended() -> list[SuspendedSite]:
            return await suspended_sites(reader, clock.wall_us())

        return cls(
            store=store,
            letters=reader,
            bodies=spool,
            note=story.note,
            ids=ids,
            clock=clock,
            plan_for=planner.plan_ours,
            lookup=outside.lookup,
            signposts=outside.signposts,
            manner=outside.manner,
            next_hop_of=next_hop_of,
            policies=protection.policies,
            tls_watch=protection.log,
            signer=signer,
            routes=outside.routes,
            hostname=config.hostname,
            delays_s=config.retry.delays_s,
            lifetime_s=config.retry.lifetime_s,
            warn_after_s=config.retry.warn_after_s,
            max_hops=config.limits.hops,
            connections_per_lane=relay.connections_per_lane,
            messages_per_connection=relay.messages_per_connection,
            providers=Providers(load_providers(relay.providers_file)),
            source=outside.routes.usual_source,
            workers=workers,
            suspended=suspended,
            idle_s=relay.idle_s,
            meters=meters,
        )

    # -- fresh mail --------------------------------------------------------------------------------------------------

    def room_for(self, legs: int, size: int, user: str = "") -> bool:
        """Whether a message with so many deliveries may begin its first attempt here, from memory.

        One user gets USER_SHARE of the room at most, so that others need not wait behind what he has in the queue.
        """
        if self._draining or not self._fresh.has_room(legs, size, WINDOW_DELIVERIES, WINDOW_OCTETS):
            return False
        return self._fresh.users.get(user, 0) + legs <= WINDOW_DELIVERIES * USER_SHARE

    def enqueue_fresh(self, accepted: Accept) -> None:
        """Takes the legs that a just committed message was born with; never waits."""
        letter = Letter(accepted, accepted.id, header=accepted.header, body=accepted.body)
        owner = self._store.incarnation
        deliveries = [
            Delivery(letter, leg, 1) for leg in accepted.legs if leg.owner == owner and leg.kind != KIND_LOCAL
        ]
        if deliveries:
            self._take(self._fresh, letter, deliveries)
            self._dispatch(letter, deliveries)

    def _take(self, window: Window, letter: Letter, deliveries: list[Delivery]) -> None:
        letter.open = len(deliveries)
        window.add(letter)
        flying = self._flying
        for delivery in deliveries:
            flying[delivery.id] = delivery

    # -- mail out of the queue ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to claim what is due."""
        if self._grants is not None:
            self._grants.start()
        self._suspensions.look()
        self._claiming = asyncio.get_running_loop().create_task(self._claim_for_ever())

    def wake(self) -> None:
        """Something may have become due: called for every hint about the queue."""
        self._woken.set()

    async def _claim_for_ever(self) -> None:
        while not self._draining:
            self._woken.clear()
            try:
                wait = await self._claim_once()
                wait = min(wait, await self._claim_others())
            except (StoreBroken, StoreFull) as error:
                if self._store.closed.done():
                    return
                log.warning("nothing can be claimed: %s", error)
                wait = POLL_S
            except UnitFailed:
                log.exception("claiming failed")
                wait = POLL_S
            except Exception:
                log.exception("claiming met a bug")
                wait = POLL_S
            if wait > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._woken.wait()

    async def _claim_once(self) -> float:
        """Claims one batch; returns in how many seconds to look again."""
        room = min(CLAIMED_DELIVERIES - self._claimed.deliveries, CLAIM_BATCH)
        if room < CLAIM_BATCH // 4 or self._claimed.octets > CLAIMED_OCTETS:
            self._starving = True
            return POLL_S
        avoided, opens_in = self._avoided()
        claimed = await self._store.call(
            claim, Claim(self._store.incarnation, room, list(self._delays_s), domains_not=avoided)
        )
        self._take_claimed(claimed.deliveries)
        overflow, self._overflow = self._overflow, 0
        if len(claimed.deliveries) == room:
            return OVERFLOW_S if overflow > room // 2 else 0.0
        wait = min(POLL_S, opens_in)
        if claimed.next_due_us:
            wait = min(wait, max(0.01, (claimed.next_due_us - self._clock.wall_us()) / 1e6))
        return wait

    async def _claim_others(self) -> float:
        """Claims what other users have due for lanes that have enough mail of a few; returns when to look again."""
        now = self._now()
        if now < self._others_again:
            return self._others_again - now if self._crowded else POLL_S
        crowds = list(self._crowds())[:CROWDS_MAX]
        if not crowds or self._claimed.deliveries > CLAIMED_DELIVERIES + CLAIM_BATCH:
            return POLL_S
        self._others_again = now + OTHERS_EVERY_S
        claimed = await self._store.call(
            claim_others, ClaimOthers(self._store.incarnation, list(self._delays_s), crowds)
        )
        self._take_claimed(claimed.deliveries)
        return OTHERS_EVERY_S

    def _crowds(self) -> Iterator[Crowd]:
        """Domains whose lanes have enough mail, and whose that is."""
        lanes = {lane: lane.queue.logins for lane in self._crowded if lane.is_crowded}
        if not lanes:
            return
        domains = {way.partition(" ")[0]: lane for way, (_, lane) in self._ways.items() if lane in lanes}
        for domain, lane in domains.items():
            if not domain.startswith(MOVED):
                yield Crowd(domain, sorted(lanes[lane])[:CROWD_USERS_MAX])

    def _avoided(self) -> tuple[list[str], float]:
        """Domains whose lanes can do nothing with more mail now, and in how many seconds the first of them can."""
        now = self._now()
        if now < self._avoid_again:
            return self._avoid
        shut = self._lanes.shut(now)
        if self._has_choice:
            # Other source addresses may be welcome: each delivery is asked for.
            shut = {lane: until for lane, until in shut.items() if not lane.site.shape.by_source}
        self._crowded = [lane for lane in shut if lane.is_crowded]
        self._avoid = ([], POLL_S)
        if shut:
            opens_in = min(max(0.05, until - now) if until > now else 1.0 for until in shut.values())
            self._avoid = (list(self._shut_domains(shut))[:AVOIDED_MAX], opens_in)
        if self._lanes.count > LANES_LOOKED_AT:
            pause_s = self._lanes.count / LANES_A_SECOND
            self._avoid_again = now + pause_s
            self._avoid = (self._avoid[0], max(self._avoid[1], pause_s))
        return self._avoid

    def _shut_domains(self, shut: Container[Lane]) -> set[str]:
        """Domains of which every way that is known leads into such a lane.

        Mail with a wish for TLS or a route has a way of its own, which says nothing about the other mail.
        """
        closed: set[str] = set()
        open_: set[str] = set()
        for way, (_, lane) in self._ways.items():
            (closed if lane in shut else open_).add(way.partition(" ")[0])
        return closed - open_

    def _take_claimed(self, dues: Iterable[Due]) -> None:
        by_message: dict[int, tuple[Letter, list[Delivery]]] = {}
        for due in dues:
            if due.id in self._flying:
                continue
            known = by_message.get(due.message)
            if known is None:
                known = by_message[due.message] = (Letter(due, due.message), [])
            letter, deliveries = known
            deliveries.append(Delivery(letter, due, due.attempts + 1, due.last_reply))
        for letter, deliveries in by_message.values():
            self._take(self._claimed, letter, deliveries)
            if self._draining:
                self._give_back(Parcel(letter, deliveries))
                continue
            remote = []
            for delivery in deliveries:
                if delivery.kind == KIND_LOCAL:
                    self._spawn(self._filing.file(delivery))
                else:
                    remote.append(delivery)
            if remote:
                self._dispatch(letter, remote)

    # -- the way -----------------------------------------------------------------------------------------------------

    def _dispatch(self, letter: Letter, deliveries: list[Delivery]) -> None:
        """Brings deliveries to their lanes: at once where the way is known, else when it has been planned."""
        if self._routes is not None:
            deliveries, discarded = steer(self._routes, letter, deliveries, self._clock.wall_us())
            if discarded is not None:
                self._record(letter, discarded)
            if not deliveries:
                return
        now = self._now()
        if len(deliveries) == 1:
            lane = self._known_lane(deliveries[0].way, now)
            if lane is not None and not lane.site.shape.by_source and not deliveries[0].detour:
                self._pool.submit(lane, Parcel(letter, deliveries))
                return
        by_lane: dict[Lane, list[Delivery]] = {}
        unknown: list[Delivery] = []
        for delivery in deliveries:
            lane = self._lane_for(delivery, now)
            if lane is not None:
                by_lane.setdefault(lane, []).append(delivery)
            else:
                unknown.append(delivery)
        if unknown:
            self._spawn(self._route(letter, unknown))
        self._submit(letter, by_lane)

    def _lane_for(self, delivery: Delivery, now: float) -> Lane | None:
        """The lane of a delivery whose way is known: from its first source address that is welcome there."""
        while (lane := self._known_lane(delivery.way, now)) is not None and turn_aside(delivery, lane, now):
            pass
        return lane

    def _known_lane(self, way: str, now: float) -> Lane | None:
        """The lane of a way that was planned a short time ago."""
        known = self._ways.get(way)
        if known is None or known[0] <= now or known[1].forgotten:
            return None
        return known[1]

    def _submit(self, letter: Letter, by_lane: dict[Lane, list[Delivery]]) -> None:
        for lane, deliveries in by_lane.items():
            for parcel in parcels(letter, deliveries):
                tell_detour(parcel, lane)
                self._pool.submit(lane, parcel)

    async def _route(self, letter: Letter, deliveries: list[Delivery]) -> None:
        """Plans the ways of all domains at the same time and submits what shares one together."""
        by_way: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            by_way.setdefault(delivery.way, []).append(delivery)
        recalls = self._recalls
        try:
            found = await self._plans([members[0] for members in by_way.values()])
            taken = await taken_by_hand(self._letters, deliveries) if recalls != self._recalls else set()
        except asyncio.CancelledError:
            self._give_back(Parcel(letter, deliveries))
            raise
        except Exception:
            log.exception("the way of message %s could not be planned", id_text(letter.id))
            self.on_result(Parcel(letter, deliveries), [(delivery, BUG) for delivery in deliveries])
            return
        if taken:
            self._give_back(Parcel(letter, [delivery for delivery in deliveries if delivery.id in taken]))
        by_lane: dict[Lane, list[Delivery]] = {}
        aside: list[Delivery] = []
        for (way, everybody), planned in zip(by_way.items(), found, strict=True):
            members = [delivery for delivery in everybody if delivery.id not in taken]
            if not members:
                continue
            if isinstance(planned, Plan):
                lane = self._lanes.lane(planned)
                if len(self._ways) >= PLANS_KEPT:
                    self._ways.clear()
                self._ways[way] = (self._now() + PLAN_S, lane)
                if not members[0].next_hop:
                    self._sites.learn(members[0].domain, lane.site.name, self._now())
                if lane.site.shape.state is State.SUSPENDED:
                    self._suspensions.mail_for(lane.site, way.partition(" ")[0])
                for member in members:
                    if turn_aside(member, lane, self._now()):
                        aside.append(member)
                    else:
                        by_lane.setdefault(lane, []).append(member)
            else:
                self._ways.pop(way, None)
                self.on_result(Parcel(letter, members), [(delivery, planned) for delivery in members])
        self._submit(letter, by_lane)
        if aside:
            self._dispatch(letter, aside)

    async def _plans(self, deliveries: Iterable[Delivery]) -> list[Plan | Outcome]:
        """The ways of all of them, none of them from before a gateway domain's host changed."""
        while True:
            change = self._change
            found = await asyncio.gather(*(self._plan(one) for one in deliveries))
            if change == self._change:
                return found

    async def _plan(self, delivery: Delivery) -> Plan | Outcome:
        stranger = contextlib.nullcontext() if delivery.way in self._ways else self._strangers
        async with stranger, self._planning:
            return await plan_way(delivery, self._next_hop_of, self._signposts, self._lookup, self._policies)

    def reroute(self) -> None:
        """A gateway domain has another host: what waits here and every way are planned again.

        What a connection has in its hands goes where it was going, as if it had left just before.
        """
        self._change += 1
        self._ways.clear()
        for lane in self._lanes.all():
            for parcel in lane.queue.take_all():
                self._dispatch(parcel.letter, parcel.deliveries)

    def recall(self) -> None:
        """Somebody held, dropped or moved deliveries that workers have in hand: those that only wait here go back, in
        their lanes now or once their way is known."""
        self._recalls += 1
        self._spawn(call_back(self._lanes, self._letters, self._give_back))

    # -- what the pool asks and tells (flow.pool.Sink) ---------------------------------------------------------------

    @property
    def cramped(self) -> bool:
        """Whether there is little room left for mail out of the queue."""
        return self._claimed.deliveries >= CLAIMED_DELIVERIES - CLAIM_BATCH

    @property
    def full(self) -> bool:
        """Whether so many results wait for the store that nothing more may be sent."""
        return self._recorder.full

    async def room(self) -> None:
        """Waits for the store."""
        await self._recorder.room()

    async def load(self, parcel: Parcel) -> bool:
        """Reads header and body of a claimed letter; False when there is nothing to send."""
        letter = parcel.letter
        if not await self._read(parcel):
            return False
        hops = count_hops(letter.header or b"")
        if hops > self._max_hops:
            cause = f"too many hops: it has passed {hops} servers and runs in a circle"
            outcome = Outcome(Fate.FAILED, About.BODY, cause, Reply(554, "5.4.6", cause))
            self.on_result(parcel, [(delivery, outcome) for delivery in parcel.deliveries])
            return False
        wrong = [delivery for delivery in parcel.deliveries if not is_address(delivery.recipient)]
        if wrong:
            parcel.deliveries = [delivery for delivery in parcel.deliveries if delivery not in wrong]
            self.on_result(Parcel(letter, wrong), [(delivery, _NO_ADDRESS) for delivery in wrong])
        return bool(parcel.deliveries)

    async def _read(self, parcel: Parcel) -> bool:
        try:
            return await self.fetch(parcel.letter, parcel.deliveries)
        except (StoreBroken, StoreFull) as error:
            cause = f"the message could not be read: {error}"
            outcome = Outcome(Fate.DEFERRED, About.BODY, cause, Reply(451, "4.3.0", cause))
            self.on_result(parcel, [(delivery, outcome) for delivery in parcel.deliveries])
            return False

    async def fetch(self, letter: Letter, deliveries: Iterable[Delivery]) -> bool:
        """Reads the letter if it has not been; False when it is gone. Raises StoreBroken or StoreFull."""
        if letter.header is not None:
            return True
        stored = await self._letters.message(letter.id)
        if stored is None:
            # Somebody dropped it from the queue meanwhile; the store knows of no delivery any more.
            self.release(letter, [delivery.id for delivery in deliveries])
            return False
        letter.header, letter.body, letter.body_file = stored.header, stored.body, stored.body_file
        return True

    def on_result(self, parcel: Parcel, results: Results) -> None:
        """Writes down what became of these deliveries."""
        letter = parcel.letter
        if parcel.started:
            self._meters.attempt.observe(self._now() - parcel.started)
        now_us = self._clock.wall_us()
        not_before_us = 0
        for remark in parcel.remarks:
            first = results[0][0]
            if remark.kind == SUSPENDED and not (remark.by_source and first.course.others):
                not_before_us = self._wall_us(_soonest(first, remark.until))
        told = [remark_event(remark, results[0][0], now_us, self._wall_us(remark.until)) for remark in parcel.remarks]
        parcel.remarks.clear()
        tale = tell(
            letter,
            results,
            parcel.trail,
            now_us=now_us,
            delays_s=self._delays_s,
            lifetime_s=self._lifetime_s,
            warn_after_s=self._warn_after_s,
            not_before_us=not_before_us,
            shut_s=parcel.shut_s,
        )
        tale.events += told
        if tale.notices:
            self._spawn(self._report(letter, tale, [delivery for delivery, _ in results]))
        else:
            self._record(letter, tale)

    def _wall_us(self, at: float) -> int:
        """A moment of the monotonic clock as wall time."""
        return self._clock.wall_us() + int((at - self._now()) * 1e6)

    def on_untried(self, parcel: Parcel, why: str, until: float, *, throttled: bool = False) -> None:
        """Puts deliveries off without an attempt, until their lane may be tried again or their turn comes."""
        letter, now_us = parcel.letter, self._clock.wall_us()
        if throttled and self.cramped:
            self._overflow += len(parcel.deliveries)
        # Turns keep a distance already; what waits for one moment must not all come in it.
        spread = 1.0 if throttled else 1 + 0.1 * self._rng.random()
        # Fresh mail keeps the next time it was born with, unless it only waits its turn; what was claimed has waited
        # long enough already.
        born = letter.fresh and not throttled
        waits = []
        for one in parcel.deliveries:
            opens_us = now_us + int(max(0.0, _soonest(one, until) - self._now()) * 1e6 * spread)
            waits.append((one, max(opens_us, one.due_us) if born else opens_us))
        tale = tell_untried(
            letter,
            waits,
            why,
            now_us=now_us,
            lifetime_s=self._lifetime_s,
            warn_after_s=self._warn_after_s,
            shut_s=parcel.shut_s,
            throttled=throttled,
        )
        if tale.notices:
            self._spawn(self._report(letter, tale, parcel.deliveries))
        else:
            self._record(letter, tale)

    def on_lesson(self, site: Site, lesson: Lesson) -> None:
        """Lets the store, and by it the other workers, know of a suspension."""
        cause = f"{lesson.signal.rule}: {lesson.signal.means}"
        if lesson.suspended:
            site.shape.by_source = site.shape.by_source and self._has_choice
            self._suspensions.learnt(site, cause, self._domains(site))
        elif site.shape.state is State.SLOWED and lesson.signal.action != FEWER:
            self._suspensions.slowed(site, cause)

    def _domains(self, site: Site) -> list[str]:
        ways = {way.partition(" ")[0] for way, (_, lane) in self._ways.items() if lane.site is site}
        return [way for way in ways if not way.startswith(MOVED)]

    def on_disconnected(self, site: Site) -> None:
        """A share that is not used any more may be another worker's."""
        self._sharer.review(site)

    def on_open_again(self, site: Site) -> None:
        """Mail goes to a suspended site again."""
        self._suspensions.ended(site)

    def on_unwelcome(self, lane: Lane, parcel: Parcel) -> bool:
        """Sends what may leave from another source address that way; returns whether the rest of the parcel waits."""
        now = self._now()
        aside = [delivery for delivery in parcel.deliveries if turn_aside(delivery, lane, now)]
        if aside:
            parcel.deliveries = [delivery for delivery in parcel.deliveries if delivery not in aside]
            self._dispatch(parcel.letter, aside)
        return bool(parcel.deliveries)

    def on_elsewhere(self, parcel: Parcel) -> None:
        """Leaves a parcel to whoever claims it: this site's mail is another worker's."""
        self._give_back(parcel)

    def _reshaped(self, site: Site) -> None:
        """Another worker has learnt that nothing goes to this site, or that mail goes there again."""
        if site.shape.state is State.SUSPENDED:
            self._pool.put_off(site)
        else:
            self._pool.connect_site(site)

    def _regranted(self, site: Site) -> None:
        """The share of a site has changed, or another worker is its home: what waits is left to that one."""
        if site.elsewhere_until > self._now():
            for parcel in self._pool.take_waiting(site):
                self.on_elsewhere(parcel)
        elif site.over:
            self._pool.shrink(site)
        else:
            self._pool.connect_site(site)

    def regrant(self) -> None:
        """The store hints that shares have changed."""
        if self._grants is not None:
            self._grants.look()

    def resuspend(self) -> None:
        """The store hints that suspensions have changed."""
        self._suspensions.look()

    # -- writing it down ---------------------------------------------------------------------------------------------

    def _record(self, letter: Letter, tale: Tale, report: Accept | None = None) -> None:
        note = self._note(letter.id, tale.events) if tale.events else b""
        self._recorder.add(Result(letter, tale.done, tale.later, note, report))

    async def _report(self, letter: Letter, tale: Tale, deliveries: Sequence[Delivery]) -> None:
        """Writes down what the sender may have to be told of, with the report that is due."""
        now_us = self._clock.wall_us()
        try:
            if not await self.fetch(letter, deliveries):
                return
            report = await self.reporter.report(letter, tale.notices, now_us)
        except (StoreBroken, StoreFull) as error:
            # Where the report must go could not be found out: nothing ends without one, so all of it waits.
            log.warning("a report could not be made, trying again later: %s", error)
            self._postpone(letter, tale, now_us)
            return
        except asyncio.CancelledError:
            # The end came first. What a host has taken must be known all the same.
            self._postpone(letter, tale, now_us)
            raise
        except Exception:
            log.exception("the report of message %s met a bug, trying again later", id_text(letter.id))
            self._postpone(letter, tale, now_us)
            return
        tale.events += ended(letter, report, tale.notices, now_us)
        self._record(letter, tale, report if isinstance(report, Accept) else None)

    def _postpone(self, letter: Letter, tale: Tale, now_us: int) -> None:
        """Writes an attempt down without its report: nothing ends undelivered, a delay is told another time.

        What a host has taken has ended all the same, for it must not be sent twice.
        """
        failed = {delivery.id for delivery in tale.failed}
        tale.done = [ident for ident in tale.done if ident not in failed]
        due_us = now_us + int(self._delays_s[0] * 1e6)
        tale.later = [structs.replace(later, warned=False) for later in tale.later]
        tale.later += [Later(delivery.id, due_us, delivery.last_reply) for delivery in tale.failed]
        tale.events = [event for event in tale.events if event.kind != "bounced"]
        self._record(letter, tale)

    def _on_recorded(self, result: Result) -> None:
        self.release(result.letter, result.ids)
        if result.report is not None and result.report.legs:
            self.wake()
        if result.later and min(later.due_us for later in result.later) < self._clock.wall_us() + POLL_S * 1e6:
            self.wake()

    def release(self, letter: Letter, ids: Iterable[int]) -> None:
        """The store has the results of these deliveries: they are nobody's business here any more."""
        window = self._fresh if letter.fresh else self._claimed
        count = 0
        for ident in ids:
            count += self._flying.pop(ident, None) is not None
        letter.open -= count
        window.remove(letter, count)
        if self._starving and self._claimed.deliveries < CLAIMED_DELIVERIES // 2:
            self._starving = False
            self._woken.set()
        if self._crowded and any(lane.has_room for lane in self._crowded):
            self._crowded = []
            self._woken.set()

    def _give_back(self, parcel: Parcel) -> None:
        """A parcel nobody tried: whoever has time may have it at once."""
        now_us = self._clock.wall_us()
        later = [Later(delivery.id, now_us, delivery.last_reply, untried=True) for delivery in parcel.deliveries]
        self._recorder.add(Result(parcel.letter, [], later, b"", None))

    # -- the end -----------------------------------------------------------------------------------------------------

    async def drain(self, grace: float) -> None:
        """Begins no new attempt, waits up to `grace` seconds for those under way, then cuts them off.

        An attempt that is cut off is as if its host had never answered: the time of the next one stands in the store.
        """
        self._draining = True
        self._sites.close()
        self._woken.set()
        if self._grants is not None:
            self._grants.stop()
        until = self._now() + grace
        await self._pool.drain(grace, self._give_back)
        if self._claiming is not None:
            # What the store is just handing out can be given back; what is cut off waits for its next time.
            await asyncio.wait([self._claiming], timeout=CLAIM_S)
            self._claiming.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.1, until - self._now()))
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._pool.give_back_waiting(self._give_back)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(1.0, until - self._now())):
                await self._recorder.flush()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a delivery met a bug", exc_info=task.exception())

    @property
    def in_flight(self) -> int:
        """Deliveries this worker holds: waiting, under way, or not yet recorded."""
        return len(self._flying)


def _soonest(delivery: Delivery, until: float) -> float:
    """When a delivery whose lane is closed until then may go from any of its source addresses."""
    return min(until, delivery.opens) if delivery.opens else until
