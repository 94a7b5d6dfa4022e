"""The resolver against a real little DNS server: facts, doubts, aliases, transport, cache."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
import pytest_asyncio

from postroad.net.dns import DnsLookup, Nameserver, parse_nameserver, system_nameservers
from postroad.values.ports import LookupStatus, MxRecord
from tests.fakes.clock import FakeClock
from tests.fakes.dns import DnsServer, Fault

RECORDS = {
    "shop.test": {"MX": ["20 backup.shop.test.", "10 MX.Shop.test."], "TXT": ['"v=spf1 " "-all"', '"caf\\195\\169"']},
    "mx.shop.test": {"A": ["192.0.2.1", "192.0.2.2"], "AAAA": ["2001:db8::1"]},
    "null.test": {"MX": ["0 ."]},
    "bare.test": {"A": ["192.0.2.9"]},
    "below.inside.test": {"A": ["192.0.2.8"]},
    "alias.test": {"CNAME": ["mx.shop.test."]},
    "loop1.test": {"CNAME": ["loop2.test."]},
    "loop2.test": {"CNAME": ["loop1.test."]},
    "1.2.0.192.in-addr.arpa": {"PTR": ["mx.shop.test."]},
    "big.test": {"A": [f"198.51.{i // 256}.{i % 256}" for i in range(300)]},
    **{f"step{i}.test": {"CNAME": [f"step{i + 1}.test."]} for i in range(30)},
    "step30.test": {"A": ["192.0.2.30"]},
}


@pytest_asyncio.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with DnsServer(RECORDS, ttl=60) as running:
        yield running


@pytest_asyncio.fixture
async def lookup(server: DnsServer) -> AsyncIterator[DnsLookup]:
    resolver = DnsLookup([server.address], timeout_s=2.0)
    yield resolver
    await resolver.close()


async def test_mail_exchangers_come_in_order_and_in_lower_case(lookup: DnsLookup) -> None:
    answer = await lookup.mx("SHOP.test.")
    assert answer.status is LookupStatus.FOUND
    assert answer.mx == (MxRecord(10, "mx.shop.test"), MxRecord(20, "backup.shop.test"))


async def test_a_null_mx_is_one_record_with_a_dot(lookup: DnsLookup) -> None:
    assert (await lookup.mx("null.test")).mx == (MxRecord(0, "."),)


async def test_addresses_of_both_families_ipv6_first(lookup: DnsLookup) -> None:
    found = (await lookup.addresses("mx.shop.test")).records
    assert found[0] == "2001:db8::1"
    assert sorted(found[1:]) == ["192.0.2.1", "192.0.2.2"]
    assert (await lookup.addresses("bare.test")).records == ("192.0.2.9",)


async def test_the_parts_of_a_txt_record_are_joined_and_octets_kept(lookup: DnsLookup) -> None:
    assert set((await lookup.txt("shop.test")).records) == {"v=spf1 -all", "café"}


async def test_names_of_an_address(lookup: DnsLookup) -> None:
    assert (await lookup.ptr("192.0.2.1")).records == ("mx.shop.test",)
    assert (await lookup.ptr("not an address")).status is LookupStatus.NXDOMAIN


@pytest.mark.parametrize(
    "name, status",
    [
        ("missing.test", LookupStatus.NXDOMAIN),
        ("bare.test", LookupStatus.NODATA),
        ("inside.test", LookupStatus.NODATA),
        ("a..b", LookupStatus.NXDOMAIN),
        ("x" * 64 + ".test", LookupStatus.NXDOMAIN),
        ("bücher.test", LookupStatus.NXDOMAIN),
    ],
)
async def test_what_is_a_fact(lookup: DnsLookup, name: str, status: LookupStatus) -> None:
    assert (await lookup.mx(name)).status is status


@pytest.mark.parametrize(
    "fault, word",
    [
        (Fault.SERVFAIL, "SERVFAIL from 127.0.0.1"),
        (Fault.REFUSED, "REFUSED from 127.0.0.1"),
        (Fault.SILENT, "timeout"),
        (Fault.GARBAGE, "timeout"),
        (Fault.JUNK, "timeout"),
    ],
)
async def test_rows_d2_d7_what_is_only_a_doubt(server: DnsServer, fault: Fault, word: str) -> None:
    server.faults["shop.test"] = fault
    lookup = DnsLookup([server.address], timeout_s=0.1)
    answer = await lookup.mx("shop.test")
    assert answer.status is LookupStatus.FAILED
    assert word in answer.why
    assert not re.search(r"after \d+\.\d\d", answer.why), "people read it"


async def test_a_server_that_is_not_there_is_a_doubt() -> None:
    lookup = DnsLookup(["127.0.0.1:1"], timeout_s=0.05)
    assert (await lookup.mx("shop.test")).status is LookupStatus.FAILED


@pytest.mark.parametrize("fault", [Fault.BAD_ID, Fault.WRONG_QUESTION])
async def test_row_d7_forged_answers_are_ignored(server: DnsServer, lookup: DnsLookup, fault: Fault) -> None:
    server.faults["shop.test"] = fault
    assert len((await lookup.mx("shop.test")).mx) == 2


async def test_row_d7_a_truncated_answer_is_asked_for_again_by_tcp(server: DnsServer, lookup: DnsLookup) -> None:
    server.faults["shop.test"] = Fault.TRUNCATED
    assert len((await lookup.mx("shop.test")).mx) == 2
    assert len((await lookup.addresses("big.test")).records) == 300
    assert server.tcp_queries == 2


async def test_one_bad_family_hides_nothing_when_the_other_has_addresses(server: DnsServer, lookup: DnsLookup) -> None:
    server.faults["mx.shop.test/AAAA"] = Fault.SERVFAIL
    assert sorted((await lookup.addresses("mx.shop.test")).records) == ["192.0.2.1", "192.0.2.2"]


async def test_one_bad_family_is_a_doubt_when_the_other_has_none(server: DnsServer, lookup: DnsLookup) -> None:
    server.faults["shop.test/A"] = Fault.SERVFAIL
    assert (await lookup.addresses("shop.test")).status is LookupStatus.FAILED


async def test_row_d5_aliases_are_followed_eight_times(lookup: DnsLookup) -> None:
    assert (await lookup.addresses("alias.test")).records[0] == "2001:db8::1"
    assert (await lookup.addresses("step22.test")).records == ("192.0.2.30",)
    for name in ("step21.test", "step0.test", "loop1.test"):
        assert (await lookup.addresses(name)).status is LookupStatus.FAILED


async def test_the_next_server_is_asked_when_one_fails(server: DnsServer) -> None:
    async with DnsServer({}, faults={"shop.test": Fault.SERVFAIL}) as broken:
        lookup = DnsLookup([broken.address, server.address], timeout_s=2.0)
        assert (await lookup.mx("shop.test")).status is LookupStatus.FOUND


async def test_equal_questions_share_one_query(server: DnsServer, lookup: DnsLookup) -> None:
    answers = await asyncio.gather(*(lookup.mx("shop.test") for _ in range(50)))
    assert len({id(answer) for answer in answers}) == 1
    assert server.queries == ["shop.test/MX"]


async def test_an_asker_that_gives_up_leaves_the_answer_to_the_others(server: DnsServer, lookup: DnsLookup) -> None:
    first = asyncio.ensure_future(lookup.mx("shop.test"))
    second = asyncio.ensure_future(lookup.mx("shop.test"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).status is LookupStatus.FOUND


async def test_answers_are_kept_as_long_as_they_say(server: DnsServer) -> None:
    clock = FakeClock()
    lookup = DnsLookup([server.address], timeout_s=2.0, clock=clock)
    for _ in range(2):
        await lookup.mx("shop.test")
        await lookup.mx("missing.test")
    assert len(server.queries) == 2
    clock.advance(59)
    await lookup.mx("shop.test")
    assert len(server.queries) == 2
    clock.advance(2)
    await lookup.mx("shop.test")
    await lookup.mx("missing.test")
    assert len(server.queries) == 4


async def test_ttls_are_held_between_seconds_and_a_day() -> None:
    clock = FakeClock()
    async with DnsServer(RECORDS, ttl=0) as hasty, DnsServer(RECORDS, ttl=10_000_000) as lasting:
        one = DnsLookup([hasty.address], clock=clock)
        other = DnsLookup([lasting.address], clock=clock)
        for lookup in (one, other):
            await lookup.mx("shop.test")
        clock.advance(4)
        await one.mx("shop.test")
        assert len(hasty.queries) == 1
        clock.advance(86_400)
        await other.mx("shop.test")
        assert len(lasting.queries) == 2


async def test_a_doubt_is_soon_asked_again(server: DnsServer) -> None:
    clock = FakeClock()
    lookup = DnsLookup([server.address], timeout_s=2.0, clock=clock)
    server.faults["shop.test"] = Fault.SERVFAIL
    assert (await lookup.mx("shop.test")).status is LookupStatus.FAILED
    del server.faults["shop.test"]
    clock.advance(3)
    assert (await lookup.mx("shop.test")).status is LookupStatus.FOUND


async def test_the_ad_bit_counts_only_where_it_is_trusted() -> None:
    async with DnsServer(RECORDS, authentic=True) as server:
        lookup = DnsLookup([server.address])
        assert not (await lookup.mx("shop.test")).authentic
        await lookup.close()


async def test_the_ad_bit_counts_only_from_this_machine() -> None:
    async with DnsServer(RECORDS, authentic=True) as server:
        lookup = DnsLookup([server.address], trust_ad=True)
        assert (await lookup.mx("shop.test")).authentic
        lookup._servers = [Nameserver("127.0.0.1", int(server.address.rpartition(":")[2]), trusted=False)]
        lookup.forget()
        assert not (await lookup.mx("shop.test")).authentic


@pytest.mark.parametrize(
    "text, expected",
    [
        ("192.0.2.53", Nameserver("192.0.2.53")),
        ("127.0.0.1:5353", Nameserver("127.0.0.1", 5353, True)),
        ("::1", Nameserver("::1", 53, True)),
        ("[2001:db8::53]:54", Nameserver("2001:db8::53", 54)),
        ("[2001:db8::53]", Nameserver("2001:db8::53")),
    ],
)
def test_nameservers_as_configured(text: str, expected: Nameserver) -> None:
    assert parse_nameserver(text) == expected


@pytest.mark.parametrize("text", ["", "dns.example", "192.0.2.53:0", "192.0.2.53:x", "192.0.2.53:65536", "[::1"])
def test_nameservers_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="nameserver"):
        parse_nameserver(text if text != "[::1" else "[::1]:")


def test_nameservers_of_the_system(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("# comment\nsearch x\nnameserver 192.0.2.1\nnameserver junk\nnameserver ::1\n")
    assert system_nameservers(conf) == [Nameserver("192.0.2.1"), Nameserver("::1", 53, True)]
    assert system_nameservers(tmp_path / "absent") == [Nameserver("127.0.0.1", 53, True)]


async def test_who_trusts_a_resolver_asks_no_other_one() -> None:
    """A second nameserver would answer what the validating one refused: a forged answer without an AD bit."""
    async with DnsServer(RECORDS, faults={"shop.test": Fault.SERVFAIL}) as server:
        lookup = DnsLookup([server.address, "192.0.2.53"], timeout_s=0.5, trust_ad=True)
        assert [server.host for server in lookup._servers] == ["127.0.0.1"]
        assert (await lookup.mx("shop.test")).status is LookupStatus.FAILED
        await lookup.close()
    with pytest.raises(ValueError, match="trust_ad needs a nameserver on this machine"):
        DnsLookup(["192.0.2.53"], trust_ad=True)


async def test_tlsa_records_come_as_octets_also_behind_an_alias() -> None:
    records = {
        "_25._tcp.mx.test": {"TLSA": ["3 1 1 " + "ab" * 32, "2 0 1 " + "cd" * 32]},
        "_25._tcp.alias.test": {"CNAME": ["_25._tcp.mx.test."]},
    }
    async with DnsServer(records, authentic=True) as server:
        lookup = DnsLookup([server.address], trust_ad=True)
        for name in ("_25._tcp.mx.test", "_25._tcp.alias.test"):
            answer = await lookup.tlsa(name)
            assert set(answer.tlsa) == {bytes([3, 1, 1]) + b"\xab" * 32, bytes([2, 0, 1]) + b"\xcd" * 32}
            assert answer.authentic
        assert (await lookup.tlsa("_25._tcp.other.test")).status is LookupStatus.NXDOMAIN
        await lookup.close()


@pytest.mark.parametrize("octets", [b"", b"\x03", b"\x03\x01\x01", b"\xff" * 7])
async def test_row_d9_tlsa_records_of_any_length_are_an_answer(octets: bytes) -> None:
    text = f"\\# {len(octets)} {octets.hex()}"
    async with DnsServer({"_25._tcp.mx.test": {"TLSA": [text]}}) as server:
        server._rrset = _opaque  # type: ignore[assignment]
        lookup = DnsLookup([server.address], timeout_s=1.0)
        assert (await lookup.tlsa("_25._tcp.mx.test")).tlsa == (octets,)
        await lookup.close()


def _opaque(name: dns.name.Name, rdtype: dns.rdatatype.RdataType, texts: list[str]) -> dns.rrset.RRset:
    """Records whose content is no record of their type."""
    found = dns.rrset.RRset(name, dns.rdataclass.IN, rdtype)
    for text in texts:
        octets = bytes.fromhex(text.split(" ", 2)[2])
        found.add(dns.rdata.GenericRdata(dns.rdataclass.IN, rdtype, octets), 60)
    return found


async def test_an_alias_is_told_with_what_it_leads_to() -> None:
    async with DnsServer(RECORDS) as server:
        lookup = DnsLookup([server.address])
        assert (await lookup.addresses("alias.test")).alias == "mx.shop.test"
        assert (await lookup.addresses("mx.shop.test")).alias == ""
        assert (await lookup.cname("alias.test")).records == ("mx.shop.test",)
        assert (await lookup.cname("mx.shop.test")).status is LookupStatus.NODATA
        await lookup.close()


@pytest.mark.parametrize("tcp", [False, True])
async def test_promise_p10_an_answer_of_millions_of_labels_is_let_go_by(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch, tcp: bool
) -> None:
    """Decoded, it would keep everything else in this process waiting for seconds."""
    real = server.answers

    def bomb(wire: bytes, *, tcp: bool) -> list[bytes]:
        query = dns.message.from_wire(wire)
        if by_tcp and not tcp:
            server.faults["shop.test"] = Fault.TRUNCATED
            return real(wire, tcp=tcp)
        query.use_edns(False)
        asked = query.to_wire()
        record = b"\xc0\x0c\0\x0f\0\1\0\0\0\x3c\0\4%b\xc0\x0c"
        head = asked[:2] + b"\x84\0\0\1" + (4000).to_bytes(2) + b"\0\0\0\0"
        return [head + asked[12:] + b"".join(record % number.to_bytes(2) for number in range(4000))]

    by_tcp = tcp
    monkeypatch.setattr(server, "answers", bomb)
    name = ".".join("a" * 100) if not tcp else "shop.test." + ".".join("a" * 100)
    server.faults[name] = Fault.TRUNCATED
    lookup = DnsLookup([server.address], timeout_s=0.4)
    began = time.process_time()
    assert (await lookup.mx(name)).status is LookupStatus.FAILED
    assert time.process_time() - began < 1.0
    await lookup.close()
