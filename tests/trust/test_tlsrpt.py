"""TLS reports: who wants them, what they say, and strangers' reports read safely."""

from __future__ import annotations

import gzip
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.trust.tlsrpt import (
    REPORT_MAX,
    Published,
    Report,
    address_of,
    make_report,
    name_of_record,
    pack_published,
    pack_report,
    read_report,
    read_rua,
    unpack_published,
)

DAY = 20_000
STS = Published("sts", ("version: STSv1", "mode: testing"), ("*.a.test",))


@pytest.mark.parametrize(
    "records, rua",
    [
        (["v=TLSRPTv1; rua=mailto:tls@a.test"], ["mailto:tls@a.test"]),
        (["v=TLSRPTv1;rua=https://a.test/r"], ["https://a.test/r"]),
        (["v=TLSRPTv1; rua=mailto:x@a.test , https://a.test/r;"], ["mailto:x@a.test", "https://a.test/r"]),
        (["other", "v=TLSRPTv1; ext=1; rua=mailto:x@a.test"], ["mailto:x@a.test"]),
        # RFC 8460 section 3: not one record means none.
        (["v=TLSRPTv1; rua=mailto:a@a.test", "v=TLSRPTv1; rua=mailto:b@a.test"], []),
        (["v=TLSRPTv2; rua=mailto:a@a.test"], []),
        (["v=TLSRPTv1"], []),
        (["v=TLSRPTv1; rua="], []),
        (["v=TLSRPTv1; rua=http://a.test/r, ftp://a.test, mailto:nobody, https:a.test, file:///etc"], []),
        (["v=TLSRPTv1; rua=mailto:a@a.test\r\nBcc: x"], []),
        (["v=TLSRPTv1; rua=mailto:?to=a@a.test, mailto:@a.test, mailto:a@, mailto"], []),
        (["v=TLSRPTv1; rua=mailto:a%40a.test?subject=x@y"], ["mailto:a%40a.test?subject=x@y"]),
        (["rua=mailto:a@a.test; v=TLSRPTv1"], []),
        ([], []),
    ],
)
def test_who_wants_reports(records: list[str], rua: list[str]) -> None:
    assert read_rua(records) == rua


def test_the_address_of_a_uri() -> None:
    assert address_of("mailto:tls%2Bx@a.test?subject=y") == "tls+x@a.test"
    assert address_of("https://a.test/") == ""
    assert name_of_record("a.test") == "_smtp._tls.a.test"


SESSIONS = [
    (pack_published(Published()), "", "", "", "", 3),
    (pack_published(STS), "", "", "", "", 7),
    (pack_published(STS), "certificate-expired", "mx.a.test", "192.0.2.1", "old", 2),
    (pack_published(STS), "starttls-not-supported", "mx.a.test", "192.0.2.1", "", 1),
]


def test_a_report_says_what_was_counted() -> None:
    """RFC 8460 section 4.4, field by field."""
    report = make_report("a.test", DAY, SESSIONS, organisation="ours.test", contact="tls@ours.test")
    assert json.loads(gzip.decompress(pack_report(report))) == {
        "organization-name": "ours.test",
        "date-range": {"start-datetime": "2024-10-04T00:00:00Z", "end-datetime": "2024-10-04T23:59:59Z"},
        "contact-info": "tls@ours.test",
        "report-id": "2024-10-04_a.test_ours.test",
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": ["version: STSv1", "mode: testing"],
                    "policy-domain": "a.test",
                    "mx-host": ["*.a.test"],
                },
                "summary": {"total-successful-session-count": 7, "total-failure-session-count": 3},
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "failed-session-count": 2,
                        "receiving-mx-hostname": "mx.a.test",
                        "receiving-ip": "192.0.2.1",
                        "failure-reason-code": "old",
                    },
                    {
                        "result-type": "starttls-not-supported",
                        "failed-session-count": 1,
                        "receiving-mx-hostname": "mx.a.test",
                        "receiving-ip": "192.0.2.1",
                    },
                ],
            },
            {
                "policy": {"policy-type": "no-policy-found", "policy-domain": "a.test"},
                "summary": {"total-successful-session-count": 3, "total-failure-session-count": 0},
            },
        ],
    }


def test_a_dane_policy_is_that_of_the_host() -> None:
    """RFC 8460 section 1.1: "For DANE, the Policy Domain is the "TLSA base domain" of the receiving SMTP server"."""
    packed = pack_published(Published("tlsa", ("3 1 1 00",), domain="mx.host.test"))
    [found] = make_report("a.test", DAY, [(packed, "", "", "", "", 1)], organisation="o", contact="c").policies
    assert found.policy.policy_domain == "mx.host.test"


def test_a_report_comes_back_as_it_was() -> None:
    report = make_report("a.test", DAY, SESSIONS, organisation="ours.test", contact="tls@ours.test")
    assert read_report(pack_report(report)) == report
    assert pack_report(report) == pack_report(report)
    assert unpack_published(pack_published(STS)) == STS


def test_reports_of_others_are_read_in_their_ways() -> None:
    """Unknown fields pass, mx-host may be one text, and the file need not be packed."""
    raw = {
        "organization-name": "Company-X",
        "date-range": {"start-datetime": "2016-04-01T00:00:00Z", "end-datetime": "2016-04-01T23:59:59Z"},
        "something": {"new": 1},
        "policies": [
            {
                "policy": {"policy-type": "sts", "policy-domain": "a.test", "mx-host": "*.mail.a.test"},
                "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
                "failure-details": [{"result-type": "certificate-expired", "failed-session-count": 100, "x": []}],
            }
        ],
    }
    report = read_report(json.dumps(raw).encode())
    assert isinstance(report, Report)
    assert report.policies[0].policy.mx_host == "*.mail.a.test"
    assert report.policies[0].summary.total_failure_session_count == 303


@pytest.mark.parametrize(
    "octets, why",
    [
        (b"", "no TLS report"),
        (b"[]", "no TLS report"),
        (b'{"policies": 7}', "no TLS report"),
        (b"[" * 100_000, "no TLS report"),
        (b"\x1f\x8b\x08junk", "no gzip"),
        (gzip.compress(b"{}", mtime=0)[:-8], "ends in the middle"),
    ],
)
def test_what_is_no_report_says_why(octets: bytes, why: str) -> None:
    said = read_report(octets)
    assert isinstance(said, str)
    assert why in said


def test_row_m30_class_e17_a_bomb_stops_early() -> None:
    """Ratio 100, and 20 MB whatever the ratio."""
    said = read_report(gzip.compress(bytes(30_000_000)))
    assert isinstance(said, str)
    assert "grows beyond" in said
    noise = random.Random(1).randbytes(300_000)
    said = read_report(gzip.compress(noise + bytes(REPORT_MAX)))
    assert isinstance(said, str)
    assert f"grows beyond {REPORT_MAX:,} octets" in said


@given(st.binary(max_size=300))
def test_any_octets_are_a_report_or_words(octets: bytes) -> None:
    """Class E10."""
    assert isinstance(read_report(octets), (Report, str))
    assert isinstance(read_report(b"\x1f\x8b" + octets), (Report, str))
