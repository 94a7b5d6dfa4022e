"""Reports of mail that ended undelivered, read back as a mail program and a bounce processor read them."""

from __future__ import annotations

import email
import email.policy
from collections.abc import AsyncIterator
from email.message import EmailMessage
from types import SimpleNamespace
from typing import Any

import pytest

from postroad.flow.bounce import Failure, Reporter, advice, compose, decode_xtext, wants_report
from postroad.flow.lanes import Delivery, Letter
from postroad.flow.local import Plan
from postroad.flow.sign import Signer
from postroad.store.dkim_records import DkimKey
from postroad.store.records import Accept, Leg
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


def failure(recipient: str = "b@x.test", reply: Reply = UNKNOWN, where: str = WHERE, **changes: Any) -> Failure:
    fields = {"notify": "", "orcpt": ""} | {name: changes.pop(name) for name in ("notify", "orcpt") if name in changes}
    delivery = Delivery(letter(), Leg(5, recipient, "x.test", **fields), 1)
    cause = "the recipient was answered 550" if where else "the domain x.test does not exist"
    return Failure(delivery, Outcome(Fate.FAILED, About.RECIPIENT, cause, reply, where), **changes)


def read(message: bytes) -> EmailMessage:
    parsed = email.message_from_bytes(message, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def report(*failures: Failure, of: Letter | None = None) -> EmailMessage:
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
    hostile = Failure(failure().delivery, Outcome(Fate.FAILED, About.BODY, text, Reply(550, "5.7.1", text), WHERE))
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
    assert wants_report(failure(notify=notify).delivery) is wanted


@pytest.mark.parametrize(
    "text, decoded", [("a+2Bb", "a+b"), ("a+b", "a+b"), ("+3D", "="), ("plain", "plain"), ("x+", "x+")]
)
def test_xtext(text: str, decoded: str) -> None:
    assert decode_xtext(text) == decoded


@pytest.mark.parametrize("status", ["5.1.1", "5.2.2", "5.4.4", "5.7.1", "5.9.9", "4.4.7", "5.0.0"])
def test_there_is_always_advice(status: str) -> None:
    assert advice(failure(reply=Reply(550, status, ""))).endswith(".")


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
