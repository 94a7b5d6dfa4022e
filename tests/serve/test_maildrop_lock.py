"""The lock on a maildrop when the store cannot write: it is given back as soon as it can, not when the worker ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from postroad.serve import mailstore
from postroad.serve.mailstore import Mailstore
from postroad.store.pop_lock import PopLocked, pop_unlock
from postroad.values.errors import StoreFull


class LockTable:
    """The store's table of locks, on a disk that may be full; every caller is another worker."""

    def __init__(self) -> None:
        self.owners: dict[int, Store] = {}
        self.full = False


class Store:
    """One worker's way to the table."""

    def __init__(self, table: LockTable) -> None:
        self.table = table

    async def call(self, unit: Callable[..., Any], args: Any) -> Any:
        await asyncio.sleep(0)
        if self.table.full:
            raise StoreFull("disk full")
        owners = self.table.owners
        if unit is pop_unlock:
            if owners.get(args.account) is self:
                del owners[args.account]
            return None
        taken = args.account not in owners
        if taken:
            owners[args.account] = self
        return PopLocked(taken)


def worker(table: LockTable) -> Mailstore:
    """The mailstore of one worker."""
    unread: Any = SimpleNamespace(rows=None)
    return Mailstore(Store(table), unread, unread)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> LockTable:
    """An empty table; a failed unlock is tried again at once."""
    monkeypatch.setattr(mailstore, "UNLOCK_AGAIN_S", 0.0)
    return LockTable()


async def locked_on_a_full_disk(table: LockTable) -> Mailstore:
    """A worker that could not give a lock back."""
    ours = worker(table)
    assert await ours.lock_maildrop(5)
    table.full = True
    await ours.unlock_maildrop(5)
    return ours


async def settle() -> None:
    """Lets everything that is ready to run, run."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_another_worker_gets_the_lock_when_there_is_space_again(table: LockTable) -> None:
    await locked_on_a_full_disk(table)
    theirs = worker(table)
    table.full = False
    await settle()
    assert await theirs.lock_maildrop(5)


async def test_the_same_worker_may_open_it_again_while_the_disk_is_full(table: LockTable) -> None:
    ours = await locked_on_a_full_disk(table)
    assert await ours.lock_maildrop(5)
    assert not await ours.lock_maildrop(5)


async def test_a_late_unlock_never_takes_the_lock_from_the_next_session(table: LockTable) -> None:
    ours = await locked_on_a_full_disk(table)
    assert await ours.lock_maildrop(5)
    table.full = False
    await settle()
    assert table.owners.keys() == {5}
    assert not await worker(table).lock_maildrop(5)
