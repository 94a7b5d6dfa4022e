"""neomutt sends and reads; fetchmail takes mail out by POP3 and IMAP, into a program or back into us by SMTP."""

from __future__ import annotations

from collections.abc import Callable
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from tests.e2e.mail import HOST, NewAccount, arrived, body, mailbox, message, messages, ran, submission
from tests.live import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

NO_MAIL = 1
"""fetchmail(1), "EXIT CODES"."""


# -- neomutt ---------------------------------------------------------------------------------------------------------

Mutt = Callable[..., tuple[int, str]]


@pytest.fixture
def neomutt(office: LiveServer, account: str, tmp_path: Path) -> Mutt:
    """Runs neomutt for the account with nothing but our configuration; TLS is verified, nothing is asked."""
    login = account.replace("@", "%40")
    settings = tmp_path / "neomuttrc"
    settings.write_text(
        f'set from = "{account}" realname = "Anna Müller" use_envelope_from = yes hostname = client.test\n'
        f'set smtp_url = "smtp://{login}:secret@{HOST}:{office.ports["submission"]}/" ssl_starttls = yes\n'
        f'set smtp_authenticators = "plain" imap_authenticators = "plain"\n'
        f'set ssl_force_tls = yes certificate_file = "{office.certificate}" ssl_verify_host = yes\n'
        f'set imap_user = "{account}" imap_pass = "secret" folder = "imaps://{HOST}:{office.ports["imaps"]}/"\n'
        f'set record = "" sleep_time = 0 wait_key = no quit = yes delete = yes\n'
        f'set print = yes print_command = "cat >> {tmp_path}/printed" print_split = yes\n'
    )

    def run(*words: str | Path, given: str = "") -> tuple[int, str]:
        home = {"HOME": str(tmp_path), "TERM": "xterm"}
        return ran(["neomutt", "-n", "-F", settings, *words], given.encode(), home)

    return run


@pytest.mark.needs_program("neomutt")
def test_neomutt_sends_by_submission(office: LiveServer, account: str, neomutt: Mutt, tmp_path: Path) -> None:
    (tmp_path / "notes.bin").write_bytes(bytes(range(256)) * 40)
    text = "Grüße von neomutt\n.\nFrom here on\n"
    status, output = neomutt("-s", "Übung", "-a", tmp_path / "notes.bin", "--", account, given=text)
    assert status == 0, output
    [raw] = arrived(office, account)
    mail = message_from_bytes(raw, policy=policy.default)
    assert mail["Subject"] == "Übung"
    words = mail.get_body()
    assert words is not None
    assert words.get_content().replace("\r\n", "\n") == text
    [attached] = mail.iter_attachments()
    assert attached.get_content() == bytes(range(256)) * 40
    assert b" with ESMTPSA " in raw


@pytest.mark.needs_program("neomutt", "script")
def test_neomutt_reads_flags_and_deletes(office: LiveServer, account: str, neomutt: Mutt, tmp_path: Path) -> None:
    with submission(office, account) as client:
        for word in ("first", "second", "third"):
            client.send_message(message(account, account, word, f"text of the {word}\n"))
    arrived(office, account, 3)
    keys = (
        "<tag-pattern>~A<enter><tag-prefix><print-message><untag-pattern>~A<enter>"
        "<search>~s\\ second<enter><flag-message>"
        "<search>~s\\ third<enter><delete-message><sync-mailbox><quit>"
    )
    status, output = on_a_terminal(keys, tmp_path, office)
    assert status == 0, output
    printed = (tmp_path / "printed").read_text()
    assert all(f"text of the {word}" in printed for word in ("first", "second", "third"))
    with mailbox(office, account) as reader:
        assert reader.search(None, "ALL")[1] == [b"1 2"]
        assert reader.search(None, "FLAGGED")[1] == [b"2"]
        assert reader.search(None, "SUBJECT", "third")[1] == [b""]


def on_a_terminal(keys: str, folder: Path, office: LiveServer) -> tuple[int, str]:
    """neomutt wants a terminal to read a mailbox: script(1) gives it one."""
    with (folder / "neomuttrc").open("a") as settings:
        settings.write(f'set auto_tag = no\npush "{keys}"\n')
    line = f"neomutt -n -F {folder}/neomuttrc -f imaps://{HOST}:{office.ports['imaps']}/INBOX"
    return ran(["script", "-qefc", line, "/dev/null"], b"", {"HOME": str(folder), "TERM": "xterm"})


# -- fetchmail -------------------------------------------------------------------------------------------------------


@pytest.mark.needs_program("fetchmail")
@pytest.mark.parametrize("service", ["pop3", "pop3s", "imap", "imaps"])
def test_fetchmail_delivers_into_a_program(office: LiveServer, account: str, tmp_path: Path, service: str) -> None:
    sent = [message(account, account, f"number {number}", f"text {number}\n.\nend\n") for number in range(5)]
    with submission(office, account) as client:
        for mail in sent:
            client.send_message(mail)
    arrived(office, account, 5)
    catch = tmp_path / "catch"
    catch.write_text(f'#!/bin/sh\ncat > "{tmp_path}/got.$$"\n')
    catch.chmod(0o755)
    status, output = fetchmail(office, account, tmp_path, service, f'mda "{catch}"')
    assert status == 0, output
    got = sorted(path.read_bytes().replace(b"\r\n", b"\n") for path in tmp_path.glob("got.*"))
    assert sorted(one.partition(b"\n\n")[2] for one in got) == sorted(mail.get_content().encode() for mail in sent)
    assert messages(office, account) == []
    assert fetchmail(office, account, tmp_path, service, f'mda "{catch}"')[0] == NO_MAIL


@pytest.mark.needs_program("fetchmail")
def test_fetchmail_hands_on_by_smtp(office: LiveServer, account: str, new_account: NewAccount, tmp_path: Path) -> None:
    other = new_account()
    with submission(office, account) as client:
        for number in range(5):
            client.send_message(message(account, account, f"number {number}"))
    arrived(office, account, 5)
    smtp = f'smtphost "{HOST}/{office.ports["mx"]}" smtpname "{other}"'
    status, output = fetchmail(office, account, tmp_path, "imaps", smtp)
    assert status == 0, output
    got = arrived(office, other, 5)
    assert messages(office, account) == []
    assert all(body(raw) == b"Hello.\r\n" for raw in got)
    assert all(raw.startswith(f"Return-Path: <{account}>".encode()) for raw in got)


@pytest.mark.needs_program("fetchmail")
def test_fetchmail_keeps_what_nobody_takes(office: LiveServer, account: str, tmp_path: Path) -> None:
    with submission(office, account) as client:
        client.send_message(message(account, account, "stays"))
    arrived(office, account)
    refuse = tmp_path / "refuse"
    refuse.write_text("#!/bin/sh\ncat >/dev/null\nexit 75\n")  # one that does not read at all breaks the pipe instead
    refuse.chmod(0o755)
    output = fetchmail(office, account, tmp_path, "pop3s", f'mda "{refuse}"')[1]
    assert "MDA returned nonzero status" in output, output
    assert len(messages(office, account)) == 1


def fetchmail(office: LiveServer, account: str, folder: Path, service: str, rest: str) -> tuple[int, str]:
    """Takes everything once; the certificate and its name are checked."""
    secure = "ssl" if service.endswith("s") else "sslproto TLS1.2+"
    protocol = service.removesuffix("s")
    settings = folder / "fetchmailrc"
    settings.write_text(
        f"poll {HOST} protocol {protocol} service {office.ports[service]}\n"
        f'  user "{account}" password "secret"\n'
        f'  {secure} sslcertck sslcertfile "{office.certificate}" fetchall no rewrite {rest}\n'
    )
    settings.chmod(0o600)
    words: list[str | Path] = ["--nodetach", "--nosyslog", "-v", "-f", settings]
    words += ["--pidfile", folder / "pid", "--idfile", folder / "ids"]
    return ran(["fetchmail", *words], environment={"HOME": str(folder), "FETCHMAILHOME": str(folder)})
