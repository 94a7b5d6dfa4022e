"""The answer to "why?": a message's story in words, as lines that a terminal or a page can show.

Pure: a story and the present time go in, an `Answer` comes out, and `lines` sets that for reading. The same
answer is what `postroad why --json` prints, so people and programs are told the same.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from postroad.console import why_refused
from postroad.store.records import DROPPED, HELD, NEVER_US
from postroad.values.event import Event
from postroad.values.ids import id_text, made_at_us

ENDS: Final = ("delivered", "returned", "bounced", "discarded", "dropped")
"""Words that end a recipient's delivery."""
OPEN: Final = ("deferred", "throttled", "queued", "held", "attempted", "retried", "released", "moved", "restored")

CLOCK_WIDTH: Final = 12
SINCE_WIDTH: Final = 9
WORD_WIDTH: Final = 10
MARGIN: Final = 2 + CLOCK_WIDTH + 2 + SINCE_WIDTH + 2 + WORD_WIDTH + 1
"""Where the text of an event begins."""
NARROWEST: Final = 30
"""Letters of text per line, however narrow the window is."""


class OpenLeg(Protocol):
    """A delivery that still has to end (`store.stories.OpenDelivery`)."""

    @property
    def recipient(self) -> str: ...
    @property
    def attempts(self) -> int: ...
    @property
    def due_us(self) -> int: ...
    @property
    def last_reply(self) -> str: ...
    @property
    def state(self) -> int: ...
    @property
    def held(self) -> str: ...
    @property
    def suspended_us(self) -> int: ...
    @property
    def suspended(self) -> str: ...


class Told(Protocol):
    """What the store knows of a message or a refusal (`store.stories.Story`)."""

    @property
    def id(self) -> int: ...
    @property
    def keys(self) -> list[str]: ...
    @property
    def events(self) -> list[Event]: ...
    @property
    def open(self) -> Sequence[OpenLeg]: ...
    @property
    def refused(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Ending:
    """How things stand for one recipient."""

    recipient: str
    state: str
    """A word of `ENDS`, or "waiting", "held" (until a time that its sender asked for, or until somebody releases it),
    "due" (an attempt is to start or under way), "refused"."""
    at_us: int
    """When that became so."""
    attempts: int
    cause: str
    evidence: str
    where: str
    next_us: int
    """When the next attempt may start; 0 when there is none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A story, judged: what happened, and what can be done."""

    id: int
    sender: str
    state: str
    """One word for all recipients: a state of `Ending`, or "partly"."""
    headline: str
    endings: tuple[Ending, ...]
    advice: tuple[str, ...]
    events: tuple[Event, ...]


def answer(story: Told, now_us: int) -> Answer:
    """What a story says, as of a moment."""
    events = tuple(story.events)
    endings = (_refused(events),) if story.refused and events else tuple(_endings(story, now_us))
    states = {ending.state for ending in endings}
    state = states.pop() if len(states) == 1 else "partly" if states else "unknown"
    return Answer(
        id=story.id,
        sender=_sender(events),
        state=state,
        headline=_headline(story.id, endings, state, now_us),
        endings=endings,
        advice=tuple(_advice(story.id, endings, events, any(leg.suspended_us > now_us for leg in story.open))),
        events=events,
    )


# -- judging ---------------------------------------------------------------------------------------------------------


def _refused(events: tuple[Event, ...]) -> Ending:
    last = events[-1]
    return Ending(last.recipient, "refused", last.at_us, 0, last.cause, last.evidence, last.where, 0)


def _endings(story: Told, now_us: int) -> Iterator[Ending]:
    """The state of each recipient, in the order they were first named.

    What the queue holds now decides over what was last journaled: a retry that somebody asked for is due although the
    last event names a later time.
    """
    waiting = {leg.recipient: leg for leg in story.open}
    last: dict[str, Event] = {}
    attempts: dict[str, int] = {}
    for event in story.events:
        if event.recipient and event.kind in (*ENDS, *OPEN):
            last[event.recipient] = event
            attempts[event.recipient] = max(attempts.get(event.recipient, 0), event.attempt)
    for recipient in dict.fromkeys((*last, *waiting)):
        event = last.get(recipient) or Event(kind="queued", at_us=made_at_us(story.id), recipient=recipient)
        leg = waiting.get(recipient)
        tried = max(attempts.get(recipient, 0), leg.attempts if leg is not None and event.kind != "queued" else 0)
        if leg is None:
            state, next_us = (event.kind if event.kind in ENDS else "due"), 0
        else:
            state, next_us = _open_state(leg, event, now_us)
        cause = leg.held if leg is not None and leg.state == HELD and leg.held else event.cause
        if leg is not None and state in ("due", "waiting") and leg.suspended_us > max(now_us, next_us):
            # Its own time may be earlier; nothing goes there before this one.
            state, next_us = "waiting", leg.suspended_us
            cause = f"nothing goes to this destination until then ({leg.suspended})"
        evidence = event.evidence or (leg.last_reply if leg is not None else "")
        yield Ending(recipient, state, event.at_us, tried, cause, evidence, event.where, next_us)


def _open_state(leg: OpenLeg, last: Event, now_us: int) -> tuple[str, int]:
    """The state of a delivery that still has to end, and when it goes on; 0 when that is now or up to a hand."""
    if leg.state == DROPPED:
        return "dropped", 0
    if leg.due_us >= NEVER_US:
        return "held", 0
    if leg.due_us <= now_us or last.kind in ("queued", "attempted"):
        return "due", 0
    return ("held" if leg.state == HELD or last.kind == "held" else "waiting"), leg.due_us


def _sender(events: tuple[Event, ...]) -> str:
    """The reverse-path as the first event tells it: "from <a@b>, 512 bytes"."""
    for event in events:
        if event.kind in ("received", "refused"):
            _, found, rest = event.cause.partition("from <")
            if found:
                return rest.partition(">")[0] or "<>"
            if event.by == "report":
                return "<>"
    return ""


IN_WORDS: Final = {"due": "on its way"}
"""How a state reads in a sentence, where the word alone would not."""

_STATES: Final = {
    "delivered": "Delivered",
    "returned": "Taken by the next host, which reported later that it could not deliver it",
    "bounced": "Not delivered: given up",
    "discarded": "Ended without a report",
    "dropped": "Dropped from the queue by hand",
    "waiting": "Not delivered yet: waiting for the next attempt",
    "held": "Held back: delivery begins",
    "due": "On its way: an attempt is due or under way",
    "refused": "Refused: nothing was stored",
    "unknown": "Nothing more is known",
}


def _headline(ident: int, endings: tuple[Ending, ...], state: str, now_us: int) -> str:
    if state == "partly":
        counts = {one.state: sum(other.state == one.state for other in endings) for one in endings}
        return ", ".join(f"{number} {IN_WORDS.get(word, word)}" for word, number in counts.items()) + "."
    text = _STATES.get(state, state)
    if not endings:
        return f"{text}."
    last = max(endings, key=lambda ending: ending.at_us)
    if len(endings) > 1:
        text += f" to all {len(endings)} recipients" if state == "delivered" else f" ({len(endings)} recipients)"
    if state == "refused":
        return f"{text}. {_sentence(last.cause)}"
    if last.attempts > 1:
        text += f" after {last.attempts} attempts"
    if state in ENDS:
        return f"{text}, {span((last.at_us - made_at_us(ident)) / 1e6)} after it was received."
    if state == "held" and not any(ending.next_us for ending in endings):
        return f"{text.partition(':')[0]} until somebody releases it. {_sentence(last.cause)}".rstrip()
    if state in ("waiting", "held"):
        soonest = min(ending.next_us for ending in endings if ending.next_us)
        return f"{text} {moment(soonest, now_us)}. {_sentence(last.cause)}".rstrip()
    return f"{text}."


def _advice(ident: int, endings: tuple[Ending, ...], events: tuple[Event, ...], suspended: bool) -> Iterator[str]:
    """What can be done, or why nothing need be."""
    name = id_text(ident)
    states = {ending.state for ending in endings}
    reports = [event.link for event in events if event.kind in ("reported", "bounced") and event.link]
    if "refused" in states:
        yield why_refused.advice(endings[0].cause)
    if "waiting" in states and suspended:
        yield "A retry changes nothing before that time. When the cause is gone: postroad shaping, and lift it."
        yield f"To end it without a report: postroad queue drop {name}"
    elif "waiting" in states:
        yield f"Nothing need be done. To try at once: postroad queue retry {name}"
        yield f"To end it without a report: postroad queue drop {name}"
    if any(ending.state == "held" and ending.next_us for ending in endings):
        yield f"Nothing need be done. To begin at once: postroad queue retry {name}"
    if any(ending.state == "held" and not ending.next_us for ending in endings):
        yield f"To let it go: postroad queue release {name}"
        yield f"To end it without a report: postroad queue drop {name}"
    if "bounced" in states and not reports:
        yield "The sender was not told: the message had no sender, or asked for no report."
    for link in dict.fromkeys(reports):
        yield f"The sender was told: postroad why {link}"
    for event in events:
        if event.kind == "received" and event.link:
            yield f"This is the report about another message: postroad why {event.link}"


def _sentence(text: str) -> str:
    text = text.strip()
    return f"{text[0].upper()}{text[1:]}." if text else ""


# -- showing ---------------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """Text of one look: "", "dim", "bold", or a word of the journal."""

    text: str
    look: str = ""


Line = list[Piece]


def lines(told: Answer, now_us: int, width: int = 0) -> Iterator[Line]:
    """The answer for reading; `width` is that of the window, 0 for no wrapping."""
    what = "Refusal" if told.state == "refused" else "Message"
    to = ", ".join(dict.fromkeys(ending.recipient for ending in told.endings if ending.recipient))
    head = f"{what} {id_text(told.id)}"
    yield [Piece(head, "bold"), Piece(f"   {day(made_at_us(told.id))}", "dim")]
    if told.sender or to:
        yield from _wrapped([], f"{told.sender or '?'} to {to or '?'}", 0, width)
    look = told.state if told.state in (*ENDS, "waiting", "held", "due", "refused") else ""
    yield from _wrapped([], told.headline, 0, width, look)
    if len(told.endings) > 1:
        yield from _endings_list(told, now_us, width)
    yield []
    started_us = told.events[0].at_us if told.events else made_at_us(told.id)
    for event in told.events:
        yield from _event_lines(event, started_us, now_us, width)
    if told.advice:
        yield []
    for advice in told.advice:
        yield from _wrapped([], advice, 0, width)


def _endings_list(told: Answer, now_us: int, width: int) -> Iterator[Line]:
    for ending in told.endings:
        more = f", next {moment(ending.next_us, now_us)}" if ending.next_us else ""
        cause = f": {ending.cause}" if ending.cause and ending.state != "delivered" else ""
        state = IN_WORDS.get(ending.state, ending.state)
        first = [Piece("  "), Piece(state.ljust(WORD_WIDTH) + " ", ending.state)]
        yield from _wrapped(first, f"{ending.recipient}{cause}{more}", 3 + WORD_WIDTH, width)


def _event_lines(event: Event, started_us: int, now_us: int, width: int) -> Iterator[Line]:
    """An event: when, what, whom and why; below it who decided, where, what was said, and what follows."""
    first = [
        Piece("  "),
        Piece(clock(event.at_us), "dim"),
        Piece(f"  {since((event.at_us - started_us) / 1e6):>{SINCE_WIDTH}}  ", "dim"),
        Piece(event.kind.ljust(WORD_WIDTH) + " ", event.kind),
    ]
    yield from _wrapped(first, _what(event), MARGIN, width)
    for detail, look in _details(event, now_us):
        yield from _wrapped([Piece(" " * MARGIN)], detail, MARGIN, width, look)


def _what(event: Event) -> str:
    if event.kind == "expanded":
        return f"{event.recipient} leads to {event.cause}"
    return ": ".join(part for part in (event.recipient, event.cause) if part)


def _details(event: Event, now_us: int) -> Iterator[tuple[str, str]]:
    place = ", ".join(
        part
        for part in (
            f"try {event.attempt}" if event.attempt else "",
            f"by {event.by}" if event.by else "",
            # Of a host that said nothing only the protection stands here; the cause names it.
            f"{'over' if event.where.startswith('TLSv') else 'at'} {event.where}" if event.where else "",
        )
        if part
    )
    if place:
        yield place, "dim"
    for said in event.evidence.split("\n"):
        asked, arrow, answered = said.rpartition(" -> ")
        if arrow:
            yield f"> {asked}", ""
        if answered:
            yield f"< {answered}", ""
    if event.next_us > event.at_us:
        yield f"next {moment(event.next_us, now_us)}", ""
    if event.link:
        yield f"see: postroad why {event.link}", "dim"


def _wrapped(first: Line, text: str, margin: int, width: int, look: str = "") -> Iterator[Line]:
    """The text behind `first`, its further lines indented; control characters of a peer are made visible."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    room = max(NARROWEST, width - margin) if width else 0
    parts = textwrap.wrap(text, room, break_on_hyphens=False) if room else [text]
    yield [*first, Piece(parts[0] if parts else "", look)]
    for part in parts[1:]:
        yield [Piece(" " * margin), Piece(part, look)]


def clock(at_us: int) -> str:
    """The time of day in the machine's zone: "11:30:02.114"."""
    second, micros = divmod(at_us, 1_000_000)
    return time.strftime("%H:%M:%S", time.localtime(second)) + f".{micros // 1000:03d}"


def day(at_us: int) -> str:
    """Day, time and zone: "Wed 2026-09-23 11:30:02 CEST"."""
    return time.strftime("%a %Y-%m-%d %H:%M:%S %Z", time.localtime(at_us // 1_000_000))


def since(seconds: float) -> str:
    """How long after the beginning: "+0.9 s", "+31 min"."""
    return f"+{span(seconds)}"


_LARGE: Final = (("d", 86400), ("h", 3600), ("min", 60))


def span(seconds: float) -> str:
    """A length of time in one or two units: "0 s", "0.13 s", "12 s", "31 min 12 s", "2 h 5 min"."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.2g} s" if seconds >= 0.001 else "0 s"
    whole = round(seconds)
    for at, (unit, length) in enumerate(_LARGE):
        if whole >= length:
            smaller, below = _LARGE[at + 1] if at + 1 < len(_LARGE) else ("s", 1)
            rest = whole % length // below
            return f"{whole // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def moment(at_us: int, now_us: int) -> str:
    """A time near the present: "at 12:01:14 (in 15 min)", with the day when it is another one."""
    same_day = time.localtime(at_us // 1_000_000)[:3] == time.localtime(now_us // 1_000_000)[:3]
    text = time.strftime("%H:%M:%S" if same_day else "%a %Y-%m-%d %H:%M:%S", time.localtime(at_us // 1_000_000))
    distance = (at_us - now_us) / 1e6
    return f"at {text} (in {span(distance)})" if distance > 0 else f"at {text} ({span(-distance)} ago)"
