"""A server with a policy.py, as an administrator runs it: refusals, changes, hangs, crashes, reloads."""

from __future__ import annotations

import os
import poplib
import re
import signal
import smtplib
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live import LiveServer, children, live_server, wait_gone

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

POLICY = """
import os
from postroad.rules.policy import add_header, refuse

print("policy loaded")

def mail(m):
    if m.sender == "hang@sender.test":
        while True:
            pass
    if m.sender == "crash@sender.test":
        os._exit(1)

def rcpt(r):
    if r.sender == "bad@sender.test":
        return refuse("We know you.")

def message(m):
    if "broken" in m.subject:
        raise RuntimeError(m.subject)
    return add_header("X-Policy", f"{m.door} {m.subject}")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    file = tmp_path / "policy.py"
    file.write_text(POLICY)
    with live_server(tmp_path, config=f'[policy]\nfile = "{file}"\ntimeout_s = 0.5\n') as started:
        yield started


def said(server: LiveServer, sender: str, subject: str = "hello") -> tuple[int, str]:
    """The reply that decided about one message."""
    with server.smtp() as client:
        try:
            client.sendmail(sender, ["anna@local.test"], f"From: {sender}\r\nSubject: {subject}\r\n\r\nA line\r\n")
        except smtplib.SMTPRecipientsRefused as error:
            code, text = error.recipients["anna@local.test"]
            return code, text.decode()
        except smtplib.SMTPResponseException as error:
            return error.smtp_code, error.smtp_error.decode() if isinstance(error.smtp_error, bytes) else ""
        return 250, ""


def policy_processes(server: LiveServer) -> list[int]:
    return [one for name, pid in server.pids().items() if name.startswith("worker") for one in children(pid)]


def newest(server: LiveServer) -> bytes:
    """The last message in anna's mailbox."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    box = poplib.POP3_SSL("127.0.0.1", server.ports["pop3s"], context=context, timeout=20)
    box.user("anna@local.test")
    box.pass_("secret")
    octets = b"\r\n".join(box.retr(box.stat()[0])[1])
    box.quit()
    return octets


def until(true: Callable[[], object], server: LiveServer) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, server.log()[-3000:]
        time.sleep(0.02)


def test_a_policy_decides_and_none_of_its_troubles_loses_mail(server: LiveServer) -> None:
    assert said(server, "a@sender.test") == (250, "")
    assert said(server, "bad@sender.test")[0] == 550
    assert "We know you." in said(server, "bad@sender.test")[1]
    code, text = said(server, "hang@sender.test")
    assert code == 451, text
    assert said(server, "crash@sender.test")[0] == 451
    assert said(server, "a@sender.test", "this is broken")[0] == 451
    assert said(server, "a@sender.test", "after all that") == (250, "")
    reference = re.search(r"\b[0-9A-Z]{13}\b", text)
    assert reference is not None
    assert "policy hung" in server.run("why", reference[0])
    log = server.log()
    assert "policy.py: policy loaded" in log
    assert "this is broken" not in "".join(line for line in log.split("\n") if "policy" in line)
    until(lambda: 'postroad_policy_doubts_total{why="policy hung"} 1' in server.metrics(), server)
    assert b"X-Policy: mx after all that\r\n" in newest(server)


def test_reload_takes_a_good_file_and_leaves_a_broken_one(server: LiveServer) -> None:
    file = server.folder / "policy.py"
    assert said(server, "bad@sender.test")[0] == 550
    file.write_text("def mail(m)\n")
    server.signal(signal.SIGHUP)
    until(lambda: "the one in use stays" in server.log() and "line 1: SyntaxError" in server.log(), server)
    assert said(server, "bad@sender.test")[0] == 550
    file.write_text(POLICY.replace("We know you.", "We still know you."))
    server.signal(signal.SIGHUP)
    until(lambda: "policy.py reloaded" in server.log(), server)
    assert "We still know you." in said(server, "bad@sender.test")[1]


def test_processes_end_with_their_worker_and_with_the_server(server: LiveServer) -> None:
    before = policy_processes(server)
    assert len(before) == 1
    os.kill(before[0], signal.SIGKILL)
    until(lambda: policy_processes(server) and policy_processes(server) != before, server)
    assert said(server, "bad@sender.test")[0] == 550
    mine = policy_processes(server)
    os.kill(server.pids()["worker-0"], signal.SIGKILL)
    wait_gone(mine)
    until(lambda: policy_processes(server) and server.healthy(), server)
    assert said(server, "bad@sender.test")[0] == 550
    mine = policy_processes(server)
    assert server.stop() == 0
    wait_gone(mine)
