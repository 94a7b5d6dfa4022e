"""Where MTA-STS policies come from: fetched, kept over restarts, and taken away by nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from postroad.flow.mta_sts import NOTHING, StsPolicies
from postroad.net.https import Fetched, Unfetched
from postroad.store.tls import TlsMemory
from postroad.values.errors import StoreBroken
from postroad.values.ports import Answer
from tests.fakes.clock import FakeClock
from tests.fakes.lookup import FAILED, NXDOMAIN, FakeLookup
from tests.flow.yard import DirectStore, Reads

NAME = "_mta-sts.a.test"
BODY = b"version: STSv1\nmode: enforce\nmx: mx.a.test\nmax_age: 86400\n"


class FakeHttps:
    """Answers of web servers: a `Fetched`, or a failure."""

    def __init__(self, answer: Fetched | Unfetched) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.hold: asyncio.Event | None = None

    async def get(self, url: str) -> Fetched:
        self.asked.append(url)
        if self.hold is not None:
            await self.hold.wait()
        if isinstance(self.answer, Unfetched):
            raise self.answer
        return self.answer


class Bench:
    """A cache on a real store; `again` is the same after a restart."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.store = DirectStore(folder / "postroad.db", self.clock)
        self.dns = FakeLookup(txt={NAME: ["v=STSv1; id=one"]})
        self.https = FakeHttps(Fetched(200, "text/plain", BODY))
        self.again()

    def again(self) -> None:
        self.sts = StsPolicies(
            lookup=self.dns, https=self.https, memory=TlsMemory(Reads(self.store)), store=self.store, clock=self.clock
        )

    async def mode(self, domain: str = "a.test") -> str:
        found = await self.sts.of(domain)
        return found.policy.mode if found.policy is not None else ""


async def test_a_policy_is_fetched_once_and_survives_a_restart(tmp_path: Path) -> None:
    """Case "TXT id unchanged -> do not refetch"."""
    bench = Bench(tmp_path)
    found = await bench.sts.of("a.test")
    assert found.policy is not None
    assert found.policy.mx == ("mx.a.test",)
    bench.again()
    assert await bench.sts.of("a.test") == found
    assert bench.https.asked == ["https://mta-sts.a.test/.well-known/mta-sts.txt"]


async def test_another_id_brings_the_new_policy(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.mode()
    bench.dns.txt_records[NAME] = ["v=STSv1; id=two"]
    bench.https.answer = Fetched(200, "text/plain", BODY.replace(b"enforce", b"testing"))
    assert await bench.mode() == "testing"
    assert await bench.mode() == "testing"
    assert len(bench.https.asked) == 2


@pytest.mark.parametrize("record", [NXDOMAIN, FAILED, ["v=STSv1; id=one", "v=STSv1; id=two"], ["v=spf1 -all"], []])
async def test_case_a_record_that_disappears_takes_no_policy_away(tmp_path: Path, record: object) -> None:
    bench = Bench(tmp_path)
    await bench.mode()
    bench.dns.txt_records[NAME] = record  # type: ignore[assignment]
    assert await bench.mode() == "enforce"
    bench.clock.advance(86_401)
    assert await bench.mode() == ""
    assert len(bench.https.asked) == 1


@pytest.mark.parametrize(
    "answer, fault",
    [
        # The cases of "fetch", as far as they are about what comes of an answer; the rest is net.https's.
        (Unfetched("redirect"), "sts-policy-fetch-error"),
        (Unfetched("its certificate does not hold", "sts-webpki-invalid"), "sts-webpki-invalid"),
        (Unfetched("the host did not answer in time"), "sts-policy-fetch-error"),
        (Fetched(301, "text/plain", BODY), "sts-policy-fetch-error"),
        (Fetched(302, "text/plain", BODY), "sts-policy-fetch-error"),
        (Fetched(404, "text/plain", BODY), "sts-policy-fetch-error"),
        (Fetched(206, "text/plain", BODY), "sts-policy-fetch-error"),
        (Fetched(200, "text/html", BODY), "sts-policy-invalid"),
        (Fetched(200, "text/plain", b"<html>not found</html>"), "sts-policy-invalid"),
    ],
)
async def test_cases_of_failed_fetches(tmp_path: Path, answer: Fetched | Unfetched, fault: str) -> None:
    bench = Bench(tmp_path)
    await bench.mode()
    bench.dns.txt_records[NAME] = ["v=STSv1; id=two"]
    bench.https.answer = answer
    found = await bench.sts.of("a.test")
    assert found.policy is not None  # the kept one stays in force until it expires
    assert found.fault == fault
    bench.clock.advance(86_401)
    found = await bench.sts.of("a.test")
    assert (found.policy, found.fault) == (None, fault)
    assert "the MTA-STS policy of a.test could not be fetched" in found.why


async def test_a_failed_fetch_is_not_tried_again_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.https.answer = Unfetched("no")
    for _ in range(3):
        assert (await bench.sts.of("a.test")).fault
    assert len(bench.https.asked) == 1
    bench.clock.advance(301)
    await bench.sts.of("a.test")
    assert len(bench.https.asked) == 2
    # Another id is worth a try of its own.
    bench.dns.txt_records[NAME] = ["v=STSv1; id=two"]
    bench.https.answer = Fetched(200, "text/plain", BODY)
    assert await bench.mode() == "enforce"


async def test_who_asks_at_the_same_time_shares_a_fetch_and_may_give_up_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.https.hold = asyncio.Event()
    first, second = (asyncio.ensure_future(bench.sts.of("a.test")) for _ in range(2))
    while not bench.https.asked:
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    bench.https.hold.set()
    assert (await second).policy is not None
    assert len(bench.https.asked) == 1


async def test_a_domain_without_a_record_is_asked_nothing_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert await bench.sts.of("b.test") == NOTHING
    assert bench.https.asked == []


async def test_a_policy_that_cannot_be_kept_holds_all_the_same(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.store.fail = [StoreBroken("no")]
    assert await bench.mode() == "enforce"


async def test_kept_policies_are_renewed_every_day(tmp_path: Path) -> None:
    """RFC 8461 section 3.3: "a suggested refresh frequency is once per day", however long a policy holds."""
    bench = Bench(tmp_path)
    bench.https.answer = Fetched(200, "text/plain", BODY.replace(b"86400", b"31557600"))
    await bench.mode()
    await bench.sts.renew()
    assert len(bench.https.asked) == 1
    bench.clock.advance(86_401)
    await bench.sts.renew()
    await bench.sts.renew()
    assert len(bench.https.asked) == 2
    bench.clock.advance(31_557_600 - 60)
    assert await bench.mode() == "enforce"


async def test_policies_that_hold_for_a_day_are_renewed_before_they_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.mode()
    bench.clock.advance(86_400 - 3600)
    await bench.sts.renew()
    assert len(bench.https.asked) == 2
    bench.clock.advance(7200)
    assert await bench.mode() == "enforce"
    assert len(bench.https.asked) == 2


@pytest.mark.parametrize("record", [NXDOMAIN, FAILED])
async def test_a_policy_is_renewed_whatever_became_of_its_record(tmp_path: Path, record: Answer) -> None:
    """RFC 8461 section 10.2: "regardless of the state of the "_mta-sts" TXT record", which can be held back."""
    bench = Bench(tmp_path)
    await bench.mode()
    bench.dns.txt_records[NAME] = record
    bench.clock.advance(86_400 - 3600)
    await bench.sts.renew()
    bench.clock.advance(7200)
    assert await bench.mode() == "enforce"


async def test_a_renewal_that_fails_leaves_the_policy_its_time_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 8461 section 3.3: "MTAs SHOULD alert administrators (through the use of logs or similar) when such attempts
    fail"."""
    bench = Bench(tmp_path)
    await bench.mode()
    bench.clock.advance(86_400 - 3600)
    bench.https.answer = Unfetched("no")
    await bench.sts.renew()
    assert await bench.mode() == "enforce"
    assert "the MTA-STS policy of a.test could not be renewed" in caplog.text


async def test_a_policy_that_asks_for_nothing_ends_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """RFC 8461 section 3.3: "unless the cached policy mode is "none""."""
    bench = Bench(tmp_path)
    bench.https.answer = Fetched(200, "text/plain", BODY.replace(b"enforce", b"none"))
    await bench.mode()
    bench.clock.advance(86_400 - 3600)
    bench.https.answer = Unfetched("no")
    await bench.sts.renew()
    assert caplog.text == ""


async def test_a_record_that_cannot_be_looked_up_is_a_doubt(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.dns.txt_records[NAME] = FAILED
    found = await bench.sts.of("a.test")
    assert (found.policy, found.fault) == (None, "")
    assert found.why == "the MTA-STS record of a.test could not be looked up: SERVFAIL from 127.0.0.1"


async def test_what_is_kept_is_never_more_than_its_own_text(tmp_path: Path) -> None:
    """A row that no longer reads as a policy is no policy, and is fetched anew."""
    bench = Bench(tmp_path)
    await bench.mode()
    bench.store.rows("UPDATE sts_policies SET policy = 'x'")
    assert await bench.mode() == "enforce"
    assert len(bench.https.asked) == 2
