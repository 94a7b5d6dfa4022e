"""Which hosts are tried for a domain: the planner as a table (rows D1-D6 of the named inputs)."""

from __future__ import annotations

import ipaddress
from random import Random
from typing import Any

import pytest

from postroad.flow.route import MAX_TRIES, Plan, Signposts, is_allowed, plan, plan_gateway, read_signposts
from postroad.values.next_hop import NextHop
from postroad.values.outcome import Fate, Outcome
from postroad.values.ports import Answer
from tests.fakes.lookup import FAILED, NODATA, NXDOMAIN, FakeLookup

PLAIN = read_signposts(own_names=["mail.ours.test"], own_addresses=["11.0.0.25", "2a00::25"])


def hops(found: Plan | Outcome, seed: int = 1) -> list[str]:
    assert isinstance(found, Plan), found
    return [f"{hop.host} {hop.address} {hop.port}" for hop in found.hops(Random(seed))]


def status(found: Plan | Outcome) -> tuple[Fate, str]:
    assert isinstance(found, Outcome), found
    return found.fate, found.status


async def test_better_preference_first_with_all_its_addresses_families_in_turn() -> None:
    lookup = FakeLookup(
        {"shop.test": [(20, "b.test"), (10, "a.test")]},
        {"a.test": ["2a00::1", "2a00::2", "11.0.0.1"], "b.test": ["11.0.0.2"]},
    )
    found = await plan("shop.test", PLAIN, lookup)
    assert hops(found) == ["a.test 2a00::1 25", "a.test 11.0.0.1 25", "a.test 2a00::2 25", "b.test 11.0.0.2 25"]


async def test_the_site_is_the_set_of_hosts_whatever_the_domain() -> None:
    addresses = {"a.test": ["11.0.0.1"], "b.test": ["11.0.0.2"]}
    lookup = FakeLookup(
        {"one.test": [(1, "a.test"), (2, "b.test")], "two.test": [(5, "b.test"), (5, "a.test")]}, addresses
    )
    sites = [found.site for d in ("one.test", "two.test") if isinstance(found := await plan(d, PLAIN, lookup), Plan)]
    assert sites == ["a.test,b.test:25"] * 2


async def test_row_d6_equals_come_in_random_order_and_never_before_their_betters() -> None:
    names = [f"mx{i}.test" for i in range(8)]
    lookup = FakeLookup(
        {"shop.test": [(10, name) for name in names] + [(5, "best.test")]},
        {name: [f"11.0.0.{i}"] for i, name in enumerate([*names, "best.test"])},
    )
    found = await plan("shop.test", PLAIN, lookup)
    orders = {tuple(hops(found, seed)) for seed in range(20)}
    assert len(orders) > 10
    assert {order[0] for order in orders} == {"best.test 11.0.0.8 25"}
    assert {frozenset(order) for order in orders} == {frozenset(hops(found))}


async def test_row_d6_five_hundred_exchangers_of_fifty_addresses_each_make_twenty_tries() -> None:
    lookup = FakeLookup(
        {"shop.test": [(i // 100, f"mx{i}.test") for i in range(500)]},
        {f"mx{i}.test": [f"12.{i // 256}.{i % 256}.{j}" for j in range(50)] for i in range(500)},
    )
    found = await plan("shop.test", PLAIN, lookup)
    assert len(hops(found)) == MAX_TRIES
    assert len(lookup.asked) <= 21


EVERY_KIND: list[tuple[str, dict[str, Any], dict[str, Any], Fate, str]] = [
    ("D1 null MX", {"x.test": [(0, ".")]}, {}, Fate.FAILED, "5.1.10"),
    ("D2 no such domain", {}, {}, Fate.FAILED, "5.1.2"),
    ("D2 servfail, timeout or refused", {"x.test": FAILED}, {}, Fate.DEFERRED, "4.4.3"),
    ("D2 neither MX nor address", {"x.test": NODATA}, {"x.test": NODATA}, Fate.FAILED, "5.4.4"),
    ("D2 no MX, address in doubt", {"x.test": NODATA}, {"x.test": FAILED}, Fate.DEFERRED, "4.4.3"),
    ("MX without address", {"x.test": [(1, "a.test")]}, {"a.test": NXDOMAIN}, Fate.FAILED, "5.4.4"),
    (
        "MX in doubt",
        {"x.test": [(1, "a.test"), (2, "b.test")]},
        {"a.test": FAILED, "b.test": NODATA},
        Fate.DEFERRED,
        "4.4.3",
    ),
    ("D3 only us by name", {"x.test": [(1, "mail.ours.test")]}, {}, Fate.FAILED, "5.4.6"),
    ("D3 only us by address", {"x.test": [(1, "a.test")]}, {"a.test": ["11.0.0.25"]}, Fate.FAILED, "5.4.6"),
    ("D3 only us by IPv6", {"x.test": [(1, "a.test")]}, {"a.test": ["2a00::25"]}, Fate.FAILED, "5.4.6"),
    ("D3 implicit MX is us", {}, {"x.test": ["11.0.0.25"]}, Fate.FAILED, "5.4.6"),
    (
        "D3 us, and a better one in doubt",
        {"x.test": [(1, "a.test"), (2, "mail.ours.test")]},
        {"a.test": FAILED},
        Fate.DEFERRED,
        "4.4.3",
    ),
    ("D4 only loopback", {"x.test": [(1, "a.test")]}, {"a.test": ["127.0.0.1", "::1"]}, Fate.FAILED, "5.4.4"),
    (
        "D4 private, and another in doubt",
        {"x.test": [(1, "a.test"), (1, "b.test")]},
        {"a.test": ["10.0.0.1"], "b.test": FAILED},
        Fate.DEFERRED,
        "4.4.3",
    ),
    ("D5 endless aliases", {"x.test": Answer(FAILED.status, why="more than 8 aliases")}, {}, Fate.DEFERRED, "4.4.3"),
]


@pytest.mark.parametrize("mx, addresses, fate, code", [c[1:] for c in EVERY_KIND], ids=[c[0] for c in EVERY_KIND])
async def test_ways_that_lead_nowhere(mx: dict[str, Any], addresses: dict[str, Any], fate: Fate, code: str) -> None:
    found = await plan("x.test", PLAIN, FakeLookup(mx, addresses))
    assert status(found) == (fate, code)
    assert isinstance(found, Outcome)
    assert found.cause
    assert not found.where


async def test_row_d2_without_mx_the_domain_itself_is_the_host() -> None:
    assert hops(await plan("x.test", PLAIN, FakeLookup({}, {"x.test": ["11.0.0.1"]}))) == ["x.test 11.0.0.1 25"]


async def test_row_d3_hosts_not_better_than_us_are_cut() -> None:
    mx = {"x.test": [(1, "a.test"), (5, "b.test"), (5, "mail.ours.test"), (9, "c.test")]}
    addresses = {"a.test": ["11.0.0.1"], "b.test": ["11.0.0.2"], "c.test": ["11.0.0.3"]}
    assert hops(await plan("x.test", PLAIN, FakeLookup(mx, addresses))) == ["a.test 11.0.0.1 25"]


async def test_row_d4_private_addresses_are_skipped_others_are_not() -> None:
    lookup = FakeLookup({"x.test": [(1, "a.test")]}, {"a.test": ["10.0.0.1", "11.0.0.1", "fe80::1"]})
    assert hops(await plan("x.test", PLAIN, lookup)) == ["a.test 11.0.0.1 25"]


async def test_row_d4_networks_that_are_allowed() -> None:
    lookup = FakeLookup({"x.test": [(1, "a.test")]}, {"a.test": ["127.0.0.3", "10.0.0.1"]})
    assert hops(await plan("x.test", read_signposts(port=1025, allow_private=["127.0.0.0/8"]), lookup)) == [
        "a.test 127.0.0.3 1025"
    ]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "::", "::1", "fe80::1", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
    ],
)  # fmt: skip
def test_row_d4_addresses_mail_never_goes_to(address: str) -> None:
    assert not is_allowed(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2a00::1", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_allowed(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "literal, expected",
    [
        ("[11.0.0.1]", ["[11.0.0.1] 11.0.0.1 25"]),
        ("[ipv6:2a00::1]", ["[ipv6:2a00::1] 2a00::1 25"]),
        ("[10.0.0.1]", (Fate.FAILED, "5.4.4")),
        ("[11.0.0.25]", (Fate.FAILED, "5.4.6")),
        ("[300.1.1.1]", (Fate.FAILED, "5.1.2")),
    ],
)
async def test_address_literals(literal: str, expected: object) -> None:
    lookup = FakeLookup()
    found = await plan(literal, PLAIN, lookup)
    assert (hops(found) if isinstance(found, Plan) else status(found)) == expected
    assert not lookup.asked


FIXED = read_signposts(
    next_hop="relay.test:2525",
    routes={
        "Direct.test": "10.0.0.7:26",
        ".below.test": "[2a00::7]:27",
        "by-mx.test": "",
        "near.below.test": "127.0.0.1",
    },
)


@pytest.mark.parametrize(
    "domain, expected",
    [
        ("anywhere.test", ["relay.test 2a00::9 2525", "relay.test 11.0.0.9 2525"]),
        ("direct.test", ["10.0.0.7 10.0.0.7 26"]),
        ("a.b.below.test", ["2a00::7 2a00::7 27"]),
        ("near.below.test", ["127.0.0.1 127.0.0.1 25"]),
        ("below.test", ["relay.test 2a00::9 2525", "relay.test 11.0.0.9 2525"]),
        ("by-mx.test", ["a.test 11.0.0.1 25"]),
        ("[11.0.0.5]", ["relay.test 2a00::9 2525", "relay.test 11.0.0.9 2525"]),
    ],
)
async def test_fixed_next_hops(domain: str, expected: list[str]) -> None:
    lookup = FakeLookup(
        {"by-mx.test": [(1, "a.test")]}, {"a.test": ["11.0.0.1"], "relay.test": ["11.0.0.9", "2a00::9"]}
    )
    assert hops(await plan(domain, FIXED, lookup)) == expected


@pytest.mark.parametrize("answer", [FAILED, NXDOMAIN, NODATA])
async def test_a_configured_hop_that_is_not_found_never_bounces_mail(answer: Answer) -> None:
    assert status(await plan("x.test", FIXED, FakeLookup({}, {"relay.test": answer}))) == (Fate.DEFERRED, "4.4.3")


async def test_localhost_as_next_hop_asks_nobody() -> None:
    lookup = FakeLookup()
    found = await plan("x.test", Signposts(next_hop=NextHop("localhost", 2525)), lookup)
    assert hops(found) == ["localhost ::1 2525", "localhost 127.0.0.1 2525"]
    assert not lookup.asked


async def test_the_host_of_a_gateway_domain_is_never_looked_for_by_mx() -> None:
    lookup = FakeLookup({"gate.test": [(1, "mail.ours.test")]}, {"inner.test": ["10.0.0.5"]})
    found = await plan_gateway("gate.test", NextHop("inner.test", 2525), PLAIN, lookup)
    assert hops(found) == ["inner.test 10.0.0.5 2525"]
    assert lookup.asked == ["inner.test/A"]


@pytest.mark.parametrize(
    "hop, ourselves",
    [
        (NextHop("mail.ours.test", 25), True),
        (NextHop("inner.test", 25), True),
        (NextHop("11.0.0.25", 25), True),
        (NextHop("2a00::25", 25), True),
        (NextHop("11.0.0.25", 2525), False),
        (NextHop("mail.ours.test", 24, lmtp=True), False),
    ],
)
async def test_mail_of_a_gateway_domain_waits_when_its_host_is_ourselves(hop: NextHop, ourselves: bool) -> None:
    lookup = FakeLookup({}, {"inner.test": ["11.0.0.25"], "mail.ours.test": ["11.0.0.25"]})
    found = await plan_gateway("gate.test", hop, PLAIN, lookup)
    if ourselves:
        assert status(found) == (Fate.DEFERRED, "4.4.6")
    else:
        assert isinstance(found, Plan)


async def test_a_unix_socket_as_next_hop() -> None:
    found = await plan("x.test", Signposts(next_hop=NextHop("/run/lmtp", 0, lmtp=True)), FakeLookup())
    assert isinstance(found, Plan)
    [hop] = found.hops(Random(1))
    assert (hop.address, hop.lmtp, str(hop), found.site) == ("/run/lmtp", True, "unix:/run/lmtp", "lmtp:/run/lmtp")
