"""Rows I1 to I18 of the list of bad inputs that concern the whole session, over a socket; other rows stand beside
what they are about (I8, I9, I20 in test_folders, I11 in test_search, I14, I15 in test_append, I16, I17 in
test_two_sessions, I21, I22 in test_fetch). I10 (THREAD) and I19 (COMPRESS) are not offered."""

from __future__ import annotations

import asyncio

import pytest

from postroad.net.tls import ServerTls
from tests.serve.harness import ANNA, PASSWORD, breathe, own_tls, trusting
from tests.serve.imap.office import Office

LOGIN = b'LOGIN "%b" "%b"' % (ANNA.encode(), PASSWORD.encode())


@pytest.mark.parametrize("size", [b"999999999", b"4294967296", b"99999999999999999999"])
async def test_i1_huge_literals_before_login(office: Office, size: bytes) -> None:
    client = await office.connect()
    client.write(b"a LOGIN {%b}\r\n" % size)
    answer = await client.rest()
    assert answer.startswith(b"a BAD")
    assert b"* BYE" in answer


async def test_i1_a_large_literal_that_does_not_wait(office: Office) -> None:
    client = await office.login()
    client.write(b"a CREATE {5000+}\r\n" + b"x" * 5000 + b"\r\n")
    answer = await client.rest()
    assert answer.startswith(b"a BAD")
    assert b"* BYE" in answer


@pytest.mark.parametrize("literal", [b"{-1}", b"{}", b"{1", b"{1+", b"{a}", b"{1 }"])
async def test_i1_what_is_no_literal(office: Office, literal: bytes) -> None:
    client = await office.login()
    assert await client.word(b"CREATE " + literal) == b"BAD"
    assert await client.word(b"NOOP") == b"OK"


@pytest.mark.parametrize("logged_in, limit", [(False, 8 * 1024), (True, 64 * 1024)])
async def test_i2_endless_lines(office: Office, logged_in: bool, limit: int) -> None:
    client = await (office.login() if logged_in else office.connect())
    client.write(b"a NOOP " + b"x" * (limit + 100))
    answer = await client.rest()
    assert b"BAD" in answer
    assert b"* BYE" in answer


@pytest.mark.parametrize("command", [b"SEARCH ", b"FETCH 1 ", b"ID ", b"LIST ", b"STATUS INBOX "])
async def test_i3_parentheses(office: Office, command: bytes) -> None:
    client = await office.login(b"INBOX")
    assert await client.word(command + b"(" * 60_000) == b"BAD"
    assert await client.word(b"NOOP") == b"OK"


@pytest.mark.parametrize("line", [b"", b"* NOOP", b"+ NOOP", b" NOOP", b"x" * 7000 + b" NOOP", b"a(b NOOP", b"NOOP"])
async def test_i4_what_is_no_tag(office: Office, line: bytes) -> None:
    client = await office.connect()
    client.write(line + b"\r\n")
    assert b"BAD" in await client.line()
    assert await client.word(b"NOOP") == b"OK"


async def test_i4_ten_bad_commands_in_a_row_end_the_session(office: Office) -> None:
    client = await office.login()
    client.write(b"junk\r\n" * 20)
    answer = await client.rest()
    assert answer.count(b"BAD") == 10
    assert answer.endswith(b"\r\n")
    assert b"* BYE" in answer


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1", b"POST /x HTTP/1.0", b"<html>", b"\x16\x03\x01\x02\x00", b"SSH-2.0-x"]
)
async def test_i5_other_protocols_are_sent_away_at_once(office: Office, line: bytes) -> None:
    client = await office.connect()
    client.write(line + b"\r\nHost: x\r\n\r\na LOGIN b c\r\n")
    answer = await client.rest()
    assert answer.startswith(b"* BYE")
    assert answer.count(b"\r\n") == 1
    assert b"HTTP" not in answer


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    return own_tls(tmp_path_factory.mktemp("tls"))


async def test_i6_what_is_sent_behind_starttls_in_the_clear_is_dropped(office: Office, tls: ServerTls) -> None:
    office.service.tls = tls
    office.service.insecure_auth = False
    client = await office.connect()
    client.write(b"a STARTTLS\r\nb CREATE injected\r\nc " + LOGIN + b"\r\n")
    assert (await client.line()).startswith(b"a OK")
    await client.writer.start_tls(trusting())
    assert await client.word(b"NOOP") == b"OK", "the first answer under TLS is to the first command under TLS"
    capabilities = (await client.ask(b"CAPABILITY"))[0].arguments
    assert b"AUTH=PLAIN" in capabilities
    assert b"LOGINDISABLED" not in capabilities
    assert b"STARTTLS" not in capabilities
    assert (await client.word(LOGIN)).startswith(b"OK")
    assert await client.word(b"STARTTLS") == b"BAD"


async def test_i7_no_login_in_the_clear(office: Office) -> None:
    office.service.insecure_auth = False
    client = await office.connect()
    capabilities = (await client.ask(b"CAPABILITY"))[0].arguments
    assert b"LOGINDISABLED" in capabilities
    assert b"STARTTLS" in capabilities
    assert not any(b"AUTH=" in word for word in capabilities)  # type: ignore[operator]
    assert await client.word(LOGIN) == b"NO [PRIVACYREQUIRED]"
    assert await client.word(b"AUTHENTICATE PLAIN AGEAYg==") == b"NO [PRIVACYREQUIRED]"
    assert office.house.counters.logins == []


@pytest.mark.parametrize(
    "numbers, word",
    [
        (b"0", b"BAD"),
        (b"4294967296", b"BAD"),
        (b"*:*:*", b"BAD"),
        (b"1,,2", b"BAD"),
        (b"1:*", b"OK"),
        (b"5:*", b"OK"),
        (b"7", b"OK"),
        (b"4294967295", b"OK"),
        (b",".join([b"1:2"] * 10_000), b"OK"),
    ],
)
async def test_i12_sets_in_an_empty_mailbox(office: Office, numbers: bytes, word: bytes) -> None:
    client = await office.login(b"INBOX")
    for command in (b"FETCH %b FLAGS", b"UID FETCH %b FLAGS", b"STORE %b +FLAGS (\\Seen)", b"SEARCH UID %b"):
        assert await client.word(command % numbers) == word, command


@pytest.mark.parametrize(
    "partial, word",
    [
        (b"<4294967295.1>", b"OK"),
        (b"<0.0>", b"BAD"),
        (b"<-1.1>", b"BAD"),
        (b"<1.4294967296>", b"BAD"),
        (b"<1>", b"BAD"),
    ],
)
async def test_i13_partial_fetches(office: Office, partial: bytes, word: bytes) -> None:
    office.deliver(b"Subject: x\r\n\r\nbody\r\n")
    client = await office.login(b"INBOX")
    replies = await client.ask(b"FETCH 1 BODY.PEEK[]" + partial)
    assert replies[-1].arguments[0] == word
    if word == b"OK":
        assert replies[0].arguments[2] == [b"BODY[]<4294967295>", b""]


async def test_i18_idle_for_too_long(office: Office) -> None:
    client = await office.login(b"INBOX")
    client.write(b"x IDLE\r\n")
    await client.line()
    [conversation] = office.house.conversations
    now = asyncio.get_running_loop().time()
    assert conversation.due - now > 29 * 60, "RFC 3501 section 5.4: at least 30 minutes, as the clock moves on"
    conversation.check_time(conversation.due + 1)
    assert b"* BYE" in await client.rest()


async def test_i18_idle_needs_done(office: Office) -> None:
    client = await office.login(b"INBOX")
    client.write(b"x IDLE\r\n")
    await client.line()
    client.write(b"x" * 100_000)
    await breathe()
    client.write(b"\r\n")
    answer = await client.line()
    assert b"BAD" in answer or b"BYE" in answer


async def test_i18_a_thousand_idlers_cost_one_query(office: Office) -> None:
    clients = [await office.login(b"INBOX") for _ in range(30)]
    for client in clients:
        client.write(b"x IDLE\r\n")
        await client.line()
    asked: list[str] = []
    read = office.house.store.rows

    async def counting(sql: str, params: object = ()) -> object:
        asked.append(sql)
        return await read(sql, params)  # type: ignore[arg-type]

    office.mailboxes._rows = counting  # type: ignore[assignment]
    await office.watch.sweep()
    assert len(asked) == 1
