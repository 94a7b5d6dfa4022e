"""Registration: how a worker gets the number that owns its deliveries and marks its drafts."""

from __future__ import annotations

from postroad.store.records import Record
from postroad.store.units import Tx, unit
from postroad.store.writer import last_id, next_incarnation


class Register(Record, frozen=True):
    """A worker's first call on its connection to the store."""

    name: str
    """For people: "worker 2 (pid 4711)"."""


class Registered(Record, frozen=True):
    """A number no other process ever had, and the id above which new ids must lie (`values.ids.IdMaker`)."""

    incarnation: int
    last_id: int


@unit
def register(tx: Tx, args: Register) -> Registered:
    """Gives out an incarnation; the store process counts it alive for as long as the calling connection is open."""
    tx.flush()
    return Registered(next_incarnation(tx), last_id(tx))
