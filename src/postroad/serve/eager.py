"""Run a coroutine at once and make a Task only if it really has to wait.

Most commands of a session are answered without waiting for anything. A Task for each would cost more than the
command itself, so the first step is taken directly; what is left over, if anything, is given to a Task.

A coroutine run this way must not enter `asyncio.timeout()` (which asks for the current task) before its first real
wait; sessions leave time to their driver, so they have no need to.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any


def run_eagerly(work: Coroutine[Any, Any, None]) -> Awaitable[None] | None:
    """Take the first step of `work`: None when it finished, else the rest, to be awaited in a Task.

    Raises whatever `work` raises in that step.
    """
    try:
        waiting = work.send(None)
    except StopIteration:
        return None
    return _resume(work, waiting)


@types.coroutine
def _resume(work: Coroutine[Any, Any, None], waiting: Any) -> Generator[Any, Any, None]:
    """Go on with a started coroutine whose last step yielded `waiting`."""
    while True:
        error: BaseException | None = None
        value = None
        try:
            value = yield waiting
        except BaseException as thrown:  # a cancellation belongs to the coroutine that waits
            error = thrown
        try:
            waiting = work.throw(error) if error is not None else work.send(value)
        except StopIteration:
            return
