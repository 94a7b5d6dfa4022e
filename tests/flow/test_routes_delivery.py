"""Mail over real connections by routes: where it goes, from where, under which name and with which login."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from postroad.config.routes import Loaded
from postroad.config.routes import Route as Table
from postroad.flow.outbound import Manner
from postroad.flow.return_path import ReturnPaths
from postroad.flow.route import read_signposts
from postroad.flow.routing import Routes
from postroad.flow.tls_policy import TlsPolicies
from postroad.net.tls import ClientTls
from postroad.values.address import Address
from postroad.wire.sasl import Credentials
from tests.fakes.certificates import authority, server
from tests.fakes.lookup import FAILED, FakeLookup
from tests.fakes.smtp_server import FakeSmtp
from tests.flow.yard import Yard, only, until

ROOT = authority("Root")
SECRET = "open sesame"


def routes(tables: dict[str, Table], *source: str) -> Routes:
    logins = {name: Credentials(table.login, SECRET) for name, table in tables.items() if table.login}
    return Routes.of(Loaded(tables, logins), source)


class Place:
    """A yard with routes that can be set late, when the hosts' ports are known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "ca.pem").write_bytes(ROOT.pem)
        self.yard: Yard

    def build(self, chosen: Routes, **changes: Any) -> Yard:
        tls = ClientTls(str(self.folder / "ca.pem"), system_roots=False)
        manner = Manner("mail.ours.test", tls, 5.0, patience_s=5.0, **changes)
        signposts = read_signposts(allow_private=["127.0.0.0/8"], own_names=["mail.ours.test"])
        self.yard = Yard(self.folder, manner=manner, signposts=signposts, routes=chosen)
        self.yard.runner.start()
        return self.yard


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    await made.yard.runner.drain(0.0)
    made.yard.store.connection.close()


async def test_the_sender_the_recipient_and_the_login_choose_the_host(place: Place) -> None:
    async with FakeSmtp() as news, FakeSmtp() as partner, FakeSmtp() as sales:
        yard = place.build(
            routes(
                {
                    "partner": Table(recipients=("partner.test",), via=f"127.0.0.1:{partner.port}"),
                    "news": Table(senders=("news@ours.test",), via=f"127.0.0.1:{news.port}"),
                    "sales": Table(users=("sales@ours.test",), via=f"127.0.0.1:{sales.port}"),
                }
            )
        )
        yard.send("b@far.test", "c@partner.test", sender="news@ours.test")
        yard.send("d@far.test", login="sales@ours.test")
        await yard.settled()
        assert [only(host.messages).recipients for host in (news, partner, sales)] == [
            ["b@far.test"],
            ["c@partner.test"],
            ["d@far.test"],
        ]


async def test_mail_out_of_the_queue_takes_the_same_route(place: Place) -> None:
    async with FakeSmtp(RCPT=["450 4.2.0 later", "250 ok"]) as sales:
        yard = place.build(routes({"sales": Table(users=("sales@ours.test",), via=f"127.0.0.1:{sales.port}")}))
        yard.send("d@far.test", login="sales@ours.test")
        await yard.settled()
        await yard.later(10)
        assert only(sales.messages).recipients == ["d@far.test"]


async def test_discarded_mail_ends_in_the_journal_and_nowhere_else(place: Place) -> None:
    yard = place.build(routes({"staging": Table(recipients=("example",), via="discard", why="a test machine")}))
    sent = yard.send("b@example")
    await yard.settled()
    [event] = yard.events(sent.id)
    assert (event.kind, event.recipient, event.cause) == ("discarded", "b@example", "route staging: a test machine")
    assert yard.open() == []
    assert yard.reports() == []


async def test_a_fallback_takes_over_after_so_many_attempts(place: Place) -> None:
    async with FakeSmtp(RCPT="450 4.2.0 later") as first, FakeSmtp() as second:
        yard = place.build(
            routes(
                {
                    "far": Table(
                        recipients=("far.test",), via=f"127.0.0.1:{first.port}", fallback=f"127.0.0.1:{second.port}",
                        fallback_after=2,
                    )
                }
            )
        )  # fmt: skip
        yard.send("b@far.test")
        await yard.settled()
        await yard.later(10)
        assert second.messages == []
        await yard.later(400)
        assert only(second.messages).recipients == ["b@far.test"]
        assert sum(line.startswith("RCPT") for line in first.commands) == 2


async def test_each_sender_domain_from_its_address_under_its_name(place: Place) -> None:
    async with FakeSmtp() as host:
        yard = place.build(
            routes({"all": Table(via=f"127.0.0.1:{host.port}")}, "127.0.0.1", "127.0.0.2"),
            bind=("127.0.0.1", "127.0.0.2"),
            names={"127.0.0.1": "one.ours.test", "127.0.0.2": "two.ours.test"},
        )
        for number in range(8):
            yard.send("b@far.test", sender=f"x@d{number}.test")
            await yard.settled()
        names = {line.partition(" ")[2] for line in host.commands if line.startswith("EHLO")}
        assert names == {"one.ours.test", "two.ours.test"}
        # One connection for each of them and no more: messages of one guise share it.
        assert host.connections == 2


# -- logins ------------------------------------------------------------------------------------------------------------


def smarthost(port: int, **changes: Any) -> Routes:
    table = Table(via=f"localhost:{port}", login="key", password_file="/x", **changes)
    return routes({"relay": table})


async def test_a_login_goes_to_a_host_that_has_proved_its_name(place: Place) -> None:
    cert = server("localhost", issuer=ROOT)
    extensions = ("PIPELINING", "AUTH PLAIN LOGIN")
    async with FakeSmtp(extensions, tls=cert.context(place.folder), AUTH="235 2.7.0 welcome") as host:
        yard = place.build(smarthost(host.port))
        sent = yard.send("b@far.test")
        await yard.settled()
        line = only([line for line in host.commands if line.startswith("AUTH")])
        assert b64decode(line.split()[2]) == b"\0key\0" + SECRET.encode()
        [event] = [event for event in yard.events(sent.id) if event.kind == "delivered"]
        assert event.where.endswith("verified (route relay)")
        assert SECRET not in repr(yard.events(sent.id))


@pytest.mark.parametrize("names", [("other.test",), ()])
async def test_nobody_else_gets_the_password(place: Place, names: tuple[str, ...]) -> None:
    context = server(*names, issuer=ROOT).context(place.folder) if names else None
    async with FakeSmtp(("PIPELINING", "AUTH PLAIN LOGIN"), tls=context, AUTH="235 2.7.0 welcome") as host:
        yard = place.build(smarthost(host.port))
        sent = yard.send("b@far.test")
        await yard.settled()
        assert host.messages == []
        assert not any(line.startswith("AUTH") for line in host.commands)
        assert [owner for _, owner, _ in yard.open()] == [0]
        assert any("route relay requires it" in event.cause for event in yard.events(sent.id))


async def test_a_refused_login_waits_and_bounces_nothing(place: Place) -> None:
    cert = server("localhost", issuer=ROOT)
    async with FakeSmtp(("AUTH PLAIN",), tls=cert.context(place.folder), AUTH="535 5.7.8 wrong") as host:
        yard = place.build(smarthost(host.port))
        sent = yard.send("b@far.test")
        await yard.settled()
        assert yard.kinds(sent.id)[-1] == "deferred"
        assert yard.reports() == []


# -- TLS sessions, return paths ----------------------------------------------------------------------------------------


async def test_the_next_handshake_resumes_the_session(place: Place) -> None:
    cert = server("localhost", issuer=ROOT)
    async with FakeSmtp(tls=cert.context(place.folder)) as host:
        yard = place.build(routes({"far": Table(via=f"localhost:{host.port}", tls="verify")}))
        for _ in range(2):
            sent = yard.send("b@far.test")
            await yard.settled()
            [event] = [event for event in yard.events(sent.id) if event.kind == "delivered"]
            assert event.where.endswith("verified (route far)")
            yard.runner._pool._idle.end_all()
            await until(lambda: host.open == 0)
        assert host.resumed == [False, True]


async def test_signed_return_paths(place: Place) -> None:
    paths = ReturnPaths(b"secret", ["ours.test"])
    async with FakeSmtp() as host:
        yard = place.build(routes({"all": Table(via=f"127.0.0.1:{host.port}")}), return_paths=paths)
        ours = yard.send("b@far.test", "c@far.test")
        yard.send("b@far.test", sender="x@theirs.test")
        yard.send("b@far.test", sender="")
        await yard.settled()
        senders = {got.sender for got in host.messages}
        assert {"x@theirs.test", ""} < senders
        [marked] = senders - {"x@theirs.test", ""}
        returned = paths.read(Address.parse(marked), yard.clock.wall_us())
        assert returned is not None
        assert (str(returned.sender), returned.message) == ("a@ours.test", ours.id)
        # Both recipients travelled in one transaction.
        assert len(host.messages) == 3


async def test_limits_of_the_host_are_obeyed(place: Place) -> None:
    """RFC 9422: RCPTMAX recipients in a transaction, MAILMAX transactions in a session."""
    async with FakeSmtp(("PIPELINING", "LIMITS RCPTMAX=2 MAILMAX=2")) as host:
        yard = place.build(routes({"all": Table(via=f"127.0.0.1:{host.port}")}))
        yard.send(*(f"b{number}@far.test" for number in range(9)))
        await yard.settled()
        assert sorted(len(got.recipients) for got in host.messages) == [1, 2, 2, 2, 2]
        assert max(sum(got.connection == one for got in host.messages) for one in range(host.connections + 1)) <= 2
        await asyncio.sleep(0)


async def test_a_host_gets_no_more_domains_in_a_session_than_it_says(place: Place) -> None:
    """RFC 9422 section 4.3: RCPTDOMAINMAX is "the maximum number of different domains that can appear in a recipient
    (RCPT TO) address within a single session"."""
    async with FakeSmtp(("PIPELINING", "LIMITS RCPTDOMAINMAX=2")) as host:
        yard = place.build(routes({"all": Table(via=f"127.0.0.1:{host.port}")}))
        sent = [f"b{number}@{domain}.test" for domain in "vwxyz" for number in range(3)]
        yard.send(*sent)
        for address in sent:
            yard.send(address)
        await yard.settled()
        assert sorted(host.recipients) == sorted(sent * 2)
        met: dict[int, set[str]] = {}
        for got in host.messages:
            met.setdefault(got.connection, set()).update(one.partition("@")[2] for one in got.recipients)
        assert max(map(len, met.values())) == 2
        await asyncio.sleep(0)


async def test_a_host_that_may_not_be_used_now_gets_no_login_and_meets_no_bug(place: Place) -> None:
    """Row D8: a look-up of TLSA records that fails makes the smarthost unusable for now."""
    async with FakeSmtp(("AUTH PLAIN",)) as host:
        yard = place.build(routes({"relay": Table(via=f"relay.test:{host.port}", login="key", password_file="/x")}))
        tlsa = {f"_{host.port}._tcp.relay.test": FAILED}
        lookup = FakeLookup({}, {"relay.test": ["127.0.0.1"]}, tlsa=tlsa, secure=["relay.test"])
        yard.runner._lookup = lookup
        yard.runner._policies = TlsPolicies(lookup, dane=True)
        sent = yard.send("b@far.test")
        await yard.settled()
        [event] = [event for event in yard.events(sent.id) if event.kind == "deferred"]
        assert "could not be looked up" in event.cause
        assert host.connections == 0
