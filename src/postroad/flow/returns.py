"""Mail that comes to a return path of ours: what it says is written into the story of the message it is about.

The mail itself goes to the sender like any other; losing the note of it loses nothing else, so it is made after the
acceptance and its failure is logged and forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Protocol

from postroad.flow.classify import classify
from postroad.flow.return_path import Returned, recipient_mark
from postroad.store.client import UnitFailed
from postroad.store.journal import journal
from postroad.store.records import Noted
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.event import Event
from postroad.values.ids import id_text
from postroad.values.ports import Clock
from postroad.wire.mime.report import read_report

log = logging.getLogger(__name__)

READ_OCTETS: Final = 256 * 1024
"""Octets of a body in which a report is looked for: its fields stand at the beginning, behind them what was sent."""

BY: Final = "return path"


class Store(Protocol):
    """The units (`store.client.StoreClient`)."""

    async def call(self, unit: Callable[..., Any], args: Any) -> Any:
        """Runs a unit."""
        ...


class Story(Protocol):
    """The journal's single entrance (`flow.journal`)."""

    def note(self, message: int, events: Sequence[Event]) -> bytes: ...


class Bodies(Protocol):
    """Where body files are read from (`store.spool.Spool`)."""

    def read(self, body_file: str) -> AsyncIterator[bytes]:
        """The octets in pieces; raises StoreBroken."""
        ...


class Returns:
    """Reads what came back. One for a worker."""

    def __init__(self, *, store: Store, story: Story, bodies: Bodies, clock: Clock) -> None:
        self._store = store
        self._story = story
        self._bodies = bodies
        self._clock = clock

    async def take(
        self, returned: Sequence[Returned], ident: int, header: bytes, body: bytes | None, body_file: str
    ) -> None:
        """Notes what the message `ident`, accepted just now, says of those whose return paths it came to."""
        try:
            octets = body if body is not None else await self._beginning(body_file)
            for one in returned:
                events = told(one, header, octets[:READ_OCTETS], ident, self._clock.wall_us())
                packed = self._story.note(one.message, events)
                await self._store.call(journal, Noted(one.message, packed))
        except (StoreBroken, StoreFull, UnitFailed) as error:
            log.warning("what came back in message %s could not be noted: %s", id_text(ident), error)
        except Exception:
            log.exception("what came back in message %s met a bug", id_text(ident))

    async def _beginning(self, body_file: str) -> bytes:
        pieces, size = [], 0
        async for piece in self._bodies.read(body_file):
            pieces.append(piece)
            size += len(piece)
            if size >= READ_OCTETS:
                break
        return b"".join(pieces)


def told(returned: Returned, header: bytes, body: bytes, ident: int, now_us: int) -> list[Event]:
    """The events of one message's story that a message `ident` to its return path makes."""
    link = id_text(ident)
    report = read_report(header, body)
    if report is None:
        cause = "a message that is no report came to its return path"
        return [Event(kind="answered", at_us=now_us, cause=cause, by=BY, link=link)]
    events = []
    for one in report.recipients:
        bounce = classify(one)
        if bounce is None:
            continue
        named = one.original or one.recipient
        if returned.recipient and recipient_mark(named) != returned.recipient:
            # One recipient only was in that transaction; a report that names another tells of a forwarding of theirs.
            named = ""
        words = f"{bounce.kind}, for good" if bounce.hard else bounce.kind
        events.append(
            Event(
                kind="returned" if bounce.final else "answered",
                at_us=now_us,
                recipient=named,
                cause=words if bounce.final else f"reported as late: {words}",
                evidence=" ".join(filter(None, (bounce.status, bounce.said))),
                by=BY,
                where=one.remote or report.reporter,
                link=link,
            )
        )
    if not events:
        events.append(Event(kind="answered", at_us=now_us, cause="a report of success", by=BY, link=link))
    return events
