"""Invariant: what strangers publish and send about TLS is read, or refused in words, and stays within its bounds."""

from __future__ import annotations

import gzip

from postroad.trust import mta_sts, tlsrpt

SEEDS = (
    b"v=STSv1; id=20160831085700Z;",
    b"version: STSv1\r\nmode: enforce\r\nmx: *.example.com\r\nmax_age: 86400\r\n",
    b"v=TLSRPTv1; rua=mailto:tls@example.com,https://example.com/r",
    b"v=TLSRPTv1; rua=mailto:?to=tls@example.com",
    b'{"organization-name":"x","policies":[{"policy":{"policy-type":"sts"},"summary":{}}]}',
    gzip.compress(b'{"policies":[]}', mtime=0),
)
WORDS = (b";", b"=", b"\n", b"\r\n", b"mx:", b"*.", b"rua=", b"mailto:", b",", b"[", b"{", b"\xff", b"\x1f\x8b")


def check(octets: bytes) -> None:
    """Octets as each of the forms."""
    text = octets.decode("utf-8", "surrogateescape")
    ident = mta_sts.read_id([text])
    assert ident == "" or (ident.isascii() and ident.isalnum() and len(ident) <= 32)
    policy = mta_sts.read_policy(octets)
    if isinstance(policy, mta_sts.Policy):
        assert policy.mode in mta_sts.MODES
        assert policy.mx or policy.mode == mta_sts.NONE
        assert not policy.allows("")
        assert policy.max_age_s <= mta_sts.POLICY_AGE_LONGEST_S
    for uri in tlsrpt.read_rua([text]):
        assert uri.isascii()
        assert uri.isprintable()
        assert tlsrpt.address_of(uri) or uri.lower().startswith("https://")
    report = tlsrpt.read_report(octets)
    if isinstance(report, tlsrpt.Report):
        assert tlsrpt.read_report(tlsrpt.pack_report(report)) == report
