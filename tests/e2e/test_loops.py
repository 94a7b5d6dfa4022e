"""Promise P17: mail that runs in a circle ends, once, with a report that does not run itself.

Two servers that send each other mail for the other's domain. Neither has anything to notice the circle by but the mail.
"""

from __future__ import annotations

import json
import smtplib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Office, with_certificate
from tests.e2e.mail import arrived, message, messages, submission, until
from tests.live import LiveServer, live_server

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

ANNA = "anna@left.test"
HOPS_MAX = 50


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, LiveServer]]:
    """left.test and right.test; ring.test is a domain that each of them passes to the other one."""
    left, right = (tmp_path_factory.mktemp(name) for name in ("left", "right"))
    common = "[sending]\nfirst_time_recipients_per_day = 0\n[retry]\ndelays_s = [0.3, 0.5]\nlifetime_s = 30\n"
    with live_server(right, kind=Office, domain="right.test", config=with_certificate(right) + common) as far:
        routes = f'[relay.routes]\n"right.test" = "127.0.0.1:{far.ports["mx"]}"\n'
        config = with_certificate(left) + common + routes
        with live_server(left, kind=Office, domain="left.test", config=config) as near:
            far.stop()
            text = far.config_file.read_text()
            far.config_file.write_text(f'{text}[relay.routes]\n"left.test" = "127.0.0.1:{near.ports["mx"]}"\n')
            far.start()
            for server, other in ((near, far), (far, near)):
                server.add_domain("ring.test")
                to = f"127.0.0.1:{other.ports['mx']}"
                server.run("domain", "gateway", "ring.test", "--to", to, "--check", "all")
            near.run("alias", "add", "round@left.test", "round@right.test")
            far.run("alias", "add", "round@right.test", "round@left.test")
            yield near, far
            for server in (near, far):
                assert "Traceback" not in server.log()
                assert "whole, every rule holds" in server.run("verify")


def submit(server: LiveServer, to: str) -> str:
    """Sends a message as anna; returns its Message-ID."""
    mail = message(ANNA, to, "round and round")
    with submission(server, ANNA) as client:
        client.send_message(mail)
    return str(mail["Message-ID"])


def queued(server: LiveServer) -> list[Any]:
    found: list[Any] = json.loads(server.run("queue", "list", "--json"))["rows"]
    return found


def at_rest(pair: tuple[LiveServer, LiveServer]) -> None:
    """Waits until nothing is on its way any more; what goes from one to the other could be missed once, not twice."""
    until(lambda: not any(queued(server) for server in (*pair, *pair)))


def test_promise_p17_aliases_of_two_servers_that_lead_to_each_other(pair: tuple[LiveServer, LiveServer]) -> None:
    near, _ = pair
    known = len(messages(near, ANNA))
    submit(near, "round@right.test")
    report = arrived(near, ANNA, known + 1)[-1]
    assert b"multipart/report" in report
    assert b"\nStatus: 5.4.6\r\n" in report
    at_rest(pair)
    assert len(messages(near, ANNA)) == known + 1


def test_promise_p17_a_domain_that_each_server_passes_to_the_other_ends_at_fifty_hops(
    pair: tuple[LiveServer, LiveServer],
) -> None:
    """Nothing but the Received lines shows it (RFC 5321 section 6.3)."""
    near, _ = pair
    known = len(messages(near, ANNA))
    submit(near, "anybody@ring.test")
    report = arrived(near, ANNA, known + 1)[-1]
    assert b"\nStatus: 5.4.6\r\n" in report
    returned = report.rpartition(b"round and round")[0].rpartition(b"Content-Type: ")[2]
    assert HOPS_MAX - 1 <= returned.count(b"\nReceived: ") <= HOPS_MAX + 1
    at_rest(pair)
    assert len(messages(near, ANNA)) == known + 1


@pytest.mark.parametrize("to", ["round@right.test", "anybody@ring.test"])
def test_promise_p17_a_report_that_runs_in_a_circle_ends_without_another(
    pair: tuple[LiveServer, LiveServer], to: str
) -> None:
    """The null sender never gets a report (RFC 5321 section 6.1)."""
    near, far = pair
    known = len(messages(near, ANNA))
    with smtplib.SMTP("127.0.0.1", far.ports["mx"], timeout=20) as client:
        client.sendmail("", [to], b"From: mailer@else.test\r\nSubject: undeliverable\r\n\r\nSorry.\r\n")
    at_rest(pair)
    assert len(messages(near, ANNA)) == known


def test_promise_p17_mail_whose_sender_is_the_circle_itself_ends(pair: tuple[LiveServer, LiveServer]) -> None:
    """Its report goes to an address that runs in a circle too."""
    _, far = pair
    with smtplib.SMTP("127.0.0.1", far.ports["mx"], timeout=20) as client:
        client.sendmail("round@left.test", ["anybody@ring.test"], b"From: round@left.test\r\n\r\nHello.\r\n")
    at_rest(pair)
