"""Mail for gateway domains on its way: to the host of the directory and no other, by SMTP and by LMTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from postroad.flow.route import read_signposts
from postroad.flow.shaping import Limits
from postroad.store.account_records import DomainAdd, DomainGateway
from postroad.store.accounts import domain_add
from postroad.store.gateways import domain_gateway
from postroad.values.address import Address
from postroad.values.envelope import Recipient
from tests.fakes.smtp_server import OK, FakeSmtp
from tests.flow.yard import Yard, only, until


@pytest_asyncio.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    """gate.test is served here, and DNS says so too."""
    signposts = read_signposts(allow_private=["127.0.0.0/8"], own_names=["mail.ours.test"])
    made = Yard(tmp_path, signposts=signposts)
    made.dns.mx_records["gate.test"] = [(10, "mail.ours.test")]
    made.store.run(domain_add, DomainAdd("gate.test"))
    made.runner.start()
    yield made
    await made.runner.drain(0.0)
    made.store.connection.close()


def point(yard: Yard, host: FakeSmtp | str) -> None:
    """Makes a server the host of gate.test, and lets the runner know as the store's hint does."""
    where = host if isinstance(host, str) else f"{'lmtp:' if host.lmtp else ''}127.0.0.1:{host.port}"
    assert yard.store.run(domain_gateway, DomainGateway("gate.test", where)).done
    yard.runner.reroute()


async def test_mail_goes_to_the_host_of_the_domain_though_mx_names_ourselves(yard: Yard) -> None:
    async with FakeSmtp(extensions=("PIPELINING", "DSN")) as host:
        point(yard, host)
        bob = Recipient(Address.parse("b@gate.test"), "SUCCESS,FAILURE", "rfc822;b@gate.test")
        yard.send(bob)
        await yard.settled()
        [line] = only(host.messages).rcpt_lines
        assert line == "RCPT TO:<b@gate.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b@gate.test"
        assert "gate.test/MX" not in yard.dns.asked


async def test_mail_that_waits_goes_to_the_host_the_domain_has_then(yard: Yard) -> None:
    async with FakeSmtp(RCPT="450 4.2.0 later") as old, FakeSmtp() as new:
        point(yard, old)
        yard.send("b@gate.test")
        await yard.settled()
        assert len(yard.open()) == 1
        point(yard, new)
        await yard.later(3.0)
        assert (old.recipients, new.recipients) == ([], ["b@gate.test"])


async def test_mail_in_the_line_of_the_old_host_changes_over_too(yard: Yard) -> None:
    """A host that answers nothing holds one message; those behind it do not wait for it."""
    async with FakeSmtp() as old, FakeSmtp() as new:
        yard.runner._lanes.limits = Limits(1, 100)
        old.hold = asyncio.Event()
        point(yard, old)
        for user in "abc":
            yard.send(f"{user}@gate.test")
        await until(lambda: old.messages)
        point(yard, new)
        await until(lambda: len(new.recipients) == 2)
        old.hold.set()
        await yard.settled()
        assert (old.recipients, sorted(new.recipients)) == (["a@gate.test"], ["b@gate.test", "c@gate.test"])
        assert yard.open() == []


async def test_a_change_while_the_way_is_planned_is_not_missed(yard: Yard) -> None:
    async with FakeSmtp() as old, FakeSmtp() as new:
        point(yard, old)
        looks: list[str] = []

        async def slow(domain: str) -> str:
            found = await yard.directory.next_hop(domain)
            looks.append(found)
            if len(looks) == 1:
                point(yard, new)
            return found

        yard.runner._next_hop_of = slow
        yard.send("b@gate.test")
        await yard.settled()
        assert (old.recipients, new.recipients, len(looks)) == ([], ["b@gate.test"], 2)


async def test_a_host_that_is_down_keeps_the_mail_waiting(yard: Yard) -> None:
    async with FakeSmtp() as host:
        port = host.port
    point(yard, f"127.0.0.1:{port}")
    sent = yard.send("b@gate.test")
    await yard.settled()
    assert len(yard.open()) == 1
    assert yard.kinds(sent.id) == ["deferred"]


async def test_a_gateway_that_leads_back_to_us_defers(yard: Yard) -> None:
    point(yard, "mail.ours.test:25")
    yard.dns.address_records["mail.ours.test"] = ["127.0.0.1"]
    sent = yard.send("b@gate.test")
    await yard.settled()
    event = only(yard.events(sent.id))
    assert (event.kind, "is this server itself" in event.cause) == ("deferred", True)


async def test_a_host_that_bears_our_name_is_ourselves(yard: Yard) -> None:
    async with FakeSmtp(EHLO="250 Mail.Ours.Test at your service") as host:
        point(yard, host)
        sent = yard.send("b@gate.test")
        await yard.settled()
        assert only(yard.events(sent.id)).cause == "the configured host is this server itself"
        assert not any(line.startswith("MAIL") for line in host.commands)


async def test_an_lmtp_host_answers_each_recipient_for_itself(yard: Yard) -> None:
    """RFC 2033 section 4.2: one message, three recipients, three fates."""
    fates = {"a@gate.test": OK, "b@gate.test": "452 4.2.2 full", "c@gate.test": "550 5.2.1 disabled"}
    async with FakeSmtp(lmtp=True, DOT=lambda recipient: fates[recipient]) as host:
        point(yard, host)
        sent = yard.send(*fates)
        await yard.settled()
        assert only(host.messages).recipients == ["a@gate.test"]
        assert [recipient for recipient, _, _ in yard.open() if "gate" in recipient] == ["b@gate.test"]
        kinds = {event.recipient: event.kind for event in yard.events(sent.id) if event.recipient in fates}
        assert kinds == {"a@gate.test": "delivered", "b@gate.test": "deferred", "c@gate.test": "bounced"}


async def test_a_552_of_an_lmtp_host_after_the_content_is_no_call_for_fewer_recipients(yard: Yard) -> None:
    fates = {"a@gate.test": OK, "b@gate.test": "552 too large"}
    async with FakeSmtp(lmtp=True, DOT=lambda recipient: fates[recipient]) as host:
        point(yard, host)
        sent = yard.send(*fates)
        await yard.settled()
        assert [line for line in host.commands if line.startswith("DATA")] == ["DATA"]
        assert "bounced" in yard.kinds(sent.id)


async def test_lmtp_over_a_unix_socket(yard: Yard, tmp_path: Path) -> None:
    path = str(tmp_path / "lmtp")
    host = await FakeSmtp(lmtp=True).start(path)
    try:
        point(yard, f"lmtp:{path}")
        sent = yard.send("b@gate.test")
        await yard.settled()
        assert host.recipients == ["b@gate.test"]
        assert f"unix:{path}" in only(yard.events(sent.id)).where
        point(yard, "lmtp:/nowhere/lmtp")
        yard.send("b@gate.test")
        await yard.settled()
        assert [reply for _, _, reply in yard.open()] == ["451 4.4.1 no such file or directory"]
    finally:
        await host.close()
