"""Sending more than a peer may read at once: piece by piece, and not to a peer that never reads."""

from __future__ import annotations

import asyncio

from postroad.serve.conversation import Conversation


async def drained(wire: Conversation, patience: float) -> None:
    """Sends what the machine has to say and waits until the peer read enough of it.

    Others get their turn even when it reads as fast as we write. A peer that reads nothing for `patience` seconds loses
    the connection. Raises ConnectionError when it is gone.
    """
    wire.flush()
    timer = asyncio.get_running_loop().call_later(patience, wire.transport.abort)
    try:
        await wire.drain()
        await wire.others_first()
    finally:
        timer.cancel()
