"""What a policy.py is given and may return, and what its opinions mean for the gate."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from postroad.rules.opinions import verdict_of
from postroad.rules.policy import (
    BODY_MAX,
    OPINIONS_MAX,
    TEXT_MAX,
    VALUE_MAX,
    Mail,
    Message,
    Opinion,
    Rcpt,
    Unusable,
    accept,
    add_header,
    discard,
    later,
    opinions,
    quarantine,
    refuse,
    set_header,
    unsure,
)
from postroad.values.facts import Content, Facts, Stage
from postroad.values.verdict import Ruling

HEADER = b"From: a@example.org\r\nSubject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n one\r\nSubject: two\r\nno field\r\n\r\n"


def facts(stage: Stage = Stage.MESSAGE, header: bytes = HEADER) -> Facts:
    return Facts(stage, content=Content(header, len(header), lambda: pytest.fail("the body was not asked for")))


@pytest.mark.parametrize(
    "make",
    [
        lambda: refuse(""),
        lambda: refuse("two\r\nlines"),
        lambda: refuse("two\nlines"),
        lambda: refuse("Grüße"),
        lambda: refuse("x" * (TEXT_MAX + 1)),
        lambda: refuse("No.", 250, "2.0.0"),
        lambda: refuse("No.", 421, "4.7.0"),
        lambda: refuse("No.", 600, "6.7.0"),
        lambda: refuse("No.", 550, "4.7.1"),
        lambda: refuse("No.", 550, "5.7"),
        lambda: refuse("No.", 550, "5.7.1\r\n250 ok"),
        lambda: quarantine(""),
        lambda: discard("  "),
        lambda: unsure("a\nb"),
        lambda: add_header("X-A", "a\r\nBcc: eve@example.org"),
        lambda: add_header("X-A", "a\nb"),
        lambda: add_header("X A", "1"),
        lambda: add_header("", "1"),
        lambda: add_header("FROM", "eve@example.org"),
        lambda: set_header("Received", "from nowhere"),
        lambda: add_header("Subject", "second"),
        lambda: add_header("X-A", "x" * (VALUE_MAX + 1)),
    ],
)
def test_what_cannot_be_carried_out_is_said_at_once(make: Callable[[], Opinion]) -> None:
    with pytest.raises(Unusable):
        make()


def test_refusals_keep_their_codes() -> None:
    verdict = verdict_of([refuse("No.", 554, "5.7.2")], facts(Stage.RCPT))
    assert verdict is not None
    assert (verdict.ruling, verdict.why, str(verdict.say)) == (Ruling.REFUSE, "refused by policy", "554 5.7.2 No.")
    verdict = verdict_of([later("Wait.")], facts(Stage.RCPT))
    assert verdict is not None
    assert (verdict.why, str(verdict.say)) == ("postponed by policy", "451 4.7.1 Wait.")


def test_first_refusal_wins_over_doubts_and_changes() -> None:
    verdict = verdict_of([quarantine("odd"), unsure(), later("Wait."), refuse("No.")], facts())
    assert verdict is not None
    assert verdict.why == "postponed by policy"
    assert not verdict.changes


def test_unsure_is_a_doubt_that_waits() -> None:
    verdict = verdict_of([accept(), unsure("no answer")], facts(Stage.RCPT))
    assert verdict is not None
    assert (verdict.ruling, verdict.why) == (Ruling.COULD_NOT_TELL, "policy undecided")
    assert verdict.say is not None
    assert verdict.say.temporary
    assert "no answer" in verdict.evidence


def test_no_opinion_is_no_verdict() -> None:
    assert verdict_of([], facts()) is None
    assert opinions(None, "mail") == ()


def test_fields_are_written_above_and_instead() -> None:
    verdict = verdict_of([add_header("X-A", "Grüße"), set_header("subject", "three"), quarantine("odd")], facts())
    assert verdict is not None
    assert verdict.changes.header == (
        b"X-A: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\nsubject: three\r\nFrom: a@example.org\r\nno field\r\n\r\n"
    )
    assert verdict.changes.quarantine == "odd"
    assert verdict.passes


def test_adding_leaves_every_octet_of_the_header_alone() -> None:
    odd = b" leading\r\nX:1\nY : 2\r\n\r\n"
    verdict = verdict_of([add_header("X-A", "1")], facts(header=odd))
    assert verdict is not None
    assert verdict.changes.header == b"X-A: 1\r\n" + odd


def test_discard_is_a_change() -> None:
    verdict = verdict_of([discard("spam")], facts())
    assert verdict is not None
    assert verdict.changes.discard
    assert verdict.changes.header is None


@pytest.mark.parametrize("said", ["no", 550, [refuse("No."), "no"], True, {}, [None], [quarantine("x")] * 51])
def test_what_is_no_opinion_is_refused(said: object) -> None:
    assert OPINIONS_MAX == 50
    with pytest.raises(Unusable):
        opinions(said, "message")


@pytest.mark.parametrize("one", [add_header("X-A", "1"), set_header("X-A", "1"), quarantine("x"), discard("x")])
def test_changes_belong_to_message(one: Opinion) -> None:
    with pytest.raises(Unusable, match="only message"):
        opinions(one, "rcpt")
    assert opinions([one], "message") == (one,)


# -- records -----------------------------------------------------------------------------------------------------------


def test_headers_are_read_for_people() -> None:
    m = Message(raw_header=HEADER)
    assert m.headers == [("from", "a@example.org"), ("subject", "Grüße one"), ("subject", "two")]
    assert m.subject == "Grüße one"
    assert m.header("FROM") == "a@example.org"
    assert m.header("absent") == ""


def test_hostile_headers_never_raise_and_never_give_control_characters() -> None:
    m = Message(raw_header=b"Subject: a\0b\x07=?utf-8?Q?=0D=0AX=3A_1?=\xff\r\n\r\n")
    assert m.subject.isprintable()
    assert Message(raw_header=b"x: y\r\n" * 100_000).headers == []


def test_body_is_read_when_it_is_asked_for_and_no_further() -> None:
    asked: list[int] = []

    def read(octets: int) -> bytes:
        asked.append(octets)
        return b"Hall\xf6\r\n"

    m = Message(raw_header=b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\n", read_body=read)
    assert asked == []
    assert m.text() == "Hallö\r\n"
    assert m.body(10**9) == b"Hall\xf6\r\n"
    m.body(-5)
    assert asked == [65_536, BODY_MAX, 0]


def test_text_is_the_plain_part_of_several() -> None:
    header = b"Content-Type: multipart/alternative; boundary=b\r\n\r\n"
    body = b"--b\r\nContent-Type: text/html\r\n\r\n<p>\r\n--b\r\nContent-Type: text/plain\r\n\r\nhi\r\n--b--\r\n"
    assert Message(raw_header=header, read_body=lambda octets: body[:octets]).text() == "hi"
    picture = Message(raw_header=b"Content-Type: image/png\r\n\r\n", read_body=lambda octets: b"\x89PNG")
    assert picture.text() == ""


def test_domains_are_in_lower_case() -> None:
    assert Mail(sender="a@Example.ORG").sender_domain == "example.org"
    assert Mail().sender_domain == ""
    assert Rcpt(recipient='"a@b"@Example.org').recipient_domain == "example.org"
