"""Sessions with much to do take one slice per round of the loop, in the order in which they asked."""

from __future__ import annotations

import asyncio

from postroad.serve.turns import Turns


async def test_between_two_slices_everything_else_is_looked_at() -> None:
    loop = asyncio.get_running_loop()
    turns, seen = Turns(loop), []

    async def busy(name: str) -> None:
        for _ in range(3):
            await turns.next()
            seen.append(name)

    async def quick() -> None:
        while seen.count("a") + seen.count("b") < 6:
            seen.append("-")
            await asyncio.sleep(0)

    await asyncio.gather(busy("a"), busy("b"), quick())
    slices = "".join(seen).strip("-").split("-")
    assert [one for one in slices if one] == ["a", "b", "a", "b", "a", "b"]


async def test_a_session_that_was_cancelled_is_passed_over() -> None:
    turns = Turns(asyncio.get_running_loop())
    gone = asyncio.ensure_future(turns.next())
    there = asyncio.ensure_future(turns.next())
    await asyncio.sleep(0)
    gone.cancel()
    async with asyncio.timeout(1):
        await there
    assert gone.cancelled()
