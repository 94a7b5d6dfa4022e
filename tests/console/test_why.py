"""Stories told: what the headline says, what each event shows, and what can be done."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import pytest

from postroad.console import why_refused
from postroad.console.why import Answer, answer, lines, moment, span
from postroad.rules.words import WORDS
from postroad.serve.logins import Trouble
from postroad.store.stories import OpenDelivery, Story
from postroad.values.event import KINDS, Event
from postroad.values.ids import EPOCH_US, IdMaker, id_text

START_US = EPOCH_US + 86_400_000_000
MESSAGE = IdMaker(1).make(START_US)
NAME = id_text(MESSAGE)
MINUTE_US = 60_000_000

RECEIVED = Event(
    kind="received",
    at_us=START_US,
    cause="from <anna@dev.test>, 512 bytes",
    by="login anna@dev.test",
    where="laptop [192.0.2.1] TLSv1.3",
)
QUEUED = Event(kind="queued", at_us=START_US + 1000, recipient="bob@else.test", cause="first attempt at once")
DEFERRED = Event(
    kind="deferred",
    at_us=START_US + 900_000,
    recipient="bob@else.test",
    cause="said 451",
    evidence="451 4.7.1 Come back later",
    where="mx.else.test [127.0.0.2] TLSv1.3",
    attempt=1,
    next_us=START_US + 2 * MINUTE_US,
)
DELIVERED = Event(
    kind="delivered",
    at_us=START_US + 2 * MINUTE_US,
    recipient="bob@else.test",
    evidence="250 2.0.0 Ok: queued as 1",
    where="mx.else.test [127.0.0.2] TLSv1.3",
    attempt=2,
)


def story(*events: Event, waiting: list[OpenDelivery] | None = None, refused: bool = False) -> Story:
    return Story(MESSAGE, ["anna@dev.test", "bob@else.test"], list(events), waiting or [], refused)


def shown(told: Answer, now_us: int, width: int = 0) -> str:
    return "\n".join("".join(piece.text for piece in line) for line in lines(told, now_us, width))


def test_delivered_after_a_retry() -> None:
    told = answer(story(RECEIVED, QUEUED, DEFERRED, DELIVERED), START_US + 5 * MINUTE_US)
    assert told.state == "delivered"
    assert told.headline == "Delivered after 2 attempts, 2 min after it was received."
    text = shown(told, START_US + 5 * MINUTE_US)
    assert f"Message {NAME}" in text
    assert "anna@dev.test to bob@else.test" in text
    assert "+0.9 s  deferred   bob@else.test: said 451" in text
    assert "< 451 4.7.1 Come back later" in text
    assert "try 1, at mx.else.test [127.0.0.2] TLSv1.3" in text
    assert "+2 min  delivered" in text


def test_waiting_says_when_and_what_can_be_done() -> None:
    waiting = [OpenDelivery(1, "bob@else.test", 1, START_US + 2 * MINUTE_US, "451 4.7.1 Come back later")]
    told = answer(story(RECEIVED, QUEUED, DEFERRED, waiting=waiting), START_US + MINUTE_US)
    assert told.state == "waiting"
    assert "(in 60 s)" in told.headline or "(in 1 min)" in told.headline
    assert "Said 451." in told.headline
    assert told.endings[0].next_us == START_US + 2 * MINUTE_US
    assert told.advice == (
        f"Nothing need be done. To try at once: postroad queue retry {NAME}",
        f"To end it without a report: postroad queue drop {NAME}",
    )


def test_queue_decides_over_the_journal_when_a_retry_was_asked_for() -> None:
    asked = Event(kind="retried", at_us=START_US + MINUTE_US, recipient="bob@else.test", by="postroad queue")
    waiting = [OpenDelivery(1, "bob@else.test", 1, START_US + MINUTE_US, "451")]
    told = answer(story(RECEIVED, QUEUED, DEFERRED, asked, waiting=waiting), START_US + MINUTE_US + 1)
    assert told.state == "due"


def test_bounce_names_the_report_or_says_there_was_none() -> None:
    bounced = Event(kind="bounced", at_us=START_US + 1, recipient="bob@else.test", cause="said 550", attempt=1)
    reported = Event(kind="reported", at_us=START_US + 1, recipient="anna@dev.test", link="0ACF000000001")
    assert answer(story(RECEIVED, bounced, reported), START_US).advice == (
        "The sender was told: postroad why 0ACF000000001",
    )
    assert "The sender was not told" in answer(story(RECEIVED, bounced), START_US).advice[0]


def test_protection_without_a_host_is_not_a_place() -> None:
    mute = msgspec.structs.replace(DEFERRED, evidence="", where="TLSv1.3 TLS_AES_256_GCM_SHA384")
    told = answer(story(RECEIVED, QUEUED, mute), START_US + MINUTE_US)
    assert "try 1, over TLSv1.3 TLS_AES_256_GCM_SHA384" in shown(told, START_US + MINUTE_US)


def test_report_leads_back_to_what_it_reports() -> None:
    report = Event(kind="received", at_us=START_US, by="report", cause="reports 0ACF000000001", link="0ACF000000001")
    told = answer(story(report), START_US)
    assert told.sender == "<>"
    assert "postroad why 0ACF000000001" in told.advice[0]


def test_refusal_says_what_was_said_and_what_it_means() -> None:
    refused = Event(
        kind="refused",
        at_us=START_US,
        recipient="no@dev.test",
        cause="no such mailbox, from <anna@else.test>",
        evidence="RCPT TO:<no@dev.test> -> 550 5.1.1 No mailbox no@dev.test here.",
        by="mx",
        where="mx.else.test [127.0.0.2]",
    )
    told = answer(story(refused, refused=True), START_US)
    text = shown(told, START_US)
    assert told.state == "refused"
    assert told.sender == "anna@else.test"
    assert text.startswith(f"Refusal {NAME}")
    assert "> RCPT TO:<no@dev.test>" in text
    assert "< 550 5.1.1 No mailbox no@dev.test here." in text
    assert "Make it (postroad user add)" in text


def test_recipients_that_fare_differently_are_counted_and_listed() -> None:
    other = Event(kind="delivered", at_us=START_US, recipient="eva@dev.test", by="local delivery")
    waiting = [OpenDelivery(1, "bob@else.test", 1, START_US + 2 * MINUTE_US, "451")]
    told = answer(story(RECEIVED, other, QUEUED, DEFERRED, waiting=waiting), START_US + MINUTE_US)
    assert told.state == "partly"
    assert told.headline == "1 delivered, 1 waiting."
    assert "  delivered  eva@dev.test\n" in shown(told, START_US + MINUTE_US)


@pytest.mark.parametrize(
    "kind, state", [("bounced", "bounced"), ("discarded", "discarded"), ("dropped", "dropped"), ("queued", "due")]
)
def test_every_end_has_its_state(kind: str, state: str) -> None:
    told = answer(story(RECEIVED, Event(kind=kind, at_us=START_US, recipient="bob@else.test")), START_US)
    assert told.state == state
    assert told.headline


def test_story_without_recipients_is_told_too() -> None:
    told = answer(story(RECEIVED), START_US)
    assert told.state == "unknown"
    assert shown(told, START_US)


def test_delivery_without_events_is_told_from_the_queue() -> None:
    told = answer(story(waiting=[OpenDelivery(1, "bob@else.test", 0, START_US, "")]), START_US)
    assert [(one.recipient, one.state) for one in told.endings] == [("bob@else.test", "due")]


def test_lines_fit_the_window() -> None:
    long = Event(kind="deferred", at_us=START_US, recipient="b@x", cause="word " * 40, evidence="450 " + "x " * 90)
    text = shown(answer(story(RECEIVED, long), START_US), START_US, width=80)
    assert max(map(len, text.split("\n"))) <= 80


def test_control_characters_of_a_peer_are_shown_harmless() -> None:
    evil = Event(kind="deferred", at_us=START_US, recipient="b@x", evidence="450 \x1b]0;title\x07\r hello")
    text = shown(answer(story(evil), START_US), START_US)
    assert "\x1b" not in text
    assert "\\x1b]0;title\\x07\\x0d hello" in text


def test_a_suspended_destination_is_named_with_the_time_it_ends() -> None:
    """The time of the next attempt is never told earlier than it can be."""
    until_us = START_US + 60 * MINUTE_US
    waiting = OpenDelivery(
        1, "bob@else.test", 1, START_US + 2 * MINUTE_US, "", suspended_us=until_us, suspended="google: unusual-rate"
    )
    told = answer(story(RECEIVED, QUEUED, DEFERRED)._replace(open=[waiting]), START_US + 5 * MINUTE_US)
    [ending] = told.endings
    assert (told.state, ending.next_us) == ("waiting", until_us)
    assert "Nothing goes to this destination until then (google: unusual-rate)" in told.headline
    assert "postroad shaping" in told.advice[0]
    assert not any("retry 0" in line for line in told.advice), "it would be put off again at once"
    over = answer(story(RECEIVED, QUEUED, DEFERRED)._replace(open=[waiting]), until_us)
    assert over.state == "due"


def test_a_throttled_delivery_waits_and_nothing_has_failed() -> None:
    throttled = Event(
        kind="throttled",
        at_us=START_US,
        recipient="bob@else.test",
        cause="not tried yet: large may get 10 messages a minute, and others come first",
        next_us=START_US + MINUTE_US,
    )
    waiting = OpenDelivery(1, "bob@else.test", 0, START_US + MINUTE_US, "")
    told = answer(story(RECEIVED, QUEUED, throttled)._replace(open=[waiting]), START_US)
    assert (told.state, told.endings[0].attempts) == ("waiting", 0)
    assert "10 messages a minute" in told.headline


def test_a_change_of_a_lane_shows_signal_rule_action_and_end() -> None:
    suspended = Event(
        kind="suspended",
        at_us=START_US,
        recipient="bob@else.test",
        cause="an unusual rate: nothing goes to google",
        evidence="421 4.7.28 unusual rate",
        by="google: unusual-rate",
        next_us=START_US + 30 * MINUTE_US,
    )
    text = shown(answer(story(RECEIVED, suspended), START_US), START_US)
    for part in ("suspended", "nothing goes to google", "by google: unusual-rate", "421 4.7.28 unusual rate", "next "):
        assert part in text


def test_alias_reads_as_a_sentence() -> None:
    expanded = Event(kind="expanded", at_us=START_US, recipient="info@dev.test", cause="anna@dev.test")
    assert "info@dev.test leads to anna@dev.test" in shown(answer(story(expanded), START_US), START_US)


def test_every_look_is_a_word_or_a_style_that_the_terminal_knows() -> None:
    from postroad.console.cli.why import LOOKS

    known = {*LOOKS, *KINDS}
    for told in (answer(story(RECEIVED, QUEUED, DEFERRED, DELIVERED), START_US), answer(story(RECEIVED), START_US)):
        assert {piece.look for line in lines(told, START_US) for piece in line} <= known


def test_advice_exists_for_the_words_that_planning_uses() -> None:
    import re

    from tests.testdata import REPOSITORY

    source = (REPOSITORY / "src/postroad/flow/local.py").read_text()
    words = set(re.findall(r'_refuse\([^"\n]*(?:"[^"]*"\), )?"([a-z ]+)"\)', source))
    assert words
    assert words - {"too many"} <= set(why_refused.REFUSALS)


class Span(NamedTuple):
    seconds: float
    text: str


@pytest.mark.parametrize(
    "case",
    [
        Span(0, "0 s"),
        Span(0.0004, "0 s"),
        Span(0.13, "0.13 s"),
        Span(9.9, "9.9 s"),
        Span(12.4, "12 s"),
        Span(60, "1 min"),
        Span(1872, "31 min 12 s"),
        Span(7500, "2 h 5 min"),
        Span(86400 * 3 + 4000, "3 d 1 h"),
        Span(-5, "0 s"),
    ],
)
def test_spans(case: Span) -> None:
    assert span(case.seconds) == case.text


def test_moments_near_and_far() -> None:
    assert moment(START_US + 60_000_000, START_US).endswith("(in 1 min)")
    assert moment(START_US - 60_000_000, START_US).endswith("(1 min ago)")
    assert moment(START_US + 86_400_000_000 * 3, START_US).startswith("at Fri 2024-01-05")


def test_a_held_message_says_until_when_and_that_it_can_begin_at_once() -> None:
    release_us = START_US + 90 * MINUTE_US
    held = Event(
        kind="held", at_us=START_US, recipient="bob@else.test", cause="its sender asked for it", next_us=release_us
    )
    leg = OpenDelivery(1, "bob@else.test", 0, release_us, "")
    told = answer(story(RECEIVED, held, waiting=[leg]), START_US + MINUTE_US)
    assert (told.state, told.endings[0].next_us) == ("held", release_us)
    assert told.headline.startswith("Held back: delivery begins at ")
    assert "(in 1 h 29 min). Its sender asked for it." in told.headline
    assert told.advice == (f"Nothing need be done. To begin at once: postroad queue retry {NAME}",)
    text = shown(told, START_US + MINUTE_US)
    assert "held       bob@else.test: its sender asked for it" in text
    due = answer(story(RECEIVED, held, waiting=[leg]), release_us + 1)
    assert due.state == "due"


def test_every_word_of_a_refusal_says_what_can_be_done() -> None:
    words = {*WORDS, *(trouble.value for trouble in Trouble)}
    assert set(why_refused.REFUSALS) == words


@pytest.mark.parametrize(
    ("cause", "begins"),
    [
        ("sender not granted, from <b@dev.test>", "The sender is somebody else's. To allow it: postroad user grant"),
        ("milter failed: inet:127.0.0.1:8891: connection refused", "The sender tries again. See whether the milter"),
        ("app password expired", "The time of this app password is over."),
        ("5 more refusals from 192.0.2.9 in this minute, written down as one", "Only the first refusals of a minute"),
        ("a word of another version", "The other side was told so"),
    ],
)
def test_refusal_says_what_can_be_done(cause: str, begins: str) -> None:
    refusal = Event(kind="refused", at_us=START_US, cause=cause, evidence="RCPT -> 550 5.7.1 No.")
    (said,) = answer(story(refusal, refused=True), START_US).advice
    assert said.startswith(begins)
