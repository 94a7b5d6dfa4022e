"""A gateway domain between two servers of ours, and in front of Postfix's LMTP sink."""

from __future__ import annotations

import json
import os
import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Iterator
from email.policy import SMTP
from pathlib import Path

import pytest

from tests.e2e.conftest import Office, with_certificate
from tests.e2e.mail import arrived, message, until
from tests.live import LiveServer, free_ports, live_server
from tests.programs import find

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

RETRY = "[retry]\ndelays_s = [0.3, 0.5]\nlifetime_s = 60\n"


@pytest.fixture
def inner(tmp_path: Path) -> Iterator[LiveServer]:
    """The server that gate.test really lives on, with anna@."""
    folder = tmp_path / "inner"
    folder.mkdir()
    with live_server(folder, kind=Office, domain="gate.test", config=with_certificate(folder)) as started:
        yield started
        assert "Traceback" not in started.log()


@pytest.fixture
def outer(tmp_path: Path, inner: LiveServer) -> Iterator[LiveServer]:
    """The MX in front of it: two workers, and front.test of its own."""
    folder = tmp_path / "outer"
    folder.mkdir()
    config = with_certificate(folder) + RETRY
    with live_server(folder, kind=Office, domain="front.test", workers=2, config=config) as started:
        started.add_domain("gate.test")
        started.run("domain", "gateway", "gate.test", "--to", f"127.0.0.1:{inner.ports['mx']}")
        yield started
        assert "Traceback" not in started.log()
        assert "whole, every rule holds" in started.run("verify")


def rcpt(server: LiveServer, recipient: str) -> tuple[int, str]:
    """What a stranger is told at RCPT."""
    with server.smtp() as client:
        client.mail("zoe@far.test")
        code, words = client.rcpt(recipient)
        return code, words.decode()


def send(server: LiveServer, recipient: str) -> None:
    with server.smtp() as client:
        client.sendmail(
            "zoe@far.test", [recipient], message("zoe@far.test", recipient, "inwards").as_bytes(policy=SMTP)
        )


def waiting(server: LiveServer) -> str:
    return server.run("queue", "list", "--json")


def test_mail_is_taken_for_who_exists_and_reaches_the_inner_host(outer: LiveServer, inner: LiveServer) -> None:
    code, words = rcpt(outer, "nobody@gate.test")
    assert (code, "5.1.1" in words, "127.0.0.1" in words) == (550, True, False)
    found = json.loads(outer.run("why", words.rpartition("Ref ")[2], "--json"))
    assert f"127.0.0.1 [127.0.0.1]:{inner.ports['mx']} said 550 5.1.1" in json.dumps(found)
    send(outer, "anna@gate.test")
    [raw] = arrived(inner, "anna@gate.test")
    received = [line for line in raw.split(b"\r\n") if line.startswith(b"Received:")]
    assert len(received) == 2
    # postmaster is passed on, whatever the inner host says of it at RCPT.
    send(outer, "postmaster@gate.test")
    arrived(inner, "anna@gate.test", 2)
    story = outer.run("why", "postmaster@gate.test")
    assert f"gateway: 127.0.0.1:{inner.ports['mx']}" in story
    # A mailbox here makes the domain a split one.
    outer.add_user("bob@gate.test")
    send(outer, "bob@gate.test")
    assert len(arrived(outer, "bob@gate.test")) == 1


def test_a_host_that_is_down_never_refuses_for_good(outer: LiveServer, inner: LiveServer) -> None:
    send(outer, "anna@gate.test")
    arrived(inner, "anna@gate.test")
    inner.stop()
    # The workers forget; the store does not.
    outer.stop()
    outer.start()
    assert rcpt(outer, "anna@gate.test")[0] == 250
    code, words = rcpt(outer, "carl@gate.test")
    assert (code, "4.4.3" in words) == (451, True)
    where = f"127.0.0.1:{inner.ports['mx']}"
    outer.run("domain", "gateway", "gate.test", "--to", where, "--in-doubt", "defer")
    assert rcpt(outer, "anna@gate.test")[0] == 451
    outer.run("domain", "gateway", "gate.test", "--to", where, "--in-doubt", "accept")
    assert rcpt(outer, "carl@gate.test")[0] == 250
    send(outer, "anna@gate.test")
    inner.start()
    arrived(inner, "anna@gate.test", 2)


def test_a_list_decides_without_asking(outer: LiveServer, inner: LiveServer) -> None:
    outer.run("domain", "gateway", "gate.test", "--to", f"127.0.0.1:{inner.ports['mx']}", "--check", "list")
    outer.run("domain", "recipients", "gate.test", "--add-from", "-", given="anna@gate.test\n")
    inner.stop()
    assert rcpt(outer, "anna@gate.test")[0] == 250
    assert rcpt(outer, "carl@gate.test")[0] == 550


def test_waiting_mail_goes_to_the_host_that_is_named_last(outer: LiveServer, inner: LiveServer) -> None:
    [nowhere] = free_ports(1)
    outer.run("domain", "gateway", "gate.test", "--to", f"127.0.0.1:{nowhere}", "--check", "all")
    for _ in range(4):
        send(outer, "anna@gate.test")
    assert "gate.test" in waiting(outer)
    outer.run("domain", "gateway", "gate.test", "--to", f"127.0.0.1:{inner.ports['mx']}", "--check", "all")
    arrived(inner, "anna@gate.test", 4)


def test_a_gateway_to_ourselves_is_noticed(outer: LiveServer) -> None:
    """The question is a doubt, and mail that is taken all the same waits instead of going round."""
    ourselves = f"127.0.0.1:{outer.ports['mx']}"
    outer.run("domain", "gateway", "gate.test", "--to", ourselves)
    assert rcpt(outer, "carl@gate.test")[0] == 451
    outer.run("domain", "gateway", "gate.test", "--to", ourselves, "--check", "all")
    send(outer, "carl@gate.test")
    until(lambda: "this server itself" in outer.run("queue", "list", "gate.test"))


@pytest.fixture
def sink() -> Iterator[tuple[Path, int]]:
    """Postfix's smtp-sink as an LMTP server; every transaction becomes a file in the folder."""
    program = find("smtp-sink")
    assert program is not None
    folder = Path(tempfile.mkdtemp(prefix="postroad-lmtp-"))
    folder.chmod(0o777)
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    [port] = free_ports(1)
    process = subprocess.Popen(
        [program, "-L", *user, "-d", f"{folder}/mail.%M%S.", f"127.0.0.1:{port}", "10"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
    )  # fmt: skip
    try:
        until(lambda: _answers(port))
        yield folder, port
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(folder)


def _answers(port: int) -> bool:
    try:
        smtplib.LMTP("127.0.0.1", port).quit()
    except OSError:
        return False
    return True


@pytest.mark.needs_program("smtp-sink")
def test_postfix_sink_takes_our_lmtp(outer: LiveServer, sink: tuple[Path, int]) -> None:
    folder, port = sink
    outer.run("domain", "gateway", "gate.test", "--to", f"lmtp:127.0.0.1:{port}")
    with outer.smtp() as client:
        people = [f"user{number}@gate.test" for number in range(3)]
        client.sendmail("zoe@far.test", people, message("zoe@far.test", people[0], "by lmtp").as_bytes(policy=SMTP))
    until(lambda: b"Subject: by lmtp" in b"".join(path.read_bytes() for path in folder.iterdir()))
    kept = b"".join(path.read_bytes() for path in folder.iterdir())
    assert all(person.encode() in kept for person in people)
