"""Reports of what became of mail, read back as a mail program and a bounce processor read them."""

from __future__ import annotations

import email
import email.policy
from collections.abc import AsyncIterator
from email.message import EmailMessage
from types import SimpleNamespace
from typing import Any

import pytest

from postroad.flow.bounce import Reporter
from postroad.flow.dsn import Action, Notice, advice, compose, decode_xtext
from postroad.flow.local import Plan
from postroad.flow.parcels import Letter
from postroad.flow.sign import Signer
from postroad.store.dkim_records import DkimKey
from postroad.store.records import Accept
from postroad.trust.dkim.keys import ALGORITHMS
from postroad.values.address import Address
from postroad.values.event import pack, unpack
from postroad.values.ids import IdMaker, id_text
from postroad.values.outcome import About, Fate, Outcome
from postroad.values.reply import Reply
from tests.fakes.clock import FakeClock
from tests.trust.dkim.pairs import SELECTORS, private
from tests.trust.dkim.test_sign import dkimpy_says

NOW = 1_800_000_000_000_000
HEADER = b"Received: x\r\nFrom: Anna <a@ours.test>\r\nSubject: Offer\r\nMessage-ID: <1@ours.test>\r\n\r\n"
UNKNOWN = Reply(550, "5.1.1", "No such user")
WHERE = "mx.x.test [192.0.2.1]:25"


def letter(**changes: Any) -> Letter:
    fields: dict[str, Any] = {
        "id": IdMaker(1).make(NOW), "received_us": NOW - 3_600_000_000, "sender": "a@ours.test", "header": HEADER,
        "body": b"Hello.\r\n", "body_file": "", "size": 200, "copies": [], "legs": [], "expires_us": NOW + 1,
        "keys": "", "events": b"[]",
    }  # fmt: skip
    made = Accept(**(fields | changes))
    return Letter(made, made.id, header=made.header, body=made.body)


def failure(recipient: str = "b@x.test", reply: Reply = UNKNOWN, where: str = WHERE, **changes: Any) -> Notice:
    cause = "the recipient was answered 550" if where else "the domain x.test does not exist"
    return Notice(Action.FAILED, recipient, Outcome(Fate.FAILED, About.RECIPIENT, cause, reply, where), **changes)


def read(message: bytes) -> EmailMessage:
    parsed = email.message_from_bytes(message, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def report(*failures: Notice, of: Letter | None = None) -> EmailMessage:
    return read(compose(of or letter(), failures or [failure()], IdMaker(1).make(NOW), "mail.ours.test", NOW))


def fields(message: EmailMessage) -> list[EmailMessage]:
    """The groups of the machine-readable part: first of the message, then of each recipient."""
    groups = list(message.iter_parts())[1].get_payload()
    assert isinstance(groups, list)
    return groups  # type: ignore[return-value]


def test_it_is_a_report_of_three_parts_from_nobody_to_the_sender() -> None:
    made = report()
    assert made.get_content_type() == "multipart/report"
    assert made.get_param("report-type") == "delivery-status"
    assert [part.get_content_type() for part in made.iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    assert made["To"] == "a@ours.test"
    assert made["From"] == "Mail Delivery System <mailer-daemon@mail.ours.test>"
    assert made["Auto-Submitted"] == "auto-replied"
    assert made["Message-ID"].endswith("@mail.ours.test>")
    assert made["Subject"] == "Not delivered: your mail to b@x.test"


def test_the_words_say_what_happened_why_and_what_to_do() -> None:
    of = letter()
    text = next(iter(report(of=of).iter_parts())).get_content()
    assert "b@x.test" in text
    assert "What happened: the recipient was answered 550." in text
    assert f"What {WHERE} said:" in text
    assert "550 5.1.1 No such user" in text
    assert "What you can do: Check the spelling of the address" in text
    assert id_text(of.id) in text


def test_the_fields_for_programs() -> None:
    of = letter(envid="QQ+2B314")
    message, recipient = fields(report(failure(orcpt="rfc822;old+2Btag@x.test"), of=of))
    assert message["Reporting-MTA"] == "dns; mail.ours.test"
    assert message["Original-Envelope-Id"] == "QQ+314"
    assert message["X-Postroad-Queue-Id"] == id_text(of.id)
    assert message["Arrival-Date"]
    assert recipient["Original-Recipient"] == "rfc822; old+tag@x.test"
    assert recipient["Final-Recipient"] == "rfc822; b@x.test"
    assert recipient["Action"] == "failed"
    assert recipient["Status"] == "5.1.1"
    assert recipient["Remote-MTA"] == "dns; mx.x.test"
    assert recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 No such user"
    assert recipient["Last-Attempt-Date"]


def test_what_nobody_else_said_names_no_host() -> None:
    _, recipient = fields(report(failure(reply=Reply(550, "5.1.2", "the domain x.test does not exist"), where="")))
    assert recipient["Remote-MTA"] is None
    assert recipient["Diagnostic-Code"] == "x-postroad; the domain x.test does not exist"


def test_an_expired_delivery_says_so_and_repeats_the_last_answer() -> None:
    made = report(failure(reply=Reply(450, "4.2.0", "greylisted"), expired=True))
    assert fields(made)[1]["Status"] == "4.4.7"
    assert fields(made)[1]["Diagnostic-Code"] == "smtp; 450 4.2.0 greylisted"
    text = next(iter(made.iter_parts())).get_content()
    assert "One attempt failed until its time was up; at last: the recipient was answered 550." in text


def test_several_recipients_are_one_report() -> None:
    made = report(failure("b@x.test"), failure("c@x.test"))
    assert made["Subject"] == "Not delivered: your mail to b@x.test and 1 more"
    assert [group["Final-Recipient"] for group in fields(made)[1:]] == ["rfc822; b@x.test", "rfc822; c@x.test"]


def test_the_header_comes_back_and_the_body_when_asked_for_and_small() -> None:
    def last(of: Letter) -> tuple[str, bytes]:
        raw = compose(of, [failure()], IdMaker(1).make(NOW), "mail.ours.test", NOW)
        part = list(read(raw).iter_parts())[2]
        return part.get_content_type(), raw

    kind, raw = last(letter())
    assert kind == "text/rfc822-headers"
    assert HEADER in raw
    assert b"Hello." not in raw
    kind, raw = last(letter(ret="FULL"))
    assert kind == "message/rfc822"
    assert HEADER + b"Hello.\r\n" in raw
    assert last(letter(ret="FULL", body=b"x" * 50_000))[0] == "text/rfc822-headers"
    assert last(letter(ret="FULL", body=None, body_file="big"))[0] == "text/rfc822-headers"


def test_a_header_bomb_is_cut_at_a_line() -> None:
    raw = compose(letter(header=b"X-A: 1\r\n" * 20_000 + b"\r\n"), [failure()], 1, "mail.ours.test", NOW)
    assert len(raw) < 40_000
    assert b"X-A: 1\r\n\r\n" in raw


@pytest.mark.parametrize(
    "text",
    [
        "line\r\nBcc: x@evil.test",
        "nul\0",
        "esc\x1b[31m",
        "\u202egnp",
        "a\u2028b",
        "ü" * 4000,
        "--=_boundary\r\n",
        "x" * 9000,
    ],
)
def test_words_of_a_hostile_host_stay_words(text: str) -> None:
    outcome = Outcome(Fate.FAILED, About.BODY, text, Reply(550, "5.7.1", text), WHERE)
    hostile = Notice(Action.FAILED, "b@x.test", outcome)
    made = report(hostile)
    assert made["Bcc"] is None
    assert len(list(made.iter_parts())) == 3
    assert len(fields(made)) == 2
    assert fields(made)[1]["Bcc"] is None
    assert made.as_bytes().count(b"\0") == 0
    assert all(len(line) < 1000 for line in made.as_bytes().split(b"\n"))


def test_an_address_in_another_script_has_a_type_of_its_own() -> None:
    _, recipient = fields(report(failure("jörg@x.test")))
    assert recipient["Final-Recipient"] == r"utf-8; j\x{F6}rg@x.test"


@pytest.mark.parametrize(
    "notify, wanted",
    [("", True), ("NEVER", False), ("SUCCESS", False), ("FAILURE", True), ("SUCCESS,FAILURE", True), ("DELAY", False)],
)
def test_notify(notify: str, wanted: bool) -> None:
    assert failure(notify=notify).wanted is wanted


@pytest.mark.parametrize(
    "text, decoded", [("a+2Bb", "a+b"), ("a+b", "a+b"), ("+3D", "="), ("plain", "plain"), ("x+", "x+")]
)
def test_xtext(text: str, decoded: str) -> None:
    assert decode_xtext(text) == decoded


@pytest.mark.parametrize("status", ["5.1.1", "5.2.2", "5.4.4", "5.7.1", "5.9.9", "4.4.7", "5.0.0"])
def test_there_is_always_advice(status: str) -> None:
    assert advice(failure(reply=Reply(550, status, ""))).endswith(".")


def test_advice_for_mail_that_requires_tls() -> None:
    """RFC 8689 section 4.2.1: 5.7.10 stands for a host without STARTTLS or without a certificate that counts."""
    for status in ("5.7.10", "5.7.30"):
        assert "without requiring TLS" in advice(failure(reply=Reply(550, status, "")))


def notice(action: Action, recipient: str = "b@x.test", **changes: Any) -> Notice:
    fate = {Action.FAILED: Fate.FAILED, Action.DELAYED: Fate.DEFERRED}.get(action, Fate.DELIVERED)
    reply = {Fate.FAILED: UNKNOWN, Fate.DEFERRED: Reply(450, "4.2.0", "greylisted")}.get(
        fate, Reply(250, "2.1.5", "ok")
    )
    fields = {"notify": "SUCCESS,FAILURE,DELAY"} | changes
    return Notice(action, recipient, Outcome(fate, About.RECIPIENT, "its cause", reply, WHERE), **fields)


@pytest.mark.parametrize(
    "action, status, subject, words",
    [
        (Action.FAILED, "5.1.1", "Not delivered: your mail to b@x.test", "We have stopped trying."),
        (Action.DELAYED, "4.2.0", "Delayed, still trying: your mail to b@x.test", "You need not send it again"),
        (Action.EXPANDED, "2.1.5", "Passed on to a list of recipients: your mail to b@x.test", "only of failures"),
        (Action.RELAYED, "2.1.5", "Handed on to another system: your mail to b@x.test", f"Taken over by {WHERE}"),
        (Action.DELIVERED, "2.1.5", "Delivered: your mail to b@x.test", "is in the mailbox of its recipient."),
    ],
)
def test_each_action_has_its_words(action: Action, status: str, subject: str, words: str) -> None:
    made = report(notice(action, until_us=NOW + 1))
    assert made["Subject"] == subject
    assert made["Auto-Submitted"] == "auto-replied"
    assert words in next(iter(made.iter_parts())).get_content()
    _, recipient = fields(made)
    assert (recipient["Action"], recipient["Status"]) == (action.value, status)
    assert bool(recipient["Will-Retry-Until"]) == (action is Action.DELAYED)


@pytest.mark.parametrize(
    "action, words",
    [
        (Action.FAILED, {"", "FAILURE", "SUCCESS,FAILURE,DELAY"}),
        (Action.DELAYED, {"", "DELAY", "SUCCESS,FAILURE,DELAY"}),
        (Action.EXPANDED, {"SUCCESS", "SUCCESS,FAILURE,DELAY"}),
        (Action.RELAYED, {"SUCCESS", "SUCCESS,FAILURE,DELAY"}),
        (Action.DELIVERED, {"SUCCESS", "SUCCESS,FAILURE,DELAY"}),
    ],
)
def test_who_wants_to_hear_what(action: Action, words: set[str]) -> None:
    """RFC 3461 sections 5.2.2, 5.2.3, 5.2.5 and 5.2.6."""
    given = ("", "NEVER", "SUCCESS", "FAILURE", "DELAY", "SUCCESS,FAILURE,DELAY")
    assert {notify for notify in given if notice(action, notify=notify).wanted} == words


def test_the_worst_comes_first_and_every_recipient_has_a_group() -> None:
    made = report(notice(Action.DELIVERED, "d@x.test"), notice(Action.DELAYED, "l@x.test"), notice(Action.FAILED))
    assert made["Subject"] == "Not delivered: your mail to b@x.test and 2 more"
    assert [group["Action"] for group in fields(made)[1:]] == ["failed", "delayed", "delivered"]


@pytest.mark.parametrize(
    "action, said, status",
    [
        (Action.DELAYED, Reply(450, "5.1.1", "odd"), "4.0.0"),
        (Action.FAILED, Reply(550, "4.2.0", "odd"), "5.0.0"),
        (Action.RELAYED, Reply(250, "", "ok"), "2.0.0"),
    ],
)
def test_the_status_is_of_the_class_of_the_action(action: Action, said: Reply, status: str) -> None:
    fate = Fate.DELIVERED if action is Action.RELAYED else Fate.FAILED
    made = report(Notice(action, "b@x.test", Outcome(fate, About.RECIPIENT, "x", said, WHERE)))
    assert fields(made)[1]["Status"] == status


def test_only_a_failure_brings_the_message_back() -> None:
    """RFC 3461 section 6.2."""
    of = letter(ret="FULL")
    for action in Action:
        kinds = [part.get_content_type() for part in report(notice(action), of=of).iter_parts()]
        assert (kinds[2] == "message/rfc822") == (action is Action.FAILED)
    assert (
        list(report(notice(Action.DELIVERED), failure(), of=of).iter_parts())[2].get_content_type() == "message/rfc822"
    )


# -- addresses and headers beyond ASCII (RFC 6533) ---------------------------------------------------------------------


def status_lines(*notices: Notice, of: Letter) -> tuple[str, list[str]]:
    """Type and lines of the machine-readable part."""
    part = list(report(*notices, of=of).iter_parts())[1]
    raw = part.as_bytes().decode()
    return part.get_content_type(), raw.replace("\r\n", "\n").split("\n")


UTF8_HEADER = "Subject: Grüße\r\n\r\n".encode()


def test_a_sender_who_uses_smtputf8_reads_addresses_as_they_are() -> None:
    told = failure("jörg@x.test", orcpt=r"utf-8;j\x{F6}rg+2Bx@old.test")
    kind, lines = status_lines(told, of=letter(smtputf8=True))
    assert kind == "message/global-delivery-status"
    assert "Final-Recipient: utf-8; jörg@x.test" in lines


@pytest.mark.parametrize("orcpt", ["utf-8;jörg@x", r"utf-8;j\x{F6}rg@x", r"UTF-8;j\x{f6}rg@x"])
def test_an_original_recipient_in_either_form_fits_the_reader(orcpt: str) -> None:
    _, lines = status_lines(failure(orcpt=orcpt), of=letter())
    assert any(line.lower() == r"original-recipient: utf-8; j\x{f6}rg@x" for line in lines)
    _, lines = status_lines(failure(orcpt=orcpt), of=letter(smtputf8=True))
    assert any(line.lower() == "original-recipient: utf-8; jörg@x" for line in lines)


def test_ascii_is_enough_where_nothing_needs_more() -> None:
    kind, _ = status_lines(failure(orcpt="rfc822;b@x.test"), of=letter(smtputf8=True))
    assert kind == "message/delivery-status"


@pytest.mark.parametrize("ret, kind", [("HDRS", "message/global-headers"), ("FULL", "message/global")])
def test_header_fields_in_utf8_come_back_under_their_own_type(ret: str, kind: str) -> None:
    part = list(report(of=letter(smtputf8=True, header=UTF8_HEADER, ret=ret)).iter_parts())[2]
    assert part.get_content_type() == kind


@pytest.mark.parametrize(
    "orcpt", ["rfc822;a\r\nBcc: x", r"utf-8;a\x{0D}\x{0A}Bcc:\x{20}x", "utf-8;\u2028x", r"utf-8;\x{D800}"]
)
@pytest.mark.parametrize("utf8", [False, True])
def test_an_original_recipient_begins_no_field(orcpt: str, utf8: bool) -> None:
    made = report(failure(orcpt=orcpt), of=letter(smtputf8=utf8))
    assert b"\nBcc" not in made.as_bytes()


def test_a_broken_header_comes_back_in_ascii() -> None:
    """RFC 6522 section 4: a host without 8BITMIME takes the report."""
    header = b"Subject: Gr\xfc\xdfe\r\nX: a=b\r\n\r\n"
    raw = compose(letter(header=header), [failure()], IdMaker(1).make(NOW), "mail.ours.test", NOW)
    assert raw.isascii()
    part = list(read(raw).iter_parts())[2]
    assert part.get_content_type() == "text/rfc822-headers"
    assert part.get_payload(decode=True) == header


async def accepted(plan: Plan, signer: Signer | None = None, **changes: Any) -> Accept | str:
    async def plan_for(address: Address) -> Plan:
        return plan

    reporter = Reporter(
        hostname="mail.ours.test",
        plan_for=plan_for,
        ids=IdMaker(1),
        lifetime_s=60.0,
        note=lambda ident, events: pack(list(events)),
        signer=signer,
    )
    return await reporter.report(letter(**changes), [failure()], NOW)


async def test_a_sender_here_gets_a_copy_into_the_mailbox() -> None:
    made = await accepted(Plan(copies=[(3, "INBOX", "a@ours.test")]))
    assert isinstance(made, Accept)
    [copy] = made.copies
    assert (copy.account, copy.mailbox, copy.recipient) == (3, "INBOX", "a@ours.test")
    assert copy.prefix == b"Return-Path: <>\r\nDelivered-To: a@ours.test\r\n"
    assert made.legs == []
    assert made.sender == ""
    assert made.header.endswith(b"\r\n\r\n")
    assert made.body is not None
    assert made.size == len(made.header) + len(made.body)
    assert made.keys.split("\n")[1] == "a@ours.test"


async def test_a_sender_elsewhere_gets_mail() -> None:
    made = await accepted(Plan(remotes=[Address.parse("a@far.test")]))
    assert isinstance(made, Accept)
    [leg] = made.legs
    assert (leg.recipient, leg.domain, leg.due_us, leg.owner) == ("a@far.test", "far.test", NOW, 0)
    assert made.expires_us == NOW + 60_000_000


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_report_is_signed_by_the_domain_of_the_host() -> None:
    """The report comes from mailer-daemon@mail.ours.test, and ours.test is served here."""

    async def keys_of(author: str) -> tuple[str, list[DkimKey]]:
        assert author == "mail.ours.test"
        return "ours.test", [DkimKey(SELECTORS[alg], alg, private(alg)) for alg in ALGORITHMS]

    async def read(body_file: str) -> AsyncIterator[bytes]:
        raise AssertionError("a report is in memory")
        yield b""

    signer = Signer(
        keys_of, SimpleNamespace(read=read), FakeClock(1_790_000_000_000_000)
    )  # dkimpy wants no signature from the future
    assert await signer.signs_for("Mail.ours.test")
    made = await accepted(Plan(remotes=[Address.parse("a@far.test")]), signer)
    assert isinstance(made, Accept)
    assert made.body is not None
    message = made.legs[0].prefix + made.header + made.body
    assert [dkimpy_says(message, number, "ours.test") for number in (0, 1)] == [True, True]
    assert [event.kind for event in unpack(made.events)] == ["received", "signed", "queued"]


@pytest.mark.parametrize(
    "plan, changes, why",
    [
        (Plan(), {"sender": ""}, "double bounce"),
        (Plan(refusal=Reply(550, "5.1.1", "No mailbox")), {}, "double bounce"),
        (Plan(), {"sender": "not an address"}, "cannot be written to"),
    ],
)
async def test_when_there_is_no_report(plan: Plan, changes: dict[str, Any], why: str) -> None:
    made = await accepted(plan, **changes)
    assert isinstance(made, str)
    assert why in made
