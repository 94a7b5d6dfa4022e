"""SEARCH over a real store: what it finds, and how little it reads for it."""

from __future__ import annotations

import pytest

from tests.serve.imap.office import Client, Office

ENCODED = (
    b"From: ada@example.org\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    b"R3LDvMOfZSBhdXMgS8O2bG4=\r\n"
)
MAILS = [
    b"From: Ada <ada@example.org>\r\nSubject: road works\r\nDate: Mon, 1 Jan 2024 10:00:00 +0100\r\n\r\nplain text\r\n",
    b"From: bo@example.org\r\nSubject: =?utf-8?b?UMOkY2tjaGVu?=\r\n\r\nPostroad and more\r\n",
    ENCODED,
]


@pytest.fixture
async def client(office: Office) -> Client:
    for raw in MAILS:
        office.deliver(raw)
    return await office.login(b"INBOX")


async def found(client: Client, *segments: bytes) -> list[object]:
    replies = await client.ask(*segments)
    assert replies[-1].arguments[0] == b"OK", replies
    return [int(number) for number in replies[0].arguments[1:]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "keys, numbers",
    [
        (b"ALL", [1, 2, 3]),
        (b"FROM ada", [1, 3]),
        (b"NOT FROM ada", [2]),
        (b"OR SUBJECT road SUBJECT zzz", [1]),
        (b"BODY postroad", [2]),
        (b"TEXT road", [1, 2]),
        (b"SENTON 1-Jan-2024", [1]),
        (b"LARGER 10000", []),
        (b"SMALLER 10000 UNSEEN", [1, 2, 3]),
        (b"SINCE 1-Jan-1990 BEFORE 1-Jan-2199", [1, 2, 3]),
        (b"2:3 FROM ada", [3]),
        (b"UID 2", [2]),
        (b"(OR (1) (3)) UNDELETED", [1, 3]),
        (b"CHARSET US-ASCII ALL", [1, 2, 3]),
    ],
)
async def test_keys(client: Client, keys: bytes, numbers: list[int]) -> None:
    assert await found(client, b"SEARCH " + keys) == numbers


async def test_text_is_compared_decoded_and_without_case(client: Client) -> None:
    assert await found(client, b"SEARCH CHARSET UTF-8 SUBJECT ", "PÄCKCHEN".encode(), b"") == [2]
    assert await found(client, b"SEARCH CHARSET UTF-8 BODY ", "grüße".encode(), b"") == [3]


async def test_an_unknown_charset_is_named(client: Client) -> None:
    [reply] = await client.ask(b"SEARCH CHARSET KOI8-R ALL")
    assert reply.arguments[:3] == [b"NO", b"[BADCHARSET", [b"US-ASCII", b"UTF-8"]]


async def test_uid_search_gives_uids(client: Client) -> None:
    await client.ask(b"STORE 1 +FLAGS.SILENT (\\Deleted)")
    await client.ask(b"EXPUNGE")
    assert await found(client, b"UID SEARCH FROM ada") == [3]
    assert await found(client, b"SEARCH FROM ada") == [2]


async def reads(office: Office, client: Client, keys: bytes) -> list[str]:
    """The statements one search makes."""
    asked: list[str] = []
    read = office.house.store.rows

    async def watching(sql: str, params: object = ()) -> object:
        asked.append(sql)
        return await read(sql, params)  # type: ignore[arg-type]

    office.mailboxes._rows = watching  # type: ignore[assignment]
    await client.ask(b"SEARCH " + keys)
    return asked


async def test_flags_are_searched_without_the_store(office: Office, client: Client) -> None:
    assert await reads(office, client, b"UNSEEN NOT DELETED KEYWORD $x") == []


async def test_headers_are_read_only_of_what_is_left_over(office: Office, client: Client) -> None:
    asked = await reads(office, client, b"SEEN SUBJECT road")
    assert asked == [], "no message is seen, so no subject matters"
    asked = await reads(office, client, b"1 SUBJECT road")
    assert all("m.body," not in sql for sql in asked), "a subject needs no body"


async def test_i11_deep_and_long_searches(client: Client) -> None:
    assert await client.word(b"SEARCH " + b"NOT " * 1000 + b"ALL") == b"BAD"
    assert await client.word(b"SEARCH " + b"OR ALL " * 1000 + b"ALL") == b"BAD"
    assert await client.word(b"SEARCH" + b" SEEN" * 5000) == b"BAD"
    assert await client.word(b"SEARCH TEXT ", b"x" * 20_000, b"") == b"BAD"
    assert await client.word(b"SEARCH TEXT ", b"x" * 1_000_000, b"") == b"BAD"
    assert await client.word(b"NOOP") == b"OK"
