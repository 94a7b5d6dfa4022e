"""What a sender is told of a message in the transaction that accepts it: delivered, expanded (RFC 3461 section 5.2).

Invariant: a report stands in the store only with the message it tells of, and every copy it calls delivered is in its
mailbox.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from msgspec import structs

from postroad.flow.bounce import Reporter, reported
from postroad.flow.destinations import Destinations, Wish
from postroad.flow.dsn import Action, Notice
from postroad.flow.parcels import Letter
from postroad.store.queue import accept as accept_unit
from postroad.store.queue import corrected
from postroad.store.records import FILED, KIND_LOCAL, Accept, Accepted, Copy, Leg
from postroad.values.event import Event, pack, unpack
from postroad.values.ids import IdMaker
from postroad.values.outcome import About, Fate, Outcome

TAKEN: Final = Outcome(Fate.DELIVERED, About.RECIPIENT)
"""What became of a recipient whose mail this machine itself delivers or passes on."""


class Store(Protocol):
    """The writing side of the store (`store.client.StoreClient`)."""

    async def call(self, unit: Callable[..., Any], args: Any) -> Any: ...


class Story(Protocol):
    """The journal's single entrance (`flow.journal`)."""

    def note(self, message: int, events: Sequence[Event]) -> bytes: ...
    def pack(self, events: Sequence[Event]) -> bytes: ...


class AtOnce:
    """Accepts messages whose senders have wishes. Without a reporter nobody is told, and the rest is the same."""

    __slots__ = ("_ids", "_reporter", "_store", "_story")

    def __init__(self, *, store: Store, story: Story, ids: IdMaker, reporter: Reporter | None) -> None:
        self._store = store
        self._story = story
        self._ids = ids
        self._reporter = reporter

    async def accept(self, accept: Accept, destinations: Destinations, now_us: int) -> tuple[Accept, Accepted]:
        """Accepts a message with the report that is due; returns what was asked of the store at last, and its answer.

        A report that would not be true, because a mailbox filled up meanwhile, is made again without it. Each round
        leaves one copy more to the queue, so this ends. Raises as `Intake.accept`.
        """
        wishes = {copy.recipient: destinations.wishes.get(at, []) for at, copy in enumerate(accept.copies)}
        expanded = [_notice(Action.EXPANDED, wish) for wish in destinations.expanded]
        while True:
            delivered = [
                _notice(Action.DELIVERED, wish)
                for copy in accept.copies
                for wish in wishes[copy.recipient]
                if "SUCCESS" in wish.notify
            ]
            told = await self._with_report(accept, expanded + delivered, now_us)
            accepted: Accepted = await self._store.call(accept_unit, told)
            if not accepted.withdrawn:
                return told, accepted
            accept = self._leave_open(accept, accepted.copies, now_us)

    def note(self, accept: Accept) -> None:
        """Tells the stories of the reports that were accepted with a message, and that it has them."""
        for report in accept.reports:
            self._story.note(report.id, unpack(report.events))
        if accept.sending is None:
            # All else of its story was told before the commit.
            self._story.note(accept.id, [event for event in unpack(accept.events) if event.kind == "reported"])

    async def _with_report(self, accept: Accept, notices: Sequence[Notice], now_us: int) -> Accept:
        if not notices or self._reporter is None:
            return accept
        letter = Letter(accept, accept.id, header=accept.header, body=accept.body)
        # Whether there is going to be a report is known after the commit; its story is told then.
        report = await self._reporter.report(letter, notices, now_us, note=lambda _, events: self._story.pack(events))
        if isinstance(report, str):
            return accept
        events = [*unpack(accept.events), reported(letter, report, now_us)]
        return structs.replace(accept, events=pack(events), reports=[report])

    def _leave_open(self, accept: Accept, outcomes: list[int], now_us: int) -> Accept:
        """The same message, with open deliveries for the copies that could not be filed."""
        pairs = list(zip(accept.copies, outcomes, strict=True))
        unfiled = [copy for copy, outcome in pairs if outcome != FILED]
        return structs.replace(
            accept,
            copies=[copy for copy, outcome in pairs if outcome == FILED],
            legs=[*accept.legs, *(local_leg(self._ids.make(now_us), copy, now_us) for copy in unfiled)],
            events=corrected(accept.events, accept.copies, outcomes, now_us),
        )


def _notice(action: Action, wish: Wish) -> Notice:
    return Notice(action, wish.recipient, TAKEN, wish.notify, wish.orcpt)


def local_leg(ident: int, copy: Copy, due_us: int) -> Leg:
    """The open delivery of a copy that is not filed now."""
    return Leg(
        ident,
        copy.recipient,
        copy.recipient.rpartition("@")[2],
        kind=KIND_LOCAL,
        due_us=due_us,
        account=copy.account,
        prefix=copy.prefix,
        notify=copy.notify,
        orcpt=copy.orcpt,
        warn_us=copy.warn_us,
    )
