"""The daily reports: made from what was counted, mailed and posted, and never about themselves."""

from __future__ import annotations

import gzip
import json
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any, cast

import pytest

from postroad.flow.destinations import Destinations
from postroad.flow.intake import Arrival, Taken
from postroad.flow.local import Plan
from postroad.flow.tls_reports import AT_ONCE, TARGETS_MAX, TlsReports
from postroad.net.https import Unfetched
from postroad.store.tls import Counted, TlsCounts, TlsMemory, tls_count
from postroad.values.address import Address
from postroad.values.envelope import Envelope
from postroad.values.ids import IdMaker
from postroad.values.reply import Reply
from tests.fakes.clock import FakeClock
from tests.fakes.lookup import FAILED, FakeLookup
from tests.flow.yard import DirectStore, Reads

RECORD = "_smtp._tls.a.test"
DAY = 20_000


class FakeDraft:
    def __init__(self) -> None:
        self.octets = b""
        self.discarded = False

    def write(self, octets: bytes) -> None:
        self.octets += octets

    def discard(self) -> None:
        self.discarded = True


class FakeSpool:
    def draft(self) -> FakeDraft:
        return FakeDraft()


class FakeIntake:
    def __init__(self) -> None:
        self.taken: list[tuple[bytes, Envelope, Destinations, Arrival]] = []
        self.refusal: Reply | None = None
        self.keys = {"ours.test"}

    async def signs_for(self, domain: str) -> bool:
        return domain in self.keys

    async def accept(
        self, draft: Any, envelope: Envelope, destinations: Destinations, arrival: Arrival
    ) -> Taken | Reply:
        if self.refusal is not None:
            return self.refusal
        self.taken.append((draft.octets, envelope, destinations, arrival))
        return Taken(1, len(draft.octets))


class FakePost:
    def __init__(self) -> None:
        self.posted: list[tuple[str, bytes, str]] = []
        self.answer: int | Unfetched = 200

    async def post(self, url: str, body: bytes, media_type: str) -> int:
        self.posted.append((url, body, media_type))
        if isinstance(self.answer, Unfetched):
            raise self.answer
        return self.answer


class Office:
    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.store = DirectStore(folder / "postroad.db", self.clock)
        self.dns = FakeLookup(txt={RECORD: ["v=TLSRPTv1; rua=mailto:tls@a.test"]})
        self.intake = FakeIntake()
        self.https = FakePost()
        self.plan = Plan()
        self.reports = TlsReports(
            sender=Address.parse("reports@ours.test"),
            hostname="mail.ours.test",
            store=self.store,
            memory=TlsMemory(Reads(self.store)),
            lookup=self.dns,
            https=self.https,
            intake=self.intake,
            spool=FakeSpool(),
            plan_for=self.plan_for,
            ids=IdMaker(7),
            clock=self.clock,
        )
        self.count()

    async def plan_for(self, address: Address) -> Plan:
        return Plan(remotes=[address]) if self.plan.refusal is None else self.plan

    def count(self) -> None:
        now = self.clock.wall_us()
        row = Counted(DAY, "a.test", "{}", "starttls-not-supported", "mx.a.test", "192.0.2.1", "", 2)
        self.store.run(tls_count, TlsCounts([row], now, now + 86_400_000_000))

    def left(self) -> int:
        return int(self.store.rows("SELECT count(*) FROM tls_reports")[0][0])

    def mail(self) -> Message:
        return message_from_bytes(self.intake.taken[0][0])


async def test_a_report_is_mailed(tmp_path: Path) -> None:
    """RFC 8460 section 5.3."""
    office = Office(tmp_path)
    assert await office.reports.send_due() == 1
    assert office.left() == 0
    mail = office.mail()
    assert mail["TLS-Report-Domain"] == "a.test"
    assert mail["TLS-Report-Submitter"] == "ours.test"
    assert mail["TLS-Required"] == "No"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["From"] == "reports@ours.test"
    subject = str(mail["Subject"]).replace("\r\n", "")
    assert subject.startswith("Report Domain: a.test Submitter: ours.test Report-ID: <")
    assert mail.get_content_type() == "multipart/report"
    assert mail.get_param("report-type") == "tlsrpt"
    words, attached = cast("list[Message]", mail.get_payload())
    assert words.get_content_type() == "text/plain"
    assert attached.get_content_type() == "application/tlsrpt+gzip"
    assert str(attached.get_filename()).startswith(f"ours.test!a.test!{DAY * 86_400}!{DAY * 86_400 + 86_399}!")
    assert str(attached.get_filename()).endswith(".json.gz")
    report = json.loads(gzip.decompress(cast(bytes, attached.get_payload(decode=True))))
    assert report["policies"][0]["summary"]["total-failure-session-count"] == 2


async def test_row_e15_no_report_answers_a_report(tmp_path: Path) -> None:
    """The null sender, no notification, and TLS-Required: No, whose sessions are not counted."""
    office = Office(tmp_path)
    await office.reports.send_due()
    _, envelope, destinations, arrival = office.intake.taken[0]
    assert envelope.sender is None
    assert [(str(one.address), one.notify) for one in envelope.recipients] == [("tls@a.test", "NEVER")]
    assert destinations.remotes == [("tls@a.test", "a.test", "NEVER", "")]
    assert (arrival.door, arrival.ours) == ("report", True)  # ours is what makes it signed


async def test_a_report_is_posted(tmp_path: Path) -> None:
    """RFC 8460 section 5.4."""
    office = Office(tmp_path)
    office.dns.txt_records[RECORD] = ["v=TLSRPTv1; rua=https://a.test/reports"]
    await office.reports.send_due()
    [(url, body, media_type)] = office.https.posted
    assert (url, media_type) == ("https://a.test/reports", "application/tlsrpt+gzip")
    assert json.loads(gzip.decompress(body))["organization-name"] == "ours.test"
    assert office.left() == 0


async def test_every_place_gets_it_and_one_is_enough(tmp_path: Path) -> None:
    office = Office(tmp_path)
    uris = ",".join(f"https://a.test/{number}" for number in range(10))
    office.dns.txt_records[RECORD] = [f"v=TLSRPTv1; rua=mailto:tls@a.test,{uris}"]
    office.https.answer = Unfetched("no")
    await office.reports.send_due()
    assert len(office.intake.taken) == 1
    assert len(office.https.posted) == TARGETS_MAX - 1
    assert office.left() == 0


@pytest.mark.parametrize("answer", [500, 404, 302, Unfetched("no")])
async def test_what_fails_is_tried_again_for_a_day(tmp_path: Path, answer: int | Unfetched) -> None:
    office = Office(tmp_path)
    office.dns.txt_records[RECORD] = ["v=TLSRPTv1; rua=https://a.test/reports"]
    office.https.answer = answer
    for _ in range(30):
        await office.reports.send_due()
        office.clock.advance(3600)
    assert 23 <= len(office.https.posted) <= 25
    assert office.left() == 0


async def test_a_full_queue_is_tried_again(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.intake.refusal = Reply(452, "4.3.1", "full")
    await office.reports.send_due()
    assert office.left() == 1


async def test_a_record_that_is_gone_ends_the_report_and_a_doubt_does_not(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.dns.txt_records[RECORD] = FAILED
    await office.reports.send_due()
    assert office.left() == 1
    office.dns.txt_records[RECORD] = []
    office.clock.advance(3600)
    await office.reports.send_due()
    assert office.left() == 0
    assert office.intake.taken == []


@pytest.mark.parametrize("uri", ["mailto:a@b@c", "mailto:<x>@a.test", "mailto:a%0D%0ABcc:x@a.test"])
async def test_what_is_no_address_gets_none(tmp_path: Path, uri: str) -> None:
    office = Office(tmp_path)
    office.dns.txt_records[RECORD] = [f"v=TLSRPTv1; rua={uri}"]
    await office.reports.send_due()
    assert office.intake.taken == []


async def test_an_address_of_ours_that_takes_no_mail_gets_none(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.plan = Plan(refusal=Reply(550, "5.1.1", "nobody"))
    await office.reports.send_due()
    assert office.intake.taken == []


async def test_reports_are_sent_some_at_a_time(tmp_path: Path) -> None:
    office = Office(tmp_path)
    now = office.clock.wall_us()
    rows = [Counted(DAY, f"d{n}.test", "{}", "", "", "", "", 1) for n in range(AT_ONCE + 5)]
    office.store.run(tls_count, TlsCounts(rows, now, now + 86_400_000_000))
    assert await office.reports.send_due() == AT_ONCE
    assert await office.reports.send_due() == 6
    assert await office.reports.send_due() == 0


async def test_no_report_is_mailed_that_nobody_signs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """RFC 8460 section 3: "Reports sent via SMTP MUST contain a valid DomainKeys Identified Mail (DKIM) [RFC6376]
    signature by the reporting domain." """
    office = Office(tmp_path)
    office.dns.txt_records[RECORD] = ["v=TLSRPTv1; rua=mailto:tls@a.test,mailto:tls@b.test"]
    office.intake.keys.clear()
    await office.reports.send_due()
    assert (office.left(), office.intake.taken) == (1, [])
    assert caplog.text.count("ours.test has no DKIM key") == 1
    office.intake.keys.add("ours.test")
    office.clock.advance(86_400)
    await office.reports.send_due()
    assert (office.left(), len(office.intake.taken)) == (0, 2)
