"""Mutations of seeds by chance, the same ones for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence


class Mutator:
    """Makes inputs out of seeds and of words that mean something to the target; every input is at most `longest`."""

    def __init__(self, seeds: Sequence[bytes], words: Sequence[bytes], longest: int, seed: int) -> None:
        self._seeds = seeds
        self._words = words
        self._longest = longest
        self._random = random.Random(seed)
        self._kinds = (self._flip, self._cut, self._repeat, self._insert_word, self._insert_any, self._splice)

    def next_input(self) -> bytes:
        """One input: a seed changed in one to six places."""
        octets = bytearray(self._random.choice(self._seeds))
        for _ in range(self._random.randint(1, 6)):
            self._random.choice(self._kinds)(octets)
        return bytes(octets[: self._longest])

    def _place(self, octets: bytearray) -> int:
        return self._random.randint(0, len(octets))

    def _flip(self, octets: bytearray) -> None:
        if octets:
            octets[self._random.randrange(len(octets))] = self._random.randrange(256)

    def _cut(self, octets: bytearray) -> None:
        at = self._place(octets)
        del octets[at : at + self._random.randint(1, 8)]

    def _repeat(self, octets: bytearray) -> None:
        at = self._place(octets)
        octets[at:at] = octets[at : at + self._random.randint(1, 16)] * self._random.randint(1, 8)

    def _insert_word(self, octets: bytearray) -> None:
        at = self._place(octets)
        octets[at:at] = self._random.choice(self._words)

    def _insert_any(self, octets: bytearray) -> None:
        at = self._place(octets)
        octets[at:at] = self._random.randbytes(self._random.randint(1, 4))

    def _splice(self, octets: bytearray) -> None:
        other = self._random.choice(self._seeds)
        octets[self._place(octets) :] = other[self._random.randint(0, len(other)) :]
