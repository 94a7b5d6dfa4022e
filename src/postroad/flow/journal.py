"""The journal's single entrance: what is noted here becomes a log line, a count and a store row, from one encoding.

`Journal.note` is called once per message and transaction with everything that happened to it, before the store is
asked to commit. The line in the log is the event as the journal keeps it with time and queue id before it, so a line,
a row, `postroad why` and the API all use the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from postroad.flow.loglines import LineWriter, redact, time_text
from postroad.flow.meters import Counter, Meters
from postroad.values.event import KINDS, Event
from postroad.values.ids import id_text, made_at_us

TextLine = Callable[[str, Event], str]
"""Makes the line people read on a terminal of a queue id and an event."""

DELIVERY_RESULTS: Final = ("delivered", "deferred", "bounced", "discarded", "dropped")
ATTEMPT_RESULTS: Final = ("delivered", "deferred", "bounced")

Counters = tuple[Counter, Counter | None, Counter | None]
"""What one kind of event counts as: an event, the end of a delivery, the result of an attempt."""

_encode: Final = msgspec.json.Encoder().encode


class Journal:
    """Turns events into everything that is derived from them, for one process.

    `lines` is None when `log.events` is off; `text` makes terminal lines, None writes JSON.
    """

    __slots__ = ("_counters", "_latency", "_lines", "_meters", "_text")

    def __init__(self, meters: Meters, lines: LineWriter | None = None, text: TextLine | None = None) -> None:
        self._meters = meters
        self._lines = lines
        self._text = text
        self._counters = {kind: self._counters_of(kind) for kind in KINDS}
        self._latency = meters.histogram("postroad_delivery_latency_seconds")

    def note(self, message: int, events: Sequence[Event]) -> bytes:
        """Log and count what happened to a message (or under a refusal's reference), and return its packed row.

        `message` is the id that `why` finds it by; the row is what `values.event.unpack` reads.
        """
        parts = []
        for event in events:
            kind = event.kind
            counters = self._counters.get(kind) or self._learn(kind)
            counters[0].add()
            if counters[1] is not None:
                counters[1].add()
                # A local copy is filed while the message is accepted and has no attempt.
                if event.attempt and counters[2] is not None:
                    counters[2].add()
                if kind == "delivered":
                    self._latency.observe((event.at_us - made_at_us(message)) / 1e6)
            parts.append(_packed(event))
        if self._lines is not None:
            self._log(self._lines, message, events, parts)
        return b"[" + b",".join(parts) + b"]"

    @staticmethod
    def pack(events: Sequence[Event]) -> bytes:
        """Only the packed row: for what is noted once the store has answered."""
        return b"[" + b",".join(map(_packed, events)) + b"]"

    def _log(self, lines: LineWriter, message: int, events: Sequence[Event], parts: list[bytes]) -> None:
        ident = id_text(message)
        if self._text is not None:
            text = self._text
            raw = [text(ident, _hidden(event)).encode("utf-8", "backslashreplace") + b"\n" for event in events]
        else:
            raw, at_us, head = [], -1, b""
            for event, part in zip(events, parts, strict=True):
                if event.at_us != at_us:
                    at_us = event.at_us
                    head = f'{{"ts":"{time_text(at_us)}","id":"{ident}",'.encode()
                raw.append(head + part[1:] + b"\n")
        lines.add(*raw)

    def _counters_of(self, kind: str) -> Counters:
        counter = self._meters.counter
        return (
            counter("postroad_events_total", kind=kind),
            counter("postroad_deliveries_total", result=kind) if kind in DELIVERY_RESULTS else None,
            counter("postroad_out_attempts_total", result=kind) if kind in ATTEMPT_RESULTS else None,
        )

    def _learn(self, kind: str) -> Counters:
        learnt = self._counters[kind] = self._counters_of(kind)
        return learnt


def _packed(event: Event) -> bytes:
    try:
        return _encode(_hidden(event) if event.kind == "refused" else event)
    except UnicodeEncodeError:  # the words of a peer, with octets that were no text
        return _encode(_readable(event))


def _hidden(event: Event) -> Event:
    """The event without a password that came in where none belongs."""
    evidence, cause = redact(event.evidence), redact(event.cause)
    if evidence is event.evidence and cause is event.cause:
        return event
    return msgspec.structs.replace(event, evidence=evidence, cause=cause)


def _readable(event: Event) -> Event:
    """The event with octets that are no UTF-8 written as \\xNN."""
    fields = ("recipient", "cause", "evidence", "by", "where", "link")
    return msgspec.structs.replace(event, **{name: _as_text(getattr(event, name)) for name in fields})


def _as_text(text: str) -> str:
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair, which no octets gave us
        return text.encode("utf-8", "backslashreplace").decode()
