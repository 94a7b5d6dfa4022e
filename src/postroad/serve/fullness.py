"""Early refusal: saying 452 at MAIL while there is still room for what has been accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from postroad.flow.intake import DISK_FULL, QUEUE_FULL
from postroad.serve.logs import log_line
from postroad.values.errors import StoreBroken
from postroad.values.reply import Reply

COUNT_S: Final = 10.0
"""How old the count of the queue may be: at 5,000 messages a second it is wrong by one in a hundred of the limit."""

NOT_DURABLE: Final = Reply(451, "4.3.0", "Mail cannot be made safe on disk here right now. Please retry later.")


class Space(Protocol):
    """The part of `store.spool.Spool` that knows the disk."""

    broken: str

    def free_enough(self, size: int = 0) -> bool: ...


class Fullness:
    """Asked at MAIL with the declared size; answers with the refusal, or None when there is room.

    `count` counts the open deliveries of the whole store; it is called in a thread.
    """

    __slots__ = ("_count", "_queued", "_queued_max", "_space", "_task")

    def __init__(self, space: Space, count: Callable[[], int], queued_max: int) -> None:
        self._space = space
        self._count = count
        self._queued = 0
        self._queued_max = queued_max
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin counting now and then."""
        self._task = asyncio.get_running_loop().create_task(self._keep_counting())

    def stop(self) -> None:
        """End counting."""
        if self._task is not None:
            self._task.cancel()

    async def _keep_counting(self) -> None:
        while True:
            try:
                self._queued = await asyncio.to_thread(self._count)
            except StoreBroken as error:
                log_line("warning", "the queue could not be counted", cause=str(error))
            await asyncio.sleep(COUNT_S)

    def __call__(self, size: int) -> Reply | None:
        if self._space.broken:
            return NOT_DURABLE
        if not self._space.free_enough(size):
            return DISK_FULL
        if self._queued >= self._queued_max:
            return QUEUE_FULL
        return None
