"""Another sender and more recipients for a message that waits, and the sites of domains, on both engines."""

from __future__ import annotations

from postroad.store.amendments import NewRecipients, NewSender, amend_recipients, amend_sender
from postroad.store.records import KIND_LOCAL
from postroad.store.sites import SITES_KEPT_US, ForgottenSites, Planned, SitesLearnt, sites_learnt
from postroad.store.units import ROWS_PER_UNIT
from postroad.values.event import Event, pack, unpack
from tests.store.stores import START_US, Desk, leg

STORY = pack([Event(kind="amended", at_us=START_US)])


def test_another_sender_stands_in_the_message_and_in_copies_that_are_not_filed_yet(desk: Desk) -> None:
    prefix = b"Return-Path: <a@example.org>\r\nDelivered-To: u@here.test\r\n"
    desk.accept(1, legs=[leg(10, prefix=b"DKIM-Signature: x\r\n"), leg(11, kind=KIND_LOCAL, prefix=prefix)])
    assert desk.run(amend_sender, NewSender(1, "eva@new.test", STORY))
    assert desk.rows("SELECT sender FROM messages") == [("eva@new.test",)]
    assert [bytes(row[0]) for row in desk.rows("SELECT prefix FROM deliveries ORDER BY id")] == [
        b"DKIM-Signature: x\r\n",
        b"Return-Path: <eva@new.test>\r\nDelivered-To: u@here.test\r\n",
    ]
    assert not desk.run(amend_sender, NewSender(2, "eva@new.test", STORY))


def test_more_recipients_are_due_found_and_signed_as_the_others(desk: Desk) -> None:
    desk.accept(1, login="anna@dev.test", tls=1, legs=[leg(10, owner=5, prefix=b"DKIM-Signature: x\r\n")])
    desk.writer.hints.clear()
    more = NewRecipients(1, [leg(20, "c@more.test"), leg(21, "u@here.test", kind=KIND_LOCAL)], "c@more.test", STORY)
    assert desk.run(amend_recipients, more)
    rows = desk.rows(
        "SELECT id, domain, owner, attempts, login, tls, prefix FROM deliveries WHERE id >= 20 ORDER BY id"
    )
    assert [(*row[:6], bytes(row[6])) for row in rows] == [
        (20, "more.test", 0, 0, "anna@dev.test", 1, b"DKIM-Signature: x\r\n"),
        (21, "here.test", 0, 0, "anna@dev.test", 1, b""),
    ]
    assert desk.rows("SELECT keys FROM history") == [("a@example.org\nb@example.net\nc@more.test",)]
    assert desk.writer.hints == [("queue", 0)]
    assert [event.kind for (raw,) in desk.rows("SELECT events FROM journal") for event in unpack(raw)] == [
        "received", "amended",
    ]  # fmt: skip
    assert not desk.run(amend_recipients, NewRecipients(2, [leg(30)], "", STORY))
    assert desk.count("deliveries") == 3


def test_the_newest_site_of_a_domain_counts_and_old_ones_are_forgotten(desk: Desk) -> None:
    desk.run(sites_learnt, SitesLearnt([Planned("a.test", "mx1"), Planned("b.test", "mx1")]))
    desk.clock.advance(SITES_KEPT_US / 1e6)
    desk.run(sites_learnt, SitesLearnt([Planned("b.test", "mx2")]))
    desk.clock.advance(1)
    chore = ForgottenSites(desk.writer)
    chore.step(0.0)
    assert desk.rows("SELECT domain, site FROM sites") == [("b.test", "mx2")]
    assert chore.due > 0


def test_a_call_teaches_no_more_than_a_unit_may_touch(desk: Desk) -> None:
    many = [Planned(f"d{number}.test", "mx") for number in range(ROWS_PER_UNIT + 10)]
    desk.run(sites_learnt, SitesLearnt(many))
    assert desk.count("sites") == ROWS_PER_UNIT
