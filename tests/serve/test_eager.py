"""A coroutine that does not wait costs no Task; one that does goes on in a Task as if nothing had happened."""

from __future__ import annotations

import asyncio

import pytest

from postroad.serve.eager import run_eagerly


async def test_what_never_waits_is_done_at_once() -> None:
    done = []

    async def work() -> None:
        done.append(1)

    assert run_eagerly(work()) is None
    assert done == [1]


async def test_what_waits_goes_on_in_a_task() -> None:
    done: list[str] = []
    gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        done.append(await gate)
        await asyncio.sleep(0)
        done.append("end")

    rest = run_eagerly(work())
    assert rest is not None
    assert done == []
    gate.set_result("go")
    await asyncio.ensure_future(rest)
    assert done == ["go", "end"]


async def test_a_future_done_before_the_task_starts_is_not_missed() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        await gate

    rest = run_eagerly(work())
    assert rest is not None
    task = asyncio.ensure_future(rest)
    gate.set_result(None)
    await asyncio.wait_for(task, 1)


async def test_errors_come_out_in_the_first_step_and_later() -> None:
    async def at_once() -> None:
        raise KeyError("now")

    with pytest.raises(KeyError):
        run_eagerly(at_once())

    async def later() -> None:
        await asyncio.sleep(0)
        raise KeyError("later")

    rest = run_eagerly(later())
    assert rest is not None
    with pytest.raises(KeyError):
        await rest


async def test_a_cancellation_reaches_the_coroutine_that_waits() -> None:
    seen = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    rest = run_eagerly(work())
    assert rest is not None
    task = asyncio.ensure_future(rest)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]
