"""What must hold of TLS at a host: DANE, MTA-STS, configuration and the sender's wish, each as a table."""

from __future__ import annotations

import itertools

import pytest

from postroad.flow.mta_sts import NOTHING, Found
from postroad.flow.route import Plan
from postroad.flow.tls_policy import (
    OPPORTUNISTIC,
    UNIX_SOCKET,
    UNPROTECTED,
    Level,
    Noted,
    TlsPolicies,
    describe,
    explain,
    policies_key,
    read_configured,
)
from postroad.store.records import TLS_OPTIONAL, TLS_REQUIRED
from postroad.trust.mta_sts import Policy
from postroad.trust.tlsrpt import Published
from postroad.values.outcome import Fate
from postroad.values.ports import Answer, LookupStatus, MxRecord, Target
from tests.fakes.lookup import FAILED, NODATA, FakeLookup

EE = bytes([3, 1, 1]) + bytes(32)
TA = bytes([2, 0, 1]) + bytes(32)
UNUSABLE = bytes([0, 0, 1]) + bytes(32)
AT = "_25._tcp.mx.host.test"

ENFORCE = Policy("enforce", 86_400, ("mx.host.test", "*.b.test"), "version: STSv1\nmode: enforce\n")
TESTING = Policy("testing", 86_400, ("mx.host.test",), "version: STSv1\nmode: testing\n")
OFF = Policy("none", 86_400, (), "version: STSv1\nmode: none\n")


class FakeSts:
    """MTA-STS policies from a dict."""

    def __init__(self, found: dict[str, Found]) -> None:
        self.found = found
        self.asked: list[str] = []

    async def of(self, domain: str) -> Found:
        self.asked.append(domain)
        return self.found.get(domain, NOTHING)


def world(
    tlsa: dict[str, list[bytes] | Answer] | None = None,
    *,
    secure: tuple[str, ...] = ("a.test", "host.test"),
    sts: Policy | None = None,
    configured: dict[str, str] | None = None,
    **more: object,
) -> TlsPolicies:
    """a.test has its mail at mx.host.test."""
    dns = FakeLookup(
        {"a.test": [(10, "mx.host.test")]},
        {"mx.host.test": ["192.0.2.1"]},
        tlsa=tlsa or {},
        secure=secure,
        **more,  # type: ignore[arg-type]
    )
    found = {"a.test": Found(sts)} if sts is not None else {}
    return TlsPolicies(dns, dane=True, sts=FakeSts(found), configured=read_configured(configured or {}))


# -- DANE --------------------------------------------------------------------------------------------------------------


async def test_promise_p23_records_that_are_securely_found_must_fit() -> None:
    policy = await world({AT: [EE, UNUSABLE]}).for_host("a.test", "mx.host.test")
    assert (policy.level, policy.why, policy.names) == (Level.DANE, "DANE", ("mx.host.test",))
    assert [record.usage for record in policy.tlsa] == [3]
    assert policy.must
    assert describe(policy) == "dane (DANE), 1 TLSA record"


async def test_promise_p23_below_an_authority_the_next_hop_domain_is_a_name_too() -> None:
    policy = await world({AT: [TA]}).for_host("a.test", "mx.host.test")
    assert policy.names == ("mx.host.test", "a.test")


@pytest.mark.parametrize("secure", [(), ("a.test",), ("host.test",)])
async def test_promise_p23_insecure_names_have_no_dane(secure: tuple[str, ...]) -> None:
    """RFC 7672 section 2.2.1: neither with an insecure MX answer nor with insecure addresses."""
    assert await world({AT: [EE]}, secure=secure).for_host("a.test", "mx.host.test") == OPPORTUNISTIC


async def test_promise_p23_without_a_trusted_resolver_there_is_no_dane() -> None:
    policies = world({AT: [EE]})
    policies._dane = False
    assert await policies.for_host("a.test", "mx.host.test") == OPPORTUNISTIC


async def test_promise_p23_records_themselves_insecure_are_none() -> None:
    answer = Answer(LookupStatus.FOUND, tlsa=(EE,), authentic=False)
    assert await world({AT: answer}).for_host("a.test", "mx.host.test") == OPPORTUNISTIC


async def test_promise_p23_securely_absent_records_are_none() -> None:
    assert await world().for_host("a.test", "mx.host.test") == OPPORTUNISTIC


async def test_the_name_that_an_alias_of_the_next_hop_leads_to_is_a_name_too() -> None:
    """RFC 7672 section 3.2.2: "The CNAME-expanded original next-hop domain MUST be included as a third reference
    identifier"."""
    policies = world({AT: [TA]})
    answer = Answer(LookupStatus.FOUND, mx=(MxRecord(10, "mx.host.test"),), authentic=True, alias="end.host.test")
    policies._lookup.mx_records["a.test"] = answer  # type: ignore[attr-defined]
    assert (await policies.for_host("a.test", "mx.host.test")).names == ("mx.host.test", "a.test", "end.host.test")


async def test_a_failed_look_up_of_mx_records_never_means_that_they_are_not_signed() -> None:
    """RFC 7672 section 2.1.2: a "bogus" answer during MX resolution delays mail; it must not let DANE go."""
    policies = world({AT: [EE]})
    policies._lookup.mx_records["a.test"] = FAILED  # type: ignore[attr-defined]
    policy = await policies.for_host("a.test", "mx.host.test")
    assert policy.hindrance is not None
    assert policy.hindrance.fate is Fate.DEFERRED
    assert "MX" in policy.hindrance.cause
    policies._dane = False
    assert await policies.for_host("a.test", "mx.host.test") == OPPORTUNISTIC


async def test_row_d8_a_failed_look_up_of_records_defers_and_never_means_none() -> None:
    """Class E16 and P23: bogus DNSSEC is SERVFAIL from a validating resolver."""
    policy = await world({AT: FAILED}, sts=ENFORCE).for_host("a.test", "mx.host.test")
    assert policy.must
    assert policy.hindrance is not None
    assert policy.hindrance.fate is Fate.DEFERRED
    assert policy.hindrance.status == "4.7.5"
    assert policy.hindrance.cause == (
        "the TLSA records of _25._tcp.mx.host.test could not be looked up: SERVFAIL from 127.0.0.1"
    )
    assert policy.fault == "dnssec-invalid"


async def test_row_d8_addresses_that_cannot_be_looked_up_defer() -> None:
    policies = world({AT: [EE]})
    policies._lookup.address_records["mx.host.test"] = FAILED  # type: ignore[attr-defined]
    policy = await policies.for_host("a.test", "mx.host.test")
    assert policy.hindrance is not None
    assert policy.hindrance.fate is Fate.DEFERRED


@pytest.mark.parametrize("junk", [[b""], [b"\x03\x01\x01"], [UNUSABLE], [UNUSABLE, b"", bytes([9, 9, 9]) + b"x"]])
async def test_row_d9_unusable_records_mean_tls_with_whoever_answers(junk: list[bytes]) -> None:
    policy = await world({AT: junk}).for_host("a.test", "mx.host.test")
    assert (policy.level, policy.why) == (Level.ENCRYPT, "DANE, no usable TLSA record")
    assert policy.hindrance is None


async def test_promise_p23_another_port_has_records_of_its_own() -> None:
    policies = world({"_2525._tcp.mx.host.test": [EE]})
    assert (await policies.for_host("a.test", "mx.host.test", port=2525)).level is Level.DANE
    assert (await policies.for_host("a.test", "mx.host.test")).level is Level.MAY


async def test_promise_p23_a_domain_without_mx_is_its_own_host() -> None:
    """RFC 7672 section 2.2.2: the signed proof that there is no MX record leads to the domain itself."""
    dns = FakeLookup({}, {"bare.test": ["192.0.2.1"]}, tlsa={"_25._tcp.bare.test": [EE]})
    dns.mx_records["bare.test"] = Answer(LookupStatus.NODATA, authentic=True)
    dns.secure = {"bare.test"}
    assert (await TlsPolicies(dns, dane=True).for_host("bare.test", "bare.test")).level is Level.DANE
    dns.mx_records["bare.test"] = NODATA
    assert (await TlsPolicies(dns, dane=True).for_host("bare.test", "bare.test")).level is Level.MAY


ALIAS = {"mx.host.test": "real.host.test"}
FAR = {"mx.host.test": "real.elsewhere.test"}


@pytest.mark.parametrize(
    "aliases, tlsa, names",
    [
        # RFC 7672 section 2.2.3: what a signed alias leads to comes first, then the name itself.
        (ALIAS, {"_25._tcp.real.host.test": [EE]}, ("real.host.test", "mx.host.test")),
        (ALIAS, {AT: [EE]}, ("mx.host.test",)),
        (ALIAS, {"_25._tcp.real.host.test": [EE], AT: [TA]}, ("real.host.test", "mx.host.test")),
        # The alias is signed and what it leads to is not: only the name itself counts.
        (FAR, {AT: [EE]}, ("mx.host.test",)),
        (FAR, {"_25._tcp.real.elsewhere.test": [EE]}, None),
    ],
)
async def test_promise_p23_aliases_of_hosts(
    aliases: dict[str, str], tlsa: dict[str, list[bytes] | Answer], names: tuple[str, ...] | None
) -> None:
    policies = world(tlsa, aliases=aliases)
    policies._lookup.address_records = {  # type: ignore[attr-defined]
        "real.host.test": ["192.0.2.1"], "real.elsewhere.test": ["192.0.2.1"],
    }  # fmt: skip
    policy = await policies.for_host("a.test", "mx.host.test")
    assert policy == OPPORTUNISTIC if names is None else policy.names == names


async def test_promise_p23_an_unsigned_alias_counts_for_nothing() -> None:
    policies = world({AT: [EE]}, aliases=FAR, secure=("a.test",))
    policies._lookup.address_records = {"real.elsewhere.test": ["192.0.2.1"]}  # type: ignore[attr-defined]
    assert await policies.for_host("a.test", "mx.host.test") == OPPORTUNISTIC


async def test_a_configured_host_is_as_sure_as_a_signed_one() -> None:
    policies = world({"_587._tcp.mx.host.test": [TA]}, secure=("host.test",))
    policy = await policies.for_host("a.test", "mx.host.test", port=587, fixed=True)
    assert (policy.level, policy.names) == (Level.DANE, ("mx.host.test",))
    assert await policies.for_host("a.test", "localhost", fixed=True) == OPPORTUNISTIC
    assert await policies.for_host("a.test", "192.0.2.7", fixed=True) == OPPORTUNISTIC


# -- MTA-STS -----------------------------------------------------------------------------------------------------------


async def test_case_enforce_matched_host_must_prove_its_name() -> None:
    policy = await world(sts=ENFORCE, secure=()).for_host("a.test", "mx.host.test")
    assert (policy.level, policy.why, policy.names) == (Level.VERIFY, "MTA-STS", ("mx.host.test",))
    assert policy.hindrance is None


async def test_case_enforce_unmatched_host_gets_nothing() -> None:
    policy = await world(sts=ENFORCE, secure=()).for_host("a.test", "mx.evil.test")
    assert policy.hindrance is not None
    assert policy.hindrance.fate is Fate.DEFERRED
    assert policy.hindrance.status == "4.7.5"
    assert "mx.evil.test is none of the hosts that the MTA-STS policy of a.test names" in policy.hindrance.cause


@pytest.mark.parametrize("sts", [TESTING, OFF])
async def test_case_testing_and_none_hinder_nothing(sts: Policy) -> None:
    policies = world(sts=sts, secure=())
    assert await policies.for_host("a.test", "mx.host.test") == OPPORTUNISTIC
    assert await policies.for_host("a.test", "mx.evil.test") == OPPORTUNISTIC


async def test_case_dane_comes_before_mta_sts() -> None:
    """RFC 8461 section 2: it "MUST NOT" override a failing DANE validation, and a host outside the policy is no
    hindrance where DANE holds."""
    policy = await world({AT: [EE]}, sts=ENFORCE).for_host("a.test", "mx.host.test")
    assert policy.level is Level.DANE
    outside = Policy("enforce", 86_400, ("other.test",), "")
    assert (await world({AT: [EE]}, sts=outside).for_host("a.test", "mx.host.test")).level is Level.DANE


async def test_promise_p23_unusable_records_do_not_weaken_mta_sts() -> None:
    policy = await world({AT: [UNUSABLE]}, sts=ENFORCE).for_host("a.test", "mx.host.test")
    assert (policy.level, policy.why) == (Level.VERIFY, "MTA-STS")


async def test_a_configured_way_knows_no_mta_sts() -> None:
    policies = world(sts=ENFORCE, secure=())
    assert await policies.for_host("a.test", "smarthost.test", fixed=True) == OPPORTUNISTIC


async def test_the_policy_of_a_smart_host_is_that_of_its_own_name() -> None:
    """RFC 8461 section 3.4: "compliant senders MUST treat the smart host domain as the Policy Domain"."""
    policies = world(sts=ENFORCE, secure=())
    policies._sts = FakeSts({"smarthost.test": Found(Policy("enforce", 1, ("smarthost.test",), "its own"))})
    policy = await policies.for_host("a.test", "smarthost.test", port=587, fixed=True)
    assert (policy.level, policy.why, policy.names) == (Level.VERIFY, "MTA-STS", ("smarthost.test",))
    policies._sts = FakeSts({"smarthost.test": Found(Policy("enforce", 1, ("other.test",), "its own"))})
    policy = await policies.for_host("a.test", "smarthost.test", fixed=True)
    assert policy.hindrance is not None
    assert "the MTA-STS policy of smarthost.test" in policy.hindrance.cause
    for host in ("[192.0.2.1]", "192.0.2.1", "localhost"):
        assert (await policies.for_host("a.test", host, fixed=True)).hindrance is None
    assert policies._sts.asked == ["smarthost.test"]


@pytest.mark.parametrize("word, kind", [("verify", "sts"), ("may", "no-policy-found")])
async def test_a_session_with_a_smart_host_counts_under_its_own_policy(word: str, kind: str) -> None:
    policies = world(sts=ENFORCE, configured={"a.test": word})
    policies._sts = FakeSts({"smarthost.test": Found(Policy("enforce", 1, ("smarthost.test",), "its own"))})
    places = (Target("smarthost.test", (), 587), Target("/run/lmtp", (), 0))
    await policies.for_plan("a.test", Plan("smarthost.test", (places,), fixed=True))
    domain, noted = policies.noted("a.test").counted_as("a.test", "smarthost.test")
    assert (domain, noted.published("smarthost.test").kind) == ("smarthost.test", kind)
    assert set(policies._sts.asked) <= {"smarthost.test"}


# -- configuration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word, published, level",
    [
        ("none", {}, Level.NONE),
        ("none", {AT: [EE]}, Level.NONE),
        ("may", {AT: [EE]}, Level.MAY),
        ("may", {AT: FAILED}, Level.MAY),
        ("encrypt", {}, Level.ENCRYPT),
        ("encrypt", {AT: [EE]}, Level.DANE),
        ("verify", {}, Level.VERIFY),
        ("verify", {AT: [UNUSABLE]}, Level.VERIFY),
        ("verify", {AT: [EE]}, Level.DANE),
    ],
)
async def test_the_administrators_word(word: str, published: dict[str, list[bytes] | Answer], level: Level) -> None:
    policy = await world(published, configured={"a.test": word}).for_host("a.test", "mx.host.test")
    assert policy.level is level
    assert policy.hindrance is None


async def test_a_nearer_name_wins() -> None:
    policies = world(configured={".test": "encrypt", "a.test": "verify"}, secure=())
    assert (await policies.for_host("a.test", "mx.host.test")).level is Level.VERIFY
    assert (await policies.for_host("b.test", "mx.host.test")).level is Level.ENCRYPT
    assert (await policies.for_host("b.other", "mx.host.test")).level is Level.MAY
    with pytest.raises(ValueError, match='"maybe" is none of none, may, encrypt, verify'):
        read_configured({"a.test": "maybe"})


async def test_relay_tls_off_means_off() -> None:
    policies = TlsPolicies(FakeLookup(), enabled=False)
    assert await policies.for_host("a.test", "mx.host.test") == UNPROTECTED


# -- the sender's wish -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", [{AT: [EE]}, {AT: FAILED}, {}])
@pytest.mark.parametrize("sts", [ENFORCE, None])
async def test_case_tls_required_no_sets_published_policies_aside(
    published: dict[str, list[bytes] | Answer], sts: Policy | None
) -> None:
    policies = world(published, sts=sts)
    for host in ("mx.host.test", "mx.evil.test"):
        policy = await policies.for_host("a.test", host, wish=TLS_OPTIONAL)
        assert (policy.level, policy.why, policy.hindrance) == (Level.MAY, "TLS-Required: No", None)
    assert policies._sts.asked == []  # type: ignore[union-attr]


async def test_tls_required_no_does_not_overrule_the_administrator() -> None:
    policies = world(configured={"a.test": "verify"})
    assert (await policies.for_host("a.test", "mx.host.test", wish=TLS_OPTIONAL)).level is Level.VERIFY


@pytest.mark.parametrize(
    "published, sts, secure, level",
    [
        ({AT: [EE]}, None, ("a.test", "host.test"), Level.DANE),
        ({}, None, ("a.test",), Level.VERIFY),
        ({AT: [UNUSABLE]}, None, ("a.test", "host.test"), Level.VERIFY),
        ({}, ENFORCE, (), Level.VERIFY),
        ({}, TESTING, (), Level.VERIFY),
    ],
)
async def test_requiretls_wants_sure_hosts_that_prove_their_names(
    published: dict[str, list[bytes] | Answer], sts: Policy | None, secure: tuple[str, ...], level: Level
) -> None:
    """RFC 8689 section 4.2.1."""
    policy = await world(published, sts=sts, secure=secure).for_host("a.test", "mx.host.test", wish=TLS_REQUIRED)
    assert policy.level is level
    assert policy.requiretls
    assert policy.hindrance is None
    assert "REQUIRETLS" in describe(policy)


@pytest.mark.parametrize("sts", [None, OFF])
async def test_requiretls_fails_where_nothing_confirms_the_host(sts: Policy | None) -> None:
    policy = await world(sts=sts, secure=()).for_host("a.test", "mx.host.test", wish=TLS_REQUIRED)
    assert policy.hindrance is not None
    assert (policy.hindrance.fate, policy.hindrance.status) == (Fate.FAILED, "5.7.30")


@pytest.mark.parametrize("word", ["encrypt", "verify"])
async def test_requiretls_wants_the_host_confirmed_whatever_the_administrator_asks(word: str) -> None:
    """RFC 8689 section 4.2.1: without a signed MX answer "the client MUST also validate the SMTP server name using
    MTA-STS": a certificate proves a name, and not that mail for the domain belongs there."""
    policies = world(secure=(), configured={"a.test": word})
    policy = await policies.for_host("a.test", "mx.host.test", wish=TLS_REQUIRED)
    assert policy.hindrance is not None
    assert (policy.hindrance.fate, policy.hindrance.status) == (Fate.FAILED, "5.7.30")
    assert (await policies.for_host("a.test", "mx.host.test")).hindrance is None


async def test_requiretls_waits_while_nobody_can_say_whether_the_host_is_confirmed() -> None:
    """A doubt is no answer: neither a failed look-up of MX or of the MTA-STS record, nor a policy not fetched."""
    policies = world(secure=())
    policies._sts = FakeSts({"a.test": Found(why="the MTA-STS record of a.test could not be looked up: SERVFAIL")})
    policy = await policies.for_host("a.test", "mx.host.test", wish=TLS_REQUIRED)
    assert policy.hindrance is not None
    assert policy.hindrance.fate is Fate.DEFERRED
    assert "could not be looked up" in policy.hindrance.cause
    policies = world()
    policies._lookup.mx_records["a.test"] = FAILED  # type: ignore[attr-defined]
    policy = await policies.for_host("a.test", "mx.host.test", wish=TLS_REQUIRED)
    assert policy.hindrance is not None
    assert policy.hindrance.fate is Fate.DEFERRED


async def test_requiretls_waits_while_records_cannot_be_looked_up() -> None:
    policy = await world({AT: FAILED}).for_host("a.test", "mx.host.test", wish=TLS_REQUIRED)
    assert policy.hindrance is not None
    assert policy.hindrance.fate is Fate.DEFERRED


async def test_requiretls_overrules_an_administrators_may() -> None:
    policy = await world(configured={"a.test": "none"}).for_host("a.test", "mx.host.test", wish=TLS_REQUIRED)
    assert (policy.level, policy.requiretls) == (Level.VERIFY, True)


# -- plans and their keys ----------------------------------------------------------------------------------------------


def plan_of(*hosts: str, port: int = 25) -> Plan:
    return Plan("site", tuple((Target(host, ("192.0.2.1",), port),) for host in hosts))


async def test_a_plan_holds_what_is_special_and_notes_what_was_found() -> None:
    policies = world({AT: [EE]}, sts=ENFORCE)
    found = await policies.for_plan("a.test", plan_of("mx.host.test", "x.b.test"))
    assert {host: policy.level for host, policy in found.items()} == {
        "mx.host.test": Level.DANE, "x.b.test": Level.VERIFY,
    }  # fmt: skip
    noted = policies.noted("a.test")
    assert noted.published("mx.host.test") == Published("tlsa", (f"3 1 1 {'00' * 32}",), domain="mx.host.test")
    assert noted.published("x.b.test") == Published("sts", ENFORCE.lines, ENFORCE.mx)
    assert policies.noted("unknown.test").published("x").kind == "no-policy-found"


async def test_a_report_names_the_base_of_the_records_that_count() -> None:
    """RFC 8460 section 1.1: the Policy Domain of DANE is the TLSA base domain, here what a signed alias leads to."""
    policies = world({"_25._tcp.real.host.test": [EE]}, aliases=ALIAS)
    policies._lookup.address_records = {"real.host.test": ["192.0.2.1"]}  # type: ignore[attr-defined]
    await policies.for_plan("a.test", plan_of("mx.host.test"))
    assert policies.noted("a.test").published("mx.host.test").domain == "real.host.test"


async def test_a_report_repeats_tlsa_records_whole() -> None:
    """RFC 8460 section 4.5: "each representing the RDATA of a single TLSA resource record"."""
    policies = world({AT: [bytes([3, 0, 0]) + bytes(900)]})
    await policies.for_plan("a.test", plan_of("mx.host.test"))
    assert policies.noted("a.test").published("mx.host.test").strings == (f"3 0 0 {'00' * 900}",)


@pytest.mark.parametrize(
    "found, kind",
    [
        (Found(None, "sts-policy-fetch-error"), "sts"),
        (Found(ENFORCE, "sts-policy-fetch-error"), "sts"),
        (Found(OFF, "sts-policy-fetch-error"), "no-policy-found"),
        (Found(OFF), "no-policy-found"),
    ],
)
def test_what_a_session_is_counted_under(found: Found, kind: str) -> None:
    """RFC 8461 section 6: a failed fetch counts, "except if that policy's mode is "none""."""
    assert Noted(found).published("mx.host.test").kind == kind


UNNAMED = "mx.evil.test is none of the hosts that the MTA-STS policy of a.test names"


async def test_a_plan_is_explained_host_by_host() -> None:
    policies = world({AT: [EE]}, sts=ENFORCE)
    plan = plan_of("mx.host.test", "mx.evil.test")
    found = await policies.for_plan("a.test", plan)
    assert explain(plan, found, policies.noted("a.test")) == [
        "mx.host.test: dane (DANE), 1 TLSA record",
        f"mx.evil.test: verify (MTA-STS); not now: {UNNAMED}",
        "MTA-STS: mode enforce, hosts mx.host.test, *.b.test",
    ]
    assert explain(plan, {}) == ["mx.host.test: may (opportunistic)", "mx.evil.test: may (opportunistic)"]


async def test_a_unix_socket_needs_no_tls() -> None:
    found = await world().for_plan("a.test", plan_of("/run/lmtp", port=0), TLS_REQUIRED)
    assert found == {"/run/lmtp": UNIX_SOCKET}


async def test_promise_p23_class_e4_unequal_demands_have_unequal_keys() -> None:
    """No connection is used for mail that asks for more than held when it was made."""
    worlds = [
        world(),
        world({AT: [EE]}),
        world({AT: [TA]}),
        world({AT: [UNUSABLE]}),
        world({AT: FAILED}),
        world(sts=ENFORCE, secure=()),
        world(configured={"a.test": "none"}),
    ]
    keys = [policies_key(await one.for_plan("a.test", plan_of("mx.host.test"))) for one in worlds]
    keys += [policies_key(await one.for_plan("a.test", plan_of("mx.host.test"), TLS_REQUIRED)) for one in worlds[:2]]
    assert keys[0] == ""
    for one, other in itertools.combinations(keys, 2):
        assert one != other
    assert keys[1].startswith("tls=dane:")


async def test_equal_demands_share_a_key_whatever_the_domain() -> None:
    """Thousands of domains at one provider share its connections."""
    dns = FakeLookup({"a.test": [(1, "mx.host.test")], "b.test": [(1, "mx.host.test")]})
    sts = {domain: Found(Policy("enforce", 1, ("mx.host.test",), domain)) for domain in ("a.test", "b.test")}
    policies = TlsPolicies(dns, sts=FakeSts(sts))
    keys = {policies_key(await policies.for_plan(domain, plan_of("mx.host.test"))) for domain in sts}
    assert len(keys) == 1
