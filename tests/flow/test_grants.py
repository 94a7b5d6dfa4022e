"""Workers that share limits: two whole outbound sides, one authority, one host that counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from postroad.config.providers import Provider
from postroad.flow.grants import Tokens
from postroad.flow.providers import Providers
from postroad.flow.route import Plan, read_signposts
from postroad.store.grants import LINGER_S, TOKEN_S, Authority, lease
from postroad.values.ports import Target
from tests.fakes.clock import FakeClock
from tests.fakes.smtp_server import FakeSmtp
from tests.flow.yard import Yard, only, until


class Workers:
    """Yards with an authority between them; each has a queue of its own, so what one gives back stays to be seen."""

    def __init__(self, folder: Path, count: int, **settings: Any) -> None:
        self.clock = FakeClock()
        self.yards = [self.yard(folder / str(number), number + 1, count, settings) for number in range(count)]
        self.authority = Authority(self.clock, self.hint)

    def yard(self, folder: Path, number: int, count: int, settings: dict[str, Any]) -> Yard:
        folder.mkdir()
        yard = Yard(folder, clock=self.clock, workers=count, **settings)
        usual = yard.store.call

        async def call(unit: Callable[..., Any], args: Any) -> Any:
            if unit is lease:
                await asyncio.sleep(0)
                return self.authority.ask(number, args)
            return await usual(unit, args)

        yard.store.call = call  # type: ignore[method-assign]
        return yard

    def hint(self, kind: str) -> None:
        for yard in self.yards:
            yard.runner.regrant()


@pytest_asyncio.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Workers]]:
    made: list[Workers] = []

    def workers(count: int, **settings: Any) -> Workers:
        made.append(Workers(tmp_path, count, **settings))
        for yard in made[-1].yards:
            yard.runner.start()
        return made[-1]

    yield workers
    for each in made:
        for yard in each.yards:
            await yard.runner.drain(0.0)
            yard.store.connection.close()


async def test_a_worker_with_all_the_mail_has_all_the_connections(make: Callable[..., Workers]) -> None:
    async with FakeSmtp() as host:
        host.hold = asyncio.Event()
        one, two = make(2, connections_per_lane=6).yards
        for yard in (one, two):
            yard.host("x.test", host)
        for _ in range(10):
            one.send("b@x.test")
        # A site nothing is known of begins with five; a sixth follows the first success.
        await until(lambda: host.open == 5)
        host.hold.set()
        await one.settled()
        assert len(host.messages) == 10


async def test_two_workers_never_exceed_the_limit_together_and_both_get_through(make: Callable[..., Workers]) -> None:
    async with FakeSmtp() as host:
        one, two = make(2, connections_per_lane=4).yards
        for yard in (one, two):
            yard.host("x.test", host)
        for _ in range(40):
            one.send("b@x.test")
            two.send("c@x.test")
        await asyncio.gather(one.settled(), two.settled())
        assert host.most_open <= 4
        assert len(host.messages) == 80


async def test_the_mail_of_a_small_limit_is_left_to_its_home(make: Callable[..., Workers]) -> None:
    async with FakeSmtp() as host:
        host.hold = asyncio.Event()
        home, other = make(2, connections_per_lane=1).yards
        for yard in (home, other):
            yard.host("x.test", host)
        home.send("b@x.test")
        await until(lambda: host.messages)
        message = other.send("c@x.test")
        await until(lambda: other.runner.in_flight == 0)
        assert host.most_open == 1
        # Given back: nobody owns it, it is due now, it counts as no attempt, and others are hinted at it.
        rows = other.store.rows("SELECT owner, attempts, due_us FROM deliveries WHERE message = ?", message.id)
        assert only(rows)[:2] == (0, 0)
        assert only(rows)[2] <= other.clock.wall_us()
        assert ("queue", 0) in other.store.writer.hints
        # Not claimed again here while the home is known to be elsewhere.
        other.runner.wake()
        await asyncio.sleep(0.02)
        assert other.runner.in_flight == 0
        host.hold.set()
        await home.settled()


async def test_a_dead_worker_leaves_its_share_a_moment_later(make: Callable[..., Workers]) -> None:
    async with FakeSmtp() as host:
        host.hold = asyncio.Event()
        workers = make(2, connections_per_lane=1)
        home, heir = workers.yards
        for yard in (home, heir):
            yard.host("x.test", host)
        home.send("b@x.test")
        await until(lambda: host.messages)
        await home.runner.drain(0.0)
        workers.authority.died(1)
        await until(lambda: host.open == 0)
        heir.send("c@x.test")
        await asyncio.sleep(0.05)
        assert len(host.messages) == 1
        host.hold = None
        workers.clock.advance(LINGER_S)
        workers.authority.step(workers.clock.monotonic())
        await until(lambda: len(host.messages) == 2)


async def test_a_rate_holds_over_two_workers(make: Callable[..., Workers]) -> None:
    providers = Providers({"large": Provider(hosts=(".large.test",), messages_per_minute=30)})
    async with FakeSmtp() as host:
        signposts = read_signposts(port=host.port, allow_private=["127.0.0.0/8"])
        workers = make(2, providers=providers, signposts=signposts)
        for yard in workers.yards:
            yard.dns.mx_records["x.test"] = [(10, "mx.large.test")]
            yard.dns.address_records["mx.large.test"] = ["127.0.0.1"]
            for _ in range(10):
                yard.send("b@x.test")
        await until(lambda: len(host.messages) == 3)
        await asyncio.sleep(0.05)
        assert len(host.messages) == 3, "one in ten of the limit may go at once"
        came = []
        for _ in range(10):
            workers.clock.advance(2.3)
            for yard in workers.yards:
                for site in yard.runner._lanes.sites():
                    yard.runner._pool.connect_site(site)
            await asyncio.sleep(0.02)
            came.append(len(host.messages))
        assert came == sorted(came)
        assert 3 < came[-1] <= 3 + 10


def test_a_message_that_was_given_is_good_for_a_moment_only() -> None:
    asked: list[int] = []
    tokens = Tokens(lambda: asked.append(1))
    assert tokens.wait(10.0) > 0.0
    assert asked == [1]
    tokens.given(2, 0.0, asked_at=10.0, now=10.1)
    assert tokens.wait(10.2) == 0.0
    tokens.take(10.2)
    assert tokens.wait(10.0 + TOKEN_S) > 0.0, "it is not used when its time is up"
    tokens.given(0, 30.0, asked_at=20.0, now=20.0)
    assert tokens.wait(20.0) == 30.0
    assert len(asked) == 2, "nobody asks before there can be one"


async def test_a_lane_that_was_forgotten_gets_its_mail_out_all_the_same(
    make: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its way is remembered for a minute longer, and nobody asks for a share for a lane that no site knows."""
    monkeypatch.setattr("postroad.flow.lanes.LANES_KEPT", 10)
    async with FakeSmtp() as host:
        workers = make(2, idle_s=0.05)
        one = workers.yards[0]
        one.host("x.test", host)
        one.send("b@x.test")
        await one.settled()
        workers.clock.advance(5.0)
        lanes = one.runner._lanes
        [lane] = lanes.all()
        await until(lambda: lane.idle and not lane.site.held)
        for number in range(20):
            lanes.lane(Plan(f"h{number}.test:25", ((Target(f"h{number}.test", ("192.0.2.1",), 25),),)))
        assert lane not in lanes.all()
        one.send("c@x.test")
        await one.settled()
        assert host.recipients == ["b@x.test", "c@x.test"]
        assert lane.site not in lanes.sites(), "what is known of a site stands in one place"
