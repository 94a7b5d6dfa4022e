"""Bugs and broken stores on the way out: nothing spins, nothing is held for ever, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from postroad.flow.outbound import Courier
from postroad.flow.route import read_signposts
from postroad.store.queue import accept
from postroad.values.errors import StoreBroken
from tests.fakes.smtp_server import FakeSmtp
from tests.flow.yard import Yard, until


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    yard = Yard(tmp_path)
    yield yard
    await yard.runner.drain(0.0)


def expired(yard: Yard, recipient: str) -> None:
    """A message in the queue whose time was up when it came."""
    message = yard.compose(recipient)
    legs = [msgspec.structs.replace(leg, owner=0, due_us=message.received_us) for leg in message.legs]
    yard.store.run(accept, msgspec.structs.replace(message, legs=legs, expires_us=message.received_us))
    yard.clock.advance(10)


async def test_a_bug_at_every_connection_defers_the_mail_and_leaves_the_host_alone(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = 0

    async def bug(*_: Any, **__: Any) -> Courier:
        nonlocal opened
        opened += 1
        await asyncio.sleep(0)
        raise RuntimeError("a bug")

    monkeypatch.setattr(Courier, "open", bug)
    yard.runner._signposts = read_signposts(routes={"x.test": "127.0.0.1:9"})
    for number in range(5):
        yard.send(f"b{number}@x.test")
    await yard.settled()
    assert opened <= 5
    assert {(owner, reply) for _, owner, reply in yard.open()} == {(0, "451 4.3.0 internal error")}


async def test_a_bug_while_the_way_is_planned_defers_the_mail(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    async def bug(domain: str) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(yard.dns, "mx", bug)
    message = yard.send("b@x.test")
    await yard.settled()
    assert yard.kinds(message.id) == ["deferred"]
    assert yard.open() == [("b@x.test", 0, "451 4.3.0 internal error")]


async def test_a_bug_while_a_message_is_read_defers_it(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeSmtp() as host:
        yard.host("x.test", host)
        expired(yard, "b@x.test")
        reads = 0

        async def bug(ident: int) -> Any:
            nonlocal reads
            reads += 1
            raise RuntimeError("a bug")

        monkeypatch.setattr(yard.runner._letters, "message", bug)
        yard.runner.start()
        await until(lambda: reads and yard.runner.in_flight == 0)
        assert [(recipient, owner) for recipient, owner, _ in yard.open()] == [("b@x.test", 0)]
        assert reads <= 2


async def test_an_expired_message_that_cannot_be_read_waits_and_does_not_spin(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeSmtp() as host:
        yard.host("x.test", host)
        expired(yard, "b@x.test")
        reads = 0

        async def broken(ident: int) -> Any:
            nonlocal reads
            reads += 1
            await asyncio.sleep(0)
            raise StoreBroken("input/output error")

        monkeypatch.setattr(yard.runner._letters, "message", broken)
        yard.runner.start()
        await until(lambda: reads and yard.runner.in_flight == 0)
        assert reads == 2  # to send it, and to report its end
        assert [(recipient, owner) for recipient, owner, _ in yard.open()] == [("b@x.test", 0)]


async def test_what_was_delivered_beside_a_report_that_must_wait_is_told(yard: Yard) -> None:
    async with FakeSmtp(RCPT=["250 2.1.5 ok", "550 5.1.1 no"]) as host:
        yard.host("x.test", host)

        async def unknown(address: Any) -> Any:
            raise StoreBroken("input/output error")

        yard.runner.reporter._plan_for = unknown
        message = yard.send("b@x.test", "c@x.test")
        await yard.settled()
        assert yard.kinds(message.id) == ["delivered"]
        assert [recipient for recipient, _, _ in yard.open()] == ["c@x.test"]


async def test_what_was_delivered_is_recorded_though_its_report_is_cut_off_at_the_end(yard: Yard) -> None:
    """Promise P7: what a host has taken is not sent again because the report for another recipient took too long."""
    async with FakeSmtp(RCPT=["250 2.1.5 ok", "550 5.1.1 no"]) as host:
        yard.host("x.test", host)
        asked = asyncio.Event()

        async def never(address: Any) -> Any:
            asked.set()
            await asyncio.Event().wait()

        yard.runner.reporter._plan_for = never
        message = yard.send("b@x.test", "c@x.test")
        await asked.wait()
        await yard.runner.drain(0.0)
        assert yard.kinds(message.id) == ["delivered"]
        assert [(recipient, owner) for recipient, owner, _ in yard.open()] == [("c@x.test", 0)]


async def test_a_bug_beside_a_parcel_leaves_it_in_no_bodys_hands(yard: Yard) -> None:
    """It must be tried again, not be held until the next start."""

    class Bug:
        def opened(self, domain: str, courier: Courier) -> str:
            raise RuntimeError("a bug")

        def failed(self, *_: Any) -> None:
            raise AssertionError

    yard.runner._pool._tls_watch = Bug()
    async with FakeSmtp() as host:
        yard.host("x.test", host)
        yard.send("b@x.test")
        await yard.settled()
        assert yard.open() == [("b@x.test", 0, "451 4.3.0 internal error")]
        assert host.messages == []


async def test_a_bug_while_claiming_does_not_end_it(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroad.flow.runner.POLL_S", 0.01)
    async with FakeSmtp() as host:
        yard.host("x.test", host)
        expired(yard, "b@x.test")
        usual, bugs = yard.runner._avoided, [RuntimeError("a bug")]

        def avoided() -> Any:
            if bugs:
                raise bugs.pop()
            return usual()

        monkeypatch.setattr(yard.runner, "_avoided", avoided)
        yard.runner.start()
        await until(lambda: host.messages)


async def test_mail_whose_way_is_found_after_the_end_began_is_given_back(yard: Yard) -> None:
    """The next worker may have it at once; nobody waits for its retry time."""
    async with FakeSmtp() as host:
        yard.host("x.test", host)
        found = asyncio.Event()

        async def next_hop_of(domain: str) -> str:
            await found.wait()
            return ""

        yard.runner._next_hop_of = next_hop_of
        yard.send("b@x.test")
        await asyncio.sleep(0)
        draining = asyncio.ensure_future(yard.runner.drain(5.0))
        await asyncio.sleep(0.01)
        found.set()
        await draining
        assert host.messages == []
        assert yard.store.rows("SELECT owner, due_us FROM deliveries") == [(0, yard.clock.wall_us())]


async def test_mail_that_was_claimed_as_the_end_began_is_given_back(yard: Yard) -> None:
    """Neither an attempt nor a retry time is spent on what nobody tried."""
    expired(yard, "b@x.test")
    before = yard.store.rows("SELECT attempts FROM deliveries")
    usual, claimed, go_on = yard.store.call, asyncio.Event(), asyncio.Event()

    async def call(unit: Any, args: Any) -> Any:
        answer = await usual(unit, args)
        if unit.__name__ == "claim":
            claimed.set()
            await go_on.wait()
        return answer

    yard.store.call = call  # type: ignore[method-assign]
    yard.runner.start()
    await claimed.wait()
    draining = asyncio.ensure_future(yard.runner.drain(0.0))
    await asyncio.sleep(0)
    go_on.set()
    await draining
    assert yard.store.rows("SELECT owner, due_us FROM deliveries") == [(0, yard.clock.wall_us())]
    assert yard.store.rows("SELECT attempts FROM deliveries") == before
