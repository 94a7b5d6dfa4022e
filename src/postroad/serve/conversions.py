"""Binary content made into ordinary mail, beside the event loop: 50 MB take a third of a second."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from postroad.wire.mime.binary import unbinary

THREADS: Final = 1
"""A message of 50 MB needs 90 MB more while it is converted; the others wait their turn."""


class Conversions:
    """Converts one message at a time, in a named thread that is begun with the first.

    Whoever has a body to convert holds `turn` from before it is read into memory until it is written back.
    """

    __slots__ = ("_pool", "turn")

    def __init__(self) -> None:
        self.turn = asyncio.Semaphore(THREADS)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="binary")

    async def unbinary(self, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Header and body without binary parts; the same objects when there were none. Raises `NotConvertible`."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, unbinary, header, body)

    def close(self) -> None:
        """Ends the thread; conversions that have not begun are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)
