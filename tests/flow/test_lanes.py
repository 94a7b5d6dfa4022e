"""Who may connect, who waits, and what is remembered of hosts that failed."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from postroad.config.providers import Provider
from postroad.flow.lanes import KNOCKING_MAX, SUSPEND_MAX_S, Lane, Lanes, Place
from postroad.flow.parcels import Delivery, Letter, Parcel, parcels
from postroad.flow.providers import Providers
from postroad.flow.route import Hop, Plan
from postroad.flow.routing import Guise
from postroad.flow.shaping import Limits
from postroad.store.records import Accept, Leg
from postroad.values.ports import Target

A, B = Hop("a.test", "192.0.2.1", 25), Hop("b.test", "192.0.2.2", 25)


def plan(*hops: Hop) -> Plan:
    site = ",".join(sorted({hop.host for hop in hops}))
    return Plan(site, tuple((Target(hop.host, (hop.address,), hop.port),) for hop in hops))


def parcel(*recipients: str, prefix: bytes = b"") -> Parcel:
    letter = Letter(Accept(1, 0, "", b"", b"", "", 0, [], [], 0, "", b""), 1, header=b"", body=b"")
    return Parcel(letter, [Delivery(letter, Leg(i, r, "x.test", prefix=prefix), 1) for i, r in enumerate(recipients)])


def make_lanes(connections: int = 20, total: int = 100, providers: Providers | None = None) -> Lanes:
    return Lanes(limits=Limits(connections, 100), total=total, providers=providers)


def fill(lane: Lane, count: int = 5) -> None:
    for _ in range(count):
        lane.queue.append(parcel("b"))


def connect(lanes: Lanes, *wanted: Lane) -> list[bool]:
    return [lanes.may_connect(lane, 0.0) is not Place.NONE for lane in wanted]


@pytest.fixture
def lane() -> Lane:
    return make_lanes().lane(plan(A, B))


def test_a_host_that_failed_is_left_alone_longer_every_time(lane: Lane) -> None:
    now, waits = 100.0, []
    for _ in range(12):
        lane.failed(A, "refused", now)
        until = lane.health[A].until
        waits.append(until - now)
        now = until
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == SUSPEND_MAX_S


def test_connections_that_fail_together_are_one_failure(lane: Lane) -> None:
    for _ in range(20):
        lane.failed(A, "refused", 100.0)
    assert lane.health[A].failures == 1


def test_one_failed_host_leaves_the_others(lane: Lane) -> None:
    lane.failed(A, "refused", 100.0)
    assert lane.hops(100.5, Random(1)) == [B]
    assert lane.suspended_until(100.5) == 0.0
    assert not lane.is_probing()
    assert lane.hops(101.0, Random(1)) == [A, B]


def test_a_lane_whose_hosts_all_failed_waits_for_the_first(lane: Lane) -> None:
    lane.failed(A, "refused", 100.0)
    lane.failed(B, "timeout", 100.5)
    assert lane.suspended_until(100.6) == 101.0
    assert lane.suspended_until(101.0) == 0.0
    assert lane.is_probing()
    assert "timeout" in lane.why(100.6)
    lane.succeeded(A)
    assert not lane.is_probing()


def test_a_lane_opens_as_many_connections_as_it_has_mail_and_may() -> None:
    lanes = make_lanes(connections=3)
    lane = lanes.lane(plan(A))
    assert connect(lanes, lane) == [False]
    lane.queue.append(parcel("b"))
    assert connect(lanes, lane, lane) == [True, False]
    fill(lane)
    assert connect(lanes, lane, lane, lane, lane) == [True, True, False, False]


def test_a_lane_that_failed_probes_with_one_connection() -> None:
    lanes = make_lanes(connections=3)
    lane = lanes.lane(plan(A))
    fill(lane)
    lane.failed(A, "refused", 0.0)
    assert connect(lanes, lane, lane, lane) == [True, False, False]


def test_connections_are_shared_in_the_order_of_asking() -> None:
    lanes = make_lanes(connections=10, total=2)
    first, second, third = (lanes.lane(plan(Hop(f"{n}.test", "192.0.2.1", 25))) for n in "abc")
    for lane in (first, second, third):
        lane.proven = True
        fill(lane)
    assert connect(lanes, first, first) == [True, True]
    assert connect(lanes, third, second, first) == [False, False, False]
    assert lanes.crowded
    lanes.disconnected(first, Place.OURS)
    assert lanes.next_in_line(first.site) is third
    lanes.disconnected(first, Place.OURS)
    third.queue.take_all()
    assert lanes.next_in_line(first.site) is second


def test_hosts_nothing_is_known_of_do_not_take_the_places_of_those_that_answer() -> None:
    lanes = make_lanes(total=1)
    strangers = [lanes.lane(plan(Hop(f"s{n}.test", "192.0.2.1", 25))) for n in range(KNOCKING_MAX + 1)]
    for lane in strangers:
        fill(lane, 1)
    assert connect(lanes, *strangers).count(True) == KNOCKING_MAX
    known = lanes.lane(plan(A))
    known.proven = True
    fill(known)
    assert connect(lanes, known) == [True]
    assert (lanes.connections, lanes.knocking) == (1, KNOCKING_MAX)
    # One of them answers: it is a connection like others, and the last stranger may knock.
    place = lanes.answered(strangers[0], Place.KNOCKING)
    assert strangers[0].proven
    assert (place, lanes.connections, lanes.knocking) == (Place.OURS, 2, KNOCKING_MAX - 1)
    assert lanes.next_in_line(known.site) is strangers[-1]


def test_lanes_of_one_provider_share_its_limit_whatever_their_hosts() -> None:
    providers = Providers({"large": Provider(hosts=(".large.test",), connections=2)})
    lanes = make_lanes(providers=providers)
    one, two, other = (
        lanes.lane(plan(Hop(name, "192.0.2.1", 25))) for name in ("a.large.test", "b.large.test", "x.test")
    )
    for lane in (one, two, other):
        fill(lane)
    assert one.site is two.site
    assert (one.site.name, other.site.name) == ("large", "x.test")
    assert connect(lanes, one, two, two, one) == [True, True, False, False]
    assert connect(lanes, other) == [True]
    lanes.disconnected(one, Place.KNOCKING)
    assert lanes.next_in_line(one.site) is two


def test_a_way_somebody_configured_is_no_provider() -> None:
    providers = Providers({"large": Provider(hosts=(".large.test",), connections=2)})
    fixed = Plan("a.large.test:25", ((Target("a.large.test", ("192.0.2.1",), 25),),), fixed=True)
    assert make_lanes(providers=providers).lane(fixed).site.provider == ""


def test_hosts_of_two_providers_belong_to_none() -> None:
    providers = Providers({"one": Provider(hosts=(".one.test",)), "two": Provider(hosts=(".two.test",))})
    mixed = plan(Hop("a.one.test", "192.0.2.1", 25), Hop("b.two.test", "192.0.2.2", 25))
    assert make_lanes(providers=providers).lane(mixed).site.name == "a.one.test,b.two.test"


def test_a_provider_of_separate_sites_gives_each_its_own_limit() -> None:
    providers = Providers({"large": Provider(hosts=(".large.test",), connections=1, shared=False)})
    lanes = make_lanes(providers=providers)
    one, two = (lanes.lane(plan(Hop(name, "192.0.2.1", 25))) for name in ("a.large.test", "b.large.test"))
    assert one.site is not two.site
    assert one.site.shape.limits.connections == 1


def test_one_source_address_is_not_counted_with_another() -> None:
    there = plan(A)
    keys = {Lanes(limits=Limits(1, 1), total=1, source=source).lane(there).site.key for source in ("", "192.0.2.9")}
    assert keys == {"a.test", "192.0.2.9>a.test"}
    lanes = make_lanes()
    other = replace(there, guise=Guise(sources=("192.0.2.7",)))
    assert lanes.lane(there).site is not lanes.lane(other).site


def test_a_lane_is_known_by_its_site_and_keeps_the_newest_plan() -> None:
    lanes = make_lanes(1, 1)
    lane = lanes.lane(plan(A, B))
    newer = plan(A, Hop("b.test", "192.0.2.3", 25))
    assert lanes.lane(newer) is lane
    assert lane.plan is newer


def test_the_same_hosts_in_another_order_share_limits_but_no_lane() -> None:
    """RFC 5321 section 5.1: hosts "MUST be tried in order of preference", that of the domain and not of its neighbour.

    Two providers that stand behind each other are two orders of the same hosts.
    """
    lanes = make_lanes()
    one, other = lanes.lane(plan(A, B)), lanes.lane(plan(B, A))
    assert one is not other
    assert one.site is other.site
    equals = Plan("a.test,b.test", ((Target("a.test", ("192.0.2.1",), 25), Target("b.test", ("192.0.2.2",), 25)),))
    assert lanes.lane(equals) not in (one, other)


def test_recipients_share_a_transaction_when_their_content_is_the_same() -> None:
    plain, prefixed = parcel(*(f"u{i}" for i in range(120))), parcel("v", "w", prefix=b"X: 1\r\n")
    made = parcels(plain.letter, [*plain.deliveries, *prefixed.deliveries])
    assert [len(each.deliveries) for each in made] == [100, 20, 2]


def test_lanes_of_a_paced_site_take_turns_in_the_order_of_asking() -> None:
    """Whichever asks when a message may go: those that have waited longer go first."""
    providers = Providers({"large": Provider(hosts=(".test",), messages_per_minute=60)})
    lanes = make_lanes(providers=providers)
    asked = [lanes.lane(plan(Hop(f"{name}.test", "192.0.2.1", 25))) for name in "abcd"]
    [site] = lanes.sites()
    for lane in asked:
        fill(lane)
    while site.shape.permit(0.0).wait_s <= 0.0:
        site.shape.take(0.0)
    now, served = 0.0, []
    assert all(lanes.may_connect(lane, now) is Place.NONE for lane in asked)
    for _ in range(8):
        now += 1.2
        # The last of the line always asks first.
        for lane in reversed(asked):
            place = lanes.may_connect(lane, now)
            if place is not Place.NONE:
                served.append(lane)
                lanes.unopened(lane)
                site.shape.take(now)
                lanes.begun(lane)
                lanes.disconnected(lane, place)
                assert lanes.may_connect(lane, now) is Place.NONE
    assert served == asked * 2


def test_a_lane_whose_mail_has_gone_keeps_nobody_waiting() -> None:
    providers = Providers({"large": Provider(hosts=(".test",), messages_per_minute=60)})
    lanes = make_lanes(providers=providers)
    first, second = (lanes.lane(plan(Hop(f"{name}.test", "192.0.2.1", 25))) for name in "ab")
    [site] = lanes.sites()
    while site.shape.permit(0.0).wait_s <= 0.0:
        site.shape.take(0.0)
    for lane in (first, second):
        fill(lane)
        assert lanes.may_connect(lane, 0.0) is Place.NONE
    first.queue.take_all()
    assert lanes.may_connect(second, 1.2) is Place.KNOCKING


def test_a_site_whose_messages_are_counted_is_not_forgotten_with_its_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the same minute or hour would be counted from its beginning again."""
    monkeypatch.setattr("postroad.flow.lanes.LANES_KEPT", 10)
    lanes = make_lanes(providers=Providers({"large": Provider(hosts=("counted.test",), messages_per_hour=5)}))
    counted = plan(Hop("counted.test", "192.0.2.1", 25))
    lanes.lane(counted).site.shape.take(0.0)
    for number in range(20):
        lanes.lane(plan(Hop(f"{number}.test", "192.0.2.1", 25)))
    assert lanes.lane(counted).site.shape.permit(1.0).wait_s > 0.0
