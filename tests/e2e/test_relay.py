"""Mail for other domains: by private DNS to another server of ours, to Postfix's sink, and to servers in every mood."""

from __future__ import annotations

import json
import os
import re
import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.e2e.conftest import Loop, Office, add_accounts, with_certificate
from tests.e2e.mail import arrived, body, mailbox, message, messages, submission, until
from tests.fakes.dns import DnsServer
from tests.fakes.smtp_server import OK, FakeSmtp
from tests.live import LiveServer, free_ports, live_server
from tests.programs import find

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

T = TypeVar("T")
ANNA, BOB = "anna@local.test", "bob@far.test"

NAMES = {
    "far.test": {"MX": ["10 mx.far.test."]},
    "mx.far.test": {"A": ["127.0.0.2"]},
    "silent.test": {"MX": ["0 ."]},
}
"""Zones of the tests; what is not here does not exist."""


@pytest.fixture(scope="module")
def dns(loop: Loop) -> Iterator[DnsServer]:
    server = DnsServer(NAMES)
    loop.run(server.start())
    yield server
    loop.run(server.close())


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The other organisation, far.test."""
    folder = tmp_path_factory.mktemp("far")
    with live_server(folder, kind=Far, domain="far.test", config=with_certificate(folder)) as started:
        yield started


class Far(Office):
    """Listens on the address that DNS gives for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        text = self.config_file.read_text()
        port = self.ports["mx"]
        self.config_file.write_text(text.replace(f'"127.0.0.1:{port}"', f'"127.0.0.1:{port}", "127.0.0.2:{port}"'))


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory, dns: DnsServer, far: LiveServer) -> Iterator[LiveServer]:
    """Our own organisation, which asks the private DNS and retries within a second."""
    add_accounts(far, BOB)
    far.run("domain", "set", "far.test", "--catch-all", BOB)
    folder = tmp_path_factory.mktemp("near")
    config = (
        with_certificate(folder)
        + f'[relay]\nport = {far.ports["mx"]}\nallow_private = ["127.0.0.0/8"]\nca_file = "{far.certificate}"\n'
        + "[relay.routes]\n"
        + "".join(f'"{name}" = "127.0.0.1:{port}"\n' for name, port in SINKS.items())
        + "[sending]\nfirst_time_recipients_per_day = 0\n"
        + f'[retry]\ndelays_s = [0.3, 0.5]\nlifetime_s = 30\n[dns]\nnameservers = ["{dns.address}"]\n'
    )
    with live_server(folder, kind=Office, config=config) as started:
        yield started
        assert "Traceback" not in started.log()
        assert "whole, every rule holds" in started.run("verify")


SINKS = dict(zip(("sink.test", "moody.test", "bounce.test", "dead.test", "narrow.test"), free_ports(5), strict=True))
"""Domains with a fixed next hop, each on a port of its own; a test starts what shall answer there."""


@pytest.fixture
def moody(loop: Loop) -> Iterator[Callable[..., FakeSmtp]]:
    """Starts a server for one of the `SINKS` that behaves as a script says."""
    started: list[FakeSmtp] = []

    def start(domain: str, **script: Any) -> FakeSmtp:
        server = FakeSmtp(**script)
        loop.run(server.start(port=SINKS[domain]))
        started.append(server)
        return server

    yield start
    for server in started:
        loop.run(server.close())


def send(near: LiveServer, recipients: str | list[str], raw: bytes | None = None, options: tuple[str, ...] = ()) -> str:
    """Anna sends a message; returns its queue id."""
    to = [recipients] if isinstance(recipients, str) else recipients
    content = raw if raw is not None else message(ANNA, to[0], "journey").as_bytes().replace(b"\n", b"\r\n")
    with submission(near, ANNA) as client:
        assert client.mail(ANNA, options)[0] == 250
        for one in to:
            code, words = client.rcpt(one)
            assert code == 250, words
        code, words = client.data(content)
        assert code == 250, words
    found = re.search(rb"Queued as (\w+)", words)
    assert found is not None, words
    return found[1].decode()


def story(near: LiveServer, what: str) -> dict[str, Any]:
    """What `postroad why` tells about one message."""
    told: dict[str, Any] = json.loads(near.run("why", what, "--json"))["message"]
    return told


def ended(near: LiveServer, ident: str, state: str) -> dict[str, Any]:
    """Wait until all deliveries of a message have ended in this state."""

    def look() -> dict[str, Any] | None:
        told = story(near, ident)
        return told if {ending["state"] for ending in told["endings"]} == {state} else None

    told = until(look)
    assert told is not None
    return told


# -- another server of ours ------------------------------------------------------------------------------------------


def test_by_mx_over_starttls_to_another_postroad(near: LiveServer, far: LiveServer) -> None:
    known = len(messages(far, BOB))
    ident = send(near, BOB)
    raw = arrived(far, BOB, known + 1)[-1]
    assert b" with ESMTPS " in raw
    assert f"id {ident}".encode() in raw
    assert raw.count(b"\r\nReceived: ") == 2
    told = ended(near, ident, "delivered")
    assert "TLSv1.3" in json.dumps(told)


def test_a_message_to_200_recipients_goes_once(near: LiveServer, far: LiveServer) -> None:
    known = len(messages(far, BOB))
    ident = send(near, [f"bob+{number}@far.test" for number in range(200)])
    told = ended(near, ident, "delivered")
    assert len(told["endings"]) == 200
    # 100 recipients a transaction (RFC 5321 section 4.5.3.1.8), all of one mailbox there.
    assert len(messages(far, BOB)) - known == 2


def test_an_alias_leads_to_another_domain(near: LiveServer, far: LiveServer) -> None:
    known = len(messages(far, BOB))
    near.run("alias", "add", "sales@local.test", BOB, ANNA)
    mine = len(messages(near, ANNA))
    with near.smtp() as client:
        client.sendmail("carl@else.test", ["sales@local.test"], b"Subject: offer\r\n\r\nPlease.\r\n")
    assert body(arrived(near, ANNA, mine + 1)[-1]) == b"Please.\r\n"
    raw = arrived(far, BOB, known + 1)[-1]
    assert raw.startswith(b"Return-Path: <carl@else.test>\r\n")


def test_catch_all_at_the_other_side(near: LiveServer, far: LiveServer) -> None:
    known = len(messages(far, BOB))
    send(near, "no.such.name@far.test")
    raw = arrived(far, BOB, known + 1)[-1]
    assert b"no.such.name@far.test" in raw


# -- what is answered at the door -------------------------------------------------------------------------------------


def test_postmaster_tags_and_quota(near: LiveServer) -> None:
    near.add_user("small@local.test")
    near.run("user", "quota", "small@local.test", "1KB")
    mine = len(messages(near, ANNA))
    with near.smtp() as client:
        for address in ("<postmaster>", "<Postmaster@LOCAL.test>", "<abuse@local.test>", "<anna+news@local.test>"):
            client.mail("carl@else.test")
            client.putcmd(f"RCPT TO:{address}")
            assert client.getreply()[0] == 250, address
            assert client.data(b"Subject: to us\r\n\r\nhi\r\n")[0] == 250
        client.mail("carl@else.test", ["SIZE=5000"])
        code, words = client.rcpt("small@local.test")
        assert (code, words[:5]) == (452, b"4.2.2")
        client.rset()
        client.mail("carl@else.test")
        assert client.rcpt("small@local.test")[0] == 250
    arrived(near, ANNA, mine + 4)


def test_null_mx_and_no_such_domain_come_back_at_once(near: LiveServer) -> None:
    for domain, code, cause in (("silent.test", "5.1.10", "null MX"), ("nowhere.test", "5.1.2", "does not exist")):
        mine = len(messages(near, ANNA))
        ident = send(near, f"x@{domain}")
        told = ended(near, ident, "bounced")
        assert cause in json.dumps(told)
        report = arrived(near, ANNA, mine + 1)[-1]
        assert f"Status: {code}".encode() in report


# -- servers in every mood ---------------------------------------------------------------------------------------------


def test_a_receiver_that_defers_then_accepts(near: LiveServer, moody: Callable[..., FakeSmtp]) -> None:
    server = moody("moody.test", RCPT=["450 4.2.0 after my coffee", OK])
    ident = send(near, "dora@moody.test")
    told = ended(near, ident, "delivered")
    assert [event["kind"] for event in told["events"]][-2:] == ["deferred", "delivered"]
    assert "450 4.2.0 after my coffee" in json.dumps(told)
    assert len(server.messages) == 1


@pytest.mark.parametrize("options, kind", [((), "text/rfc822-headers"), (("RET=FULL",), "message/rfc822")])
def test_a_bounce_is_a_report_the_sender_can_read(
    near: LiveServer, moody: Callable[..., FakeSmtp], options: tuple[str, ...], kind: str
) -> None:
    moody("bounce.test", RCPT="550 5.1.1 nobody of that name")
    mine = len(messages(near, ANNA))
    ident = send(near, "gone@bounce.test", options=options)
    raw = arrived(near, ANNA, mine + 1)[-1]
    assert raw.startswith(b"Return-Path: <>\r\n")
    report = message_from_bytes(raw)
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    human, status, original = parts_of(report)
    assert human.get_content_type() == "text/plain"
    assert "nobody of that name" in human.as_string()
    assert status.get_content_type() == "message/delivery-status"
    of_message, of_recipient = parts_of(status)
    assert of_message["Reporting-MTA"] == "dns; mx.local.test"
    assert of_recipient["Final-Recipient"] == "rfc822; gone@bounce.test"
    assert of_recipient["Action"] == "failed"
    assert of_recipient["Status"] == "5.1.1"
    assert original.get_content_type() == kind
    assert "Subject: journey" in original.as_string()
    told = story(near, ident)
    assert any(event["kind"] in ("bounced", "reported") and event.get("link") for event in told["events"])


def parts_of(mail: Message) -> list[Message]:
    """The parts of a multipart or of a delivery status."""
    parts = mail.get_payload()
    assert isinstance(parts, list)
    return [part for part in parts if isinstance(part, Message)]


def test_the_report_has_its_structure_in_imap(near: LiveServer, moody: Callable[..., FakeSmtp]) -> None:
    moody("bounce.test", RCPT="550 5.1.1 nobody of that name")
    mine = len(messages(near, ANNA))
    send(near, "gone@bounce.test", options=("RET=FULL",))
    arrived(near, ANNA, mine + 1)
    with mailbox(near, ANNA) as client:
        text = str(client.fetch("*", "(BODYSTRUCTURE)")[1])
    assert '"report"' in text.lower()
    assert '"message" "delivery-status"' in text.lower()
    assert '"message" "rfc822"' in text.lower()


def test_a_null_sender_makes_no_report(near: LiveServer, moody: Callable[..., FakeSmtp]) -> None:
    moody("bounce.test", RCPT="550 5.1.1 nobody of that name")
    near.run("alias", "add", "leads-away@local.test", "gone@bounce.test")
    mine = len(messages(near, ANNA))
    with near.smtp() as client:
        client.mail("")
        client.rcpt("leads-away@local.test")
        words = client.data(b"Subject: a report\r\n\r\nhi\r\n")[1]
    ident = words.rpartition(b" ")[2].decode()
    until(lambda: {ending["state"] for ending in story(near, ident)["endings"]} & {"bounced", "discarded"})
    assert len(messages(near, ANNA)) == mine


def test_eight_bits_to_a_server_that_takes_seven(near: LiveServer, moody: Callable[..., FakeSmtp]) -> None:
    server = moody("narrow.test", extensions=("PIPELINING", "SIZE"))
    raw = (
        "From: anna@local.test\r\nTo: x@narrow.test\r\nSubject: seven\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n"
    ).encode()
    mine = len(messages(near, ANNA))
    ident = send(near, "x@narrow.test", raw, ("BODY=8BITMIME",))
    told = until(lambda: {ending["state"] for ending in story(near, ident)["endings"]} & {"bounced", "delivered"})
    if told == {"bounced"}:
        report = arrived(near, ANNA, mine + 1)[-1]
        assert b"Status: 5.6." in report, report
        assert server.messages == []
    else:
        [got] = server.messages
        assert got.content.isascii(), "RFC 6152 section 3: convert or return, never send 8 bits there"


def test_nobody_listens_then_somebody_does(near: LiveServer, moody: Callable[..., FakeSmtp]) -> None:
    ident = send(near, "late@dead.test")
    told = until(lambda: [event for event in story(near, ident)["events"] if event["kind"] == "deferred"])
    assert "refused" in json.dumps(told).lower()
    listed = json.loads(near.run("queue", "list", ident, "--json"))["rows"]
    assert [row["recipient"] for row in listed] == ["late@dead.test"]
    server = moody("dead.test")
    near.run("queue", "retry", ident, check=False)
    ended(near, ident, "delivered")
    assert server.recipients == ["late@dead.test"]


@pytest.fixture
def sink() -> Iterator[Path]:
    """Postfix's smtp-sink for sink.test; every transaction becomes a file in the folder."""
    program = find("smtp-sink")
    assert program is not None
    # As root it wants another user, who may not enter the folders of pytest.
    folder = Path(tempfile.mkdtemp(prefix="postroad-sink-"))
    folder.chmod(0o777)
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    place = f"127.0.0.1:{SINKS['sink.test']}"
    process = subprocess.Popen(
        [program, *user, "-d", f"{folder}/mail.%M%S.", place, "10"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
    )  # fmt: skip
    try:
        until(lambda: _answers(SINKS["sink.test"]))
        yield folder
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(folder)


@pytest.mark.needs_program("smtp-sink")
def test_postfix_smtp_sink_takes_what_we_relay(near: LiveServer, sink: Path) -> None:
    idents = [send(near, f"user{number}@sink.test") for number in range(20)]
    for ident in idents:
        ended(near, ident, "delivered")
    texts = [path.read_bytes() for path in sink.iterdir()]
    kept = b"".join(texts)
    assert all(kept.count(f"user{number}@sink.test".encode()) >= 1 for number in range(20))
    assert kept.count(b"Subject: journey") == 20


def _answers(port: int) -> bool:
    try:
        smtplib.SMTP("127.0.0.1", port, timeout=2).quit()
    except OSError:
        return False
    return True
