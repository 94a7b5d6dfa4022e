"""Whole days of sending in a second: the real pool, lanes and grants on an event loop whose time passes by itself.

Hosts, DNS and the store are played; nothing opens a socket. Time goes on only when everybody waits, so every run of the
same seed is the same, and a state in which mail waits and nobody will ever wake it is an error at once.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import count
from random import Random
from types import SimpleNamespace
from typing import Any, Final

import pytest

from postroad.flow import pool as pool_module
from postroad.flow.grants import Grants
from postroad.flow.judge import Step
from postroad.flow.lanes import Alone, Lane, Lanes, Site
from postroad.flow.outbound import NoCourier, Trip
from postroad.flow.parcels import Delivery, Letter, Parcel
from postroad.flow.pool import Pool, Results
from postroad.flow.providers import Providers
from postroad.flow.route import Hop, Plan
from postroad.flow.shaping import Limits
from postroad.flow.signals import Lesson
from postroad.store.grants import Authority
from postroad.store.records import Accept, Leg
from postroad.values.outcome import About, Fate, Outcome
from postroad.values.ports import Target
from postroad.values.reply import Reply

RETRY_S: Final = 300.0
"""When what a host refused for now is tried again."""


class _NobodyComes(selectors.BaseSelector):
    """No file ever becomes ready: waiting for one lets the time pass."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._keys[fileobj] = selectors.SelectorKey(fileobj, number, events, data)
        return self._keys[fileobj]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("everybody waits, and nothing will ever happen again")
        self.now += max(0.0, timeout)
        return []

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop without a clock: `time` jumps to whatever comes next."""

    def __init__(self) -> None:
        self._virtual = _NobodyComes()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    # The port `values.ports.Clock`.
    def monotonic(self) -> float:
        return self._virtual.now

    def uptime(self) -> float:
        return self._virtual.now

    def wall_us(self) -> int:
        return int(self._virtual.now * 1e6)


def simulate(work: Callable[[VirtualLoop], Coroutine[Any, Any, None]]) -> None:
    """Runs `work` in a time of its own."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(work(loop))
    finally:
        loop.run_until_complete(_cut_off(asyncio.all_tasks(loop)))
        loop.close()


async def _cut_off(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Answers = Callable[[str, float], "Reply | None"]
"""What a host says to a message at a time; None: it takes it."""


@dataclass
class Hosts:
    """All hosts: how long they take, and what they say."""

    opening_s: Callable[[], float] = lambda: 0.1
    carrying_s: Callable[[], float] = lambda: 0.1
    answers: Answers = lambda host, now: None
    takes_nobody: Callable[[str, float], bool] = lambda host, now: False
    sent: list[tuple[float, str, str]] = field(default_factory=list)
    """Time, host and user of every message that was offered."""
    opened: int = 0

    def courier(self, loop: VirtualLoop) -> type:
        """What stands for `flow.outbound.Courier`."""
        hosts = self

        class Played:
            def __init__(self, hop: Hop) -> None:
                self.hop, self.where = hop, str(hop)
                self.extensions = SimpleNamespace(max_transactions=0, max_domains=0)
                self.carried, self.limit, self.usable, self.detour = 0, 100, True, False
                self.domains: set[str] = set()
                self.fault = ""

            @classmethod
            async def open(cls, hop: Hop, manner: Any, bodies: Any, **_: Any) -> Played | NoCourier:
                await asyncio.sleep(hosts.opening_s())
                hosts.opened += 1
                if hosts.takes_nobody(hop.host, loop.time()):
                    return NoCourier(Outcome(Fate.DEFERRED, About.HOST, "no answer", None))
                return cls(hop)

            async def carry(self, parcel: Parcel) -> Trip:
                self.carried += 1
                hosts.sent.append((loop.time(), self.hop.host, parcel.letter.user))
                await asyncio.sleep(hosts.carrying_s())
                reply = hosts.answers(self.hop.host, loop.time())
                outcome = Outcome(Fate.DELIVERED, About.RECIPIENT, "taken", Reply(250, "2.0.0", "ok"), where=self.where)
                if reply is not None:
                    outcome = Outcome(Fate.DEFERRED, About.HOST, "refused", reply, where=self.where)
                return Trip([(one, outcome, Step.GO_ON) for one in parcel.deliveries])

            async def quit(self) -> None:
                await asyncio.sleep(0.02)

            def abort(self) -> None:
                pass

        return Played


class World:
    """Workers, their shared store and all mail."""

    def __init__(
        self,
        loop: VirtualLoop,
        patch: pytest.MonkeyPatch,
        *,
        hosts: Hosts,
        providers: Providers,
        workers: int = 1,
        connections: int = 20,
        seed: int = 1,
    ) -> None:
        patch.setattr(pool_module, "Courier", hosts.courier(loop))
        self.loop = loop
        self.hosts = hosts
        self.rng = Random(seed)
        self.queue: list[tuple[float, int, Delivery]] = []
        """What is put off: when it is due."""
        self.open: dict[int, int] = {}
        """Deliveries that have not arrived, and how often each was put off."""
        self.waited: dict[int, int] = {}
        """How often each of those that have arrived was put off."""
        self.arrived: dict[int, float] = {}
        self.asked = 0
        """How often workers asked for shares."""
        self.told: set[str] = set()
        """Why mail was put off."""
        self._numbers = count(1)
        self._authority = Authority(loop, self._hinted)
        self.workers = [
            Worker(self, number, workers, Lanes, providers, connections) for number in range(1, workers + 1)
        ]
        self._claims: asyncio.TimerHandle | None = None

    def _hinted(self, topic: str) -> None:
        for worker in self.workers:
            if worker.grants is not None:
                self.loop.call_later(0.001, worker.grants.look)

    def send(self, user: str, host: str, worker: int | None = None) -> int:
        """A fresh message at one of the workers."""
        number = next(self._numbers)
        leg = Leg(number, f"b@{host}", host)
        letter = Letter(
            Accept(number, 0, "a@x.test", b"", b"", "", 1000, [], [leg], 0, "", b"", login=user),
            number, header=b"", body=b"",
        )  # fmt: skip
        self.open[number] = 0
        self._submit(Delivery(letter, leg, 1), self.workers[worker] if worker is not None else None)
        return number

    def _submit(self, delivery: Delivery, worker: Worker | None = None) -> None:
        worker = worker or self.rng.choice(self.workers)
        lane = worker.lane(delivery.domain)
        worker.pool.submit(lane, Parcel(delivery.letter, [delivery]))

    def put_off(self, deliveries: list[Delivery], until: float) -> None:
        """The store keeps deliveries until they are due."""
        for delivery in deliveries:
            self.open[delivery.id] += 1
            delivery.letter.fresh = False
            heapq.heappush(self.queue, (until, next(self._numbers), delivery))
        self._claim_later()

    def _claim_later(self) -> None:
        if self._claims is not None:
            self._claims.cancel()
            self._claims = None
        if self.queue:
            self._claims = self.loop.call_at(max(self.queue[0][0], self.loop.time() + 0.01), self._claim)

    def _claim(self) -> None:
        self._claims = None
        due = []
        while self.queue and self.queue[0][0] <= self.loop.time():
            due.append(heapq.heappop(self.queue)[2])
        for delivery in due:
            self._submit(delivery)
        self._claim_later()

    def ended(self, delivery: Delivery) -> None:
        """A delivery has arrived; raises KeyError for one that has arrived before."""
        self.waited[delivery.id] = self.open.pop(delivery.id)
        self.arrived[delivery.id] = self.loop.time()

    async def end(self) -> None:
        """All workers drain; what only waits goes back to the store."""
        for worker in self.workers:
            if worker.grants is not None:
                worker.grants.stop()
            await worker.pool.drain(60.0, lambda parcel: self.put_off(parcel.deliveries, self.loop.time()))

    @property
    def lanes(self) -> list[Lane]:
        return [lane for worker in self.workers for lane in worker.lanes.all()]

    async def call(self, worker: int, asks: Any) -> Any:
        self.asked += 1
        await asyncio.sleep(0.002)
        return self._authority.ask(worker, asks)


class _GrantStore:
    """What `Grants` asks."""

    def __init__(self, world: World, worker: int) -> None:
        self._world = world
        self._worker = worker

    async def call(self, unit: Any, args: Any) -> Any:
        return await self._world.call(self._worker, args)


class Worker:
    """One worker's pool, and its sink."""

    full = False
    cramped = False

    def __init__(
        self, world: World, number: int, workers: int, lanes: type[Lanes], providers: Providers, connections: int
    ) -> None:
        self.world = world
        store: Any = _GrantStore(world, number)
        self.grants = Grants(store, workers, world.loop) if workers > 1 else None
        self.lanes = lanes(
            limits=Limits(connections, 100), total=500, providers=providers, sharer=self.grants or Alone()
        )
        anything: Any = None
        self.pool = Pool(
            sink=self, lanes=self.lanes, manner=anything, bodies=anything, clock=world.loop, rng=Random(number),
            providers=providers,
        )  # fmt: skip
        if self.grants is not None:
            self.grants.on_change = self._regranted
            self.grants.start()

    def lane(self, host: str) -> Lane:
        return self.lanes.lane(Plan(host, ((Target(host, ("192.0.2.1",), 25),),)))

    def _regranted(self, site: Site) -> None:
        if site.elsewhere_until > self.world.loop.time():
            for parcel in self.pool.take_waiting(site):
                self.on_elsewhere(parcel)
        elif site.over:
            self.pool.shrink(site)
        else:
            self.pool.connect_site(site)

    # -- flow.pool.Sink ----------------------------------------------------------------------------------------------

    def on_result(self, parcel: Parcel, results: Results) -> None:
        parcel.remarks.clear()
        for delivery, outcome in results:
            if outcome.fate is Fate.DELIVERED:
                self.world.ended(delivery)
            else:
                self.world.put_off([delivery], self.world.loop.time() + RETRY_S)

    def on_untried(self, parcel: Parcel, why: str, until: float, *, throttled: bool = False) -> None:
        self.world.told.add(why)
        self.world.put_off(parcel.deliveries, until)

    def on_unwelcome(self, lane: Lane, parcel: Parcel) -> bool:
        return True

    def on_elsewhere(self, parcel: Parcel) -> None:
        self.world.put_off(parcel.deliveries, self.world.loop.time() + 0.05)

    def on_lesson(self, site: Site, lesson: Lesson) -> None:
        pass

    def on_disconnected(self, site: Site) -> None:
        if self.grants is not None:
            self.grants.review(site)

    def on_open_again(self, site: Site) -> None:
        pass

    async def room(self) -> None:
        pass

    async def load(self, parcel: Parcel) -> bool:
        return True


def most_in(times: list[float], span_s: float) -> int:
    """The largest number of these times in any span, its end left out."""
    times, most, first = sorted(times), 0, 0
    for last, at in enumerate(times):
        while times[first] <= at - span_s:
            first += 1
        most = max(most, last - first + 1)
    return most
