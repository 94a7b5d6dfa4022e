"""What is counted and remembered of sessions, and when it is written."""

from __future__ import annotations

from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from postroad.flow.mta_sts import Found
from postroad.flow.outbound import Courier, NoCourier
from postroad.flow.route import Hop
from postroad.flow.tls_log import COUNTS_MAX, DAY_US, DETAIL_MAX, FORGOTTEN_US, GIVE_UP_S, SPREAD_S, TlsLog
from postroad.flow.tls_policy import OPPORTUNISTIC, UNPROTECTED, Noted, TlsPolicies, TlsPolicy
from postroad.store.tls import KeptLevel
from postroad.trust.mta_sts import Policy
from postroad.values.errors import StoreBroken
from postroad.values.outcome import Fate, Outcome
from tests.fakes.clock import FakeClock
from tests.fakes.lookup import FAILED, FakeLookup
from tests.flow.yard import DirectStore

HOP = Hop("mx.a.test", "192.0.2.1", 25)
WANTS = {"_smtp._tls.a.test": ["v=TLSRPTv1; rua=mailto:x@a.test"]}


class Desk:
    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.store = DirectStore(folder / "postroad.db", self.clock)
        self.dns = FakeLookup(txt=WANTS)
        self.policies = TlsPolicies(self.dns)
        self.log = TlsLog(policies=self.policies, lookup=self.dns, store=self.store, clock=self.clock, rng=Random(1))
        self.carried: set[str] = set()

    def opened(self, domain: str = "a.test", *, level: int = 2, policy: TlsPolicy = OPPORTUNISTIC) -> str:
        self.carried.add(domain)
        courier = SimpleNamespace(
            hop=HOP, policy=policy, fault="" if level else "starttls-not-supported", tls="TLS" if level else "",
            verified=level == 2, unproved="" if level == 2 else "certificate-not-trusted", domains=self.carried,
        )  # fmt: skip
        return self.log.opened(domain, cast(Courier, courier))

    def rows(self, what: str) -> list[Any]:
        return self.store.rows(f"SELECT {what}")


def refusal(fault: str, detail: str = "") -> NoCourier:
    return NoCourier(Outcome(Fate.DEFERRED), fault=fault, detail=detail)


# -- counting ----------------------------------------------------------------------------------------------------------


async def test_only_domains_that_want_reports_are_written(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for domain in ("a.test", "b.test", "[192.0.2.7]", "a.test"):
        desk.opened(domain)
    desk.opened(level=0)
    desk.log.failed(["a.test", "b.test"], HOP, refusal("validation-failure", "x" * 1000))
    await desk.log.flush()
    assert desk.rows("domain, result, host, address, length(detail), sessions FROM tls_sessions ORDER BY result") == [
        ("a.test", "", "", "", 0, 2),
        ("a.test", "starttls-not-supported", "mx.a.test", "192.0.2.1", 0, 1),
        ("a.test", "validation-failure", "mx.a.test", "192.0.2.1", DETAIL_MAX, 1),
    ]


ENFORCE = Policy("enforce", 86_400, ("mx.a.test",), "version: STSv1")
ELSEWHERE = Policy("testing", 86_400, ("other.test",), "version: STSv1")
NO_MODE = Policy("none", 86_400, (), "version: STSv1")


@pytest.mark.parametrize(
    "found, level, counted",
    [
        (Found(ENFORCE), 2, ("", "")),
        (Found(ENFORCE), 1, ("certificate-not-trusted", "")),
        (Found(ELSEWHERE), 2, ("validation-failure", "mx.a.test is none of the hosts that the MTA-STS policy names")),
        # RFC 8461 section 6: "Policy fetch failures of any kind when a valid policy exists in the policy cache".
        (Found(ENFORCE, "sts-policy-fetch-error", "no answer"), 2, ("sts-policy-fetch-error", "no answer")),
        (Found(ENFORCE, "sts-policy-fetch-error", "no answer"), 1, ("certificate-not-trusted", "")),
        (Found(None, "sts-webpki-invalid", "expired"), 2, ("sts-webpki-invalid", "expired")),
        (Found(NO_MODE, "sts-policy-fetch-error", "no answer"), 2, ("", "")),
    ],
)
async def test_what_a_session_shows_of_the_domains_policy(
    tmp_path: Path, found: Found, level: int, counted: tuple[str, str]
) -> None:
    """RFC 8460 section 4.3.3: beside "validation-failure" stands a reason."""
    desk = Desk(tmp_path)
    desk.policies._noted["a.test"] = Noted(found)
    desk.opened(level=level)
    await desk.log.flush()
    assert desk.rows("result, detail FROM tls_sessions") == [counted]


async def test_a_session_with_a_smart_host_is_reported_to_the_smart_host(tmp_path: Path) -> None:
    """RFC 8460 section 1.1: "when mail is routed to a "smarthost" gateway by local policy, the "smarthost" domain name
    is used instead"."""
    desk = Desk(tmp_path)
    desk.dns.txt_records = {f"_smtp._tls.{name}": WANTS["_smtp._tls.a.test"] for name in ("a.test", "mx.a.test")}
    for domain in ("a.test", "b.test"):
        desk.policies._noted[domain] = Noted(hosts={"mx.a.test": Noted(Found(ENFORCE))})
        desk.opened(domain)
    desk.log.failed(["a.test", "b.test"], HOP, refusal("certificate-expired"))
    await desk.log.flush()
    assert desk.rows("domain, result, sessions FROM tls_sessions ORDER BY result") == [
        ("mx.a.test", "", 1),
        ("mx.a.test", "certificate-expired", 1),
    ]
    assert '"kind":"sts"' in desk.rows("policy FROM tls_sessions")[0][0]


async def test_a_smart_host_without_a_name_is_reported_to_nobody(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for name in ("192.0.2.1", "[192.0.2.1]"):
        desk.dns.txt_records[f"_smtp._tls.{name}"] = WANTS["_smtp._tls.a.test"]
        desk.policies._noted["a.test"] = Noted(hosts={})
        desk.log.failed(["a.test"], Hop(name, "192.0.2.1", 25), refusal("certificate-expired"))
    await desk.log.flush()
    assert desk.rows("count(*) FROM tls_sessions") == [(0,)]


async def test_a_host_that_failed_for_another_reason_counts_not(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.log.failed(["a.test"], HOP, refusal(""))
    desk.opened(policy=UNPROTECTED)
    await desk.log.flush()
    assert desk.rows("count(*) FROM tls_sessions") == [(0,)]


async def test_a_report_is_due_within_four_hours_of_the_next_day(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.opened()
    await desk.log.flush()
    [(day, due_us, until_us)] = desk.rows("day, due_us, until_us FROM tls_reports")
    assert day == desk.clock.wall_us() // DAY_US
    assert 0 < due_us - (day + 1) * DAY_US <= (SPREAD_S + 300) * 1e6
    assert until_us - due_us == GIVE_UP_S * 1e6


async def test_counts_of_two_writings_add_up_and_those_of_two_days_do_not(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for _ in range(2):
        desk.opened()
        await desk.log.flush()
    desk.clock.advance(86_400)
    desk.opened()
    await desk.log.flush()
    assert [sessions for (sessions,) in desk.rows("sessions FROM tls_sessions ORDER BY day")] == [2, 1]


async def test_beyond_the_limit_the_places_are_left_out(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for number in range(COUNTS_MAX + 10):
        hop = Hop(f"mx{number}.a.test", "192.0.2.1", 25)
        desk.log.failed(["a.test"], hop, refusal("certificate-expired"))
    assert len(desk.log._counts) == COUNTS_MAX + 1
    assert sum(desk.log._counts.values()) == COUNTS_MAX + 10


async def test_a_store_that_is_gone_loses_counts_and_raises_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path)
    desk.opened()
    desk.store.fail = [StoreBroken("gone")]
    await desk.log.stop()
    assert "counted TLS sessions are lost: gone" in caplog.text


async def test_a_doubt_about_the_record_counts_as_none(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.dns.txt_records["_smtp._tls.a.test"] = FAILED
    desk.opened()
    await desk.log.flush()
    assert desk.rows("count(*) FROM tls_sessions") == [(0,)]


# -- the memory of levels ----------------------------------------------------------------------------------------------


def held(desk: Desk, level: int, *, days: float = 2, ago_days: float = 0.5) -> None:
    """The domain had this level for so many days, and was last seen with it so long ago."""
    seen = desk.clock.wall_us() - int(ago_days * DAY_US)
    desk.policies._noted["a.test"] = Noted(level=KeptLevel(level, seen - int(days * DAY_US), seen))


@pytest.mark.parametrize(
    "level, note",
    [
        (2, ""),
        (1, "encrypted without proof, though a.test was verified until "),
        (0, "in the clear, though a.test was verified until "),
    ],
)
async def test_a_loss_is_noted(tmp_path: Path, level: int, note: str) -> None:
    desk = Desk(tmp_path)
    held(desk, 2)
    assert desk.opened(level=level).startswith(note)
    assert bool(desk.opened(level=level)) is bool(note)
    assert desk.log._levels == {}


async def test_what_was_seen_for_less_than_a_day_is_not_missed(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    held(desk, 2, days=0.5)
    assert desk.opened(level=0) == ""
    assert desk.log._levels["a.test"].level == 0


async def test_after_two_months_nobody_misses_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    held(desk, 2, ago_days=FORGOTTEN_US / DAY_US + 1)
    assert desk.opened(level=0) == ""


async def test_a_level_is_written_when_it_changes_and_once_a_day(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.opened(level=1)
    desk.opened(level=2)
    await desk.log.flush()
    first = desk.clock.wall_us()
    assert desk.rows("level, since_us, seen_us FROM tls_levels") == [(2, first, first)]
    desk.clock.advance(3600)
    desk.opened(level=2)
    await desk.log.flush()
    assert desk.rows("seen_us FROM tls_levels") == [(first,)]
    desk.clock.advance(86_400)
    desk.opened(level=2)
    await desk.log.flush()
    assert desk.rows("since_us, seen_us FROM tls_levels") == [(first, desk.clock.wall_us())]
