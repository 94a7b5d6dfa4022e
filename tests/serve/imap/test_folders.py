"""The tree of mailboxes over IMAP: LIST, CREATE, RENAME, STATUS and names of all kinds."""

from __future__ import annotations

import time

import pytest

from tests.serve.imap.office import Client, Office


async def listed(client: Client, command: bytes) -> dict[bytes, set[bytes]]:
    """Names and attributes of a LIST."""
    replies = await client.ask(command)
    return {
        reply.arguments[3]: set(reply.arguments[1])  # type: ignore[misc,arg-type]
        for reply in replies[:-1]
    }


async def test_what_an_account_begins_with(office: Office) -> None:
    client = await office.login()
    assert await listed(client, b'LIST "" *') == {
        b"INBOX": {b"\\HasNoChildren"},
        b"Sent": {b"\\HasNoChildren", b"\\Sent"},
        b"Drafts": {b"\\HasNoChildren", b"\\Drafts"},
        b"Trash": {b"\\HasNoChildren", b"\\Trash"},
        b"Junk": {b"\\HasNoChildren", b"\\Junk"},
        b"Archive": {b"\\HasNoChildren", b"\\Archive"},
    }


async def test_children_and_levels_without_a_mailbox(office: Office) -> None:
    client = await office.login()
    await client.ask(b"CREATE a/b/c")
    await client.ask(b"DELETE a/b")
    names = await listed(client, b'LIST "" a*')
    assert names == {
        b"a": {b"\\HasChildren"},
        b"a/b": {b"\\Noselect", b"\\HasChildren"},
        b"a/b/c": {b"\\HasNoChildren"},
    }


@pytest.mark.parametrize(
    "command, word",
    [
        (b"CREATE Sent", b"NO [ALREADYEXISTS]"),
        (b"CREATE inbox", b"NO [ALREADYEXISTS]"),
        (b"DELETE nowhere", b"NO [NONEXISTENT]"),
        (b"DELETE Inbox", b"NO [CANNOT]"),
        (b"SELECT nowhere", b"NO [NONEXISTENT]"),
        (b"STATUS nowhere (MESSAGES)", b"NO [NONEXISTENT]"),
        (b"RENAME nowhere a", b"NO [NONEXISTENT]"),
        (b"RENAME Sent Trash", b"NO [ALREADYEXISTS]"),
        (b"COPY 1 nowhere", b"BAD"),
        (b"SELECT INBOX (CONDSTORE)", b"BAD"),
    ],
)
async def test_refusals_have_codes(office: Office, command: bytes, word: bytes) -> None:
    client = await office.login()
    assert await client.word(command) == word
    assert await client.word(b"NOOP") == b"OK"


async def test_a_failed_select_leaves_nothing_selected(office: Office) -> None:
    client = await office.login(b"INBOX")
    assert await client.word(b"SELECT nowhere") == b"NO [NONEXISTENT]"
    assert await client.word(b"FETCH 1 FLAGS") == b"BAD"
    assert office.watch._watchers == {}


async def test_status_tells_everything(office: Office) -> None:
    client = await office.login()
    office.deliver(b"Subject: x\r\n\r\n1234\r\n")
    [reply, _] = await client.ask(
        b"STATUS inbox (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN SIZE DELETED HIGHESTMODSEQ)"
    )
    items = reply.arguments[2]
    assert isinstance(items, list)
    values = dict(zip(items[::2], items[1::2], strict=True))
    assert (values[b"MESSAGES"], values[b"RECENT"], values[b"UIDNEXT"], values[b"SIZE"]) == (b"1", b"1", b"2", b"20")
    assert (values[b"DELETED"], values[b"UNSEEN"]) == (b"0", b"1")


async def test_subscriptions_outlive_their_mailbox(office: Office) -> None:
    client = await office.login()
    await client.ask(b"CREATE gone")
    await client.ask(b"SUBSCRIBE gone")
    await client.ask(b"DELETE gone")
    assert b"gone" in await listed(client, b'LSUB "" *')
    await client.ask(b"UNSUBSCRIBE gone")
    assert b"gone" not in await listed(client, b'LSUB "" *')


async def test_uidvalidity_stays_and_is_never_given_twice(office: Office) -> None:
    client = await office.login()

    async def uidvalidity(name: bytes) -> object:
        [reply, _] = await client.ask(b"STATUS %b (UIDVALIDITY)" % name)
        return reply.arguments[2][1]  # type: ignore[index]

    await client.ask(b"CREATE a")
    first = await uidvalidity(b"a")
    await client.ask(b"RENAME a b")
    assert await uidvalidity(b"b") == first
    await client.ask(b"CREATE a")
    assert await uidvalidity(b"a") != first


# -- rows I8, I9 and I20 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [b"../x", b"a/../../b", b"a%b", b"a*b", b"a//b", b"/a", b" ", b"a/ ", b"&AGE-", b"&!-", b"&AAA-", b"\xc3\xa4",
     b"a\0b", b"a\rb", b"x" * 10_000, b"&AA0ACg-"],
)  # fmt: skip
async def test_i8_names_that_are_none(office: Office, name: bytes) -> None:
    client = await office.login()
    before = office.house.store.sql("SELECT count(*) FROM mailboxes")
    said = await client.word(b"CREATE ", name, b"")
    assert said.split()[0] in (b"NO", b"BAD"), said
    assert office.house.store.sql("SELECT count(*) FROM mailboxes") == before


async def test_i8_inbox_is_one_and_nfd_is_nfc(office: Office) -> None:
    client = await office.login()
    assert (await client.word(b"SELECT inBOX")).startswith(b"OK")
    await client.ask(b'CREATE "p&AOQ-"')
    assert await client.word(b'CREATE "pa&Awg-"') == b"NO [ALREADYEXISTS]"


async def test_i9_wildcards_over_ten_thousand_names(office: Office) -> None:
    client = await office.login()
    store = office.house.store
    store.connection.begin()
    store.connection.executemany(
        "INSERT INTO mailboxes SELECT ?, account, ?, ?, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, '', '' FROM mailboxes LIMIT 1",
        [(1000 + n, f"box{n}/{'a' * 20}{n}", 5000 + n) for n in range(5000)],
    )
    store.connection.commit()
    began = time.process_time()
    await client.ask(b'LIST "" "' + b"*%" * 200 + b'zzz"')
    assert time.process_time() - began < 1.0
    began = time.process_time()
    assert len(await listed(client, b'LIST "" *')) > 10_000
    assert time.process_time() - began < 3.0


async def test_i20_renames_of_inbox_and_into_itself(office: Office) -> None:
    client = await office.login()
    office.deliver(b"Subject: x\r\n\r\nbody\r\n")
    assert await client.word(b"RENAME INBOX old") == b"OK"
    assert [b"STATUS", b"old", [b"MESSAGES", b"1"]] in [
        reply.arguments for reply in await client.ask(b"STATUS old (MESSAGES)")
    ]
    assert (await client.word(b"SELECT INBOX")).startswith(b"OK")
    assert (await client.word(b"RENAME old old/child")).startswith(b"NO")
    assert (await client.word(b"CREATE " + b"a/" * 40 + b"b")).startswith(b"NO")
    assert (await client.word(b"RENAME old " + b"a/" * 10_000 + b"b")).split()[0] in (b"NO", b"BAD")
