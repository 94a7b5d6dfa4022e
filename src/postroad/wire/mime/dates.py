"""The Date field, read tolerantly and without a calendar library.

RFC 5322 section 3.3 with the obsolete zones and two-digit years of section 4.3. Dates that no calendar has
(31 February, year 0, year 275760) are None.

    >>> read_date(b"Thu, 15 Feb 2007 01:02:03 +0200")
    MailDate(seconds=1171494123, offset_minutes=120)
"""

from __future__ import annotations

import re
from typing import NamedTuple

from postroad.wire.mime.lexing import without_comments

MAX_DATE_OCTETS = 200
"""Octets of a Date value that are looked at; the longest honest ones have about 60."""

_DATE = re.compile(
    rb"(\d{1,2})[ \t-]+([A-Za-z]{3})[a-z]{0,6}\.?[ \t,-]+(\d{2,6})"
    rb"(?:[ \t,]+(\d{1,2})[ \t]*[:.][ \t]*(\d{1,2})(?:[ \t]*[:.][ \t]*(\d{1,2}))?(?:[.,]\d{1,9})?)?"
    rb"[ \t]*(?:([+-])(\d{2}):?(\d{2})|([A-Za-z]{1,5}))?"
)
# asctime(): "Sun Nov  6 08:49:37 1994"
_ASCTIME = re.compile(rb"([A-Za-z]{3})[ \t]+(\d{1,2})[ \t]+(\d{1,2}):(\d{1,2})(?::(\d{1,2}))?[ \t]+(\d{4})")

_MONTHS = {
    name: number for number, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), start=1)
}
_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

# RFC 5322 section 4.3; military and unknown zones count as -0000.
_ZONES = {
    b"EDT": -240,
    b"EST": -300,
    b"CDT": -300,
    b"CST": -360,
    b"MDT": -360,
    b"MST": -420,
    b"PDT": -420,
    b"PST": -480,
}

_DAYS_TO_1970 = 719_468


class MailDate(NamedTuple):
    """A moment and the zone it was written in."""

    seconds: int
    """Since 1970-01-01 00:00 UTC; may be negative."""
    offset_minutes: int
    """East of UTC, as the writer said."""

    @property
    def day(self) -> int:
        """Days since 1970-01-01 on the writer's own calendar, which SENTON compares (RFC 3501 section 6.4.4)."""
        return (self.seconds + self.offset_minutes * 60) // 86_400


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 to a date of the Gregorian calendar (negative before)."""
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + day_of_year - _DAYS_TO_1970


def month_number(name: bytes) -> int | None:
    """1 to 12 for an English month abbreviation in any case, else None."""
    return _MONTHS.get(name.lower())


def is_date(year: int, month: int, day: int) -> bool:
    """Whether the Gregorian calendar has this date, in years 1 to 9999."""
    if not (1 <= year <= 9999 and 1 <= month <= 12 and 1 <= day <= _MONTH_DAYS[month - 1]):
        return False
    return month != 2 or day < 29 or (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))


def read_date(value: bytes) -> MailDate | None:
    """The first date in an unfolded Date value, or None when there is none that exists."""
    value = without_comments(value[:MAX_DATE_OCTETS])
    match = _DATE.search(value)
    if match is None:
        return _read_asctime(value)
    day, month_name, year, hour, minute, second, sign, zone_hours, zone_minutes, zone = match.groups()
    month = month_number(month_name)
    if month is None:
        return None
    if sign:
        offset = int(zone_hours) * 60 + int(zone_minutes)
        offset = -offset if sign == b"-" else offset
    else:
        offset = _ZONES.get(zone.upper(), 0) if zone else 0
    return _moment(_full_year(year), month, int(day), (hour, minute, second), offset)


def _read_asctime(value: bytes) -> MailDate | None:
    match = _ASCTIME.search(value)
    month = month_number(match[1]) if match else None
    if match is None or month is None:
        return None
    return _moment(int(match[6]), month, int(match[2]), (match[3], match[4], match[5]), 0)


def _full_year(digits: bytes) -> int:
    # RFC 5322 section 4.3: two digits below 50 are 20xx, other two and all three digits count from 1900.
    year = int(digits)
    if len(digits) == 2:
        return year + (2000 if year < 50 else 1900)
    return year + 1900 if len(digits) == 3 else year


def _moment(
    year: int, month: int, day: int, clock: tuple[bytes | None, bytes | None, bytes | None], offset: int
) -> MailDate | None:
    hour, minute, second = (int(part) if part else 0 for part in clock)
    # A leap second counts as the second before it; RFC 5322 allows 60.
    if not is_date(year, month, day) or hour > 23 or minute > 59 or second > 60 or abs(offset) >= 24 * 60:
        return None
    local = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + min(second, 59)
    return MailDate(local - offset * 60, offset)
