"""From the outcomes of an attempt to what is written down: ends, next times and the events that tell of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from postroad.flow.dsn import Action, Notice
from postroad.flow.parcels import Delivery, Letter, Remark
from postroad.flow.schedule import is_late, is_over, next_time
from postroad.store.records import Later
from postroad.values.event import Event
from postroad.values.outcome import Fate, Outcome

EVIDENCE_MAX: Final = 1000
"""Characters of a peer's words that the journal and the queue keep."""

BY: Final = "outbound relay"
BY_SCHEDULE: Final = "retry schedule"


@dataclass(slots=True)
class Tale:
    """What one attempt changes, before it is written."""

    done: list[int] = field(default_factory=list)
    later: list[Later] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    failed: list[Delivery] = field(default_factory=list)
    """Ends undelivered: they are in `done`."""
    notices: list[Notice] = field(default_factory=list)
    """What the sender may have to be told: of every end undelivered, and of what else was asked for."""


def tell(
    letter: Letter,
    results: Sequence[tuple[Delivery, Outcome]],
    trail: Sequence[tuple[str, str]],
    *,
    now_us: int,
    delays_s: Sequence[float],
    lifetime_s: float,
    warn_after_s: float = 0.0,
    not_before_us: int = 0,
    shut_s: float = 0.0,
) -> Tale:
    """The tale of one attempt; `trail` names the hosts that failed in it, before the one that decided.

    `lifetime_s`: what mail gets without a time of its own; `warn_after_s`: after how long the sender is told of a
    delay, 0 for never. What is tried again is so at `not_before_us` at the earliest: until then its lane is suspended.
    `shut_s`: for how long its site has taken nothing; that time was spent waiting, however few attempts were made.
    """
    tale = Tale()
    attempt = results[0][0].attempt
    for where, why in trail:
        tale.events.append(Event(kind="attempted", at_us=now_us, cause=why, where=where, attempt=attempt, by=BY))
    for delivery, outcome in results:
        if outcome.fate is Fate.DELIVERED:
            tale.done.append(delivery.id)
            tale.events.append(_event("delivered", delivery, outcome, now_us))
            if delivery.notify and not outcome.dsn:
                # RFC 3461 section 5.2.2 (b): a host that knows no DSN took it, "the client MUST issue a "relayed" DSN".
                _tell_sender(tale, letter, Action.RELAYED, delivery, outcome)
        elif outcome.fate is Fate.DEFERRED and not (
            is_over(delivery.attempt, now_us, letter.expires_us, _own_lifetime_s(letter, lifetime_s), delays_s)
            or _is_over_shut(letter, now_us, lifetime_s, shut_s)
        ):
            due_us = next_time(delivery.id, delivery.attempt, now_us, letter.expires_us, delays_s)
            due_us = max(due_us, not_before_us)
            late = is_late(delivery.attempt, now_us, delivery.warn_us, warn_after_s, delays_s)
            late = late or _is_late_shut(delivery, now_us, warn_after_s, shut_s)
            warned = late and _tell_sender(tale, letter, Action.DELAYED, delivery, outcome)
            tale.later.append(Later(delivery.id, due_us, _said(outcome), warned))
            tale.events.append(_event("deferred", delivery, outcome, now_us, due_us))
        else:
            _fail(tale, letter, delivery, outcome, now_us)
    return tale


def tell_untried(
    letter: Letter,
    waits: Sequence[tuple[Delivery, int]],
    why: str,
    *,
    now_us: int,
    lifetime_s: float,
    warn_after_s: float,
    shut_s: float,
    throttled: bool = False,
) -> Tale:
    """The tale of deliveries that were put off without an attempt, each until a wall time.

    Where their site has taken nothing for long the answer is known: they end and are late like others.
    """
    tale = Tale()
    for delivery, due_us in waits:
        outcome = Outcome(Fate.DEFERRED, cause=why)
        if _is_over_shut(letter, now_us, lifetime_s, shut_s):
            _fail(tale, letter, delivery, outcome, now_us)
            continue
        late = _is_late_shut(delivery, now_us, warn_after_s, shut_s)
        warned = late and _tell_sender(tale, letter, Action.DELAYED, delivery, outcome)
        tale.later.append(Later(delivery.id, due_us, delivery.last_reply or why, warned, throttled=True, untried=True))
        if throttled and delivery.throttled:
            # A long backlog is put off again and again: its next time stands in the queue.
            continue
        tale.events.append(
            Event(
                kind="throttled" if throttled else "deferred",
                at_us=now_us,
                recipient=delivery.recipient,
                cause=why,
                next_us=due_us,
                by=BY,
            )
        )
    return tale


def _is_over_shut(letter: Letter, now_us: int, lifetime_s: float, shut_s: float) -> bool:
    """Whether a letter's time is up, half of which its site has taken nothing: no clock that jumped ends mail."""
    return 0.0 < _own_lifetime_s(letter, lifetime_s) / 2 <= shut_s and now_us >= letter.expires_us


def _is_late_shut(delivery: Delivery, now_us: int, warn_after_s: float, shut_s: float) -> bool:
    """The same of the time after which the sender is told of a delay."""
    return 0.0 < warn_after_s / 2 <= shut_s and 0 < delivery.warn_us <= now_us


def _own_lifetime_s(letter: Letter, lifetime_s: float) -> float:
    """A letter's own lifetime, which does not count how long its sender had it held before the first attempt."""
    return min(lifetime_s, (letter.expires_us - letter.received_us) / 1e6)


def _fail(tale: Tale, letter: Letter, delivery: Delivery, outcome: Outcome, now_us: int) -> None:
    expired = outcome.fate is Fate.DEFERRED
    event = _event("bounced", delivery, outcome, now_us)
    if expired:
        days = (letter.expires_us - letter.received_us) / 86_400_000_000
        cause = f"its time of {days:.3g} days was up; at last: {outcome.cause}"
        event = _event("bounced", delivery, replace(outcome, cause=cause), now_us, by=BY_SCHEDULE)
    tale.done.append(delivery.id)
    tale.events.append(event)
    tale.failed.append(delivery)
    tale.notices.append(_notice(Action.FAILED, letter, delivery, outcome, expired))


def _tell_sender(tale: Tale, letter: Letter, action: Action, delivery: Delivery, outcome: Outcome) -> bool:
    """Adds the notice of something that is told only to who wants it; returns whether there is somebody."""
    notice = _notice(action, letter, delivery, outcome)
    if not letter.sender or not notice.wanted:
        return False
    tale.notices.append(notice)
    return True


def _notice(action: Action, letter: Letter, delivery: Delivery, outcome: Outcome, expired: bool = False) -> Notice:
    return Notice(
        action,
        delivery.recipient,
        outcome,
        notify=delivery.notify,
        orcpt=delivery.orcpt,
        expired=expired,
        attempts=delivery.attempt,
        until_us=letter.expires_us,
    )


def _event(kind: str, delivery: Delivery, outcome: Outcome, now_us: int, next_us: int = 0, by: str = BY) -> Event:
    where = outcome.where
    return Event(
        kind=kind,
        at_us=now_us,
        recipient=delivery.recipient,
        cause=outcome.cause,
        evidence=_said(outcome) if where or not outcome.cause else "",
        by=by,
        where=" ".join(filter(None, (where, outcome.tls))),
        next_us=next_us,
        attempt=delivery.attempt,
    )


def remark_event(remark: Remark, delivery: Delivery, now_us: int, until_us: int) -> Event:
    """What a reply did to its lane: signal (evidence), rule (by), meaning and action (cause), until when (next)."""
    return Event(
        kind=remark.kind,
        at_us=now_us,
        recipient=delivery.recipient,
        cause=remark.cause,
        evidence=str(remark.reply)[:EVIDENCE_MAX],
        by=remark.rule,
        where=remark.where,
        next_us=until_us,
    )


def _said(outcome: Outcome) -> str:
    return str(outcome.reply)[:EVIDENCE_MAX] if outcome.reply is not None else outcome.cause
