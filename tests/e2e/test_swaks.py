"""swaks, the tool with which administrators try a mail server, at every door and with every way to be refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.mail import HOST, arrived, body, ran
from tests.live import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.needs_program("swaks")]

REJECTED_AT_SERVER_REPLY = {"mail": 23, "rcpt": 24, "data": 25, "dot": 26, "auth": 28, "tls": 29}
"""Exit statuses of swaks by where it was refused (swaks(1), "EXIT CODES")."""


@pytest.fixture
def swaks(office: LiveServer) -> Callable[..., tuple[int, str]]:
    """Runs swaks against one of the doors with these further words."""

    def run(door: str, *words: str | Path) -> tuple[int, str]:
        place = ("--server", HOST, "--port", office.ports[door], "--helo", "client.test", "--suppress-data")
        tls = ("--tls-verify", "--tls-ca-path", office.certificate)
        return ran(["swaks", *place, *tls, *words])

    return run


Swaks = Callable[..., tuple[int, str]]


def login(user: str, kind: str = "PLAIN", password: str = "secret") -> tuple[str, ...]:
    return ("--auth", kind, "--auth-user", user, "--auth-password", password)


def test_mail_to_the_mx_door(office: LiveServer, account: str, swaks: Swaks) -> None:
    status, output = swaks("mx", "--to", account, "--from", "carl@else.test", "--body", "by MX")
    assert status == 0, output
    assert re.search(r"<-  250 2\.0\.0 Queued as \w+", output)
    [raw] = arrived(office, account)
    assert raw.startswith(b"Return-Path: <carl@else.test>\r\n")
    assert body(raw).startswith(b"by MX\r\n")
    assert b" with ESMTP " in raw


def test_starttls_at_the_mx_door(office: LiveServer, account: str, swaks: Swaks) -> None:
    status, output = swaks("mx", "--tls", "--to", account, "--from", "carl@else.test")
    assert status == 0, output
    assert "TLSv1.3" in output
    [raw] = arrived(office, account)
    assert b" with ESMTPS " in raw


@pytest.mark.parametrize("door, tls", [("submission", "--tls"), ("submissions", "--tls-on-connect")])
@pytest.mark.parametrize("kind", ["PLAIN", "LOGIN"])
def test_submission_with_a_login(
    office: LiveServer, account: str, swaks: Swaks, door: str, tls: str, kind: str
) -> None:
    status, output = swaks(door, tls, *login(account, kind), "--to", account, "--from", account)
    assert status == 0, output
    assert "235 2.7.0" in output
    [raw] = arrived(office, account)
    assert b" with ESMTPSA " in raw


def test_login_is_offered_under_tls_only(account: str, swaks: Swaks) -> None:
    status, output = swaks("submission", *login(account), "--to", account, "--from", account)
    assert status == REJECTED_AT_SERVER_REPLY["auth"], output
    assert "AUTH" not in output.partition("250-")[2].partition(" -> ")[0]


@pytest.mark.parametrize(
    "user, password", [("", "wrong"), ("nobody@local.test", "secret"), ("nobody@else.test", "secret")]
)
def test_wrong_logins_are_all_answered_alike(account: str, swaks: Swaks, user: str, password: str) -> None:
    who = login(user or account, password=password)
    status, output = swaks("submission", "--tls", *who, "--to", account, "--from", account)
    assert status == REJECTED_AT_SERVER_REPLY["auth"], output
    assert re.search(r"535 5\.7\.8 Wrong user name or password\. [\w ]+\. \(?Ref \w+", output), output


def test_no_login_no_relay_at_submission(account: str, swaks: Swaks) -> None:
    status, output = swaks("submission", "--tls", "--to", account, "--from", account)
    assert status == REJECTED_AT_SERVER_REPLY["mail"], output
    assert "530 5.7.0" in output


def test_unknown_user_and_foreign_domain_are_refused(account: str, swaks: Swaks) -> None:
    status, output = swaks("mx", "--to", "nobody@local.test", "--from", "carl@else.test")
    assert status == REJECTED_AT_SERVER_REPLY["rcpt"], output
    assert "550 5.1.1" in output
    status, output = swaks("mx", "--to", "somebody@third.test", "--from", account)
    assert status == REJECTED_AT_SERVER_REPLY["rcpt"], output
    assert "5.7.1" in output


def test_one_good_recipient_of_two_gets_the_mail(office: LiveServer, account: str, swaks: Swaks) -> None:
    status, output = swaks("mx", "--pipeline", "--to", f"nobody@local.test,{account}", "--from", "carl@else.test")
    assert status == 0, output
    assert "550 5.1.1" in output
    assert len(arrived(office, account)) == 1


def test_pipelining(office: LiveServer, account: str, swaks: Swaks) -> None:
    status, output = swaks("mx", "--pipeline", "--to", account, "--from", "carl@else.test")
    assert status == 0, output
    assert re.search(r"MAIL FROM.*\n.*RCPT TO.*\n.*DATA", output)
    assert len(arrived(office, account)) == 1


def test_five_megabytes(office: LiveServer, account: str, swaks: Swaks, tmp_path: Path) -> None:
    lines = "".join(f"line {number:06} {'x' * 60}\n" for number in range(70_000))
    (tmp_path / "large").write_text(f"Subject: large\n\n{lines}")
    status, output = swaks("mx", "--tls", "--to", account, "--from", "carl@else.test", "--data", tmp_path / "large")
    assert status == 0, output
    [raw] = arrived(office, account)
    assert body(raw).replace(b"\r\n", b"\n") == lines.encode() + b"\n"


def test_eight_bits_and_dots_stay_as_they_are(office: LiveServer, account: str, swaks: Swaks, tmp_path: Path) -> None:
    text = "Grüße aus Köln\n.\n..\n.dot\nend\n"
    (tmp_path / "eight").write_text(f"Subject: eight\nContent-Type: text/plain; charset=utf-8\n\n{text}")
    status, output = swaks("mx", "--to", account, "--from", "carl@else.test", "--data", tmp_path / "eight")
    assert status == 0, output
    [raw] = arrived(office, account)
    assert body(raw).decode().replace("\r\n", "\n").rstrip("\n") == text.rstrip("\n")


def test_the_null_sender(office: LiveServer, account: str, swaks: Swaks) -> None:
    status, output = swaks("mx", "--to", account, "--from", "<>")
    assert status == 0, output
    [raw] = arrived(office, account)
    assert raw.startswith(b"Return-Path: <>\r\n")
