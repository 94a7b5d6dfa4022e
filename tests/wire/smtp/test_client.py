"""The client machine: what it says, what it concludes, and that it never gets out of step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad.values.address import Address
from postroad.values.envelope import Recipient
from postroad.values.reply import Reply
from postroad.wire.sasl import Credentials
from postroad.wire.smtp import events
from postroad.wire.smtp.client import ClientMachine

ANNA = Address("anna", "a.test")
BOB = Address("bob", "b.test")
CAROL = Address("carol", "b.test")
DAVE = Address("dave", "b.test")

GREETING = b"220 b.test ESMTP\r\n"
PLAIN_EHLO = b"250 b.test\r\n"
FULL_EHLO = (
    b"250-b.test hello\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250-CHUNKING\r\n250-SMTPUTF8\r\n"
    b"250-DSN\r\n250 ENHANCEDSTATUSCODES\r\n"
)
FLIGHT = (
    b"MAIL FROM:<anna@a.test>\r\nRCPT TO:<bob@b.test>\r\nRCPT TO:<carol@b.test>\r\nRCPT TO:<dave@b.test>\r\nDATA\r\n"
)

Step = bytes | Callable[[ClientMachine], object]


class Played:
    """A session as it went: every event, and everything said."""

    def __init__(self, steps: Sequence[Step], cut: int = 0, *, lmtp: bool = False) -> None:
        self.machine = ClientMachine(ehlo_name="a.test", lmtp=lmtp)
        self.events: list[Any] = []
        self.said = b""
        for step in steps:
            if isinstance(step, bytes):
                size = cut or len(step) or 1
                for at in range(0, len(step), size):
                    self.machine.receive(step[at : at + size])
                    self.pull()
            else:
                step(self.machine)
                self.pull()

    def pull(self) -> None:
        while (event := self.machine.next_event()) is not None:
            self.events.append(event)
        self.said += self.machine.take_output()

    @property
    def result(self) -> events.TransactionResult:
        """The one transaction's result."""
        (done,) = [event for event in self.events if isinstance(event, events.TransactionDone)]
        return done.result

    @property
    def codes(self) -> list[int]:
        return [reply.code for reply in self.result.recipients]

    @property
    def lost(self) -> events.Lost:
        """The loss, which must be the last event and leave the session over."""
        assert self.machine.closed
        lost = self.events[-1]
        assert isinstance(lost, events.Lost)
        return lost


def play(*steps: Step, lmtp: bool = False) -> Played:
    """Play the steps with the server's octets in one piece and in pieces of 1, 2, 3 and 7; all must go alike."""
    whole = Played(steps, lmtp=lmtp)
    for cut in (1, 2, 3, 7):
        cut_up = Played(steps, cut, lmtp=lmtp)
        assert (cut_up.events, cut_up.said) == (whole.events, whole.said)
    return whole


def start(machine: ClientMachine) -> None:
    machine.start("may")


def begin(*recipients: Recipient | Address, **options: Any) -> Step:
    return lambda machine: machine.begin(ANNA, recipients or (BOB, CAROL, DAVE), **options)


def sent(machine: ClientMachine) -> None:
    machine.content_sent()


def eof(machine: ClientMachine) -> None:
    machine.receive_eof()


def leave(machine: ClientMachine) -> None:
    machine.quit()


FULL: tuple[Step, ...] = (start, GREETING, FULL_EHLO)
PLAIN: tuple[Step, ...] = (start, GREETING, PLAIN_EHLO)


def test_one_flight_when_the_server_pipelines() -> None:
    played = play(
        *FULL,
        begin(size=77),
        b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n550 5.1.1 Unknown\r\n450 4.2.1 Later\r\n354 Go\r\n",
        sent,
        b"250 2.0.0 queued as 1\r\n",
        leave,
        b"221 2.0.0 Bye\r\n",
    )
    assert [type(event) for event in played.events] == [
        events.Ready,
        events.SendContent,
        events.TransactionDone,
        events.Closed,
    ]
    assert played.events[1] == events.SendContent(stuffed=True)
    assert played.codes == [250, 550, 450]
    assert played.result.final == Reply(250, "2.0.0", "queued as 1")
    assert not played.result.unsure
    assert played.said == b"EHLO a.test\r\n" + FLIGHT.replace(b"a.test>\r\n", b"a.test> SIZE=77\r\n", 1) + b"QUIT\r\n"
    assert played.machine.closed


def test_one_command_at_a_time_when_it_does_not() -> None:
    played = play(*PLAIN, begin(BOB, CAROL, size=77), b"250 Ok\r\n")
    assert played.said == b"EHLO a.test\r\nMAIL FROM:<anna@a.test>\r\nRCPT TO:<bob@b.test>\r\n"
    played = play(
        *PLAIN, begin(BOB, CAROL), b"250 Ok\r\n", b"550 No\r\n", b"250 Ok\r\n", b"354 Go\r\n", sent, b"250 Ok\r\n"
    )
    assert played.said.endswith(b"RCPT TO:<bob@b.test>\r\nRCPT TO:<carol@b.test>\r\nDATA\r\n")
    assert played.codes == [550, 250]


def test_two_transactions_in_one_session() -> None:
    one = (begin(BOB), b"250 Ok\r\n250 Ok\r\n354 Go\r\n", sent, b"250 Ok\r\n")
    played = play(*FULL, *one, *one)
    assert played.said.count(b"MAIL FROM") == 2
    assert b"RSET" not in played.said


def test_helo_when_ehlo_is_not_known() -> None:
    played = play(start, GREETING, b"502 5.5.1 What?\r\n", b"250 b.test\r\n")
    assert played.said == b"EHLO a.test\r\nHELO a.test\r\n"
    assert not played.events[0].extensions.pipelining


def test_mail_refused_is_everybodys_fate() -> None:
    played = play(*FULL, begin(), b"550 5.7.1 No\r\n503 No\r\n503 No\r\n503 No\r\n503 No\r\n")
    assert played.codes == [550, 550, 550]
    assert played.result.mail == Reply(550, "5.7.1", "No")
    assert play(*PLAIN, begin(), b"451 Later\r\n").codes == [451, 451, 451]


def test_data_refused_is_the_fate_of_who_was_accepted() -> None:
    played = play(*FULL, begin(), b"250 Ok\r\n250 Ok\r\n550 No\r\n250 Ok\r\n451 4.3.0 Not now\r\n")
    assert played.codes == [451, 550, 451]


def test_content_refused_is_the_fate_of_who_was_accepted() -> None:
    played = play(*FULL, begin(), b"250 Ok\r\n250 Ok\r\n450 No\r\n250 Ok\r\n354 Go\r\n", sent, b"554 5.6.0 Spam\r\n")
    assert played.codes == [554, 450, 554]


def test_d14_no_content_when_nobody_is_accepted() -> None:
    refused = b"250 Ok\r\n550 No\r\n550 No\r\n450 No\r\n"
    played = play(*FULL, begin(), refused + b"503 No\r\n")
    assert played.codes == [550, 550, 450]
    assert played.said.endswith(FLIGHT)
    played = play(*PLAIN, begin(), b"250 Ok\r\n", b"550 No\r\n", b"550 No\r\n", b"450 No\r\n")
    assert b"DATA" not in played.said


def test_d14_a_354_for_nobody_gets_a_lone_dot() -> None:
    played = play(*FULL, begin(), b"250 Ok\r\n550 No\r\n550 No\r\n450 No\r\n354 Go\r\n", b"250 Ok\r\n")
    assert played.said.endswith(FLIGHT + b".\r\n")
    assert played.codes == [550, 550, 450]
    assert not any(isinstance(event, events.SendContent) for event in played.events)


@pytest.mark.parametrize("opening", [FULL, PLAIN])
def test_rset_goes_in_front_of_what_follows_a_broken_transaction(opening: tuple[Step, ...]) -> None:
    replies = (b"250 Ok\r\n", b"550 No\r\n", b"503 No\r\n") if opening is FULL else (b"250 Ok\r\n", b"550 No\r\n")
    played = play(*opening, begin(BOB), *replies, begin(BOB), b"250 Ok\r\n")
    assert played.said.count(b"RSET\r\nMAIL FROM") == 1


def test_dsn_and_other_parameters_only_where_announced() -> None:
    options = {"size": 9, "body8bit": True, "ret": "HDRS", "envid": "x+2By"}
    bob = Recipient(BOB, "NEVER", "rfc822;bob@b.test")
    played = play(*FULL, begin(bob, **options))
    assert b"MAIL FROM:<anna@a.test> SIZE=9 BODY=8BITMIME RET=HDRS ENVID=x+2By\r\n" in played.said
    assert b"RCPT TO:<bob@b.test> NOTIFY=NEVER ORCPT=rfc822;bob@b.test\r\n" in played.said
    played = play(*PLAIN, begin(bob, **options), b"250 Ok\r\n")
    assert played.said.endswith(b"MAIL FROM:<anna@a.test>\r\nRCPT TO:<bob@b.test>\r\n")


def test_null_sender_and_international_addresses() -> None:
    machine = Played(FULL).machine
    machine.begin(None, [Address("bob", "bücher.example")])
    assert machine.take_output().startswith(b"MAIL FROM:<>\r\nRCPT TO:<bob@xn--bcher-kva.example>\r\n")
    machine = Played(FULL).machine
    machine.begin(ANNA, [Address("jürgen", "bücher.example")], smtputf8=True)
    assert "MAIL FROM:<anna@a.test> SMTPUTF8\r\nRCPT TO:<jürgen@bücher.example>\r\n".encode() in machine.take_output()


def test_an_original_recipient_in_utf8_goes_only_where_utf8_goes() -> None:
    """RFC 6533 section 3; what is no text is never sent."""
    machine = Played(FULL).machine
    machine.begin(ANNA, [Recipient(BOB, orcpt="utf-8;jürgen@b.test")], smtputf8=True)
    assert "RCPT TO:<bob@b.test> ORCPT=utf-8;jürgen@b.test\r\n".encode() in machine.take_output()
    for orcpt, smtputf8 in (("utf-8;jürgen@b.test", False), ("utf-8;a\u2028b", True), ("utf-8;a\u00a0b", True)):
        with pytest.raises(ValueError, match="ORCPT is not printable"):
            Played(FULL).machine.begin(ANNA, [Recipient(BOB, orcpt=orcpt)], smtputf8=smtputf8)


@pytest.mark.parametrize(
    "wrong, why",
    [
        (lambda machine: machine.begin(ANNA, []), "no recipients"),
        (lambda machine: machine.begin(ANNA, [Address("jürgen", "b.test")]), "needs SMTPUTF8"),
        (lambda machine: machine.begin(ANNA, [BOB], ret="HDRS\r\nRSET"), "RET is not printable"),
        (lambda machine: machine.begin(ANNA, [Recipient(BOB, orcpt="rfc822;a b")]), "ORCPT is not printable"),
        (lambda machine: machine.content_sent(), "no content"),
    ],
)
def test_what_cannot_be_sent_is_a_mistake_of_the_caller(wrong: Callable[[ClientMachine], None], why: str) -> None:
    machine = Played(FULL).machine
    with pytest.raises(ValueError, match=why):
        wrong(machine)
    assert machine.take_output() == b""
    machine.begin(ANNA, [BOB])
    with pytest.raises(ValueError, match="no transaction may begin"):
        machine.begin(ANNA, [BOB])


def test_smtputf8_must_have_been_announced() -> None:
    with pytest.raises(ValueError, match="did not announce"):
        Played(PLAIN).machine.begin(ANNA, [BOB], smtputf8=True)
    with pytest.raises(ValueError, match="EHLO name"):
        ClientMachine(ehlo_name="a.test\r\nMAIL")


# --- BDAT ------------------------------------------------------------------------------------------------------------


def test_chunking_sends_everything_in_one_flight() -> None:
    played = play(*FULL, begin(BOB, size=9, chunking=True), sent, b"250 Ok\r\n250 Ok\r\n250 2.0.0 queued\r\n")
    assert played.said.endswith(b"RCPT TO:<bob@b.test>\r\nBDAT 9 LAST\r\n")
    assert played.events[1] == events.SendContent(stuffed=False, size=9)
    assert played.codes == [250]


def test_chunking_for_nobody_costs_only_octets() -> None:
    played = play(*FULL, begin(BOB, size=9, chunking=True), sent, b"250 Ok\r\n550 No\r\n554 Nobody\r\n", begin(BOB))
    assert played.codes == [550]
    assert b"RSET\r\nMAIL" in played.said


def test_chunking_falls_back_to_data() -> None:
    played = play(*PLAIN, begin(BOB, size=9, chunking=True), b"250 Ok\r\n", b"250 Ok\r\n")
    assert played.said.endswith(b"DATA\r\n")


def test_a_server_that_closes_during_a_chunk_is_heard() -> None:
    played = play(
        *FULL, begin(BOB, CAROL, size=9, chunking=True), b"250 Ok\r\n550 No\r\n250 Ok\r\n552 Too big\r\n", eof
    )
    assert played.codes == [550, 552]
    assert not played.result.unsure
    assert played.lost.stage == "content"


# --- TLS and AUTH ----------------------------------------------------------------------------------------------------

TLS_EHLO = b"250-b.test\r\n250-STARTTLS\r\n250 AUTH PLAIN LOGIN\r\n"


def handshake(machine: ClientMachine) -> None:
    machine.tls_started()


def test_starttls_forgets_what_was_announced_before() -> None:
    played = play(start, GREETING, TLS_EHLO, b"220 Go\r\n", handshake, FULL_EHLO)
    assert played.said == b"EHLO a.test\r\nSTARTTLS\r\nEHLO a.test\r\n"
    assert [type(event) for event in played.events] == [events.TlsWanted, events.Ready]
    assert played.events[1].extensions.auth == ()
    assert played.machine.tls


def test_starttls_is_left_alone_on_request() -> None:
    played = play(lambda machine: machine.start("never"), GREETING, TLS_EHLO)
    assert [type(event) for event in played.events] == [events.Ready]


@pytest.mark.parametrize("wish, after", [("may", events.Ready), ("must", None)])
def test_starttls_refused(wish: Any, after: type | None) -> None:
    played = play(lambda machine: machine.start(wish), GREETING, TLS_EHLO, b"454 4.7.0 Not now\r\n")
    assert played.events[0] == events.StartTlsRefused(Reply(454, "4.7.0", "Not now"))
    assert [type(event) for event in played.events[1:]] == ([after] if after else [])
    assert played.said.endswith(b"QUIT\r\n") == (after is None)


def test_starttls_not_offered_but_needed() -> None:
    played = play(lambda machine: machine.start("must"), GREETING, PLAIN_EHLO, b"221 Bye\r\n")
    assert played.events == [events.StartTlsRefused(None), events.Closed()]


def test_d13_octets_behind_the_220_to_starttls() -> None:
    played = Played([start, GREETING, TLS_EHLO, b"220 Go\r\n250-evil\r\n"])
    assert played.lost.stage == "starttls"
    played = Played([start, GREETING, TLS_EHLO, b"220 Go\r\n", b"250-evil\r\n", handshake])
    assert played.lost.stage == "starttls"
    assert played.said.count(b"EHLO") == 1


def log_in(machine: ClientMachine) -> None:
    machine.start("never", Credentials("user", "secret"), under_tls=True)


def test_auth_plain() -> None:
    played = play(log_in, GREETING, TLS_EHLO, b"235 2.7.0 Ok\r\n")
    assert played.said.endswith(b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n")
    assert isinstance(played.events[0], events.Ready)


def test_auth_login() -> None:
    hello = b"250-b.test\r\n250 AUTH=LOGIN\r\n"
    played = play(log_in, GREETING, hello, b"334 VXNlcm5hbWU6\r\n", b"334 UGFzc3dvcmQ6\r\n", b"235 Ok\r\n")
    assert played.said.endswith(b"AUTH LOGIN\r\ndXNlcg==\r\nc2VjcmV0\r\n")
    assert isinstance(played.events[0], events.Ready)


def test_a_long_auth_plain_waits_for_the_challenge() -> None:
    login = Credentials("user", "x" * 400)
    played = play(lambda machine: machine.start("never", login, under_tls=True), GREETING, TLS_EHLO, b"334 \r\n")
    assert b"AUTH PLAIN\r\n" in played.said


@pytest.mark.parametrize(
    "hello, replies, code",
    [
        (TLS_EHLO, b"535 5.7.8 Wrong\r\n", 535),
        (TLS_EHLO, b"334 \r\n501 Cancelled\r\n", 501),
        (b"250-b.test\r\n250 AUTH GSSAPI\r\n", b"", 504),
    ],
)
def test_auth_refused(hello: bytes, replies: bytes, code: int) -> None:
    played = play(log_in, GREETING, hello, replies)
    assert (played.events[0].stage, played.events[0].reply.code) == ("auth", code)
    assert played.said.endswith(b"QUIT\r\n")


def test_no_password_without_tls() -> None:
    played = play(
        lambda machine: machine.start("may", Credentials("user", "secret")), GREETING, b"250-b\r\n250 AUTH PLAIN\r\n"
    )
    assert played.events == [events.Refused("auth", Reply(538, "5.7.11", "A password is not sent without TLS"))]
    assert b"AUTH" not in played.said


# --- LMTP ------------------------------------------------------------------------------------------------------------


def test_lmtp_has_a_final_reply_for_each_accepted_recipient() -> None:
    played = play(
        *FULL,
        begin(),
        b"250 Ok\r\n250 Ok\r\n550 No\r\n250 Ok\r\n354 Go\r\n",
        sent,
        b"250 2.0.0 Ok\r\n452 4.2.2 Full\r\n",
        lmtp=True,
    )
    assert played.said.startswith(b"LHLO a.test\r\n")
    assert played.codes == [250, 550, 452]


def test_lmtp_lost_between_the_final_replies() -> None:
    played = play(
        *FULL, begin(BOB, CAROL), b"250 Ok\r\n250 Ok\r\n250 Ok\r\n354 Go\r\n", sent, b"250 Ok\r\n", eof, lmtp=True
    )
    assert played.codes == [250, 421]
    assert played.result.unsure


# --- what servers do wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "greeting, code", [(b"554 5.7.1 Go away\r\n", 554), (b"450 Later\r\n", 450), (b"421 Busy\r\n", 421)]
)
def test_a_refused_greeting(greeting: bytes, code: int) -> None:
    played = play(start, greeting)
    assert (played.events[0].stage, played.events[0].reply.code) == ("greeting", code)
    assert (b"QUIT" in played.said) == (code != 421)


def test_a_refused_hello() -> None:
    played = play(start, GREETING, b"550 No\r\n", b"550 5.7.1 No\r\n")
    assert played.events == [events.Refused("hello", Reply(550, "5.7.1", "No"))]


OUT_OF_STEP = [
    pytest.param((start, b"250 Hello\r\n"), "greeting", id="250-for-a-greeting"),
    pytest.param((start, GREETING, b"220 b.test again\r\n"), "hello", id="220-twice"),
    pytest.param((start, GREETING, b"354 Go\r\n"), "hello", id="354-to-ehlo"),
    pytest.param((*FULL, b"250 Ok\r\n"), "ready", id="reply-nobody-asked-for"),
    pytest.param((*FULL, b"421 4.4.2 Idle too long\r\n"), "ready", id="421-while-idle"),
    pytest.param((*FULL, begin(BOB), b"354 Go\r\n"), "mail", id="354-to-mail"),
    pytest.param((*FULL, begin(BOB), b"250 Ok\r\n334 eh\r\n"), "rcpt", id="334-to-rcpt"),
    pytest.param((*FULL, begin(BOB), b"250 Ok\r\n399 eh\r\n"), "rcpt", id="399-to-rcpt"),
    pytest.param((*FULL, begin(BOB), b"250 Ok\r\n250 Ok\r\n250 Ok\r\n"), "data", id="250-to-data"),
    pytest.param((*FULL, begin(BOB), b"250 Ok\r\n250 Ok\r\n354 Go\r\n", sent, b"354 Go\r\n"), "final", id="354-twice"),
    pytest.param((*FULL, begin(BOB), b"250 Ok\r\n221 Bye\r\n"), "rcpt", id="221-to-rcpt"),
    pytest.param((*FULL, begin(BOB), b"421 4.3.2 Going down\r\n"), "mail", id="421-to-mail"),
    pytest.param((*FULL, begin(BOB), b"250 Ok\r\n250 Ok\r\n421 Bye\r\n"), "data", id="421-to-data"),
    pytest.param((*FULL, begin(BOB), b"250-Ok\r\n550 Ok\r\n"), "mail", id="codes-differ"),
    pytest.param((*FULL, begin(BOB), b"999 Ok\r\n"), "mail", id="999"),
    pytest.param((*FULL, begin(BOB), b"150 Ok\r\n"), "mail", id="1yz"),
    pytest.param((*FULL, begin(BOB), b"25 Ok\r\n"), "mail", id="two-digits"),
    pytest.param((*FULL, begin(BOB), b"250Ok\r\n"), "mail", id="no-space"),
    pytest.param((*FULL, begin(BOB), b"\r\n"), "mail", id="empty-line"),
    pytest.param((*FULL, begin(BOB), b"250 O\0k\r\n"), "mail", id="nul"),
    pytest.param((*FULL, begin(BOB), b"250 Ok\n250 Ok\n"), "mail", id="bare-lf"),
    pytest.param((*FULL, begin(BOB), b"250 Ok\r250 Ok\r\n"), "mail", id="bare-cr"),
    pytest.param((*FULL, begin(BOB), b"250 " + b"x" * 5_000), "mail", id="long-line"),
    pytest.param((*FULL, begin(BOB), b"250-x\r\n" * 201), "mail", id="many-lines"),
    pytest.param((*FULL, begin(BOB), b"250 Ok\r\n", eof), "rcpt", id="closed"),
    pytest.param((*FULL, begin(BOB), b"250 Ok\r\n25", eof), "rcpt", id="closed-in-a-reply"),
]


@pytest.mark.parametrize("steps, stage", OUT_OF_STEP)
def test_d11_out_of_step_is_lost_and_never_a_success(steps: tuple[Step, ...], stage: str) -> None:
    played = play(*steps)
    assert played.lost.stage == stage
    for event in played.events:
        if isinstance(event, events.TransactionDone):
            assert [reply.code for reply in event.result.recipients] == [421]
            assert event.result.unsure == (stage == "final")


def test_d12_silence_behind_the_dot_is_unsure() -> None:
    played = play(*FULL, begin(BOB, CAROL), b"250 Ok\r\n250 Ok\r\n550 5.1.1 No\r\n354 Go\r\n", sent, eof)
    assert played.codes == [421, 550]
    assert played.result.unsure
    assert played.lost == events.Lost("final", "connection closed")


def test_421_behind_the_dot_is_sure() -> None:
    played = play(*FULL, begin(BOB), b"250 Ok\r\n250 Ok\r\n354 Go\r\n", sent, b"421 4.3.0 Down\r\n")
    assert played.result.final == Reply(421, "4.3.0", "Down")
    assert played.codes == [421]
    assert not played.result.unsure


def test_a_yes_before_the_content_was_sent_counts_for_nothing() -> None:
    played = play(*FULL, begin(BOB), b"250 Ok\r\n250 Ok\r\n354 Go\r\n250 Ok\r\n", eof)
    assert played.codes == [421]
    assert not played.result.unsure


def test_patience_follows_rfc_5321() -> None:
    machine = ClientMachine(ehlo_name="a.test")
    machine.start()
    waits = [machine.patience]
    for octets in (GREETING, FULL_EHLO):
        machine.receive(octets)
        while machine.next_event():
            pass
    machine.begin(ANNA, [BOB])
    for octets in (b"", b"250 Ok\r\n", b"250 Ok\r\n", b"354 Go\r\n"):
        machine.receive(octets)
        while machine.next_event():
            pass
        waits.append(machine.patience)
    machine.content_sent()
    waits.append(machine.patience)
    assert waits == [300.0, 300.0, 300.0, 120.0, 180.0, 600.0]


def test_reset_asks_whether_the_session_lives() -> None:
    played = play(*FULL, lambda machine: machine.reset(), b"250 Ok\r\n")
    assert [type(event) for event in played.events] == [events.Ready, events.Ready]


def test_quit_is_over_when_the_server_just_closes() -> None:
    assert isinstance(play(*FULL, leave, eof).events[-1], events.Closed)


server_lines = st.sampled_from(
    [
        b"250 Ok\r\n",
        b"250 2.1.5 Ok\r\n",
        b"550 5.1.1 No\r\n",
        b"450 Later\r\n",
        b"354 Go\r\n",
        b"220 Go\r\n",
        b"221 Bye\r\n",
        b"334 \r\n",
        b"235 Ok\r\n",
        b"421 Down\r\n",
        b"503 What\r\n",
        b"250-more\r\n",
    ]
)


@settings(max_examples=150)
@given(
    st.lists(st.one_of(server_lines, server_lines, st.binary(max_size=8)), max_size=14),
    st.sampled_from([PLAIN, FULL]),
    st.booleans(),
)
def test_any_octets_from_the_server_end_in_one_result(
    pieces: list[bytes], opening: tuple[Step, ...], lmtp: bool
) -> None:
    """And a recipient counts as delivered only after its own 2yz and one behind the content that was sent."""
    played = Played([*opening, begin(BOB, CAROL)], lmtp=lmtp)
    machine = played.machine
    content_sent = False
    for piece in pieces:
        machine.receive(piece)
        played.pull()
        if machine.stage == "content" and not machine.closed:
            machine.content_sent()
            content_sent = True
        played.pull()
    machine.receive_eof()
    played.pull()
    assert machine.closed
    assert not machine.in_transaction
    assert len(played.codes) == 2
    if any(code < 300 for code in played.codes):
        assert content_sent
        assert played.result.final is not None or lmtp
    assert all(code < 300 or code >= 400 for code in played.codes)


def test_a_server_that_talks_without_end_during_the_content_is_lost() -> None:
    played = Played([*FULL, begin(BOB), b"250 Ok\r\n250 Ok\r\n354 Go\r\n", b"250 Ok\r\n" * 9_000])
    assert played.lost.stage == "content"
    assert played.codes == [421]


# -- asking without sending ------------------------------------------------------------------------------------------

QUESTION = b"MAIL FROM:<>\r\nRCPT TO:<bob@b.test>\r\nRCPT TO:<carol@b.test>\r\n"


def ask(*recipients: Address) -> Step:
    return lambda machine: machine.ask(recipients)


@pytest.mark.parametrize("lmtp", [False, True])
def test_a_question_ends_with_its_last_recipient_and_leaves_nothing_behind(lmtp: bool) -> None:
    played = play(
        *FULL,
        ask(BOB, CAROL),
        b"250 Ok\r\n550 5.1.1 Nobody\r\n250 Ok\r\n",
        begin(BOB),
        lmtp=lmtp,
    )
    result = played.result
    assert [reply.code for reply in result.recipients] == [550, 250]
    assert result.final is None
    said = played.said.partition(b"\r\n")[2]
    assert said.startswith(QUESTION + b"RSET\r\nMAIL FROM:")
    assert b"DATA" not in said[: len(QUESTION)]


def test_without_pipelining_a_question_is_asked_word_by_word() -> None:
    played = play(*PLAIN, ask(BOB, CAROL), b"250 Ok\r\n", b"550 Nobody\r\n", b"450 Later\r\n", ask(BOB))
    result = played.result
    assert [reply.code for reply in result.recipients] == [550, 450]
    assert played.said.endswith(QUESTION + b"RSET\r\n")


def test_a_refused_null_sender_answers_no_recipient() -> None:
    for opening in (PLAIN, FULL):
        replies = b"550 No\r\n" + (b"503 First MAIL\r\n" * 2 if opening is FULL else b"")
        result = play(*opening, ask(BOB, CAROL), replies).result
        assert result.mail is not None
        assert result.mail.code == 550


def test_requiretls_is_asked_for_only_under_tls_and_where_announced() -> None:
    """RFC 8689 section 4.2.1."""
    announced = b"250-b.test\r\n250 REQUIRETLS\r\n"
    for under_tls, hello, asked in (
        (True, announced, True),
        (False, announced, False),
        (True, b"250 b.test\r\n", False),
    ):
        machine = ClientMachine(ehlo_name="a.test")
        machine.start("may", under_tls=under_tls)
        machine.receive(GREETING + hello)
        assert isinstance(machine.next_event(), events.Ready)
        machine.take_output()
        machine.begin(None, [BOB], requiretls=True)
        assert (machine.take_output() == b"MAIL FROM:<> REQUIRETLS\r\n") is asked
