"""Who may connect, who waits, and what is remembered of hosts that failed."""

from __future__ import annotations

from random import Random

import pytest

from postroad.flow.lanes import SUSPEND_MAX_S, Delivery, Lane, Lanes, Letter, Parcel, parcels
from postroad.flow.route import Hop, Plan
from postroad.store.records import Accept, Leg
from postroad.values.ports import Target

A, B = Hop("a.test", "192.0.2.1", 25), Hop("b.test", "192.0.2.2", 25)


def plan(*hops: Hop) -> Plan:
    site = ",".join(sorted({hop.host for hop in hops}))
    return Plan(site, tuple((Target(hop.host, (hop.address,), hop.port),) for hop in hops))


def parcel(*recipients: str, prefix: bytes = b"") -> Parcel:
    letter = Letter(Accept(1, 0, "", b"", b"", "", 0, [], [], 0, "", b""), 1, header=b"", body=b"")
    return Parcel(letter, [Delivery(letter, Leg(i, r, "x.test", prefix=prefix), 1) for i, r in enumerate(recipients)])


@pytest.fixture
def lane() -> Lane:
    return Lane(plan(A, B))


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
    assert lane.why() == "timeout"
    lane.succeeded(A)
    assert not lane.is_probing()


def test_a_lane_opens_as_many_connections_as_it_has_mail_and_may() -> None:
    lanes = Lanes(per_lane=3, total=100)
    lane = lanes.lane(plan(A))
    assert not lanes.may_connect(lane)
    lane.queue.append(parcel("b"))
    assert lanes.may_connect(lane)
    assert not lanes.may_connect(lane)
    lane.queue.extend(parcel("b") for _ in range(5))
    assert [lanes.may_connect(lane) for _ in range(4)] == [True, True, False, False]


def test_a_lane_that_failed_probes_with_one_connection() -> None:
    lanes = Lanes(per_lane=3, total=100)
    lane = lanes.lane(plan(A))
    lane.queue.extend(parcel("b") for _ in range(5))
    lane.failed(A, "refused", 0.0)
    assert [lanes.may_connect(lane) for _ in range(3)] == [True, False, False]


def test_connections_are_shared_in_the_order_of_asking() -> None:
    lanes = Lanes(per_lane=10, total=2)
    first, second, third = (lanes.lane(plan(Hop(f"{n}.test", "192.0.2.1", 25))) for n in "abc")
    for lane in (first, second, third):
        lane.queue.extend(parcel("b") for _ in range(5))
    assert [lanes.may_connect(lane) for lane in (first, first)] == [True, True]
    assert not any(lanes.may_connect(lane) for lane in (third, second, first))
    assert lanes.crowded
    lanes.disconnected(first)
    assert lanes.next_in_line() is third
    lanes.disconnected(first)
    third.queue.clear()
    assert lanes.next_in_line() is second


def test_a_lane_is_known_by_its_site_and_keeps_the_newest_plan() -> None:
    lanes = Lanes(per_lane=1, total=1)
    lane = lanes.lane(plan(A, B))
    newer = plan(B, A)
    assert lanes.lane(newer) is lane
    assert lane.plan is newer


def test_recipients_share_a_transaction_when_their_content_is_the_same() -> None:
    plain, prefixed = parcel(*(f"u{i}" for i in range(120))), parcel("v", "w", prefix=b"X: 1\r\n")
    made = parcels(plain.letter, [*plain.deliveries, *prefixed.deliveries])
    assert [len(each.deliveries) for each in made] == [100, 20, 2]
