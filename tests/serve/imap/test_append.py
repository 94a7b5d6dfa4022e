"""APPEND: what comes is what is stored, with CRLF; what cannot be stored leaves nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.serve.imap_append import LineEnds
from postroad.store.account_records import UserQuota
from postroad.store.accounts import user_quota
from postroad.values.errors import StoreBroken, StoreFull
from tests.serve.harness import ANNA
from tests.serve.imap.office import Client, Office

MAIL = b"Subject: one\r\n\r\nbody\r\n"


async def stored(client: Client, number: bytes = b"1") -> bytes:
    """The whole message as FETCH shows it."""
    [reply, _] = await client.ask(b"FETCH %b BODY.PEEK[]" % number)
    inner = reply.arguments[2]
    assert isinstance(inner, list)
    assert isinstance(inner[1], bytes)
    return inner[1]


async def test_append_with_flags_and_date(office: Office) -> None:
    client = await office.login(b"INBOX")
    date = b'"17-Jul-1996 02:44:25 -0700"'
    assert (await client.word(b"APPEND INBOX (\\Seen $work) %b " % date, MAIL, b"")).startswith(b"OK [APPENDUID ")
    [reply, _] = await client.ask(b"FETCH 1 (FLAGS INTERNALDATE RFC822.SIZE)")
    assert reply.arguments[2] == [
        b"FLAGS", [b"\\Recent", b"\\Seen", b"$work"],
        b"INTERNALDATE", b"17-Jul-1996 09:44:25 +0000",
        b"RFC822.SIZE", b"%d" % len(MAIL),
    ]  # fmt: skip
    assert await stored(client) == MAIL


async def test_the_own_append_is_told_before_its_answer(office: Office) -> None:
    client = await office.login(b"INBOX")
    replies = await client.ask(b"APPEND INBOX ", MAIL, b"")
    assert [reply.arguments for reply in replies[:-1]] == [[b"1", b"EXISTS"], [b"1", b"RECENT"]]


async def test_a_large_message_comes_and_goes_octet_for_octet(office: Office) -> None:
    client = await office.login(b"INBOX")
    raw = b"Subject: large\r\n\r\n" + b"".join(b"%07d 0123456789abcdef\r\n" % n for n in range(40_000))
    assert (await client.word(b"APPEND INBOX ", raw, b"")).startswith(b"OK")
    assert office.house.store.sql("SELECT body IS NULL, length(body_file) > 0 FROM messages") == [(1, 1)]
    assert await stored(client) == raw
    [reply, _] = await client.ask(b"FETCH 1 BODY.PEEK[TEXT]<500000.30>")
    assert reply.arguments[2] == [b"BODY[TEXT]<500000>", raw[18 + 500_000 : 18 + 500_030]]
    assert office.house.spool.in_memory == 0


async def test_a_keyword_keeps_the_spelling_the_mailbox_knows(office: Office) -> None:
    client = await office.login(b"INBOX")
    await client.ask(b"APPEND INBOX ($Work) ", MAIL, b"")
    await client.ask(b"APPEND INBOX ($WORK) ", MAIL, b"")
    assert office.house.store.sql("SELECT keywords FROM mailbox_messages") == [("$Work",), ("$Work",)]
    await client.ask(b"STORE 1 -FLAGS.SILENT ($work)")
    assert office.house.store.sql("SELECT keywords FROM mailbox_messages ORDER BY uid") == [("",), ("$Work",)]


async def test_no_mailbox_says_trycreate_and_takes_nothing(office: Office) -> None:
    client = await office.login()
    assert await client.word(b"APPEND nowhere ", MAIL, b"") == b"NO [TRYCREATE]"
    assert await client.word(b"NOOP") == b"OK"


async def test_i14_over_quota_before_and_after_the_message(office: Office) -> None:
    client = await office.login(b"INBOX")
    office.house.store.run(user_quota, UserQuota(ANNA, len(MAIL) + 10))
    assert await client.word(b"APPEND INBOX ", MAIL * 3, b"") == b"NO [OVERQUOTA]"
    client.write(b"x APPEND INBOX {%d}\r\n" % len(MAIL))
    assert (await client.line()).startswith(b"+")
    office.house.store.run(user_quota, UserQuota(ANNA, 1))
    client.write(MAIL + b"\r\n")
    assert (await client.line()).startswith(b"x NO [OVERQUOTA]")
    assert office.house.store.sql("SELECT * FROM messages") == []


async def test_i14_the_file_of_a_refused_large_message_goes(office: Office) -> None:
    client = await office.login(b"INBOX")
    raw = MAIL + b"x" * 500_000
    client.write(b"x APPEND INBOX {%d}\r\n" % len(raw))
    await client.line()
    office.house.store.run(user_quota, UserQuota(ANNA, 1))
    client.write(raw + b"\r\n")
    assert (await client.line()).startswith(b"x NO [OVERQUOTA]")
    office.house.spool.close()
    assert [path for path in office.house.spool.body_path("").rglob("*") if path.is_file()] == []


async def test_i14_connection_lost_inside_the_literal(office: Office) -> None:
    client = await office.login(b"INBOX")
    client.write(b"x APPEND INBOX {1000}\r\nSubject: ")
    await client.line()
    client.writer.close()
    other = await office.login(b"INBOX")
    assert (await other.ask(b"SEARCH ALL"))[0].arguments == [b"SEARCH"]
    assert office.house.store.sql("SELECT * FROM messages") == []


async def test_too_large_is_said_before_it_comes(office: Office) -> None:
    client = await office.login()
    assert await client.word(b"APPEND INBOX ", b"x" * 50_000_001, b"") == b"NO [TOOBIG]"


async def test_a_header_over_its_limit_is_refused(office: Office) -> None:
    client = await office.login()
    raw = b"".join(b"X-%d: y\r\n" % n for n in range(40_000)) + b"\r\nbody\r\n"
    assert await client.word(b"APPEND INBOX ", raw, b"") == b"NO [LIMIT]"
    assert await client.word(b"NOOP") == b"OK"


@pytest.mark.parametrize("error", [StoreFull("full"), StoreBroken("broken")])
async def test_a_store_that_fails_keeps_nothing_and_says_so(office: Office, error: Exception) -> None:
    client = await office.login(b"INBOX")

    async def fail(unit: object, args: object) -> object:
        raise error

    office.desk.call = fail  # type: ignore[method-assign]
    assert await client.word(b"APPEND INBOX ", MAIL, b"") == b"NO [UNAVAILABLE]"
    assert office.house.spool.in_memory == 0


@pytest.mark.parametrize(
    "raw, kept",
    [
        (b"Subject: x\n\nbody\n", b"Subject: x\r\n\r\nbody\r\n"),
        (b"Subject: x\r\n\r\na\rb\nc", b"Subject: x\r\n\r\na\r\nb\r\nc"),
        (b"Subject: x\r\n\r\nend\r", b"Subject: x\r\n\r\nend\r\n"),
    ],
)
async def test_m38_line_ends_become_crlf(office: Office, raw: bytes, kept: bytes) -> None:
    client = await office.login(b"INBOX")
    await client.ask(b"APPEND INBOX ", raw, b"")
    assert await stored(client) == kept


async def test_a_nul_refuses_the_message(office: Office) -> None:
    client = await office.login(b"INBOX")
    assert await client.word(b"APPEND INBOX ", b"Subject: x\r\n\r\na\0b", b"") == b"NO [CANNOT]"


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"bc"]), max_size=12), st.data())
def test_line_ends_are_the_same_at_every_split(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    ends = LineEnds()
    expected = ends.normalised(whole) + ends.rest()
    assert expected.count(b"\r") == expected.count(b"\n") == expected.count(b"\r\n")
    split = data.draw(st.integers(0, len(whole)))
    ends = LineEnds()
    assert ends.normalised(whole[:split]) + ends.normalised(whole[split:]) + ends.rest() == expected


@pytest.mark.parametrize(
    "command, word",
    [
        (b'APPEND INBOX "31-Feb-2024 00:00:00 +0000" ', b"BAD"),
        (b'APPEND INBOX "nonsense" ', b"BAD"),
        (b"APPEND INBOX (\\Recent) ", b"BAD"),
        (b"APPEND INBOX (%b) " % b" ".join(b"k%d" % n for n in range(1000)), b"BAD"),
        (b"APPEND INBOX (%b) " % (b"k" * 150), b"NO [LIMIT]"),
    ],
)
async def test_i15_bad_dates_and_flags(office: Office, command: bytes, word: bytes) -> None:
    client = await office.login(b"INBOX")
    assert await client.word(command, MAIL, b"") == word
    assert office.house.store.sql("SELECT * FROM mailbox_messages") == []
    assert await client.word(b"NOOP") == b"OK"


async def test_i15_at_most_a_hundred_keywords_in_a_mailbox(office: Office) -> None:
    client = await office.login(b"INBOX")
    for start in (0, 50):
        words = b" ".join(b"k%d" % n for n in range(start, start + 50))
        assert (await client.word(b"APPEND INBOX (%b) " % words, MAIL, b"")).startswith(b"OK")
    assert await client.word(b"APPEND INBOX (onemore) ", MAIL, b"") == b"NO [LIMIT]"
    assert await client.word(b"STORE 1 +FLAGS (onemore)") == b"NO [LIMIT]"
    replies = await client.ask(b"SELECT INBOX")
    [permanent] = [r.arguments for r in replies if b"[PERMANENTFLAGS" in r.arguments]
    assert b"\\*" not in permanent[2], "no new keywords are invited"  # type: ignore[operator]
