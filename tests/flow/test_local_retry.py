"""Copies that a mailbox could not take at acceptance: tried again by the runner like any delivery."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from postroad.flow.local import Plan as LocalPlan
from postroad.store.account_records import DomainAdd, UserAdd, UserQuota
from postroad.store.accounts import domain_add, user_add, user_quota
from postroad.store.queue import accept
from postroad.store.records import KIND_LOCAL, Accept, Copy, Leg
from postroad.values.address import Address
from tests.flow.yard import DAY_US, Yard, only, until

BOB = "bob@here.test"


@pytest_asyncio.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(tmp_path)
    made.store.run(domain_add, DomainAdd("here.test"))
    made.store.run(user_add, UserAdd(BOB, quota_bytes=1))
    made.runner.start()
    yield made
    await made.runner.drain(0.0)
    made.store.connection.close()


def account(yard: Yard) -> int:
    return int(only(yard.store.rows("SELECT id FROM accounts"))[0])


def mailbox(yard: Yard) -> list[bytes]:
    """What lies in mailboxes, as it is fetched."""
    rows = yard.store.rows(
        "SELECT p.prefix, m.header, m.body FROM mailbox_messages p JOIN messages m ON m.id = p.message"
    )
    return [b"".join(row) for row in rows]


def send(yard: Yard) -> Accept:
    """A message for bob, whose mailbox is full."""
    copy = Copy(BOB, account(yard), b"Return-Path: <a@ours.test>\r\n")
    message = yard.compose(copies=[copy], expires_us=yard.clock.wall_us() + DAY_US)
    assert any(yard.store.run(accept, message).copies)
    return message


async def test_a_full_mailbox_is_tried_again_and_takes_the_copy_when_there_is_room(yard: Yard) -> None:
    sent = send(yard)
    await yard.later(0.1)
    assert yard.open() == [(BOB, 0, "450 4.2.2 the mailbox is full")]
    yard.store.run(user_quota, UserQuota(BOB, 0))
    await yard.later(3)
    assert yard.open() == []
    assert only(mailbox(yard)) == b"Return-Path: <a@ours.test>\r\n" + sent.header + (sent.body or b"")
    assert yard.kinds(sent.id)[-2:] == ["deferred", "delivered"]


async def test_a_mailbox_that_stays_full_ends_in_a_report(yard: Yard) -> None:
    sent = send(yard)
    for _ in range(40):
        if yard.reports():
            break
        await yard.later(3960)
    report = only(yard.reports())
    assert b"the mailbox is full" in report
    assert b"\r\nStatus: 4.4.7\r\n" in report
    assert yard.kinds(sent.id)[-2:] == ["bounced", "reported"]


async def test_a_mailbox_that_is_gone_ends_in_a_report_at_once(yard: Yard) -> None:
    message = yard.compose(legs=[Leg(5, "gone@here.test", "here.test", kind=KIND_LOCAL, account=99)])
    yard.store.run(accept, message)
    yard.runner.wake()
    await until(yard.reports)
    assert b"\r\nStatus: 5.1.1\r\n" in only(yard.reports())


async def test_a_report_for_a_full_mailbox_waits_like_other_mail(yard: Yard) -> None:
    yard.plans[BOB] = LocalPlan(copies=[(account(yard), "INBOX", BOB)])
    yard.dns.mx_records["null.test"] = [(0, ".")]
    sent = yard.send("b@null.test", sender=BOB)
    await yard.settled()
    assert yard.kinds(sent.id) == ["bounced", "reported"]
    assert only(yard.open())[0] == BOB
    yard.store.run(user_quota, UserQuota(BOB, 0))
    await yard.later(3)
    assert b"multipart/report" in only(mailbox(yard))


async def test_a_bug_beside_a_copy_leaves_it_in_no_bodys_hands(yard: Yard) -> None:
    copy = Copy(BOB, account(yard), b"", notify="SUCCESS")
    message = yard.compose(copies=[copy], expires_us=yard.clock.wall_us() + DAY_US)
    assert any(yard.store.run(accept, message).copies)

    async def bug(address: Address) -> LocalPlan:
        raise RuntimeError("a bug")

    yard.runner.reporter._plan_for = bug
    await yard.later(0.1)
    assert yard.open() == [(BOB, 0, "451 4.3.0 internal error")]
