"""Mail that only waits in a worker's lanes, taken back because somebody held, dropped or moved it.

What a connection has in its hands goes on: its result is recorded as the store has it then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from postroad.flow.lanes import Lanes
from postroad.flow.parcels import Delivery, Parcel
from postroad.values.errors import StoreBroken

log = logging.getLogger(__name__)

ASKED_AT_ONCE: Final = 200
"""Deliveries that one read on the loop looks up: well under a millisecond."""


class Touched(Protocol):
    """Where it can be read what people did (`store.reader.Reader`)."""

    async def changed_by_hand(self, deliveries: Sequence[int]) -> list[tuple[int, bool, str]]:
        """Of these deliveries those that somebody held, dropped or moved: id, whether it must wait, next hop."""
        ...


async def taken_by_hand(touched: Touched, deliveries: Sequence[Delivery]) -> set[int]:
    """Of these deliveries those that must wait or go elsewhere; none when that cannot be read."""
    taken: set[int] = set()
    for start in range(0, len(deliveries), ASKED_AT_ONCE):
        part = {delivery.id: delivery for delivery in deliveries[start : start + ASKED_AT_ONCE]}
        try:
            found = await touched.changed_by_hand(list(part))
        except StoreBroken as error:
            log.warning("what was held or moved by hand could not be read: %s", error)
            return set()
        taken.update(ident for ident, held, next_hop in found if held or part[ident].next_hop != next_hop)
    return taken


async def call_back(lanes: Lanes, touched: Touched, give_back: Callable[[Parcel], None]) -> None:
    """Takes out of all lanes what must wait or goes elsewhere, and hands it to `give_back`."""
    waiting = [delivery for lane in lanes.all() for parcel in lane.queue for delivery in parcel.deliveries]
    taken = await taken_by_hand(touched, waiting)
    for lane in lanes.all() if taken else ():
        for parcel in lane.queue.take_all():
            out = [delivery for delivery in parcel.deliveries if delivery.id in taken]
            if out:
                parcel.deliveries = [delivery for delivery in parcel.deliveries if delivery.id not in taken]
                give_back(Parcel(parcel.letter, out))
            if parcel.deliveries:
                lane.queue.append(parcel)
