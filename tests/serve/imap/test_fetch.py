"""FETCH over a real store: every kind of item, octet for octet, and the marks it leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from imapclient.response_parser import parse_fetch_response

from tests.serve.imap.office import Client, Office
from tests.testdata import testdata

PREFIX = b"Return-Path: <b@example.org>\r\nDelivered-To: anna@example.com\r\n"
HEADER = (
    b"From: Bo <b@example.org>\r\nTo: anna@example.com\r\nSubject: parts\r\n"
    b'Date: Sat, 24 Mar 2007 23:00:00 +0200\r\nContent-Type: multipart/mixed; boundary="x"\r\n\r\n'
)
ONE, TWO = b"first part\r\n", b"<p>second</p>\r\n"
BODY = (
    b"--x\r\nContent-Type: text/plain\r\n\r\n" + ONE + b"\r\n--x\r\nContent-Type: text/html\r\nX-Own: yes\r\n\r\n"
    + TWO + b"\r\n--x--\r\n"
)  # fmt: skip
RAW = HEADER + BODY
WHOLE = PREFIX + RAW


async def fetched(client: Client, command: bytes) -> dict[bytes, object]:
    """The items of the only FETCH answer of a command."""
    replies = [reply for reply in await client.ask(command) if b"FETCH" in reply.arguments]
    assert len(replies) == 1, replies
    inner = replies[0].arguments[2]
    assert isinstance(inner, list)
    return {bytes(name).upper(): value for name, value in zip(inner[::2], inner[1::2], strict=True)}  # type: ignore[arg-type]


@pytest.fixture
async def client(office: Office) -> Client:
    office.deliver(RAW, prefix=PREFIX)
    return await office.login(b"INBOX")


@pytest.mark.parametrize(
    "section, value",
    [
        (b"BODY[]", WHOLE),
        (b"BODY[HEADER]", PREFIX + HEADER),
        (b"BODY[TEXT]", BODY),
        (b"BODY[1]", ONE),
        (b"BODY[2]", TWO),
        (b"BODY[2.MIME]", b"Content-Type: text/html\r\nX-Own: yes\r\n\r\n"),
        (b"BODY[3]", None),
        (b"BODY[1.1]", None),
        (b"RFC822", WHOLE),
        (b"RFC822.HEADER", PREFIX + HEADER),
        (b"RFC822.TEXT", BODY),
        (b"BODY[]<0.10>", WHOLE[:10]),
        (b"BODY[]<100.50>", WHOLE[100:150]),
        (b"BODY[TEXT]<3.5>", BODY[3:8]),
        (b"BODY[2]<4.100>", TWO[4:]),
    ],
)
async def test_sections(client: Client, section: bytes, value: bytes | None) -> None:
    items = await fetched(client, b"FETCH 1 " + section)
    label = section.partition(b".")[0] + b">" if b"<" in section else section
    assert items[label] == value


async def test_header_fields(client: Client) -> None:
    [reply, _] = await client.ask(b"FETCH 1 BODY.PEEK[HEADER.FIELDS (subject X-None To)]")
    assert reply.arguments[2][-1] == b"To: anna@example.com\r\nSubject: parts\r\n\r\n"  # type: ignore[index]
    [reply, _] = await client.ask(b"FETCH 1 BODY.PEEK[HEADER.FIELDS.NOT (Subject To From Date Content-Type)]")
    assert reply.arguments[2][-1] == PREFIX + b"\r\n"  # type: ignore[index]


async def test_size_is_what_body_gives(client: Client) -> None:
    assert (await fetched(client, b"FETCH 1 RFC822.SIZE"))[b"RFC822.SIZE"] == b"%d" % len(WHOLE)


async def test_seen_is_set_by_body_and_not_by_peek(client: Client) -> None:
    assert b"FLAGS" not in await fetched(client, b"FETCH 1 (BODY.PEEK[] ENVELOPE BODYSTRUCTURE RFC822.HEADER)")
    assert (await fetched(client, b"FETCH 1 FLAGS"))[b"FLAGS"] == [b"\\Recent"]
    assert (await fetched(client, b"FETCH 1 BODY[1]"))[b"FLAGS"] == [b"\\Recent", b"\\Seen"]
    assert b"FLAGS" not in await fetched(client, b"FETCH 1 BODY[1]"), "told once"


async def test_uid_fetch_always_tells_the_uid(client: Client) -> None:
    assert set(await fetched(client, b"UID FETCH 1 FLAGS")) == {b"UID", b"FLAGS"}


async def test_macros(client: Client) -> None:
    assert set(await fetched(client, b"FETCH 1 FULL")) == {
        b"FLAGS", b"INTERNALDATE", b"RFC822.SIZE", b"ENVELOPE", b"BODY",
    }  # fmt: skip


async def test_a_file_body_has_the_same_parts(office: Office) -> None:
    large = b"y" * 70 + b"\r\n"
    body = (
        b"--x\r\n\r\n"
        + large * 2000
        + b"\r\n--x\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nhi\r\n--x--\r\n"
    )
    office.deliver(HEADER + body)
    client = await office.login(b"INBOX")
    assert (await fetched(client, b"FETCH 1 BODY.PEEK[1]"))[b"BODY[1]"] == large * 2000
    assert (await fetched(client, b"FETCH 1 BODY.PEEK[2.HEADER]"))[b"BODY[2.HEADER]"] == b"Subject: inner\r\n\r\n"
    [reply, _] = await client.ask(b"FETCH 1 BODY.PEEK[2.HEADER.FIELDS (Subject)]")
    assert reply.arguments[2][-1] == b"Subject: inner\r\n\r\n"  # type: ignore[index]
    structure = (await fetched(client, b"FETCH 1 BODYSTRUCTURE"))[b"BODYSTRUCTURE"]
    assert b"inner" in str(structure).encode()


async def test_a_nul_in_a_stored_body_never_reaches_the_wire(office: Office) -> None:
    office.deliver(b"Subject: x\r\n\r\na\0b\r\n")
    client = await office.login(b"INBOX")
    client.write(b"x FETCH 1 (BODY.PEEK[] BODY.PEEK[TEXT]<1.1>)\r\n")
    await client.line()
    octets = await client.reader.readuntil(b"x OK")
    assert b"\0" not in octets


async def test_a_message_whose_body_is_missing_spares_the_others(office: Office) -> None:
    office.deliver(b"Subject: small\r\n\r\nbody\r\n")
    office.deliver(b"Subject: large\r\n\r\n" + b"x" * 100_000)
    office.deliver(b"Subject: small too\r\n\r\nbody\r\n")
    for path in office.house.spool.body_path("bodies/00").iterdir():
        path.unlink()
    client = await office.login(b"INBOX")
    replies = await client.ask(b"FETCH 1:3 BODY.PEEK[TEXT]")
    assert [reply.arguments[0] for reply in replies[:-1]] == [b"1", b"3"]
    assert replies[-1].arguments[:2] == [b"NO", b"[SERVERBUG]"]
    assert await client.word(b"FETCH 1:3 (FLAGS ENVELOPE)") == b"OK", "envelopes never open a body"


async def test_envelope_reads_no_body(office: Office, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroad.serve.imap_fetch.MessageContent", None)
    assert b"ENVELOPE" in await fetched(client, b"FETCH 1 (ENVELOPE BODY.PEEK[HEADER] FLAGS)")


async def test_promise_p11_a_slow_reader_holds_up_nobody_and_no_memory(office: Office) -> None:
    raw = b"Subject: large\r\n\r\n" + b"x" * 8_000_000
    office.deliver(raw)
    client = await office.login(b"INBOX")
    client.writer.write(b"x FETCH 1 BODY.PEEK[]\r\n")
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    other = await office.login(b"INBOX")
    assert await other.word(b"NOOP") == b"OK"
    conversation = office.house.conversations[0]
    assert conversation.busy
    assert conversation.transport.get_write_buffer_size() <= 256 * 1024
    client.reader._transport.resume_reading()  # type: ignore[attr-defined]
    reply = await client.reply()
    assert reply.arguments[2][1] == raw  # type: ignore[index]


async def test_a_client_that_never_reads_loses_the_connection(office: Office) -> None:
    office.deliver(b"Subject: large\r\n\r\n" + b"x" * 8_000_000)
    client = await office.login(b"INBOX")
    office.service.idle_s = 0.01
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    client.write(b"x FETCH 1 BODY.PEEK[]\r\n")
    while office.house.counters.open:
        await asyncio.sleep(0.001)
    assert office.house.lifecycle.busy() == ""


def junk() -> list[Path]:
    folder = testdata("mime")
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in ("", ".eml", ".msg", ".txt"))


@pytest.mark.slow
async def test_i21_i22_structures_of_public_junk_are_valid_syntax(office: Office) -> None:
    """Every public message of the MIME suites, as it lies there: two independent readers take our answers."""
    count = 0
    for path in junk():
        raw = path.read_bytes().replace(b"\0", b"")
        if len(raw.partition(b"\r\n\r\n")[0]) < 200_000:
            office.deliver(raw)
            count += 1
    client = await office.login(b"INBOX")
    items = b"(ENVELOPE BODYSTRUCTURE BODY BODY.PEEK[HEADER.FIELDS (Subject)])"
    replies = await client.ask(b"FETCH 1:* " + items)
    assert replies[-1].arguments[0] == b"OK"
    assert len(replies) == count + 1
    for reply in replies[:-1]:
        envelope, structure, body = (reply.arguments[2][at] for at in (1, 3, 5))  # type: ignore[index]
        assert isinstance(envelope, list)
        assert len(envelope) == 10
        assert isinstance(structure, list)
        assert isinstance(body, list)


@pytest.mark.parametrize(
    "header",
    [
        b"Subject: a\rb\nc\x00d",
        b"Subject: \xff\xfe\x80 8 bit",
        b'From: "quote\\" <x@y>, (((comment\r\nTo: ;;;,,,<>@@',
        b"Subject: =?utf-8?Q?a=0D=0Ab?=\r\nFrom: =?utf-8?b?Cg==?= <a@b>",
        b"Subject: {5}\r\n * OK [ALERT] x",
        b'Date: "\\\r\nMessage-ID: <a b>\r\nIn-Reply-To: ]',
    ],
)
async def test_i22_hostile_headers_never_break_the_line(office: Office, header: bytes) -> None:
    office.deliver(header + b"\r\n\r\nbody\r\n")
    client = await office.login(b"INBOX")
    client.write(b"x FETCH 1 (UID ENVELOPE BODYSTRUCTURE)\r\n")
    octets = await client.reader.readuntil(b"x OK done\r\n")
    parsed = parse_fetch_response(as_imapclient_gets_it(octets.removesuffix(b"x OK done\r\n")))
    assert parsed[1][b"UID" if b"UID" in parsed[1] else b"SEQ"] == 1
    assert parsed[1][b"ENVELOPE"] is not None


def as_imapclient_gets_it(octets: bytes) -> list[object]:
    """Untagged responses in the form in which imaplib hands them over: (line, literal) pairs and rests."""
    import re

    parts: list[object] = []
    rest = octets.removeprefix(b"* ").replace(b" FETCH", b"", 1)
    while found := re.search(rb"\{(\d+)\}\r\n", rest):
        end = found.end() + int(found[1])
        parts.append((rest[: found.end() - 2], rest[found.end() : end]))
        rest = rest[end:]
    parts.append(rest.removesuffix(b"\r\n"))
    return parts
