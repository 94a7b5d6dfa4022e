"""`postroad tls report`: strangers' reports in plain words, and nothing that could harm the reader."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from tests.console.conftest import CommandLine

REPORT = {
    "organization-name": "Company-X\x1b[31m",
    "date-range": {"start-datetime": "2016-04-01T00:00:00Z", "end-datetime": "2016-04-01T23:59:59Z"},
    "contact-info": "sts-reporting@company-x.example",
    "policies": [
        {
            "policy": {"policy-type": "sts", "policy-domain": "a.test"},
            "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
            "failure-details": [
                {"result-type": "odd", "failed-session-count": 3},
                {
                    "result-type": "starttls-not-supported",
                    "failed-session-count": 200,
                    "receiving-mx-hostname": "mx1.a.test",
                    "receiving-ip": "192.0.2.1",
                    "failure-reason-code": "why not",
                },
            ],
        }
    ],
}


def test_a_packed_report(run: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "report.json.gz"
    file.write_bytes(gzip.compress(json.dumps(REPORT).encode()))
    assert run("tls", "report", str(file)).stdout.split("\n") == [
        "From Company-X?[31m (sts-reporting@company-x.example)",
        "Time 2016-04-01T00:00:00Z to 2016-04-01T23:59:59Z",
        "",
        "a.test, policy sts: 5,326 good, 303 failed",
        "  200 starttls-not-supported: the host offered no STARTTLS (at mx1.a.test 192.0.2.1)",
        "    they say: why not",
        "  3 odd: a word of their own",
        "",
    ]


def test_from_standard_input_and_without_policies(run: CommandLine) -> None:
    assert "It tells of no policy." in run("tls", "report", "-", stdin=b"{}").stdout


def test_what_is_no_report(run: CommandLine, tmp_path: Path) -> None:
    """Row M30, class E17."""
    file = tmp_path / "bomb.gz"
    file.write_bytes(gzip.compress(bytes(30_000_000)))
    assert "grows beyond" in run("tls", "report", str(file), status=1).stderr
    assert "no TLS report" in run("tls", "report", "-", stdin=b"junk", status=1).stderr
    assert "cannot be read" in run("tls", "report", str(tmp_path / "absent"), status=1).stderr
