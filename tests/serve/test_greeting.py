"""Who waits for the greeting: strangers, once a day."""

from __future__ import annotations

import pytest

from postroad.serve import greeting
from postroad.serve.greeting import KNOWN_S, EarlyTalkers
from postroad.values.networks import Networks
from tests.serve.test_admission import Time


@pytest.fixture
def time() -> Time:
    return Time()


def test_a_stranger_waits_once_and_its_network_is_known_for_a_day(time: Time) -> None:
    early = EarlyTalkers(1.0, time)
    assert early.wait_s("192.0.2.1") == 1.0
    early.passed("192.0.2.1")
    assert early.wait_s("192.0.2.1") == early.wait_s("192.0.2.200") == 0.0
    assert early.wait_s("192.0.3.1") == 1.0
    time.now += KNOWN_S
    assert early.wait_s("192.0.2.1") == 1.0


def test_an_ipv6_client_is_known_by_its_64(time: Time) -> None:
    early = EarlyTalkers(1.0, time)
    early.passed("2001:db8:1:2::1")
    assert early.wait_s("2001:db8:1:2:ffff::1") == 0.0
    assert early.wait_s("2001:db8:1:3::1") == 1.0
    early.passed("::ffff:192.0.2.1")
    assert early.wait_s("192.0.2.1") == 0.0


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.9.8.7", "", "uid 0"])
def test_this_machine_and_listed_networks_never_wait(peer: str, time: Time) -> None:
    early = EarlyTalkers(1.0, time, Networks(["10.0.0.0/8"]))
    assert early.wait_s(peer) == 0.0
    early.passed(peer)


def test_nobody_waits_where_it_is_switched_off(time: Time) -> None:
    assert EarlyTalkers(0.0, time).wait_s("192.0.2.1") == 0.0


def test_memory_is_bounded_and_the_oldest_is_forgotten(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "KNOWN_MAX", 3)
    early = EarlyTalkers(1.0, time)
    for number in (1, 2, 1, 3, 4):
        early.passed(f"192.0.{number}.1")
    assert [early.wait_s(f"192.0.{number}.1") for number in (1, 2, 3, 4)] == [0.0, 1.0, 0.0, 0.0]
