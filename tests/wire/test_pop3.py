"""The POP3 machine: every dialog gives the same conversation however the octets are cut, and bad input never hurts."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad.wire.pop3 import (
    MAX_LOGIN_TRIES,
    Authenticate,
    Login,
    MaildropEntry,
    Pop3Machine,
    Quit,
    Retrieve,
    SaslResponse,
    StartTls,
    State,
)

HEADER = b"From: a@example.org\r\nSubject: one\r\n\r\n"
BODY = b"line 1\r\n.\r\n..\r\n.x\r\nno line end"
MAIL = [(HEADER, BODY), (HEADER, b""), (b"", b"\r\n.\r\n")]
ENTRIES = [MaildropEntry(len(header + body), b"u%d" % number) for number, (header, body) in enumerate(MAIL, 1)]


class Driver:
    """Answers the machine's events as a server would and keeps what happened."""

    def __init__(self, machine: Pop3Machine) -> None:
        self.machine = machine
        self.output = b""
        self.deleted: tuple[int, ...] | None = None
        self.events: list[object] = []

    def feed(self, octets: bytes) -> None:
        self.machine.receive(octets)
        while (event := self.machine.next_event()) is not None:
            self.events.append(event)
            self.answer(event)
        self.output += self.machine.take_output()

    def answer(self, event: object) -> None:
        machine = self.machine
        match event:
            case (
                Login(b"ada", b"secret word") | SaslResponse(b"\0ada\0secret") | Authenticate("PLAIN", b"\0ada\0secret")
            ):
                machine.open_maildrop(ENTRIES)
            case Authenticate(_, None):
                machine.challenge()
            case Login() | Authenticate() | SaslResponse():
                machine.refuse_login()
            case StartTls():
                machine.begin_tls()
                self.output += machine.take_output()
                machine.tls_started()
            case Retrieve(number, _):
                header, body = MAIL[number - 1]
                machine.begin_message()
                machine.send_header(header)
                for at in range(0, len(body), 3):
                    if not machine.send_body(body[at : at + 3]):
                        break
                machine.end_message()
            case Quit(deleted):
                self.deleted = deleted
                machine.finish_quit(complete=True)


def talk(lines: Sequence[bytes], *, step: int = 0, tls_active: bool = True, tls_offered: bool = False) -> Driver:
    driver = Driver(Pop3Machine(tls_active=tls_active, tls_offered=tls_offered))
    octets = b"".join(line + b"\r\n" for line in lines)
    if not step:
        driver.feed(octets)
    for at in range(0, len(octets) if step else 0, step or 1):
        driver.feed(octets[at : at + step])
    return driver


LOGIN = [b"USER ada", b"PASS secret word"]

DIALOGS = [
    ([*LOGIN, b"STAT", b"LIST", b"UIDL", b"LIST 2", b"UIDL 1", b"NOOP", b"QUIT"], ()),
    ([*LOGIN, b"RETR 1", b"TOP 1 0", b"TOP 1 2", b"TOP 1 999999999", b"RETR 2", b"RETR 3", b"QUIT"], ()),
    ([*LOGIN, b"DELE 1", b"DELE 3", b"STAT", b"LIST", b"RETR 1", b"QUIT"], (1, 3)),
    ([*LOGIN, b"DELE 1", b"RSET", b"DELE 2", b"QUIT"], (2,)),
    ([*LOGIN, b"DELE 1"], None),
    ([b"AUTH PLAIN", base64.b64encode(b"\0ada\0secret"), b"STAT", b"QUIT"], ()),
    ([b"AUTH PLAIN " + base64.b64encode(b"\0ada\0secret"), b"STAT", b"QUIT"], ()),
    ([b"AUTH PLAIN", b"*", b"AUTH PLAIN", b"!!", b"CAPA", b"AUTH", b"QUIT"], None),
    ([b"USER ada", b"PASS x", b"PASS x", b"STAT", b"RETR 1", b"XYZ", b"QUIT"], None),
]


@pytest.mark.parametrize("lines, deleted", DIALOGS)
def test_a_dialog_is_the_same_however_its_octets_are_cut(lines: list[bytes], deleted: tuple[int, ...] | None) -> None:
    whole = talk(lines)
    assert whole.deleted == deleted
    for step in (1, 2, 7):
        cut = talk(lines, step=step)
        assert (cut.output, cut.events, cut.deleted) == (whole.output, whole.events, whole.deleted)


def test_every_two_piece_cut_gives_the_same_conversation() -> None:
    lines = DIALOGS[1][0]
    octets = b"".join(line + b"\r\n" for line in lines)
    whole = talk(lines)
    for at in range(len(octets)):
        driver = Driver(Pop3Machine(tls_active=True))
        driver.feed(octets[:at])
        driver.feed(octets[at:])
        assert driver.output == whole.output


def unstuffed(reply: bytes) -> bytes:
    """The content of a multi-line reply as a client reads it."""
    lines = reply.split(b"\r\n")
    return b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_message_arrives_byte_for_byte_and_ends_with_one_dot(number: int) -> None:
    output = talk([*LOGIN, b"RETR %d" % number]).output
    reply = output.split(b"octets\r\n", 1)[1]
    assert reply.count(b"\r\n.\r\n") == 1 or reply == b".\r\n"
    header, body = MAIL[number - 1]
    sent = header + body
    assert unstuffed(reply[: -len(b".\r\n")]) == (sent if sent.endswith(b"\r\n") else sent + b"\r\n")


@pytest.mark.parametrize("lines, expected", [(0, b""), (1, b"line 1\r\n"), (2, b"line 1\r\n..\r\n"), (10**9, None)])
def test_top_gives_the_header_and_no_more_body_lines_than_asked(lines: int, expected: bytes | None) -> None:
    reply = talk([*LOGIN, b"TOP 1 %d" % lines]).output.split(b"follows\r\n", 1)[1]
    whole = talk([*LOGIN, b"RETR 1"]).output.split(b"octets\r\n", 1)[1]
    assert reply == (whole if expected is None else HEADER + expected + b".\r\n")


@pytest.mark.parametrize(
    "argument", [b"0", b"", b"4", b"-1", b"18446744073709551616", b"1x", b" ", b"9" * 100, "²".encode(), b"1 1 1"]
)
def test_retr_of_what_is_not_there_is_an_error_and_nothing_more(argument: bytes) -> None:
    driver = talk([*LOGIN, b"RETR " + argument, b"STAT"])
    assert not any(isinstance(event, Retrieve) for event in driver.events)
    assert b"-ERR" in driver.output
    assert driver.output.endswith(b"+OK 3 %d\r\n" % sum(entry.size for entry in ENTRIES))


def test_a_deleted_message_cannot_be_seen_or_deleted_again() -> None:
    output = talk([*LOGIN, b"DELE 2", b"RETR 2", b"DELE 2", b"LIST 2", b"UIDL 2", b"TOP 2 1"]).output
    assert output.count(b"-ERR no such message") == 5


def test_three_wrong_logins_end_the_session() -> None:
    driver = talk([b"USER ada", b"PASS x"] * (MAX_LOGIN_TRIES + 2))
    assert driver.machine.closed
    assert driver.output.count(b"-ERR [AUTH]") == MAX_LOGIN_TRIES


@pytest.mark.parametrize("junk", [b"USER " + b"a" * 10_000, b"USER a\0b", b"USER a\rb"])
def test_a_line_that_is_none_is_refused_and_the_session_goes_on(junk: bytes) -> None:
    driver = talk([junk, *LOGIN, b"STAT"])
    assert driver.output.count(b"-ERR") == 1
    assert driver.machine.state is State.TRANSACTION


def test_a_bare_line_feed_ends_the_session() -> None:
    driver = Driver(Pop3Machine(tls_active=True))
    driver.feed(b"USER ada\nPASS secret word\n")
    assert driver.machine.closed
    assert driver.events == []


def test_ten_bad_commands_in_a_row_end_the_session() -> None:
    driver = talk([b"HTTP"] * 30)
    assert driver.machine.closed
    assert driver.output.count(b"-ERR unknown command") == 10


def test_what_is_pipelined_behind_stls_in_clear_text_is_dropped() -> None:
    driver = talk([b"STLS", *LOGIN, b"DELE 1", b"QUIT"], tls_active=False, tls_offered=True)
    assert driver.events == [StartTls()]
    assert driver.output.endswith(b"+OK begin TLS\r\n")
    driver.feed(b"PASS secret word\r\n")
    assert driver.output.endswith(b"-ERR USER first\r\n")


def test_a_password_is_not_taken_in_clear_text() -> None:
    driver = talk([b"CAPA", *LOGIN, b"AUTH PLAIN"], tls_active=False, tls_offered=True)
    assert driver.events == []
    assert b"STLS" in driver.output
    assert b"SASL" not in driver.output


def test_stls_is_refused_under_tls_and_after_login() -> None:
    assert talk([b"STLS"], tls_active=True, tls_offered=True).events == []
    assert StartTls() not in talk([*LOGIN, b"STLS"], tls_offered=True).events


def test_a_maildrop_in_use_is_said_with_its_code() -> None:
    machine = Pop3Machine(tls_active=True)
    machine.receive(b"USER ada\r\nPASS x\r\n")
    assert machine.next_event() == Login(b"ada", b"x")
    machine.refuse_login("another session has it", "IN-USE")
    assert machine.take_output().endswith(b"-ERR [IN-USE] another session has it\r\n")


def test_deletions_that_failed_are_said_to_have_failed() -> None:
    machine = Pop3Machine(tls_active=True)
    machine.receive(b"USER ada\r\nPASS x\r\nDELE 1\r\nQUIT\r\nRETR 1\r\n")
    machine.next_event()
    machine.open_maildrop(ENTRIES)
    assert machine.next_event() == Quit((1,))
    assert machine.next_event() is None
    machine.finish_quit(complete=False)
    assert machine.closed
    assert machine.take_output().endswith(b"-ERR [SYS/TEMP] deleted messages not removed\r\n")


def test_our_own_shutdown_deletes_nothing_and_is_said_once() -> None:
    driver = talk([*LOGIN, b"DELE 1"])
    assert driver.machine.logged_in
    driver.machine.shut_down()
    driver.machine.shut_down()
    driver.feed(b"QUIT\r\n")
    assert driver.output.endswith(b"-ERR [SYS/TEMP] server is closing\r\n")
    assert driver.deleted is None
    assert not driver.machine.wants_input


def test_later_commands_wait_while_one_is_open() -> None:
    machine = Pop3Machine(tls_active=True)
    machine.receive(b"USER ada\r\nPASS x\r\nRETR 1\r\nRETR 2\r\n")
    machine.next_event()
    machine.open_maildrop(ENTRIES)
    assert machine.next_event() == Retrieve(1, None)
    assert machine.next_event() is None
    machine.refuse("the body cannot be read")
    assert machine.next_event() == Retrieve(2, None)


@given(
    st.lists(
        st.binary(max_size=40)
        | st.sampled_from(
            [b"USER a\r\n", b"PASS b\r\n", b"RETR 1\r\n", b"STLS\r\n", b"AUTH PLAIN\r\n", b"QUIT\r\n", b"TOP 1 1\r\n"]
        ),
        max_size=12,
    )
)
@settings(max_examples=150, deadline=None)
def test_no_octets_break_the_machine(pieces: list[bytes]) -> None:
    driver = Driver(Pop3Machine(plaintext_login=True, tls_offered=True))
    for piece in pieces:
        driver.feed(piece)
    for line in driver.output.split(b"\r\n"):
        assert b"\r" not in line
        assert b"\n" not in line
