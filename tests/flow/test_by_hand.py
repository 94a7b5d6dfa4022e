"""What people and the policy do to mail, seen from the worker: held, released, moved, dropped and failed by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from postroad.flow import site_book
from postroad.flow.destinations import Destinations
from postroad.flow.fail_by_hand import Failing
from postroad.flow.intake import Arrival, Taken
from postroad.store.actions import (
    DROP,
    HOLD,
    MOVE,
    RELEASE,
    Act,
    Acted,
    ActionBegin,
    Finishing,
    Undo,
    act,
    action_begin,
    seize,
    undo,
)
from postroad.store.queue import record
from postroad.store.records import HELD, NEVER_US, THROTTLED
from postroad.values.address import Address
from postroad.values.envelope import Envelope, Recipient
from tests.fakes.smtp_server import FakeSmtp
from tests.flow.test_reports import ANNA, BOB, SENDER, Office, Words, fields
from tests.flow.yard import ME, only, until

HAND = 99
"""Incarnation of the command line."""


@pytest_asyncio.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    made = Office(tmp_path)
    made.runner.start()
    yield made
    await made.runner.drain(0.0)
    made.store.connection.close()


def do(office: Office, what: str, detail: str = "") -> tuple[int, Acted]:
    """Does something to every open delivery, and tells the worker what the store's process would."""
    number: int = office.store.run(action_begin, ActionBegin(what, "anna", "in the queue", detail))
    idents = [ident for (ident,) in office.store.rows("SELECT id FROM deliveries ORDER BY id")]
    office.store.writer.hints.clear()
    acted: Acted = office.store.run(act, Act(number, idents))
    tell(office)
    return number, acted


def tell(office: Office) -> None:
    for kind, _ in office.store.writer.hints:
        (office.runner.recall if kind == "recall" else office.runner.wake)()
    office.store.writer.hints.clear()


async def quarantined(office: Office, *recipients: tuple[str, str], **changes: Any) -> int:
    envelope = Envelope(Address.parse(SENDER), **changes)
    destinations = Destinations()
    for address, notify in recipients:
        recipient = Recipient(Address.parse(address), notify)
        envelope.recipients.append(recipient)
        destinations.add(recipient, office.plan(address))
    draft = Words(b"Subject: hello\r\n\r\n", b"Good day.\r\n")
    arrival = Arrival("ESMTP", "mx", quarantine="looks like a scam")
    taken = await office.intake.accept(draft, envelope, destinations, arrival)
    assert isinstance(taken, Taken)
    return taken.id


# -- quarantine --------------------------------------------------------------------------------------------------------


async def test_quarantined_mail_is_ours_in_nobodys_mailbox_and_held_with_its_reason(office: Office) -> None:
    async with FakeSmtp() as host:
        office.host("far.test", host)
        ident = await quarantined(office, (ANNA, "SUCCESS"), ("c@far.test", ""))
        await office.later(7 * 86_400)
        assert (office.filed(), host.messages, office.reports()) == (0, [], [])
        held = office.store.rows("SELECT state, held, due_us FROM deliveries")
        assert held == [(HELD, "looks like a scam", NEVER_US)] * 2
        told = office.events(ident)
        assert [(event.kind, event.cause, event.by, event.next_us) for event in told] == [
            ("held", "looks like a scam", "policy", 0)
        ] * 2


async def test_its_release_delivers_it_with_a_whole_lifetime_and_the_report_that_was_asked_for(office: Office) -> None:
    async with FakeSmtp(RCPT="450 4.2.0 later") as host:
        office.host("far.test", host)
        ident = await quarantined(office, (ANNA, "SUCCESS"), ("c@far.test", ""))
        await office.later(20 * 86_400)
        do(office, RELEASE)
        await until(lambda: host.commands)
        await office.settled()
        assert office.filed() == 1
        assert fields(only(office.reports()), "Action", "Final-Recipient") == ["rfc822; anna@here.test", "delivered"]
        assert office.kinds(ident)[:4] == ["held", "held", "released", "released"]
        assert sorted(office.kinds(ident)[4:]) == ["deferred", "delivered", "reported"]
        host.script.clear()
        await office.later(7200)
        assert host.recipients == ["c@far.test"]


async def test_its_drop_ends_it_without_a_word_to_the_sender(office: Office) -> None:
    ident = await quarantined(office, (ANNA, "SUCCESS,FAILURE"))
    do(office, DROP)
    office.clock.advance(61)
    Finishing(office.store.writer).step(0.0)
    assert office.store.rows("SELECT count(*) FROM messages") == [(0,)]
    assert (office.filed(), office.reports()) == (0, [])
    assert office.kinds(ident) == ["held", "dropped"]


async def test_quarantine_outlasts_the_time_its_sender_asked_for(office: Office) -> None:
    await quarantined(office, (ANNA, ""), release_us=office.clock.wall_us() + 60_000_000)
    await office.later(120)
    assert office.filed() == 0


# -- workers -----------------------------------------------------------------------------------------------------------


async def test_a_moved_delivery_goes_to_the_host_named_and_the_others_as_ever(office: Office) -> None:
    async with FakeSmtp(RCPT="450 4.2.0 later") as usual, FakeSmtp() as other:
        office.host("far.test", usual)
        await office.submit(("c@far.test", ""))
        await office.settled()
        do(office, MOVE, f"127.0.0.1:{other.port}")
        await until(lambda: other.messages)
        await office.settled()
        usual.script.clear()
        await office.submit(("d@far.test", ""))
        await office.settled()
        assert (other.recipients, usual.recipients) == (["c@far.test"], ["d@far.test"])


async def test_a_moved_delivery_whose_host_is_gone_waits(office: Office) -> None:
    async with FakeSmtp(RCPT="450 4.2.0 later") as usual:
        office.host("far.test", usual)
        await office.submit(("c@far.test", ""))
        await office.settled()
    do(office, MOVE, "127.0.0.1:1")
    await until(lambda: "refused" in office.open()[0][2])


async def test_what_only_waits_in_a_lane_comes_back_and_what_is_sent_is_sent_once(tmp_path: Path) -> None:
    office = Office(tmp_path, connections_per_lane=1)
    office.runner.start()
    async with FakeSmtp() as host:
        office.host("far.test", host)
        host.hold = asyncio.Event()
        first = await office.submit(("c@far.test", ""))
        await until(lambda: any("DATA" in line for line in host.commands))
        second = await office.submit(("d@far.test", ""))
        number, acted = do(office, HOLD, "stop")
        assert (acted.touched, len(acted.under_way)) == (2, 2)
        await until(lambda: office.runner.in_flight == 1)
        assert [row[:2] for row in office.open()] == [("c@far.test", ME), ("d@far.test", 0)]
        host.hold.set()
        await office.settled()
        assert host.recipients == ["c@far.test"]
        assert office.kinds(first)[-1] == "delivered"
        assert office.kinds(second)[-1] == "held"
        answer = office.store.run(undo, Undo(number, "anna"))
        assert (answer.restored, answer.passed) == (1, 1)
        await office.later(2)
        assert host.recipients == ["c@far.test", "d@far.test"]
    await office.runner.drain(0.0)
    office.store.connection.close()


@pytest.mark.parametrize("what, detail", [(HOLD, "stop"), (DROP, ""), (MOVE, "127.0.0.1:1")])
async def test_what_is_held_dropped_or_moved_while_its_way_is_looked_for_is_not_sent_there(
    office: Office, what: str, detail: str
) -> None:
    """A resolver may take its time; that is not the hands of a connection."""
    async with FakeSmtp() as host:
        office.host("far.test", host)
        asked, answer = asyncio.Event(), asyncio.Event()

        async def next_hop_of(domain: str) -> str:
            asked.set()
            await answer.wait()
            return ""

        office.runner._next_hop_of = next_hop_of
        await office.submit(("c@far.test", ""))
        await asked.wait()
        do(office, what, detail)
        answer.set()
        await until(lambda: office.runner.in_flight == 0)
        await office.settled()
        assert host.messages == []
        assert [row[:2] for row in office.open()] == [("c@far.test", 0)]


async def test_a_lane_that_has_enough_throttles_and_does_not_defer(office: Office) -> None:
    async with FakeSmtp() as host:
        office.host("far.test", host)
    await office.submit(("c@far.test", ""))
    await office.settled()
    await office.submit(("d@far.test", ""))
    await office.settled()
    states = office.store.rows("SELECT recipient, state FROM deliveries ORDER BY id")
    assert states[1] == ("d@far.test", THROTTLED)


async def test_the_sites_of_domains_reach_the_store(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_book, "GATHER_S", 0.0)
    async with FakeSmtp() as host:
        office.host("far.test", host)
        for _ in range(2):
            await office.submit(("c@far.test", ""))
            await office.settled()
        await until(lambda: office.store.rows("SELECT domain, site FROM sites"))
        assert office.store.rows("SELECT domain, site FROM sites") == [("far.test", f"127.0.0.1:{host.port}")]
        assert office.store.calls.count("sites_learnt") == 1


# -- failing -----------------------------------------------------------------------------------------------------------


async def fail(office: Office, *idents: int) -> None:
    failing = Failing(
        reporter=office.runner.reporter,
        letters=office.store,
        note=office.story.note,
        by="postroad queue, anna",
        why="the company has closed",
    )
    number = office.store.run(action_begin, ActionBegin("fail", "anna", "w"))
    seized = office.store.run(seize, Act(number, list(idents), HAND))
    ends = await failing.ends(seized.deliveries, HAND, office.clock.wall_us())
    assert office.store.run(record, ends).deliveries == []


async def test_a_failed_delivery_ends_with_the_report_of_a_bounce(office: Office) -> None:
    async with FakeSmtp(RCPT="450 4.2.0 later") as host:
        office.host("far.test", host)
        ident = await office.submit(("c@far.test", ""), ("d@far.test", "NEVER"))
        await office.settled()
        await fail(office, *[row[0] for row in office.store.rows("SELECT id FROM deliveries")])
        report = only(office.reports())
        assert fields(report, "Action", "Status", "Final-Recipient") == ["rfc822; c@far.test", "failed", "5.3.0"]
        assert b"the company has closed" in report
        bounced = [event for event in office.events(ident) if event.kind == "bounced"]
        assert {event.by for event in bounced} == {"postroad queue, anna"}
        assert office.kinds(ident)[-1] == "reported"


async def test_a_failed_report_ends_without_another(office: Office) -> None:
    envelope = Envelope(None, [Recipient(Address.parse("c@far.test"))])
    destinations = Destinations()
    destinations.add(envelope.recipients[0], office.plan("c@far.test"))
    async with FakeSmtp(RCPT="450 4.2.0 later") as host:
        office.host("far.test", host)
        ident = await office.take(envelope, destinations)
        await office.settled()
        await fail(office, *[row[0] for row in office.store.rows("SELECT id FROM deliveries")])
    assert office.store.rows("SELECT count(*) FROM messages") == [(0,)]
    assert office.kinds(ident)[-2:] == ["bounced", "discarded"]


async def test_a_quarantined_copy_can_be_failed_too(office: Office) -> None:
    await quarantined(office, (BOB, ""))
    await fail(office, *[row[0] for row in office.store.rows("SELECT id FROM deliveries")])
    assert office.filed() == 0
    assert fields(only(office.reports()), "Action") == ["failed"]
