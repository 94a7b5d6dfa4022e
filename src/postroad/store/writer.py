"""The writer: runs the units that many callers sent as one transaction, and says what became of each.

Invariant: a result is returned only after the COMMIT that holds its unit has returned, or after the unit was undone.
Once a commit, a checkpoint or a file's fsync has failed for any reason but a full disk, nothing is written any more:
a repeated fsync may report success for pages the kernel has already thrown away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from postroad.store.engine import Connection, StatementFailed
from postroad.store.units import Tx, Unit, Withdrawn
from postroad.values.clock import SystemClock
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.ids import IdMaker
from postroad.values.ports import Clock

log = logging.getLogger(__name__)

OK: Final = 0
FAILED: Final = 1
"""The unit itself is at fault; nothing of it happened."""
BROKEN: Final = 2
FULL: Final = 3

POSITION_BITS: Final = 40
"""Journal rows one writer may number: 10^12."""

STEP_S: Final = 60.0
"""How far wall time may move against the machine's uptime between two transactions before the clock was set: less is a
clock being corrected, and lets loose no more mail than a minute's."""

BAD_UNITS_MAX: Final = 3
"""So many bad units of one batch are taken out one at a time; after that its units run singly."""


class Call(NamedTuple):
    """One unit to run: what, with what, for which incarnation."""

    unit: Unit
    args: Any
    owner: int = 0


class Result(NamedTuple):
    """What became of a call: `value` is the unit's result, or the words of its failure."""

    status: int
    value: Any


class Writer:
    """Owns the writing connection of one store; not thread-safe.

    `live` is the set of incarnations whose workers are alive, kept by whoever holds their leases.
    """

    __slots__ = (
        "_batch",
        "_clock",
        "_connection",
        "_ids",
        "_position",
        "_remove_body",
        "_started_us",
        "broken",
        "hints",
        "live",
        "number",
        "on_step",
        "veil",
    )

    def __init__(
        self, connection: Connection, *, remove_body: Callable[[str], None], clock: Clock | None = None
    ) -> None:
        """Takes a fresh number from the database; `remove_body` unlinks a body file by name."""
        self._connection = connection
        self._clock = clock or SystemClock()
        self._remove_body = remove_body
        self.broken = ""
        """Why nothing is written any more; empty while all is well."""
        self.hints: list[tuple[str, int]] = []
        """Hints of committed units that nobody has taken yet."""
        self.veil = (0, 0)
        """Due times between these two are not claimed for now (`store.clock_steps`)."""
        self.on_step: Callable[[int, int], None] = lambda before_us, by_us: None
        """Called when somebody has set the wall clock: what it would show otherwise, and by how much it was moved."""
        self._started_us = self._start_us(self._clock.wall_us())
        self._batch = 0
        self.number, last_id = self._begin_writing()
        """Incarnation of this writer: every earlier one is void."""
        self.live: set[int] = {self.number}
        self._position = self.number << POSITION_BITS
        self._ids = IdMaker(self.number, last_id)

    def _begin_writing(self) -> tuple[int, int]:
        connection = self._connection
        connection.begin()
        number = next_incarnation(connection)
        row = (number, self._clock.wall_us(), 0)
        connection.execute("INSERT INTO writers (id, started_us, last_batch) VALUES (?, ?, ?)", row)
        last = last_id(connection)
        connection.commit()
        return number, last

    # -- batches -----------------------------------------------------------------------------------------------------

    def run(self, batch: Sequence[Call]) -> list[Result]:
        """Runs a batch as one transaction; returns one result per call, in order.

        A unit that fails is taken out and the rest run again; when it cannot be told which one it was, each runs in a
        transaction of its own. A failed COMMIT fails them all.
        """
        results: list[Result | None] = [None] * len(batch)
        pending = list(range(len(batch)))
        bad = 0
        while pending:
            together = pending if bad < BAD_UNITS_MAX else pending[:1]
            culprit = self._attempt(batch, together, results)
            if culprit is None:
                pending = pending[len(together) :]
            elif culprit < 0:
                bad = BAD_UNITS_MAX
            else:
                bad += 1
                pending.remove(culprit)
        return results  # type: ignore[return-value]  # every place has been filled

    def _attempt(self, batch: Sequence[Call], which: list[int], results: list[Result | None]) -> int | None:
        """One transaction. None: every one of `which` has its result; a place: that one failed and nothing else
        happened; -1: some one of several failed at the end."""
        try:
            if self.broken:
                raise StoreBroken(self.broken)
            tx = self._open()
            for place in which:
                call = batch[place]
                tx.owner = call.owner
                try:
                    results[place] = Result(OK, call.unit.run(tx, call.args))
                except (StoreBroken, StoreFull):
                    raise
                except Exception as error:
                    self._connection.rollback()
                    results[place] = undone(call.unit, error)
                    return place
            try:
                files = self._commit(tx)
            except (StoreBroken, StoreFull):
                raise
            except Exception as error:
                self._connection.rollback()
                if len(which) > 1:
                    return -1
                results[which[0]] = undone(batch[which[0]].unit, error)
                return which[0]
        except StoreFull as error:
            self._undo()
            failure = Result(FULL, str(error))
        except StoreBroken as error:
            self.break_off(str(error))
            failure = Result(BROKEN, self.broken)
        else:
            self._after_commit(tx, files)
            return None
        for place in which:
            results[place] = failure
        return None

    def transact(self, work: Callable[[Tx], None]) -> None:
        """Runs one piece of the store's own housekeeping as a transaction; raises what its statements raise."""
        if self.broken:
            raise StoreBroken(self.broken)
        try:
            tx = self._open()
            work(tx)
            files = self._commit(tx)
        except StoreBroken as error:
            self.break_off(str(error))
            raise
        except BaseException:
            self._undo()
            raise
        self._after_commit(tx, files)

    def _open(self) -> Tx:
        now_us = self._look()
        self._connection.begin()
        return Tx(self._connection, now_us, frozenset(self.live), self._ids, self._position, veil=self.veil)

    def _look(self) -> int:
        """The wall time, and whether it is where the last transaction left it."""
        now_us = self._clock.wall_us()
        started_us = self._start_us(now_us)
        by_us = started_us - self._started_us
        self._started_us = started_us
        if abs(by_us) > STEP_S * 1e6:
            self.on_step(now_us - by_us, by_us)
        return now_us

    def _start_us(self, now_us: int) -> int:
        """When the machine was started, by its wall clock: this changes when the clock is set."""
        return now_us - int(self._clock.uptime() * 1e6)

    def _commit(self, tx: Tx) -> list[str]:
        files = tx.finish()
        if not tx.changed:
            self._connection.rollback()
            return files
        self._batch += 1
        self._connection.execute("UPDATE writers SET last_batch = ? WHERE id = ?", (self._batch, self.number))
        self._connection.commit()
        return files

    def _after_commit(self, tx: Tx, files: list[str]) -> None:
        self._position = tx.next_position()
        self.hints += tx.hints()
        for name in files:
            self._remove_body(name)
        for effect in tx.effects():
            effect()

    def _undo(self) -> None:
        try:
            self._connection.rollback()
        except StoreBroken as error:
            self.break_off(str(error))

    def break_off(self, why: str) -> None:
        """Writes nothing from here on; the store must be restarted and checked."""
        if not self.broken:
            self.broken = why
            log.critical("the store is read-only until it is restarted and checked: %s", why)


def undone(unit: Unit, error: Exception) -> Result:
    """The result of a unit that raised: its own value when it withdrew, otherwise words for its caller."""
    if isinstance(error, Withdrawn):
        return Result(OK, error.result)
    if not isinstance(error, StatementFailed):
        log.error("unit %s failed", unit.name, exc_info=error)
    return Result(FAILED, f"{unit.name}: {type(error).__name__}: {error}")


def next_incarnation(database: Connection | Tx) -> int:
    """A number that no writer and no worker of this store ever had."""
    rows = database.execute("UPDATE counters SET value = value + 1 WHERE name = 'incarnation' RETURNING value")
    return int(rows[0][0])


def last_id(database: Connection | Tx) -> int:
    """The highest id still known: new ones must be above it even when the clock stepped back."""
    highest = 0
    for sql in (
        "SELECT max(id) FROM messages",
        "SELECT max(id) FROM deliveries",
        "SELECT max(id) FROM history",
        "SELECT value FROM counters WHERE name = 'last_id'",
    ):
        for (value,) in database.execute(sql):
            highest = max(highest, value or 0)
    return highest
