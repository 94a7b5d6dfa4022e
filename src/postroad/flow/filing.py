"""Another try of copies that their mailboxes could not take when the message was accepted."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

from postroad.flow.bounce import Note, Reporter, reported
from postroad.flow.dsn import Action, Notice
from postroad.flow.parcels import Delivery, Letter, Parcel
from postroad.flow.pool import BUG, Results
from postroad.flow.recorder import Store
from postroad.store.client import UnitFailed
from postroad.store.queue import deliver_local
from postroad.store.records import FILED, OVER_QUOTA, Accept, Copy, FileLocal
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.event import Event, pack
from postroad.values.ids import id_text
from postroad.values.outcome import About, Fate, Outcome
from postroad.values.ports import Clock
from postroad.values.reply import Reply

log = logging.getLogger(__name__)


class Holder(Protocol):
    """Who holds the deliveries (`flow.runner.Runner`)."""

    async def fetch(self, letter: Letter, deliveries: Iterable[Delivery]) -> bool:
        """Reads the letter if it has not been; False when it is gone. Raises StoreBroken or StoreFull."""
        ...

    def release(self, letter: Letter, ids: Iterable[int]) -> None:
        """These deliveries have ended in the store."""
        ...

    def on_result(self, parcel: Parcel, results: Results) -> None:
        """These deliveries have ended their attempt."""
        ...


class Filing:
    """Files deliveries of kind `local`, one at a time."""

    __slots__ = ("_clock", "_holder", "_note", "_reporter", "_store")

    def __init__(self, store: Store, note: Note, reporter: Reporter, clock: Clock, holder: Holder) -> None:
        self._store = store
        self._note = note
        self._reporter = reporter
        self._clock = clock
        self._holder = holder

    async def file(self, delivery: Delivery) -> None:
        """Files one copy and ends its delivery in the same transaction, with the report of it where one is wished."""
        now_us = self._clock.wall_us()
        event = Event(
            kind="delivered", at_us=now_us, recipient=delivery.recipient, by="local delivery", where="mailbox INBOX",
            attempt=delivery.attempt,
        )  # fmt: skip
        copy = Copy(delivery.recipient, delivery.account, delivery.prefix)
        letter = delivery.letter
        events, reports = [event], []
        try:
            if delivery.notify:
                if not await self._holder.fetch(letter, [delivery]):
                    return
                report = await self._report(delivery, now_us)
                if isinstance(report, Accept):
                    events, reports = [event, reported(letter, report, now_us)], [report]
            outcome = await self._store.call(
                deliver_local, FileLocal(self._store.incarnation, delivery.id, copy, pack(events), reports)
            )
        except (StoreBroken, StoreFull, UnitFailed) as error:
            self._not_filed(delivery, Fate.DEFERRED, "4.3.0", f"the mailbox could not be written: {error}")
            return
        except Exception:
            log.exception("the copy of message %s met a bug", id_text(letter.id))
            self._holder.on_result(Parcel(letter, [delivery]), [(delivery, BUG)])
            return
        if outcome == FILED:
            self._note(letter.id, events)
            self._holder.release(letter, [delivery.id])
        elif outcome == OVER_QUOTA:
            self._not_filed(delivery, Fate.DEFERRED, "4.2.2", "the mailbox is full")
        else:
            self._not_filed(delivery, Fate.FAILED, "5.1.1", "the mailbox does not exist any more")

    async def _report(self, delivery: Delivery, now_us: int) -> Accept | str:
        """The report that a copy is in its mailbox, if the sender asked for it."""
        filed = Outcome(Fate.DELIVERED, About.RECIPIENT)
        notice = Notice(Action.DELIVERED, delivery.recipient, filed, delivery.notify, delivery.orcpt)
        return await self._reporter.report(delivery.letter, [notice], now_us)

    def _not_filed(self, delivery: Delivery, fate: Fate, status: str, cause: str) -> None:
        outcome = Outcome(fate, About.RECIPIENT, cause, Reply(450 if fate is Fate.DEFERRED else 550, status, cause))
        self._holder.on_result(Parcel(delivery.letter, [delivery]), [(delivery, outcome)])
