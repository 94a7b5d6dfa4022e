"""Results on their way into the store: grouped, repeated, and given up only one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from postroad.flow.parcels import Letter
from postroad.flow.recorder import BATCH, Recorder, Result
from postroad.store.client import UnitFailed
from postroad.store.records import Accept, Later, Recorded, Unrecorded
from postroad.values.errors import StoreBroken, StoreFull


class ScriptedStore:
    """Answers each call by the next of `answers` (a result or an exception); then everything is recorded."""

    incarnation = 7

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[Recorded] = []
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def call(self, unit: Callable[..., Any], args: Any) -> Any:
        await asyncio.sleep(0)
        self.calls.append(args)
        answer = self.answers.pop(0) if self.answers else Unrecorded([])
        if callable(answer):
            answer = answer(args)
        if isinstance(answer, Exception):
            raise answer
        return answer


def result(*done: int, later: tuple[int, ...] = (), note: bytes = b"[]") -> Result:
    letter = Letter(Accept(1, 0, "", b"", b"", "", 0, [], [], 0, "", b""), done[0] if done else 1)
    return Result(letter, list(done), [Later(ident, 5, "no") for ident in later], note, None)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroad.flow.recorder.RETRY_S", 0.0)


async def recorded(store: ScriptedStore, *results: Result) -> list[Result]:
    finished: list[Result] = []
    recorder = Recorder(store, finished.append)
    for one in results:
        recorder.add(one)
    await recorder.flush()
    assert recorder.waiting == 0
    return finished


async def test_what_gathers_during_one_call_goes_in_the_next() -> None:
    store = ScriptedStore()
    finished: list[Result] = []
    recorder = Recorder(store, finished.append)
    for ident in range(BATCH):
        recorder.add(result(ident))
    await asyncio.sleep(0)
    for ident in range(1001, 1011):
        recorder.add(result(ident, later=(ident + 100,)))
    await recorder.flush()
    assert [len(call.done) for call in store.calls] == [BATCH, 10]
    assert len(store.calls[1].later) == len(store.calls[1].notes) == 10
    assert len(finished) == BATCH + 10


async def test_one_call_is_bounded() -> None:
    store = ScriptedStore()
    await recorded(store, *(result(ident) for ident in range(2 * BATCH + 1)))
    assert max(len(call.done) for call in store.calls) <= BATCH


@pytest.mark.parametrize("error", [StoreBroken("disk"), StoreFull("disk")])
async def test_a_store_that_could_not_is_asked_again(error: Exception) -> None:
    store = ScriptedStore(error, error)
    assert len(await recorded(store, result(1))) == 1
    assert len(store.calls) == 3


async def test_a_store_that_is_gone_is_not_asked_again() -> None:
    store = ScriptedStore(StoreBroken("gone"))
    store.closed.set_result(None)
    assert len(await recorded(store, result(1))) == 1
    assert len(store.calls) == 1


async def test_deliveries_that_are_not_ours_are_taken_out_with_their_notes() -> None:
    store = ScriptedStore(Unrecorded([1, 3]))
    finished = await recorded(store, result(1, note=b"[1]"), result(2, 3, note=b"[2]"))
    last = store.calls[-1]
    assert [done.delivery for done in last.done] == [2]
    assert [noted.events for noted in last.notes] == [b"[2]"]
    assert [one.ids for one in finished] == [[1], [2, 3]]


async def test_one_bad_result_does_not_hold_up_the_others() -> None:
    def spoiled(args: Recorded) -> Any:
        return UnitFailed("bad") if any(done.delivery == 2 for done in args.done) else Unrecorded([])

    store = ScriptedStore(*[spoiled] * 10)
    finished = await recorded(store, *(result(ident) for ident in (1, 2, 3)))
    assert len(finished) == 3
    assert [[done.delivery for done in call.done] for call in store.calls[1:]] == [[1], [2], [3]]


async def test_of_a_batch_that_goes_singly_each_is_free_when_the_store_has_it() -> None:
    """Given back it may be claimed again at once, also here, and must not be taken for one that is under way."""
    finished: list[Result] = []
    known_at: list[int] = []

    def answer(_: Recorded) -> Unrecorded:
        known_at.append(len(finished))
        return Unrecorded([])

    store = ScriptedStore(UnitFailed("bad"), answer, answer, answer)
    recorder = Recorder(store, finished.append)
    for number in (1, 2, 3):
        recorder.add(result(number))
    await recorder.flush()
    assert known_at == [0, 1, 2]
    assert recorder.waiting == 0
    assert len(finished) == 3
