"""Promise P10: whatever a name server says, mail is planned within limits, waits when it is in doubt, and ends only by
a fact. The real resolver and the real planner against a server that lies (rows D1 to D7)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import pytest_asyncio

from postroad.flow.route import MAX_TRIES, Plan, plan, read_signposts
from postroad.net.dns import MAX_CNAMES, DnsLookup
from postroad.values.outcome import Fate, Outcome
from tests.fakes.dns import DnsServer

PLAIN = read_signposts(own_names=["mail.ours.test"], own_addresses=["11.0.0.25"])

RECORDS: dict[str, dict[str, list[str]]] = {
    "good.test": {"MX": ["10 mx.good.test."]},
    "mx.good.test": {"A": ["11.0.0.1"]},
    "null.test": {"MX": ["0 ."]},
    "six.test": {"MX": ["10 mx.six.test."]},
    "mx.six.test": {"AAAA": ["2a00::1"]},
    "private.test": {"MX": ["10 a.private.test.", "20 b.private.test."]},
    "a.private.test": {"A": ["10.0.0.1", "127.0.0.1", "169.254.169.254"], "AAAA": ["::1", "fe80::1"]},
    "b.private.test": {"AAAA": ["::ffff:192.168.0.1", "fc00::1"]},
    "alias.test": {"MX": ["10 alias.mx.test."]},
    "alias.mx.test": {"CNAME": ["mx.good.test."]},
    "aliased.test": {"CNAME": ["good.test."]},
    "loop.test": {"MX": ["10 a.loop.test."]},
    "a.loop.test": {"CNAME": ["b.loop.test."]},
    "b.loop.test": {"CNAME": ["a.loop.test."]},
    "looped.test": {"CNAME": ["looped.test."]},
    "chain.test": {"MX": ["10 c0.chain.test."]},
    **{f"c{n}.chain.test": {"CNAME": [f"c{n + 1}.chain.test."]} for n in range(20)},
    "c20.chain.test": {"A": ["11.0.0.20"]},
    "chained.test": {"CNAME": ["c0.chained.test."]},
    **{f"c{n}.chained.test": {"CNAME": [f"c{n + 1}.chained.test."]} for n in range(20)},
    "c20.chained.test": {"MX": ["10 mx.good.test."]},
    "many.test": {"MX": [f"{n // 100} mx{n}.many.test." for n in range(500)]},
    **{f"mx{n}.many.test": {"A": [f"11.1.{n // 250}.{n % 250 + 1}"]} for n in range(500)},
    "each.test": {"MX": [f"{n} mx{n}.each.test." for n in range(500)]},
    **{f"mx{n}.each.test": {"A": [f"11.{2 + n // 250}.{n % 250}.{i + 1}" for i in range(50)]} for n in range(500)},
    "huge.test": {"MX": [f"{n} {'x' * 20}{n}.huge.test." for n in range(1500)]},
    **{f"{'x' * 20}{n}.huge.test": {"A": ["11.9.0.1"]} for n in range(40)},
    "wide.test": {"MX": ["10 mx.wide.test."]},
    "mx.wide.test": {"A": [f"11.{8 + n // 62500}.{n // 250 % 250}.{n % 250 + 1}" for n in range(4000)]},
}


class Liar(DnsServer):
    """A name server that says of some names what a function makes of its true answer: the packets to send."""

    def __init__(self, records: Any = RECORDS, **settings: Any) -> None:
        super().__init__(records, **settings)
        self.lies: dict[str, Callable[[dns.message.Message, bool], list[bytes]]] = {}
        """By name, or "name/TYPE"."""

    def answers(self, wire: bytes, *, tcp: bool) -> list[bytes]:
        query = dns.message.from_wire(wire)
        asked = query.question[0]
        name = asked.name.to_text(omit_final_dot=True).lower()
        lie = self.lies.get(f"{name}/{dns.rdatatype.to_text(asked.rdtype)}") or self.lies.get(name)
        if lie is None:
            return super().answers(wire, tcp=tcp)
        self.queries.append(f"{name}/{dns.rdatatype.to_text(asked.rdtype)}")
        self.tcp_queries += tcp
        return lie(self._answer(query), tcp)


@pytest_asyncio.fixture
async def liar() -> AsyncIterator[Liar]:
    server = Liar()
    await server.start()
    yield server
    await server.close()


async def way(server: DnsServer, domain: str, timeout_s: float = 2.0) -> Plan | Outcome:
    """What a fresh resolver and the planner make of a domain."""
    lookup = DnsLookup([server.address], timeout_s=timeout_s)
    try:
        return await plan(domain, PLAIN, lookup)
    finally:
        await lookup.close()


def told(found: Plan | Outcome) -> str:
    """The addresses in the order of trying, or fate and status."""
    if isinstance(found, Plan):
        return " ".join(hop.address for hop in found.hops(Random(1)))
    return f"{found.fate.value} {found.status}"


# -- what is published -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "domain, expected",
    [
        ("good.test", "11.0.0.1"),
        ("null.test", f"{Fate.FAILED.value} 5.1.10"),
        ("nowhere.test", f"{Fate.FAILED.value} 5.1.2"),
        ("six.test", "2a00::1"),
        ("private.test", f"{Fate.FAILED.value} 5.4.4"),
        ("alias.test", "11.0.0.1"),
        ("aliased.test", "11.0.0.1"),
        ("loop.test", f"{Fate.DEFERRED.value} 4.4.3"),
        ("looped.test", f"{Fate.DEFERRED.value} 4.4.3"),
        ("chain.test", f"{Fate.DEFERRED.value} 4.4.3"),
        ("chained.test", f"{Fate.DEFERRED.value} 4.4.3"),
    ],
)
async def test_promise_p10_rows_d1_to_d5_strange_zones_have_one_outcome_each(
    liar: Liar, domain: str, expected: str
) -> None:
    assert told(await way(liar, domain)) == expected
    assert len(liar.queries) <= 2 + 2 * (MAX_CNAMES + 1)


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["huge.test", "wide.test"])
async def test_promise_p10_answers_of_64_kb_are_more_than_anybody_needs(liar: Liar, domain: str) -> None:
    assert told(await way(liar, domain)) == f"{Fate.DEFERRED.value} 4.4.3"
    assert len(liar.queries) <= 8


@pytest.mark.parametrize("domain", ["many.test", "each.test"])
async def test_promise_p10_row_d6_five_hundred_hosts_make_twenty_tries(liar: Liar, domain: str) -> None:
    found = await way(liar, domain)
    assert isinstance(found, Plan)
    assert 0 < len(found.hops(Random(1))) <= MAX_TRIES
    assert sum(len(target.addresses) for group in found.groups for target in group) <= 10 * MAX_TRIES
    # One question of hosts, twenty of addresses of each family; what is too long for UDP is asked for again by TCP.
    assert len(set(liar.queries)) <= 41
    assert liar.tcp_queries > 0


# -- what is sent ------------------------------------------------------------------------------------------------------


def refused(true: dns.message.Message, code: int) -> bytes:
    """An answer without records."""
    true.answer.clear()
    true.authority.clear()
    true.set_rcode(dns.rcode.Rcode(code))
    return true.to_wire()


def spoofed(true: dns.message.Message, _: bool) -> list[bytes]:
    """A hundred guesses at the id, each of which says that the domain does not exist; then the truth."""
    wire = true.to_wire()
    no = bytearray(refused(true, dns.rcode.NXDOMAIN))
    guesses = []
    for guess in range(100):
        no[:2] = (int.from_bytes(wire[:2]) ^ (guess + 1)).to_bytes(2)
        guesses.append(bytes(no))
    return [*guesses, wire]


def questionless(true: dns.message.Message, _: bool) -> list[bytes]:
    true.question.clear()
    return [refused(true, dns.rcode.NXDOMAIN)]


def truncated_for_ever(true: dns.message.Message, _: bool) -> list[bytes]:
    true.answer.clear()
    true.flags |= dns.flags.TC
    return [true.to_wire()]


def of_somebody_else(true: dns.message.Message, _: bool) -> list[bytes]:
    true.answer[:] = [dns.rrset.from_text("elsewhere.test.", 60, "IN", "MX", "10 mx.elsewhere.test.")]
    return [true.to_wire()]


def of_another_class(true: dns.message.Message, _: bool) -> list[bytes]:
    name, kind = true.question[0].name, true.question[0].rdtype
    text = "10 mx.good.test." if kind == dns.rdatatype.MX else "\\# 4 0b000001"
    true.answer[:] = [dns.rrset.from_text(name, 60, "CH", kind, text)]
    return [true.to_wire()]


def behind_somebody_else(true: dns.message.Message, _: bool) -> list[bytes]:
    true.answer[:] = [dns.rrset.from_text("elsewhere.test.", 60, "IN", "CNAME", "good.test.")]
    return [true.to_wire()]


def a_question_back(true: dns.message.Message, _: bool) -> list[bytes]:
    true.flags &= ~dns.flags.QR
    return [true.to_wire()]


def nothing_by_tcp(true: dns.message.Message, tcp: bool) -> list[bytes]:
    return [] if tcp else truncated_for_ever(true, tcp)


def half_by_tcp(true: dns.message.Message, tcp: bool) -> list[bytes]:
    return [true.to_wire()[:20]] if tcp else truncated_for_ever(true, tcp)


LIES: dict[str, tuple[Callable[[dns.message.Message, bool], list[bytes]], str]] = {
    "the truth behind a hundred wrong ids": (spoofed, "11.0.0.1"),
    "no such domain, without the question": (questionless, "deferred"),
    "truncated by UDP and TCP": (truncated_for_ever, "deferred"),
    "truncated, and silence by TCP": (nothing_by_tcp, "deferred"),
    "truncated, and half of it by TCP": (half_by_tcp, "deferred"),
    "records of another name": (of_somebody_else, "deferred"),
    "records of another class": (of_another_class, "deferred"),
    "an alias of another name": (behind_somebody_else, "deferred"),
    "a question back": (a_question_back, "deferred"),
    "nothing at all": (lambda true, tcp: [], "deferred"),
    "no octets": (lambda true, tcp: [b""], "deferred"),
    "64 kB of zeros": (lambda true, tcp: [b"\0" * 65_000], "deferred"),
    "64 kB of random octets": (lambda true, tcp: [Random(1).randbytes(65_000)], "deferred"),
    "its header and no more": (lambda true, tcp: [true.to_wire()[:12]], "deferred"),
    "its last octet missing": (lambda true, tcp: [true.to_wire()[:-1]], "deferred"),
    "a name that points at itself": (lambda true, tcp: [true.to_wire()[:12] + b"\xc0\x0c\x00\x0f\x00\x01"], "deferred"),
}  # fmt: skip


@pytest.mark.parametrize("lie, expected", LIES.values(), ids=list(LIES))
@pytest.mark.parametrize("of", ["good.test/MX", "mx.good.test"])
async def test_promise_p10_row_d7_lies_of_the_wire_are_doubts(
    liar: Liar, of: str, lie: Callable[[dns.message.Message, bool], list[bytes]], expected: str
) -> None:
    """Said of the domain, and of both families of its host."""
    liar.lies[of] = lie
    began = time.monotonic()
    found = await way(liar, "good.test", timeout_s=0.2)
    assert told(found).removesuffix(" 4.4.3") == expected
    # Two questions one after the other, each with its time; the rest is what a busy machine takes.
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("code", [code for code in range(1, 16) if code != dns.rcode.NXDOMAIN])
async def test_promise_p10_row_d2_every_code_but_one_is_a_doubt(liar: Liar, code: int) -> None:
    liar.lies["good.test"] = lambda true, tcp: [refused(true, code)]
    assert told(await way(liar, "good.test", timeout_s=0.2)) == f"{Fate.DEFERRED.value} 4.4.3"


# -- garbage -----------------------------------------------------------------------------------------------------------

MUTANTS = 100
"""In each of six runs."""


def mutated(wire: bytes, rng: Random) -> bytes:
    """A valid answer with a few octets behind its id changed, taken out, put in, or cut off."""
    octets = bytearray(wire)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        at = rng.randrange(2, len(octets))
        match rng.randrange(6):
            case 0 | 1 | 2:
                octets[at] = rng.choice([0, 1, 3, 63, 64, 128, 191, 192, 255, rng.randrange(256)])
            case 3:
                del octets[at : at + rng.randrange(1, 8)]
            case 4:
                octets[at:at] = rng.randbytes(rng.randrange(1, 8))
            case _:
                del octets[max(at, 12) :]
        if len(octets) < 16:
            break
    return bytes(octets)


def is_well_formed(wire: bytes, true: dns.message.Message) -> bool:
    """Whether a liar who knows the question could say it so: well-formed, complete, and about what was asked."""
    try:
        said = dns.message.from_wire(wire)
    except Exception:
        return False
    asked = true.question[0]
    right = said.id == true.id and said.flags & dns.flags.QR and not said.flags & dns.flags.TC
    return bool(right and said.question == [asked] and all(rrset.name == asked.name for rrset in said.answer))


@pytest.mark.slow
@pytest.mark.parametrize("of", ["MX", "host"])
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_promise_p10_garbage_ends_nothing_and_nobody_waits_for_it_long(of: str, seed: int) -> None:
    """Answers spoiled at random. Mail is sent or waits; it ends only by what could be the answer of a liar, which
    nobody can tell from a true one without DNSSEC."""
    rng = Random(seed)
    records: dict[str, Any] = {}
    for n in range(MUTANTS):
        records[f"d{n}.test"] = {"MX": [f"10 mx.d{n}.test.", f"20 my.d{n}.test."]}
        records[f"mx.d{n}.test"] = records[f"my.d{n}.test"] = {"A": ["11.0.0.1", "11.0.0.2"]}
    possible: set[str] = set()
    server = Liar(records)

    def spoil(domain: str) -> Callable[[dns.message.Message, bool], list[bytes]]:
        seeded = Random(rng.random())

        def lie(true: dns.message.Message, tcp: bool) -> list[bytes]:
            wire = mutated(true.to_wire(), seeded)
            if is_well_formed(wire, true):
                possible.add(domain)
            return [wire]

        return lie

    for n in range(MUTANTS):
        for name in [f"d{n}.test/MX"] if of == "MX" else [f"mx.d{n}.test", f"my.d{n}.test"]:
            server.lies[name] = spoil(f"d{n}.test")
    await server.start()
    lookup = DnsLookup([server.address], timeout_s=0.4)
    few = asyncio.Semaphore(50)

    async def go(domain: str) -> Plan | Outcome:
        async with few:
            return await plan(domain, PLAIN, lookup)

    found = await asyncio.gather(*(go(f"d{n}.test") for n in range(MUTANTS)))
    await lookup.close()
    await server.close()
    ended = {f"d{n}.test" for n, one in enumerate(found) if isinstance(one, Outcome) and one.fate is Fate.FAILED}
    assert ended <= possible, f"seed {seed}: {[str(found[int(d[1:-5])]) for d in ended - possible]}"
    planned = sum(isinstance(one, Plan) for one in found)
    assert 0 < planned < MUTANTS, "the garbage is all harmless, or all of it is noticed"
    assert len(server.queries) <= MUTANTS * 2 * (1 + 2 * 2 * (MAX_CNAMES + 1))
