"""Sequence sets: read, resolved against a mailbox, merged, and written back compactly.

RFC 3501 section 9 (sequence-set). Everything is ranges, never lists of numbers, so `1:4294967295` costs as much as `1`.

    >>> resolve(read_set(b"5:3,1,*:8"), largest=9)
    [(1, 1), (3, 5), (8, 9)]
    >>> format_numbers([1, 2, 3, 7])
    b'1:3,7'
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

from postroad.wire.imap.syntax import MAX_NUMBER, BadSyntax

MAX_RANGES: Final = 20_000
"""Ranges of one set before merging; a line of 64 kB holds about as many."""

STAR: Final = MAX_NUMBER + 1
"""How "*" stands in a set that has not been resolved."""

SequenceSet = tuple[tuple[int, int], ...]
"""Ranges as they were written, ends included, either end possibly `STAR` and in any order."""

Ranges = list[tuple[int, int]]
"""Ranges ascending, disjoint, not even adjacent, ends included."""


def read_set(text: bytes) -> SequenceSet:
    """A set as written; raises `BadSyntax` for anything RFC 3501 forbids, such as 0 and 2^32."""
    pieces = text.split(b",")
    if len(pieces) > MAX_RANGES:
        raise BadSyntax("too many ranges in the set")
    return tuple(map(_read_range, pieces))


def _read_range(piece: bytes) -> tuple[int, int]:
    first, colon, last = piece.partition(b":")
    low = _read_number(first)
    return low, _read_number(last) if colon else low


def _read_number(digits: bytes) -> int:
    if digits == b"*":
        return STAR
    if not digits.isdigit() or len(digits) > 10 or digits.startswith(b"0"):
        raise BadSyntax("bad sequence set")
    number = int(digits)
    if number > MAX_NUMBER:
        raise BadSyntax("bad sequence set")
    return number


def resolve(numbers: SequenceSet, largest: int) -> Ranges:
    """The set with "*" as `largest` (the highest sequence number or UID there is), merged and cut off at `largest`.

    RFC 3501: "*" is the largest number in use, and `559:*` always includes it even when 559 is larger. In an empty
    mailbox (`largest` 0) nothing is left.
    """
    if largest <= 0:
        return []
    found: Ranges = []
    for first, last in numbers:
        low, high = (largest if end == STAR else end for end in (first, last))
        if low > high:
            low, high = high, low
        if low <= largest:
            found.append((low, min(high, largest)))
    return merge(found)


def merge(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Ranges in any order as ascending ranges that do not touch."""
    merged: Ranges = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            if high > merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return merged


def contains(ranges: Ranges, number: int) -> bool:
    """Whether a number is in merged ranges; logarithmic."""
    at = bisect_right(ranges, (number, STAR))
    return at > 0 and ranges[at - 1][1] >= number


def pick(ranges: Ranges, ascending: Iterable[int]) -> Iterator[int]:
    """Those of the `ascending` numbers that are in the ranges; linear in both."""
    remaining = iter(ranges)
    low, high = next(remaining, (STAR, STAR))
    for number in ascending:
        while high < number:
            low, high = next(remaining, (STAR, STAR))
        if low <= number:
            yield number


def beyond(numbers: SequenceSet, largest: int) -> bool:
    """Whether a set names a number over `largest` outright, which as a sequence number no message has."""
    return any(largest < end < STAR for ends in numbers for end in ends)


def ranges_of(ascending: Iterable[int]) -> Ranges:
    """Ascending numbers as ranges."""
    ranges: Ranges = []
    for number in ascending:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


def format_ranges(ranges: Ranges) -> bytes:
    """Ranges as IMAP writes them; empty for none."""
    return b",".join(b"%d" % low if low == high else b"%d:%d" % (low, high) for low, high in ranges)


def format_numbers(ascending: Iterable[int]) -> bytes:
    """Ascending numbers as a compact set, such as the UID sets of COPYUID and VANISHED."""
    return format_ranges(ranges_of(ascending))
