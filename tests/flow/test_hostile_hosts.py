"""Rows D11 to D13: next hops that say too much, the wrong thing or nothing, at each step of a session.

Whatever such a host does, mail for it stays, is tried again later, and nobody is told that it arrived or failed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from postroad.flow.outbound import Manner
from postroad.flow.route import read_signposts
from postroad.net.tls import ClientTls
from tests.fakes.smtp_server import OK, Drop, Endless, FakeSmtp, Raw, Silent, Step
from tests.flow.yard import Yard, only

STAGES = ("CONNECT", "EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "DOT", "BDAT")
MB = 1_000_000


@pytest_asyncio.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    manner = Manner("mail.ours.test", ClientTls(system_roots=False), 5.0, patience_s=5.0)
    made = Yard(tmp_path, manner=manner)
    made.runner.start()
    yield made
    await made.runner.drain(0.0)
    made.store.connection.close()


def at(stage: str, step: Step, **more: Any) -> FakeSmtp:
    """A host that does this at one step and behaves at all others."""
    extensions = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", *(["CHUNKING"] if stage == "BDAT" else []))
    script: dict[str, Any] = {"DOT" if stage == "BDAT" else stage: step, **more}
    if stage == "EHLO":
        # Who cannot EHLO is asked to HELO.
        script["HELO"] = step
    return FakeSmtp(extensions, **script)


ODD: dict[str, Step] = {
    "a line of 10 MB": Raw(b"250 " + b"x" * 10 * MB + b"\r\n"),
    "10 MB and no end of the line": Raw(b"250 " + b"x" * 10 * MB),
    "10 MB of nothing but line ends": Raw(b"\r\n" * 5 * MB),
    "a million lines": Endless(times=MB),
    "a million lines of different codes": Raw(b"250-a\r\n450-b\r\n550-c\r\n" * (MB // 3)),
    "NUL": Raw(b"250 ok\0ay\r\n"),
    "999": "999 what",
    "000": "000 what",
    "2xx": "2xx fine",
    "a code of four digits": "2500 fine",
    "no code": "fine",
    "an empty line": "",
    "two codes in one reply": Raw(b"250-a\r\n550 b\r\n"),
    "1xx": "150 wait",
    "421": "421 4.3.2 closing",
    "goodbye without a word": Drop(),
    "half a reply and goodbye": Raw(b"25", close=True),
    "octets above 127": Raw(b"\xff\xfe\xfd\r\n"),
    "HTTP": Raw(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", close=True),
    "a TLS alert": Raw(b"\x15\x03\x01\x00\x02\x02\x16", close=True),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "STARTTLS"])
async def test_row_d11_a_host_that_says_what_no_host_says(yard: Yard, stage: str, what: str) -> None:
    async with at(stage, ODD[what]) as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        assert [recipient for recipient, _, _ in yard.open()] == ["b@x.test"]
        deferred = yard.events(sent.id)[-1]
        assert deferred.kind == "deferred"
        assert deferred.cause
        assert deferred.next_us > yard.clock.wall_us()
        assert yard.reports() == []


@pytest.mark.parametrize("what", ODD)
async def test_rows_d11_d13_a_host_that_says_so_to_starttls_gets_the_mail_over_another_connection(
    yard: Yard, what: str
) -> None:
    """Nothing demands TLS here, so a host whose TLS is broken is spoken to without, from the beginning."""
    async with at("STARTTLS", ODD[what]) as host:
        yard.host("x.test", host)
        yard.send("b@x.test")
        await yard.settled()
        if not host.messages:
            assert [recipient for recipient, _, _ in yard.open()] == ["b@x.test"]
            await yard.later(10.0)
        assert only(host.messages).recipients == ["b@x.test"]
        starttls = host.commands.index("STARTTLS")
        assert host.commands[starttls + 1].startswith("EHLO"), "a session went on in which the host had lost its way"
        assert host.connections >= 2


@pytest.mark.parametrize("stage", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"])
async def test_row_d11_a_reply_too_many_never_answers_the_next_command(yard: Yard, stage: str) -> None:
    """220 twice, 250 twice: from there on every reply would be taken for that of the command after it."""
    twice = {
        "CONNECT": Raw(b"220 fake.test\r\n220 fake.test\r\n"),
        "EHLO": Raw(b"250-fake.test\r\n250 PIPELINING\r\n250 fake.test\r\n"),
        "MAIL": Raw(b"250 ok\r\n250 ok\r\n"),
        "RCPT": Raw(b"550 5.1.1 who?\r\n250 ok\r\n"),
        "DATA": Raw(b"554 no\r\n250 2.0.0 taken\r\n"),
    }
    script: dict[str, Any] = {stage: twice[stage]}
    async with FakeSmtp(**script) as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test", "c@x.test")
        await yard.settled()
        assert host.messages == []
        assert "delivered" not in yard.kinds(sent.id)


@pytest.mark.parametrize("stage", ["STARTTLS", "BDAT", "QUIT"])
async def test_row_d12_silence_at_the_other_steps(tmp_path: Path, stage: str) -> None:
    manner = Manner("mail.ours.test", ClientTls(system_roots=False), 5.0, patience_s=0.05)
    yard = Yard(tmp_path, manner=manner, idle_s=0.01)
    yard.runner.start()
    async with at(stage, Silent()) as host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test")
        await yard.settled()
        if stage == "BDAT":
            assert "may have arrived" in only(yard.events(sent.id)).cause
        else:
            assert yard.kinds(sent.id)[-1] == "delivered"
            assert only(host.messages).recipients == ["b@x.test"]
    await yard.runner.drain(0.5)
    yard.store.connection.close()


async def test_row_d12_a_host_that_stops_reading_in_the_middle_of_the_content(tmp_path: Path) -> None:
    """A window of zero: the content is large, so that it does not fit into what the system takes of it."""
    yard = Yard(tmp_path, manner=Manner("mail.ours.test", None, 5.0, patience_s=0.2))
    yard.runner.start()
    (tmp_path / "large").write_bytes(b"0123456789abcde\r\n" * MB)

    def stop(line: str) -> Step:
        for session in host._sessions:
            session.transport.pause_reading()
        return "354 go on"

    host = FakeSmtp(("PIPELINING",), DATA=stop)
    async with host:
        yard.host("x.test", host)
        sent = yard.send("b@x.test", body=None, body_file="large", size=17 * MB + 100)
        await yard.settled()
        assert "stopped reading" in only(yard.events(sent.id)).cause
        assert [recipient for recipient, _, _ in yard.open()] == ["b@x.test"]
    await yard.runner.drain(0.0)
    yard.store.connection.close()


@pytest.mark.parametrize(
    "trap",
    [
        "454 4.7.0 not now",
        Raw(b"220 go ahead\r\n250 injected\r\n"),
        Raw(b"220 go ahead\r\njunk, not a handshake at all"),
        Drop(),
    ],
    ids=str,
)
async def test_row_d13_where_tls_is_demanded_the_next_exchanger_is_tried(tmp_path: Path, trap: Step) -> None:
    """And the first one gets nothing, not even the sender's address."""
    from postroad.flow.tls_policy import TlsPolicies, read_configured

    async with FakeSmtp(STARTTLS=trap) as first:
        second = await FakeSmtp().start("127.0.0.2", first.port)
        yard = Yard(
            tmp_path,
            manner=Manner("mail.ours.test", ClientTls(system_roots=False), 5.0, patience_s=1.0),
            signposts=read_signposts(port=first.port, allow_private=["127.0.0.0/8"]),
        )
        yard.runner._policies = TlsPolicies(yard.dns, configured=read_configured({"x.test": "encrypt"}))
        yard.dns.mx_records["x.test"] = [(1, "one.test"), (2, "two.test")]
        yard.dns.address_records |= {"one.test": ["127.0.0.1"], "two.test": ["127.0.0.2"]}
        yard.runner.start()
        sent = yard.send("b@x.test")
        await yard.settled()
        assert yard.kinds(sent.id)[-1] == "deferred"
        assert (first.messages, second.messages) == ([], [])
        assert second.connections == 1
        for host in (first, second):
            assert not any(line.startswith(("MAIL", "RCPT", "DATA")) for line in host.commands)
        await yard.runner.drain(0.0)
        yard.store.connection.close()
        await second.close()


async def test_row_d14_the_last_recipient_refused_behind_a_354_leaves_nothing_at_the_host(yard: Yard) -> None:
    """Everybody refused, and the host wants the content all the same: it gets a lone dot, which it must not keep."""
    async with FakeSmtp(RCPT="550 5.1.1 unknown", DATA="354 go on", DOT=OK) as host:
        yard.host("x.test", host)
        yard.send("b@x.test", "c@x.test")
        await yard.settled()
        assert host.messages == []
        assert only(yard.reports()).count(b"\nStatus: 5.1.1\r\n") == 2
