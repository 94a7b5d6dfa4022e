"""Mail for sites that take so many messages a minute, for hours: all of it arrives, none of it too fast."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from postroad.config.providers import Provider, ReplyRule
from postroad.flow.providers import Providers
from postroad.values.reply import Reply
from tests.flow.simulation import Hosts, VirtualLoop, World, most_in, simulate

SLOW = ReplyRule(code="451", means="slower", action="slow", for_s=600.0)
SUSPEND = ReplyRule(code="421", means="nothing now", action="suspend", for_s=900.0)


def rules(**limits: int) -> Providers:
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
