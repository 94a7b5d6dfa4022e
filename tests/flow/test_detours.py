"""Source addresses that a site refuses: `change-source` of the provider file sends the mail from the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio

from postroad.config.providers import Provider, ReplyRule
from postroad.config.routes import Loaded
from postroad.config.routes import Route as Table
from postroad.flow.providers import Providers
from postroad.flow.routing import Routes
from postroad.flow.shaping import Limits, Shape, State
from postroad.store.suspensions import Suspended
from tests.fakes.smtp_server import OK, FakeSmtp
from tests.flow.yard import Yard, only, until

POOL = ("127.0.0.5", "127.0.0.6", "127.0.0.7")


def chosen_in_order(pool: tuple[str, ...], sender: str = "a@ours.test") -> list[str]:
    course = Routes(source=pool).course("b@x.test", "x.test", sender, "")
    return [sources[0] for sources in (course.guise.sources, *course.others)]


FIRST, SECOND, THIRD = chosen_in_order(POOL)
"""The pool in the order in which mail of ours.test chooses from it."""

REFUSED = "550 5.7.1 not from there"
RULES = Providers(
    {
        "everybody": Provider(
            replies={
                "address": ReplyRule(
                    text="not from there", means="a blocked address", action="change-source", for_s=2000.0
                ),
                "longer": ReplyRule(
                    text="not for long", means="a blocked address", action="change-source", for_s=86_400.0
                ),
                "all": ReplyRule(text="not at all", means="unwanted", action="suspend", for_s=2000.0),
            }
        )
    }
)

MakeYard = Callable[..., Yard]


def routes(*source: str, **tables: Table) -> Routes:
    return Routes.of(Loaded(tables, {}), source)


@pytest_asyncio.fixture
async def make_yard(tmp_path: Path) -> AsyncIterator[MakeYard]:
    yards: list[Yard] = []

    def make(**changes: Any) -> Yard:
        folder = tmp_path / str(len(yards))
        folder.mkdir()
        settings: dict[str, Any] = {"providers": RULES, "routes": routes(*POOL)}
        yards.append(Yard(folder, **(settings | changes)))
        yards[-1].runner.start()
        return yards[-1]

    yield make
    for yard in yards:
        await yard.runner.drain(0.0)
        yard.store.connection.close()


def peers(host: FakeSmtp) -> list[str]:
    return [got.peer for got in host.messages]


async def test_mail_leaves_from_the_next_address_while_the_first_is_refused(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp() as host:
        host.unwelcome[FIRST] = REFUSED
        yard.host("x.test", host)
        refused = yard.send("b@x.test")
        await yard.settled()
        event = only([event for event in yard.events(refused.id) if event.kind == "suspended"])
        assert event.cause.endswith("from this source address")
        later = yard.send("c@x.test")
        await yard.settled()
        assert peers(host) == [SECOND]
        [aside, delivered] = yard.events(later.id)
        assert aside.cause == (
            f"127.0.0.1:{host.port} takes nothing from {FIRST} (a blocked address), so this leaves from {SECOND}"
        )
        assert delivered.kind == "delivered"


async def test_what_was_refused_is_tried_again_at_its_usual_time_from_the_next_address(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp() as host:
        host.unwelcome[FIRST] = REFUSED
        yard.host("x.test", host)
        yard.send("b@x.test")
        await yard.settled()
        await yard.later(400.0)
        assert peers(host) == [SECOND]
        assert yard.open() == []


async def test_what_waits_in_memory_changes_over(make_yard: MakeYard) -> None:
    yard = make_yard(connections_per_lane=1)
    async with FakeSmtp() as host:
        host.unwelcome[FIRST] = REFUSED
        yard.host("x.test", host)
        for name in "bcdef":
            yard.send(f"{name}@x.test")
        await yard.settled()
        assert peers(host) == [SECOND] * 4
        assert [recipient for recipient, *_ in yard.open()] == ["b@x.test"]


async def test_every_message_that_leaves_from_another_address_says_so(make_yard: MakeYard) -> None:
    yard = make_yard(connections_per_lane=1)
    async with FakeSmtp() as host:
        host.unwelcome[FIRST] = REFUSED
        yard.host("x.test", host)
        sent = [yard.send(f"{name}@x.test") for name in "bcde"]
        await yard.settled()
        for message in sent[1:]:
            assert yard.kinds(message.id) == ["attempted", "delivered"]


async def test_a_message_says_so_too_where_the_way_from_the_other_address_was_known(make_yard: MakeYard) -> None:
    yard = make_yard(connections_per_lane=1)
    other = next(f"a@{n}.test" for n in range(99) if chosen_in_order(POOL, f"a@{n}.test")[0] == SECOND)
    async with FakeSmtp() as host:
        host.unwelcome[FIRST] = REFUSED
        yard.host("x.test", host)
        yard.send("b@x.test", sender=other)
        await yard.settled()
        sent = [yard.send(f"{name}@x.test") for name in "bc"]
        await yard.settled()
        assert peers(host) == [SECOND, SECOND]
        assert yard.kinds(sent[1].id) == ["attempted", "delivered"]


async def test_a_message_refused_by_two_addresses_says_both(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp() as host:
        host.unwelcome = {FIRST: REFUSED, SECOND: REFUSED}
        yard.host("x.test", host)
        for name in "bc":
            yard.send(f"{name}@x.test")
            await yard.settled()
        last = yard.send("d@x.test")
        await yard.settled()
        refused = f"nothing from {FIRST} (a blocked address), nor from {SECOND} (a blocked address)"
        assert yard.events(last.id)[0].cause.endswith(f"takes {refused}, so this leaves from {THIRD}")


async def test_who_is_turned_away_at_the_door_comes_from_the_next_address(make_yard: MakeYard) -> None:
    """One message has found out; the others that wait in memory need not."""
    yard = make_yard(connections_per_lane=1)
    async with FakeSmtp() as host:
        host.turned_away[FIRST] = "554 5.7.1 not from there"
        yard.host("x.test", host)
        sent = [yard.send(f"{name}@x.test") for name in "bcde"]
        await yard.settled()
        assert peers(host) == [SECOND] * 3
        assert yard.kinds(sent[0].id) == ["deferred", "suspended"]


async def test_mail_that_no_address_may_send_waits_for_the_first_that_may_again(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp() as host:
        host.unwelcome = {FIRST: REFUSED, SECOND: REFUSED, THIRD: "550 5.7.1 not for long"}
        yard.host("x.test", host)
        for name in "bcd":
            yard.send(f"{name}@x.test")
            await yard.settled()
        waits = yard.send("e@x.test")
        await yard.settled()
        [event] = yard.events(waits.id)
        assert (event.next_us - yard.clock.wall_us()) / 1e6 < 2300.0, "the third is blocked for a day, the first is not"
        host.unwelcome.clear()
        await yard.later(2300.0)
        assert yard.open() == []


async def test_each_address_in_turn_and_then_the_mail_waits(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp() as host:
        host.unwelcome = dict.fromkeys(POOL, REFUSED)
        yard.host("x.test", host)
        for count, name in enumerate("bcd", 1):
            yard.send(f"{name}@x.test")
            await yard.settled()
            assert sum(line.startswith("MAIL") for line in host.commands) == count
        last = yard.send("e@x.test")
        await yard.settled()
        assert sum(line.startswith("MAIL") for line in host.commands) == 3
        assert yard.kinds(last.id)[-1] == "deferred"
        assert len(yard.open()) == 4
        host.unwelcome.clear()
        for _ in range(3):
            await yard.later(2300.0)
        assert yard.open() == []


async def test_the_first_address_is_tried_by_one_message_and_then_takes_all_again(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp() as host:
        host.unwelcome[FIRST] = REFUSED
        yard.host("x.test", host)
        yard.send("b@x.test")
        await yard.settled()
        await yard.later(400.0)
        yard.clock.advance(2000.0)
        yard.send("c@x.test")
        await yard.settled()
        assert peers(host) == [SECOND], "the address is still refused, and one message has found out"
        yard.send("d@x.test")
        await yard.settled()
        assert peers(host) == [SECOND, SECOND]
        host.unwelcome.clear()
        await yard.later(4500.0)
        for name in "ef":
            yard.send(f"{name}@x.test")
            await yard.settled()
        assert peers(host)[-2:] == [FIRST, FIRST]
        assert yard.store.rows("SELECT * FROM suspensions") == []


async def test_while_one_message_finds_out_the_others_leave_from_the_next_address(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp(MAIL=[REFUSED, OK]) as host:
        yard.host("x.test", host)
        yard.send("b@x.test")
        await yard.settled()
        yard.clock.advance(2100.0)
        host.hold = asyncio.Event()
        yard.send("c@x.test")
        await until(lambda: host.messages)
        yard.send("d@x.test")
        await until(lambda: len(host.messages) == 2)
        host.hold.set()
        await yard.settled()
        assert peers(host) == [FIRST, SECOND]


async def test_a_refusal_of_all_our_mail_is_no_reason_to_change(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp() as host:
        host.unwelcome[FIRST] = "550 5.7.1 not at all"
        yard.host("x.test", host)
        yard.send("b@x.test")
        await yard.settled()
        yard.send("c@x.test")
        await yard.settled()
        assert peers(host) == []
        assert len(yard.open()) == 2


async def test_a_route_has_a_pool_of_its_own(make_yard: MakeYard) -> None:
    """Who gave a customer one address does not want his trouble to spread to the others."""
    async with FakeSmtp() as host:
        host.unwelcome["127.0.0.9"] = REFUSED
        yard = make_yard(routes=routes(*POOL, one=Table(senders=("one.test",), source=("127.0.0.9",))))
        yard.host("x.test", host)
        for _ in range(2):
            yard.send("b@x.test", sender="a@one.test")
            await yard.settled()
        assert peers(host) == []
        yard.send("b@x.test")
        await yard.settled()
        assert peers(host) == [FIRST]


async def test_the_only_address_of_a_server_is_not_said_to_have_others(make_yard: MakeYard) -> None:
    """The queue then tells the end of the suspension as the time at which mail goes again."""
    async with FakeSmtp() as host:
        host.unwelcome["127.0.0.5"] = REFUSED
        yard = make_yard(routes=routes("127.0.0.5", one=Table(senders=("one.test",))))
        yard.host("x.test", host)
        yard.send("b@x.test")
        await yard.settled()
        await until(lambda: yard.store.rows("SELECT * FROM suspensions"))
        assert yard.store.rows("SELECT by_source FROM suspensions") == [(0,)]


async def test_other_workers_and_the_next_start_know_of_it(make_yard: MakeYard) -> None:
    async with FakeSmtp() as host:
        host.unwelcome[FIRST] = REFUSED
        yard = make_yard()
        yard.host("x.test", host)
        yard.send("b@x.test")
        await yard.settled()
        await until(lambda: yard.store.rows("SELECT * FROM suspensions"))
        [(site, until_us, cause, by_source)] = yard.store.rows(
            "SELECT site, until_us, cause, by_source FROM suspensions"
        )
        rows = [Suspended(site, until_us, cause, bool(by_source))]

        async def suspended() -> list[Suspended]:
            return rows

        other = make_yard(suspended=suspended)
        other.host("x.test", host)
        other.send("c@x.test")
        await other.settled()
        assert peers(host) == [SECOND]


async def test_recipients_of_other_sites_keep_their_address(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp() as host, FakeSmtp() as friendly:
        host.unwelcome[FIRST] = REFUSED
        yard.host("x.test", host)
        yard.host("y.test", friendly)
        yard.send("b@x.test")
        await yard.settled()
        yard.send("c@x.test", "d@y.test")
        await yard.settled()
        assert (peers(host), peers(friendly)) == ([SECOND], [FIRST])


# -- what a shape remembers --------------------------------------------------------------------------------------------


def test_a_harder_refusal_takes_the_place_of_one_of_the_source_alone() -> None:
    shape = Shape(Limits(5, 100))
    assert shape.suspend(100.0, "the address", 0.0, by_source=True)
    assert shape.suspend(50.0, "everything", 10.0)
    assert (shape.by_source, shape.until, shape.why) == (False, 100.0, "everything")
    assert not shape.suspend(50.0, "the address", 20.0, by_source=True)
    assert not shape.by_source


def test_a_probe_keeps_what_was_refused() -> None:
    shape = Shape(Limits(5, 100))
    shape.suspend(100.0, "the address", 0.0, by_source=True)
    assert shape.permit(100.0).wait_s == 0.0
    assert not shape.is_shut(100.0)
    shape.take(100.0)
    assert shape.is_shut(100.0)
    shape.failed(101.0)
    assert (shape.state, shape.by_source) == (State.SUSPENDED, True)
    shape.permit(301.0)
    shape.take(301.0)
    shape.succeeded(302.0)
    assert (shape.state, shape.by_source, shape.is_shut(302.0)) == (State.OPEN, False, False)
