"""What senders are told, end to end: by us of mailboxes here and of hosts without DSN, by Postfix of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from email import message_from_bytes
from email.message import Message

import pytest

from tests.e2e.conftest import Loop, Office, add_accounts, with_certificate
from tests.e2e.mail import arrived, message, messages, submission, until
from tests.e2e.postfix import postfix
from tests.fakes.smtp_server import FakeSmtp
from tests.live import LiveServer, free_ports, live_server

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

BOB = "bob@fix.test"
POSTFIX_PORT, SINK_PORT = free_ports(2)


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Our server for local.test, with fixed ways to Postfix and to a host without DSN, and no patience with delays."""
    folder = tmp_path_factory.mktemp("near")
    config = (
        with_certificate(folder)
        + '[relay]\nallow_private = ["127.0.0.0/8"]\n[relay.routes]\n'
        + f'"fix.test" = "127.0.0.1:{POSTFIX_PORT}"\n"sink.test" = "127.0.0.1:{SINK_PORT}"\n'
        + "[retry]\ndelays_s = [0.3, 0.5]\nlifetime_s = 60\nwarn_after_s = 1\n"
    )
    with live_server(folder, kind=Office, config=config) as started:
        yield started
        assert "Traceback" not in started.log()
        assert "whole, every rule holds" in started.run("verify")


@pytest.fixture
def sender(near: LiveServer) -> str:
    """The address of a fresh account."""
    address = f"user{time.monotonic_ns()}@local.test"
    add_accounts(near, address)
    return address


@pytest.fixture
def sink() -> Iterator[FakeSmtp]:
    """A host that announces no DSN; it refuses nobody, but defers who is called late."""
    loop = Loop()
    server = FakeSmtp(RCPT=lambda line: "450 4.2.0 after my coffee" if "late@" in line else "250 2.1.5 ok")
    loop.run(server.start(port=SINK_PORT))
    yield server
    loop.run(server.close())
    loop.close()


def send(near: LiveServer, sender: str, to: str, *options: str, of_mail: Sequence[str] = ()) -> None:
    """Hands a message in with parameters of RCPT and MAIL."""
    with submission(near, sender) as client:
        assert client.mail(sender, of_mail)[0] == 250
        code, words = client.rcpt(to, options)
        assert code == 250, words
        content = message(sender, to, "report to me").as_bytes().replace(b"\n", b"\r\n")
        assert client.data(content)[0] == 250


def status(raw: bytes) -> tuple[Message, Message]:
    """The fields of a report: of the message, and of its one recipient."""
    report = message_from_bytes(raw)
    assert report.get_content_type() == "multipart/report"
    parts = report.get_payload()
    assert isinstance(parts, list)
    second = parts[1]
    assert isinstance(second, Message)
    groups = second.get_payload()
    assert isinstance(groups, list)
    of_message, of_recipient = groups
    assert isinstance(of_message, Message)
    assert isinstance(of_recipient, Message)
    return of_message, of_recipient


def test_a_delivery_into_a_mailbox_here_gives_one_report(near: LiveServer, sender: str) -> None:
    anna = "anna@local.test"
    known = len(messages(near, anna))
    send(near, sender, anna, "NOTIFY=SUCCESS", "ORCPT=rfc822;anna@local.test", of_mail=["ENVID=QQ314", "RET=FULL"])
    of_message, of_recipient = status(arrived(near, sender)[0])
    assert (of_message["Reporting-MTA"], of_message["Original-Envelope-Id"]) == ("dns; mx.local.test", "QQ314")
    assert (of_recipient["Action"], of_recipient["Status"]) == ("delivered", "2.0.0")
    assert of_recipient["Original-Recipient"] == "rfc822; anna@local.test"
    assert len(arrived(near, anna, known + 1)) == known + 1


def test_a_host_without_dsn_is_reported_as_relayed(near: LiveServer, sender: str, sink: FakeSmtp) -> None:
    send(near, sender, "dora@sink.test", "NOTIFY=SUCCESS,FAILURE", of_mail=["ENVID=Q"])
    _, of_recipient = status(arrived(near, sender)[0])
    assert of_recipient["Action"] == "relayed"
    assert of_recipient["Final-Recipient"] == "rfc822; dora@sink.test"
    assert of_recipient["Remote-MTA"] == "dns; 127.0.0.1"
    [got] = sink.messages
    assert "NOTIFY" not in got.rcpt_lines[0]
    assert "ENVID" not in got.mail_line


def test_a_delay_is_told_once_while_it_is_tried_on(near: LiveServer, sender: str, sink: FakeSmtp) -> None:
    send(near, sender, "late@sink.test")
    raw = arrived(near, sender)[0]
    _, of_recipient = status(raw)
    assert (of_recipient["Action"], of_recipient["Status"]) == ("delayed", "4.2.0")
    assert "after my coffee" in of_recipient["Diagnostic-Code"]
    tried = len([line for line in sink.commands if line.startswith("RCPT")])
    until(lambda: len([line for line in sink.commands if line.startswith("RCPT")]) >= tried + 3)
    assert len(messages(near, sender)) == 1
    near.run("queue", "drop", "sink.test", "--yes")


@pytest.mark.needs_program("postfix")
@pytest.mark.skipif(os.geteuid() != 0, reason="Postfix starts as root only")
def test_postfix_takes_over_what_the_sender_wants_to_hear(near: LiveServer, sender: str) -> None:
    """It announces DSN: it gets the parameters, and its report is the only one."""
    with postfix("fix.test", POSTFIX_PORT, near.ports["mx"]) as receiver:
        send(
            near, sender, BOB, "NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;Bob+2Bx@old.test",
            of_mail=["ENVID=QQ+2B314", "RET=HDRS"],
        )  # fmt: skip
        until(receiver.mail)
        raw = arrived(near, sender)[0]
        of_message, of_recipient = status(raw)
        assert of_message["Reporting-MTA"] == "dns; mx.fix.test"
        assert of_message["Original-Envelope-Id"] == "QQ+314"
        assert of_recipient["Action"] == "delivered"
        assert of_recipient["Original-Recipient"] == "rfc822;Bob+x@old.test"
        send(near, sender, "gone@fix.test", "NOTIFY=NEVER")
        send(near, sender, "gone@fix.test", "NOTIFY=FAILURE")
        failed = status(arrived(near, sender, 2)[1])[1]
        assert failed["Action"] == "failed"
        assert len(receiver.mail()) == 1
