"""Replies that a rule knows: "signal -> rule -> action -> until when", from a host's words to the journal (row D16)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from postroad.config.providers import Provider, ReplyRule
from postroad.flow.pool import TURN_MESSAGES
from postroad.flow.providers import Providers
from postroad.flow.route import Signposts, read_signposts
from postroad.flow.shaping import State
from postroad.store.queue import accept
from postroad.store.records import Accept
from postroad.store.suspensions import Suspended
from tests.fakes.smtp_server import OK, FakeSmtp
from tests.flow.yard import Yard, only, until

MakeYard = Callable[..., Yard]


def rule(action: str, for_s: float = 0.0, code: str = "", text: str = "") -> ReplyRule:
    return ReplyRule(code=code, text=text, means=f"meant as {action}", action=action, for_s=for_s)


RULES = Providers(
    {
        "everybody": Provider(
            replies={
                "wait": rule("suspend", 1000.0, text="wait"),
                "slower": rule("slow", 300.0, text="slower"),
                "gone": rule("bounce", text="gone for good"),
                "elsewhere": rule("change-source", 2000.0, text="not from there"),
                "enough": rule("reconnect", 300.0, text="enough for one connection"),
                "full": rule("fewer", 300.0, text="too many for now"),
            }
        )
    }
)


@pytest_asyncio.fixture
async def make_yard(tmp_path: Path) -> AsyncIterator[MakeYard]:
    yards: list[Yard] = []

    def make(**changes: Any) -> Yard:
        folder = tmp_path / str(len(yards))
        folder.mkdir()
        yards.append(Yard(folder, **({"providers": RULES} | changes)))
        yards[-1].runner.start()
        return yards[-1]

    yield make
    for yard in yards:
        await yard.runner.drain(0.0)
        yard.store.connection.close()


def site_of(yard: Yard) -> Any:
    return only(yard.runner._lanes.sites())


@pytest.mark.parametrize("reply", ["452 4.5.3 enough for one connection", "421 enough for one connection"])
async def test_a_connection_that_is_used_up_is_replaced_and_costs_nothing(make_yard: MakeYard, reply: str) -> None:
    yard = make_yard(idle_s=30.0)
    async with FakeSmtp(MAIL=[OK, OK, reply, OK]) as host:
        yard.host("x.test", host)
        for number in range(2):
            yard.send(f"b{number}@x.test")
            await yard.settled()
        assert host.connections == 1
        sent = yard.send("b2@x.test")
        await yard.settled()
        told = [(event.kind, event.cause) for event in yard.events(sent.id)][-2:]
        assert told == [("attempted", f"{reply}; again over a new connection"), ("delivered", "")]
        assert (site_of(yard).shape.state, host.connections) == (State.OPEN, 2)
        # Learnt: the next ones end after two messages by themselves.
        for number in range(3, 6):
            yard.send(f"b{number}@x.test")
            await yard.settled()
        assert host.connections == 3
        assert sum(line.startswith("MAIL") for line in host.commands) == 7


async def test_a_host_that_takes_few_connections_gets_as_many_as_it_takes(make_yard: MakeYard) -> None:
    """Three sessions of five are refused: the two that are taken carry all the mail, without a pause between."""
    yard = make_yard()
    hello, full = "220 x.test ESMTP", "421 too many for now"
    async with FakeSmtp(CONNECT=[hello, hello, full]) as host:
        host.hold = asyncio.Event()
        yard.host("x.test", host)
        sent = [yard.send(f"b{number}@x.test") for number in range(20)]
        await until(lambda: host.connections == 5 and host.open == 2)
        assert site_of(yard).shape.permit(0.0) == (2, 0.0)
        host.hold.set()
        await yard.settled()
        assert (len(host.messages), host.connections) == (20, 5)
        events = [event for one in sent for event in yard.events(one.id)]
        told = [(event.kind, event.cause) for event in events if event.by.startswith("everybody")]
        assert told == [("slowed", f"meant as fewer: fewer connections to 127.0.0.1:{host.port}")]


async def test_a_host_whose_connections_are_used_up_at_once_is_slowed(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp(MAIL="452 4.5.3 enough for one connection") as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        assert [event.kind for event in yard.events(sent.id)][-2:] == ["deferred", "slowed"]
        assert host.connections == 1


@pytest.mark.parametrize("step", ["CONNECT", "MAIL", "RCPT", "DOT"])
async def test_a_suspending_reply_stops_the_lane_and_bounces_nothing(make_yard: MakeYard, step: str) -> None:
    """Row D16, at each step of the dialog, with a code that would end mail as well as with one that would not."""
    yard = make_yard()
    script: Any = {step: "554 5.7.1 wait for a while"}
    async with FakeSmtp(**script) as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        [(recipient, owner, _)] = yard.open()
        assert (recipient, owner) == ("b@x.test", 0)
        [event] = [event for event in yard.events(sent.id) if event.kind == "suspended"]
        assert event.by == "everybody: wait"
        assert event.cause.startswith("meant as suspend: nothing goes to 127.0.0.1")
        assert event.evidence == "554 5.7.1 wait for a while"
        assert event.next_us == yard.clock.wall_us() + 1_000_000_000
        [(due_us,)] = yard.store.rows("SELECT due_us FROM deliveries")
        assert due_us >= event.next_us
        deferred = only([event for event in yard.events(sent.id) if event.kind == "deferred"])
        assert deferred.next_us == due_us, "the time that is told is the time of the attempt"


async def test_mail_behind_a_suspension_is_put_off_untried_and_one_probe_opens_the_lane(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp(DOT=["451 4.7.1 wait", OK]) as host:
        yard.host("x.test", host)
        yard.send("b@x.test")
        await yard.settled()
        later = yard.send("c@x.test")
        await yard.settled()
        assert host.commands.count("DATA") == 1
        event = only(yard.events(later.id))
        assert (event.kind, event.attempt) == ("deferred", 0)
        assert "is suspended: meant as suspend" in event.cause
        assert yard.store.rows("SELECT attempts FROM deliveries ORDER BY id") == [(1,), (0,)]
        await yard.later(1101.0)
        await until(lambda: len(host.messages) == 2)
        await yard.settled()
        assert yard.open() == []
        assert site_of(yard).shape.state is State.OPEN
        assert yard.store.rows("SELECT * FROM suspensions") == []


async def test_what_waited_in_memory_when_the_lane_was_suspended_goes_back(make_yard: MakeYard) -> None:
    yard = make_yard(connections_per_lane=1)
    async with FakeSmtp(DOT="451 4.7.1 wait") as host:
        yard.host("x.test", host)
        host.hold = asyncio.Event()
        for _ in range(5):
            yard.send("b@x.test")
        await until(lambda: "DATA" in host.commands)
        host.hold.set()
        await yard.settled()
        assert host.commands.count("DATA") == 1
        assert len(yard.open()) == 5


async def test_a_slowed_lane_goes_on_slowly(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp(RCPT=["450 4.7.1 slower please", OK]) as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        event = only([event for event in yard.events(sent.id) if event.kind == "slowed"])
        assert event.by == "everybody: slower"
        assert "goes slower" in event.cause
        shape = site_of(yard).shape
        assert (shape.state, shape.pace_s) == (State.SLOWED, 1.0)
        assert yard.store.rows("SELECT * FROM suspensions") == []


async def test_a_rule_may_end_a_delivery_that_the_code_would_keep(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp(RCPT="450 4.2.1 gone for good") as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        bounced = only([event for event in yard.events(sent.id) if event.kind == "bounced"])
        assert "meant as bounce" in bounced.cause
        assert site_of(yard).shape.state is State.OPEN


async def test_a_source_address_that_is_refused_and_is_the_only_one_stops_the_lane(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp(MAIL="550 5.7.1 not from there") as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        event = only([event for event in yard.events(sent.id) if event.kind == "suspended"])
        assert event.cause.endswith("from this source address")
        assert len(yard.open()) == 1


async def test_an_answer_that_no_rule_knows_is_left_as_it_was_judged(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp(RCPT="550 5.1.1 nobody") as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        assert "bounced" in yard.kinds(sent.id)
        assert site_of(yard).shape.state is State.OPEN


async def test_recipients_answered_alike_are_one_signal(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp(RCPT="450 4.7.1 slower please") as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test", "c@x.test", "d@x.test")
        await yard.settled()
        assert yard.kinds(sent.id).count("slowed") == 1
        assert yard.kinds(sent.id).count("deferred") == 3


# -- other workers and the next start ----------------------------------------------------------------------------------


async def test_a_suspension_is_noted_with_its_domains_and_ends_in_the_store(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp(DOT=["451 4.7.1 wait", OK]) as host:
        yard.host("x.test", host)
        yard.send("b@x.test")
        await yard.settled()
        await until(lambda: yard.store.rows("SELECT * FROM suspensions"))
        [(domain, site, cause)] = yard.store.rows("SELECT domain, site, cause FROM suspensions")
        assert (domain, site, cause) == ("x.test", f"127.0.0.1:{host.port}", "everybody: wait: meant as suspend")


async def test_a_suspension_outlives_the_worker_that_learnt_it(make_yard: MakeYard) -> None:
    yard = make_yard()
    async with FakeSmtp() as host:
        yard.host("x.test", host)
        site = f"127.0.0.1:{host.port}"
        rows = [Suspended(site, yard.clock.wall_us() + 500_000_000, "google: unusual-rate")]

        async def suspended() -> list[Suspended]:
            return rows

        yard.runner._suspensions._read = suspended
        yard.runner.resuspend()
        await asyncio.sleep(0.01)
        sent = yard.send("b@x.test")
        await yard.settled()
        assert host.messages == []
        assert "google: unusual-rate" in only(yard.events(sent.id)).cause
        # Another worker's probe was taken: the store has the suspension no more.
        rows.clear()
        yard.runner.resuspend()
        await yard.later(600.0)
        await until(lambda: host.messages)


async def test_a_worker_goes_slower_by_what_another_was_told(make_yard: MakeYard) -> None:
    teller, hearer = make_yard(), make_yard()
    async with FakeSmtp(RCPT=["450 4.7.1 slower please", OK]) as host:
        for yard in (teller, hearer):
            yard.host("x.test", host)
        teller.send("b@x.test")
        await teller.settled()
        await until(lambda: teller.store.rows("SELECT * FROM slowdowns"))
        [(site, until_us, cause)] = teller.store.rows("SELECT site, until_us, cause FROM slowdowns")

        async def suspended() -> list[Suspended]:
            return [Suspended(site, until_us, cause, slowed=True)]

        hearer.runner._suspensions._read = suspended
        hearer.runner.resuspend()
        await asyncio.sleep(0.01)
        hearer.send("c@x.test")
        await until(lambda: hearer.runner._lanes.sites())
        shape = site_of(hearer).shape
        assert (shape.state, shape.until - hearer.clock.monotonic()) == (State.SLOWED, pytest.approx(300.0, abs=1.0))
        assert hearer.store.rows("SELECT * FROM slowdowns") == []
        # Its own reply says more than what it has heard.
        shape.suspend(1000.0, "own", hearer.clock.monotonic())
        hearer.runner.resuspend()
        await asyncio.sleep(0.01)
        assert shape.state is State.SUSPENDED


async def test_somebody_lifts_a_suspension_and_every_worker_obeys_once(make_yard: MakeYard) -> None:
    """Also the worker that learnt it, and not again when the site is suspended anew."""
    yard = make_yard()
    rows: list[Suspended] = []

    async def suspended() -> list[Suspended]:
        return rows

    yard.runner._suspensions._read = suspended
    async with FakeSmtp(DOT=["451 4.7.1 wait", OK, "451 4.7.1 wait"]) as host:
        yard.host("x.test", host)
        yard.send("b@x.test")
        await yard.settled()
        shape = site_of(yard).shape
        assert shape.state is State.SUSPENDED
        rows.append(Suspended(site_of(yard).key, yard.clock.wall_us() + 60_000_000, "x", lifted=True))
        yard.runner.resuspend()
        await until(lambda: shape.state is State.OPEN)
        yard.send("c@x.test")
        await yard.settled()
        assert host.recipients == ["c@x.test"]
        yard.send("d@x.test")
        await yard.settled()
        assert shape.state is State.SUSPENDED
        yard.runner.resuspend()
        yard.send("e@x.test")
        await yard.settled()
        assert shape.state is State.SUSPENDED
        assert host.commands.count("DATA") == 3


async def test_a_worker_hears_of_what_another_learnt_while_mail_waits(make_yard: MakeYard) -> None:
    yard = make_yard(connections_per_lane=1)
    async with FakeSmtp() as host:
        yard.host("x.test", host)
        host.hold = asyncio.Event()
        for _ in range(3):
            yard.send("b@x.test")
        await until(lambda: host.messages)
        row = Suspended(f"127.0.0.1:{host.port}", yard.clock.wall_us() + 500_000_000, "x")

        async def suspended() -> list[Suspended]:
            return [row]

        yard.runner._suspensions._read = suspended
        yard.runner.resuspend()
        await until(lambda: yard.runner.in_flight == 1)
        host.hold.set()
        await yard.settled()
        assert len(host.messages) == 1
        assert len(yard.open()) == 2


PUT_OFF = "SELECT due_us FROM deliveries WHERE owner = 0 ORDER BY due_us"


# -- rates -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def limited() -> Providers:
    return Providers({"large": Provider(hosts=(".large.test",), messages_per_hour=10)})


def signposts(host: FakeSmtp) -> Signposts:
    return read_signposts(port=host.port, allow_private=["127.0.0.0/8"])


def by_mx(yard: Yard, *domains: str) -> None:
    """Domains at the large provider, each with a mail exchanger of its own."""
    for domain in domains:
        yard.dns.mx_records[domain] = [(10, f"{domain}.mx.large.test")]
        yard.dns.address_records[f"{domain}.mx.large.test"] = ["127.0.0.1"]


async def test_mail_whose_turn_is_far_away_is_throttled_not_kept(make_yard: MakeYard, limited: Providers) -> None:
    """Throttled is a state of its own: no attempt was made and none has failed."""
    async with FakeSmtp() as host:
        yard = make_yard(providers=limited, signposts=signposts(host))
        by_mx(yard, "x.test", "y.test")
        first = yard.send("b@x.test")
        await yard.settled()
        second, third = yard.send("b@x.test"), yard.send("b@y.test")
        await yard.settled()
        assert len(host.messages) == 1
        kinds = [yard.kinds(message.id) for message in (first, second, third)]
        assert kinds == [["delivered"], ["throttled"], ["throttled"]]
        event = only(yard.events(second.id))
        assert "large may get a message every 6 minutes" in event.cause
        assert yard.store.rows("SELECT attempts FROM deliveries") == [(0,), (0,)]
        assert 300 < (event.next_us - yard.clock.wall_us()) / 1e6 < 500
        # Each comes when its turn has come, in either domain.
        await yard.later(500.0)
        await until(lambda: len(host.messages) == 2)


async def test_that_a_message_is_throttled_is_told_once(make_yard: MakeYard, limited: Providers) -> None:
    """A long backlog is looked at many times before it goes; its next time stands in the queue."""
    async with FakeSmtp() as host:
        yard = make_yard(providers=limited, signposts=signposts(host))
        by_mx(yard, "x.test")
        sent = [yard.send("b@x.test") for _ in range(4)]
        await until(lambda: host.messages)
        for _ in range(2):
            before = yard.store.rows("SELECT max(due_us) FROM deliveries")
            await yard.later(400.0)
            assert yard.store.rows("SELECT max(due_us) FROM deliveries") >= before
        assert [yard.kinds(message.id).count("throttled") for message in sent] == [0, 1, 1, 1]


async def test_mail_whose_turn_comes_soon_waits_in_memory(make_yard: MakeYard) -> None:
    quick = Providers({"large": Provider(hosts=(".large.test",), messages_per_minute=6)})
    async with FakeSmtp() as host:
        yard = make_yard(providers=quick, signposts=signposts(host))
        by_mx(yard, "x.test", "y.test")
        for domain in ("x.test", "y.test"):
            yard.send(f"b@{domain}")
        await until(lambda: host.messages)
        await asyncio.sleep(0.05)
        assert (len(host.messages), yard.runner.in_flight) == (1, 1)
        yard.clock.advance(10.1)
        for site in yard.runner._lanes.sites():
            yard.runner._pool.connect_site(site)
        await yard.settled()
        assert len(host.messages) == 2


async def test_a_backlog_is_put_off_turn_by_turn_and_somebody_elses_message_passes_it(make_yard: MakeYard) -> None:
    quick = Providers({"large": Provider(hosts=(".large.test",), messages_per_minute=6)})
    async with FakeSmtp() as host:
        yard = make_yard(providers=quick, signposts=signposts(host))
        by_mx(yard, "x.test", "y.test")
        for number in range(12):
            yard.send(f"b{number}@x.test", login="bulk")
        await until(lambda: host.messages and yard.runner.in_flight == 6)
        waits = [(due_us - yard.clock.wall_us()) / 1e6 for (due_us,) in yard.store.rows(PUT_OFF)]
        assert waits == pytest.approx([60.0, 70.0, 80.0, 90.0, 100.0], abs=0.5)
        yard.send("anna@y.test", login="anna")
        for count in (2, 3):
            yard.clock.advance(10.1)
            for site in yard.runner._lanes.sites():
                yard.runner._pool.connect_site(site)
            await until(lambda count=count: len(host.messages) == count)  # type: ignore[misc]
        assert "anna@y.test" in host.recipients


@pytest.mark.parametrize("connections", [1, 4])
async def test_connections_give_way_to_lanes_that_wait_for_the_pace(make_yard: MakeYard, connections: int) -> None:
    """However much mail its own lane has; it need not give way while there is enough for everybody."""
    quick = Providers({"large": Provider(hosts=(".large.test",), messages_per_minute=6000)})
    async with FakeSmtp() as host:
        yard = make_yard(providers=quick, signposts=signposts(host), connections_per_lane=connections)
        by_mx(yard, "x.test", "y.test")
        host.hold = asyncio.Event()
        for number in range(20):
            yard.send(f"b{number}@x.test")
        await until(lambda: len(host.messages) == connections)
        [site] = yard.runner._lanes.sites()
        while site.shape.permit(yard.clock.monotonic()).wait_s <= 0.0:
            site.shape.take(yard.clock.monotonic())
        yard.send("anna@y.test")
        host.hold.set()
        while "anna@y.test" not in host.recipients:
            yard.clock.advance(0.002)
            await asyncio.sleep(0.002)
        assert host.recipients.index("anna@y.test") <= connections * TURN_MESSAGES


async def test_connections_to_one_provider_are_counted_over_all_its_domains(make_yard: MakeYard) -> None:
    narrow = Providers({"large": Provider(hosts=(".large.test",), connections=2)})
    async with FakeSmtp() as host:
        host.hold = asyncio.Event()
        yard = make_yard(providers=narrow, signposts=signposts(host))
        domains = [f"d{n}.test" for n in range(6)]
        by_mx(yard, *domains)
        for domain in domains:
            yard.send(f"b@{domain}")
        await until(lambda: len(host.messages) == 2)
        host.hold.set()
        await yard.settled()
        assert host.most_open == 2
        assert len(host.messages) == 6


async def test_no_connection_is_made_for_a_message_that_may_not_go_yet(make_yard: MakeYard) -> None:
    """A host whose rate is limited is not called on for nothing."""
    slow = Providers({"large": Provider(hosts=(".large.test",), messages_per_minute=20)})
    async with FakeSmtp() as host:
        yard = make_yard(providers=slow, signposts=signposts(host))
        by_mx(yard, "x.test")
        for _ in range(8):
            yard.send("b@x.test")
        await until(lambda: len(host.messages) == 2)
        await asyncio.sleep(0.02)
        assert host.connections <= 2


HOURS = 3600.0


@pytest_asyncio.fixture
async def blocked(make_yard: MakeYard) -> Yard:
    """A sending side that tells of delays after four hours, where "wait" means four hours at first."""
    patience = rule("suspend", 4 * HOURS, text="wait")
    return make_yard(
        providers=Providers({"everybody": Provider(replies={"wait": patience})}),
        warn_after_s=4 * HOURS,
        delays_s=(300.0, 1800.0, 3600.0),
    )


def send_and_warn(yard: Yard, recipient: str) -> Accept:
    """A message whose sender wants to know after four hours."""
    message = yard.compose(recipient)
    warn_us = message.received_us + int(4 * HOURS * 1e6)
    message = replace(message, legs=[replace(leg, warn_us=warn_us) for leg in message.legs])
    yard.store.run(accept, message)
    yard.runner.enqueue_fresh(message)
    return message


async def test_mail_for_a_site_that_takes_nothing_is_told_of_and_ends_like_other_mail(blocked: Yard) -> None:
    """Only the probes are attempts, and of twenty messages most are never one; their senders hear all the same."""
    yard = blocked
    async with FakeSmtp(DOT="554 5.7.1 wait") as host:
        yard.host("x.test", host)
        sent = []
        for number in range(20):
            sent.append(send_and_warn(yard, f"b{number}@x.test"))
            await yard.settled()
        for _ in range(24):
            await yard.later(1 * HOURS)
        delayed = [report for report in yard.reports() if b"\r\nAction: delayed\r\n" in report]
        assert len(delayed) == 20
        assert len(yard.open()) == 40
        for _ in range(6 * 24):  # the end comes with a probe, and those are a day apart by then
            await yard.later(1 * HOURS)
        for message in sent:
            kinds = yard.kinds(message.id)
            assert (kinds.count("bounced"), kinds.count("reported"), kinds[-1]) == (1, 2, "reported")
        assert "its time of 5 days was up; at last: " in yard.events(sent[-1].id)[-2].cause
        assert host.commands.count("DATA") < 20


async def test_promise_p12_a_clock_set_ahead_ends_and_warns_nobody_at_a_suspended_site(blocked: Yard) -> None:
    yard = blocked
    async with FakeSmtp(DOT="554 5.7.1 wait") as host:
        yard.host("x.test", host)
        sent = [send_and_warn(yard, f"b{number}@x.test") for number in range(3)]
        await yard.settled()
        yard.clock.jump_wall(6 * 24 * HOURS)
        await yard.later(1.0)
        assert yard.reports() == []
        assert all("bounced" not in yard.kinds(message.id) for message in sent)
