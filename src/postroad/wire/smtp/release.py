"""FUTURERELEASE (RFC 4865): until when a client asks us to hold a message before it is sent on."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from postroad.wire.smtp.grammar import CommandError, bad_parameter

# RFC 4865 section 3: 1 to 999999999
_interval = re.compile(r"[1-9][0-9]{0,8}").fullmatch
# RFC 3339 section 5.6, which the RFC 4865 erratum 2040 puts in the place of a missing rule.
_date_time = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
).fullmatch
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def utc_text(seconds: int) -> str:
    """Seconds since 1970 as a date-time in UTC: "2026-11-27T06:18:00Z"."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def take_release(given: dict[str, str], longest_s: int, now_us: int) -> int:
    """The moment that HOLDFOR or HOLDUNTIL names, in microseconds since 1970; 0 when neither is there.

    Raises `CommandError` when both are there, when one is malformed, and when its moment lies in the past or beyond
    `longest_s` seconds from now.
    """
    hold_for = given.pop("HOLDFOR", None)
    hold_until = given.pop("HOLDUNTIL", None)
    if hold_for is not None and hold_until is not None:
        raise CommandError(bad_parameter("HOLDFOR and HOLDUNTIL exclude each other"))
    if hold_for is not None:
        if not _interval(hold_for) or int(hold_for) > longest_s:
            raise CommandError(bad_parameter(f"HOLDFOR must be 1 to {longest_s} seconds"))
        return now_us + int(hold_for) * 1_000_000
    if hold_until is not None:
        moment = _read_date_time(hold_until)
        if moment is None or not now_us < moment <= now_us + longest_s * 1_000_000:
            latest = utc_text(now_us // 1_000_000 + longest_s)
            raise CommandError(bad_parameter(f"HOLDUNTIL must be a date-time in the future and at most {latest}"))
        return moment
    return 0


def _read_date_time(text: str) -> int | None:
    """Microseconds since 1970; None for what is no date-time, or is none that a calendar has."""
    found = _date_time(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = map(int, found.group(1, 2, 3, 4, 5, 6))
    try:
        # RFC 3339 section 5.7: a leap second is written as 60; one second early is what every clock here makes of it.
        local = datetime(year, month, day, hour, minute, 59 if second == 60 else second, tzinfo=UTC)
    except ValueError:
        return None
    fraction = int((found[7] or "").ljust(6, "0")[:6])
    offset = (int(found[9]) * 60 + int(found[10])) * 60 if found[8] else 0
    elapsed = local - _EPOCH
    seconds = elapsed.days * 86_400 + elapsed.seconds - (-offset if found[8] == "-" else offset)
    return seconds * 1_000_000 + fraction
