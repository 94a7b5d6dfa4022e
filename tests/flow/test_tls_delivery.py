"""Mail over real connections under each policy: nothing is ever sent where the policy does not hold.

Promise P23: every case as in the table, a doubt defers. Class E16.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from postroad.flow.mta_sts import Found
from postroad.flow.outbound import Manner
from postroad.flow.route import read_signposts
from postroad.flow.tls_log import TlsLog
from postroad.flow.tls_policy import TlsPolicies, read_configured
from postroad.net.tls import ClientTls
from postroad.store.records import TLS_OPTIONAL, TLS_REQUIRED
from postroad.trust.mta_sts import Policy
from postroad.values.ports import Answer
from tests.fakes.certificates import Cert, authority, server
from tests.fakes.lookup import FAILED, FakeLookup
from tests.fakes.smtp_server import FakeSmtp, Raw
from tests.flow.test_tls_policy import FakeSts
from tests.flow.yard import Yard, until

ROOT = authority("Root")
STRANGER = authority("Stranger")
GOOD = server("mx.host.test", issuer=ROOT)
OTHER = server("other.test", issuer=ROOT)
SELF = server("mx.host.test")

ENFORCE = Policy("enforce", 86_400, ("mx.host.test",), "version: STSv1\nmode: enforce\n")
TESTING = Policy("testing", 86_400, ("mx.host.test",), "version: STSv1\nmode: testing\n")

EXTENSIONS = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "SIZE 10000000")


def ee(cert: Cert) -> bytes:
    return bytes([3, 1, 1]) + hashlib.sha256(cert.key_info).digest()


class Street:
    """a.test and b.test have their mail at mx.host.test, and a.test at second.host.test too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(ROOT.pem)
        self.servers: list[FakeSmtp] = []
        self.port = 0
        self.yard: Yard

    async def host(self, cert: Cert | None, address: str = "127.0.0.1", **script: Any) -> FakeSmtp:
        context = cert.context(self.folder) if cert is not None else None
        made = await FakeSmtp(tls=context, **script).start(address, self.port)
        self.port = self.port or made.port
        self.servers.append(made)
        return made

    def build(
        self,
        *,
        tlsa: dict[str, list[bytes] | Answer] | None = None,
        sts: Policy | None = None,
        configured: dict[str, str] | None = None,
        secure: tuple[str, ...] = ("a.test", "b.test", "host.test"),
        hosts: tuple[str, ...] = ("mx.host.test",),
        txt: dict[str, list[str]] | None = None,
    ) -> Yard:
        """The sending side; `tlsa` goes by host."""
        manner = Manner("mail.ours.test", ClientTls(str(self.ca_file), system_roots=False), 5.0, patience_s=5.0)
        signposts = read_signposts(port=self.port, allow_private=["127.0.0.0/8"], own_names=["mail.ours.test"])
        yard = Yard(self.folder, manner=manner, signposts=signposts)
        yard.dns = FakeLookup(
            {
                "a.test": [(number, host) for number, host in enumerate(hosts)],
                "b.test": [(1, "mx.host.test")],
                "ours.test": FAILED,
            },
            {"mx.host.test": ["127.0.0.1"], "second.host.test": ["127.0.0.2"]},
            txt=txt,
            tlsa={f"_{self.port}._tcp.{host}": records for host, records in (tlsa or {}).items()},
            secure=secure,
        )
        found = {"a.test": Found(sts)} if sts is not None else {}
        policies = TlsPolicies(yard.dns, dane=True, sts=FakeSts(found), configured=read_configured(configured or {}))
        self.log = TlsLog(policies=policies, lookup=yard.dns, store=yard.store, clock=yard.clock, rng=Random(1))
        yard.runner._lookup = yard.dns
        yard.runner._policies = policies
        yard.runner._pool._tls_watch = self.log
        self.yard = yard
        return yard

    def results(self) -> list[tuple[str, str, str]]:
        """What was counted: domain, kind of policy and result."""
        return sorted(
            (key[1], key[2].split('"')[3] if '"' in key[2] else "no-policy-found", key[3]) for key in self.log._counts
        )


@pytest_asyncio.fixture
async def street(tmp_path: Path) -> AsyncIterator[Street]:
    made = Street(tmp_path)
    yield made
    await made.yard.runner.drain(1.0)
    for one in made.servers:
        await one.close()


def send(yard: Yard, *recipients: str, **changes: Any) -> int:
    """A message sent now; returns its id."""
    return yard.send(*recipients, **changes).id


async def outcome(yard: Yard, *recipients: str, **changes: Any) -> Any:
    """The last event of a message sent now."""
    ident = send(yard, *recipients, **changes)
    await yard.settled()
    return [event for event in yard.events(ident) if event.kind in ("delivered", "deferred", "bounced")][-1]


# -- opportunistic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cert, word", [(GOOD, "verified"), (SELF, "unverified")])
async def test_without_a_policy_any_certificate_will_do(street: Street, cert: Cert, word: str) -> None:
    host = await street.host(cert)
    event = await outcome(street.build(), "x@a.test")
    assert (event.kind, event.where.rpartition(" ")[2]) == ("delivered", word)
    assert host.messages[0].tls
    assert street.results() == [("a.test", "no-policy-found", "")]


async def test_without_a_policy_and_without_starttls_mail_goes_in_the_clear(street: Street) -> None:
    host = await street.host(None)
    event = await outcome(street.build(), "x@a.test")
    assert event.kind == "delivered"
    assert not host.messages[0].tls
    assert street.results() == [("a.test", "no-policy-found", "starttls-not-supported")]


async def test_a_broken_handshake_is_counted_and_costs_no_mail(street: Street) -> None:
    host = await street.host(None, STARTTLS=Raw(b"220 go ahead\r\nnot tls", close=True))
    event = await outcome(street.build(), "x@a.test")
    assert event.kind == "delivered"
    assert not host.messages[0].tls
    assert street.results() == [("a.test", "no-policy-found", "validation-failure")]


# -- DANE --------------------------------------------------------------------------------------------------------------


async def test_promise_p23_dane_lets_a_fitting_key_pass_whoever_vouches_for_it(street: Street) -> None:
    await street.host(SELF)
    event = await outcome(street.build(tlsa={"mx.host.test": [ee(SELF)]}), "x@a.test")
    assert event.kind == "delivered"
    assert event.where.endswith(" verified (DANE)")
    assert street.results() == [("a.test", "tlsa", "")]


async def test_promise_p23_dane_holds_up_mail_for_another_key_even_with_a_good_certificate(street: Street) -> None:
    host = await street.host(GOOD)
    event = await outcome(street.build(tlsa={"mx.host.test": [ee(SELF)]}), "x@a.test")
    assert event.kind == "deferred"
    assert "its certificate does not match its TLSA records (DANE requires it)" in event.cause
    assert host.messages == []
    assert "MAIL" not in " ".join(host.commands)
    assert street.results() == [("a.test", "tlsa", "validation-failure")]


async def test_promise_p23_dane_below_an_authority_names_the_next_hop_domain(street: Street) -> None:
    anchor = bytes([2, 0, 1]) + hashlib.sha256(STRANGER.der).digest()
    await street.host(server("a.test", issuer=STRANGER))
    event = await outcome(street.build(tlsa={"mx.host.test": [anchor]}), "x@a.test")
    assert (event.kind, event.where.rpartition(" ")[2]) == ("delivered", "(DANE)")
    event = await outcome(street.yard, "x@b.test")
    assert event.kind == "deferred"
    assert "its certificate does not name mx.host.test or b.test" in event.cause


STRIPPED: list[dict[str, Any]] = [
    {},
    {"STARTTLS": "454 4.7.0 not now"},
    {"STARTTLS": "502 5.5.1 what?"},
    {"STARTTLS": Raw(b"220 go ahead\r\n250 injected\r\n")},
    {"STARTTLS": Raw(b"220 go ahead\r\nnot tls at all\r\n", close=True)},
    {"EHLO": "502 5.5.1 what?"},
]
"""Rows P22 and D13: ways to take STARTTLS away."""

DEMANDS: list[dict[str, Any]] = [
    {"tlsa": {"mx.host.test": [ee(GOOD)]}},
    {"tlsa": {"mx.host.test": [b"\x00\x00\x01junk"]}},
    {"sts": ENFORCE},
    {"configured": {"a.test": "encrypt"}},
    {"configured": {"a.test": "verify"}},
]


@pytest.mark.parametrize("demand", DEMANDS)
@pytest.mark.parametrize("script", STRIPPED)
async def test_promises_p22_p23_row_d13_a_demand_for_tls_is_never_met_in_the_clear(
    street: Street, script: dict[str, Any], demand: dict[str, Any]
) -> None:
    host = await street.host(None, **script)
    event = await outcome(street.build(**demand), "x@a.test")
    assert event.kind == "deferred"
    assert host.messages == []
    assert not any(line.startswith(("MAIL", "RCPT", "DATA", "BDAT")) for line in host.commands)


async def test_the_cause_says_what_was_missing_and_who_wants_it(street: Street) -> None:
    await street.host(None)
    event = await outcome(street.build(sts=ENFORCE), "x@a.test")
    assert event.cause.startswith("the host does not offer STARTTLS, and MTA-STS requires it (mx.host.test [127.0.0.1]")
    [(_, _, last_reply)] = street.yard.open()
    assert last_reply.startswith("451 4.7.10 ")


async def test_row_d8_a_failed_look_up_of_records_defers_without_a_connection(street: Street) -> None:
    host = await street.host(GOOD)
    event = await outcome(street.build(tlsa={"mx.host.test": FAILED}), "x@a.test")
    assert event.kind == "deferred"
    assert "could not be looked up: SERVFAIL" in event.cause
    assert host.connections == 0
    assert street.results() == [("a.test", "tlsa", "dnssec-invalid")]


async def test_row_d9_unusable_records_take_any_certificate(street: Street) -> None:
    host = await street.host(SELF)
    event = await outcome(street.build(tlsa={"mx.host.test": [b"", b"\x07\x07\x07x"]}), "x@a.test")
    assert event.kind == "delivered"
    assert event.where.endswith(" unverified (DANE, no usable TLSA record)")
    assert host.messages[0].tls


async def test_the_next_host_of_the_plan_gets_what_the_first_may_not(street: Street) -> None:
    first = await street.host(None)
    second = await street.host(server("second.host.test", issuer=ROOT), "127.0.0.2")
    sts = Policy("enforce", 86_400, ("*.host.test",), "")
    event = await outcome(street.build(sts=sts, hosts=("mx.host.test", "second.host.test")), "x@a.test")
    assert event.kind == "delivered"
    assert event.where.startswith("second.host.test ")
    assert event.where.endswith(" verified (MTA-STS)")
    assert (len(first.messages), len(second.messages)) == (0, 1)


# -- MTA-STS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cert, why, result",
    [
        (SELF, "no known authority vouches for it", "certificate-not-trusted"),
        (server("mx.host.test", issuer=STRANGER), "no known authority vouches for it", "certificate-not-trusted"),
        (OTHER, "it is for other names", "certificate-host-mismatch"),
        (server("mx.host.test", issuer=ROOT, days=(-9, -2)), "it has expired", "certificate-expired"),
    ],
)
async def test_case_enforce_matched_host_invalid_certificate(street: Street, cert: Cert, why: str, result: str) -> None:
    host = await street.host(cert)
    event = await outcome(street.build(sts=ENFORCE), "x@a.test")
    assert event.kind == "deferred"
    assert f"its certificate does not prove the name mx.host.test: {why}" in event.cause
    assert event.where.startswith("TLSv1.3 ")
    assert "MTA-STS requires it" in event.cause
    assert host.messages == []
    [(_, _, last_reply)] = street.yard.open()
    assert last_reply.startswith("451 4.7.5 ")
    assert street.results() == [("a.test", "sts", result)]


async def test_case_enforce_unmatched_host(street: Street) -> None:
    host = await street.host(GOOD)
    event = await outcome(street.build(sts=Policy("enforce", 1, ("mx.other.test",), "")), "x@a.test")
    assert event.kind == "deferred"
    assert host.connections == 0
    assert street.results() == [("a.test", "sts", "validation-failure")]


async def test_case_enforce_good_host(street: Street) -> None:
    await street.host(GOOD)
    event = await outcome(street.build(sts=ENFORCE), "x@a.test")
    assert event.where.endswith(" verified (MTA-STS)")
    assert street.results() == [("a.test", "sts", "")]


@pytest.mark.parametrize(
    "cert, mx, result",
    [
        (GOOD, "mx.host.test", ""),
        (OTHER, "mx.host.test", "certificate-host-mismatch"),
        (GOOD, "mx.other.test", "validation-failure"),
        (None, "mx.host.test", "starttls-not-supported"),
    ],
)
async def test_case_testing_delivers_and_counts(street: Street, cert: Cert | None, mx: str, result: str) -> None:
    await street.host(cert)
    event = await outcome(street.build(sts=Policy("testing", 1, (mx,), "")), "x@a.test")
    assert event.kind == "delivered"
    assert street.results() == [("a.test", "sts", result)]


async def test_case_none_delivers_as_without_a_policy(street: Street) -> None:
    await street.host(None)
    assert (await outcome(street.build(sts=Policy("none", 1, (), "")), "x@a.test")).kind == "delivered"


async def test_case_dane_wins(street: Street) -> None:
    """A host that only DANE proves is good although MTA-STS would not have it, and the other way round it is not."""
    await street.host(SELF)
    build: Callable[..., Yard] = street.build
    event = await outcome(build(tlsa={"mx.host.test": [ee(SELF)]}, sts=ENFORCE), "x@a.test")
    assert event.where.endswith(" verified (DANE)")


# -- the administrator -------------------------------------------------------------------------------------------------


async def test_none_never_starts_tls(street: Street) -> None:
    host = await street.host(GOOD)
    event = await outcome(street.build(configured={"a.test": "none"}), "x@a.test")
    assert event.kind == "delivered"
    assert "STARTTLS" not in host.commands
    assert street.results() == []


async def test_encrypt_takes_any_certificate(street: Street) -> None:
    await street.host(SELF)
    event = await outcome(street.build(configured={"a.test": "encrypt"}), "x@a.test")
    assert event.where.endswith(" unverified (relay.tls_policy)")


# -- connections -------------------------------------------------------------------------------------------------------


async def test_promise_p23_class_e4_a_connection_of_a_weaker_policy_is_not_used_again(street: Street) -> None:
    """Postfix 20250619: connection reuse across TLS levels. b.test asks for nothing, a.test for a proved name."""
    host = await street.host(SELF)
    yard = street.build(sts=ENFORCE)
    assert (await outcome(yard, "x@b.test")).kind == "delivered"
    event = await outcome(yard, "x@a.test")
    assert event.kind == "deferred"
    assert host.recipients == ["x@b.test"]
    assert (await outcome(yard, "y@b.test")).kind == "delivered"


async def test_equal_demands_share_a_connection(street: Street) -> None:
    host = await street.host(SELF)
    yard = street.build(tlsa={"mx.host.test": [ee(SELF)]})
    for to in ("x@a.test", "x@b.test", "y@a.test"):
        assert (await outcome(yard, to)).where.endswith("(DANE)")
    assert host.connections == 1
    assert street.results() == [("a.test", "tlsa", ""), ("b.test", "tlsa", "")]


async def test_promise_p23_a_policy_that_appears_is_obeyed_when_the_way_is_planned_again(street: Street) -> None:
    host = await street.host(SELF)
    yard = street.build()
    assert (await outcome(yard, "x@a.test")).kind == "delivered"
    yard.runner._policies._sts.found["a.test"] = Found(ENFORCE)  # type: ignore[union-attr]
    yard.clock.advance(61)
    assert (await outcome(yard, "y@a.test")).kind == "deferred"
    assert host.recipients == ["x@a.test"]


# -- REQUIRETLS and TLS-Required: No -----------------------------------------------------------------------------------


async def test_requiretls_goes_on_to_a_host_that_promises_the_same(street: Street) -> None:
    host = await street.host(GOOD, extensions=(*EXTENSIONS, "REQUIRETLS"))
    event = await outcome(street.build(sts=ENFORCE), "x@a.test", tls=TLS_REQUIRED)
    assert event.kind == "delivered"
    assert host.messages[0].mail_line.endswith(" REQUIRETLS")
    assert street.results() == []


@pytest.mark.parametrize(
    "cert, extensions, cause, status",
    [
        # RFC 8689 section 4.2.1 names a status for each.
        (GOOD, (), "the host does not offer REQUIRETLS", "5.7.30"),
        (SELF, ("REQUIRETLS",), "REQUIRETLS: its certificate does not prove the name mx.host.test", "5.7.10"),
        (None, ("REQUIRETLS",), "REQUIRETLS: the host does not offer STARTTLS", "5.7.10"),
    ],
)
async def test_requiretls_bounces_where_it_cannot_be_fulfilled(
    street: Street, cert: Cert | None, extensions: tuple[str, ...], cause: str, status: str
) -> None:
    host = await street.host(cert, extensions=(*EXTENSIONS, *extensions))
    yard = street.build()
    event = await outcome(yard, "x@a.test", tls=TLS_REQUIRED)
    assert event.kind == "bounced"
    assert cause in event.cause
    assert host.messages == []
    # RFC 8689 section 5: the report is protected like the message, and says what was missing.
    assert yard.store.rows("SELECT recipient, tls FROM deliveries") == [("a@ours.test", TLS_REQUIRED)]
    assert f"Status: {status}".encode() in yard.reports()[0]


async def test_requiretls_bounces_with_the_status_of_the_rfc(street: Street) -> None:
    await street.host(GOOD)
    yard = street.build(secure=())
    yard.dns.mx_records["ours.test"] = [(1, "mx.host.test")]
    yard.dns.asked.clear()
    event = await outcome(yard, "x@a.test", tls=TLS_REQUIRED)
    assert event.kind == "bounced"
    assert "neither DNSSEC nor MTA-STS confirms" in event.cause


async def test_requiretls_waits_for_a_host_that_does_not_answer(street: Street) -> None:
    """The other one's no is not the last word."""
    await street.host(GOOD)
    yard = street.build(hosts=("mx.host.test", "second.host.test"))
    event = await outcome(yard, "x@a.test", tls=TLS_REQUIRED)
    assert event.kind == "deferred"
    assert "connection refused" in event.cause


async def test_requiretls_waits_for_a_host_that_is_left_alone_for_a_while(street: Street) -> None:
    """It failed just before, at other mail, so it is passed over: what it would have done is still unknown."""
    await street.host(GOOD)
    yard = street.build(hosts=("mx.host.test", "second.host.test"))
    assert (await outcome(yard, "x@a.test", tls=TLS_REQUIRED)).kind == "deferred"
    [lane] = yard.runner._lanes.all()
    yard.clock.advance(1.0)
    [second] = [hop for hop in lane.health if hop.host == "second.host.test"]
    lane.failed(second, "connection refused", yard.clock.monotonic())
    event = await outcome(yard, "y@a.test", tls=TLS_REQUIRED)
    assert event.kind == "deferred"
    assert "connection refused" in event.cause


async def test_promise_p23_mail_with_requiretls_and_without_do_not_share_connections(street: Street) -> None:
    host = await street.host(GOOD)
    yard = street.build()
    assert (await outcome(yard, "x@a.test")).kind == "delivered"
    assert (await outcome(yard, "y@a.test", tls=TLS_REQUIRED)).kind == "bounced"
    assert host.recipients == ["x@a.test"]


async def test_a_report_with_requiretls_is_not_lost_at_a_host_without(street: Street) -> None:
    """RFC 8689 section 5."""
    host = await street.host(SELF)
    event = await outcome(street.build(secure=()), "x@a.test", tls=TLS_REQUIRED, sender="")
    assert event.kind == "delivered"
    assert "REQUIRETLS" not in host.messages[0].mail_line


async def test_a_report_asks_for_requiretls_where_it_is_offered(street: Street) -> None:
    host = await street.host(SELF, extensions=(*EXTENSIONS, "REQUIRETLS"))
    await outcome(street.build(secure=()), "x@a.test", tls=TLS_REQUIRED, sender="")
    assert host.messages[0].mail_line.endswith("REQUIRETLS")


@pytest.mark.parametrize("demand", DEMANDS[:3])
async def test_case_tls_required_no_lets_the_sender_skip_the_policy(street: Street, demand: dict[str, Any]) -> None:
    """Postfix 20250619 and 20251031: and it must not open the door for other mail."""
    host = await street.host(None)
    yard = street.build(**demand)
    assert (await outcome(yard, "x@a.test", tls=TLS_OPTIONAL)).kind == "delivered"
    assert (await outcome(yard, "y@a.test")).kind == "deferred"
    assert (await outcome(yard, "z@a.test", tls=TLS_OPTIONAL)).kind == "delivered"
    assert host.recipients == ["x@a.test", "z@a.test"]


async def test_the_wish_is_still_known_after_the_queue(street: Street) -> None:
    host = await street.host(GOOD, MAIL=["451 4.3.0 later", "250 ok"], extensions=(*EXTENSIONS, "REQUIRETLS"))
    yard = street.build()
    ident = send(yard, "x@a.test", tls=TLS_REQUIRED)
    await yard.settled()
    yard.runner.start()
    await yard.later(4000)
    await until(lambda: host.messages)
    await yard.settled()
    assert yard.kinds(ident)[-1] == "delivered"
    assert host.messages[0].mail_line.endswith(" REQUIRETLS")


# -- memory ------------------------------------------------------------------------------------------------------------


async def test_a_domain_that_loses_its_protection_is_noted(street: Street) -> None:
    host = await street.host(GOOD)
    yard = street.build()
    for _ in range(3):
        assert (await outcome(yard, "x@a.test")).where.endswith("verified")
        yard.clock.advance(86_400)
        yard.runner._pool._idle.end_all()
        await until(lambda: host.open == 0)
    host.extensions = EXTENSIONS
    ident = send(yard, "x@a.test")
    await yard.settled()
    noted, delivered = yard.events(ident)
    assert delivered.kind == "delivered"
    assert noted.kind == "attempted"
    assert noted.cause.startswith("in the clear, though a.test was verified until ")


async def test_what_was_learnt_survives(street: Street) -> None:
    await street.host(GOOD)
    yard = street.build()
    await outcome(yard, "x@a.test")
    await street.log.flush()
    assert yard.store.rows("SELECT domain, level FROM tls_levels") == [("a.test", 2)]
