"""From replies to the shape of a lane: "signal -> rule -> action -> until when", and what it makes of the outcome.

A reply that a rule of the provider file knows is acted upon; what the action says about the source or the site never
ends mail, even with a code of 5yz: it is about us, not about the recipient (`flow.judge`). Everything else a host says
is left as it was judged. Pure: shapes are changed, nothing is sent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from postroad.flow.judge import Step
from postroad.flow.parcels import Delivery, Remark
from postroad.flow.providers import CHANGE_SOURCE, SUSPENDING, Providers, Signal
from postroad.flow.shaping import State
from postroad.values.outcome import About, Fate, Outcome

if TYPE_CHECKING:
    from postroad.flow.lanes import Site
    from postroad.flow.outbound import Trip

RECONNECT: Final = "reconnect"
FEWER: Final = "fewer"
SLOWED: Final = State.SLOWED.value
SUSPENDED: Final = State.SUSPENDED.value


class Lesson(NamedTuple):
    """What a reply changed."""

    signal: Signal
    remark: Remark
    suspended: bool
    """Nothing goes there until `remark.until`."""


Judged = tuple[Delivery, Outcome, Step]


def heard(site: Site, trip: Trip, providers: Providers, now: float) -> Lesson | None:
    """Learns from the outcomes of one transaction and sets those right that a rule knows better; returns what is worth
    telling, once however many recipients were answered alike."""
    results = trip.results
    lesson: Lesson | None = None
    failed = trip.lost
    for place, judged in enumerate(results):
        outcome = judged[1]
        if outcome.fate is Fate.DELIVERED:
            continue
        failed = failed or judged[2] is Step.OTHER_HOST
        signal = _signal(site, outcome, providers)
        if signal is not None:
            results[place] = _set_right(judged, signal)
            lesson = lesson or _act(site, signal, outcome, now, beside=site.connections - site.opening - 1)
    if failed and lesson is None:
        site.shape.failed(now)
    return lesson


def is_used_up(site: Site, trip: Trip, providers: Providers) -> bool:
    """Whether the host takes no more over a connection that has carried something, and said nothing of the parcel."""
    reply = trip.results[0][1].reply if trip.number > 1 and trip.results else None
    if reply is None or reply.positive or any(not one.where or one.reply != reply for _, one, _ in trip.results):
        return False
    signal = providers.signal(site.provider, reply)
    return signal is not None and signal.action == RECONNECT


def heard_at_the_door(site: Site, outcome: Outcome, providers: Providers, now: float) -> Lesson | None:
    """The same for a host that took no session; that it did not is the business of its health."""
    signal = _signal(site, outcome, providers)
    beside = site.connections - site.opening
    return _act(site, signal, outcome, now, beside=beside) if signal is not None else None


def wants_fewer(site: Site, outcome: Outcome, providers: Providers) -> bool:
    """Whether a host took no session only because there are too many: it is well."""
    signal = _signal(site, outcome, providers)
    return signal is not None and signal.action == FEWER


def _signal(site: Site, outcome: Outcome, providers: Providers) -> Signal | None:
    """What a rule knows of a host's answer; None also when the host said nothing and the words are our own."""
    if outcome.reply is None or not outcome.where:
        return None
    return providers.signal(site.provider, outcome.reply)


def _set_right(judged: Judged, signal: Signal) -> Judged:
    delivery, outcome, step = judged
    if signal.action == "bounce":
        cause = f"{outcome.cause}; {signal.means}"
        return delivery, replace(outcome, fate=Fate.FAILED, about=About.RECIPIENT, cause=cause), Step.GO_ON
    # Another host of the same provider counts the same source address.
    cause = f"{outcome.cause}: {signal.means}"
    outcome = replace(outcome, fate=Fate.DEFERRED, about=About.HOST, cause=cause)
    return delivery, outcome, Step.GO_ON if signal.action in SUSPENDING else step


def _act(site: Site, signal: Signal, outcome: Outcome, now: float, *, beside: int) -> Lesson | None:
    """Carries the action out; None when it changed nothing. `beside`: connections that the host has taken, without the
    one that it refused and those of which it is not known."""
    assert outcome.reply is not None
    shape = site.shape
    if signal.action in SUSPENDING:
        changed = shape.suspend(signal.for_s, signal.means, now, by_source=signal.action == CHANGE_SOURCE)
    elif signal.action in ("slow", RECONNECT):
        # Who takes not even one message over a connection has another reason.
        changed = shape.slow(signal.for_s, signal.means, now)
    elif signal.action == FEWER:
        changed = shape.fewer(beside if beside > 0 else site.connections - 1, signal.for_s, signal.means, now)
    else:
        return None
    if not changed:
        return None
    suspended = shape.state is State.SUSPENDED
    kind = SUSPENDED if suspended else SLOWED
    cause = f"{signal.means}: {_words(site, signal, suspended)}"
    until = now + signal.for_s if signal.action == FEWER and not suspended else shape.until
    remark = Remark(kind, signal.rule, cause, outcome.reply, outcome.where, until, suspended and shape.by_source)
    return Lesson(signal, remark, suspended)


def _words(site: Site, signal: Signal, suspended: bool) -> str:
    if not suspended:
        return f"fewer connections to {site}" if signal.action == FEWER else f"mail for {site} goes slower"
    return f"nothing goes to {site} from this source address" if site.shape.by_source else f"nothing goes to {site}"
