"""Limits on connections: per address, network and minute, altogether, shared by workers, and while draining."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Any

import pytest

from postroad.config import Limits
from postroad.serve.admission import (
    GOING_DOWN,
    TOO_MANY,
    TOO_MANY_FROM_YOU,
    TOO_OFTEN,
    Admission,
    Allowance,
    allowances,
    network_of,
    room_for_clients,
)
from postroad.serve.tally import Tally, make_tally
from postroad.values.networks import Networks

WORLD = Allowance(per_address=2, per_network=5, per_minute=10)
LOGIN = Allowance(per_address=4, per_network=6, per_minute=50)


class Time:
    """A clock that stands until it is moved."""

    now = 6000.0

    def __call__(self) -> float:
        return self.now


def admission(**changes: Any) -> Admission:
    """Small limits, and nobody else counting."""
    usual: dict[str, Any] = {
        "total": 100, "world": WORLD, "login": LOGIN, "tally": Tally(), "monotonic": Time(),
    }  # fmt: skip
    return Admission(**usual | changes)


def fill(admission: Admission, address: str, door: str = "mx", most: int = 2000) -> int:
    """How many connections of one address are let in."""
    return next(number for number in range(most) if admission.admit(address, door) is not None)


def test_one_address_cannot_take_all() -> None:
    one = admission(total=3)
    assert fill(one, "192.0.2.1") == 2
    assert one.admit("192.0.2.1") == TOO_MANY_FROM_YOU
    assert one.admit("192.0.2.2") is None
    assert one.admit("192.0.2.3") == TOO_MANY
    one.leave("192.0.2.1")
    assert one.admit("192.0.2.1") is None
    assert one.open == 3


def test_row_s63_a_flood_from_one_network_leaves_room_for_others() -> None:
    world, login = allowances(Limits())
    for flood, neighbour in (("203.0.113.{}", "203.0.114.1"), ("2001:db8:0:{:x}::1", "2001:db8:1::1")):
        one = admission(total=10_000, world=world, login=login)
        addresses = [flood.format(number) for number in range(200)]
        assert fill(one, addresses[0]) == 20
        let_in = sum(one.admit(address) is None for address in addresses for _ in range(5))
        assert 20 + let_in == 100
        assert one.admit(addresses[-1]) == TOO_MANY_FROM_YOU
        assert one.admit(neighbour) is None


def test_users_and_the_world_are_counted_apart_and_with_limits_of_their_own() -> None:
    one = admission()
    assert fill(one, "192.0.2.1", "mx") == 2
    assert fill(one, "192.0.2.1", "imaps") == 4
    assert fill(one, "192.0.2.1", "submission") == 0
    assert fill(one, "192.0.2.2", "pop3") == 2  # the network has six


def test_new_connections_are_counted_by_the_minute() -> None:
    time = Time()
    one = admission(monotonic=time)

    def come_and_go(times: int) -> None:
        for _ in range(times):
            assert one.admit("192.0.2.1") is None
            one.leave("192.0.2.1")

    come_and_go(10)
    assert one.admit("192.0.2.1") == TOO_OFTEN
    assert one.admit("192.0.2.2") is None
    time.now += 90
    come_and_go(5)
    assert one.admit("192.0.2.1") == TOO_OFTEN
    time.now += 120
    come_and_go(10)


def test_workers_count_together_so_none_refuses_at_its_share_nor_lets_in_more() -> None:
    descriptor = make_tally(2)
    first, second = (admission(tally=Tally(descriptor, number, 2)) for number in range(2))
    os.close(descriptor)
    assert fill(first, "192.0.2.1") == 2  # the kernel may give one worker all of them
    assert second.admit("192.0.2.1") == TOO_MANY_FROM_YOU
    first.leave("192.0.2.1")
    assert second.admit("192.0.2.1") is None


def test_a_refused_connection_is_not_counted() -> None:
    one = admission()
    for _ in range(7):
        one.admit("192.0.2.1")
    assert one.open == 2
    one.leave("192.0.2.1")
    one.leave("192.0.2.1")
    assert one.open == 0
    assert one.admit("192.0.2.1") is None


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3", "::ffff:10.1.2.3", "uid 1000", ""])
def test_this_machine_and_listed_networks_count_only_altogether(address: str) -> None:
    one = admission(total=20, exempt=Networks(["10.0.0.0/8"]))
    assert fill(one, address) == 20
    assert one.admit(address) == TOO_MANY
    one.leave(address)
    assert one.admit(address) is None


def test_a_worker_holds_no_more_than_its_descriptors_allow() -> None:
    one = admission(total=100, own=3)
    assert fill(one, "127.0.0.1") == 3
    assert one.admit("127.0.0.1") == TOO_MANY


def test_room_for_clients_leaves_descriptors_for_everything_else() -> None:
    assert room_for_clients(65_536) == 64_536
    assert room_for_clients(1024) == 512
    assert room_for_clients(64) == 32
    assert room_for_clients(1) == 1
    assert room_for_clients() >= 1


def test_nobody_is_admitted_while_draining() -> None:
    one = admission()
    one.draining = True
    assert one.admit("192.0.2.1") == GOING_DOWN


@pytest.mark.parametrize(
    ("one", "other", "length", "same"),
    [
        ("2001:db8:1:2:3::1", "2001:db8:1:2:4::1", 64, True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", 64, False),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", 48, True),
        ("192.0.2.1", "192.0.2.2", 32, False),
        ("192.0.2.1", "192.0.2.2", 24, True),
        ("::", "0.0.0.0", 24, False),
    ],
)
def test_networks_are_told_apart(one: str, other: str, length: int, same: bool) -> None:
    assert (network_of(ip_address(one), length) == network_of(ip_address(other), length)) is same
