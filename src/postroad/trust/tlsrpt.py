"""TLS reports (RFC 8460): who wants them, what one says, and one that came read safely. Pure.

A report that somebody sent is octets of a stranger: decompressing it stops at a size and at a ratio, and what is not as
the RFC writes it is named instead of guessed.
"""

from __future__ import annotations

import datetime
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import unquote

import msgspec

REPORT_MAX: Final = 20 * 1024 * 1024
"""Octets of a decompressed report that are looked at (row M30); a day of a large provider has some 100,000."""
RATIO_MAX: Final = 100
"""How much a report may grow when it is decompressed: JSON grows ten- to twentyfold, a bomb a thousandfold."""
SMALL: Final = 256 * 1024
"""Octets up to which the ratio says nothing: a short report of many equal lines compresses well."""

NO_POLICY, STS, TLSA = "no-policy-found", "sts", "tlsa"
"""RFC 8460 section 4.4: kinds of policy."""

_VERSION: Final = re.compile(r"v=TLSRPTv1[ \t]*;[ \t]*")
_GZIP: Final = 31
"""Window bits by which zlib reads gzip only."""


class Published(msgspec.Struct, frozen=True, omit_defaults=True, order=True):
    """Which policy held for a domain, as a report names it."""

    kind: str = NO_POLICY
    strings: tuple[str, ...] = ()
    """The policy's lines, or the TLSA records."""
    mx: tuple[str, ...] = ()
    """The MX patterns of an MTA-STS policy."""
    domain: str = ""
    """Whose policy it is, where that is not the domain that mail is sent to.

    RFC 8460 section 1.1: "For DANE, the Policy Domain is the "TLSA base domain" of the receiving SMTP server".
    """


class Policy(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    """RFC 8460 section 4.4, "policy"."""

    policy_type: str
    policy_string: tuple[str, ...] = ()
    policy_domain: str = ""
    mx_host: tuple[str, ...] | str = ()
    """The RFC asks for a list, and some senders write one text."""


class Summary(msgspec.Struct, frozen=True, rename="kebab"):
    """RFC 8460 section 4.4, "summary"."""

    total_successful_session_count: int = 0
    total_failure_session_count: int = 0


class Failure(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    """RFC 8460 section 4.4, one of "failure-details"."""

    result_type: str
    failed_session_count: int = 0
    sending_mta_ip: str = ""
    receiving_mx_hostname: str = ""
    receiving_mx_helo: str = ""
    receiving_ip: str = ""
    additional_information: str = ""
    failure_reason_code: str = ""


class PolicyResult(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    """One policy and what became of the sessions under it."""

    policy: Policy
    summary: Summary
    failure_details: tuple[Failure, ...] = ()


class DateRange(msgspec.Struct, frozen=True, rename="kebab"):
    """From when to when (RFC 3339)."""

    start_datetime: str
    end_datetime: str


class Report(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    """A whole report (RFC 8460 section 4.4)."""

    organization_name: str = ""
    date_range: DateRange = DateRange("", "")
    contact_info: str = ""
    report_id: str = ""
    policies: tuple[PolicyResult, ...] = ()


_encoder: Final = msgspec.json.Encoder()
_report: Final = msgspec.json.Decoder(Report)
_published: Final = msgspec.json.Decoder(Published)


def name_of_record(domain: str) -> str:
    """Where a domain says who gets its reports."""
    return f"_smtp._tls.{domain}"


def read_rua(records: Sequence[str]) -> list[str]:
    """Where the TXT strings at `_smtp._tls.DOMAIN` want reports: "mailto:" and "https:" URIs, in order.

    Empty when there is no valid record; RFC 8460 section 3: "if the number of resulting records is not one, senders
    MUST assume the recipient domain does not implement TLSRPT".
    """
    ours = [text for text in records if _VERSION.match(text)]
    if len(ours) != 1:
        return []
    for part in _VERSION.sub("", ours[0], count=1).split(";"):
        name, _, value = part.strip(" \t").partition("=")
        if name == "rua":
            return [uri for one in value.split(",") if (uri := one.strip(" \t")) and is_target(uri)]
    return []


def is_target(uri: str) -> bool:
    """Whether a report can be sent to this URI."""
    if not uri.isascii() or not uri.isprintable() or " " in uri:
        return False
    scheme, _, rest = uri.partition(":")
    if scheme.lower() == "mailto":
        # An "@" behind the question mark belongs to a header field, and one that is quoted counts.
        local, _, domain = address_of(uri).rpartition("@")
        return bool(local and domain)
    return scheme.lower() == "https" and rest.startswith("//") and len(rest) > 2


def address_of(uri: str) -> str:
    """The address of a "mailto:" URI, without what may stand behind it; empty for other URIs."""
    scheme, _, rest = uri.partition(":")
    return unquote(rest.partition("?")[0]) if scheme.lower() == "mailto" else ""


# -- writing -----------------------------------------------------------------------------------------------------------


def pack_published(published: Published) -> str:
    """A policy as it is kept with the sessions under it."""
    return _encoder.encode(published).decode()


def unpack_published(text: str) -> Published:
    """The same read again; raises `msgspec.DecodeError` on a damaged one."""
    return _published.decode(text)


Session = tuple[str, str, str, str, str, int]
"""Policy as packed, result, host, address, detail, and how many."""


def make_report(domain: str, day: int, sessions: Iterable[Session], *, organisation: str, contact: str) -> Report:
    """The report of one UTC day (days since 1970) to one domain."""
    by_policy: dict[str, list[Session]] = {}
    for session in sessions:
        by_policy.setdefault(session[0], []).append(session)
    start = datetime.datetime.fromtimestamp(day * 86_400, datetime.UTC)
    last = start + datetime.timedelta(days=1, seconds=-1)
    return Report(
        organization_name=organisation,
        date_range=DateRange(_time(start), _time(last)),
        contact_info=contact,
        report_id=f"{start:%Y-%m-%d}_{domain}_{organisation}",
        policies=tuple(_result(domain, unpack_published(text), rows) for text, rows in sorted(by_policy.items())),
    )


def _time(at: datetime.datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _result(domain: str, published: Published, sessions: Sequence[Session]) -> PolicyResult:
    good = sum(count for _, result, _, _, _, count in sessions if not result)
    failures = tuple(
        Failure(
            result_type=result, failed_session_count=count, receiving_mx_hostname=host, receiving_ip=address,
            # RFC 8460 section 4.4: "additional-information" is a URI, and words have a field of their own.
            failure_reason_code=detail,
        )
        for _, result, host, address, detail, count in sessions
        if result
    )  # fmt: skip
    return PolicyResult(
        policy=Policy(published.kind, published.strings, published.domain or domain, published.mx),
        summary=Summary(good, sum(failure.failed_session_count for failure in failures)),
        failure_details=failures,
    )


def pack_report(report: Report) -> bytes:
    """A report as it travels: JSON in gzip, the same octets for the same report."""
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    return packer.compress(_encoder.encode(report)) + packer.flush()


# -- reading -----------------------------------------------------------------------------------------------------------


def read_report(octets: bytes) -> Report | str:
    """A report that came, in gzip or not, or in words why it is none."""
    plain = _unpacked(octets) if octets.startswith(b"\x1f\x8b") else octets
    if isinstance(plain, str):
        return plain
    if len(plain) > REPORT_MAX:
        return f"it is larger than {REPORT_MAX:,} octets"
    try:
        return _report.decode(plain)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        return f"it is no TLS report: {error}"


def _unpacked(octets: bytes) -> bytes | str:
    room = min(REPORT_MAX, max(SMALL, RATIO_MAX * len(octets)))
    unpacker = zlib.decompressobj(_GZIP)
    try:
        plain = unpacker.decompress(octets, room + 1)
    except zlib.error as error:
        return f"it is no gzip: {error}"
    if len(plain) > room:
        return f"it grows beyond {room:,} octets when it is decompressed"
    return plain if unpacker.eof else "it ends in the middle"
