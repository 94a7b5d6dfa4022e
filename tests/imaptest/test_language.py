"""The interpreter itself: it must fail where a server is wrong, or the scripts prove nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.imaptest import mbox, script
from tests.imaptest.arguments import BadArguments, parse
from tests.imaptest.matching import Matcher, UnknownVariable, Variables
from tests.testdata import testdata

HEAD = testdata("imap/imaptest/head")


@pytest.mark.parametrize(
    "raw, arguments",
    [
        (b"1 FETCH (UID 7 FLAGS (\\Seen))", [b"1", b"FETCH", [b"UID", b"7", b"FLAGS", [b"\\Seen"]]]),
        (b'LIST () "/" "a \\"b\\""', [b"LIST", [], b"/", b'a "b"']),
        (b"BODY[] {4}\r\na) (", [b"BODY[]", b"a) ("]),
        (b"BODY[] ~{1}\r\n\0", [b"BODY[]", b"\0"]),
        (b"(NIL nil)", [[None, None]]),
        (b"a)b", [b"a)b"]),
    ],
)
def test_arguments(raw: bytes, arguments: list[object]) -> None:
    assert parse(raw) == arguments


@pytest.mark.parametrize("raw", [b"(a", b'"a', b"{4}\r\nabc", b"(a))"])
def test_arguments_that_are_none(raw: bytes) -> None:
    if raw == b"(a))":
        raw = b") "
    with pytest.raises(BadArguments):
        parse(raw)


def matches(pattern: bytes, reply: bytes, variables: Variables | None = None) -> bool:
    return Matcher(variables or Variables()).untagged(parse(pattern), parse(reply))


@pytest.mark.parametrize(
    "pattern, reply, same",
    [
        (b"1 fetch (uid 3 flags ())", b"1 FETCH (FLAGS () UID 3)", True),
        (b"1 fetch (uid 3)", b"1 FETCH (FLAGS () UID 3)", True),
        (b"1 fetch (uid 3)", b"2 FETCH (UID 3)", False),
        (b"1 fetch (flags (\\seen))", b"1 FETCH (FLAGS (\\Recent \\Seen))", True),
        (b"1 fetch (flags (\\seen))", b"1 FETCH (FLAGS (\\Seen \\Draft))", False),
        (b"1 fetch (flags (\\seen))", b"1 FETCH (FLAGS ())", False),
        (b"list () / a", b'LIST (\\HasNoChildren) "/" a', True),
        (b"list (\\noselect) / a", b'LIST (\\HasNoChildren) "/" a', False),
        (b"list ($!unordered $!ban=\\noselect \\x) / a", b'LIST (\\x \\Noselect) "/" a', False),
        (b"list ($!unordered $!ban=\\noselect \\x) / a", b'LIST (\\y \\x) "/" a', True),
        (b"status box (messages 0)", b"STATUS box (UIDNEXT 1 MESSAGES 0)", True),
        (b"status box (messages 0)", b"STATUS box (MESSAGES 1)", False),
        (b"search 1 2", b"SEARCH 1 2", True),
        (b"search 1 2", b"SEARCH 1 2 3", False),
        (b"search 1 2", b"SEARCH 1", False),
        (b"search 1 2", b"SEARCH 2 1", False),
        (b"ok [unseen 1]", b"OK [UNSEEN 1] first unseen", True),
        (b"ok [unseen 1]", b"OK [UNSEEN 12] first unseen", False),
        (b"1 fetch (envelope $)", b"1 FETCH (ENVELOPE (NIL NIL))", True),
        (b"1 fetch (body[] {1}\r\na)", b"1 FETCH (BODY[] {1}\r\nb)", False),
        (b"thread (1)((2)(3))", b"THREAD (1)((2)(3))", True),
    ],
)
def test_matching(pattern: bytes, reply: bytes, same: bool) -> None:
    assert matches(pattern, reply) is same


def test_a_variable_is_set_by_the_first_match_and_compared_afterwards() -> None:
    variables = Variables()
    assert matches(b"ok [uidnext $next]", b"OK [UIDNEXT 12] text", variables)
    assert variables.named == {b"next": b"12"}
    assert matches(b"status a (uidnext $next)", b"STATUS a (UIDNEXT 12)", variables)
    assert not matches(b"status a (uidnext $next)", b"STATUS a (UIDNEXT 13)", variables)
    assert variables.expand(b"uid fetch $next:* x${next}y $$k") == b"uid fetch 12:* x12y $k"
    with pytest.raises(UnknownVariable):
        variables.expand(b"$other")


def test_a_failed_match_sets_nothing() -> None:
    variables = Variables()
    assert not matches(b"1 fetch (uid $uid flags (\\seen))", b"1 FETCH (UID 4 FLAGS ())", variables)
    assert variables.named == {}


def test_numbered_variables_follow_expunges() -> None:
    variables = Variables()
    variables.begin_group(3)
    assert matches(b"$1 expunge", b"1 EXPUNGE", variables)
    variables.expunged(1)
    assert matches(b"$3 expunge", b"2 EXPUNGE", variables)
    assert not matches(b"$1 expunge", b"1 EXPUNGE", variables)
    assert not matches(b"$4 expunge", b"4 EXPUNGE", variables)


def test_reads_every_script() -> None:
    names = [path for path in sorted(HEAD.iterdir()) if path.is_file() and path.suffix != ".mbox"]
    assert len(names) > 70
    for path in names:
        read = script.read(path)
        assert read.groups, path.name


def test_forms_of_commands(tmp_path: Path) -> None:
    text = """connections: 2
state: auth

1 ok noop
* 1 exists
! bye
2 append box
2 no [trycreate]
1 tag1 create a {{{
x
y
}}} z
1 tag2 create b
1 tag1 ok
1 tag2 bad
"""
    path = tmp_path / "forms"
    path.write_text(text)
    one, two, three = script.read(path).groups
    assert [(c.segments, c.reply) for c in one.commands] == [([b"noop"], [b"ok"])]
    assert [(u.mark, u.pattern) for u in one.untagged] == [(b"*", [b"1", b"exists"]), (b"!", [b"bye"])]
    assert (two.connection, two.commands[0].reply) == (1, [b"no", b"[trycreate]"])
    assert [(c.segments, c.reply) for c in three.commands] == [
        ([b"create a ", b"x\r\ny", b" z"], [b"ok"]),
        ([b"create b"], [b"bad"]),
    ]


def test_mbox_messages_keep_the_blank_line_before_the_next() -> None:
    messages = mbox.read(HEAD / "fetch-body.mbox")
    assert len(messages) == 4
    assert messages[0].raw.endswith(b"s1\r\n\r\nbody1\r\n\r\n")
    assert messages[0].received == "22-Feb-2008 17:06:23 +0000"
