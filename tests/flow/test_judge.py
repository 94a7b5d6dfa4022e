"""What an answer means: stage and reply in; fate, subject and next step out."""

from __future__ import annotations

import pytest

from postroad.flow.judge import Step, judge, judge_connect, judge_loss, judge_transaction
from postroad.values.outcome import About, Fate
from postroad.values.reply import Reply
from postroad.wire.smtp.events import TransactionResult

OK = Reply(250, "2.0.0", "ok")

FAILED, DEFERRED = Fate.FAILED, Fate.DEFERRED
HOST, SENDER, RECIPIENT, BODY = About.HOST, About.SENDER, About.RECIPIENT, About.BODY
ON, REST, OTHER = Step.GO_ON, Step.REST, Step.OTHER_HOST


@pytest.mark.parametrize(
    "stage, code, enhanced, text, fate, about, step",
    [
        ("greeting", 554, "5.7.1", "go away", DEFERRED, HOST, OTHER),
        ("greeting", 421, "", "busy", DEFERRED, HOST, OTHER),
        ("greeting", 521, "", "no mail here", DEFERRED, HOST, OTHER),
        ("hello", 550, "5.7.1", "bad name", DEFERRED, HOST, OTHER),
        ("mail", 421, "4.7.28", "rate limited", DEFERRED, HOST, OTHER),
        ("rcpt", 421, "4.7.28", "rate limited", DEFERRED, HOST, OTHER),
        ("final", 421, "4.7.28", "rate limited", DEFERRED, HOST, OTHER),
        ("mail", 530, "5.7.0", "STARTTLS first", DEFERRED, HOST, OTHER),
        ("mail", 450, "4.7.1", "later", DEFERRED, SENDER, ON),
        ("mail", 550, "5.7.1", "sender refused", FAILED, SENDER, ON),
        ("mail", 552, "5.3.4", "too big", FAILED, BODY, ON),
        ("mail", 452, "4.3.1", "disk full", DEFERRED, SENDER, ON),
        ("rcpt", 450, "4.2.0", "greylisted", DEFERRED, RECIPIENT, ON),
        ("rcpt", 550, "5.1.1", "unknown", FAILED, RECIPIENT, ON),
        ("rcpt", 552, "5.2.2", "mailbox full", FAILED, RECIPIENT, ON),
        ("rcpt", 552, "", "over quota", FAILED, RECIPIENT, ON),
        ("rcpt", 452, "4.2.2", "mailbox full", DEFERRED, RECIPIENT, ON),
        ("rcpt", 452, "4.5.3", "too many recipients", DEFERRED, RECIPIENT, REST),
        ("rcpt", 452, "", "Too many recipients", DEFERRED, RECIPIENT, REST),
        ("rcpt", 452, "", "insufficient system storage", DEFERRED, RECIPIENT, ON),
        ("rcpt", 552, "5.5.3", "too many recipients", DEFERRED, RECIPIENT, REST),
        ("rcpt", 552, "", "too many recipients", DEFERRED, RECIPIENT, REST),
        ("data", 451, "4.3.0", "later", DEFERRED, BODY, ON),
        ("data", 554, "5.5.1", "no", FAILED, BODY, ON),
        ("final", 451, "4.3.0", "later", DEFERRED, BODY, ON),
        ("final", 554, "5.7.1", "spam", FAILED, BODY, ON),
    ],
)
def test_every_kind_of_refusal(
    stage: str, code: int, enhanced: str, text: str, fate: Fate, about: About, step: Step
) -> None:
    meaning = judge(stage, Reply(code, enhanced, text))
    assert (meaning.fate, meaning.about, meaning.step) == (fate, about, step)
    assert meaning.cause


def test_row_d14_each_recipient_has_its_own_fate() -> None:
    replies = [OK, Reply(450, "4.2.1", "later"), Reply(550, "5.1.1", "unknown")]
    result = TransactionResult(OK, replies, OK)
    judged = [judge_transaction(result, i, "mx [192.0.2.1]:25", "")[0] for i in range(3)]
    assert [outcome.fate for outcome in judged] == [Fate.DELIVERED, DEFERRED, FAILED]
    assert [outcome.about for outcome in judged[1:]] == [RECIPIENT, RECIPIENT]
    assert {outcome.where for outcome in judged} == {"mx [192.0.2.1]:25"}


def test_a_refused_sender_and_a_refused_body_are_told_apart() -> None:
    no = Reply(554, "5.7.1", "no")
    assert judge_transaction(TransactionResult(no, [no]), 0, "", "")[0].about is SENDER
    assert judge_transaction(TransactionResult(OK, [no], no), 0, "", "")[0].about is BODY
    assert judge_transaction(TransactionResult(OK, [no]), 0, "", "")[0].about is RECIPIENT


@pytest.mark.parametrize("stage", ["greeting", "mail", "content", "final"])
def test_row_d12_a_lost_connection_never_ends_mail(stage: str) -> None:
    outcome = judge_loss(stage, "timeout", None, "mx [192.0.2.1]:25", "")
    assert (outcome.fate, outcome.about, outcome.status) == (DEFERRED, HOST, "4.4.2")
    assert ("may have arrived" in outcome.cause) is (stage == "final")


def test_who_broke_a_connection_off_stands_in_the_words_where_it_said_nothing() -> None:
    silent = judge_loss("data", "connection closed", None, "mx [192.0.2.1]:25", "")
    assert (silent.cause, silent.where) == ("connection closed at DATA (mx [192.0.2.1]:25)", "")
    assert str(silent.reply) == "451 4.4.2 connection closed at DATA"
    spoken = judge_loss("data", "connection closed", Reply(421, "4.3.2", "bye"), "mx [192.0.2.1]:25", "")
    assert (spoken.cause, spoken.where) == ("connection closed at DATA", "mx [192.0.2.1]:25")


def test_a_connection_that_never_was() -> None:
    outcome = judge_connect("connection refused", "mx [192.0.2.1]:25")
    assert (outcome.fate, outcome.about, outcome.status) == (DEFERRED, HOST, "4.4.1")
