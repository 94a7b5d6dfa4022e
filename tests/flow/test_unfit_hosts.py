"""Hosts that lack what a message needs (SMTPUTF8, 8BITMIME, SIZE): another host of the domain may have it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from postroad.flow.route import read_signposts
from postroad.flow.shaping import State
from tests.fakes.smtp_server import FakeSmtp
from tests.flow.yard import Yard, only, until

OLD = ("PIPELINING", "SIZE 1000")
NEW = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 1000000")

NEEDS = pytest.mark.parametrize(
    "changes, recipient, status",
    [
        ({"eightbit": True}, "b@x.test", "5.6.3"),
        ({"smtputf8": True, "sender": "jörg@ours.test"}, "b@x.test", "5.6.7"),
        ({"smtputf8": True}, "jörg@x.test", "5.6.7"),
        ({"size": 5000}, "b@x.test", "5.3.4"),
    ],
    ids=["8bit", "sender", "recipient", "size"],
)


class Town:
    """x.test has its mail at a.test, with b.test behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[FakeSmtp] = []
        self.port = 0

    async def host(self, name: str, extensions: tuple[str, ...], **script: Any) -> FakeSmtp:
        made = await FakeSmtp(extensions, **script).start({"a": "127.0.0.1", "b": "127.0.0.2"}[name], self.port)
        self.port = self.port or made.port
        self.servers.append(made)
        return made

    def yard(self, **changes: Any) -> Yard:
        signposts = read_signposts(port=self.port, allow_private=["127.0.0.0/8"])
        made = Yard(self.folder, signposts=signposts, idle_s=0.05, **changes)
        made.dns.mx_records["x.test"] = [(10, "a.test"), (20, "b.test")]
        made.dns.address_records |= {"a.test": ["127.0.0.1"], "b.test": ["127.0.0.2"]}
        self.made = made
        return made


@pytest_asyncio.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    made = Town(tmp_path)
    yield made
    await made.made.runner.drain(0.0)
    for server in made.servers:
        await server.close()


@NEEDS
async def test_the_next_host_carries_what_the_first_cannot(
    town: Town, changes: dict[str, Any], recipient: str, status: str
) -> None:
    first, second = await town.host("a", OLD), await town.host("b", NEW)
    yard = town.yard()
    sent = yard.send(recipient, **changes)
    plain = yard.send("c@x.test")
    await yard.settled()
    assert (first.recipients, second.recipients) == (["c@x.test"], [recipient])
    assert yard.kinds(sent.id) == ["attempted", "delivered"]
    assert yard.kinds(plain.id) == ["delivered"]
    assert yard.runner._lanes.all()[0].health == {}, "nothing is wrong with the first host"


@NEEDS
async def test_mail_waits_for_a_host_that_may_carry_it(
    town: Town, changes: dict[str, Any], recipient: str, status: str
) -> None:
    """Row S51, S53: the first host is down, the one behind it is old: that is no reason to end mail."""
    await town.host("b", OLD)
    yard = town.yard()
    for _ in range(2):  # the first host refuses the connection, then it is left alone for a while
        sent = yard.send(recipient, **changes)
        plain = yard.send("c@x.test")
        await yard.settled()
        assert yard.kinds(sent.id)[-1] == "deferred"
        assert yard.kinds(plain.id)[-1] == "delivered"


@NEEDS
async def test_mail_that_no_host_can_carry_ends(
    town: Town, changes: dict[str, Any], recipient: str, status: str
) -> None:
    first, second = await town.host("a", OLD), await town.host("b", OLD)
    yard = town.yard()
    sent = yard.send(recipient, **changes)
    await yard.settled()
    assert first.messages == second.messages == []
    assert yard.kinds(sent.id) == ["attempted", "bounced", "reported"]
    report = only(yard.reports())
    assert f"\r\nStatus: {status}\r\n".encode() in report
    # RFC 3464 section 2.3.6: a Diagnostic-Code of type smtp is what the host said; it was not asked.
    assert b"\r\nDiagnostic-Code: x-postroad; " in report
    assert b"Remote-MTA" not in report


async def test_recipients_that_the_first_host_can_serve_are_served_there(town: Town) -> None:
    first, second = await town.host("a", OLD), await town.host("b", NEW)
    yard = town.yard()
    yard.send("b@x.test", "jörg@x.test", smtputf8=True)
    await yard.settled()
    assert (first.recipients, second.recipients) == (["b@x.test"], ["jörg@x.test"])


async def test_mail_that_is_not_even_offered_is_no_probe(town: Town) -> None:
    """A suspended site is opened by a message that it took, not by one that never left."""
    first = await town.host("a", OLD)
    yard = town.yard()
    yard.dns.mx_records["x.test"] = [(10, "a.test")]
    yard.send("b@x.test")
    await yard.settled()
    yard.clock.advance(1.0)
    await until(lambda: first.open == 0)
    [site] = yard.runner._lanes.sites()
    site.shape.suspend(100.0, "wait", yard.clock.monotonic())
    yard.clock.advance(101.0)
    yard.send("b@x.test", size=5000)
    await yard.settled()
    assert site.shape.state is State.PROBING
    assert site.shape.permit(yard.clock.monotonic()).wait_s == 0.0
