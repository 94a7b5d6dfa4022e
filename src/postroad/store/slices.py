"""Housekeeping of the store process that is one small transaction at a time, with a pause when there is no more."""

from __future__ import annotations

from postroad.store.units import Tx
from postroad.store.writer import Writer


class Slices:
    """A chore (`store.server.Chore`) whose slices are transactions: a subclass says what one is, in `_slice`.

    Invariant: `due` is 0 until the first slice, so what a crash left is looked for at once.
    """

    __slots__ = ("_more", "_pause_s", "_writer", "due")

    def __init__(self, writer: Writer, pause_s: float) -> None:
        self._writer = writer
        self._pause_s = pause_s
        self._more = False
        self.due = 0.0
        """Monotonic time of the next slice."""

    def step(self, now: float) -> None:
        """One slice; again at once while there is more."""
        self._writer.transact(self._slice)
        self.due = now if self._more else now + self._pause_s

    def _slice(self, tx: Tx) -> None:
        """Does one slice and sets `_more`."""
        raise NotImplementedError
