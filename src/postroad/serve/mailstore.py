"""What POP3 sessions ask of the store: the maildrop, its lock, its messages and its removals.

The lock is kept twice: in the store, so that no other worker opens the maildrop, and here, so that a second session in
this worker is turned away without a question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from postroad.serve.logs import log_line
from postroad.serve.message_content import Bodies, MessageContent
from postroad.store.client import UnitFailed
from postroad.store.directory import Rows
from postroad.store.mailbox_reads import Mailboxes
from postroad.store.mailbox_records import DONE, Maildrop, PopDelete
from postroad.store.pop import maildrop, pop_delete
from postroad.store.pop_lock import PopLock, pop_lock, pop_unlock
from postroad.store.units import ROWS_PER_UNIT, Tx
from postroad.values.errors import StoreBroken, StoreFull

UNLOCK_AGAIN_S: Final = 1.0
"""Pause before a lock that a full disk kept from being given back is given back again."""


class Store(Protocol):
    """The writing side of the store: `StoreClient`."""

    async def call(self, unit: Callable[[Tx, Any], Any], args: Any) -> Any: ...


class Mailstore:
    """The maildrops of one worker."""

    __slots__ = ("_bodies", "_left", "_locked", "_mailboxes", "_reader", "_store", "_unlocking")

    def __init__(self, store: Store, reader: Rows, bodies: Bodies) -> None:
        self._store = store
        self._reader = reader
        self._mailboxes = Mailboxes(reader)
        self._bodies = bodies
        self._locked: set[int] = set()
        """Accounts whose lock this worker holds, takes or gives back."""
        self._unlocking: dict[int, asyncio.Task[None]] = {}
        self._left: dict[int, asyncio.TimerHandle] = {}
        """Accounts without a session here whose lock in the store is still ours: the disk was full."""

    # -- the lock ----------------------------------------------------------------------------------------------------

    async def lock_maildrop(self, account: int) -> bool:
        """Takes the lock for one session, which must give it back; False when another session has it."""
        if account in self._unlocking:
            await asyncio.shield(self._unlocking[account])
        if account in self._locked:
            return False
        self._locked.add(account)
        left = self._left.pop(account, None)
        if left is not None:
            left.cancel()
            return True
        try:
            taken: bool = (await self._store.call(pop_lock, PopLock(account))).taken
        except BaseException:
            self._locked.discard(account)
            raise
        if not taken:
            self._locked.discard(account)
        return taken

    def unlock_maildrop(self, account: int) -> asyncio.Task[None]:
        """Gives a lock back; await the task to know that the next session can have it. Never raises."""
        self._left.pop(account, None)
        task = asyncio.get_running_loop().create_task(self._unlock(account))
        self._unlocking[account] = task
        return task

    async def _unlock(self, account: int) -> None:
        try:
            await self._store.call(pop_unlock, PopLock(account))
        except StoreFull:
            loop = asyncio.get_running_loop()
            self._left[account] = loop.call_later(UNLOCK_AGAIN_S, self.unlock_maildrop, account)
        except (StoreBroken, UnitFailed) as error:
            # The store's lock stays until this worker ends; ours must not outlast it.
            log_line("error", f"POP3: the lock of account {account} was not given back: {error}")
        finally:
            self._locked.discard(account)
            del self._unlocking[account]

    # -- messages ----------------------------------------------------------------------------------------------------

    async def maildrop(self, account: int) -> Maildrop:
        """The INBOX as it is now, numbered from 1 in the order of its UIDs."""
        return await maildrop(self._reader, account)

    async def open_message(self, mailbox: int, uid: int) -> MessageContent | None:
        """One message, to be used as a context manager; None when it was removed meanwhile.

        Raises `StoreBroken` or `BodyUnreadable`.
        """
        found = await self._mailboxes.locate(mailbox, [uid])
        return MessageContent(found[0], self._bodies) if found else None

    async def empty_maildrop(self, mailbox: int, uids: list[int]) -> bool:
        """Removes messages, all or none; False when none was. Raises `StoreBroken` or `StoreFull`, then too none was.

        Messages that somebody else removed meanwhile count as removed.
        """
        job = 0
        for start in range(0, len(uids), ROWS_PER_UNIT):
            part = uids[start : start + ROWS_PER_UNIT]
            last = start + ROWS_PER_UNIT >= len(uids)
            answer = await self._store.call(pop_delete, PopDelete(mailbox, part, job, last))
            if answer.word != DONE:
                return False
            job = answer.job
        return True
