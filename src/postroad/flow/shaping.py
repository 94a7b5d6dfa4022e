"""How much may go to one site from one source: connections, messages over each, messages a minute; learnt and limited.

    OPEN <------------------- the time is up ------- SLOWED      a distance between messages, half the connections
     |  ^                                              ^
     |  +---- the probe was taken ---- PROBING         | "slow" (421, rate limited)
     |                                 ^    |          |
     +-- "suspend" --> SUSPENDED -- time is up         +--- from OPEN and SLOWED
                          ^-----------------+ the probe failed: longer every time

What is learnt follows the method that Postfix describes in its SCHEDULER_README (concurrency feedback with hysteresis):
each success counts 1/N towards one connection more, each failure 1/N towards one less, N being the connections now; the
first failure of a row takes one away at once, and one comes back only after a whole row of successes, so that the
number does not swing. Until the first failure every success counts whole. A host that names too many connections as its
reason sets a ceiling to that for a while (`fewer`), and is not slowed.

Invariant: 1 <= `window` <= the limit; the share of another worker is never used; nothing starts while SUSPENDED; while
PROBING at most one connection and one message are out. Every state but OPEN has an end in time, and a probe that is
never answered for is forgotten after PROBE_S, so a lane never stands for ever.

Pure: time is an argument. What carries this out is `flow.pool`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple, Protocol

from postroad.config.providers import Provider
from postroad.values.rate import Rate

FIRST_WINDOW: Final = 5.0
"""Connections to a site nothing is known of: as many as a large host gives to anybody."""

APART_FIRST_S: Final = 1.0
APART_LONGEST_S: Final = 60.0
"""Distance between two messages of a slowed lane: doubled by each signal that follows another."""

TOGETHER_S: Final = 5.0
"""Signals this close to each other have one cause: the connections that were open heard it all at once."""

SUSPENDED_LONGEST_S: Final = 86_400.0
"""A lane is probed once a day at least."""

PROBE_S: Final = 900.0
"""When a probe that was never answered for is forgotten: the timeouts of one transaction end before."""

MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0


class State(Enum):
    """What the lane is doing; the word is shown to people."""

    OPEN = "open"
    SLOWED = "slowed"
    SUSPENDED = "suspended"
    PROBING = "probing"


class Limits(NamedTuple):
    """What a lane may never exceed, over all workers; 0 is no limit of messages."""

    connections: int
    messages_per_connection: int
    per_minute: int = 0
    per_hour: int = 0

    @property
    def is_paced(self) -> bool:
        """Whether messages are limited at all times."""
        return bool(self.per_minute or self.per_hour)

    def within(self, provider: Provider | None) -> Limits:
        """The smaller ones of these and of the provider's."""
        if provider is None:
            return self
        return Limits(
            min(self.connections, provider.connections or self.connections),
            min(self.messages_per_connection, provider.messages_per_connection or self.messages_per_connection),
            provider.messages_per_minute or self.per_minute,
            provider.messages_per_hour or self.per_hour,
        )


class Permit(NamedTuple):
    """What may be done now."""

    connections: int
    """How many may be open, in this worker."""
    wait_s: float
    """Seconds until the next message may start; 0: now."""


class Allowance(Protocol):
    """Where the lane's messages are counted: here (`Rates`), or by the store process for all workers (`Tokens`)."""

    def wait(self, now: float) -> float:
        """Seconds until one more may go."""
        ...

    def free(self, now: float) -> int:
        """How many may go now."""
        ...

    def take(self, now: float) -> None:
        """One goes now."""
        ...


class Rates:
    """The limits of a lane that one worker has for itself."""

    __slots__ = ("_rates",)

    def __init__(self, limits: Limits) -> None:
        spans = ((limits.per_minute, MINUTE_S), (limits.per_hour, HOUR_S))
        self._rates = [Rate(limit, span_s) for limit, span_s in spans if limit]

    def wait(self, now: float) -> float:
        """Seconds until all of them let one more go."""
        return max((rate.wait(now) for rate in self._rates), default=0.0)

    def free(self, now: float) -> int:
        """As many as all of them let go now."""
        return min((rate.free(now) for rate in self._rates), default=0)

    def take(self, now: float) -> None:
        """One goes now, counted by all."""
        for rate in self._rates:
            rate.take(now)


class Shape:
    """One lane's limits and what has been learnt of it; see the module."""

    __slots__ = (
        "_apart_s", "_ceiling", "_ceiling_until", "_credit", "_debit", "_next_at", "_probe_at", "_shut_at",
        "_signal_at", "_suspended_s", "allowance", "by_source", "easy", "limits", "share", "state", "until",
        "untroubled", "why", "window",
    )  # fmt: skip

    def __init__(self, limits: Limits, *, share: int | None = None, allowance: Allowance | None = None) -> None:
        self.limits = limits
        self.share = limits.connections if share is None else share
        """Connections that this worker may have; the others' shares and this make up the limit."""
        if allowance is None and limits.is_paced:
            allowance = Rates(limits)
        self.allowance = allowance
        self.window = min(FIRST_WINDOW, limits.connections)
        self.untroubled = True
        """Nothing has failed yet."""
        self.state = State.OPEN
        self.until = 0.0
        """When SLOWED or SUSPENDED ends."""
        self.why = ""
        """What ended OPEN, for people."""
        self.by_source = False
        """SUSPENDED and PROBING are about the source address alone: mail may go there from another."""
        self.easy = self.allowance is None
        """Nothing has to be waited for: the state is OPEN and messages are not counted."""
        self._credit = 0.0
        self._debit = 0.0
        self._apart_s = 0.0
        self._next_at = 0.0
        self._signal_at = float("-inf")
        self._suspended_s = 0.0
        self._probe_at: float | None = None
        self._ceiling = 0.0
        self._ceiling_until = 0.0
        self._shut_at: float | None = None
        """Since when it has been suspended, with whatever probes in between."""

    # -- asking ------------------------------------------------------------------------------------------------------

    def permit(self, now: float) -> Permit:
        """What may be done now; changes the state when its time is up."""
        if self.easy:
            return Permit(min(int(self.window), self.share), 0.0)
        self._turn(now)
        if self.state is State.SUSPENDED:
            return Permit(0, self.until - now)
        if self.state is State.PROBING:
            return Permit(min(1, self.share), self._probe_wait(now))
        wait = self._next_at - now if self.state is State.SLOWED else 0.0
        if self.allowance is not None:
            wait = max(wait, self.allowance.wait(now))
        return Permit(min(int(self.window), self.share), max(0.0, wait))

    def ready(self, now: float) -> int:
        """How many messages may start now, where `easy` does not say that any number may."""
        if self.permit(now).wait_s > 0.0:
            return 0
        return self.allowance.free(now) if self.state is State.OPEN and self.allowance is not None else 1

    def take(self, now: float) -> None:
        """A message starts; `permit` must have said that none need be waited for."""
        if self.easy:
            return
        if self.allowance is not None:
            self.allowance.take(now)
        if self.state is State.PROBING:
            self._probe_at = now
        elif self.state is State.SLOWED:
            self._next_at = max(self._next_at, now) + self._apart_s

    def spared(self) -> None:
        """A message for which `take` was called did not go after all: it is no probe."""
        self._probe_at = None

    def is_shut(self, now: float) -> bool:
        """Whether mail that can go another way had better do so: nothing is taken, or one message is finding out."""
        if self.state is State.SUSPENDED:
            return self.until > now
        return self.state is State.PROBING and self._probe_at is not None and self._probe_wait(now) > 0.0

    def shut_s(self, now: float) -> float:
        """For how long nothing has been taken, from the first suspension of a row; 0 when it is open."""
        return now - self._shut_at if self._shut_at is not None else 0.0

    @property
    def pace_s(self) -> float:
        """Seconds between two messages at the present pace, over all connections; 0 when none is kept."""
        paces = [self._apart_s if self.state is State.SLOWED else 0.0]
        if self.limits.per_minute:
            paces.append(MINUTE_S / self.limits.per_minute)
        if self.limits.per_hour:
            paces.append(HOUR_S / self.limits.per_hour)
        return max(paces)

    @property
    def pace_text(self) -> str:
        """The present pace for people."""
        pace_s = self.pace_s
        if pace_s > MINUTE_S:
            return f"a message every {pace_s / MINUTE_S:.3g} minutes"
        return f"{MINUTE_S / pace_s:.3g} messages a minute" if pace_s else "messages without a limit"

    def _turn(self, now: float) -> None:
        if self.until > now:
            return
        if self.state is State.SUSPENDED:
            self.state = State.PROBING
            self._probe_at = None
        elif self.state is State.SLOWED:
            self._open()

    def _probe_wait(self, now: float) -> float:
        if self._probe_at is None:
            return self.allowance.wait(now) if self.allowance is not None else 0.0
        return max(0.0, self._probe_at + PROBE_S - now)

    # -- learning ----------------------------------------------------------------------------------------------------

    def succeeded(self, now: float) -> bool:
        """A message came to its end in a session that the host did not break off; whether one more may connect."""
        if self.state is State.PROBING:
            self.window = 1.0
            self._open()
        limit = float(self.limits.connections)
        if self._ceiling_until > now:
            limit = min(limit, self._ceiling)
        if self.window >= limit or self.state is not State.OPEN:
            return False
        each = 1.0 if self.untroubled else 1.0 / self.window
        self._credit += each
        # Half a success more or less is an error of rounding, not of the host.
        if self._credit + each / 2 < 1.0:
            return False
        self.window = min(self.window + 1.0, limit)
        self._credit = self._debit = 0.0
        return True

    def failed(self, now: float) -> None:
        """The host broke a session off, or took none."""
        self.untroubled = False
        if self.state is State.PROBING:
            self._suspend(now, self._suspended_s * 2, self.why)
            return
        each = 1.0 / self.window
        self._debit -= each
        if self._debit - each / 2 < 0.0:
            self.window = max(1.0, self.window - 1.0)
            self._debit += 1.0
            self._credit = 0.0

    def slow(self, for_s: float, why: str, now: float) -> bool:
        """The host asked for less; False when this tells nothing beyond what was known."""
        self.untroubled = False
        if self.state in (State.SUSPENDED, State.PROBING):
            if self.state is State.PROBING:
                self._suspend(now, max(for_s, self._suspended_s), why)
                return True
            return False
        if now - self._signal_at < TOGETHER_S:
            return False
        following = self.state is State.SLOWED
        self._apart_s = min(self._apart_s * 2, APART_LONGEST_S) if following else APART_FIRST_S
        self._signal_at = now
        self._credit = 0.0
        self.window = max(1.0, self.window // 2)
        self.state = State.SLOWED
        self.until = max(self.until, now + for_s)
        self.why = why
        self.easy = False
        self._next_at = max(self._next_at, now + self._apart_s)
        return True

    def fewer(self, connections: int, for_s: float, why: str, now: float) -> bool:
        """The host takes no more than so many connections at once; False when this tells nothing beyond what was known.

        It says nothing of messages: over the connections that it takes they go as fast as before.
        """
        if self.state in (State.SUSPENDED, State.PROBING):
            return self.slow(for_s, why, now)
        ceiling = float(max(1, connections))
        if self._ceiling_until > now:
            ceiling = min(ceiling, self._ceiling)
        first = now - self._signal_at >= TOGETHER_S
        self.untroubled = False
        self._signal_at = now
        self._ceiling = ceiling
        self._ceiling_until = now + for_s
        self.window = min(self.window, ceiling)
        self._credit = self._debit = 0.0
        return first

    def suspend(self, for_s: float, why: str, now: float, *, by_source: bool = False) -> bool:
        """The host wants nothing for a while, or nothing from this source address; False when that was known."""
        self.untroubled = False
        if self.state is State.SUSPENDED:
            if self.by_source and not by_source:
                self.by_source = False
                self._suspend(now, max(for_s, self.until - now), why)
                return True
            if now - self._signal_at >= TOGETHER_S and now + for_s > self.until:
                self.until = now + for_s
            return False
        longer = self._suspended_s * 2 if self.state is State.PROBING else for_s
        self._signal_at = now
        # What a probe found out about everybody's mail is not forgotten for what it finds out about the source.
        self.by_source = by_source and (self.by_source or self.state is not State.PROBING)
        self._suspend(now, max(for_s, longer), why)
        return True

    def resume(self) -> None:
        """Somebody who knows better opens the lane: what ended OPEN is forgotten."""
        self._open()

    def _suspend(self, now: float, for_s: float, why: str) -> None:
        self._suspended_s = min(for_s, SUSPENDED_LONGEST_S)
        if self._shut_at is None:
            self._shut_at = now
        self.state = State.SUSPENDED
        self.until = now + self._suspended_s
        self.why = why
        self.window = 1.0
        self._credit = self._debit = 0.0
        self.easy = False

    def _open(self) -> None:
        self.state = State.OPEN
        self.until = 0.0
        self.why = ""
        self.by_source = False
        self._apart_s = 0.0
        self._shut_at = None
        self.easy = self.allowance is None
