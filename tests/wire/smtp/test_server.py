"""The server machine beyond what dialogs can say: what events carry, limits in octets, and any octets at all."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad.values.address import Address
from postroad.values.reply import Reply
from postroad.wire.data import stuff
from postroad.wire.smtp import events
from postroad.wire.smtp.extensions import LMTP, MX, SUBMISSION, SUBMISSIONS, Door
from postroad.wire.smtp.limits import MachineLimits
from postroad.wire.smtp.mode import Mode
from postroad.wire.smtp.server import ServerMachine
from tests.dialogs.runner import NOW_US, FakeSession
from tests.testdata import testdata

OK = Reply(250, "2.0.0", "Ok")
GO = Reply(354, "", "Go ahead")


def opened(door: Door = MX, limits: MachineLimits | None = None) -> ServerMachine:
    """A machine behind its greeting and one EHLO."""
    machine = ServerMachine(hostname="mx.test", door=door, limits=limits)
    machine.greet(Reply(220, "", "mx.test ESMTP"))
    ask(machine, b"EHLO client.test\r\n", events.Hello)
    machine.answer(Reply(250, "", ""))
    machine.take_output()
    return machine


def ask(machine: ServerMachine, octets: bytes, kind: type[Any]) -> Any:
    """The one event that octets lead to."""
    machine.receive(octets)
    event = machine.next_event()
    assert type(event) is kind
    return event


def in_data(limits: MachineLimits | None = None) -> ServerMachine:
    """A machine that has said 354."""
    machine = opened(limits=limits)
    for line, kind, reply in (
        (b"MAIL FROM:<a@x.test>\r\n", events.Mail, OK),
        (b"RCPT TO:<b@x.test>\r\n", events.Rcpt, OK),
        (b"DATA\r\n", events.DataStart, GO),
    ):
        ask(machine, line, kind)
        machine.answer(reply)
    machine.take_output()
    return machine


def test_mail_carries_its_parameters() -> None:
    machine = opened()
    line = "MAIL FROM:<ä@bücher.example> SIZE=12 BODY=8BITMIME SMTPUTF8 AUTH=a+40b RET=FULL ENVID=q+2B1\r\n".encode()
    mail = ask(machine, line, events.Mail)
    assert mail.sender == Address("ä", "bücher.example")
    assert mail.params == events.MailParams(12, "8BITMIME", True, "a@b", "FULL", "q+2B1")


def test_rcpt_carries_its_parameters() -> None:
    machine = opened()
    ask(machine, b"MAIL FROM:<>\r\n", events.Mail)
    machine.answer(OK)
    rcpt = ask(machine, b"RCPT TO:<b@x.test> NOTIFY=failure,delay ORCPT=rfc822;b+40x\r\n", events.Rcpt)
    assert rcpt.address == Address("b", "x.test")
    assert rcpt.params == events.RcptParams("FAILURE,DELAY", "rfc822;b+40x")


def test_s68_postmaster_without_a_domain_is_ours() -> None:
    machine = opened()
    ask(machine, b"MAIL FROM:<>\r\n", events.Mail)
    machine.answer(OK)
    rcpt = ask(machine, b"RCPT TO:<POSTmaster>\r\n", events.Rcpt)
    assert rcpt.bare_postmaster
    assert rcpt.address == Address("postmaster", "mx.test")


@pytest.mark.parametrize("line", [b"MAIL FROM:<@a.test,@b.test:u@x.test>\r\n", b"MAIL FROM: <u@x.test>\r\n"])
def test_s22_routes_are_dropped_and_one_space_is_borne(line: bytes) -> None:
    assert ask(opened(), line, events.Mail).sender == Address("u", "x.test")


def test_hello_and_its_kin_carry_text() -> None:
    machine = ServerMachine(hostname="mx.test", door=MX)
    machine.greet(Reply(220, "", "mx.test"))
    hello = ask(machine, b"helo [192.0.2.1]\r\n", events.Hello)
    assert (hello.verb, hello.name) == ("HELO", "[192.0.2.1]")
    machine.answer(Reply(250, "", "welcome"))
    assert machine.take_output() == b"220 mx.test\r\n250 mx.test welcome\r\n"
    assert ask(machine, b"EXPN list\r\n", events.Verify) == events.Verify("EXPN", "list")
    machine.answer(OK)
    assert ask(machine, b"HELP mail\r\n", events.Help) == events.Help("mail")


def test_one_command_is_open_at_a_time() -> None:
    machine = opened()
    ask(machine, b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\n", events.Mail)
    assert machine.next_event() is None
    assert machine.take_output() == b""
    machine.answer(OK)
    assert isinstance(machine.next_event(), events.Rcpt)
    machine.answer(Reply(450, "4.2.1", "Later"))
    assert machine.take_output() == b"250 2.0.0 Ok\r\n450 4.2.1 Later\r\n"
    with pytest.raises(RuntimeError):
        machine.answer(OK)


def test_what_waits_behind_an_open_command_is_bounded() -> None:
    machine = opened(limits=MachineLimits(unread=100))
    ask(machine, b"NOOP\r\n" * 10, events.Noop)
    assert machine.wants_input
    machine.receive(b"NOOP\r\n" * 10)
    assert not machine.wants_input


def test_s14_octets_that_come_between_data_and_its_answer_close() -> None:
    machine = opened()
    ask(machine, b"MAIL FROM:<a@x.test>\r\n", events.Mail)
    machine.answer(OK)
    ask(machine, b"RCPT TO:<b@x.test>\r\n", events.Rcpt)
    machine.answer(OK)
    ask(machine, b"DATA\r\n", events.DataStart)
    machine.take_output()
    machine.receive(b"RSET\r\n")
    machine.answer(GO)
    assert machine.take_output().startswith(b"554 5.5.0 ")
    assert machine.closed
    end = machine.next_event()
    assert isinstance(end, events.EndOfStream)
    assert end.why == "pipelined behind DATA"


def test_s40_octets_that_come_between_starttls_and_its_answer_close() -> None:
    """Class E3: nothing that came before TLS is read as if TLS had carried it."""
    machine = opened()
    ask(machine, b"STARTTLS\r\n", events.StartTls)
    machine.receive(b"RSET\r\n")
    machine.answer(Reply(220, "2.0.0", "Go ahead"))
    assert machine.take_output().startswith(b"554 5.5.0 ")
    assert machine.closed


def test_s41_the_handshake_forgets_everything() -> None:
    machine = opened(SUBMISSION)
    ask(machine, b"STARTTLS\r\n", events.StartTls)
    machine.answer(Reply(220, "2.0.0", "Go ahead"))
    assert (machine.mode, machine.patience) == (Mode.HANDSHAKE, 30.0)
    machine.tls_started()
    assert machine.tls
    ask(machine, b"EHLO again.test\r\n", events.Hello)
    machine.answer(Reply(250, "", ""))
    assert b"250-AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN\r\n" in machine.take_output()


def test_starttls_may_be_unavailable() -> None:
    machine = opened()
    ask(machine, b"STARTTLS\r\n", events.StartTls)
    machine.answer(Reply(454, "4.7.0", "TLS not available"))
    ask(machine, b"MAIL FROM:<a@x.test>\r\n", events.Mail)


@pytest.mark.parametrize(
    "door, refusal",
    [(Door("submission", starttls=True, must_tls=True), b"530 5.7.0 "), (Door("x", must_auth=True), b"530 5.7.0 ")],
)
def test_doors_that_want_more_first(door: Door, refusal: bytes) -> None:
    machine = opened(door)
    machine.receive(b"MAIL FROM:<a@x.test>\r\n")
    assert machine.next_event() is None
    assert machine.take_output().startswith(refusal)


def test_a_login_is_kept_and_235_needs_one() -> None:
    machine = opened(SUBMISSIONS)
    login = base64.b64encode(b"\0user\0secret")
    auth = ask(machine, b"AUTH PLAIN " + login + b"\r\n", events.Auth)
    assert (auth.mechanism, auth.initial) == ("PLAIN", b"\0user\0secret")
    assert "secret" not in repr(auth)
    machine.authenticated("user")
    machine.answer(Reply(235, "2.7.0", "Ok"))
    assert machine.authenticated_as == "user"
    machine = opened(SUBMISSIONS)
    ask(machine, b"AUTH PLAIN " + login + b"\r\n", events.Auth)
    with pytest.raises(RuntimeError):
        machine.answer(Reply(235, "2.7.0", "Ok"))


def test_refusals_are_kept_without_secrets() -> None:
    machine = opened(SUBMISSION)
    machine.receive(b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\nAHVzZXIAc2VjcmV0\r\nRCPT TO:<x>\r\n")
    assert machine.next_event() is None
    kept = [(line, reply.code) for line, reply in machine.refusals]
    assert kept == [(b"AUTH", 538), (b"?", 500), (b"RCPT TO:<x>", 503)]
    machine = opened(SUBMISSIONS)
    ask(machine, b"AUTH PLAIN\r\n", events.Auth)
    machine.answer(Reply(334, "", ""))
    machine.receive(b"AHVzZXIAc2VjcmV0\0\r\n")
    assert isinstance(machine.next_event(), events.EndOfStream)
    assert [line for line, _ in machine.refusals] == [b"AUTH"]


@pytest.mark.parametrize("code, over", [(220, False), (554, False), (421, True), (521, True)])
def test_greetings(code: int, over: bool) -> None:
    machine = ServerMachine(hostname="mx.test", door=MX)
    machine.greet(Reply(code, "", "mx.test"))
    assert machine.closed is over


def test_after_554_at_the_greeting_only_quit_is_left() -> None:
    machine = ServerMachine(hostname="mx.test", door=MX)
    machine.greet(Reply(554, "5.7.1", "Go away"))
    machine.receive(b"EHLO x\r\nSTARTTLS\r\nQUIT\r\n")
    assert isinstance(machine.next_event(), events.Quit)
    machine.answer(Reply(221, "2.0.0", "Bye"))
    assert [line[:4] for line in machine.take_output().split(b"\r\n")] == [b"554 ", b"503 ", b"503 ", b"221 ", b""]


def test_the_driver_closes_with_421() -> None:
    machine = opened()
    ask(machine, b"MAIL FROM:<a@x.test>\r\n", events.Mail)
    machine.answer(Reply(421, "4.3.2", "Shutting down"))
    assert machine.closed
    assert isinstance(machine.next_event(), events.EndOfStream)
    assert machine.next_event() is None
    machine.receive(b"NOOP\r\n")
    assert machine.next_event() is None


@pytest.mark.parametrize("octets", [b"NOOP\r\n", b"half a command", b""])
def test_the_driver_closes_without_a_command(octets: bytes) -> None:
    machine = opened()
    machine.receive(octets)
    machine.next_event()
    machine.close_with(Reply(421, "4.4.2", "Timeout"))
    machine.close_with(Reply(421, "4.4.2", "Timeout"))
    assert machine.take_output() == b"421 4.4.2 Timeout\r\n"
    assert isinstance(machine.next_event(), events.EndOfStream)
    assert machine.next_event() is None


def test_closing_voids_content_that_was_not_yet_looked_at() -> None:
    machine = in_data()
    machine.receive(b"x\r\n.\r\n")
    assert isinstance(machine.next_event(), events.Content)
    machine.close_with(Reply(421, "4.4.2", "Timeout"))
    assert isinstance(machine.next_event(), events.EndOfStream)
    assert machine.next_event() is None


def test_a_refused_data_ends_the_transaction() -> None:
    machine = opened()
    session = FakeSession(machine)
    machine.receive(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\n")
    session.run()
    ask(machine, b"DATA\r\n", events.DataStart)
    machine.answer(Reply(451, "4.3.0", "Not now"))
    machine.take_output()
    machine.receive(b"DATA\r\n")
    assert machine.next_event() is None
    assert machine.take_output().startswith(b"503 5.5.1 ")


def test_content_streams_and_counts() -> None:
    machine = in_data()
    machine.receive(b"one\r\n..two\r\nthr")
    content = machine.next_event()
    assert isinstance(content, events.Content)
    assert machine.next_event() is None
    machine.receive(b"ee\r\n.\r\nNOOP\r\n")
    more = machine.next_event()
    assert isinstance(more, events.Content)
    assert content.chunk + more.chunk == b"one\r\n.two\r\nthree\r\n"
    assert machine.next_event() == events.ContentEnd(18)
    assert machine.next_event() is None
    machine.answer(OK)
    assert isinstance(machine.next_event(), events.Noop)


def test_chunks_stream_and_count() -> None:
    machine = opened()
    session = FakeSession(machine)
    machine.receive(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\n")
    session.run()
    machine.receive(b"BDAT 4\r\nab\r\nBDAT 3\r\nxyzBDAT 2 LAST\r\n.\r")
    seen: list[Any] = []
    while (event := machine.next_event()) is not None:
        seen.append(event)
        if isinstance(event, events.ChunkEnd):
            machine.answer(OK)
    assert seen == [
        events.Content(b"ab\r\n"),
        events.ChunkEnd(4, 4),
        events.Content(b"xyz"),
        events.ChunkEnd(3, 7),
        events.EndOfStream("bare CR, LF or NUL in content", Reply(521, "5.5.2", seen[-1].reply.text)),
    ]


@pytest.mark.parametrize("limits", [MachineLimits(size=4), MachineLimits(content_line=4)])
def test_s26_refused_content_is_announced_once_and_leaves_nothing(limits: MachineLimits) -> None:
    machine = in_data(limits)
    machine.receive(b"12345678\r\n.\r\n")
    refused = machine.next_event()
    assert isinstance(refused, events.ContentRefused)
    assert machine.next_event() is None
    assert machine.take_output() == refused.reply.wire()
    assert machine.accepted_recipients == 0
    assert not machine.closed


def test_patience_waits_five_minutes_for_commands() -> None:
    assert opened().patience == in_data().patience == 300.0


def eod_cases() -> list[Any]:
    cases = json.loads(testdata("smtp/eod-variants.json").read_text("utf-8"))["cases"]
    return [
        pytest.param(base64.b64decode(case["bytes_b64"]), case["ends_with_real_eod"], id=case["id"]) for case in cases
    ]


SMUGGLED = b"MAIL FROM:<evil@x.test>\r\nRCPT TO:<victim@x.test>\r\nRSET\r\n"


@pytest.mark.parametrize("variant, has_real_end", eod_cases())
def test_s01_to_s05_nothing_behind_a_false_end_is_a_command(variant: bytes, has_real_end: bool) -> None:
    octets = b"body" + variant + SMUGGLED
    outputs = set()
    for cut in range(len(octets)):
        machine = in_data()
        session = FakeSession(machine)
        for piece in (octets[:cut], octets[cut:]):
            machine.receive(piece)
            session.run()
        # Only the real end, followed by a NUL, leaves a message; the commands behind it die with the NUL.
        assert session.recipients == 0
        assert len(session.stored) == (has_real_end and machine.refusals[0][1].code == 500)
        outputs.add(machine.take_output())
    assert len(outputs) == 1
    assert outputs.pop()[:4] in (b"521 ", b"250 ", b"")


@pytest.mark.parametrize("piece", [1_000, 65_536])
def test_s11_ten_million_octets_without_crlf(piece: int) -> None:
    machine = opened()
    for _ in range(10_000_000 // piece // 10):
        machine.receive(b"x" * piece)
        assert machine.next_event() is None
        assert machine._lines.unread <= 65_536
    assert machine.take_output().startswith(b"500 5.5.2 ")


def test_s62_noop_flood() -> None:
    machine = opened()
    session = FakeSession(machine)
    machine.receive(b"NOOP\r\n" * 10_000)
    session.run()
    output = machine.take_output()
    assert output.count(b"\r\n") == 101
    assert output.split(b"\r\n")[-2].startswith(b"421 4.7.0 ")


def test_s29_rcpt_flood() -> None:
    machine = opened()
    session = FakeSession(machine)
    machine.receive(b"MAIL FROM:<a@x.test>\r\n" + b"RCPT TO:<nobody@x.test>\r\n" * 2_000)
    session.run()
    output = machine.take_output()
    assert output.count(b"550 5.1.1 ") == 20
    assert output.split(b"\r\n")[-2].startswith(b"421 4.7.0 ")


def test_s28_thousand_recipients() -> None:
    machine = opened()
    session = FakeSession(machine)
    machine.receive(b"MAIL FROM:<a@x.test>\r\n" + b"RCPT TO:<b@x.test>\r\n" * 1_100)
    session.run()
    assert machine.accepted_recipients == session.recipients == 1_000
    assert machine.take_output().count(b"452 4.5.3 ") == 100
    assert not machine.closed


lines = st.sampled_from(
    [
        b"EHLO x\r\n",
        b"HELO x\r\n",
        b"MAIL FROM:<a@x.test>\r\n",
        b"LHLO x\r\n",
        b"MAIL FROM:<> SIZE=3 BODY=8BITMIME\r\n",
        b"MAIL FROM:<> BODY=BINARYMIME HOLDFOR=5\r\n",
        b"XCLIENT ADDR=192.0.2.1 LOGIN=x\r\n",
        b"XCLIENT ADDR=192.0.2.66\r\n",
        b"RCPT TO:<b@x.test>\r\n",
        b"RCPT TO:<nobody@x.test>\r\n",
        b"DATA\r\n",
        b"line\r\n",
        b"REFUSE\r\n",
        b".\r\n",
        b"BDAT 4\r\n",
        b"BDAT 4 LAST\r\n",
        b"FAIL",
        b"abcd",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"VRFY x\r\n",
        b"STARTTLS\r\n",
        b"AUTH PLAIN\r\n",
        b"AUTH LOGIN\r\n",
        b"AHVzZXIAc2VjcmV0\r\n",
        b"*\r\n",
        b"QUIT\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"x" * 600,
    ]
)
EVERYTHING = replace(SUBMISSIONS, binarymime=True, future_release_s=60, xclient=True)
doors = st.sampled_from([MX, SUBMISSION, SUBMISSIONS, LMTP, EVERYTHING])


class WatchingSession(FakeSession):
    """Also knows the transaction as the events tell it, and that the machine agrees."""

    def __init__(self, machine: ServerMachine) -> None:
        super().__init__(machine)
        self.mail = False
        self.accepted = 0

    def _answer(self, command: events.Command) -> Reply:
        if isinstance(command, events.Rcpt | events.DataStart | events.ChunkEnd | events.ContentEnd):
            assert self.mail, f"{command} outside a transaction"
        if isinstance(command, events.DataStart | events.ChunkEnd | events.ContentEnd):
            assert self.accepted, f"{command} without a recipient"
        reply = super()._answer(command)
        match command:
            case events.Mail():
                assert not self.mail
                self.mail, self.accepted = True, 0
            case events.Rcpt():
                self.accepted += reply.code < 300
            case events.ChunkEnd() if reply.code >= 300:
                self.mail = False
            case events.ContentEnd() | events.Rset() | events.Hello() | events.StartTls():
                self.mail = False
        return reply


@settings(max_examples=150)
@given(st.lists(st.one_of(lines, st.binary(max_size=12)), max_size=30), doors)
def test_any_octets_lead_to_replies_and_never_to_an_exception(pieces: list[bytes], door: Door) -> None:
    """And RCPT, DATA and content only ever reach the session inside a transaction."""
    machine = ServerMachine(hostname="mx.test", door=door, wall_us=lambda: NOW_US)
    machine.greet(Reply(220, "", "mx.test"))
    session = WatchingSession(machine)
    for piece in pieces:
        machine.receive(piece)
        while (event := machine.next_event()) is not None:
            match event:
                case events.Content():
                    session._draft += event.chunk
                case events.ContentRefused():
                    session.mail = False
                case events.EndOfStream():
                    session.ends.append(event)
                case _:
                    machine.answer(session._answer(event))
        if machine.mode is Mode.HANDSHAKE:
            machine.tls_started()
        for line in machine.take_output().split(b"\r\n")[:-1]:
            assert line[:3].isdigit()
            assert line[3:4] in b" -"
    machine.receive_eof()
    session.run()
    assert machine.closed
    assert len(session.ends) == 1


@settings(max_examples=60)
@given(st.lists(lines, max_size=12), st.data())
def test_cuts_do_not_matter(pieces: list[bytes], data: st.DataObject) -> None:
    """Apart from what is refused because it arrives together, replies do not depend on the segments."""
    octets = b"".join(pieces).replace(b"DATA\r\n", b"").replace(b"STARTTLS\r\n", b"")
    places = sorted(data.draw(st.sets(st.integers(0, len(octets)), max_size=6)))
    outputs = []
    for cuts in ([], places):
        machine = opened(SUBMISSIONS)
        session = FakeSession(machine)
        for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True):
            machine.receive(octets[start:end])
            session.run()
        outputs.append((machine.take_output(), session.stored, machine.closed))
    assert outputs[0] == outputs[1]


endings = st.sampled_from(
    [
        [b"RSET\r\n"],
        [b"EHLO x\r\n"],
        [b"DATA\r\n", b"ok\r\n.\r\n"],
        [b"DATA\r\n", b"REFUSE\r\n.\r\n"],
        [b"DATA\r\n", b"x" * 70_000 + b"\r\n.\r\n"],
        [b"BDAT 4 LAST\r\nabcd"],
        [b"BDAT 4\r\nFAIL"],
        [b"BDAT 4\r\nabcdBDAT 6 LAST\r\nREFUSE"],
        [b"BDAT 2\r\nabRSET\r\n"],
    ]
)


@given(st.lists(endings, min_size=1, max_size=4))
def test_s36_s37_after_every_end_rcpt_and_data_are_503(ends: list[list[bytes]]) -> None:
    machine = opened()
    session = FakeSession(machine)
    for end in ends:
        for piece in (b"MAIL FROM:<a@x.test>\r\n", b"RCPT TO:<b@x.test>\r\n", *end):
            machine.receive(piece)
            session.run()
        machine.take_output()
        for command in (b"RCPT TO:<b@x.test>\r\n", b"DATA\r\n", b"BDAT 3 LAST\r\nabc"):
            machine.receive(command)
            session.run()
            assert machine.take_output().startswith(b"503 5.5.1 ")


@given(st.lists(st.text(".ab", max_size=4).map(str.encode), max_size=6).map(b"\r\n".join))
def test_content_arrives_as_it_was_sent(content: bytes) -> None:
    machine = in_data()
    session = FakeSession(machine)
    machine.receive(stuff(content))
    session.run()
    assert session.stored == [content if not content or content.endswith(b"\r\n") else content + b"\r\n"]
