"""What senders are told, from acceptance to the end (RFC 3461): real intake, runner and store, faked time and hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from postroad.flow.destinations import Destinations
from postroad.flow.intake import Arrival, Intake, Taken
from postroad.flow.local import Plan
from postroad.flow.submission import Submission
from postroad.store.account_records import DomainAdd, UserAdd, UserQuota
from postroad.store.accounts import domain_add, user_add, user_quota
from postroad.store.queue import claim
from postroad.store.records import Claim
from postroad.trust.dkim.canonical import BodyHash
from postroad.values.address import Address
from postroad.values.envelope import Envelope, Recipient
from postroad.values.errors import StoreBroken
from tests.fakes.smtp_server import OK, FakeSmtp
from tests.flow.yard import DAY_US, ME, Yard, only, until

SENDER = "a@ours.test"
ANNA, BOB = "anna@here.test", "bob@here.test"
WARN_S = 4 * 3600.0
DSN = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN")


class Words:
    """A small message that has been received."""

    def __init__(self, header: bytes, body: bytes) -> None:
        self.size = len(header) + len(body)
        self.header_too_large = False
        self.body_hash: BodyHash | None = None
        self._settled = (header, body, "")

    async def settle(self) -> tuple[bytes, bytes | None, str]:
        return self._settled

    def discard(self) -> None: ...


class Office(Yard):
    """A yard with the door in front of it, and two mailboxes."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        super().__init__(folder, **({"warn_after_s": WARN_S} | changes))
        self.store.run(domain_add, DomainAdd("here.test"))
        for address in (ANNA, BOB):
            self.store.run(user_add, UserAdd(address))
        idents = self.store.rows("SELECT id FROM accounts ORDER BY id")
        self.accounts = {address: int(ident) for address, (ident,) in zip((ANNA, BOB), idents, strict=True)}
        self.intake = Intake(
            hostname="mail.ours.test",
            store=self.store,  # type: ignore[arg-type]
            story=self.story,
            runner=self.runner,
            ids=self.ids,
            clock=self.clock,
            first_retry_s=2.0,
            lifetime_s=5 * 86_400.0,
            max_hops=50,
            warn_after_s=WARN_S,
            reporter=self.runner.reporter,
        )

    def plan(self, *addresses: str) -> Plan:
        """Where an address leads that stands for these."""
        here = [address for address in addresses if address in self.accounts]
        return Plan(
            [(self.accounts[address], "INBOX", address) for address in here],
            [Address.parse(address, utf8=True) for address in addresses if address not in self.accounts],
        )

    async def submit(self, *recipients: tuple[str, str] | tuple[str, str, str], **changes: Any) -> int:
        """Accepts a message for addresses with NOTIFY and ORCPT; returns its id."""
        envelope = Envelope(Address.parse(SENDER), **changes)
        destinations = Destinations()
        for address, notify, *orcpt in recipients:
            recipient = Recipient(Address.parse(address, utf8=True), notify, *orcpt)
            envelope.recipients.append(recipient)
            destinations.add(recipient, self.plan(address))
        return await self.take(envelope, destinations)

    async def take(self, envelope: Envelope, destinations: Destinations) -> int:
        draft = Words(b"Subject: hello\r\n\r\n", b"Good day.\r\n")
        taken = await self.intake.accept(draft, envelope, destinations, Arrival("ESMTPSA", "submission"))
        assert isinstance(taken, Taken)
        return taken.id

    def filed(self) -> int:
        return int(only(self.store.rows("SELECT count(*) FROM mailbox_messages"))[0])

    def quota(self, address: str, octets: int) -> None:
        self.store.run(user_quota, UserQuota(address, octets))

    def legs(self) -> list[Any]:
        """Open deliveries that are not reports."""
        return self.store.rows(
            "SELECT d.recipient, d.due_us, d.warn_us FROM deliveries d JOIN messages m ON m.id = d.message"
            " WHERE m.sender <> '' ORDER BY d.id"
        )


@pytest_asyncio.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    made = Office(tmp_path)
    made.runner.start()
    yield made
    await made.runner.drain(0.0)
    made.store.connection.close()


def fields(report: bytes, *names: str) -> list[str]:
    """Values of fields of the machine-readable part, in order."""
    lines = report.partition(b"message/delivery-status")[2].decode().split("\r\n")
    return [line.partition(": ")[2] for line in lines if line.partition(":")[0] in names]


# -- delivered ---------------------------------------------------------------------------------------------------------


async def test_a_delivery_into_a_mailbox_is_reported_in_the_accepting_transaction(office: Office) -> None:
    ident = await office.submit((ANNA, "SUCCESS,FAILURE", "rfc822;anna+2Bx@old.test"), ret="FULL", envid="QQ+2B1")
    assert office.store.calls.count("accept") == 1
    assert office.filed() == 1
    report = only(office.reports())
    assert fields(report, "Action", "Status", "Final-Recipient") == ["rfc822; anna@here.test", "delivered", "2.0.0"]
    assert fields(report, "Original-Recipient") == ["rfc822; anna+x@old.test"]
    assert fields(report, "Original-Envelope-Id") == ["QQ+1"]
    # RFC 3461 section 6.2: no failure, so only the header, whatever RET says.
    assert b"text/rfc822-headers" in report
    assert b"Good day." not in report
    assert office.kinds(ident) == ["delivered", "reported"]


@pytest.mark.parametrize("notify", ["", "NEVER", "FAILURE", "DELAY", "FAILURE,DELAY"])
async def test_who_did_not_ask_is_not_told_of_a_delivery(office: Office, notify: str) -> None:
    await office.submit((ANNA, notify))
    assert office.filed() == 1
    assert office.reports() == []


async def test_several_deliveries_of_one_message_are_one_report(office: Office) -> None:
    await office.submit((ANNA, "SUCCESS"), (BOB, "SUCCESS"))
    report = only(office.reports())
    assert fields(report, "Final-Recipient") == ["rfc822; anna@here.test", "rfc822; bob@here.test"]
    assert b"Subject: Delivered: your mail to anna@here.test and 1 more\r\n" in report


async def test_row_s47_mail_with_a_null_sender_is_never_reported(office: Office) -> None:
    destinations = Destinations()
    anna = Recipient(Address.parse(ANNA), "SUCCESS")
    destinations.add(anna, office.plan(ANNA))
    await office.take(Envelope(None, [anna]), destinations)
    assert office.filed() == 1
    assert office.store.rows("SELECT count(*) FROM messages") == [(1,)]


async def test_a_plain_message_asks_for_no_report_and_no_plan(office: Office) -> None:
    async def unknown(address: Address) -> Plan:
        raise StoreBroken("nobody may ask")

    office.runner.reporter._plan_for = unknown
    await office.submit((ANNA, ""))
    assert office.filed() == 1


async def test_when_nobody_can_say_where_the_report_goes_nothing_is_accepted(office: Office) -> None:
    async def unknown(address: Address) -> Plan:
        raise StoreBroken("input/output error")

    office.runner.reporter._plan_for = unknown
    with pytest.raises(StoreBroken):
        await office.submit((ANNA, "SUCCESS"))
    assert office.filed() == 0


async def test_a_copy_that_cannot_be_filed_is_reported_when_it_is(office: Office) -> None:
    office.quota(BOB, 1)
    ident = await office.submit((ANNA, "SUCCESS"), (BOB, "SUCCESS", "rfc822;b"))
    assert office.filed() == 1
    assert fields(only(office.reports()), "Final-Recipient") == ["rfc822; anna@here.test"]
    assert [leg[0] for leg in office.legs()] == [BOB]
    office.quota(BOB, 0)
    await office.later(3)
    assert office.filed() == 2
    _, second = office.reports()
    assert fields(second, "Original-Recipient", "Final-Recipient") == ["rfc822; b", "rfc822; bob@here.test"]
    assert fields(second, "Action") == ["delivered"]
    told = [(event.kind, event.recipient) for event in office.events(ident)]
    assert told[0] == ("delivered", ANNA)
    assert told[-2:] == [("delivered", BOB), ("reported", SENDER)]
    assert ("deferred", BOB) in told


@pytest.mark.slow
async def test_a_copy_that_cannot_be_filed_keeps_the_wish_to_hear_nothing(office: Office) -> None:
    office.quota(BOB, 1)
    await office.submit((BOB, "NEVER"))
    await office.later(1)
    await until_over(office)
    assert office.legs() == []
    assert office.reports() == []


async def test_a_repeated_submission_is_reported_once(office: Office) -> None:
    anna = Recipient(Address.parse(ANNA), "SUCCESS")
    taken = []
    for _ in range(2):
        envelope, destinations = Envelope(Address.parse(SENDER), [anna]), Destinations()
        destinations.add(anna, office.plan(ANNA))
        submission = Submission("account 7")
        submission.read(b"Message-ID: <1@ours.test>\r\n\r\n", envelope)
        draft = Words(b"Message-ID: <1@ours.test>\r\n\r\n", b"Good day.\r\n")
        arrival = Arrival("ESMTPSA", "submission")
        taken.append(await office.intake.accept(draft, envelope, destinations, arrival, submission=submission))
    first, second = taken
    assert isinstance(first, Taken)
    assert isinstance(second, Taken)
    assert (second.id, second.repeated) == (first.id, True)
    assert office.filed() == 1
    assert len(office.reports()) == 1
    assert office.kinds(first.id) == ["delivered", "reported", "repeated"]


# -- aliases -----------------------------------------------------------------------------------------------------------


async def test_an_alias_of_several_is_reported_as_expanded(office: Office) -> None:
    async with FakeSmtp(DSN) as host:
        office.host("far.test", host)
        destinations = Destinations()
        team = Recipient(Address.parse("team@here.test"), "SUCCESS,FAILURE", "rfc822;t")
        destinations.add(team, office.plan(ANNA, BOB, "c@far.test"))
        envelope = Envelope(Address.parse(SENDER), [team], envid="E")
        await office.take(envelope, destinations)
        await office.settled()
        report = only(office.reports())
        assert fields(report, "Final-Recipient", "Action", "Original-Recipient") == [
            "rfc822; t",
            "rfc822; team@here.test",
            "expanded",
        ]
        assert only(host.messages).rcpt_lines == ["RCPT TO:<c@far.test> NOTIFY=FAILURE ORCPT=rfc822;t"]


# -- relayed -----------------------------------------------------------------------------------------------------------


async def test_a_host_without_dsn_is_reported_as_relayed_with_its_answer(office: Office) -> None:
    async with FakeSmtp(DOT="250 2.0.0 taken as 42") as host:
        office.host("far.test", host)
        ident = await office.submit(("c@far.test", "SUCCESS", "rfc822;c"), ("d@far.test", ""), envid="E", ret="HDRS")
        await office.settled()
        got = only(host.messages)
        assert not any(word in got.mail_line for word in ("RET", "ENVID"))
        assert got.rcpt_lines == ["RCPT TO:<c@far.test>", "RCPT TO:<d@far.test>"]
    report = only(office.reports())
    assert fields(report, "Action", "Final-Recipient") == ["rfc822; c@far.test", "relayed"]
    assert fields(report, "Remote-MTA", "Diagnostic-Code") == ["dns; 127.0.0.1", "smtp; 250 2.0.0 taken as 42"]
    recorded = office.store.recorded[0]
    assert (len(recorded.done), len(recorded.reports)) == (2, 1)
    assert office.kinds(ident)[-1] == "reported"


@pytest.mark.parametrize("notify", ["NEVER", "FAILURE", "SUCCESS", "SUCCESS,FAILURE,DELAY"])
async def test_a_host_with_dsn_gets_the_wishes_as_they_came_and_we_say_nothing(office: Office, notify: str) -> None:
    """RFC 3461 section 5.2.1 (a) to (d)."""
    async with FakeSmtp(DSN) as host:
        office.host("far.test", host)
        await office.submit(("c@far.test", notify, "rfc822;Anna+2BX@far.test"), envid="Q+2B1", ret="FULL")
        await office.settled()
        got = only(host.messages)
        assert got.mail_line.endswith(" RET=FULL ENVID=Q+2B1")
        assert got.rcpt_lines == [f"RCPT TO:<c@far.test> NOTIFY={notify} ORCPT=rfc822;Anna+2BX@far.test"]
    assert office.reports() == []


async def test_a_host_with_dsn_gets_nothing_that_was_not_given(office: Office) -> None:
    async with FakeSmtp(DSN) as host:
        office.host("far.test", host)
        await office.submit(("c@far.test", ""))
        await office.settled()
        got = only(host.messages)
        assert not any(word in got.mail_line for word in ("RET", "ENVID"))
        assert got.rcpt_lines == ["RCPT TO:<c@far.test>"]


@pytest.mark.parametrize(
    "utf8, orcpt, sent",
    [
        (True, "utf-8;jörg@x", "utf-8;jörg@x"),
        (False, "utf-8;jörg@x", r"utf-8;j\x{F6}rg@x"),
        # A space of no width is no printable character, although it may stand in an address.
        (True, "utf-8;j\u200b@x", r"utf-8;j\x{200B}@x"),
    ],
)
async def test_an_original_recipient_in_utf8_fits_every_host(office: Office, utf8: bool, orcpt: str, sent: str) -> None:
    """RFC 6533 section 3."""
    async with FakeSmtp((*DSN, "SMTPUTF8") if utf8 else DSN) as host:
        office.host("far.test", host)
        await office.submit(("jörg@far.test" if utf8 else "c@far.test", "FAILURE", orcpt), smtputf8=utf8)
        await office.settled()
        assert only(only(host.messages).rcpt_lines).endswith(f" ORCPT={sent}")


async def test_a_failure_and_a_relay_of_one_transaction_are_one_report(office: Office) -> None:
    async with FakeSmtp(RCPT=["550 5.1.1 unknown", OK]) as host:
        office.host("far.test", host)
        await office.submit(("c@far.test", ""), ("d@far.test", "SUCCESS"))
        await office.settled()
    assert fields(only(office.reports()), "Action") == ["failed", "relayed"]


async def test_what_a_host_took_is_not_sent_again_because_its_report_cannot_be_made(office: Office) -> None:
    async with FakeSmtp() as host:
        office.host("far.test", host)

        async def unknown(address: Address) -> Plan:
            raise StoreBroken("input/output error")

        office.runner.reporter._plan_for = unknown
        await office.submit(("c@far.test", "SUCCESS"))
        await office.settled()
        assert office.legs() == []
        assert len(host.messages) == 1


# -- delayed -----------------------------------------------------------------------------------------------------------


async def until_over(office: Office) -> None:
    """Lets attempts be made until none is left to make."""
    for _ in range(200):
        if not office.legs():
            return
        await passes(office, 1)
    raise AssertionError("tried for ever")


async def passes(office: Office, hours: float) -> None:
    """Lets time go by with an attempt every hour, which is what the schedule comes to."""
    for _ in range(round(hours)):
        await office.later(3960)


@pytest.mark.slow
async def test_row_d15_a_delay_is_told_once_and_then_the_failure(office: Office) -> None:
    async with FakeSmtp(RCPT="450 4.2.0 greylisted, come back") as host:
        office.host("far.test", host)
        begun_us = office.clock.wall_us()
        ident = await office.submit(("c@far.test", ""), ("d@far.test", "DELAY"), envid="E")
        await office.settled()
        await passes(office, 3)
        assert office.reports() == []
        await passes(office, 3)
        report = only(office.reports())
        assert fields(report, "Action") == ["delayed", "delayed"]
        assert fields(report, "Status") == ["4.2.0", "4.2.0"]
        assert fields(report, "Original-Envelope-Id") == ["E"]
        assert len(fields(report, "Will-Retry-Until")) == 2
        assert b"You need not send it again" in report
        assert [warn_us for _, _, warn_us in office.legs()] == [0, 0]
        assert office.kinds(ident).count("reported") == 1
        await passes(office, 3)
        assert len(office.reports()) == 1
        await until_over(office)
        assert office.clock.wall_us() >= begun_us + 5 * DAY_US
        # D wanted to hear of delay only.
        assert fields(office.reports()[-1], "Action", "Final-Recipient") == ["rfc822; c@far.test", "failed"]


@pytest.mark.parametrize("notify", ["NEVER", "FAILURE", "SUCCESS,FAILURE"])
async def test_who_gave_notify_without_delay_is_not_told(office: Office, notify: str) -> None:
    """RFC 3461 section 5.2.5 (c)."""
    async with FakeSmtp(RCPT="450 4.2.0 later") as host:
        office.host("far.test", host)
        await office.submit(("c@far.test", notify))
        await office.settled()
        await passes(office, 12)
    assert office.reports() == []


async def test_zero_turns_the_warning_off(tmp_path: Path) -> None:
    office = Office(tmp_path, warn_after_s=0.0)
    office.runner.start()
    async with FakeSmtp(RCPT="450 4.2.0 later") as host:
        office.host("far.test", host)
        await office.submit(("c@far.test", "DELAY"))
        await office.settled()
        await passes(office, 12)
    assert office.reports() == []
    await office.runner.drain(0.0)
    office.store.connection.close()


async def test_a_clock_that_jumps_ahead_warns_nobody(office: Office) -> None:
    async with FakeSmtp(RCPT="450 4.2.0 later") as host:
        office.host("far.test", host)
        await office.submit(("c@far.test", ""))
        await office.settled()
        office.clock.jump_wall(86_400)
        await passes(office, 1)
        assert office.reports() == []
        await passes(office, 5)
        assert len(office.reports()) == 1


async def test_a_warning_is_not_repeated_by_the_next_owner(office: Office) -> None:
    """What was told is in the row, so a restart does not forget it."""
    async with FakeSmtp(RCPT="450 4.2.0 later") as host:
        office.host("far.test", host)
        await office.submit(("c@far.test", ""))
        await office.settled()
        await passes(office, 6)
        assert len(office.reports()) == 1
    office.clock.advance(8000)
    claimed = office.store.run(claim, Claim(ME + 1, 10, [60.0]), ME + 1)
    assert [due.warn_us for due in claimed.deliveries if due.recipient == "c@far.test"] == [0]


async def test_a_mailbox_that_stays_full_is_a_delay_too(office: Office) -> None:
    office.quota(BOB, 1)
    await office.submit((BOB, ""))
    await passes(office, 6)
    assert fields(only(office.reports()), "Action", "Final-Recipient") == ["rfc822; bob@here.test", "delayed"]


async def test_a_warning_that_cannot_be_made_is_made_later(office: Office) -> None:
    async with FakeSmtp(RCPT="450 4.2.0 later") as host:
        office.host("far.test", host)
        await office.submit(("c@far.test", ""))
        await office.settled()
        planned = office.runner.reporter._plan_for

        async def unknown(address: Address) -> Plan:
            raise StoreBroken("input/output error")

        office.runner.reporter._plan_for = unknown
        await passes(office, 6)
        assert office.reports() == []
        office.runner.reporter._plan_for = planned
        await passes(office, 2)
        assert len(office.reports()) == 1


# -- later by wish (RFC 4865) ------------------------------------------------------------------------------------------


async def test_nothing_of_a_held_message_is_delivered_before_its_release(office: Office) -> None:
    async with FakeSmtp() as host:
        office.host("far.test", host)
        release_us = office.clock.wall_us() + 7200 * 1_000_000
        ident = await office.submit((ANNA, "SUCCESS"), ("c@far.test", ""), release_us=release_us)
        assert sorted(office.legs()) == [
            (ANNA, release_us, release_us + int(WARN_S * 1e6)),
            ("c@far.test", release_us, release_us + int(WARN_S * 1e6)),
        ]
        [expires_us] = only(office.store.rows("SELECT expires_us FROM messages WHERE id = ?", ident))
        assert expires_us == release_us + 5 * DAY_US
        assert [(event.kind, event.next_us) for event in office.events(ident)] == [("held", release_us)] * 2
        await office.later(7190)
        assert (office.filed(), host.messages, office.reports()) == (0, [], [])
        await office.later(11)
        await until(lambda: host.messages)
        await office.settled()
        assert office.filed() == 1
        assert fields(only(office.reports()), "Action", "Final-Recipient") == ["rfc822; anna@here.test", "delivered"]
        assert sorted(office.kinds(ident)) == ["delivered", "delivered", "held", "held", "reported"]


async def test_a_release_that_is_past_holds_nothing(office: Office) -> None:
    ident = await office.submit((ANNA, ""), release_us=office.clock.wall_us() - 1)
    assert office.kinds(ident) == ["delivered"]


async def test_a_delay_counts_from_the_release(office: Office) -> None:
    async with FakeSmtp(RCPT="450 4.2.0 later") as host:
        office.host("far.test", host)
        await office.submit(("c@far.test", ""), release_us=office.clock.wall_us() + DAY_US)
        await office.later(86_401)
        await passes(office, 3)
        assert office.reports() == []
        await passes(office, 3)
        assert len(office.reports()) == 1
