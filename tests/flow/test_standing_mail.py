"""Mail that waits in memory beside other mail of its site or worker: whoever goes first, none of it is forgotten."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from postroad.config.providers import Provider, ReplyRule
from postroad.flow.lanes import Lane
from postroad.flow.providers import Providers
from postroad.flow.route import read_signposts
from postroad.flow.shaping import State
from postroad.store.queue import accept
from postroad.store.records import THROTTLED
from tests.fakes.smtp_server import FakeSmtp, Script
from tests.flow.yard import Yard, until

MakeYard = Callable[..., Yard]

WAIT = ReplyRule(code="4", text="wait", means="wait", action="suspend", for_s=1000.0)


@pytest_asyncio.fixture
async def make_yard(tmp_path: Path) -> AsyncIterator[MakeYard]:
    """Makes the yard; it has domains x.test, y.test and z.test, each at a host of its own of the provider "large"."""
    made: list[Yard] = []

    def make(host: FakeSmtp, limits: dict[str, Any] | None = None, **changes: Any) -> Yard:
        large = Provider(hosts=(".large.test",), replies={"wait": WAIT}, **(limits or {}))
        signposts = read_signposts(port=host.port, allow_private=["127.0.0.0/8"])
        yard = Yard(tmp_path, providers=Providers({"large": large}), signposts=signposts, **changes)
        for name in "xyz":
            yard.dns.mx_records[f"{name}.test"] = [(10, f"{name}.large.test")]
            yard.dns.address_records[f"{name}.large.test"] = ["127.0.0.1"]
        made.append(yard)
        return yard

    yield make
    for yard in made:
        await yard.runner.drain(0.0)
        yard.store.connection.close()


async def ring(yard: Yard) -> None:
    """The time has come at which the only site is looked at again."""
    pool, [site] = yard.runner._pool, yard.runner._lanes.sites()
    await until(lambda: site in pool._wakes)
    pool._wakes[site].cancel()
    pool._wake(site)


async def arrived(host: FakeSmtp, number: int) -> None:
    """So many messages have come, and nobody is connected any more."""
    await until(lambda: len(host.messages) == number and host.open == 0)


async def test_two_lanes_of_a_limited_rate_both_get_their_turn(
    make_yard: MakeYard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the next message may go both are looked at, one connects, and the other is not left for later for ever."""
    monkeypatch.setattr("postroad.flow.pool.LOOK_AGAIN_S", 0.01, raising=False)
    async with FakeSmtp() as host:
        yard = make_yard(host, {"messages_per_minute": 10, "connections": 2}, idle_s=0.05)
        for name in "xy":
            yard.send(f"b@{name}.test")
            await yard.settled()
            yard.clock.advance(6.1)
            await until(lambda: host.open == 0)
        yard.send("b@x.test")
        await yard.settled()
        yard.clock.advance(1.0)
        await until(lambda: host.open == 0)
        for name in "xy":
            yard.send(f"c@{name}.test")
        yard.clock.advance(5.5)
        await ring(yard)
        await arrived(host, 4)
        yard.clock.advance(7.0)
        await ring(yard)
        await yard.settled()
        assert len(host.messages) == 5


@pytest.mark.parametrize(
    "script",
    [
        {"DOT": "451 4.7.1 wait"},
        {"CONNECT": "421 4.7.1 wait"},
        {"CONNECT": "421 4.3.2 not now"},
        {"DOT": "421 4.3.2 not now"},
    ],
    ids=["refused", "refused at the door", "no session", "broken off"],
)
async def test_a_site_that_is_suspended_keeps_no_lane_waiting_in_memory(
    make_yard: MakeYard, script: dict[str, Script]
) -> None:
    """Whatever way the probe of a suspended site fails, the mail of its other lanes goes back to the queue too."""
    async with FakeSmtp() as host:
        yard = make_yard(host)
        for name in "xyz":
            yard.send(f"b@{name}.test")
        await yard.settled()
        [site] = yard.runner._lanes.sites()
        site.shape.suspend(100.0, "wait", yard.clock.monotonic())
        for site in yard.runner._lanes.sites():
            yard.runner._pool._idle.make_way_in(site, 9)
        await until(lambda: host.open == 0)
        yard.clock.advance(101.0)
        host.script = dict(script)
        for name in "xyz":
            yard.send(f"b@{name}.test")
        await yard.settled()
        assert site.shape.state is State.SUSPENDED
        assert len(yard.open()) == 3
        assert not any(lane.queue for lane in yard.runner._lanes.all())


async def test_a_place_that_the_first_in_line_cannot_use_goes_to_the_next(
    make_yard: MakeYard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has no connection left; of the two lanes in line for the next one the first is slowed meanwhile."""
    monkeypatch.setattr("postroad.flow.runner.CONNECTIONS_MAX", 1)
    async with FakeSmtp() as host, FakeSmtp() as other, FakeSmtp() as last:
        yard = make_yard(host, idle_s=0.05)
        hosts = {"one.test": other, "two.test": last}
        routes = {domain: f"127.0.0.1:{at.port}" for domain, at in (hosts | {"x.test": host}).items()}
        yard.runner._signposts = read_signposts(allow_private=["127.0.0.0/8"], routes=routes)
        for domain in routes:
            yard.send(f"b@{domain}")
            await yard.settled()
            yard.clock.advance(1.0)
            await until(lambda: yard.runner._lanes.connections == 0)
        host.hold = asyncio.Event()
        yard.send("c@x.test")
        await until(lambda: len(host.messages) == 2)
        first = yard.send("c@one.test")
        yard.send("c@two.test")
        lanes = [lane for lane in yard.runner._lanes.all() if lane.queue]
        assert [len(lane.queue) for lane in lanes] == [1, 1]
        lane = next(lane for lane in lanes if lane.queue.peek().letter.id == first.id)
        lane.site.shape.slow(300.0, "slower", yard.clock.monotonic())
        host.hold.set()
        await until(lambda: len(last.messages) == 2)


class Unwalked(OrderedDict[Lane, None]):
    """Lanes that nobody may go through one by one."""

    def __iter__(self) -> Iterator[Lane]:
        raise AssertionError("each message goes through all lanes of its site")


async def test_a_message_for_a_crowded_site_costs_the_same_however_many_lanes_it_has(make_yard: MakeYard) -> None:
    """A provider that gives each customer a host name has as many lanes as customers."""
    async with FakeSmtp() as host:
        host.hold = asyncio.Event()
        yard = make_yard(host, {"connections": 1})
        for name in "xyz":
            yard.send(f"b@{name}.test")
        await until(lambda: host.messages)
        [site] = yard.runner._lanes.sites()
        await until(lambda: len(site.line) == 2)
        site.lanes, usual = Unwalked(site.lanes), site.lanes
        yard.send("c@x.test")
        site.lanes = usual
        host.hold.set()
        await yard.settled()
        assert len(host.messages) == 4


async def test_thousands_of_lanes_are_not_looked_at_for_every_claim(
    make_yard: MakeYard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroad.flow.runner.LANES_LOOKED_AT", 1)
    async with FakeSmtp() as host:
        yard = make_yard(host)
        for name in "xyz":
            yard.send(f"b@{name}.test")
        await yard.settled()
        lanes, looked = yard.runner._lanes, 0
        usual = lanes.shut

        def shut(now: float) -> Any:
            nonlocal looked
            looked += 1
            return usual(now)

        monkeypatch.setattr(lanes, "shut", shut)
        for _ in range(5):
            yard.runner._avoided()
        assert looked == 1
        yard.clock.advance(1.0)
        yard.runner._avoided()
        assert looked == 2


async def test_lanes_of_a_limited_rate_take_turns(make_yard: MakeYard) -> None:
    """A large customer of a provider does not keep the small ones from their mail."""
    async with FakeSmtp() as host:
        yard = make_yard(host, {"messages_per_minute": 10}, idle_s=0.05)
        for name in "xxxyyyzzz":
            yard.send(f"b@{name}.test")
        await until(lambda: len(yard.runner._lanes.all()) == 3 and len(host.messages) == 1 and host.open == 0)
        for number in range(2, 7):
            yard.clock.advance(6.1)
            await ring(yard)
            await arrived(host, number)
        served = [recipient[2] for recipient in host.recipients]
        assert sorted(served[:3]) == sorted(served[3:]) == ["x", "y", "z"]


async def test_a_limited_rate_holds_no_more_in_memory_than_it_sends_in_a_minute(make_yard: MakeYard) -> None:
    """Each of its lanes alone has little; together they would fill the room that all mail from the queue has."""
    async with FakeSmtp() as host:
        yard = make_yard(host, {"messages_per_minute": 10})
        for number in range(40):
            yard.dns.mx_records[f"d{number}.test"] = [(10, f"d{number}.large.test")]
            yard.dns.address_records[f"d{number}.large.test"] = ["127.0.0.1"]
            yard.send(f"b@d{number}.test")
        await until(lambda: host.messages and yard.runner.in_flight <= 12)
        await until(lambda: len(yard.open()) == 39)
        states = yard.store.rows("SELECT state, count(*) FROM deliveries WHERE owner = 0 GROUP BY state")
        assert states == [(THROTTLED, 39 - yard.runner.in_flight)]


async def test_a_slow_site_of_many_lanes_leaves_room_for_other_mail(
    make_yard: MakeYard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was claimed for it beyond its part goes back to the queue for a while, and not over and over."""
    monkeypatch.setattr("postroad.flow.pool.SITE_WAITING_MAX", 5, raising=False)
    monkeypatch.setattr("postroad.flow.runner.CLAIMED_DELIVERIES", 10)
    monkeypatch.setattr("postroad.flow.runner.CLAIM_BATCH", 5)
    async with FakeSmtp() as host:
        host.hold = asyncio.Event()
        yard = make_yard(host, {"connections": 1})
        for number in range(20):
            yard.dns.mx_records[f"d{number}.test"] = [(10, f"d{number}.large.test")]
            yard.dns.address_records[f"d{number}.large.test"] = ["127.0.0.1"]
            message = yard.compose(f"b@d{number}.test")
            legs = [replace(leg, owner=0, due_us=message.received_us) for leg in message.legs]
            yard.store.run(accept, replace(message, legs=legs))
        yard.runner.start()
        await until(lambda: yard.store.rows("SELECT 1 FROM deliveries WHERE state = ?", THROTTLED))
        await until(lambda: host.messages and yard.runner.in_flight <= 7)
        assert yard.store.calls.count("claim") <= 3
        host.hold.set()
        await until(lambda: yard.runner.in_flight == 0)
        await yard.later(70.0)
        while yard.open():
            await yard.later(70.0)
        assert len(host.messages) == 20
