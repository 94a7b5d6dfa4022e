"""Callouts against servers that behave and servers that do not; time is a fake except where a limit of it is shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from postroad.flow import callout
from postroad.flow.callout import PROBE_S, REFUSED_S, SILENT_S, TAKEN_S, Callout
from postroad.flow.gateway import Standing, judge_recipient
from postroad.flow.outbound import Manner
from postroad.flow.route import read_signposts
from postroad.net.tls import ClientTls
from postroad.store.account_records import Gateway, GatewayKnown
from postroad.values.address import Address
from postroad.values.reply import Reply
from tests.fakes.clock import FakeClock
from tests.fakes.lookup import FAILED, FakeLookup
from tests.fakes.smtp_server import OK, Drop, FakeSmtp, Silent, address_in

DOMAIN = "gate.test"
NOBODY = "550 5.1.1 no such user"
TAKEN, REFUSED, DOUBT = Standing.TAKEN, Standing.REFUSED, Standing.DOUBT


def only_anna(line: str) -> str:
    """What a host with one mailbox says to RCPT."""
    return OK if address_in(line).lower().startswith("anna") else NOBODY


class Desk:
    """A worker's callouts, and what the store was told."""

    def __init__(self, tls: ClientTls | None = None) -> None:
        self.clock = FakeClock()
        self.learned: list[GatewayKnown] = []
        self.lookup = FakeLookup({}, {"broken.test": FAILED, "two.test": ["127.0.0.3", "127.0.0.1"]})
        self.callout = Callout(
            signposts=read_signposts(own_names=["mail.ours.test"], own_addresses=["192.0.2.1"]),
            lookup=self.lookup,
            manner=Manner(ehlo_name="mail.ours.test", tls=tls, connect_timeout_s=2.0),
            clock=self.clock,
            learned=self.learned.append,
        )

    async def ask(self, host: FakeSmtp | str, user: str = "anna", domain: str = DOMAIN) -> Standing:
        return (await self.heard(host, user, domain))[0]

    async def heard(self, host: FakeSmtp | str, user: str = "anna", domain: str = DOMAIN) -> tuple[Standing, str]:
        where = host if isinstance(host, str) else f"127.0.0.1:{host.port}"
        address = Address.parse(f"{user}@{domain}", utf8=True)
        gateway = Gateway(str(address), address.key, domain, where, "callout", "known")
        heard = await self.callout.ask(gateway, address)
        return heard.standing, heard.words


@pytest_asyncio.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    yield made
    await made.callout.close()


def asked(host: FakeSmtp, user: str) -> int:
    return sum(line.startswith(f"RCPT TO:<{user}@") for line in host.commands)


def probes(host: FakeSmtp) -> int:
    return sum(line.startswith("RCPT TO:<no-such-user-") for line in host.commands)


async def test_the_host_says_who_exists_and_no_mail_is_sent(desk: Desk) -> None:
    async with FakeSmtp(RCPT=only_anna) as host:
        assert await desk.ask(host) is TAKEN
        standing, words = await desk.heard(host, "carl")
        assert standing is REFUSED
        assert words == f"127.0.0.1 [127.0.0.1]:{host.port} said {NOBODY}"
        assert "MAIL FROM:<>" in host.commands
        assert not host.messages
        assert not any(line.startswith(("DATA", "BDAT")) for line in host.commands)
        assert host.connections == 1


async def test_one_connection_serves_many_questions_each_in_its_own_transaction(desk: Desk) -> None:
    async with FakeSmtp(RCPT=only_anna) as host:
        for number in range(4):
            await desk.ask(host, f"anna{number}")
        assert host.connections == 1
        assert host.commands.count("RSET") == 3


async def test_a_connection_the_host_closed_meanwhile_costs_no_answer(desk: Desk) -> None:
    async with FakeSmtp(RCPT=only_anna) as host:
        await desk.ask(host)
        for session in list(host._sessions):
            session.transport.abort()
        await asyncio.sleep(0)
        assert await desk.ask(host, "carl") is REFUSED
        assert host.connections == 2


@pytest.mark.parametrize("mail", [OK, Drop()])
async def test_a_reused_connection_that_breaks_in_the_question_is_replaced(desk: Desk, mail: Any) -> None:
    async with FakeSmtp(RCPT=only_anna, MAIL=[OK, mail, OK]) as host:
        assert await desk.ask(host) is TAKEN
        assert await desk.ask(host, "carl") is REFUSED
        assert host.connections == (1 if mail == OK else 2)


async def test_a_yes_is_kept_two_hours_and_a_no_ten_minutes(desk: Desk) -> None:
    async with FakeSmtp(RCPT=only_anna) as host:
        for _ in range(3):
            assert await desk.ask(host) is TAKEN
            assert await desk.ask(host, "carl") is REFUSED
        assert (asked(host, "anna"), asked(host, "carl")) == (1, 1)
        desk.clock.advance(REFUSED_S + 1)
        await desk.ask(host)
        await desk.ask(host, "carl")
        assert (asked(host, "anna"), asked(host, "carl")) == (1, 2)
        desk.clock.advance(TAKEN_S)
        await desk.ask(host)
        assert asked(host, "anna") == 2


async def test_a_doubt_about_one_recipient_is_not_kept(desk: Desk) -> None:
    async with FakeSmtp(RCPT=lambda line: "450 4.2.0 greylisted" if "anna" in line else NOBODY) as host:
        assert await desk.ask(host) is DOUBT
        host.script["RCPT"] = only_anna
        assert await desk.ask(host) is TAKEN


async def test_the_store_is_told_who_was_taken_and_who_was_refused(desk: Desk) -> None:
    async with FakeSmtp(RCPT=only_anna) as host:
        await desk.ask(host, "Anna")
        await desk.ask(host, "carl")
        where = f"127.0.0.1:{host.port}"
        assert desk.learned == [
            GatewayKnown(DOMAIN, where, [f"anna@{DOMAIN}"], []),
            GatewayKnown(DOMAIN, where, [], [f"carl@{DOMAIN}"]),
        ]


async def test_what_one_host_said_is_never_the_word_of_another(desk: Desk) -> None:
    """Class E11: the key of what is kept has the next hop in it."""
    async with FakeSmtp(RCPT=only_anna) as old, FakeSmtp(RCPT=NOBODY) as new:
        assert await desk.ask(old) is TAKEN
        assert await desk.ask(new) is REFUSED
        assert await desk.ask(old) is TAKEN


async def test_a_host_that_takes_everything_is_asked_once_an_hour_and_teaches_nothing(desk: Desk) -> None:
    async with FakeSmtp() as host:
        for user in ("anna", "bob", "carl"):
            assert await desk.ask(host, user) is TAKEN
        assert (len(host.commands), desk.learned) == (4, [])  # EHLO, MAIL and two recipients
        host.script["RCPT"] = only_anna
        desk.clock.advance(PROBE_S + 1)
        assert await desk.ask(host, "carl") is REFUSED
        assert probes(host) == 2
        assert await desk.ask(host, "anna") is TAKEN
        assert probes(host) == 2


async def test_one_domain_of_a_host_may_take_everything_and_another_not(desk: Desk) -> None:
    async with FakeSmtp(RCPT=lambda line: OK if "@gate.test" in line else only_anna(line)) as host:
        assert await desk.ask(host, "carl") is TAKEN
        assert await desk.ask(host, "carl", "strict.test") is REFUSED


async def test_a_probe_in_doubt_is_repeated_soon_and_nobody_is_refused_by_it(desk: Desk) -> None:
    async with FakeSmtp(RCPT=lambda line: OK if "anna" in line else "450 4.7.1 slow down") as host:
        assert await desk.ask(host) is TAKEN
        assert await desk.ask(host, "anna2") is TAKEN
        assert probes(host) == 1
        desk.clock.advance(REFUSED_S + 1)
        await desk.ask(host, "anna3")
        assert probes(host) == 2


@pytest.mark.parametrize(
    "script",
    [
        {"CONNECT": "554 5.7.1 go away"},
        {"CONNECT": Drop()},
        {"EHLO": "550 no", "HELO": "550 no"},
        {"MAIL": "550 5.7.1 no null sender"},
        {"MAIL": "451 4.3.0 later"},
        {"MAIL": Drop()},
        {"RCPT": Drop()},
        {"RCPT": "421 4.3.2 closing"},
    ],
)
async def test_a_refusal_of_the_host_is_never_one_of_the_recipient(desk: Desk, script: dict[str, Any]) -> None:
    async with FakeSmtp(**script) as host:
        assert await desk.ask(host) is DOUBT
        before = host.connections
        assert await desk.ask(host, "bob") is DOUBT
        assert host.connections == before, "a silent host is left alone"
        host.script.clear()
        host.script["RCPT"] = only_anna
        desk.clock.advance(SILENT_S + 1)
        assert await desk.ask(host) is TAKEN
    assert desk.learned[-1].taken


async def test_a_host_that_is_down_or_cannot_be_found_is_a_doubt(desk: Desk) -> None:
    async with FakeSmtp() as host:
        port = host.port
    assert await desk.heard(f"127.0.0.1:{port}") == (
        DOUBT,
        f"connection refused (127.0.0.1 [127.0.0.1]:{port}) 451 4.4.1 connection refused",
    )
    assert await desk.ask("broken.test:25") is DOUBT
    assert await desk.ask("mail.ours.test:25") is DOUBT
    assert await desk.ask("192.0.2.1:25") is DOUBT


async def test_every_address_of_the_host_is_tried(desk: Desk) -> None:
    async with FakeSmtp(RCPT=only_anna) as host:
        assert await desk.ask(f"two.test:{host.port}") is TAKEN


@pytest.mark.parametrize("stage", ["CONNECT", "EHLO", "MAIL", "RCPT"])
async def test_a_host_that_is_silent_costs_at_most_the_limit(
    desk: Desk, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callout, "ANSWER_MAX_S", 0.05)
    script: dict[str, Any] = {stage: Silent()}
    async with FakeSmtp(**script) as host:
        async with asyncio.timeout(2):
            assert await desk.ask(host) is DOUBT
            # The second is told at once.
            assert await desk.heard(host, "bob") == (DOUBT, f"127.0.0.1:{host.port} did not answer within 0.05 s")
        assert host.connections == 1


async def test_the_same_question_twice_at_a_time_is_asked_once(desk: Desk) -> None:
    async with FakeSmtp(RCPT=only_anna) as host:
        assert await asyncio.gather(*(desk.ask(host) for _ in range(5))) == [TAKEN] * 5
        assert asked(host, "anna") == 1


async def test_a_client_that_gives_up_leaves_the_question_to_the_others(desk: Desk) -> None:
    async with FakeSmtp(RCPT=only_anna) as host:
        first = asyncio.ensure_future(desk.ask(host))
        second = asyncio.ensure_future(desk.ask(host))
        await asyncio.sleep(0)
        first.cancel()
        assert await second is TAKEN


async def test_many_questions_share_few_connections(desk: Desk) -> None:
    async with FakeSmtp(RCPT=only_anna) as host:
        await asyncio.gather(*(desk.ask(host, f"anna{number}") for number in range(40)))
        assert host.most_open <= callout.CONNECTIONS_MAX


async def test_a_host_that_answers_slowly_is_not_taken_for_silent_by_those_who_wait_in_line(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guesser who fills the line must not make every recipient of the domain a doubt for half a minute."""
    monkeypatch.setattr(callout, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(callout, "LINE_MAX_S", 0.05)
    async with FakeSmtp(RCPT=only_anna) as host:
        assert await desk.ask(host, "carl") is REFUSED  # the probe is over, and there is a connection
        places = desk.callout._host(f"127.0.0.1:{host.port}").places
        async with places:  # somebody is asking, and the host takes its time
            standing, words = await desk.heard(host)
            assert standing is DOUBT
            assert words == f"too many questions wait for 127.0.0.1:{host.port}"
        assert await desk.ask(host) is TAKEN


async def test_memory_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callout, "ANSWERS_MAX", 3)
    async with FakeSmtp(RCPT=only_anna) as host:
        for user in ("anna1", "anna2", "anna3", "anna1", "anna4", "anna1"):
            await desk.ask(host, user)
        assert asked(host, "anna1") == 1
        await desk.ask(host, "anna2")
        assert asked(host, "anna2") == 2


async def test_an_lmtp_host_is_asked_too_over_a_unix_socket(desk: Desk, tmp_path: Path) -> None:
    path = str(tmp_path / "lmtp")
    host = await FakeSmtp(lmtp=True, RCPT=only_anna).start(path)
    try:
        assert await desk.ask(f"lmtp:{path}") is TAKEN
        assert await desk.ask(f"lmtp:{path}", "carl") is REFUSED
        assert host.commands[0] == "LHLO mail.ours.test"
    finally:
        await host.close()


async def test_an_address_the_host_cannot_take_is_a_doubt(desk: Desk) -> None:
    async with FakeSmtp(RCPT=only_anna) as host:
        assert await desk.ask(host, "møller") is DOUBT
        host.extensions = (*host.extensions, "SMTPUTF8")
        desk.clock.advance(SILENT_S + 1)
        desk.callout._hosts.clear()
        assert await desk.ask(host, "møller") is REFUSED


@pytest.mark.parametrize(
    "reply, standing",
    [
        (Reply(250, "2.1.5", "ok"), TAKEN),
        (Reply(251, "", "will forward"), TAKEN),
        (Reply(550, "5.1.1", "unknown"), REFUSED),
        (Reply(550, "5.1.10", "RecipientNotFound"), REFUSED),
        (Reply(550, "5.4.1", "Recipient address rejected"), REFUSED),
        (Reply(550, "5.2.1", "disabled"), REFUSED),
        (Reply(550, "", "no such user"), REFUSED),
        (Reply(551, "", "not here"), REFUSED),
        (Reply(553, "", "name not allowed"), REFUSED),
        (Reply(550, "5.7.1", "your address is blocked"), DOUBT),
        (Reply(554, "5.7.1", "relaying denied"), DOUBT),
        (Reply(554, "", "no"), DOUBT),
        (Reply(530, "5.7.0", "log in first"), DOUBT),
        (Reply(550, "5.1.8", "bad sender"), DOUBT),
        (Reply(552, "5.2.2", "mailbox full"), DOUBT),
        (Reply(501, "5.5.4", "syntax"), DOUBT),
        (Reply(450, "4.2.0", "greylisted"), DOUBT),
        (Reply(452, "4.5.3", "too many"), DOUBT),
        (Reply(421, "4.3.2", "closing"), DOUBT),
    ],
)
def test_only_words_about_the_recipient_refuse_it(reply: Reply, standing: Standing) -> None:
    assert judge_recipient(reply) is standing


async def test_a_bug_in_a_callout_is_a_doubt(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Callable[..., object]:
        raise RuntimeError("bug")

    monkeypatch.setattr(callout, "plan_gateway", broken)
    assert await desk.ask("127.0.0.1:25") is DOUBT
