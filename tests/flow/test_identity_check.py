"""What a domain's servers say compared with what is wanted: yes, no, could not tell, and what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from postroad.flow.identity import Identity, policy_text, wanted
from postroad.flow.identity_check import FOUND_MAX, Finding, Truth, check
from postroad.net.https import Fetched, Unfetched
from postroad.trust.dkim.keys import ED25519, key_record, make_key, public_octets
from postroad.values.ports import Told, View
from tests.fakes.dns import Fault
from tests.fakes.zones import World, Zone
from tests.flow.test_identity import identity
from tests.flow.test_mta_sts import FakeHttps

YES, NO, UNCLEAR = Truth.YES, Truth.NO, Truth.COULD_NOT_TELL
HOST, SOURCE, REVERSE = "mail.example.com", "192.0.2.7", "7.2.0.192.in-addr.arpa"
RSA_NAME, ED25519_NAME = "pr202611r._domainkey.example.com", "pr202611e._domainkey.example.com"


def at_home(**changes: object) -> Identity:
    """One source address, so that a complete zone is small."""
    return identity(**({"sources": (SOURCE,)} | changes))


def zone_of(made: Identity) -> dict[tuple[str, str], list[str]]:
    """A zone that says all that is wanted, as `Authority` tells it."""
    zone: dict[tuple[str, str], list[str]] = {}
    for record in wanted(made):
        if record.value:
            zone.setdefault((record.name, record.kind), []).append(record.value)
    return zone


def text(*lines: str) -> Fetched:
    return Fetched(200, "text/plain", "".join(f"{line}\r\n" for line in lines).encode())


class Says:
    """An authority over a dict. A list is what all servers say, a `Told` is taken as it is."""

    def __init__(self, zone: dict[tuple[str, str], list[str]], **_: object) -> None:
        self.zone: dict[tuple[str, str], list[str] | Told] = dict(zone)
        self.asked: list[tuple[str, str]] = []

    async def ask(self, name: str, kind: str) -> Told:
        self.asked.append((name, kind))
        alias = self.zone.get((name, "CNAME"))
        if isinstance(alias, list) and alias:
            told = await self.ask(alias[0], kind)
            return Told(
                tuple(View(view.servers, view.records, view.exists, alias[0]) for view in told.views), told.silent
            )
        found = self.zone.get((name, kind), [])
        return found if isinstance(found, Told) else Told((View(("ns1", "ns2"), tuple(found)),))


async def findings(says: Says, made: Identity | None = None) -> dict[str, Finding]:
    """By name of the record; the worst where several have one name."""
    found: dict[str, Finding] = {}
    for finding in await check(made or at_home(), says):
        key = (
            finding.wanted.record if finding.wanted.record not in ("dkim", "srv", "autoconfig") else finding.wanted.name
        )
        found[key] = finding
    return found


async def test_a_complete_zone_is_all_yes() -> None:
    says = Says(zone_of(at_home()))
    found = await check(at_home(), says)
    assert {finding.truth for finding in found} == {YES}
    assert len(found) == len(wanted(at_home()))
    assert (
        len(says.asked)
        == len(set(says.asked)) + says.asked.count((HOST, "A")) - 1 + says.asked.count((HOST, "AAAA")) - 1
    )


async def test_an_empty_zone_is_all_no() -> None:
    found = await check(at_home(), Says({}))
    assert {finding.truth for finding in found} == {NO}
    assert all(finding.advice for finding in found)


async def test_silence_is_never_a_no() -> None:
    class Nobody:
        async def ask(self, name: str, kind: str) -> Told:
            return Told(why="timeout after 5 s from 192.0.2.53")

    for made in (at_home(), at_home(sources=())):
        found = await check(made, Nobody())
        assert {finding.truth for finding in found} == {UNCLEAR}
        assert all(finding.advice for finding in found)


@pytest.mark.parametrize(
    "record, place, records, truth, advice",
    [
        ("mx", ("example.com", "MX"), ["10 MAIL.example.com".lower(), "20 backup.test"], YES, ""),
        ("mx", ("example.com", "MX"), ["10 backup.test"], NO, "other hosts"),
        ("mx", ("example.com", "MX"), ["0 ."], NO, "RFC 7505"),
        ("address", (HOST, "A"), ["192.0.2.9"], NO, "192.0.2.7"),
        ("address", (HOST, "A"), ["192.0.2.9", SOURCE], YES, ""),
        ("dmarc", ("_dmarc.example.com", "TXT"), ["v=DMARC1; p=reject"], YES, ""),
        ("dmarc", ("_dmarc.example.com", "TXT"), ["v=DMARC1;p=none"], YES, "p=quarantine"),
        ("dmarc", ("_dmarc.example.com", "TXT"), ["v=dmarc1; p=reject"], NO, "exactly so"),
        ("dmarc", ("_dmarc.example.com", "TXT"), ["V=DMARC1; p=reject"], NO, "exactly so"),
        ("dmarc", ("_dmarc.example.com", "TXT"), ["v=DMARC1; p=reject", "v=DMARC1; p=none"], NO, "Only one"),
        ("dmarc", ("_dmarc.example.com", "TXT"), ["v=DMARC1; p=maybe"], NO, "p= must be"),
        ("dmarc", ("_dmarc.example.com", "TXT"), ["v=DMARC1; rua=mailto:x@y"], NO, "no p="),
        ("dmarc", ("_dmarc.example.com", "TXT"), ["verification=1"], NO, "Add"),
        ("mta-sts", ("_mta-sts.example.com", "TXT"), ["v=STSv1; id=20261127T060000;"], YES, ""),
        ("mta-sts", ("_mta-sts.example.com", "TXT"), ["v=STSv1; id=a-b"], NO, "letters and digits"),
        ("mta-sts", ("_mta-sts.example.com", "TXT"), ["v=STSv1"], NO, "no id="),
        ("tls-rpt", ("_smtp._tls.example.com", "TXT"), ["v=TLSRPTv1;rua=mailto:x@y.test"], YES, ""),
        ("tls-rpt", ("_smtp._tls.example.com", "TXT"), ["v=TLSRPTv1;"], NO, "no rua="),
        ("policy-host", ("mta-sts.example.com", "CNAME"), ["cdn.test"], NO, "mta-sts.example.com CNAME"),
        ("_imaps._tcp.example.com", ("_imaps._tcp.example.com", "SRV"), ["5 5 993 mail.example.com"], YES, ""),
        ("_imaps._tcp.example.com", ("_imaps._tcp.example.com", "SRV"), ["0 1 143 mail.example.com"], NO, "elsewhere"),
        ("ptr", (REVERSE, "PTR"), ["host7.provider.test"], NO, "does not lead back"),
        ("ptr", (REVERSE, "PTR"), ["host7.provider.test", HOST], YES, ""),
        ("ptr", (REVERSE, "PTR"), [], NO, "name it mail.example.com"),
    ],
)
async def test_one_record(record: str, place: tuple[str, str], records: list[str], truth: Truth, advice: str) -> None:
    says = Says(zone_of(at_home()) | {place: records})
    found = (await findings(says))[record]
    assert (found.truth, advice in found.advice) == (truth, True), found


async def test_an_own_web_server_for_policies_is_fine() -> None:
    says = Says(
        zone_of(at_home()) | {("mta-sts.example.com", "CNAME"): [], ("mta-sts.example.com", "A"): ["192.0.2.80"]}
    )
    assert (await findings(says))["policy-host"].truth is YES


async def test_a_name_that_leads_back_is_enough() -> None:
    zone = zone_of(at_home()) | {(REVERSE, "PTR"): ["host7.provider.test"], ("host7.provider.test", "A"): [SOURCE]}
    found = (await findings(Says(zone)))["ptr"]
    assert found.truth is YES
    assert HOST in found.advice


async def test_a_name_that_nobody_can_look_up_is_unclear() -> None:
    says = Says(zone_of(at_home()) | {(REVERSE, "PTR"): ["host7.provider.test"]})
    says.zone["host7.provider.test", "A"] = Told(why="timeout")
    assert (await findings(says))["ptr"].truth is UNCLEAR


async def test_a_private_source_cannot_be_judged() -> None:
    says = Says(zone_of(at_home()))
    found = await findings(says, at_home(sources=("10.0.0.7",)))
    assert (found["ptr"].truth, found["spf"].truth) == (UNCLEAR, YES)
    assert "public address" in found["ptr"].advice


async def test_sources_nobody_configured_are_those_of_the_host() -> None:
    says = Says(zone_of(at_home()))
    found = await findings(says, at_home(sources=()))
    assert (found["ptr"].truth, found["ptr"].wanted.name) == (YES, REVERSE)
    assert found["spf"].truth is YES
    del says.zone[HOST, "A"]
    assert (await findings(says, at_home(sources=())))["ptr"].truth is UNCLEAR


# -- DKIM --------------------------------------------------------------------------------------------------------------

OTHER_KEY = key_record(ED25519, public_octets(ED25519, make_key(ED25519)))


@pytest.mark.parametrize(
    "records, truth, advice",
    [
        ([OTHER_KEY], NO, "another key"),
        (["v=DKIM1; k=ed25519; p="], NO, "revoked"),
        (["v=DKIM1; k=ed25519; p=???"], NO, "base64"),
        (["v=dkim1; k=ed25519; p=AAAA"], NO, "v=DKIM1"),
        (["v=DKIM1; k=ed25519; p=", OTHER_KEY], NO, "Only one"),
        ([], NO, "Add"),
    ],
)
async def test_a_key_is_compared_by_its_octets(records: list[str], truth: Truth, advice: str) -> None:
    found = await findings(Says(zone_of(at_home()) | {(ED25519_NAME, "TXT"): records}))
    assert (found[ED25519_NAME].truth, advice in found[ED25519_NAME].advice) == (truth, True)
    assert found[RSA_NAME].truth is YES


async def test_the_spelling_of_a_key_does_not_matter() -> None:
    zone = zone_of(at_home())
    [text] = zone[RSA_NAME, "TXT"]
    public = text.partition("p=")[2]
    zone[RSA_NAME, "TXT"] = [f"k=rsa; n=note; h=sha256; p={public[:40]} {public[40:]};"]
    assert (await findings(Says(zone)))[RSA_NAME].truth is YES


async def test_a_key_behind_an_alias() -> None:
    zone = zone_of(at_home())
    text = zone.pop((RSA_NAME, "TXT"))
    zone |= {(RSA_NAME, "CNAME"): ["key.provider.test"], ("key.provider.test", "TXT"): text}
    assert (await findings(Says(zone)))[RSA_NAME].truth is YES


# -- SPF ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "records, truth, advice",
    [
        (["v=spf1 mx -all"], YES, ""),
        (["v=spf1 a:mail.example.com -all"], YES, ""),
        (["v=spf1 ip4:192.0.2.0/24 ~all"], YES, ""),
        (["v=spf1 +ip4:192.0.2.7 ?all"], YES, ""),
        (["V=SPF1 MX -ALL"], YES, ""),
        (["v=spf1 ip6:2001:db8::/32 mx -all", "google-site-verification=x"], YES, ""),
        (["v=spf1 -all"], NO, "ip4:192.0.2.7"),
        (["v=spf1"], NO, "ip4:192.0.2.7"),
        (["v=spf1 ip4:203.0.113.0/24 -all"], NO, "ip4:192.0.2.7"),
        (["v=spf1 -ip4:192.0.2.7 mx -all"], NO, "ip4:192.0.2.7"),
        (["v=spf1 a -all"], NO, "ip4:192.0.2.7"),
        (["v=spf1 include:_spf.provider.test -all"], YES, "not followed"),
        (["v=spf1 mx/24 -all"], YES, "not followed"),
        (["v=spf1 ip4:192.0.2.0/99 -all"], YES, "not followed"),
        (["v=spf1 exists:%{i}.x.test -all"], YES, "not followed"),
        (["v=spf1 redirect=_spf.x.test"], YES, "not followed"),
        (["v=spf1 mx include:x.test -all"], YES, ""),
        (["v=spf1 mx -all", "v=spf1 -all"], NO, "Only one record"),
        (["v=spf10 mx -all"], NO, "Add"),
        (["spf2.0/pra mx"], NO, "Add"),
        ([], NO, "Add"),
    ],
)
async def test_spf_is_judged_by_what_it_allows(records: list[str], truth: Truth, advice: str) -> None:
    found = (await findings(Says(zone_of(at_home()) | {("example.com", "TXT"): records})))["spf"]
    assert (found.truth, advice in found.advice) == (truth, True), found
    assert "google" not in found.found


async def test_every_source_must_be_allowed() -> None:
    zone = zone_of(identity()) | {("example.com", "TXT"): ["v=spf1 ip4:192.0.2.7 -all"]}
    found = (await findings(Says(zone), identity()))["spf"]
    assert found.truth is NO
    assert "ip6:2001:db8::7" in found.advice
    assert "ip4" not in found.advice


# -- servers that differ or fail ---------------------------------------------------------------------------------------


async def test_one_server_of_yesterday_is_a_no_that_says_so() -> None:
    says = Says(zone_of(at_home()))
    fresh = View(("ns1.example.net",), ("10 mail.example.com",))
    says.zone["example.com", "MX"] = Told((fresh, View(("ns2.example.net",), ("10 old.test",))))
    found = (await findings(says))["mx"]
    assert found.truth is NO
    assert found.found == "ns1.example.net: 10 mail.example.com; ns2.example.net: 10 old.test"
    assert found.advice.startswith("The servers of the zone differ")


async def test_one_silent_server_is_mentioned() -> None:
    says = Says(zone_of(at_home()))
    says.zone["example.com", "MX"] = Told((View(("ns1",), ("10 mail.example.com",)),), ("ns2: timeout",))
    found = (await findings(says))["mx"]
    assert found.truth is YES
    assert "ns2: timeout" in found.advice


@pytest.mark.parametrize("text", ["\x1b[2J\x07", "\r\nX", "\u202e", "\udcff", "x" * 5000])
async def test_words_of_others_are_harmless(text: str) -> None:
    found = (await findings(Says(zone_of(at_home()) | {("_dmarc.example.com", "TXT"): [text]})))["dmarc"]
    assert found.found.isprintable()
    assert len(found.found) <= FOUND_MAX + 3


# -- over real packets -------------------------------------------------------------------------------------------------


def packets_of(made: Identity) -> Zone:
    zone: Zone = {}
    for record in wanted(made):
        value = record.value
        if record.kind == "TXT":
            value = " ".join(f'"{value[at : at + 200]}"' for at in range(0, len(value), 200))
        elif record.kind not in ("A", "AAAA"):
            value += "."
        zone.setdefault(record.name, {}).setdefault(record.kind, []).append(value)
    return zone


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World(packets_of(at_home())) as made:
        yield made


@pytest.mark.parametrize(
    "answer, truth, words",
    [
        (text("version: STSv1", "mode: enforce", f"mx: {HOST}", "max_age: 604800"), YES, ""),
        (text("version: STSv1", "mode: enforce", "mx: *.example.com", "max_age: 604800"), YES, ""),
        (text("version: STSv1", "mode: testing", f"mx: {HOST}", "max_age: 604800"), YES, "mode: enforce, and a new id"),
        (text("version: STSv1", "mode: none", "max_age: 604800"), NO, "protects nothing"),
        (
            text("version: STSv1", "mode: enforce", "mx: old.example.com", "max_age: 604800"),
            NO,
            f"add the line mx: {HOST}",
        ),
        (text("hello"), NO, "hand out the policy at https://mta-sts.example.com/.well-known/mta-sts.txt"),
        (Fetched(404, "text/plain", b""), NO, "hand out the policy"),
        (Fetched(301, "text/html", b""), NO, "hand out the policy"),
        (Fetched(200, "text/html", b"version: STSv1"), NO, "hand out the policy"),
        (Unfetched("its certificate does not hold", "sts-webpki-invalid"), NO, "hand out the policy"),
        (Unfetched("the host did not answer in time"), UNCLEAR, "hand out the policy"),
    ],
)
async def test_the_policy_that_the_web_server_hands_out(answer: Fetched | Unfetched, truth: Truth, words: str) -> None:
    [*_, found] = await check(at_home(), Says(zone_of(at_home())), FakeHttps(answer))
    assert (found.wanted.kind, found.truth) == ("HTTPS", truth)
    assert words in found.advice
    assert bool(found.advice) is bool(words)


async def test_what_is_handed_out_is_what_domain_dns_prints() -> None:
    answer = Fetched(200, "text/plain", policy_text(at_home()).encode())
    [*_, found] = await check(at_home(), Says(zone_of(at_home())), FakeHttps(answer))
    assert found.truth is YES


async def test_real_packets_say_yes(world: World) -> None:
    found = await check(at_home(), world.authority())
    assert [finding for finding in found if finding.truth is not YES] == []


async def test_real_packets_say_no_and_nothing(world: World) -> None:
    world.servers[0].records.pop("_dmarc.example.com")
    for server in world.servers:
        server.faults[RSA_NAME] = Fault.SERVFAIL
        server.faults["_smtp._tls.example.com"] = Fault.LAME
    found = {finding.wanted.name: finding.truth for finding in await check(at_home(), world.authority())}
    assert (found["_dmarc.example.com"], found[RSA_NAME], found["_smtp._tls.example.com"]) == (NO, UNCLEAR, UNCLEAR)
    assert found["example.com"] is YES
