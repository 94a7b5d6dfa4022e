"""The servers that are responsible for a name, asked each by itself: agreement, splits, silence, lameness, aliases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from postroad.values.ports import Told, View
from tests.fakes.dns import DnsServer, Fault
from tests.fakes.zones import World

ZONE = {
    "example.com": {"MX": ["10 MAIL.Example.COM."], "TXT": ['"v=spf1 " "mx -all"', '"other"']},
    "_imaps._tcp.example.com": {"SRV": ["0 1 993 Mail.example.com."]},
    "mail.example.com": {"A": ["192.0.2.7"]},
    "inner.example.com": {"CNAME": ["mail.example.com."]},
    "outer.example.com": {"CNAME": ["host.else.test."]},
    "loop.example.com": {"CNAME": ["pool.example.com."]},
    "pool.example.com": {"CNAME": ["loop.example.com."]},
    "long.example.com": {"TXT": [" ".join(f'"{"x" * 250}"' for _ in range(12))]},
    "7.2.0.192.in-addr.arpa": {"PTR": ["mail.example.com."]},
}
BOTH = ("ns1.example.net", "ns2.example.net")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World(ZONE) as made:
        yield made


@pytest.mark.parametrize(
    "name, kind, records",
    [
        ("example.com", "MX", ("10 mail.example.com",)),
        ("EXAMPLE.com", "MX", ("10 mail.example.com",)),
        ("example.com", "TXT", ("other", "v=spf1 mx -all")),
        ("_imaps._tcp.example.com", "SRV", ("0 1 993 mail.example.com",)),
        ("mail.example.com", "A", ("192.0.2.7",)),
        ("7.2.0.192.in-addr.arpa", "PTR", ("mail.example.com",)),
        ("long.example.com", "TXT", ("x" * 3000,)),
    ],
)
async def test_servers_that_agree_are_one_view(world: World, name: str, kind: str, records: tuple[str, ...]) -> None:
    assert await world.authority().ask(name, kind) == Told((View(BOTH, records),))
    assert all(server.queries for server in world.servers)


async def test_what_is_not_there_is_a_fact(world: World) -> None:
    authority = world.authority()
    assert await authority.ask("mail.example.com", "TXT") == Told((View(BOTH),))
    assert await authority.ask("none.example.com", "TXT") == Told((View(BOTH, exists=False),))


async def test_the_resolver_is_not_asked_for_the_records(world: World) -> None:
    await world.authority().ask("_dmarc.example.com", "TXT")
    assert "_dmarc.example.com/TXT" not in world.resolver.queries
    assert {query.rpartition("/")[2] for query in world.resolver.queries} == {"NS", "A", "AAAA"}


async def test_servers_that_differ_are_views_of_their_own(world: World) -> None:
    world.servers[1].records = {**ZONE, "example.com": {"MX": ["10 old.example.com."]}}
    told = await world.authority().ask("example.com", "MX")
    assert told.views == (View(BOTH[:1], ("10 mail.example.com",)), View(BOTH[1:], ("10 old.example.com",)))


@pytest.mark.parametrize(
    "fault, word",
    [(Fault.SERVFAIL, "SERVFAIL"), (Fault.REFUSED, "REFUSED"), (Fault.LAME, "lame"),
     pytest.param(Fault.SILENT, "timeout", marks=pytest.mark.slow),
     pytest.param(Fault.GARBAGE, "timeout", marks=pytest.mark.slow)],
)  # fmt: skip
async def test_a_server_that_fails_says_nothing_and_is_named(world: World, fault: Fault, word: str) -> None:
    world.servers[1].faults["example.com"] = fault
    told = await world.authority().ask("example.com", "MX")
    assert told.views == (View(BOTH[:1], ("10 mail.example.com",)),)
    [why] = told.silent
    assert why.startswith("ns2.example.net: ")
    assert word in why


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.LAME, pytest.param(Fault.SILENT, marks=pytest.mark.slow)])
async def test_when_all_fail_nothing_can_be_told(world: World, fault: Fault) -> None:
    for server in world.servers:
        server.faults["example.com"] = fault
    told = await world.authority().ask("example.com", "MX")
    assert told.views == ()
    assert told.why


async def test_a_lost_packet_is_asked_for_again(world: World) -> None:
    world.servers[0].faults["example.com"] = Fault.BAD_ID
    assert len((await world.authority().ask("example.com", "MX")).views) == 1


async def test_a_long_answer_comes_by_tcp(world: World) -> None:
    world.servers[0].faults["example.com"] = Fault.TRUNCATED
    assert len((await world.authority().ask("example.com", "MX")).views) == 1
    assert world.servers[0].tcp_queries == 1


async def test_servers_without_an_address_are_named(world: World) -> None:
    del world.resolver.records["ns2.example.net"]
    told = await world.authority().ask("example.com", "MX")
    assert told.views[0].servers == BOTH[:1]
    assert "ns2.example.net has no address" in told.silent[0]


async def test_an_alias_within_the_zone_is_followed(world: World) -> None:
    told = await world.authority().ask("inner.example.com", "A")
    assert told.views == (View(BOTH, ("192.0.2.7",), alias="mail.example.com"),)


async def test_an_alias_is_followed_to_the_servers_of_its_own_zone(world: World) -> None:
    """What the first zone's servers say of a foreign name would not count."""
    world.resolver.records["else.test"] = {"NS": ["ns.else.test."]}
    world.resolver.records["ns.else.test"] = {"A": ["127.0.0.4"]}
    for server in world.servers:
        server.records["host.else.test"] = {"A": ["203.0.113.66"]}
    async with DnsServer({"host.else.test": {"A": ["192.0.2.9"]}}) as other:
        await other.close()
        await other.start("127.0.0.4", world.port)
        told = await world.authority().ask("outer.example.com", "A")
    assert told.views == (View(BOTH, ("192.0.2.9",), alias="host.else.test"),)


async def test_an_alias_of_nobodys_name(world: World) -> None:
    told = await world.authority().ask("outer.example.com", "A")
    assert told.views == ()
    assert told.why.startswith("it is an alias of host.else.test: ")


async def test_aliases_in_a_circle_end(world: World) -> None:
    told = await world.authority().ask("loop.example.com", "A")
    assert told.views == ()
    assert "more than 8 aliases" in told.why


async def test_a_zone_that_nobody_knows(world: World) -> None:
    why = (await world.authority().ask("a.b.test", "MX")).why
    assert "no zone" in why
    assert "does the domain exist" in why


async def test_no_resolver(world: World) -> None:
    for name in ("example.com", "com"):
        world.resolver.faults[name] = Fault.SERVFAIL
    assert "SERVFAIL" in (await world.authority().ask("mail.example.com", "A")).why


@pytest.mark.parametrize("name", ["ü.example.com", "a..b", "x" * 64 + ".test"])
async def test_what_is_no_name(world: World, name: str) -> None:
    assert "is not a domain name" in (await world.authority().ask(name, "A")).why
