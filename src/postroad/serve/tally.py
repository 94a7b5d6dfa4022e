"""How many connections each client has open and has made of late, counted by all workers of a machine together.

The kernel hands a new connection to whichever worker comes first, often the same one again and again. Shares of a
limit would therefore refuse a client at a part of it, and a count of its own in each worker would let it have the limit
as many times as there are workers. So each worker counts in a part of shared memory that only it writes, and reads the
parts of all: no lock, no message, under 10 us. Two workers that accept at the same moment may each let one more in.

Clients are counted in slots found by a keyed hash, so memory is bounded whatever the number of clients; two that meet
in a slot are counted as one, which with 65,536 slots and 10,000 connections adds one connection to every seventh client
and cannot be aimed at anybody without the key.

Layout: 16 octets of key; then for each worker 8 words (open altogether, the two minutes) and three rows of slots (open,
arrivals in even minutes, arrivals in odd minutes), all uint32.
"""

from __future__ import annotations

import mmap
import os
from hashlib import blake2b
from typing import Final

SLOTS: Final = 65_536
MINUTE_S: Final = 60.0

_KEY: Final = 16
_HEAD: Final = 8
_PART: Final = _HEAD + 3 * SLOTS
"""Words of one worker's part."""
_WORD: Final = 4
_ALL_OPEN: Final = 0
_MINUTES: Final = 1
_OPEN: Final = _HEAD
_ARRIVALS: Final = _HEAD + SLOTS
_MOST: Final = 0xFFFF_FFFF


def make_tally(workers: int) -> int:
    """The descriptor of zeroed memory for so many workers to share; it goes when the last of them does."""
    descriptor = os.memfd_create("postroad-connections")
    os.ftruncate(descriptor, _KEY + workers * _PART * _WORD)
    os.pwrite(descriptor, os.urandom(_KEY), 0)
    return descriptor


class Tally:
    """One worker's view. Invariant: only the worker with `number` writes that part, and its part begins at zero."""

    __slots__ = ("_key", "_own", "_starts", "_words")

    def __init__(self, descriptor: int = -1, number: int = 0, workers: int = 1) -> None:
        """Without a descriptor it is private memory. What a predecessor of the same number had counted is forgotten."""
        size = _KEY + workers * _PART * _WORD
        memory = mmap.mmap(descriptor, size)
        self._key = memory[:_KEY]
        self._words = memoryview(memory)[_KEY:size].cast("I")
        self._starts = [worker * _PART for worker in range(workers)]
        self._own = self._starts[number]
        self._words[self._own : self._own + _PART] = memoryview(bytes(_PART * _WORD)).cast("I")

    def slot(self, name: str) -> int:
        """Where a client is counted."""
        return int.from_bytes(blake2b(name.encode(), digest_size=4, key=self._key).digest(), "little") % SLOTS

    @property
    def all_open(self) -> int:
        """Connections open now, of all workers."""
        words = self._words
        return sum(words[start + _ALL_OPEN] for start in self._starts)

    def open(self, slot: int) -> int:
        """Connections of one client open now."""
        words = self._words
        return sum(words[start + _OPEN + slot] for start in self._starts)

    def arrivals(self, slot: int, now: float) -> float:
        """Connections one client made within the last minute; of the minute before, the share that still counts."""
        minute, part = divmod(now, MINUTE_S)
        earlier = self._arrivals(slot, int(minute) - 1)
        return self._arrivals(slot, int(minute)) + earlier * (1 - part / MINUTE_S)

    def _arrivals(self, slot: int, minute: int) -> int:
        words, row = self._words, minute & 1
        at = _ARRIVALS + row * SLOTS + slot
        return sum(words[start + at] for start in self._starts if words[start + _MINUTES + row] == minute & _MOST)

    def enter(self, now: float, *slots: int, arrives: int = -1) -> None:
        """Count a connection in for each of `slots`, and as an arrival at the slot `arrives`."""
        words, own = self._words, self._own
        words[own + _ALL_OPEN] += 1
        for slot in slots:
            words[own + _OPEN + slot] += 1
        if arrives >= 0:
            row = self._row(int(now // MINUTE_S))
            words[row + arrives] += 1

    def leave(self, *slots: int) -> None:
        """Count a connection out that was counted in for the same slots."""
        words, own = self._words, self._own
        words[own + _ALL_OPEN] -= 1
        for slot in slots:
            words[own + _OPEN + slot] -= 1

    def _row(self, minute: int) -> int:
        """Where this minute's arrivals are counted, emptied when it is the first of them."""
        words, own, parity = self._words, self._own, minute & 1
        row = own + _ARRIVALS + parity * SLOTS
        if words[own + _MINUTES + parity] != minute & _MOST:
            words[row : row + SLOTS] = memoryview(bytes(SLOTS * _WORD)).cast("I")
            words[own + _MINUTES + parity] = minute & _MOST
        return row
