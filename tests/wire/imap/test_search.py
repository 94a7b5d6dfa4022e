"""SEARCH: keys are read as the RFC writes them, judged by their definition, and nothing is asked without need."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad.wire.imap.matching import Matcher, MessageText
from postroad.wire.imap.search import Cost, Key, Node, Op, UnknownCharset, read_search
from postroad.wire.imap.syntax import BadSyntax, Cursor
from postroad.wire.mime.headers import split_header
from postroad.wire.mime.tree import Tree, read_tree
from tests.testdata import testdata


@dataclass
class Message:
    """A message in memory that counts how often its text was asked for."""

    octets: bytes = b""
    sequence: int = 1
    uid: int = 10
    flags: frozenset[bytes] = frozenset()
    day: int = 0
    size: int = 100
    modseq: int = 1
    asked: int = 0
    bodies: int = 0
    _text: MessageText | None = field(default=None)

    @property
    def text(self) -> MessageText:
        self.asked += 1
        if self._text is None:
            _, start = split_header(self.octets)
            self._text = MessageText(self.octets[:start], self._body)
        return self._text

    def _body(self) -> tuple[Tree, bytes]:
        self.bodies += 1
        _, start = split_header(self.octets)
        return read_tree(self.octets[:start], self.octets[start:]), self.octets[start:]


def matcher(keys: bytes, largest_sequence: int = 9, largest_uid: int = 90) -> Matcher:
    tree, _ = read_search(Cursor(keys))
    return Matcher(tree, largest_sequence=largest_sequence, largest_uid=largest_uid)


def matches(keys: bytes, message: Message) -> bool:
    return matcher(keys).matches(message)


MAIL = Message(
    b"From: =?utf-8?Q?J=C3=B6rg?= <user-from (x)@ (y) domain.example>\r\nTo: team: a@b.example;\r\n"
    b"Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?= aus K\r\nDate: Sat, 24 Mar 2007 23:00:00 +0200\r\nX-Empty:\r\n"
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\n"
    b"Content-Transfer-Encoding: quoted-printable\r\n\r\nsch=F6ner k=\r\nSatz\r\n--b\r\n"
    b"Content-Type: message/rfc822\r\n\r\n"
    b"Subject: inner\r\n\r\ndeep\r\n--b--\r\n",
    sequence=3,
    uid=30,
    flags=frozenset((b"\\seen", b"$hello")),
    day=13_596,
    size=1_000,
    modseq=50,
)


@pytest.mark.parametrize(
    "keys",
    [
        b"ALL",
        b"SEEN",
        b"KEYWORD $HELLO",
        b"UNKEYWORD other",
        b"OLD",
        b"NOT NEW",
        b"UNANSWERED UNDELETED UNDRAFT UNFLAGGED",
        b"1:3",
        b"2,3",
        b"UID 30",
        b"UID 25:*",
        b"NOT *",
        b'ON 24-Mar-2007 NOT BEFORE 24-Mar-2007 SINCE "24-Mar-2007"',
        b"SENTON 24-mar-2007 NOT SENTBEFORE 24-Mar-2007 SENTSINCE 24-Mar-2007",
        b"LARGER 999 SMALLER 1001",
        b"MODSEQ 50",
        b'MODSEQ "/flags/\\\\draft" all 7',
        b'CHARSET UTF-8 SUBJECT "GR\xc3\x9c\xc3\x9fE"',
        "CHARSET UTF-8 FROM {5}\r\nJÖrg".encode(),
        b"FROM user-from@domain.example",
        b"TO team",
        b"TO a@b",
        b'HEADER X-Empty ""',
        b'HEADER "x-empty" ""',
        b'NOT HEADER X-Other ""',
        "CHARSET UTF-8 BODY {8}\r\nschöner".encode(),
        b"BODY ksatz",
        b"BODY inner",
        b"TEXT deep",
        b"TEXT multipart/mixed",
        b"NOT BODY multipart/mixed",
        b"OR DELETED SEEN",
        b"OR (DELETED) (NOT DELETED SEEN)",
        b"NOT (DELETED SEEN)",
        b"(3) UID 30",
        b"OR NOT SEEN OR DELETED NOT OR ANSWERED DRAFT",
        b"OR ALL DELETED SEEN",
    ],
)
def test_keys_that_fit(keys: bytes) -> None:
    assert matches(keys, MAIL)
    assert not matches(b"NOT (" + keys.removeprefix(b"CHARSET UTF-8 ") + b")", MAIL)


@pytest.mark.parametrize(
    "keys",
    [
        b"",
        b" SEEN",
        b"SEEN ",
        b"SEEN  SEEN",
        b"UNKNOWN",
        b"NOT",
        b"NOT ",
        b"OR SEEN",
        b"OR SEEN ",
        b"()",
        b"(SEEN",
        b"SEEN)",
        b"(SEEN))",
        b"NOT (OR SEEN)",
        b"SUBJECT",
        b"SUBJECT  x",
        b"LARGER x",
        b"LARGER 4294967296",
        b"BEFORE 31-Feb-2024",
        b"0",
        b"UID 0",
        b"1:2:3",
        b"KEYWORD (a)",
        b"TEXT " + b"x" * 1_000_000,
        b"RETURN (COUNT) ALL",
        b"NOT " * 60 + b"SEEN",
        b"OR SEEN " * 60 + b"SEEN",
        b"(" * 60 + b"SEEN" + b")" * 60,
        b"SEEN " * 5_000 + b"SEEN",
    ],
)
def test_what_is_no_key_is_refused(keys: bytes) -> None:
    """Rows I3 and I11."""
    with pytest.raises(BadSyntax):
        read_search(Cursor(keys))


def test_an_unknown_charset_is_its_own_error() -> None:
    with pytest.raises(UnknownCharset):
        read_search(Cursor(b"CHARSET klingon SEEN"))
    assert read_search(Cursor(b"charset utf-8 SEEN"))[1] == b"UTF-8"


@pytest.mark.parametrize(
    "keys, asked",
    [
        (b"TEXT x DELETED", 0),
        (b"OR TEXT x SEEN", 0),
        (b"SUBJECT x (OR TEXT y DELETED)", 1),
        (b"NOT (SUBJECT x NOT SEEN)", 0),
        (b"OR BODY x SUBJECT inner DELETED", 0),
    ],
)
def test_the_text_is_not_asked_for_when_cheaper_keys_decide(keys: bytes, asked: int) -> None:
    message = Message(MAIL.octets, flags=MAIL.flags)
    matches(keys, message)
    assert (message.asked, message.bodies) == (asked, 0)


@pytest.mark.parametrize(
    "keys, cost", [(b"SEEN 1", Cost.NUMBERS), (b"SEEN FROM a", Cost.HEADER), (b"NOT BODY a", Cost.TEXT)]
)
def test_a_matcher_says_what_it_may_need(keys: bytes, cost: Cost) -> None:
    assert matcher(keys).cost is cost


def trees(depth: int) -> st.SearchStrategy[Node | Key]:
    leaf = st.sampled_from([Key("FLAG", header=name) for name in (b"a", b"b", b"c")]) | st.just(
        Key("SUBJECT", Cost.HEADER, header=b"subject", text="s")
    )
    return st.recursive(
        leaf | st.just(Node(Op.ALL)),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(lambda children: Node(Op.ALL, children)),
            st.tuples(inner, inner).map(lambda pair: Node(Op.ANY, list(pair))),
            inner.map(lambda child: Node(Op.NOT, [child])),
        ),
        max_leaves=depth,
    )


def judge(key: Node | Key, message: Message) -> bool:
    """The definition, by recursion."""
    if isinstance(key, Key):
        return key.header in message.flags if key.name == "FLAG" else b"Subject: s" in message.octets
    results = [judge(child, message) for child in key.children]
    if key.op is Op.NOT:
        return not results[0]
    return all(results) if key.op is Op.ALL else any(results)


@given(st.lists(trees(12), max_size=3), st.sets(st.sampled_from([b"a", b"b", b"c"])), st.booleans())
@settings(deadline=None, max_examples=100)
def test_the_program_judges_as_the_tree_does(keys: list[Node | Key], flags: set[bytes], subject: bool) -> None:
    message = Message(b"Subject: s\r\n\r\n" if subject else b"X: y\r\n\r\n", flags=frozenset(flags))
    tree = Node(Op.ALL, keys)
    assert Matcher(tree, largest_sequence=1, largest_uid=1).matches(message) == judge(tree, message)


@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([b"OR ", b"NOT ", b"(", b")", b"SEEN", b" ", b"1:*", b"FROM a", b"ALL"])).map(b"".join)
)
def test_no_octets_break_the_reader(octets: bytes) -> None:
    try:
        keys, _ = read_search(Cursor(octets))
    except (BadSyntax, UnknownCharset):
        return
    Matcher(keys, largest_sequence=1, largest_uid=1).matches(Message(b"A: b\r\n\r\n"))


def imaptest_cases() -> list[tuple[str, bytes, list[int]]]:
    """(script, keys, expected numbers) of imaptest's scripts that need no state beside the messages."""
    cases = []
    for name in ("search-addresses", "search-body", "search-header", "search-date"):
        lines = testdata(f"imap/imaptest/head/{name}").read_bytes().split(b"\n")
        for command, result in itertools.pairwise(lines):
            if command.startswith(b"ok search ") and result.startswith(b"* search"):
                cases.append((name, command.removeprefix(b"ok search "), [int(word) for word in result.split()[2:]]))
    assert len(cases) > 80
    return cases


@pytest.mark.parametrize("name, keys, expected", imaptest_cases())
def test_searches_find_what_imaptest_expects(name: str, keys: bytes, expected: list[int]) -> None:
    mbox = b"\n" + testdata(f"imap/imaptest/head/{name}.mbox").read_bytes()
    octets = [mail.partition(b"\n")[2].replace(b"\n", b"\r\n") for mail in mbox.split(b"\nFrom ")[1:]]
    messages = [Message(mail, sequence=number, uid=number) for number, mail in enumerate(octets, 1)]
    wanted = matcher(keys, len(messages), len(messages))
    assert [message.sequence for message in messages if wanted.matches(message)] == expected
