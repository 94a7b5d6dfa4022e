"""Logins by real clients: SCRAM with and without channel binding, app passwords, and a network that guesses."""

from __future__ import annotations

import imaplib
import json
import re
import smtplib
import ssl
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from scramp import ScramClient

from tests.e2e.mail import HOST, PATIENCE_S, Ran, arrived, body, ran, trusting, until
from tests.live import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

Msmtp = Callable[..., Ran]


@pytest.fixture
def msmtp(office: LiveServer, tmp_path: Path) -> Msmtp:
    """Sends a message with msmtp, logged in with a mechanism."""

    def run(door: str, user: str, recipient: str, *, auth: str = "scram-sha-256", password: str = "secret") -> Ran:
        config = tmp_path / "msmtprc"
        config.write_text(
            f"account ours\nhost {HOST}\nport {office.ports[door]}\nfrom {user.partition('#')[0]}\nauth {auth}\n"
            f"user {user}\npassword {password}\ntls on\ntls_trust_file {office.certificate}\n"
            f"tls_starttls {'off' if door == 'submissions' else 'on'}\n"
        )
        config.chmod(0o600)
        sender = user.partition("#")[0].encode()
        letter = b"From: %b\nTo: %b\nSubject: by msmtp\n\nHello.\n" % (sender, recipient.encode())
        return ran(["msmtp", "-C", config, "-a", "ours", recipient], given=letter)

    return run


@pytest.mark.needs_program("msmtp")
@pytest.mark.parametrize("door", ["submission", "submissions"])
@pytest.mark.parametrize("auth", ["scram-sha-256", "plain", "login", "on"])
def test_msmtp_logs_in(office: LiveServer, account: str, msmtp: Msmtp, door: str, auth: str) -> None:
    sent = msmtp(door, account, account, auth=auth)
    assert sent.status == 0, sent.output
    [raw] = arrived(office, account)
    assert body(raw) == b"Hello.\r\n"


@pytest.mark.needs_program("msmtp")
def test_msmtp_with_a_wrong_password_is_told_where_to_ask(office: LiveServer, account: str, msmtp: Msmtp) -> None:
    sent = msmtp("submission", account, account, password="wrong")
    assert sent.status == 77, sent.output
    found = re.search(r"535 5\.7\.8 Wrong user name or password\. [\w ]+\. Ref (\w+)", sent.output)
    assert found is not None, sent.output
    why = until(lambda: office.run("why", found[1], check=False))
    assert "wrong password" in why
    assert f"login as {account} by SCRAM-SHA-256" in why


def made(office: LiveServer, account: str, *words: str) -> str:
    """A new app password."""
    output = office.run("user", "app-password", "add", account, "--label", "phone", *words)
    return output.split("Password: ")[1].split()[0]


@pytest.mark.needs_program("msmtp")
def test_an_app_password_sends_until_it_is_removed(office: LiveServer, account: str, msmtp: Msmtp) -> None:
    password = made(office, account, "--scope", "smtp", "--from", "127.0.0.0/8")
    for user, auth in [(f"{account}#phone", "scram-sha-256"), (account, "plain")]:
        sent = msmtp("submission", user, account, auth=auth, password=password)
        assert sent.status == 0, sent.output
    [row] = until(lambda: [row for row in app_passwords(office, account) if row["used_us"]])
    assert row["used_from"] == "127.0.0.1"
    with imaplib.IMAP4_SSL(HOST, office.ports["imaps"], ssl_context=trusting(office.certificate)) as client:
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            client.login(account, password)
        client.login(account, "secret")
    office.run("user", "app-password", "remove", account, "phone")
    assert msmtp("submission", f"{account}#phone", account, password=password).status == 77


def app_passwords(office: LiveServer, account: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(office.run("user", "app-password", "list", account, "--json"))["rows"]
    return rows


class Plus:
    """SCRAM-SHA-256-PLUS for `smtplib` and `imaplib`."""

    def __init__(self, sock: object, user: str, password: str = "secret") -> None:
        assert isinstance(sock, ssl.SSLSocket)
        seen = sock.getpeercert(binary_form=True)
        assert seen is not None
        binding = ("tls-server-end-point", sha256(seen).digest())
        self.client = ScramClient(["SCRAM-SHA-256-PLUS"], user, password, channel_binding=binding)
        self.step = 0

    def __call__(self, challenge: bytes | None = None) -> str:
        said = (challenge or b"").decode()
        if not said and not self.step:
            self.step = 1
            return str(self.client.get_client_first())
        self.step += 1
        if self.step == 2:
            self.client.set_server_first(said)
            return str(self.client.get_client_final())
        self.client.set_server_final(said)
        return ""


def test_a_login_bound_to_the_channel(office: LiveServer, account: str) -> None:
    with smtplib.SMTP(HOST, office.ports["submission"], timeout=PATIENCE_S) as client:
        client.starttls(context=trusting(office.certificate))
        client.ehlo()
        assert "SCRAM-SHA-256-PLUS" in client.esmtp_features["auth"].split()
        code, _ = client.auth("SCRAM-SHA-256-PLUS", Plus(client.sock, account))
        assert code == 235
    with imaplib.IMAP4(HOST, office.ports["imap"]) as reader:
        reader.starttls(trusting(office.certificate))
        plus = Plus(reader.sock, account)
        assert reader.authenticate("SCRAM-SHA-256-PLUS", lambda said: plus(said).encode())[0] == "OK"


@pytest.mark.needs_program("mbsync")
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "*"])
def test_cyrus_sasl_logs_in_by_scram_or_what_it_likes_best(
    office: LiveServer, account: str, tmp_path: Path, mechanism: str
) -> None:
    config = tmp_path / "mbsyncrc"
    config.write_text(
        f"IMAPAccount us\nHost {HOST}\nPort {office.ports['imaps']}\nUser {account}\nPass secret\nSSLType IMAPS\n"
        f"CertificateFile {office.certificate}\nAuthMechs {mechanism}\n\nIMAPStore far\nAccount us\n\n"
        f"MaildirStore near\nPath {tmp_path}/\nInbox {tmp_path}/INBOX\n\n"
        "Channel all\nFar :far:\nNear :near:\nPatterns *\nCreate Near\n"
    )
    listed = ran(["mbsync", "-V", "-c", config, "-l", "all"], environment={"HOME": str(tmp_path)})
    assert listed.status == 0, listed.output
    assert "Sent" in listed.output
