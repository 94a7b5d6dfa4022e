"""Python's own smtplib, imaplib and poplib, and what they lack by hand: BDAT and IDLE."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
import ssl
import time
from email import message_from_bytes, policy

import pytest

from tests.e2e.mail import (
    HOST,
    PATIENCE_S,
    NewAccount,
    arrived,
    body,
    mailbox,
    maildrop,
    message,
    messages,
    submission,
    trusting,
    until,
)
from tests.live import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

IDLE_MAX_S = 2.0


def test_utf8_in_every_header_and_in_the_text(office: LiveServer, account: str) -> None:
    mail = message(account, account, "Grüße nach 東京", "Smørrebrød\n☃\n")
    mail.replace_header("To", f'"Anna Müller" <{account}>')
    with submission(office, account) as client:
        assert client.send_message(mail) == {}
    [raw] = arrived(office, account)
    got = message_from_bytes(raw, policy=policy.default)
    assert (got["Subject"], got["Message-ID"]) == ("Grüße nach 東京", mail["Message-ID"])
    assert got.get_content() == "Smørrebrød\r\n☃\r\n"


def test_smtputf8_address_in_the_header_is_delivered_as_sent(office: LiveServer, account: str) -> None:
    mail = (
        "From: Jürgen <jürgen@müller.test>\r\nDate: Fri, 27 Nov 2026 08:00:00 +0100\r\n"
        "Message-ID: <gruss@müller.test>\r\nSubject: Grüße\r\n\r\nroh\r\n"
    ).encode()
    office.run("user", "grant", account, "@müller.test")
    with submission(office, account) as client:
        assert client.has_extn("smtputf8")
        assert client.sendmail("jürgen@müller.test", [account], mail, ["SMTPUTF8", "BODY=8BITMIME"]) == {}
    [raw] = arrived(office, account)
    assert raw.startswith("Return-Path: <jürgen@müller.test>\r\n".encode())
    assert raw.endswith(mail)


def test_lmtp_answers_for_every_recipient(office: LiveServer, new_account: NewAccount) -> None:
    one, other = new_account(), new_account()
    office.run("user", "quota", other, "1KB")
    content = message(one, one, "by a neighbour", "x" * 60 + "\n" + "y\n" * 1500).as_string()
    with smtplib.LMTP("127.0.0.1", office.ports["lmtp"], timeout=20) as client:
        refused = client.sendmail("a@sender.test", [one, other, f"nobody@{office.domain}"], content)
    assert {address: code for address, (code, _) in refused.items()} == {other: 452, f"nobody@{office.domain}": 550}
    [raw] = arrived(office, one)
    assert b" with LMTP id " in raw
    assert messages(office, other) == []


def test_a_message_is_held_until_its_time_and_then_comes(office: LiveServer, account: str) -> None:
    with submission(office, account) as client:
        assert client.has_extn("futurerelease")
        client.sendmail(account, [account], message(account, account, "later").as_string(), ["HOLDFOR=2"])
        assert messages(office, account) == []
    assert len(arrived(office, account)) == 1


def test_one_refused_recipient_does_not_stop_the_other(office: LiveServer, account: str) -> None:
    with submission(office, account) as client:
        refused = client.send_message(message(account, account, "two"), account, [account, "nobody@local.test"])
    assert refused["nobody@local.test"][0] == 550
    assert len(arrived(office, account)) == 1


def test_more_than_the_limit_is_refused_before_it_is_sent(office: LiveServer, account: str) -> None:
    with submission(office, account) as client:
        limit = int(client.esmtp_features["size"])
        assert client.mail(account, [f"SIZE={limit + 1}"])[0] == 552
        assert client.mail(account, [f"SIZE={limit}"])[0] == 250


def test_bdat_by_hand(office: LiveServer, account: str) -> None:
    raw = message(account, account, "chunks", "dots:\n.\n..\nend\n").as_bytes(policy=policy.SMTP)
    with submission(office, account) as client:
        assert client.has_extn("chunking")
        assert client.mail(account)[0] == client.rcpt(account)[0] == 250
        assert client.sock is not None
        # A chunk may end between CR and LF.
        cut = raw.index(b"\r\n") + 1
        client.sock.sendall(b"BDAT %d\r\n" % cut + raw[:cut])
        assert client.getreply()[0] == 250
        rest = raw[cut:]
        client.sock.sendall(b"BDAT %d LAST\r\n" % len(rest) + rest)
        assert client.getreply()[0] == 250
    [got] = arrived(office, account)
    assert got.endswith(raw)


def test_idle_shows_new_mail_at_once(office: LiveServer, account: str) -> None:
    with mailbox(office, account) as idler, submission(office, account) as client:
        assert "IDLE" in idler.capabilities
        idler.send(b"X1 IDLE\r\n")
        assert idler.readline().startswith(b"+")
        began = time.monotonic()
        client.send_message(message(account, account, "wake up"))
        line = idler.readline()
        while b"EXISTS" not in line:
            assert line, "the connection ended"
            line = idler.readline()
        assert time.monotonic() - began < IDLE_MAX_S
        assert line == b"* 1 EXISTS\r\n"
        idler.send(b"DONE\r\n")
        while not (line := idler.readline()).startswith(b"X1"):
            assert line, "the connection ended"
        assert line.startswith(b"X1 OK")


def test_idle_shows_what_another_session_does(office: LiveServer, account: str) -> None:
    with submission(office, account) as client:
        for number in range(2):
            client.send_message(message(account, account, f"number {number}"))
    arrived(office, account, 2)
    with mailbox(office, account) as idler, mailbox(office, account) as other:
        idler.send(b"X1 IDLE\r\n")
        assert idler.readline().startswith(b"+")
        other.store("2", "+FLAGS", "(\\Flagged)")
        while b"FETCH" not in (line := idler.readline()):
            assert line, "the connection ended"
        assert line.startswith(b"* 2 FETCH")
        assert b"\\Flagged" in line
        other.store("1", "+FLAGS", "(\\Deleted)")
        other.expunge()
        while b"EXPUNGE" not in (line := idler.readline()):
            assert line, "the connection ended"
        assert line == b"* 1 EXPUNGE\r\n"
        idler.send(b"DONE\r\n")
        while not idler.readline().startswith(b"X1 OK"):
            pass


def test_the_life_of_a_message_in_imap(office: LiveServer, account: str) -> None:
    raw = message(account, account, "kept").as_bytes(policy=policy.SMTP)
    with mailbox(office, account) as client:
        assert client.append("INBOX", "(\\Seen $Work)", imaplib.Time2Internaldate(1_700_000_000), raw)[0] == "OK"
        assert client.create("Projects/2026")[0] == "OK"
        assert client.copy("1", "Projects/2026")[0] == "OK"
        [status] = client.status("Projects/2026", "(MESSAGES UNSEEN)")[1]
        assert isinstance(status, bytes)
        assert status.endswith(b" (MESSAGES 1 UNSEEN 0)")
        assert client.search(None, "KEYWORD", "$Work")[1] == [b"1"]
        assert client.store("1", "+FLAGS.SILENT", "(\\Deleted)")[0] == "OK"
        assert client.expunge()[1] == [b"1"]
        assert client.select("Projects/2026")[1] == [b"1"]
        answer = client.fetch("1", "(FLAGS INTERNALDATE RFC822.SIZE BODYSTRUCTURE ENVELOPE BODY[])")[1]
        assert isinstance(answer[0], tuple)
        assert b"$Work" in answer[0][0]
        assert b"14-Nov-2023" in answer[0][0]
        assert answer[0][1] == raw


@pytest.mark.parametrize("quits", [True, False])
def test_pop3_deletes_at_quit_only(office: LiveServer, account: str, quits: bool) -> None:
    with submission(office, account) as client:
        for number in range(3):
            client.send_message(message(account, account, f"number {number}"))
    arrived(office, account, 3)
    context = trusting(office.certificate)
    pop = poplib.POP3(HOST, office.ports["pop3"], timeout=PATIENCE_S)
    pop.stls(context)
    pop.user(account)
    pop.pass_("secret")
    assert pop.stat()[0] == 3
    assert len({line.split()[1] for line in pop.uidl()[1]}) == 3
    pop.dele(2)
    assert pop.list()[1][1].startswith(b"3 ")
    if quits:
        pop.quit()
    else:
        pop.close()

    def left() -> list[bytes]:
        return [message_from_bytes(raw)["Subject"].encode() for raw in messages(office, account)]

    if quits:
        assert left() == [b"number 0", b"number 2"]
    else:
        assert left() == [b"number 0", b"number 1", b"number 2"]
        with maildrop(office, account) as again:
            assert again.stat()[0] == 3


def test_a_pop3_session_neither_sees_nor_delays_new_mail(office: LiveServer, account: str) -> None:
    with maildrop(office, account) as client:
        assert client.stat()[0] == 0
        with submission(office, account) as sender:
            sender.send_message(message(account, account, "meanwhile"))
        assert len(arrived(office, account)) == 1
        assert client.stat()[0] == 0
    with maildrop(office, account) as client:
        assert client.stat()[0] == 1
        header = client.top(1, 0)[1]
        assert b"Subject: meanwhile" in header
        assert b"Hello." not in header


@pytest.mark.parametrize("service", ["mx", "submission"])
def test_a_client_that_verifies_another_name_refuses_us(office: LiveServer, service: str) -> None:
    with smtplib.SMTP(HOST, office.ports[service], timeout=PATIENCE_S) as client:
        client._host = "imposter.test"  # type: ignore[attr-defined]
        with pytest.raises(ssl.SSLCertVerificationError):
            client.starttls(context=trusting(office.certificate))


def test_wrong_passwords_are_told_apart_from_nothing(office: LiveServer, account: str) -> None:
    context = trusting(office.certificate)
    for user, password in ((account, "wrong"), ("nobody@local.test", "secret")):
        imap = imaplib.IMAP4_SSL(HOST, office.ports["imaps"], ssl_context=context)
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            imap.login(user, password)
        imap.logout()
        pop = poplib.POP3_SSL(HOST, office.ports["pop3s"], context=context)
        pop.user(user)
        with pytest.raises(poplib.error_proto, match=r"\[AUTH\]"):
            pop.pass_(password)
        pop.close()


def test_no_login_in_the_clear(office: LiveServer, account: str) -> None:
    with imaplib.IMAP4(HOST, office.ports["imap"]) as imap:
        assert "LOGINDISABLED" in imap.capabilities
        with pytest.raises(imaplib.IMAP4.error):
            imap.login(account, "secret")
    pop = poplib.POP3(HOST, office.ports["pop3"])
    assert "USER" not in pop.capa()
    with pytest.raises(poplib.error_proto):
        pop.user(account)
    pop.close()


def test_two_hundred_recipients_are_one_message(office: LiveServer, new_account: NewAccount) -> None:
    owner = new_account()
    tags = [owner.replace("@", f"+{number}@") for number in range(200)]
    with submission(office, owner) as client:
        assert client.send_message(message(owner, owner, "to many"), owner, tags) == {}
    # All lead to one mailbox, and one message is there once.
    [raw] = until(lambda: messages(office, owner))
    assert body(raw) == b"Hello.\r\n"
