"""Results of attempts on their way into the store: gathered while the transaction before them is on its way to disk.

Invariant: a result stays here until the store has answered for it, and the store is asked again while it cannot answer;
sending goes on meanwhile until UNRECORDED_MAX deliveries wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from postroad.flow.parcels import Letter
from postroad.store.client import UnitFailed
from postroad.store.queue import record
from postroad.store.records import Accept, Done, Later, Noted, Recorded, Unrecorded
from postroad.store.units import Tx
from postroad.values.errors import StoreBroken, StoreFull

log = logging.getLogger(__name__)

BATCH: Final = 200
"""Deliveries of one `record` call: with notes and reports well below the 500 rows a unit may touch."""

UNRECORDED_MAX: Final = 1000
"""Deliveries whose results may wait: what a crash now could send a second time."""

GATHER_S: Final = 0.01
"""How long few results wait for company: nobody waits for them, and each call may cost the store a commit."""

RETRY_S: Final = 1.0
"""Pause before a store that could not answer is asked again."""

A = TypeVar("A")
R = TypeVar("R")


class Store(Protocol):
    """The writing side of the store (`store.client.StoreClient`)."""

    incarnation: int
    closed: asyncio.Future[None]

    async def call(self, unit: Callable[[Tx, A], R], args: A) -> R:
        """Runs a unit; raises StoreBroken, StoreFull or UnitFailed."""
        ...


class Result:
    """What became of some deliveries of one letter, in one attempt."""

    __slots__ = ("done", "ids", "later", "letter", "note", "report")

    def __init__(self, letter: Letter, done: list[int], later: list[Later], note: bytes, report: Accept | None) -> None:
        self.letter = letter
        self.done = done
        self.later = later
        self.note = note
        self.report = report
        self.ids = [*done, *(each.delivery for each in later)]
        """Every delivery it is about, also those that turn out not to be ours any more."""

    @property
    def count(self) -> int:
        """Deliveries it is about."""
        return len(self.ids)

    def forget(self, missed: set[int]) -> bool:
        """Takes out deliveries that are not ours any more; returns whether anything is left."""
        self.done = [ident for ident in self.done if ident not in missed]
        self.later = [later for later in self.later if later.delivery not in missed]
        return bool(self.done or self.later)


class Recorder:
    """Sends results to the store, one call at a time, as many in one as have gathered.

    `on_recorded` is called once for every result, when the store has it or nobody can have it any more.
    """

    def __init__(self, store: Store, on_recorded: Callable[[Result], None]) -> None:
        self._store = store
        self._on_recorded = on_recorded
        self._pending: deque[Result] = deque()
        self._task: asyncio.Task[None] | None = None
        self._space: asyncio.Future[None] | None = None
        self.waiting = 0
        """Deliveries whose results the store does not have yet."""
        self.full = False

    def add(self, result: Result) -> None:
        """Takes a result."""
        self._pending.append(result)
        self.waiting += result.count
        if self.waiting >= UNRECORDED_MAX:
            self.full = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def room(self) -> None:
        """Waits until the store has caught up."""
        while self.full:
            if self._space is None:
                self._space = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._space)

    async def flush(self) -> None:
        """Waits until every result is in the store."""
        while self._task is not None:
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        try:
            while self._pending:
                if self.waiting < BATCH:
                    await asyncio.sleep(GATHER_S)
                batch = self._take()
                error = await self._record(batch)
                if error is None:
                    self._settle(batch)
                else:
                    await self._record_singly(batch, error)
        finally:
            self._task = None

    def _take(self) -> list[Result]:
        batch = [self._pending.popleft()]
        count = batch[0].count
        while self._pending and count + self._pending[0].count <= BATCH:
            result = self._pending.popleft()
            count += result.count
            batch.append(result)
        return batch

    def _settle(self, batch: list[Result]) -> None:
        for result in batch:
            self.waiting -= result.count
            self._on_recorded(result)
        if self.full and self.waiting < UNRECORDED_MAX // 2:
            self.full = False
            if self._space is not None:
                self._space.set_result(None)
                self._space = None

    async def _record(self, batch: list[Result]) -> UnitFailed | None:
        """Gets a batch into the store, or finds out that it cannot be; returns why something in it is bad."""
        left = batch
        while left:
            try:
                answer: Unrecorded = await self._store.call(record, self._call(left))
            except (StoreBroken, StoreFull) as error:
                if self._store.closed.done():
                    # Our lease ended with the connection: the deliveries are somebody else's now.
                    log.warning("results of %d messages are lost with the store: %s", len(left), error)
                    return None
                log.warning("the store cannot record results, asking again: %s", error)
                await asyncio.sleep(RETRY_S)
            except UnitFailed as error:
                return error
            else:
                if not answer.deliveries:
                    return None
                missed = set(answer.deliveries)
                left = [result for result in left if result.forget(missed)]
        return None

    async def _record_singly(self, batch: list[Result], error: UnitFailed | None) -> None:
        """One result of the batch is bad: it alone is given up, and its deliveries stay open until a restart.

        Each is settled as soon as the store has it: what is given back may be claimed again before the next is asked.
        """
        for result in batch:
            if len(batch) > 1:
                error = await self._record([result]) if result.done or result.later else None
            if error is not None:
                log.error("the result of message %d cannot be recorded: %s", result.letter.id, error)
            self._settle([result])

    def _call(self, batch: list[Result]) -> Recorded:
        return Recorded(
            owner=self._store.incarnation,
            done=[Done(ident) for result in batch for ident in result.done],
            later=[later for result in batch for later in result.later],
            notes=[Noted(result.letter.id, result.note) for result in batch if result.note],
            reports=[result.report for result in batch if result.report is not None],
        )
