"""What reports mean, and how often that agrees with what others made of public ones."""

from __future__ import annotations

import json

import pytest

from postroad.flow.classify import HARD, KINDS, classify
from postroad.wire.mime.headers import split_header
from postroad.wire.mime.report import DeliveryReport, Reported, read_report
from tests.testdata import testdata


@pytest.mark.parametrize(
    "status, said, kind, hard",
    [
        ("5.1.1", "550 5.1.1 <b@x.test>: Recipient address rejected: User unknown", "unknown recipient", True),
        ("5.1.1", "", "unknown recipient", True),
        ("5.1.1", "552 5.1.1 mailbox is full", "mailbox full", False),
        ("4.1.1", "450 4.1.1 user unknown", "unknown recipient", False),
        ("5.1.10", "556 5.1.10 null MX", "unknown domain", True),
        ("5.0.0", "550 No such user here", "unknown recipient", True),
        ("5.7.1", "550 5.7.1 Recipient address rejected: Access denied", "policy", False),
        ("5.7.26", "550 5.7.26 <b@x.test>: Multiple authentication checks failed", "authentication", False),
        ("5.1.8", "501 5.1.8 Sender address rejected: Domain not found", "authentication", False),
        ("5.7.1", "554 Service unavailable; Client host [192.0.2.1] blocked using Spamhaus", "blocked", False),
        ("5.7.1", "550 This message looks like spam", "spam", False),
        ("5.3.4", "552 5.3.4 Message size exceeds fixed limit", "too large", False),
        ("4.7.28", "421 4.7.28 unusual rate of mail", "rate limited", False),
        ("5.4.7", "", "expired", False),
        ("5.2.1", "550 5.2.1 The account has been disabled", "mailbox disabled", False),
        ("5.4.6", "554 5.4.6 too many hops", "loop", False),
        ("", "", "unknown", False),
    ],
)
def test_kinds(status: str, said: str, kind: str, hard: bool) -> None:
    bounce = classify(Reported("b@x.test", action="failed", status=status, diagnostic=said))
    assert bounce is not None
    assert (bounce.kind, bounce.hard) == (kind, hard)


def test_what_is_late_is_not_over() -> None:
    bounce = classify(Reported("b@x.test", action="delayed", status="4.4.1"))
    assert bounce is not None
    assert not bounce.final
    assert not bounce.hard


@pytest.mark.parametrize("action", ["delivered", "relayed", "expanded"])
def test_success_is_no_bounce(action: str) -> None:
    assert classify(Reported("b@x.test", action=action, status="2.0.0")) is None


def test_hard_kinds_are_kinds() -> None:
    assert set(KINDS) >= HARD


def _read(message: bytes) -> DeliveryReport | None:
    _, start = split_header(message)
    return read_report(message[:start], message[start:])


@pytest.mark.slow
def test_public_reports_of_eighty_programs() -> None:
    """Nine tenths are read, and where their makers say that an address is gone or not, six of seven agree.

    The rest are mostly "filtered": refused by words that say "no such user" and that the others hold to be untrue.
    """
    folder = testdata("bounce/sisimai")
    expected = json.loads((folder / "expected.json").read_text())
    reports = recipients = agreed = read = 0
    for file in sorted((folder / "bsd").glob("[lr]host-*.eml")) + sorted((folder / "bsd").glob("rfc3464-*.eml")):
        wanted = expected.get(file.name, ())
        if not wanted or any(one["reason"] in ("feedback", "vacation") for one in wanted):
            continue
        reports += 1
        report = _read(file.read_bytes())
        if report is None:
            continue
        read += 1
        if len(report.recipients) != len(wanted):
            continue
        for one, reported in zip(wanted, report.recipients, strict=True):
            bounce = classify(reported)
            recipients += 1
            agreed += bounce is not None and bounce.hard is one["hard"]
    assert reports > 250
    assert read / reports > 0.9
    assert agreed / recipients > 6 / 7


def test_public_reports_of_rfc_3464() -> None:
    for file in sorted(testdata("bounce/kumomta/rfc3464").glob("*.eml")):
        report = _read(file.read_bytes())
        assert report is not None, file.name
        assert report.by_fields, file.name
        assert all(one.recipient and one.status for one in report.recipients), file.name


def test_public_letters_that_are_no_reports() -> None:
    assert _read((testdata("bounce/sisimai/not") / "is-not-bounce-01.eml").read_bytes()) is None
