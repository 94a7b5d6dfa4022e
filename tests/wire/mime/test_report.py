"""Reports of failed delivery: those of RFC 3464 field by field, older ones by their words, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.wire.mime.headers import split_header
from postroad.wire.mime.report import RECIPIENTS_MAX, DeliveryReport, read_report


def read(message: bytes) -> DeliveryReport | None:
    _, start = split_header(message)
    return read_report(message[:start], message[start:])


def multipart(
    status: bytes, text: bytes = b"It failed.", sent: bytes = b"Message-ID: <1@ours.test>\r\n\r\nHi\r\n"
) -> bytes:
    return (
        b"From: MAILER-DAEMON@far.test\r\n"
        b"Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"
        b"--b\r\n\r\n" + text + b"\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n" + status + b"\r\n"
        b"--b\r\nContent-Type: message/rfc822\r\n\r\n" + sent + b"\r\n--b--\r\n"
    )


def test_every_field_of_rfc_3464() -> None:
    report = read(
        multipart(
            b"Reporting-MTA: dns; mx.far.test\r\nOriginal-Envelope-Id: QQ314159\r\n\r\n"
            b"Original-Recipient: rfc822;News@far.test\r\nFinal-Recipient: rfc822; bob@inner.far.test\r\n"
            b"Action: failed\r\nStatus: 5.1.1 (no such mailbox)\r\nRemote-MTA: dns; inner.far.test\r\n"
            b"Diagnostic-Code: smtp; 550 5.1.1 <bob@inner.far.test>:\r\n User unknown\r\n\r\n"
            b"Final-Recipient: rfc822; carol@far.test\r\nAction: delayed\r\nStatus: 4.4.1\r\n"
        )
    )
    assert report is not None
    assert (report.reporter, report.envelope_id, report.message_id) == ("mx.far.test", "QQ314159", "1@ours.test")
    bob, carol = report.recipients
    assert (bob.recipient, bob.original, bob.action) == ("bob@inner.far.test", "News@far.test", "failed")
    assert (bob.status, bob.code, bob.remote) == ("5.1.1", 550, "inner.far.test")
    assert bob.diagnostic == "550 5.1.1 <bob@inner.far.test>: User unknown"
    assert (carol.recipient, carol.action, carol.status, carol.code) == ("carol@far.test", "delayed", "4.4.1", 0)


def test_a_status_that_says_nothing_gives_way_to_what_the_host_said() -> None:
    report = read(
        multipart(
            b"Reporting-MTA: dns; x\r\n\r\nFinal-Recipient: rfc822;b@x.test\r\nAction: failed\r\nStatus: 5.0.0\r\n"
            b"Diagnostic-Code: smtp; 550 5.2.2 full\r\n"
        )
    )
    assert report is not None
    assert report.recipients[0].status == "5.2.2"


def test_words_stand_in_for_a_diagnostic_that_is_missing() -> None:
    report = read(
        multipart(
            b"Reporting-MTA: dns; x\r\n\r\nFinal-Recipient: rfc822;b@x.test\r\nAction: failed\r\nStatus: 5.0.0\r\n",
            b"<b@x.test>: host x[192.0.2.1] said: 552 5.2.2 mailbox is full",
        )
    )
    assert report is not None
    assert (report.recipients[0].status, report.recipients[0].code) == ("5.2.2", 552)


QMAIL = b"""From: MAILER-DAEMON@far.test
Subject: failure notice

Hi. This is the qmail-send program at far.test.

<bob@far.test>:
Sorry, no mailbox here by that name. (#5.1.1)

<carol@far.test>:
192.0.2.1 does not like recipient.
Remote host said: 550 Mailbox full

--- Below this line is a copy of the message.

Return-Path: <anna@ours.test>
Message-ID: <2@ours.test>
To: dave@far.test
450 not of this report
"""
EXIM = b"""From: Mail Delivery System <Mailer-Daemon@far.test>
X-Failed-Recipients: bob@far.test
Subject: Mail delivery failed: returning message to sender

A message that you sent could not be delivered.

  bob@far.test
    host mx.far.test [192.0.2.1]
    SMTP error from remote mail server after RCPT TO:<bob@far.test>:
    550 5.1.1 no such user

------ This is a copy of the message, including all the headers. ------
"""
SENDMAIL = b"""From: MAILER-DAEMON
Subject: Returned mail: User unknown

   ----- Transcript of session follows -----
550 <bob@far.test>... User unknown
"""


@pytest.mark.parametrize(
    "message, expected, message_id",
    [
        (QMAIL, [("bob@far.test", "5.1.1", 0), ("carol@far.test", "", 550)], "2@ours.test"),
        (EXIM, [("bob@far.test", "5.1.1", 550)], ""),
        (SENDMAIL, [("bob@far.test", "", 550)], ""),
    ],
)
def test_older_forms_by_their_words(message: bytes, expected: list[tuple[str, str, int]], message_id: str) -> None:
    report = read(message)
    assert report is not None
    assert not report.by_fields
    assert [(one.recipient, one.status, one.code) for one in report.recipients] == expected
    assert report.message_id == message_id


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\r\n",
        b"From: anna@ours.test\r\nSubject: that error again\r\n\r\nbob@far.test says 550 5.1.1 User unknown\r\n",
        b"From: MAILER-DAEMON\r\nSubject: failure notice\r\n\r\nnothing that could be read\r\n",
        b"From: postmaster@far.test\r\nSubject: Out of office\r\n\r\nI am on holiday. Write to bob@far.test.\r\n",
        multipart(b""),
        multipart(b"Reporting-MTA: dns; mx.far.test\r\n"),
    ],
)
def test_what_is_no_report(message: bytes) -> None:
    assert read(message) is None


def test_no_more_recipients_than_a_message_can_have() -> None:
    block = b"\r\nFinal-Recipient: rfc822; b%d@x.test\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    report = read(multipart(b"Reporting-MTA: dns; x\r\n" + b"".join(block % n for n in range(RECIPIENTS_MAX + 50))))
    assert report is None or len(report.recipients) <= RECIPIENTS_MAX


@given(status=st.binary(max_size=300), text=st.binary(max_size=300))
def test_any_octets_give_a_report_or_none(status: bytes, text: bytes) -> None:
    report = read(multipart(status, text))
    assert report is None or report.recipients
