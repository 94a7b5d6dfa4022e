"""Steps of the wall clock: noticed by the writer, and made up for in the times of deliveries that wait (promise P12).

A delivery's next time is a moment on the wall. When somebody sets the clock an hour on, an hour's worth of retries
would be due in one moment; set back, they would lie an hour too long. So each delivery keeps what was left of its wait:

    wall clock     +----- wait left -----+ due                before, at 10:00
                       set to 11:00      +----- wait left -----+ due      after

That the clock was set shows against the uptime of the machine, which counts its sleep: after a sleep mail is due. What
was written since the step cannot be told by its row from what was written before; see `KeptWaits` for what that costs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from postroad.store.records import HELD
from postroad.store.units import ROWS_PER_UNIT, Tx
from postroad.store.writer import Writer

log = logging.getLogger(__name__)

LONGEST_WAIT_US: Final = 27 * 3600 * 1_000_000
"""More than any delivery waits for its next attempt or for the end of a suspension (a day, and a tenth of it): a time
farther away was written by a clock that showed something else, and stays what it is."""

NEVER: Final = float("inf")


class Step(NamedTuple):
    """The wall clock was set from `before_us` on by `by_us`, which is negative when it was set back."""

    before_us: int
    by_us: int

    @property
    def veil(self) -> tuple[int, int]:
        """Times between these two are past by the step alone: nobody who looks for what is due has them yet."""
        if self.by_us < 0:
            return (0, 0)
        return (self.before_us, self.before_us + min(self.by_us, LONGEST_WAIT_US))

    def kept(self, due_us: int) -> int:
        """The time that leaves a delivery as much of its wait as it had; `due_us` itself when the step is not its."""
        if self.by_us > 0:
            above, below = self.veil
            return due_us + self.by_us if above < due_us < below else due_us
        now_us = self.before_us + self.by_us
        # What was due before the step is due after it.
        return max(due_us + self.by_us, now_us) if now_us < due_us <= self.before_us + LONGEST_WAIT_US else due_us


class KeptWaits:
    """Makes up for steps of the clock, in one walk through the deliveries for each (a `store.server.Chore`).

    Until a walk for a step ahead is over, `Writer.veil` keeps what it has not come to from being claimed. What waits
    for a hand or until a time that its sender gave is left alone, and so is what a worker has in hand. A delivery that
    is put off between the step and the walk's coming by is taken for an older one when the clock was set back: it is
    tried once more at once. When it was set ahead the times written since lie above the veil.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._steps: list[Step] = []
        self._after = 0
        self._moved = 0
        self.due = NEVER
        writer.on_step = self.begin

    def begin(self, before_us: int, by_us: int) -> None:
        """The wall clock was set."""
        self._steps.append(Step(before_us, by_us))
        if len(self._steps) == 1:
            self._writer.veil = self._steps[0].veil
        self.due = 0.0

    def step(self, now: float) -> None:
        """One slice of the walk."""
        done: list[Callable[[], None]] = []
        self._writer.transact(lambda tx: self._slice(tx, done))
        for each in done:
            each()

    def _slice(self, tx: Tx, done: list[Callable[[], None]]) -> None:
        step = self._steps[0]
        rows = tx.execute(
            "SELECT id, due_us, owner, state FROM deliveries WHERE id > ? ORDER BY id LIMIT ?",
            (self._after, ROWS_PER_UNIT),
        )
        moved = [
            (kept_us, ident, due_us)
            for ident, due_us, owner, state in rows
            if owner not in tx.live and state < HELD and (kept_us := step.kept(due_us)) != due_us
        ]
        if moved:
            tx.executemany("UPDATE deliveries SET due_us = ? WHERE id = ? AND due_us = ?", moved)
            tx.hint("queue")
        done.append(lambda: self._advance(rows[-1][0] if len(rows) == ROWS_PER_UNIT else 0, len(moved)))

    def _advance(self, after: int, moved: int) -> None:
        self._after = after
        self._moved += moved
        if after:
            return
        step = self._steps.pop(0)
        how, seconds = "ahead" if step.by_us > 0 else "back", round(abs(step.by_us) / 1e6)
        log.warning("the clock was set %s by %d s; deliveries that keep their wait: %d", how, seconds, self._moved)
        self._moved = 0
        self._writer.veil = self._steps[0].veil if self._steps else (0, 0)
        if not self._steps:
            self.due = NEVER
