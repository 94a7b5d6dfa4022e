"""`postroad tls`: reports about TLS that others sent us."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from postroad.console.cli.exits import NOTHING, Trouble
from postroad.console.cli.show import plain
from postroad.trust.tlsrpt import Failure, PolicyResult, Report, read_report

FILE_MAX: Final = 10 * 1024 * 1024
"""Octets of a file that are read; a report of a large provider has some 10,000."""

_MEANINGS: Final = {
    "starttls-not-supported": "the host offered no STARTTLS",
    "certificate-host-mismatch": "the certificate is for other names than the host's",
    "certificate-expired": "the certificate has expired",
    "certificate-not-trusted": "no authority that they know vouches for the certificate",
    "validation-failure": "the handshake or the check failed for another reason",
    "tlsa-invalid": "the TLSA records do not hold",
    "dnssec-invalid": "DNSSEC does not hold, or the TLSA records could not be looked up",
    "dane-required": "they want DANE and found none",
    "sts-policy-fetch-error": "the MTA-STS policy could not be fetched",
    "sts-policy-invalid": "what was fetched is no MTA-STS policy",
    "sts-webpki-invalid": "the certificate of the MTA-STS policy host does not hold",
}
"""RFC 8460 section 4.3 in plain words."""


@click.group()
def tls() -> None:
    """Read reports about TLS that others sent.

    \b
    Example:
      postroad tls report report.json.gz
    """


@tls.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
def report(file: Path) -> None:
    """Summarise a TLS report (RFC 8460), packed or not; - reads standard input.

    \b
    Example:
      postroad tls report report.json.gz
    """
    try:
        octets = sys.stdin.buffer.read(FILE_MAX + 1) if str(file) == "-" else _read(file)
    except OSError as error:
        raise Trouble(f"{file} cannot be read: {error.strerror}.", "", exit_code=NOTHING) from None
    if len(octets) > FILE_MAX:
        raise Trouble(f"{file} is larger than {FILE_MAX:,} octets.", "No report is.", exit_code=NOTHING)
    found = read_report(octets)
    if isinstance(found, str):
        raise Trouble(f"{file}: {found}.", "Give the attachment alone: JSON, or JSON in gzip.", exit_code=NOTHING)
    click.echo("\n".join(_lines(found)))


def _read(file: Path) -> bytes:
    with open(file, "rb") as opened:
        return opened.read(FILE_MAX + 1)


def _lines(found: Report) -> list[str]:
    lines = [
        f"From {_plain(found.organization_name) or 'somebody'} ({_plain(found.contact_info) or 'no contact'})",
        f"Time {_plain(found.date_range.start_datetime)} to {_plain(found.date_range.end_datetime)}",
    ]
    for result in found.policies:
        lines += ["", *_policy_lines(result)]
    return lines if found.policies else [*lines, "", "It tells of no policy."]


def _policy_lines(result: PolicyResult) -> list[str]:
    policy, summary = result.policy, result.summary
    good, bad = summary.total_successful_session_count, summary.total_failure_session_count
    lines = [f"{_plain(policy.policy_domain)}, policy {_plain(policy.policy_type)}: {good:,} good, {bad:,} failed"]
    for failure in sorted(result.failure_details, key=lambda one: -one.failed_session_count):
        lines += _failure_lines(failure)
    return lines


def _failure_lines(failure: Failure) -> list[str]:
    word = _plain(failure.result_type)
    where = " ".join(filter(None, (_plain(failure.receiving_mx_hostname), _plain(failure.receiving_ip))))
    line = f"  {failure.failed_session_count:,} {word}: {_MEANINGS.get(failure.result_type, 'a word of their own')}"
    lines = [f"{line} (at {where})" if where else line]
    said = _plain(failure.failure_reason_code) or _plain(failure.additional_information)
    return [*lines, f"    they say: {said}"] if said else lines


def _plain(text: str) -> str:
    """A stranger's text, as much of it as a line may have."""
    return plain(text[:200])
