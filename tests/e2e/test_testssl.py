"""testssl.sh finds nothing of MEDIUM or above at the SMTP doors, bar what a self-signed certificate cannot help."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.live import live_server

CERTIFICATE = frozenset(("cert_trust", "cert_chain_of_trust", "cert_validityPeriod", "cert_revocation"))
"""Findings about the certificate of the test itself: nobody vouches for it and it lasts for years."""


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.needs_program("testssl")
@pytest.mark.parametrize(
    ("service", "starttls"),
    [
        ("mx", True),
        ("submission", True),
        ("submissions", False),
    ],
)
def test_no_finding_of_medium_or_above(service: str, starttls: bool, tmp_path: Path) -> None:
    out = tmp_path / "findings.json"
    with live_server(tmp_path) as server:
        words = ["testssl", "--quiet", "--color", "0", "--ip", "one", "--jsonfile", str(out), "--severity", "MEDIUM"]
        words += ["-t", "smtp"] if starttls else []
        with open(tmp_path / "testssl.txt", "wb") as shown:
            subprocess.run([*words, f"127.0.0.1:{server.ports[service]}"], stdout=shown, stderr=shown, timeout=280)
    findings = json.loads(out.read_text())
    grave = [one for one in findings if one["severity"] in ("MEDIUM", "HIGH", "CRITICAL")]
    seen = {one["id"] for one in grave}
    assert "cert_chain_of_trust" in seen, "it looked at the server"
    assert seen <= CERTIFICATE, [one for one in grave if one["id"] not in CERTIFICATE]
