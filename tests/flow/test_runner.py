"""Mail on its way out, from acceptance to its end: a real runner against hosts that behave and hosts that do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from postroad.config import Config, Dns, Relay
from postroad.flow.local import Plan as LocalPlan
from postroad.flow.local import Planner
from postroad.flow.meters import Meters
from postroad.flow.outbound import Manner
from postroad.flow.outside import Outside
from postroad.flow.protection import Protection
from postroad.flow.route import read_signposts
from postroad.flow.runner import WINDOW_DELIVERIES, WINDOW_OCTETS, Runner
from postroad.flow.window import Window
from postroad.net.tls import ClientTls, ServerTls, make_authority
from postroad.store.queue import accept
from postroad.values.address import Address
from postroad.values.envelope import Recipient
from postroad.values.errors import StoreBroken
from postroad.values.reply import Reply
from tests.fakes.lookup import FAILED
from tests.fakes.smtp_server import OK, Drip, Drop, Endless, FakeSmtp, Raw, Silent
from tests.flow.yard import DAY_US, ME, Reads, Yard, only, until

MakeYard = Callable[..., Yard]


@pytest_asyncio.fixture
async def make_yard(tmp_path: Path) -> AsyncIterator[MakeYard]:
    yards: list[Yard] = []

    def make(**changes: Any) -> Yard:
        folder = tmp_path / str(len(yards))
        folder.mkdir()
        yards.append(Yard(folder, **changes))
        yards[-1].runner.start()
        return yards[-1]

    yield make
    for yard in yards:
        await yard.runner.drain(0.0)
        yard.store.connection.close()


@pytest_asyncio.fixture
async def yard(make_yard: MakeYard) -> Yard:
    return make_yard()


@pytest_asyncio.fixture
async def host() -> AsyncIterator[FakeSmtp]:
    async with FakeSmtp() as server:
        yield server


# -- delivered ---------------------------------------------------------------------------------------------------------


async def test_fresh_mail_goes_out_from_memory_and_is_done(yard: Yard, host: FakeSmtp) -> None:
    yard.host("x.test", host)
    sent = yard.send("b@x.test")
    await yard.settled()
    got = only(host.messages)
    assert (got.sender, got.recipients) == ("a@ours.test", ["b@x.test"])
    assert got.content == sent.header + (sent.body or b"")
    assert yard.open() == []
    assert yard.store.rows("SELECT count(*) FROM messages") == [(0,)]
    delivered = only(yard.events(sent.id))
    assert (delivered.kind, delivered.recipient, delivered.attempt) == ("delivered", "b@x.test", 1)
    assert delivered.evidence == "250 2.0.0 ok"
    assert delivered.where == f"127.0.0.1 [127.0.0.1]:{host.port}"


async def test_mail_in_the_queue_is_claimed_read_and_sent(yard: Yard, host: FakeSmtp) -> None:
    yard.host("x.test", host)
    message = yard.compose("b@x.test", "c@x.test")
    unowned = [type(leg)(leg.id, leg.recipient, leg.domain, prefix=b"X-Leg: 1\r\n") for leg in message.legs]
    yard.store.run(
        accept, type(message)(**{f: getattr(message, f) for f in message.__struct_fields__} | {"legs": unowned})
    )
    yard.runner.wake()
    await until(lambda: host.messages)
    await yard.settled()
    got = only(host.messages)
    assert got.recipients == ["b@x.test", "c@x.test"]
    assert got.content == b"X-Leg: 1\r\n" + message.header + (message.body or b"")
    assert yard.open() == []


async def test_a_long_queue_is_fetched_as_fast_as_it_is_sent(
    make_yard: MakeYard, host: FakeSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroad.flow.runner.CLAIM_BATCH", 8)
    monkeypatch.setattr("postroad.flow.lanes.WAITING_MAX", 4)
    yard = make_yard(connections_per_lane=1)
    yard.host("x.test", host)
    yard.send("b@x.test")
    await yard.settled()
    for _ in range(60):
        message = yard.compose("b@x.test")
        legs = [replace(leg, owner=0, due_us=0) for leg in message.legs]
        yard.store.run(accept, replace(message, legs=legs))
    began = time.monotonic()
    yard.runner.wake()
    await until(lambda: len(host.messages) == 61)
    assert time.monotonic() - began < 1.0, "the lane was left to run empty before more was fetched"


async def test_a_connection_carries_message_after_message(yard: Yard, host: FakeSmtp) -> None:
    yard.host("x.test", host)
    for _ in range(5):
        yard.send("b@x.test")
        await yard.settled()
    assert len(host.messages) == 5
    assert host.connections == 1
    assert sum(line.startswith("EHLO") for line in host.commands) == 1


async def test_a_connection_has_enough_after_its_messages(make_yard: MakeYard, host: FakeSmtp) -> None:
    yard = make_yard(messages_per_connection=2)
    yard.host("x.test", host)
    for _ in range(5):
        yard.send("b@x.test")
        await yard.settled()
    assert host.connections == 3
    assert host.commands.count("QUIT") >= 2


async def test_a_connection_without_mail_is_closed(make_yard: MakeYard, host: FakeSmtp) -> None:
    yard = make_yard(idle_s=0.01)
    yard.host("x.test", host)
    yard.send("b@x.test")
    await yard.settled()
    yard.clock.advance(1)
    await until(lambda: host.open == 0)
    assert host.commands[-1] == "QUIT"


async def test_a_lane_opens_no_more_connections_than_it_may(make_yard: MakeYard, host: FakeSmtp) -> None:
    yard = make_yard(connections_per_lane=3)
    yard.host("x.test", host)
    for _ in range(30):
        yard.send("b@x.test")
    await yard.settled()
    assert len(host.messages) == 30
    assert host.most_open == 3


async def test_domains_of_one_site_share_connections_and_transactions(yard: Yard, host: FakeSmtp) -> None:
    for domain in ("x.test", "y.test"):
        yard.host(domain, host)
    yard.send("b@x.test", "c@y.test")
    await yard.settled()
    assert only(host.messages).recipients == ["b@x.test", "c@y.test"]
    assert host.connections == 1


async def test_a_hundred_recipients_are_one_transaction_and_more_are_two(yard: Yard, host: FakeSmtp) -> None:
    yard.host("x.test", host)
    yard.send(*(f"u{i}@x.test" for i in range(150)))
    await yard.settled()
    assert sorted(len(got.recipients) for got in host.messages) == [50, 100]
    assert len(set(host.recipients)) == 150


async def test_a_large_body_is_streamed_from_its_file(make_yard: MakeYard, host: FakeSmtp, tmp_path: Path) -> None:
    yard = make_yard()
    yard.host("x.test", host)
    body = b".dot first\r\n" + b"0123456789abcdef" * 4 * 12_000 + b"\r\n.\r\n" + b"..\r\n"
    (yard.bodies.folder / "large").write_bytes(body)
    sent = yard.send("b@x.test", body=None, body_file="large", size=len(body) + 100)
    await yard.settled()
    assert only(host.messages).content == sent.header + body


async def test_chunking_sends_the_octets_as_they_are(yard: Yard) -> None:
    async with FakeSmtp(extensions=("PIPELINING", "CHUNKING", "8BITMIME")) as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        assert only(host.messages).content == sent.header + (sent.body or b"")
        assert any(line.startswith("BDAT") for line in host.commands)


async def test_wishes_for_reports_are_passed_on(yard: Yard) -> None:
    async with FakeSmtp(extensions=("PIPELINING", "DSN")) as host:
        yard.host("x.test", host)
        recipient = Recipient(Address.parse("b@x.test"), "FAILURE,DELAY", "rfc822;old@x.test")
        yard.send(recipient, ret="HDRS", envid="QQ314")
        await yard.settled()
        got = only(host.messages)
        assert got.mail_line == "MAIL FROM:<a@ours.test> RET=HDRS ENVID=QQ314"
        assert got.rcpt_lines == ["RCPT TO:<b@x.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;old@x.test"]


# -- put off and tried again -------------------------------------------------------------------------------------------


async def test_a_temporary_no_is_tried_again_by_the_schedule(yard: Yard) -> None:
    async with FakeSmtp(RCPT=["451 4.7.1 greylisted", OK]) as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        assert yard.open() == [("b@x.test", 0, "451 4.7.1 greylisted")]
        deferred = only(yard.events(sent.id))
        assert (deferred.kind, deferred.attempt) == ("deferred", 1)
        assert 2_000_000 <= deferred.next_us - yard.clock.wall_us() <= 2_200_000
        await yard.later(1.9)
        assert yard.open()
        await yard.later(0.4)
        assert yard.kinds(sent.id) == ["deferred", "delivered"]
        assert yard.events(sent.id)[1].attempt == 2
        assert yard.open() == []


async def test_row_d14_each_recipient_has_its_own_fate(yard: Yard) -> None:
    answers = {"ok": OK, "later": "450 4.2.1 later", "never": "550 5.1.1 unknown"}
    async with FakeSmtp(RCPT=lambda line: answers[line[9 : line.find("@")]]) as host:
        yard.host("x.test", host)
        sent = yard.send("ok@x.test", "later@x.test", "never@x.test")
        await yard.settled()
        assert only(host.messages).recipients == ["ok@x.test"]
        assert [recipient for recipient, _, _ in yard.open()] == ["later@x.test", "a@ours.test"]
        assert yard.kinds(sent.id) == ["delivered", "deferred", "bounced", "reported"]


async def test_row_d14_no_content_is_sent_when_nobody_is_accepted(yard: Yard) -> None:
    async with FakeSmtp(RCPT="550 5.1.1 unknown", DATA="354 go on") as host:
        yard.host("x.test", host)
        yard.send("b@x.test")
        await yard.settled()
        assert host.messages == []


async def test_too_many_recipients_go_in_another_transaction_at_once(yard: Yard) -> None:
    taken = 0

    def rcpt(line: str) -> str:
        nonlocal taken
        taken += 1
        return "452 4.5.3 too many" if taken in (3, 4) else OK

    async with FakeSmtp(RCPT=rcpt) as host:
        yard.host("x.test", host)
        yard.send(*(f"u{i}@x.test" for i in range(4)))
        await yard.settled()
        assert [len(got.recipients) for got in host.messages] == [2, 2]
        assert yard.open() == []


async def test_row_d15_the_end_comes_at_the_lifetime_with_the_last_reply(yard: Yard) -> None:
    async with FakeSmtp(RCPT="450 4.2.0 greylisted for ever") as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test", expires_us=yard.clock.wall_us() + DAY_US)
        await yard.settled()
        for _ in range(40):
            if yard.reports():
                break
            await yard.later(3960)
        report = only(yard.reports())
        assert b"\r\nStatus: 4.4.7\r\n" in report
        assert b"450 4.2.0 greylisted for ever" in report
        assert yard.kinds(sent.id)[-2:] == ["bounced", "reported"]
        assert 20 < yard.kinds(sent.id).count("deferred") < 30


async def test_row_d2_an_outage_of_dns_never_bounces_mail(yard: Yard, host: FakeSmtp) -> None:
    yard.dns.mx_records["x.test"] = FAILED
    sent = yard.send("b@x.test")
    await yard.settled()
    for _ in range(6):
        await yard.later(4000)
    assert set(yard.kinds(sent.id)) == {"deferred"}
    assert yard.reports() == []
    yard.host("x.test", host)
    await yard.later(4000)
    assert host.recipients == ["b@x.test"]
    assert yard.open() == []


async def test_a_host_that_is_down_does_not_spin_and_comes_back(yard: Yard, host: FakeSmtp) -> None:
    port = host.port
    yard.host("x.test", host)
    await host.close()
    first, second = yard.send("b@x.test"), yard.send("c@x.test")
    await yard.settled()
    third = yard.send("d@x.test")
    await yard.settled()
    assert [yard.kinds(m.id) for m in (first, second, third)] == [["deferred"]] * 3
    assert "connection refused" in yard.events(first.id)[0].cause
    assert "not tried" in yard.events(third.id)[0].cause
    revived = await FakeSmtp().start(port=port)
    await yard.later(3)
    assert sorted(revived.recipients) == ["b@x.test", "c@x.test", "d@x.test"]
    await revived.close()
    await host.start()


# -- bad hosts ---------------------------------------------------------------------------------------------------------


def patient(seconds: float, tls: ClientTls | None = None) -> dict[str, Any]:
    return {"manner": Manner(ehlo_name="mail.ours.test", tls=tls, connect_timeout_s=5.0, patience_s=seconds)}


ROW_D11: list[dict[str, Any]] = [
    {"CONNECT": "554 5.7.1 go away"},
    {"CONNECT": "421 4.3.2 busy"},
    {"CONNECT": Drop()},
    {"CONNECT": "999 what"},
    {"CONNECT": Raw(b"220 " + b"x" * 100_000 + b"\r\n")},
    {"CONNECT": Raw(b"220-a\r\n250 b\r\n")},
    {"CONNECT": "250 hello"},
    {"EHLO": "550 5.7.1 bad name", "HELO": "550 5.7.1 bad name"},
    {"EHLO": Drop()},
    {"EHLO": Endless()},
    {"EHLO": Raw(b"250 ok\r\n250 ok\r\n")},
    {"MAIL": "421 4.7.28 rate limited"},
    {"MAIL": "354 go on"},
    {"MAIL": Raw(b"250 ok\0\r\n")},
    {"MAIL": Raw(b"junk\r\n")},
    {"RCPT": "421 4.7.28 rate limited"},
    {"RCPT": Drop()},
    {"DATA": "250 fine"},
    {"DATA": "421 4.3.0 no"},
    {"DATA": Drop()},
    {"DOT": "421 4.3.0 no"},
    {"DOT": "354 go on"},
    {"DOT": Drop()},
    {"DOT": Raw(b"2xx ok\r\n")},
    {"DOT": Raw(b"250 ok", close=True)},
]  # fmt: skip


@pytest.mark.parametrize("script", ROW_D11, ids=lambda s: " ".join(f"{k}={str(v)[:24]}" for k, v in s.items()))
async def test_rows_d11_d12_d16_whatever_a_host_says_out_of_turn_the_mail_stays(
    make_yard: MakeYard, script: dict[str, Any]
) -> None:
    yard = make_yard()
    async with FakeSmtp(**script) as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        assert [recipient for recipient, _, _ in yard.open()] == ["b@x.test"]
        deferred = yard.events(sent.id)[-1]
        assert (deferred.kind, deferred.next_us > yard.clock.wall_us()) == ("deferred", True)
        assert deferred.cause


@pytest.mark.parametrize("stage", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "DOT"])
async def test_row_d12_silence_at_each_step_ends_in_another_attempt(make_yard: MakeYard, stage: str) -> None:
    yard = make_yard(**patient(0.05))
    script: dict[str, Any] = {stage: Silent()}
    async with FakeSmtp(**script) as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        assert "timeout after 0.05 s" in only(yard.events(sent.id)).cause
        assert ("may have arrived" in only(yard.events(sent.id)).cause) is (stage == "DOT")
        assert [recipient for recipient, _, _ in yard.open()] == ["b@x.test"]


@pytest.mark.parametrize("stage", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "DOT"])
async def test_promise_p11_an_answer_in_drips_is_waited_for_no_longer_than_none(
    make_yard: MakeYard, stage: str
) -> None:
    """RFC 5321 section 4.5.3.2 times the answer to a command; an octet of it now and then does not begin it anew."""
    yard = make_yard(**patient(0.1))
    script: dict[str, Any] = {stage: Drip(b"250-" + b"and so on" * 400, 0.03)}
    async with FakeSmtp(**script) as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        assert "timeout after 0.1 s" in only(yard.events(sent.id)).cause
        assert [recipient for recipient, _, _ in yard.open()] == ["b@x.test"]


async def test_row_d16_a_rate_limit_throttles_the_lane_and_bounces_nothing(yard: Yard) -> None:
    async with FakeSmtp(MAIL="421 4.7.28 rate limited") as host:
        yard.host("x.test", host)
        for _ in range(5):
            yard.send("b@x.test")
        await yard.settled()
        assert len(yard.open()) == 5
        before = host.connections
        yard.send("c@x.test")
        await yard.settled()
        assert host.connections == before
        assert yard.reports() == []


async def test_a_host_that_closes_between_messages_costs_no_attempt(yard: Yard, host: FakeSmtp) -> None:
    yard.host("x.test", host)
    yard.send("b@x.test")
    await yard.settled()
    for session in list(host._sessions):
        session.transport.write(b"421 4.4.2 idle too long\r\n")
        session.transport.close()
    await until(lambda: host.open == 0)
    second = yard.send("c@x.test")
    await yard.settled()
    assert host.recipients == ["b@x.test", "c@x.test"]
    assert yard.kinds(second.id) == ["delivered"]


async def test_a_second_exchanger_takes_what_the_first_does_not(make_yard: MakeYard, host: FakeSmtp) -> None:
    bad = await FakeSmtp(CONNECT="554 5.7.1 go away").start("127.0.0.2", host.port)
    yard = make_yard(signposts=read_signposts(port=host.port, allow_private=["127.0.0.0/8"]))
    yard.dns.mx_records["x.test"] = [(1, "bad.test"), (2, "good.test")]
    yard.dns.address_records |= {"bad.test": ["127.0.0.2"], "good.test": ["127.0.0.1"]}
    sent = yard.send("b@x.test")
    await yard.settled()
    assert host.recipients == ["b@x.test"]
    tried, delivered = yard.events(sent.id)
    assert (tried.kind, tried.where) == ("attempted", f"bad.test [127.0.0.2]:{host.port}")
    assert "554 5.7.1 go away" in tried.cause
    assert delivered.where == f"good.test [127.0.0.1]:{host.port}"
    await bad.close()


async def test_a_host_that_breaks_off_hands_its_mail_to_the_next(make_yard: MakeYard, host: FakeSmtp) -> None:
    bad = await FakeSmtp(RCPT="421 4.3.2 shutting down").start("127.0.0.2", host.port)
    yard = make_yard(signposts=read_signposts(port=host.port, allow_private=["127.0.0.0/8"]))
    yard.dns.mx_records["x.test"] = [(1, "bad.test"), (2, "good.test")]
    yard.dns.address_records |= {"bad.test": ["127.0.0.2"], "good.test": ["127.0.0.1"]}
    sent = yard.send("b@x.test")
    await yard.settled()
    assert host.recipients == ["b@x.test"]
    assert yard.kinds(sent.id) == ["attempted", "delivered"]
    await bad.close()


async def test_after_a_lost_final_reply_no_other_host_gets_a_copy(make_yard: MakeYard, host: FakeSmtp) -> None:
    unsure = await FakeSmtp(DOT=Drop()).start("127.0.0.2", host.port)
    yard = make_yard(signposts=read_signposts(port=host.port, allow_private=["127.0.0.0/8"]))
    yard.dns.mx_records["x.test"] = [(1, "unsure.test"), (2, "good.test")]
    yard.dns.address_records |= {"unsure.test": ["127.0.0.2"], "good.test": ["127.0.0.1"]}
    sent = yard.send("b@x.test")
    await yard.settled()
    assert host.messages == []
    assert "may have arrived" in only(yard.events(sent.id)).cause
    await unsure.close()


# -- TLS ---------------------------------------------------------------------------------------------------------------


async def test_tls_is_used_when_offered_and_described(make_yard: MakeYard, tmp_path: Path) -> None:
    authority = make_authority("Test", time.time_ns() // 1000)
    certificate, key = authority.issue(["127.0.0.1"], time.time_ns() // 1000)
    for name, octets in (("ca.pem", authority.pem), ("cert.pem", certificate), ("key.pem", key)):
        (tmp_path / name).write_bytes(octets)
    server_tls = ServerTls(tmp_path / "cert.pem", tmp_path / "key.pem")
    yard = make_yard(**patient(5.0, ClientTls(str(tmp_path / "ca.pem"), system_roots=False)))
    async with FakeSmtp(tls=server_tls.context) as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        assert only(host.messages).tls
        where = only(yard.events(sent.id)).where
        assert where.startswith(f"127.0.0.1 [127.0.0.1]:{host.port} TLSv1.3 TLS_")
        assert where.endswith(" verified")


@pytest.mark.parametrize(
    "trap",
    [
        "454 4.7.0 not now",
        Raw(b"220 go ahead\r\n250 injected\r\n"),
        Raw(b"220 go ahead\r\njunk, not a handshake at all"),
        Raw(b"220 go ahead\r\n", close=True),
        Drop(),
        "250 what",
        Silent(),
    ],
    ids=str,
)
async def test_row_d13_starttls_traps_end_in_the_clear_on_a_clean_connection(make_yard: MakeYard, trap: Any) -> None:
    yard = make_yard(**patient(0.2, ClientTls(system_roots=False)))
    async with FakeSmtp(STARTTLS=trap) as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        assert only(host.messages).recipients == ["b@x.test"]
        assert yard.kinds(sent.id)[-1] == "delivered"
        starttls = host.commands.index("STARTTLS")
        assert not any(line.startswith("MAIL") for line in host.commands[:starttls])
        again = yard.send("c@x.test")
        await yard.settled()
        assert yard.kinds(again.id) == ["delivered"]
        assert host.commands.count("STARTTLS") == 1


# -- what a host cannot take -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, recipient, status",
    [
        ({"eightbit": True}, "b@x.test", "5.6.3"),
        ({"smtputf8": True, "sender": "jörg@ours.test"}, "b@x.test", "5.6.7"),
        ({"smtputf8": True}, "jörg@x.test", "5.6.7"),
        ({"smtputf8": True, "header": "Subject: ü\r\n\r\n".encode()}, "b@x.test", "5.6.9"),
        ({"smtputf8": True, "header": "Subject: ü\r\n\r\n".encode()}, "jörg@x.test", "5.6.7"),
        ({"size": 5000}, "b@x.test", "5.3.4"),
    ],
)
async def test_mail_that_a_host_cannot_carry_ends_with_a_report(
    yard: Yard, changes: dict[str, Any], recipient: str, status: str
) -> None:
    """Row S51 (5.6.7), row S53 (5.6.3): reported, never sent otherwise than it was written."""
    async with FakeSmtp(extensions=("PIPELINING", "SIZE 1000")) as host:
        yard.host("x.test", host)
        yard.send(recipient, **changes)
        await yard.settled()
        assert host.messages == []
        assert f"\r\nStatus: {status}\r\n".encode() in only(yard.reports())


async def test_a_domain_in_another_script_goes_to_any_host(yard: Yard, host: FakeSmtp) -> None:
    yard.host("xn--bcher-kva.test", host)
    yard.send("b@bücher.test", smtputf8=True)
    await yard.settled()
    assert host.recipients == ["b@xn--bcher-kva.test"]


async def test_smtputf8_is_asked_for_when_it_is_needed(yard: Yard) -> None:
    async with FakeSmtp(extensions=("PIPELINING", "SMTPUTF8", "8BITMIME")) as host:
        yard.host("x.test", host)
        yard.send("jörg@x.test", smtputf8=True)
        yard.send("b@x.test", smtputf8=True)
        await yard.settled()
        lines = {got.recipients[0]: got.mail_line for got in host.messages}
        assert lines["jörg@x.test"].endswith(" SMTPUTF8")
        assert not lines["b@x.test"].endswith(" SMTPUTF8")


async def test_promise_p17_mail_that_runs_in_a_circle_ends(make_yard: MakeYard, host: FakeSmtp) -> None:
    yard = make_yard(max_hops=50)
    yard.host("x.test", host)
    message = yard.compose("b@x.test", header=b"Received: a\r\n" * 51 + b"\r\n")
    unowned = [type(leg)(leg.id, leg.recipient, leg.domain) for leg in message.legs]
    yard.store.run(
        accept, type(message)(**{f: getattr(message, f) for f in message.__struct_fields__} | {"legs": unowned})
    )
    yard.runner.wake()
    await until(yard.reports)
    assert b"\r\nStatus: 5.4.6\r\n" in only(yard.reports())
    assert host.messages == []


# -- reports -----------------------------------------------------------------------------------------------------------


async def test_row_d1_a_permanent_no_is_reported_in_the_same_transaction(yard: Yard) -> None:
    yard.dns.mx_records["x.test"] = [(0, ".")]
    sent = yard.send("b@x.test")
    await yard.settled()
    recorded = yard.store.recorded[0]
    assert [done.delivery for done in recorded.done] == [sent.legs[0].id]
    assert [report.legs[0].recipient for report in recorded.reports] == ["a@ours.test"]
    assert yard.kinds(sent.id) == ["bounced", "reported"]
    report = only(yard.reports())
    assert b"\r\nStatus: 5.1.10\r\n" in report
    assert [recipient for recipient, _, _ in yard.open()] == ["a@ours.test"]


@pytest.mark.parametrize("address", ["mail.ours.test", "127.0.0.9"])
async def test_row_d3_promise_p17_a_domain_whose_mail_would_come_back_to_us_is_reported(
    make_yard: MakeYard, host: FakeSmtp, address: str
) -> None:
    """Its exchanger has our name, or an address that is ours."""
    signposts = read_signposts(
        port=host.port, own_names=["mail.ours.test"], own_addresses=["127.0.0.9"], allow_private=["127.0.0.0/8"]
    )
    yard = make_yard(signposts=signposts)
    name = address if address.endswith("test") else "mx.x.test"
    yard.dns.mx_records["x.test"] = [(1, name), (2, "backup.x.test")]
    yard.dns.address_records |= {"mx.x.test": [address], "backup.x.test": ["127.0.0.1"]}
    yard.send("b@x.test")
    await yard.settled()
    assert b"\r\nStatus: 5.4.6\r\n" in only(yard.reports())
    assert host.connections == 0


async def test_row_d4_only_private_addresses_end_the_mail_with_a_report(make_yard: MakeYard, host: FakeSmtp) -> None:
    yard = make_yard(signposts=read_signposts(port=host.port))
    yard.dns.mx_records["x.test"] = [(1, "mx.x.test")]
    yard.dns.address_records["mx.x.test"] = ["127.0.0.1", "10.0.0.1", "::1", "fe80::1", "169.254.169.254"]
    yard.send("b@x.test")
    await yard.settled()
    assert b"\r\nStatus: 5.4.4\r\n" in only(yard.reports())
    assert host.connections == 0


async def test_promise_p17_a_report_itself_is_never_reported(yard: Yard) -> None:
    sent = yard.send("b@nowhere.test", sender="")
    await yard.settled()
    assert yard.kinds(sent.id) == ["bounced", "discarded"]
    assert "double bounce" in yard.events(sent.id)[-1].cause
    assert yard.open() == []
    assert yard.reports() == []


@pytest.mark.parametrize("notify", ["NEVER", "SUCCESS", "DELAY"])
async def test_a_sender_who_wants_no_report_gets_none(yard: Yard, notify: str) -> None:
    sent = yard.send(Recipient(Address.parse("b@nowhere.test"), notify))
    await yard.settled()
    assert yard.kinds(sent.id) == ["bounced", "discarded"]
    assert yard.reports() == []


async def test_why_one_of_several_is_in_no_report_is_told(yard: Yard) -> None:
    """Promise P8: a failure that nobody is told of has a reason in the journal, also beside one that is reported."""
    never = Recipient(Address.parse("c@nowhere.test"), "NEVER")
    sent = yard.send("b@nowhere.test", never)
    await yard.settled()
    kinds = [(event.kind, event.recipient) for event in yard.events(sent.id)]
    assert kinds[2:] == [("discarded", "c@nowhere.test"), ("reported", "a@ours.test")]
    assert b"c@nowhere.test" not in only(yard.reports())


async def test_a_sender_who_does_not_exist_gets_no_report(yard: Yard) -> None:
    yard.plans["a@ours.test"] = LocalPlan(refusal=Reply(550, "5.1.1", "No mailbox"), why="no such mailbox")
    sent = yard.send("b@nowhere.test")
    await yard.settled()
    assert yard.kinds(sent.id) == ["bounced", "discarded"]
    assert yard.open() == []


async def test_a_report_to_elsewhere_is_sent_like_any_mail(yard: Yard, host: FakeSmtp) -> None:
    yard.host("ours.test", host)
    yard.send("b@nowhere.test")
    await until(lambda: host.messages)
    got = only(host.messages)
    assert (got.sender, got.recipients) == ("", ["a@ours.test"])
    assert b"multipart/report" in got.content
    await yard.settled()
    assert yard.open() == []


async def test_several_failures_of_one_transaction_are_one_report(yard: Yard) -> None:
    async with FakeSmtp(RCPT="550 5.1.1 unknown") as host:
        yard.host("x.test", host)
        yard.send("b@x.test", "c@x.test")
        await yard.settled()
        assert only(yard.reports()).count(b"\r\nFinal-Recipient: ") == 2


# -- the store ---------------------------------------------------------------------------------------------------------


async def test_a_store_that_cannot_answer_is_asked_again(
    yard: Yard, host: FakeSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroad.flow.recorder.RETRY_S", 0.01)
    yard.host("x.test", host)
    sent = yard.compose("b@x.test")
    yard.store.run(accept, sent)
    yard.store.fail = [StoreBroken("disk")]
    yard.runner.enqueue_fresh(sent)
    await yard.settled()
    assert len(host.messages) == 1
    assert yard.kinds(sent.id) == ["delivered"]


async def test_what_somebody_dropped_meanwhile_spoils_nothing(yard: Yard, host: FakeSmtp) -> None:
    yard.host("x.test", host)
    host.hold = asyncio.Event()
    first, second = yard.send("b@x.test"), yard.send("c@x.test")
    await until(lambda: len(host.messages) == 2)
    yard.store.rows("DELETE FROM deliveries WHERE id = ?", first.legs[0].id)
    host.hold.set()
    await yard.settled()
    assert yard.kinds(second.id) == ["delivered"]
    assert yard.open() == []


async def test_sending_does_not_wait_for_records_but_not_without_limit(
    yard: Yard, host: FakeSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroad.flow.recorder.UNRECORDED_MAX", 10)
    yard.host("x.test", host)
    yard.store.slow = asyncio.Event()
    for _ in range(60):
        yard.send("b@x.test")
    await until(lambda: yard.runner.full)
    await asyncio.sleep(0.02)
    assert 10 <= len(host.messages) <= 10 + 20
    yard.store.slow.set()
    await yard.settled()
    assert len(host.messages) == 60
    assert yard.open() == []


async def test_nothing_is_attempted_twice_at_once(yard: Yard, host: FakeSmtp) -> None:
    yard.host("x.test", host)
    host.hold = asyncio.Event()
    yard.send("b@x.test")
    await until(lambda: host.messages)
    # Its lease is lost and its next time has come: the store would hand it out again, to us too.
    yard.store.writer.live.discard(ME)
    yard.clock.advance(10_000)
    claims = yard.store.calls.count("claim")
    yard.runner.wake()
    await until(lambda: yard.store.calls.count("claim") > claims)
    host.hold.set()
    await yard.settled()
    assert len(host.messages) == 1


def test_the_window_of_fresh_mail_is_bounded() -> None:
    window = Window()
    assert window.has_room(WINDOW_DELIVERIES, WINDOW_OCTETS, WINDOW_DELIVERIES, WINDOW_OCTETS)
    assert not window.has_room(WINDOW_DELIVERIES + 1, 0, WINDOW_DELIVERIES, WINDOW_OCTETS)
    assert not window.has_room(1, WINDOW_OCTETS + 1, WINDOW_DELIVERIES, WINDOW_OCTETS)


async def test_the_window_is_freed_when_results_are_recorded(yard: Yard, host: FakeSmtp) -> None:
    yard.host("x.test", host)
    host.hold = asyncio.Event()
    assert yard.runner.room_for(1500, 0)
    yard.send("b@x.test")
    assert not yard.runner.room_for(2000, 0)
    assert not yard.runner.room_for(1500, 0, "ours.test")
    assert yard.runner.room_for(1499, 0, "ours.test")
    await until(lambda: host.messages)
    host.hold.set()
    await yard.settled()
    assert yard.runner.room_for(1500, 64 * 1024 * 1024, "ours.test")


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_draining_finishes_what_is_under_way_and_gives_back_the_rest(make_yard: MakeYard, host: FakeSmtp) -> None:
    yard = make_yard(connections_per_lane=1)
    yard.host("x.test", host)
    host.hold = asyncio.Event()
    for _ in range(3):
        yard.send("b@x.test")
    await until(lambda: host.messages)
    draining = asyncio.ensure_future(yard.runner.drain(5.0))
    await asyncio.sleep(0)
    assert not yard.runner.room_for(1, 1)
    host.hold.set()
    await draining
    assert len(host.messages) == 1
    assert [(owner, reply) for _, owner, reply in yard.open()] == [(0, ""), (0, "")]
    due = yard.store.rows("SELECT due_us FROM deliveries")
    assert all(due_us <= yard.clock.wall_us() for (due_us,) in due)


async def test_an_attempt_cut_off_leaves_its_delivery_with_its_next_time(make_yard: MakeYard, host: FakeSmtp) -> None:
    yard = make_yard()
    yard.host("x.test", host)
    host.hold = asyncio.Event()
    sent = yard.send("b@x.test")
    await until(lambda: host.messages)
    await yard.runner.drain(0.01)
    assert yard.store.rows("SELECT owner, due_us FROM deliveries") == [(ME, sent.legs[0].due_us)]
    assert yard.kinds(sent.id) == []


# -- as the server makes it --------------------------------------------------------------------------------------------


async def test_the_runner_a_configuration_describes(make_yard: MakeYard, host: FakeSmtp) -> None:
    yard = make_yard()
    config = Config(
        hostname="mail.ours.test",
        relay=Relay(next_hop=f"127.0.0.1:{host.port}", tls=False),
        dns=Dns(nameservers=("127.0.0.1:1",)),
    )
    outside = Outside.from_config(config, yard.clock)
    runner = Runner.from_config(
        config,
        store=yard.store,
        reader=Reads(yard.store),
        spool=yard.bodies,
        story=yard.story,
        ids=yard.ids,
        clock=yard.clock,
        meters=Meters.private(),
        planner=Planner(yard.directory, hostname="mail.ours.test"),
        outside=outside,
        next_hop_of=yard.directory.next_hop,
        protection=Protection.from_config(
            config, outside, store=yard.store, reader=Reads(yard.store), clock=yard.clock
        ),
    )
    message = yard.compose("b@anywhere.test")
    yard.store.run(accept, message)
    runner.enqueue_fresh(message)
    await until(lambda: runner.in_flight == 0)
    assert host.recipients == ["b@anywhere.test"]
    assert "EHLO mail.ours.test" in host.commands
    await runner.drain(1.0)
