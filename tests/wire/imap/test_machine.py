"""The IMAP machine: every dialog is the same however its octets are cut, and bad input is answered and bounded."""

from __future__ import annotations

import base64
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad.wire.imap.commands import (
    AppendContent,
    AppendEnd,
    AppendFailed,
    AppendStart,
    Authenticate,
    Check,
    Close,
    Command,
    Copy,
    Create,
    Delete,
    Enable,
    Event,
    Expunge,
    Fetch,
    Idle,
    IdleDone,
    List,
    Login,
    Noop,
    QResync,
    Rename,
    SaslResponse,
    Search,
    Select,
    StartTls,
    Status,
    Store,
    Subscribe,
    Unsubscribe,
)
from postroad.wire.imap.fetch import Attribute, Kind, Section
from postroad.wire.imap.machine import MAX_BAD, ImapMachine, State
from postroad.wire.imap.sets import STAR
from tests.testdata import testdata

PLAIN = base64.b64encode(b"\0ada\0secret")


class Driver:
    """Answers events as a server would, and keeps them; content of one message is joined."""

    def __init__(self, machine: ImapMachine) -> None:
        self.machine = machine
        self.output = b""
        self.events: list[Event] = []
        self.message = b""
        self.stored: list[bytes] = []

    def feed(self, octets: bytes) -> bytes:
        """Give octets; returns what the machine said to them."""
        self.machine.receive(octets)
        while (event := self.machine.next_event()) is not None:
            if isinstance(event, AppendContent):
                self.message += event.chunk
            else:
                self.events.append(event)
                self.answer(event)
        said = self.machine.take_output()
        self.output += said
        return said

    def answer(self, event: Event) -> None:
        machine = self.machine
        match event:
            case Login("ada", "secret") | SaslResponse(b"\0ada\0secret") | Authenticate("PLAIN", b"\0ada\0secret"):
                machine.logged_in()
            case Authenticate(_, None):
                machine.challenge()
            case Login() | Authenticate() | SaslResponse():
                machine.login_failed()
            case StartTls():
                machine.begin_tls()
            case Select("none"):
                machine.no("no such mailbox", "NONEXISTENT")
            case Select():
                machine.untagged(b"3 EXISTS")
                machine.selected(read_only=event.read_only)
            case Close():
                machine.unselected()
                machine.ok()
            case AppendStart("none"):
                machine.no("no such mailbox", "TRYCREATE")
            case AppendStart():
                self.message = b""
                machine.accept_append()
            case AppendEnd():
                self.stored.append(self.message)
                machine.ok("stored", "APPENDUID 1 2")
            case Idle():
                machine.untagged(b"4 EXISTS")
            case AppendFailed():
                self.message = b""
            case _:
                machine.ok()


def driver(**options: bool) -> Driver:
    return Driver(ImapMachine(**{"tls": True, **options}))  # type: ignore[arg-type]


def logged_in() -> Driver:
    talk = driver()
    talk.feed(b"a LOGIN ada secret\r\n")
    talk.output = b""
    talk.events.clear()
    return talk


def selected() -> Driver:
    talk = logged_in()
    talk.feed(b"b SELECT INBOX\r\n")
    talk.output = b""
    talk.events.clear()
    return talk


def lines(*text: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in text)


DIALOGS: dict[str, bytes] = {
    "login and logout": lines(
        b"1 CAPABILITY", b"2 LOGIN ada secret", b"3 NOOP", b'4 ID ("name" NIL)', b"5 LOGOUT", b"6 NOOP"
    ),
    "login by literals": lines(b"1 LOGIN {3}", b"ada {6+}", b"secret", b"2 NAMESPACE"),
    "plain": lines(b"1 AUTHENTICATE PLAIN", PLAIN, b"2 NOOP"),
    "plain at once": lines(b"1 authenticate plain " + PLAIN, b"2 NOOP"),
    "cancelled": lines(b"1 AUTHENTICATE PLAIN", b"*", b"2 AUTHENTICATE PLAIN", b"!", b"3 AUTHENTICATE FOO", b"4 NOOP"),
    "wrong": lines(*[b"%d LOGIN ada wrong" % number for number in range(5)]),
    "mailboxes": lines(
        b"1 LOGIN ada secret",
        b"2 CREATE a/b/",
        b"3 RENAME a {3}",
        b"b&-",
        b'4 LIST "" "%"',
        b'5 LIST "" ""',
        b"6 LSUB {0}",
        b" *",
        b"7 STATUS {5}",
        b"inbox (MESSAGES UIDNEXT)",
        b"8 CREATE ../x",
        b"9 SELECT &bad",
    ),
    "append": lines(
        b"1 LOGIN ada secret",
        b'2 APPEND INBOX (\\Seen $a) " 1-Feb-2024 10:00:00 +0100" {11}',
        b"Subject: a\n",
        b"3 APPEND {5}",
        b"inbox {5+}",
        b"a\r\n\0b",
        b"4 APPEND none {3+}",
        b"abc",
        b"5 APPEND inbox {0}",
        b"",
        b"6 APPEND inbox {2}",
        b"ab junk",
        b"7 APPEND inbox (\\Recent) {2+}",
        b"ab",
        b"8 NOOP",
    ),
    "idle": lines(b"1 LOGIN ada secret", b"2 IDLE", b"DONE", b"3 IDLE", b"done", b"4 IDLE", b"5 NOOP", b"6 NOOP"),
    "messages": lines(
        b"1 LOGIN ada secret",
        b"2 SELECT INBOX",
        b"3 FETCH 1:* (FLAGS BODY[HEADER.FIELDS ({4}",
        b"From)])",
        b"4 UID STORE 1,3 +FLAGS.SILENT (\\Seen)",
        b"5 SEARCH SUBJECT {5}",
        b"a\r\nbc OR 1 2",
        b"6 UID COPY 1 {3+}",
        b"box",
        b"7 FETCH",
        b"8 UNKNOWN",
        b"9 EXAMINE none",
        b"10 FETCH 1 FLAGS",
    ),
}


@pytest.mark.parametrize("name", DIALOGS)
def test_a_dialog_is_the_same_however_its_octets_are_cut(name: str) -> None:
    octets = DIALOGS[name]
    whole = driver()
    whole.feed(octets)
    assert whole.events
    for at in range(1, len(octets)):
        cut = driver()
        cut.feed(octets[:at])
        cut.feed(octets[at:])
        assert (cut.output, cut.events, cut.stored) == (whole.output, whole.events, whole.stored)
    single = driver()
    for at in range(len(octets)):
        single.feed(octets[at : at + 1])
    assert (single.output, single.events, single.stored) == (whole.output, whole.events, whole.stored)


def test_messages_are_appended_octet_by_octet() -> None:
    talk = driver()
    talk.feed(DIALOGS["append"])
    assert talk.stored == [b"Subject: a\n", b"a\r\n\0b", b""]
    assert talk.events[1] == AppendStart("INBOX", (b"\\Seen", b"$a"), 1_706_778_000_000_000, 11)
    assert talk.output.count(b"+ send the message") == 3
    for tag, word in (
        (b"2", b"OK [APPENDUID 1 2]"),
        (b"4", b"NO [TRYCREATE]"),
        (b"6", b"BAD"),
        (b"7", b"BAD"),
        (b"8", b"OK"),
    ):
        assert b"\r\n%b %b " % (tag, word) in talk.output


COMMANDS: list[tuple[bytes, Command]] = [
    (b"NOOP", Noop()),
    (b"noop", Noop()),
    (b"SELECT inbox", Select("INBOX", False)),
    (b"EXAMINE a (CONDSTORE)", Select("a", True, True)),
    (
        b"SELECT a (QRESYNC (7 9 1:5 (1,3 2,4)))",
        Select("a", False, False, QResync(7, 9, ((1, 5),), (((1, 1), (3, 3)), ((2, 2), (4, 4))))),
    ),
    (b"CREATE p&AOQA5A-", Create("pää")),
    (b'DELETE "a b"', Delete("a b")),
    (b"RENAME a b/", Rename("a", "b")),
    (b"SUBSCRIBE a", Subscribe("a")),
    (b"UNSUBSCRIBE NIL", Unsubscribe("NIL")),
    (b"LIST a %", List("a", "%", False)),
    (b'LSUB "" "*"', List("", "*", True)),
    (b'LIST "" !#$$&\'+,-.0123456789:;<=>?@^_`|[}%*', List("", "!#$$&'+,-.0123456789:;<=>?@^_`|[}%*", False)),
    (b"STATUS a (MESSAGES uidnext MESSAGES)", Status("a", ("MESSAGES", "UIDNEXT"))),
    (b"ENABLE condstore X", Enable(("CONDSTORE", "X"))),
    (b"CHECK", Check()),
    (b"CLOSE", Close(True)),
    (b"UNSELECT", Close(False)),
    (b"EXPUNGE", Expunge(None)),
    (b"UID EXPUNGE 3:*", Expunge(((3, STAR),))),
    (b"FETCH 1 FAST", Fetch(((1, 1),), (Attribute.FLAGS, Attribute.INTERNALDATE, Attribute.SIZE), False)),
    (b"UID FETCH 2:4 FLAGS", Fetch(((2, 4),), (Attribute.UID, Attribute.FLAGS), True)),
    (b"uid fetch 2 (uid UID)", Fetch(((2, 2),), (Attribute.UID,), True)),
    (
        b"FETCH 1 (BODY BODY[] BODY.PEEK[1.2.HEADER.FIELDS (A b)]<3.4>)",
        Fetch(
            ((1, 1),),
            (
                Attribute.BODY,
                Section(),
                Section(Kind.FIELDS, (1, 2), (b"a", b"b"), True, (3, 4), b"BODY[1.2.HEADER.FIELDS (A b)]<3>"),
            ),
            False,
        ),
    ),
    (
        b"UID FETCH 1:* FLAGS (CHANGEDSINCE 12 VANISHED)",
        Fetch(((1, STAR),), (Attribute.UID, Attribute.FLAGS, Attribute.MODSEQ), True, 12, True),
    ),
    (b"STORE 1 FLAGS ()", Store(((1, 1),), "", (), False, False)),
    (b"STORE 1 +FLAGS NIL", Store(((1, 1),), "+", (b"NIL",), False, False)),
    (b"UID STORE 1 -flags.silent \\sEEN a A \\Seen", Store(((1, 1),), "-", (b"\\Seen", b"a"), True, True)),
    (b"STORE 1 (UNCHANGEDSINCE 5) FLAGS (a)", Store(((1, 1),), "", (b"a",), False, False, 5)),
    (b"COPY 1:2 a", Copy(((1, 2),), "a", False, False)),
    (b"UID MOVE 9 a", Copy(((9, 9),), "a", True, True)),
]


@pytest.mark.parametrize("octets, expected", COMMANDS)
def test_commands_are_read(octets: bytes, expected: Command) -> None:
    talk = selected()
    assert talk.feed(b"c " + octets + b"\r\n").splitlines()[-1].startswith(b"c OK")
    assert talk.events == [expected]


def test_search_hands_over_its_keys() -> None:
    talk = selected()
    talk.feed(b"c UID SEARCH CHARSET UTF-8 UNSEEN\r\n")
    (event,) = talk.events
    assert isinstance(event, Search)
    assert (event.uid, event.charset, len(event.keys.children)) == (True, "UTF-8", 1)
    assert (
        talk.feed(b"d SEARCH CHARSET klingon ALL\r\n") == b"d NO [BADCHARSET (US-ASCII UTF-8)] charset is not known\r\n"
    )


@pytest.mark.parametrize(
    "octets",
    [
        b"FETCH",
        b"FETCH 0 FLAGS",
        b"FETCH 4294967296 FLAGS",
        b"FETCH *:*:* FLAGS",
        b"FETCH 1 ()",
        b"FETCH 1 (FLAGS",
        b"FETCH 1 (FLAGS ALL)",
        b"FETCH 1 BODY[MIME]",
        b"FETCH 1 BODY[0]",
        b"FETCH 1 BODY[1.0]",
        b"FETCH 1 BODY[1.]",
        b"FETCH 1 BODY[" + b".".join([b"1"] * 101) + b"]",
        b"FETCH 1 BODY[]<0.0>",
        b"FETCH 1 BODY[]<-1.5>",
        b"FETCH 1 BODY[HEADER.FIELDS ()]",
        b"FETCH 1 BODY[HEADER.FIELDS]",
        b"FETCH 1 " + b"(" * 100,
        b"FETCH 1 FLAGS ",
        b"FETCH 1 BODY[TEXT",
        b"STORE 1 FLAGS (\\Recent)",
        b"STORE 1 FLAGS (\\Foo)",
        b"STORE 1 FLAGS",
        b"STORE 1 FLAGS (" + b" ".join([b"a"] * 200) + b")",
        b"STORE 1 FLAGS (" + b"a" * 300 + b")",
        b"STORE 1 FOO (a)",
        b"SELECT",
        b"SELECT  a",
        b"SELECT a b",
        b'SELECT "a',
        b'SELECT "a\\b"',
        b"SELECT a (FOO)",
        b"STATUS a ()",
        b"STATUS a (FOO)",
        b"ENABLE",
        b"NOOP x",
        b"UID",
        b"UID NOOP",
        b"UID FOO 1",
        b"LOGIN ada secret",
        b"STARTTLS",
        b"AUTHENTICATE PLAIN",
        b"SEARCH " + b"(" * 100_0,
        b"LIST " + b"(" * 1000,
        b"ID (" + b"(" * 1000,
        b"ID (" + b'"a" "b" ' * 31 + b'"a" "b")',
        b"FOO",
        b"COMPRESS DEFLATE",
        b"THREAD REFERENCES UTF-8 ALL",
        b'LIST "" ' + b"%" * 2000,
        b"COPY 1",
        b"LOGIN {-1}",
    ],
)
def test_bad_syntax_is_one_tagged_bad_and_no_event(octets: bytes) -> None:
    """Rows I3, I11, I12, I13, I15, I19."""
    talk = selected()
    said = talk.feed(b"c " + octets + b"\r\n")
    assert said.startswith(b"c BAD ")
    assert said.count(b"\r\n") == 1
    assert talk.events == []
    assert talk.feed(b"d NOOP\r\n") == b"d OK done\r\n"


@pytest.mark.parametrize("name", [b"../x", b"a/../../b", b'"%"', b'"*"', b"{3}\r\na\rb", b"&AOR-", b'""', b'" a"'])
def test_mailbox_names_that_cannot_be_are_refused(name: bytes) -> None:
    """Row I8."""
    talk = logged_in()
    assert b"c NO [CANNOT] " in talk.feed(b"c CREATE " + name + b"\r\n")
    assert talk.events == []


@pytest.mark.parametrize(
    "octets",
    [
        b"NOOP\r\n",
        b"* NOOP\r\n",
        b"+ NOOP\r\n",
        b"\r\n",
        b" \r\n",
        b"x" * 5_000 + b" NOOP\r\n",
        b"a\0 NOOP\r\n",
        b"\xff NOOP\r\n",
    ],
)
def test_what_has_no_tag_is_answered_without_one_and_ten_times_only(octets: bytes) -> None:
    """Row I4."""
    talk = logged_in()
    said = talk.feed(octets * 30)
    assert said.count(b"BAD") == MAX_BAD
    assert said.endswith(b"* BYE too many bad commands\r\n")
    assert talk.machine.closed
    assert talk.events == []


def test_a_good_command_forgives_the_bad_ones_before_it() -> None:
    talk = logged_in()
    talk.feed((b"a FOO\r\n" * 9 + b"b NOOP\r\n") * 5)
    assert not talk.machine.closed


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /secret HTTP/1.0\r\n",
        b"CONNECT example.org:25 HTTP/1.1\r\n",
        b"<html><body>x\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_other_protocols_are_sent_away_at_once_and_nothing_is_echoed(octets: bytes) -> None:
    """Row I5."""
    talk = driver()
    assert talk.feed(octets) == b"* BYE this is an IMAP server\r\n"
    assert talk.machine.closed


@pytest.mark.parametrize(
    "announced", [b"{999999999}", b"{4294967296}", b"{99999999999999999999}", b"{8193}", b"{5000+}"]
)
def test_huge_literals_before_login_end_the_session_and_take_no_memory(announced: bytes) -> None:
    """Row I1."""
    talk = driver()
    said = talk.feed(b"a LOGIN " + announced + b"\r\n")
    assert said.startswith(b"a BAD ")
    assert b"* BYE" in said
    assert talk.machine.closed


@pytest.mark.parametrize("unit", [b"{0}\r\n", b"{1+}\r\nx", b"NOOP\r\n"])
def test_many_small_literals_and_commands_take_linear_time(unit: bytes) -> None:
    def seconds(count: int) -> float:
        machine = ImapMachine(tls=True)
        machine.receive(b"a LOGIN ada secret\r\n")
        machine.next_event()
        machine.logged_in()
        machine.receive(b"a SUBSCRIBE " + unit * count)
        before = time.process_time()
        while machine.next_event() is not None:
            machine.ok()
        return time.process_time() - before

    once, twice = (min(seconds(count) for _ in range(3)) for count in (5_000, 10_000))
    assert twice < max(3.2 * once, 0.05)


def test_large_literals_after_login() -> None:
    talk = logged_in()
    assert talk.feed(b"c SUBSCRIBE {100000}\r\n").startswith(b"c BAD ")
    assert talk.feed(b"d NOOP\r\n") == b"d OK done\r\n"
    assert b"* BYE" in talk.feed(b"c APPEND INBOX {5000+}\r\n")
    assert talk.machine.closed


@pytest.mark.parametrize("login", [False, True])
def test_a_line_without_end_ends_the_session(login: bool) -> None:
    """Row I2."""
    talk = logged_in() if login else driver()
    for _ in range(200):
        talk.feed(b"a LOGIN " + b"x" * 1_000)
    assert talk.machine.closed
    assert talk.output.endswith(b"* BYE line too long\r\n")


def test_a_bare_line_feed_ends_the_session() -> None:
    talk = driver()
    talk.feed(b"a LOGIN ada secret\nb NOOP\n")
    assert talk.machine.closed
    assert talk.events == []


def test_a_nul_or_bare_cr_is_answered_and_skipped() -> None:
    talk = logged_in()
    assert talk.feed(b"a NO\0OP\r\nb NO\rOP\r\nc NOOP\r\n") == b"* BAD NUL\r\n* BAD bare CR\r\nc OK done\r\n"


def test_what_is_pipelined_behind_starttls_in_the_clear_is_dropped() -> None:
    """Row I6."""
    talk = driver(tls=False, tls_offered=True)
    talk.feed(b"a STARTTLS\r\nb LOGIN ada secret\r\n")
    talk.feed(b"c LOGIN ada secret\r\n")
    assert talk.events == [StartTls()]
    assert talk.output == b"a OK begin TLS\r\n"
    talk.machine.tls_started()
    assert b"STARTTLS" not in talk.feed(b"d CAPABILITY\r\n")
    assert talk.feed(b"e LOGIN ada secret\r\n").startswith(b"e OK ")


def test_a_password_is_not_taken_in_clear_text() -> None:
    """Row I7."""
    talk = driver(tls=False, tls_offered=True)
    said = talk.feed(b"a CAPABILITY\r\nb LOGIN ada secret\r\nc AUTHENTICATE PLAIN\r\n")
    assert b" STARTTLS LOGINDISABLED" in said
    assert b"AUTH=" not in said
    assert b"b NO [PRIVACYREQUIRED]" in said
    assert b"c NO [PRIVACYREQUIRED]" in said
    assert talk.events == []


def test_secrets_are_not_shown() -> None:
    talk = driver()
    talk.feed(DIALOGS["login and logout"] + DIALOGS["plain at once"])
    assert "secret" not in repr(talk.events)


def test_three_wrong_logins_end_the_session() -> None:
    talk = driver()
    talk.feed(DIALOGS["wrong"])
    assert len(talk.events) == 3
    assert talk.machine.closed


def test_commands_wait_for_the_state_they_need() -> None:
    talk = driver()
    assert talk.feed(b"a SELECT INBOX\r\nb FETCH 1 FLAGS\r\n").count(b" BAD not in this state") == 2
    talk = logged_in()
    assert talk.feed(b"a FETCH 1 FLAGS\r\n").startswith(b"a BAD ")
    states = []
    for mailbox in (b"INBOX", b"none"):
        talk.feed(b"b SELECT " + mailbox + b"\r\n")
        states.append(talk.machine.state)
    assert states == [State.SELECTED, State.AUTHENTICATED]


def test_in_idle_changes_go_out_and_junk_ends_it_with_bad() -> None:
    """Row I18."""
    talk = logged_in()
    assert talk.feed(b"a IDLE\r\n") == b"+ idling\r\n* 4 EXISTS\r\n"
    assert talk.machine.idling
    talk.machine.untagged(b"5 EXISTS")
    assert talk.feed(b"") == b"* 5 EXISTS\r\n"
    assert talk.feed(b"DONE\r\n") == b"a OK done\r\n"
    assert talk.feed(b"b IDLE\r\nNOOP\r\n").endswith(b"b BAD expected DONE\r\n")
    assert talk.feed(b"c NOOP\r\n") == b"c OK done\r\n"
    assert talk.events == [Idle(), IdleDone(), Idle(), IdleDone(), Noop()]


def test_later_commands_wait_while_one_is_open() -> None:
    machine = ImapMachine(tls=True)
    machine.receive(b"a LOGIN ada secret\r\nb NOOP\r\n")
    assert machine.next_event() == Login("ada", "secret")
    assert machine.next_event() is None
    machine.logged_in()
    assert machine.next_event() == Noop()


def test_a_large_message_does_not_stay_in_memory() -> None:
    machine = ImapMachine(tls=True)
    machine.receive(b"a LOGIN ada secret\r\nb APPEND INBOX {50000000}\r\n")
    machine.next_event()
    machine.logged_in()
    assert isinstance(machine.next_event(), AppendStart)
    machine.accept_append()
    chunk = b"x" * 50_000
    tracemalloc.start()
    for _ in range(1_000):
        machine.receive(chunk)
        assert machine.next_event() == AppendContent(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    machine.receive(b"\r\n")
    assert machine.next_event() == AppendEnd()


def test_a_connection_lost_in_a_message_leaves_no_end() -> None:
    """Row I14."""
    talk = logged_in()
    talk.feed(b"b APPEND INBOX {100}\r\nshort")
    assert talk.stored == []
    assert not any(isinstance(event, AppendEnd) for event in talk.events)


def test_shutdown_says_bye_once() -> None:
    machine = ImapMachine()
    machine.greet()
    machine.bye("shutting down")
    machine.bye("shutting down")
    assert machine.take_output().count(b"* BYE") == 1
    assert machine.closed


@pytest.mark.parametrize("line", testdata("imap/mox-fuzzseed/fuzzseed.txt").read_bytes().split(b"\n")[::7])
def test_responses_sent_to_us_break_nothing(line: bytes) -> None:
    for talk in (driver(), selected()):
        talk.feed(line + b"\r\n")
        talk.feed(b"z NOOP\r\n")


PIECES = st.sampled_from(
    [
        b"a ",
        b"b ",
        b"LOGIN ",
        b"ada ",
        b"secret",
        b"\r\n",
        b"{3}\r\n",
        b"{3+}\r\n",
        b"abc",
        b"APPEND INBOX ",
        b"IDLE",
        b"DONE",
        b"UID ",
        b"FETCH ",
        b"1:* ",
        b"(FLAGS BODY[])",
        b"SEARCH ",
        b"OR NOT ",
        b"SELECT INBOX",
        b"LOGOUT",
        b"STARTTLS",
        b"(",
        b")",
    ]
)


@given(st.lists(PIECES | st.binary(max_size=10), max_size=40), st.booleans())
@settings(max_examples=120, deadline=None)
def test_no_octets_break_the_machine_and_every_line_it_says_is_one(pieces: list[bytes], login: bool) -> None:
    talk = selected() if login else driver(tls=False, tls_offered=True, plaintext_login=True)
    for piece in pieces:
        talk.feed(piece)
    whole = selected() if login else driver(tls=False, tls_offered=True, plaintext_login=True)
    whole.feed(b"".join(pieces))
    if StartTls() not in talk.events:
        assert (talk.output, talk.events, talk.stored) == (whole.output, whole.events, whole.stored)
    for line in talk.output.split(b"\r\n"):
        assert b"\r" not in line
        assert b"\n" not in line
