"""Routes between real servers: a smarthost with a login, held mail, and bounces that come back to their message."""

from __future__ import annotations

import json
import smtplib
import time
from collections.abc import Iterator

import pytest

from postroad.net.tls import make_authority, write_private
from tests.e2e.conftest import CERTIFICATE_NAMES, Loop, Office, add_accounts, with_certificate
from tests.e2e.mail import arrived, messages, until
from tests.e2e.test_relay import send, story
from tests.fakes.smtp_server import FakeSmtp
from tests.live import LiveServer, free_ports, live_server

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

ANNA, BOB, CAROL = "anna@local.test", "bob@far.test", "carol@far.test"
[SINK] = free_ports(1)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The provider: bob has an account there and may send as anna."""
    folder = tmp_path_factory.mktemp("far")
    now_us = time.time_ns() // 1000
    root = make_authority("Root of the test", now_us)
    certificate, key = root.issue(CERTIFICATE_NAMES, now_us)
    write_private(folder / "server.pem", certificate + root.pem)
    write_private(folder / "server.key", key)
    section = f'[tls]\ncertificate = "{folder / "server.pem"}"\nkey = "{folder / "server.key"}"\n'
    with live_server(folder, kind=Office, domain="far.test", config=section) as started:
        add_accounts(started, BOB, CAROL)
        started.run("user", "grant", BOB, ANNA)
        yield started
        assert "Traceback" not in started.log()


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory, far: LiveServer) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("near")
    password = folder / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    routes = folder / "routes.toml"
    routes.write_text(
        '[legal]\nrecipients = ["legal.test"]\nvia = "hold"\nwhy = "until Monday"\n'
        f'[sink]\nrecipients = ["sink.test"]\nvia = "127.0.0.1:{SINK}"\n'
        f'[tls-first]\nrecipients = ["{CAROL}"]\nvia = "smtps:localhost:{far.ports["submissions"]}"\n'
        f'login = "{BOB}"\npassword_file = "{password}"\n'
        f'[provider]\nvia = "localhost:{far.ports["submission"]}"\nlogin = "{BOB}"\npassword_file = "{password}"\n'
    )
    config = (
        with_certificate(folder)
        + f'[relay]\nroutes_file = "{routes}"\nca_file = "{far.certificate}"\nreturn_paths = ["local.test"]\n'
        + "[retry]\ndelays_s = [0.3, 0.5]\nlifetime_s = 30\n"
    )
    with live_server(folder, kind=Office, config=config) as started:
        yield started
        assert "Traceback" not in started.log()
        assert "whole, every rule holds" in started.run("verify")


@pytest.mark.parametrize("recipient, route", [(BOB, "provider"), (CAROL, "tls-first")])
def test_a_smarthost_with_a_login(near: LiveServer, far: LiveServer, recipient: str, route: str) -> None:
    """By SCRAM bound to the channel, which the provider offers first; by STARTTLS, and by TLS from the first octet."""
    known = len(messages(far, recipient))
    ident = send(near, recipient)
    raw = arrived(far, recipient, known + 1)[-1]
    assert b" with ESMTPSA " in raw
    told = until(lambda: (one := story(near, ident))["endings"][0]["state"] == "delivered" and one)
    assert f"verified (route {route})" in json.dumps(told)
    assert "secret" not in near.log()


def test_what_is_held_leaves_when_somebody_releases_it(near: LiveServer) -> None:
    ident = send(near, "judge@legal.test")
    assert story(near, ident)["endings"][0]["state"] == "held"
    assert "route legal: until Monday" in json.dumps(story(near, ident))


def test_a_bounce_that_comes_later(near: LiveServer, loop: Loop) -> None:
    sink = loop.run(FakeSmtp().start(port=SINK))
    try:
        ident = send(near, "dave@sink.test")
        until(lambda: sink.messages)
    finally:
        loop.run(sink.close())
    path = sink.messages[0].sender
    assert path.startswith("anna+b=")
    report = (
        f"From: MAILER-DAEMON@sink.test\r\nTo: {path}\r\nSubject: Undelivered\r\n"
        "Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"
        "--b\r\n\r\nIt failed.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"
        "Reporting-MTA: dns; inner.sink.test\r\n\r\nFinal-Recipient: rfc822; dave@sink.test\r\nAction: failed\r\n"
        "Status: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n--b--\r\n"
    )
    mine = len(messages(near, ANNA))
    with near.smtp() as client:
        client.sendmail("", [path], report.encode())
        forged = path[:8] + ("a" if path[8] != "a" else "b") + path[9:]
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            client.sendmail("", [forged], report.encode())
        assert refused.value.recipients[forged][0] == 550
    assert b"no such user" in arrived(near, ANNA, mine + 1)[-1]
    ending = until(lambda: (one := story(near, ident)["endings"][0])["state"] == "returned" and one)
    assert ending["cause"] == "unknown recipient, for good"


def test_the_way_of_an_address(near: LiveServer, far: LiveServer) -> None:
    """A rehearsal with the real provider: login and all, and no message."""
    known = len(messages(far, BOB))
    told = json.loads(near.run("try", BOB, "--from", ANNA, "--connect", "--json"))["rows"][0]
    assert (told["prospect"], told["route"], told["login"]) == ("routable", "provider", BOB)
    assert any(line.startswith(f"RCPT TO:<{BOB}>: 250") for line in told["dialog"])
    assert len(messages(far, BOB)) == known
