"""A journey counts only when what should be there is there; everything else turns red, with a reason."""

from __future__ import annotations

import io
import poplib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from postroad.dev import journeys
from postroad.dev.clients import Receipt, Seen, ident_in
from postroad.dev.journeys import (
    BOB,
    GRETA,
    JOURNEYS,
    NOBODY_HERE,
    NOBODY_THERE,
    Journey,
    Stage,
    WentWrong,
    compose,
    find_report,
    report_status,
)
from postroad.dev.layout import ADDRESSES, ANNA, DEV, FRIENDS, GRUMPY, Ports
from postroad.dev.organisation import Letter, Organisation, Posted, message_id_of
from postroad.dev.playground import Silence
from postroad.dev.screen import Screen, ScreenGone
from postroad.dev.show import Ending, Show, summary
from postroad.values.event import Event
from postroad.values.reply import Reply

ID = "0ACF4DH2WFW02"
QUEUED = f"250 2.0.0 Queued as {ID}"
REPORT = (
    "From: MAILER-DAEMON@mx.dev.test\r\nMessage-ID: <report@mx.dev.test>\r\n"
    "Content-Type: multipart/report; report-type=delivery-status\r\n\r\n"
    "Final-Recipient: rfc822; nobody@grumpy.test\r\nAction: failed\r\nStatus: {status}\r\n"
    "\r\nMessage-ID: <{original}>\r\n"
)


@dataclass
class World:
    """What the users, the organisations and the journal of a healthy playground would show; tests spoil it."""

    receipt: Receipt = field(default_factory=lambda: Receipt(250, QUEUED, "TLSv1.3"))
    events: list[Event] = field(default_factory=list)
    pop3: Callable[[str], Seen | None] = lambda message_id: Seen(b"", "+OK 120 octets")
    imap: Callable[[str], Seen | None] = lambda message_id: Seen(b"", "* 1 EXISTS")
    status: str = "5.1.1"
    tls: str = "TLSv1.3"
    asked: list[str] = field(default_factory=lambda: ["friends.test/MX", "dev.test/MX"])
    friends: Organisation = field(default_factory=lambda: Organisation(FRIENDS, ADDRESSES[FRIENDS]))
    grumpy: Organisation = field(default_factory=lambda: Organisation(GRUMPY, ADDRESSES[GRUMPY]))
    delivers: bool = True
    sent: list[str] = field(default_factory=list)

    def hand_in(self, recipient: str, message: bytes, *, starttls: bool = True) -> Receipt:
        self.sent.append(message_id_of(message))
        if recipient == GRETA:
            self.grumpy.refused.append((GRETA, Reply(451, "4.7.1", "later")))
        if self.delivers:
            organisation = self.friends if recipient == BOB else self.grumpy
            organisation.letters.append(Letter(DEV, recipient, message, self.tls, "127.0.0.1", 0.0))
        return self.receipt

    def by_pop3(self, message_id: str) -> Seen | None:
        return self.pop3(message_id)

    def by_imap(self, message_id: str) -> Seen | None:
        return self.imap(message_id)

    def reports(self) -> list[bytes]:
        return [REPORT.format(status=self.status, original=self.sent[-1]).encode()]

    def stage(self) -> Stage:
        user = cast(Any, self)
        journal = type("Book", (), {"events": lambda book, ident: self.events if ident else []})()
        return Stage(
            watcher=Silence(), users={DEV: user, ANNA: user}, friends=self.friends, grumpy=self.grumpy,
            journal=journal, asked=self.asked, ports=Ports(), patience=0.0,
        )  # fmt: skip


def event(kind: str, recipient: str, evidence: str = "", at_s: float = 0, next_s: float = 0, where: str = "") -> Event:
    return Event(
        kind=kind, at_us=int(at_s * 1e6), recipient=recipient, evidence=evidence, next_us=int(next_s * 1e6), where=where
    )


HEALTHY: dict[Callable[[Stage], None], list[Event]] = {
    journeys.local_to_local: [event("delivered", ANNA)],
    journeys.to_another_domain: [
        event("delivered", BOB, "250 2.0.0 Thank you", where="mx.friends.test TLSv1.3 verified")
    ],
    journeys.first_says_later: [
        event("deferred", GRETA, "451 4.7.1 later", at_s=1, next_s=3),
        event("delivered", GRETA, "250 2.0.0 Thank you", at_s=3.1),
    ],
    journeys.bounces: [event("bounced", NOBODY_THERE, "550 5.1.1 No mailbox")],
    journeys.from_another_domain: [event("delivered", DEV)],
    journeys.to_unknown_user: [event("refused", NOBODY_HERE)],
}


def world_for(walk: Callable[[Stage], None], monkeypatch: pytest.MonkeyPatch) -> tuple[World, Stage]:
    """A world in which `walk` goes well."""
    world = World(events=list(HEALTHY[walk]))
    stage = world.stage()
    stage.letters["bob"] = "asked@dev.test"
    world.friends.posted.append(
        Posted(DEV, QUEUED, 250, "mx.dev.test", "TLSv1.3", "answer@friends.test", "asked@dev.test")
    )
    refusal = f"550 5.1.1 No mailbox {NOBODY_HERE} here. Ref {ID}"
    monkeypatch.setattr(
        Organisation, "post", lambda *_: Posted(NOBODY_HERE, refusal, 550, "mx.dev.test", "TLSv1.3", "m")
    )
    return world, stage


@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda journey: journey.walk.__name__)
def test_a_healthy_journey_is_walked_to_its_end(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    _, stage = world_for(journey.walk, monkeypatch)
    journey.walk(stage)
    assert stage.ident == ID


def lose_tls(world: World) -> None:
    world.receipt = Receipt(250, QUEUED, "")


def refuse(world: World) -> None:
    world.receipt = Receipt(451, f"451 4.3.0 not durable Ref {ID}", "TLSv1.3")


def lose_pop3(world: World) -> None:
    world.pop3 = lambda message_id: None


def lose_imap(world: World) -> None:
    world.imap = lambda message_id: None


def lose_journal(world: World) -> None:
    world.events.clear()


def lose_mail(world: World) -> None:
    world.delivers = False


def ask_nobody(world: World) -> None:
    world.asked.clear()


def go_plain(world: World) -> None:
    world.tls = ""


def unverified(world: World) -> None:
    world.events[:] = [event("delivered", BOB, "250 2.0.0 Thank you", where="mx.friends.test TLSv1.3 unverified")]


def at_once(world: World) -> None:
    world.events[1] = event("delivered", GRETA, "250 2.0.0 Thank you", at_s=1.1)


def other_status(world: World) -> None:
    world.status = "5.0.0"


def answer_refused(world: World) -> None:
    world.friends.posted[:] = [Posted(DEV, "554 5.7.1 no", 554, "mx.dev.test", "TLSv1.3", "a", "asked@dev.test")]


def no_answer(world: World) -> None:
    world.friends.posted.clear()


SPOILED = [
    (journeys.local_to_local, refuse, "did not take the mail"),
    (journeys.local_to_local, lose_tls, "without TLS"),
    (journeys.local_to_local, lose_pop3, "POP3 does not show"),
    (journeys.local_to_local, lose_imap, "IMAP does not show"),
    (journeys.local_to_local, lose_journal, 'no "delivered"'),
    (journeys.to_another_domain, lose_mail, "did not arrive"),
    (journeys.to_another_domain, ask_nobody, "without asking DNS"),
    (journeys.to_another_domain, go_plain, "without TLS"),
    (journeys.to_another_domain, unverified, "not verified"),
    (journeys.from_another_domain, no_answer, "could not send an answer"),
    (journeys.from_another_domain, answer_refused, "did not take the answer"),
    (journeys.from_another_domain, lose_pop3, "POP3 does not show"),
    (journeys.to_unknown_user, lose_journal, 'no "refused"'),
    (journeys.first_says_later, lose_journal, 'no "deferred"'),
    (journeys.first_says_later, lose_mail, "did not arrive"),
    (journeys.first_says_later, at_once, "no wait"),
    (journeys.bounces, lose_journal, 'no "bounced"'),
    (journeys.bounces, other_status, "does not give"),
    (journeys.bounces, lose_imap, "IMAP does not show"),
]


@pytest.mark.parametrize("walk, spoil, words", SPOILED, ids=lambda each: getattr(each, "__name__", ""))
def test_a_spoiled_journey_goes_wrong_and_says_why(
    walk: Callable[[Stage], None], spoil: Callable[[World], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, stage = world_for(walk, monkeypatch)
    spoil(world)
    with pytest.raises(WentWrong, match=words):
        walk(stage)


def test_an_accepted_unknown_user_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    _, stage = world_for(journeys.to_unknown_user, monkeypatch)
    monkeypatch.setattr(Organisation, "post", lambda *_: Posted(NOBODY_HERE, QUEUED, 250, "mx.dev.test", "", "m"))
    with pytest.raises(WentWrong, match="should have said 550") as wrong:
        journeys.to_unknown_user(stage)
    assert wrong.value.found == QUEUED


def test_an_answer_to_nothing_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    _, stage = world_for(journeys.from_another_domain, monkeypatch)
    stage.letters.clear()
    with pytest.raises(WentWrong, match="nothing to answer"):
        journeys.from_another_domain(stage)


def test_reports_are_told_apart_by_recipient_and_original() -> None:
    report = REPORT.format(status="5.1.1", original="one@dev.test").encode()
    assert find_report([b"", report], NOBODY_THERE, "one@dev.test") == report
    assert find_report([report], NOBODY_THERE, "two@dev.test") is None
    assert find_report([report], "somebody@grumpy.test", "one@dev.test") is None
    assert report_status(report) == "5.1.1"
    assert report_status(report.replace(b"failed", b"delayed")) == ""


def test_ids_are_read_from_replies() -> None:
    assert ident_in(QUEUED) == ID
    assert ident_in(f"550 5.1.1 No mailbox x here. Ref {ID}") == ID
    assert ident_in("250 2.0.0 OK") == ""


def test_a_mail_is_complete_and_unlike_the_one_before() -> None:
    first, message = compose(DEV, ANNA, "Lunch at noon?")
    second, _ = compose(DEV, ANNA, "Lunch at noon?")
    assert first != second
    assert message_id_of(message) == first
    for name in (b"From: dev@dev.test\r\n", b"To: anna@dev.test\r\n", b"Subject: Lunch at noon?\r\n", b"Date: "):
        assert name in message


# -- the show ----------------------------------------------------------------------------------------------------------


def performed(*walks: Callable[[Stage], None]) -> tuple[list[Ending], str]:
    """A show of these walks: how they ended, and what the screen showed."""
    stream = io.StringIO()
    show = Show(
        Screen.on(stream), World().stage(), lambda ident: f"postroad why {ident}", log_file="server.log",
        journeys=[Journey(f"Walk {number}", walk) for number, walk in enumerate(walks, 1)],
    )  # fmt: skip
    return show.perform(), stream.getvalue()


def goes_well(stage: Stage) -> None:
    stage.ident = ID
    stage.step("it is delivered", "250 2.0.0 OK\x1b[2J")


def goes_wrong(stage: Stage) -> None:
    stage.ident = ID
    raise WentWrong("it is not there", "an empty mailbox")


def loses_the_server(stage: Stage) -> None:
    raise poplib.error_proto("-ERR")


def is_broken(stage: Stage) -> None:
    raise KeyError("a bug")


def test_steps_are_shown_with_their_line_and_the_way_to_ask_why() -> None:
    endings, shown = performed(goes_well)
    assert [ending.well for ending in endings] == [True]
    assert "1. Walk 1\n" in shown
    assert "it is delivered" in shown
    assert f"why? postroad why {ID}" in shown
    assert "250 2.0.0 OK\\x1b[2J" in shown, "what a peer says must not rewrite the terminal"


def test_one_wrong_journey_does_not_stop_the_others_and_is_counted() -> None:
    endings, shown = performed(goes_wrong, loses_the_server, is_broken, goes_well)
    assert [ending.well for ending in endings] == [False, False, False, True]
    assert "it is not there (an empty mailbox)" in shown
    assert "error_proto: -ERR" in shown
    assert "the show itself is broken: KeyError" in shown
    assert "the server's log: server.log" in shown
    assert summary(endings) == "3 of 4 journeys did not end as they should: 1, 2, 3"
    assert summary(endings[3:]).startswith("All 1 journeys ended as they should, in ")


def test_a_show_that_was_broken_off_says_nothing_more() -> None:
    stream = io.StringIO()
    show: Show

    def ends_early(stage: Stage) -> None:
        show.break_off()
        raise ConnectionRefusedError

    show = Show(Screen.on(stream), World().stage(), str, log_file="", journeys=[Journey("Walk", ends_early)])
    with pytest.raises(ScreenGone):
        show.perform()
    assert stream.getvalue() == "\n1. Walk\n"
