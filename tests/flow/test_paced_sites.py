"""Mail for sites that take so many messages a minute, for hours: all of it arrives, none of it too fast."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from postroad.config.providers import Provider, ReplyRule
from postroad.flow.lanes import Lanes, Place
from postroad.flow.providers import Providers
from postroad.flow.turns import PATIENCE_S, TOGETHER_MAX
from postroad.values.reply import Reply
from tests.flow.simulation import Hosts, VirtualLoop, World, most_in, simulate

SLOW = ReplyRule(code="451", means="slower", action="slow", for_s=600.0)
SUSPEND = ReplyRule(code="421", means="nothing now", action="suspend", for_s=900.0)


def rules(**limits: Any) -> Providers:
    return Providers(
        {
            "big": Provider(hosts=(".big.test",), shared=True, **limits),
            "everybody": Provider(replies={"slow": SLOW, "suspend": SUSPEND}),
        }
    )


async def all_arrived(world: World, within_s: float) -> None:
    until = world.loop.time() + within_s
    while world.open and world.loop.time() < until:
        await asyncio.sleep(1.0)
    standing = [(lane.key, len(lane.queue), lane.connections) for lane in world.lanes if lane.queue]
    assert not world.open, f"{len(world.open)} have not arrived; {len(world.queue)} are put off, in lanes: {standing}"


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("opening_s", [0.1, 3.0])
@pytest.mark.parametrize("per_minute", [6, 10, 120])
def test_hosts_that_greet_late_get_their_mail(
    monkeypatch: pytest.MonkeyPatch, workers: int, opening_s: float, per_minute: int
) -> None:
    """What may go while a connection is being opened must not be gone when it is open."""

    async def work(loop: VirtualLoop) -> None:
        hosts = Hosts(opening_s=lambda: opening_s)
        world = World(loop, monkeypatch, hosts=hosts, providers=rules(messages_per_minute=per_minute), workers=workers)
        for number in range(60):
            world.send(f"user {number % 3}", f"mx{number % 5}.big.test")
        await all_arrived(world, 3 * 60 * 60 / per_minute + 120)
        assert most_in([at for at, *_ in hosts.sent], 60.0) <= per_minute

    simulate(work)


CLOSED = Reply(421, "4.7.0", "nothing now")


def test_mail_that_comes_while_a_suspended_site_is_probed_need_not_wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe is answered in seconds, and then all may go."""

    async def work(loop: VirtualLoop) -> None:
        opens = loop.time() + 10
        hosts = Hosts(carrying_s=lambda: 5.0, answers=lambda host, now: CLOSED if now < opens else None)
        world = World(loop, monkeypatch, hosts=hosts, providers=rules())
        world.send("anna", "mx0.big.test")
        while len(hosts.sent) < 2:
            await asyncio.sleep(1.0)
        assert len(world.open) == 1, "it is the probe"
        for number in range(6):
            world.send("bob", f"mx{number}.big.test")
        await all_arrived(world, 2 * PATIENCE_S)
        assert any(why.endswith("one message is finding out") for why in world.told)
        assert not any("may get" in why for why in world.told)

    simulate(work)


def test_nobody_waits_behind_what_was_put_off_for_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where messages are counted as well, a user's next message goes at once when nothing is in the way any more."""

    async def work(loop: VirtualLoop) -> None:
        opens = loop.time() + 10
        hosts = Hosts(carrying_s=lambda: 5.0, answers=lambda host, now: CLOSED if now < opens else None)
        world = World(loop, monkeypatch, hosts=hosts, providers=rules(messages_per_minute=60))
        world.send("anna", "mx0.big.test")
        while len(hosts.sent) < 2:
            await asyncio.sleep(1.0)
        assert len(world.open) == 1, "it is the probe"
        world.send("anna", "mx2.big.test")
        await asyncio.sleep(3 * PATIENCE_S)
        world.send("anna", "mx3.big.test")
        await all_arrived(world, 20.0)

    simulate(work)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "workers, limits", [(1, {"messages_per_minute": 20}), (1, {}), (2, {"messages_per_minute": 20}), (3, {})]
)
def test_all_mail_arrives_in_the_end_whatever_happens(
    monkeypatch: pytest.MonkeyPatch, workers: int, limits: dict[str, int], seed: int
) -> None:
    """Twenty minutes of mail from five users, slow hosts, refusals that slow and suspend, a host that often does not
    answer; then hours in which nothing stands for ever, goes too fast or is put off again and again."""

    async def work(loop: VirtualLoop) -> None:
        rng, began = Random(seed), loop.time()

        def answers(host: str, now: float) -> Reply | None:
            dice = rng.random() if now < began + 1800.0 else 1.0
            return CLOSED if dice < 0.01 else Reply(451, "4.7.1", "slower") if dice < 0.04 else None

        hosts = Hosts(
            opening_s=lambda: rng.choice((0.05, 0.2, 1.0, 4.0)),
            carrying_s=lambda: rng.choice((0.05, 0.3, 2.0)),
            answers=answers,
            takes_nobody=lambda host, now: now < began + 1200 and host == "mx0.big.test" and rng.random() < 0.5,
        )
        world = World(loop, monkeypatch, hosts=hosts, providers=rules(**limits), workers=workers, seed=seed)
        while loop.time() < began + 1200.0:
            world.send(f"user {min(int(rng.expovariate(1)), 4)}", f"mx{rng.randrange(5)}.big.test")
            await asyncio.sleep(rng.expovariate(0.3))
        sent = len(world.open) + len(world.arrived)
        await all_arrived(world, 3 * 3600.0)
        assert len(world.arrived) == sent
        assert sum(world.waited.values()) <= 6 * sent
        assert max(world.waited.values()) <= 20
        if limits:
            assert most_in([at for at, *_ in hosts.sent], 60.0) <= limits["messages_per_minute"]
        assert [lane.site.turns.users for lane in world.lanes if lane.site.turns.users] == []
        await asyncio.sleep(10.0)
        assert [lane.site.beginning for lane in world.lanes if lane.site.beginning] == []
        asked = world.asked
        await asyncio.sleep(100.0)
        assert world.asked - asked <= 2 * 100 * workers, "nobody asks for shares that nobody needs"
        await world.end()

    simulate(work)


@pytest.mark.parametrize("workers", [1, 2])
def test_thousands_of_lanes_at_one_site_cost_no_more_than_their_messages(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """A large provider has a lane for each domain: nothing that happens for each message may go through all of them."""
    asked = 0
    may_connect = Lanes.may_connect

    def counted(self: Lanes, *args: Any) -> Place:
        nonlocal asked
        asked += 1
        return may_connect(self, *args)

    async def work(loop: VirtualLoop) -> None:
        monkeypatch.setattr(Lanes, "may_connect", counted)
        hosts = Hosts(opening_s=lambda: 0.2, carrying_s=lambda: 0.2)
        world = World(loop, monkeypatch, hosts=hosts, providers=rules(messages_per_minute=600), workers=workers)
        for number in range(2000):
            world.send(f"user {number}", f"mx{number}.big.test")
        await asyncio.sleep(30.0)
        before, began = len(hosts.sent), asked
        await asyncio.sleep(60.0)
        sent = len(hosts.sent) - before
        assert 500 <= sent <= 600
        assert asked - began <= 10 * sent
        await world.end()

    simulate(work)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_site_that_had_no_mail_for_long_gets_it_again(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Its lanes are forgotten when others need the room, but not what it may get."""
    monkeypatch.setattr("postroad.flow.lanes.LANES_KEPT", 10)

    async def work(loop: VirtualLoop) -> None:
        world = World(loop, monkeypatch, hosts=Hosts(), providers=rules(messages_per_minute=6), workers=workers)
        world.send("anna", "mx.big.test", 0)
        await all_arrived(world, 30.0)
        await asyncio.sleep(30.0)
        for number in range(20):
            world.send("anna", f"{number}.small.test", 0)
        await all_arrived(world, 30.0)
        await asyncio.sleep(30.0)
        world.send("anna", "mx.big.test", 0)
        await all_arrived(world, 30.0)
        await world.end()

    simulate(work)


def test_a_thousand_senders_of_one_message_each_to_a_slow_site(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(loop: VirtualLoop) -> None:
        world = World(loop, monkeypatch, hosts=Hosts(), providers=rules(messages_per_minute=20))
        for number in range(1000):
            world.send(f"user {number}", "mx.big.test")
        assert sum(len(lane.queue) for lane in world.lanes) <= TOGETHER_MAX
        await all_arrived(world, 1.3 * 1000 * 60 / 20)
        assert max(world.waited.values()) <= 8
        await world.end()

    simulate(work)
