"""The ledger of a load: what was sent, what the server answered, what arrived, and the set check between them.

It lives outside the tested server. A message may arrive more than once only where the protocol cannot prevent it: the
receiving host lost its own reply, or the sender died before it could write down that the reply had come.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from random import Random

DOMAIN = "load.test"
"""Domain of every Message-ID we make: what arrives with another one was never sent."""

_OURS = re.compile(rb"Message-ID: <([0-9a-z-]+)@load\.test>\r\n")
_TRACE = re.compile(
    rb"(?:Return-Path: <[^\r\n]*>\r\n)?(?:Delivered-To: [^\r\n]+\r\n)?Received: [^\r\n]+\r\n(?:\t[^\r\n]+\r\n)*"
)


class State(Enum):
    """What the sender of a message knows about it."""

    BEGUN = "its end was never sent: it must not arrive"
    REFUSED = "refused for good or for lack of space: it must not arrive"
    UNSURE = "its end was sent and no clear answer came: it may arrive"
    ACKNOWLEDGED = "250: it must arrive"


@dataclass(slots=True)
class Entry:
    """One message: its envelope, the hash of what was sent, and the server's answer."""

    ident: str
    recipients: tuple[str, ...]
    digest: bytes
    state: State = State.BEGUN
    answered_at: float = 0.0
    reply: str = ""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One copy at one recipient."""

    ident: str
    recipient: str
    digest: bytes
    at: float
    reply_lost: bool = False
    """The receiving host stored it and then hung up instead of answering 250."""


@dataclass(frozen=True, slots=True)
class Death:
    """A process was killed: deliveries that were open in the store at that moment may be made again.

    `until` is when nothing more could come from the killed process, or from the workers of a killed store.
    """

    at: float
    until: float
    name: str
    open: frozenset[tuple[str, str]]
    """Message and recipient."""


@dataclass(slots=True)
class Verdict:
    """What the set check found; each list names messages and recipients."""

    acknowledged: int = 0
    arrived: int = 0
    lost: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    """Copies that nothing excuses."""
    excused: int = 0
    """Copies made again because a reply was lost or not yet written down."""

    @property
    def clean(self) -> bool:
        """Nothing lost, torn, extra, or doubled without an excuse."""
        return not (self.lost or self.torn or self.extra or self.doubled)

    def __str__(self) -> str:
        shown = [
            f"{name}: {len(found)} {sorted(found)[:5]}"
            for name, found in (
                ("lost", self.lost), ("torn", self.torn), ("extra", self.extra), ("doubled", self.doubled),
            )
        ]  # fmt: skip
        counts = f"acknowledged: {self.acknowledged}, arrived: {self.arrived}, made again: {self.excused}"
        return ", ".join([counts, *shown])


class Ledger:
    """Everything known of one load."""

    def __init__(self, prefix: str = "m") -> None:
        self.prefix = prefix
        self.entries: dict[str, Entry] = {}
        self.arrivals: list[Arrival] = []
        self.deaths: list[Death] = []
        self.acknowledged = 0

    # -- writing -----------------------------------------------------------------------------------------------------

    def compose(self, recipients: tuple[str, ...], size: int, rng: Random) -> tuple[Entry, bytes]:
        """A new message of about `size` octets, with lines that begin with dots and octets above 127 in larger ones."""
        ident = f"{self.prefix}-{len(self.entries)}"
        head = f"Message-ID: <{ident}@{DOMAIN}>\r\nFrom: <load@sender.test>\r\nSubject: {ident}\r\n\r\n".encode()
        lines = [b".", b"..", f"This is {ident}.".encode(), b".dot " + rng.randbytes(20).hex().encode()]
        block = b"\r\n".join([*lines, *(rng.randbytes(36).hex().encode() for _ in range(20))]) + b"\r\n"
        raw = head + block * (1 + size // len(block))
        entry = Entry(ident, recipients, digest(raw))
        self.entries[ident] = entry
        return entry, raw

    def answered(self, entry: Entry, code: int, text: str) -> None:
        """Writes down the final answer to the content of a message."""
        entry.answered_at = time.monotonic()
        entry.reply = f"{code} {text}"
        if code == 250:
            entry.state = State.ACKNOWLEDGED
            self.acknowledged += 1
        elif code == 452 or code >= 500:
            entry.state = State.REFUSED
        else:
            entry.state = State.UNSURE

    def arrived(self, recipient: str, content: bytes, *, reply_lost: bool = False) -> None:
        """Writes down one copy, with the trace lines that the server put before it."""
        found = _OURS.search(content)
        ident = found[1].decode() if found else ""
        at = found.start() if found else 0
        sound = found is None or _TRACE.fullmatch(content, 0, at) is not None
        hashed = digest(content[at:]) if sound else b"trace lines: " + content[:at]
        self.arrivals.append(Arrival(ident, recipient, hashed, time.monotonic(), reply_lost))

    def died(self, name: str, at: float, open_deliveries: Iterable[tuple[str, str]]) -> None:
        """Writes down a kill once its last effects are over, with what the store still had open just after it."""
        self.deaths.append(Death(at, time.monotonic(), name, frozenset(open_deliveries)))

    # -- judging -----------------------------------------------------------------------------------------------------

    def judge(self) -> Verdict:
        """The set check; call it when everything that can be delivered has been."""
        verdict = Verdict(self.acknowledged, len(self.arrivals))
        copies: dict[tuple[str, str], list[Arrival]] = defaultdict(list)
        for arrival in self.arrivals:
            copies[arrival.ident, arrival.recipient].append(arrival)
        for (ident, recipient), found in copies.items():
            self._judge_copies(ident, recipient, sorted(found, key=lambda one: one.at), verdict)
        for entry in self.entries.values():
            if entry.state is State.ACKNOWLEDGED:
                verdict.lost += [
                    f"{entry.ident} to {who}" for who in entry.recipients if (entry.ident, who) not in copies
                ]
        return verdict

    def _judge_copies(self, ident: str, recipient: str, found: list[Arrival], verdict: Verdict) -> None:
        name = f"{ident or 'a stranger'} to {recipient}"
        entry = self.entries.get(ident)
        if entry is None or recipient not in entry.recipients:
            verdict.extra.append(name)
            return
        if entry.state in (State.BEGUN, State.REFUSED):
            verdict.extra.append(f"{name} ({entry.state.value}; answer {entry.reply!r})")
        if any(one.digest != entry.digest for one in found):
            verdict.torn.append(name)
        for first, second in itertools.pairwise(found):
            if first.reply_lost or self._died_between(first, second):
                verdict.excused += 1
            else:
                verdict.doubled.append(name)

    def _died_between(self, first: Arrival, second: Arrival) -> bool:
        """Whether somebody died after the first copy arrived and before its delivery was closed."""
        key = (first.ident, first.recipient)
        return any(first.at <= death.until and death.at <= second.at and key in death.open for death in self.deaths)


def digest(raw: bytes) -> bytes:
    """What two copies are compared by."""
    return hashlib.blake2b(raw, digest_size=16).digest()
