"""The end of deliveries that a person decides: the same ends, events and reports as those of a failed attempt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from msgspec import structs

from postroad.flow.bounce import Note, Reporter, ended
from postroad.flow.fates import tell
from postroad.flow.parcels import Delivery, Letter
from postroad.store.reader import StoredMessage
from postroad.store.records import Accept, Done, Due, Noted, Recorded
from postroad.values.event import Event
from postroad.values.outcome import About, Fate, Outcome
from postroad.values.reply import Reply

STATUS: Final = "5.3.0"
"""RFC 3463 section 3.4: the destination is not at fault, and no other code names an administrator's decision."""


class Letters(Protocol):
    """Where messages are read from (`store.reader.Reader`)."""

    async def message(self, ident: int) -> StoredMessage | None: ...


class Failing:
    """Makes the ends of deliveries that their owner gives up on request."""

    def __init__(self, *, reporter: Reporter, letters: Letters, note: Note, by: str, why: str) -> None:
        self._reporter = reporter
        self._letters = letters
        self._note = note
        self._by = by
        self._outcome = Outcome(Fate.FAILED, About.RECIPIENT, why, Reply(550, STATUS, why))

    async def ends(self, dues: Sequence[Due], owner: int, now_us: int) -> Recorded:
        """What `store.queue.record` takes for all of these deliveries; raises StoreBroken."""
        by_message: dict[int, list[Due]] = {}
        for due in dues:
            by_message.setdefault(due.message, []).append(due)
        done: list[Done] = []
        notes: list[Noted] = []
        reports: list[Accept] = []
        for message, own in by_message.items():
            stored = await self._letters.message(message)
            if stored is None:
                continue
            letter = Letter(own[0], message, header=stored.header, body=stored.body)
            events, report = await self._end(letter, own, now_us)
            done += [Done(due.id) for due in own]
            notes.append(Noted(message, self._note(message, events)))
            if report is not None:
                reports.append(report)
        return Recorded(owner, done, [], notes, reports)

    async def _end(self, letter: Letter, dues: Sequence[Due], now_us: int) -> tuple[list[Event], Accept | None]:
        results = [(Delivery(letter, due, due.attempts, due.last_reply), self._outcome) for due in dues]
        tale = tell(letter, results, [], now_us=now_us, delays_s=(1.0,), lifetime_s=0.0)
        events = [structs.replace(event, by=self._by) for event in tale.events]
        report = await self._reporter.report(letter, tale.notices, now_us)
        events += ended(letter, report, tale.notices, now_us)
        return events, report if isinstance(report, Accept) else None
