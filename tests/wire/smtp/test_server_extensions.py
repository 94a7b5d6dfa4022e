"""What dialogs cannot say of BINARYMIME, FUTURERELEASE, XCLIENT and LMTP: events, and what the driver does wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.values.reply import Reply
from postroad.wire.smtp import events
from postroad.wire.smtp.extensions import LMTP, MX, SUBMISSIONS, Door
from postroad.wire.smtp.grammar import CommandError
from postroad.wire.smtp.limits import MachineLimits
from postroad.wire.smtp.mode import Mode
from postroad.wire.smtp.release import take_release, utc_text
from postroad.wire.smtp.server import ServerMachine
from postroad.wire.smtp.xclient import read_xclient

OK = Reply(250, "2.0.0", "Ok")
NOW_US = 1_795_760_285_000_000
"""2026-11-27T06:18:05Z."""
DAY_US = 86_400_000_000


def opened(door: Door, limits: MachineLimits | None = None) -> ServerMachine:
    """A machine behind its greeting and one EHLO or LHLO."""
    machine = ServerMachine(hostname="mx.test", door=door, limits=limits, wall_us=lambda: NOW_US)
    machine.greet(Reply(220, "", "mx.test"))
    ask(machine, b"LHLO c\r\n" if door.lmtp else b"EHLO c\r\n", events.Hello)
    machine.answer(Reply(250, "", ""))
    machine.take_output()
    return machine


def ask(machine: ServerMachine, octets: bytes, kind: type[Any]) -> Any:
    machine.receive(octets)
    event = machine.next_event()
    assert type(event) is kind
    return event


def in_transaction(door: Door, recipients: int = 1, limits: MachineLimits | None = None) -> ServerMachine:
    machine = opened(door, limits)
    ask(machine, b"MAIL FROM:<a@x.test>\r\n", events.Mail)
    machine.answer(OK)
    for _ in range(recipients):
        ask(machine, b"RCPT TO:<b@x.test>\r\n", events.Rcpt)
        machine.answer(OK)
    machine.take_output()
    return machine


# -- BINARYMIME -----------------------------------------------------------------------------------------------------


def test_mail_says_that_its_content_is_binary() -> None:
    machine = opened(replace(MX, binarymime=True))
    mail = ask(machine, b"MAIL FROM:<a@x.test> body=BinaryMime\r\n", events.Mail)
    assert mail.params.body == "BINARYMIME"


@given(st.binary(max_size=60), st.integers(0, 60))
def test_binary_content_arrives_as_it_was_sent(content: bytes, cut: int) -> None:
    machine = opened(replace(MX, binarymime=True), MachineLimits(content_line=2))
    ask(machine, b"MAIL FROM:<a@x.test> BODY=BINARYMIME\r\n", events.Mail)
    machine.answer(OK)
    ask(machine, b"RCPT TO:<b@x.test>\r\n", events.Rcpt)
    machine.answer(OK)
    octets = b"BDAT %d LAST\r\n" % len(content) + content
    seen: list[events.Event] = []
    for piece in (octets[:cut], octets[cut:]):
        machine.receive(piece)
        while (event := machine.next_event()) is not None:
            seen.append(event)
    assert b"".join(event.chunk for event in seen if isinstance(event, events.Content)) == content
    assert seen[-1] == events.ContentEnd(len(content))


# -- FUTURERELEASE --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "moment"),
    [
        ({}, 0),
        ({"HOLDFOR": "1"}, NOW_US + 1_000_000),
        ({"HOLDFOR": "86400"}, NOW_US + DAY_US),
        ({"HOLDUNTIL": "2026-11-27T06:18:06Z"}, NOW_US + 1_000_000),
        ({"HOLDUNTIL": "2026-11-27t06:18:05.000001z"}, NOW_US + 1),
        ({"HOLDUNTIL": "2026-11-27T06:18:05.9999999Z"}, NOW_US + 999_999),
        ({"HOLDUNTIL": "2026-11-28T05:18:05-01:00"}, NOW_US + DAY_US),
        ({"HOLDUNTIL": "2026-11-27T12:00:00+05:30"}, NOW_US + 715_000_000),
        ({"HOLDUNTIL": "2026-11-27T23:59:60Z"}, NOW_US + 63_714_000_000),
    ],
)
def test_moments_of_release(given_: dict[str, str], moment: int) -> None:
    assert take_release(given_, 86_400, NOW_US) == moment
    assert not given_


@pytest.mark.parametrize(
    "given_",
    [
        {"HOLDFOR": "1", "HOLDUNTIL": "2026-11-27T12:00:00Z"},
        *({"HOLDFOR": text} for text in ("", "0", "01", "-1", "+1", "1.5", "86401", "1000000000", "9" * 40, "٣")),
        *(
            {"HOLDUNTIL": text}
            for text in (
                "",
                "2026-11-27T06:18:05Z",
                "2026-11-28T06:18:05.000001Z",
                "1970-01-01T00:00:00Z",
                "9999-12-31T23:59:59Z",
                "0000-01-01T00:00:00Z",
                "0001-01-01T00:00:00+23:59",
                "2026-11-27T24:00:00Z",
                "2026-13-27T12:00:00Z",
                "2026-11-31T12:00:00Z",
                "2026-11-27T12:00:61Z",
                "2026-11-27T12:00Z",
                "2026-11-27T12:00:00",
                "2026-11-27T12:00:00+0100",
                "2026-11-27T12:00:00+24:00",
                "2026-11-27 12:00:00Z",
                "20261127T120000Z",
                "tomorrow",
            )
        ),
    ],
)
def test_s57_moments_that_are_refused(given_: dict[str, str]) -> None:
    with pytest.raises(CommandError) as caught:
        take_release(given_, 86_400, NOW_US)
    assert (caught.value.reply.code, caught.value.reply.enhanced) == (501, "5.5.4")


@given(st.integers(0, 200_000_000_000))
def test_what_is_announced_is_read_back(seconds: int) -> None:
    text = utc_text(seconds)
    assert take_release({"HOLDUNTIL": text}, 10, seconds * 1_000_000 - 1) == seconds * 1_000_000


def test_mail_says_until_when_it_is_held() -> None:
    machine = opened(replace(SUBMISSIONS, future_release_s=86_400))
    mail = ask(machine, b"MAIL FROM:<a@x.test> HOLDFOR=60\r\n", events.Mail)
    assert mail.params.hold_until_us == NOW_US + 60_000_000


def test_a_door_that_holds_needs_a_clock() -> None:
    with pytest.raises(ValueError, match="clock"):
        ServerMachine(hostname="mx.test", door=replace(SUBMISSIONS, future_release_s=1))


def test_the_latest_moment_moves_with_the_clock() -> None:
    now = [NOW_US]
    door = replace(SUBMISSIONS, future_release_s=60)
    machine = ServerMachine(hostname="mx.test", door=door, wall_us=lambda: now[0])
    machine.greet(Reply(220, "", "mx.test"))
    said = []
    for now[0] in (NOW_US, NOW_US + 10_000_000, NOW_US + 60_000_000):
        ask(machine, b"EHLO c\r\n", events.Hello)
        machine.answer(Reply(250, "", ""))
        said += [line for line in machine.take_output().split(b"\r\n") if b"FUTURERELEASE" in line]
    assert said == [
        b"250-FUTURERELEASE 60 2026-11-27T06:19:00Z",
        b"250-FUTURERELEASE 60 2026-11-27T06:19:00Z",
        b"250-FUTURERELEASE 60 2026-11-27T06:20:00Z",
    ]


# -- XCLIENT --------------------------------------------------------------------------------------------------------


def test_xclient_carries_what_was_said() -> None:
    said = read_xclient(
        b"XCLIENT NAME=Spike.example.org ADDR=IPV6:2001:DB8:0::1 PORT=4000 PROTO=esmtp HELO=[IPv6:::1] "
        b"LOGIN=anna+2Bx+40example.org DESTADDR=192.0.2.1 DESTPORT=25"
    )
    assert said == events.XClient(
        name="Spike.example.org",
        address="2001:db8::1",
        port=4000,
        protocol="ESMTP",
        helo="[IPv6:::1]",
        login="anna+x@example.org",
        local_address="192.0.2.1",
        local_port=25,
    )


def test_xclient_tells_unavailable_from_not_said() -> None:
    assert read_xclient(b"XCLIENT PROTO=SMTP") == events.XClient(protocol="SMTP")
    gone = b"[unavailable]"
    line = b"XCLIENT NAME=%b ADDR=%b PORT=%b HELO=%b LOGIN=%b DESTADDR=%b DESTPORT=%b" % ((gone,) * 7)
    assert read_xclient(line) == events.XClient("", False, "", 0, None, "", "", "", 0)
    assert read_xclient(b"XCLIENT NAME=[TempUnavail]") == events.XClient(name="", name_later=True)


@given(st.binary(max_size=80))
def test_any_xclient_line_is_read_or_refused(octets: bytes) -> None:
    try:
        said = read_xclient(b"XCLIENT " + octets)
    except CommandError as error:
        refused = error.reply.code
    else:
        refused = 0
        assert not set("\r\n\0") & set(f"{said.name}{said.helo}{said.login}")
    assert refused in (0, 501)


def test_s66_xclient_answered_by_421_closes_and_by_550_changes_nothing() -> None:
    machine = opened(replace(SUBMISSIONS, xclient=True))
    machine.authenticated("anna")
    ask(machine, b"XCLIENT ADDR=192.0.2.1\r\n", events.XClient)
    machine.answer(Reply(550, "5.7.0", "Not you"))
    assert machine.authenticated_as == "anna"
    ask(machine, b"MAIL FROM:<a@x.test>\r\n", events.Mail)
    machine.answer(Reply(450, "4.7.1", "Later"))
    ask(machine, b"XCLIENT ADDR=192.0.2.1\r\n", events.XClient)
    machine.answer(Reply(421, "4.7.0", "Too many"))
    assert machine.closed


# -- LMTP -----------------------------------------------------------------------------------------------------------


def test_each_recipient_has_its_own_reply() -> None:
    machine = in_transaction(LMTP, 2)
    ask(machine, b"BDAT 0 LAST\r\n", events.ContentEnd)
    assert machine.accepted_recipients == 2
    machine.answer_all([Reply(452, "4.2.2", "Full"), OK])
    assert machine.take_output() == b"452 4.2.2 Full\r\n250 2.0.0 Ok\r\n"
    assert machine.accepted_recipients == 0


def test_one_answer_is_said_to_every_recipient() -> None:
    machine = in_transaction(LMTP, 3)
    ask(machine, b"BDAT 0 LAST\r\n", events.ContentEnd)
    machine.answer(OK)
    assert machine.take_output() == b"250 2.0.0 Ok\r\n" * 3


def test_a_421_among_the_replies_closes_behind_them() -> None:
    machine = in_transaction(LMTP, 2)
    ask(machine, b"BDAT 0 LAST\r\n", events.ContentEnd)
    machine.answer_all([OK, Reply(421, "4.3.0", "Gone")])
    assert machine.take_output() == b"250 2.0.0 Ok\r\n421 4.3.0 Gone\r\n"
    assert machine.closed
    assert isinstance(machine.next_event(), events.EndOfStream)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_replies_as_recipients(count: int) -> None:
    machine = in_transaction(LMTP, 2)
    ask(machine, b"BDAT 0 LAST\r\n", events.ContentEnd)
    with pytest.raises(RuntimeError):
        machine.answer_all([OK] * count)
    machine.answer_all([OK] * 2)


def test_only_the_content_of_lmtp_is_answered_for_each() -> None:
    machine = in_transaction(MX)
    ask(machine, b"BDAT 0 LAST\r\n", events.ContentEnd)
    with pytest.raises(RuntimeError):
        machine.answer_all([OK])
    machine = in_transaction(LMTP)
    ask(machine, b"BDAT 0\r\n", events.ChunkEnd)
    with pytest.raises(RuntimeError):
        machine.answer_all([OK])


def test_content_refused_for_many_recipients_is_one_error() -> None:
    machine = in_transaction(LMTP, 30, MachineLimits(errors=2))
    ask(machine, b"BDAT 0 LAST\r\n", events.ContentEnd)
    machine.answer_all([Reply(550, "5.7.1", "No")] * 30)
    ask(machine, b"NOOP\r\n", events.Noop)


def test_chunks_for_nobody_leave_nothing_with_the_driver() -> None:
    machine = opened(LMTP)
    ask(machine, b"MAIL FROM:<a@x.test>\r\n", events.Mail)
    machine.answer(OK)
    machine.take_output()
    refused = ask(machine, b"BDAT 3 LAST\r\nabc", events.ContentRefused)
    assert refused.reply.code == 503
    assert machine.take_output() == b""


# -- TLS ------------------------------------------------------------------------------------------------------------


def test_s42_a_handshake_that_is_given_up_leaves_nothing() -> None:
    """The machine waits 30 s, reads nothing meanwhile, and ends once, whether the peer closes or the driver does."""
    for give_up in (ServerMachine.receive_eof, lambda machine: machine.close_with(Reply(421, "4.4.2", "Timeout"))):
        machine = opened(MX)
        ask(machine, b"STARTTLS\r\n", events.StartTls)
        machine.answer(Reply(220, "2.0.0", "Go ahead"))
        assert (machine.mode, machine.patience) == (Mode.HANDSHAKE, 30.0)
        machine.receive(b"NOOP\r\n")
        assert machine.next_event() is None
        give_up(machine)
        assert isinstance(machine.next_event(), events.EndOfStream)
        assert machine.next_event() is None
        assert machine.closed
        assert machine._lines.unread == 0


# -- REQUIRETLS -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", [MX, SUBMISSIONS])
def test_requiretls_is_told_with_mail(door: Door) -> None:
    """RFC 8689 section 4.1."""
    machine = ServerMachine(hostname="mx.test", door=door, wall_us=lambda: NOW_US)
    machine.tls = True
    machine.greet(Reply(220, "", "mx.test"))
    ask(machine, b"EHLO c\r\n", events.Hello)
    machine.answer(Reply(250, "", ""))
    assert b"250-REQUIRETLS\r\n" in machine.take_output()
    assert ask(machine, b"MAIL FROM:<a@x.test> REQUIRETLS\r\n", events.Mail).params.requiretls
