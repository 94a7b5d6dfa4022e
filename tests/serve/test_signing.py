"""What leaves in our names is signed, once and durably; what only passes through is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from postroad.flow.sign import Signed
from postroad.store.account_records import AliasAdd
from postroad.store.accounts import alias_add
from postroad.store.dkim import dkim_add, dkim_retire
from postroad.store.dkim_records import DkimAdd, DkimKey, DkimSelect
from postroad.store.migrate import migrate
from postroad.store.sqlite import SqliteConnection
from postroad.trust.dkim.keys import ALGORITHMS
from postroad.values.verdict import Changes, accept
from tests.serve.harness import ANNA, Peer, open_house
from tests.serve.post_office import PostOffice, open_post_office
from tests.serve.test_smtp import log_in, send
from tests.serve.test_smtp_gate import judged
from tests.trust.dkim.pairs import SELECTORS, private
from tests.trust.dkim.test_sign import dkimpy_says

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

HEADER = (
    b"From: Anna <anna@example.com>\r\nTo: b@else.test\r\nDate: Fri, 27 Nov 2026 06:00:00 +0000\r\n"
    b"Subject: hello\r\nMessage-ID: <one@example.com>\r\n\r\n"
)
MESSAGE = HEADER + b"A line \t\r\n\r\n\r\n"
LARGE = HEADER + b"".join(b"%d  words \t and blanks \r\n" % number for number in range(20_000))


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[PostOffice]:
    connection = SqliteConnection(tmp_path / "postroad.db")
    migrate(connection, 1_800_000_000_000_000)
    house = open_house(tmp_path, connection)
    try:
        made = open_post_office(house, tmp_path)
        keys = [DkimKey(SELECTORS[alg], alg, private(alg)) for alg in ALGORITHMS]
        assert house.store.run(dkim_add, DkimAdd("example.com", keys)).done
        yield made
    finally:
        await house.close()


async def anna(office: PostOffice) -> Peer:
    client = await office.greeted("submission")
    await log_in(client, office)
    return client


def leaving(office: PostOffice) -> list[bytes]:
    """Every message as each of its open deliveries would send it now."""
    rows = office.house.store.sql(
        "SELECT d.prefix, m.header, m.body, m.body_file FROM deliveries d JOIN messages m ON m.id = d.message"
        " ORDER BY d.id"
    )
    spool = office.house.spool
    return [
        prefix + header + (body if body is not None else spool.body_path(file).read_bytes())
        for prefix, header, body, file in rows
    ]


def is_signed(octets: bytes) -> bool:
    """Whether it has both signatures and dkimpy believes them; they must not half be there."""
    if not octets.startswith(b"DKIM-Signature:"):
        assert b"dkim-signature:" not in octets.lower()
        return False
    assert [dkimpy_says(octets, number) for number in (0, 1)] == [True, True]
    return True


@pytest.mark.parametrize("message", [MESSAGE, LARGE], ids=["small", "large"])
async def test_what_a_user_submits_is_signed(office: PostOffice, message: bytes) -> None:
    assert (await send(await anna(office), "b@else.test", message, ANNA)).startswith(b"250")
    [octets] = leaving(office)
    assert is_signed(octets)
    assert (office.house.store.sql("SELECT body_file FROM messages")[0][0] != "") == (message is LARGE)
    [signed] = [event for event in office.events() if event.kind == "signed"]
    assert signed.cause == "DKIM d=example.com s=pr202611r,pr202611e"


async def test_a_large_body_is_hashed_while_it_comes(office: PostOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: object, name: str) -> AsyncIterator[bytes]:
        raise AssertionError("read a second time")

    monkeypatch.setattr(type(office.house.spool), "read", read)
    await send(await anna(office), "b@else.test", LARGE, ANNA)
    monkeypatch.undo()
    assert is_signed(leaving(office)[0])


async def test_chunks_are_signed_as_they_are_sent(office: PostOffice) -> None:
    client = await anna(office)
    await client.ask(b"MAIL FROM:<anna@example.com>")
    await client.ask(b"RCPT TO:<b@else.test>")
    for start in range(0, len(MESSAGE), 50):
        piece = MESSAGE[start : start + 50]
        client.send(b"BDAT %d%b\r\n" % (len(piece), b" LAST" if start + 50 >= len(MESSAGE) else b"") + piece)
        assert (await client.line()).startswith(b"250")
    assert is_signed(leaving(office)[0])


async def test_many_recipients_share_one_signing(office: PostOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = office.service.intake._signer
    assert signer is not None
    count, sign = [], signer.sign

    async def counted(*args: object) -> Signed:
        count.append(args)
        return await sign(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(type(signer), "sign", lambda self, *args: counted(*args))
    client = await anna(office)
    await client.ask(b"MAIL FROM:<anna@example.com>")
    for number in range(20):
        await client.ask(b"RCPT TO:<r%d@else.test>" % number)
    await client.ask(b"DATA")
    client.send(MESSAGE + b".\r\n")
    assert (await client.line()).startswith(b"250")
    assert len(count) == 1
    assert len(set(leaving(office))) == 1
    assert is_signed(leaving(office)[0])


async def test_what_stays_here_is_not_signed(office: PostOffice) -> None:
    await send(await anna(office), ANNA, MESSAGE, ANNA)
    assert office.count("deliveries") == 0
    [(prefix, header)] = office.house.store.sql("SELECT prefix, header FROM mailbox_messages, messages")
    assert b"DKIM" not in prefix + header
    assert "signed" not in [event.kind for event in office.events()]


async def test_a_copy_that_stays_here_is_as_it_was(office: PostOffice) -> None:
    client = await anna(office)
    await client.ask(b"MAIL FROM:<anna@example.com>")
    for to in (b"b@else.test", b"anna@example.com"):
        await client.ask(b"RCPT TO:<" + to + b">")
    await client.ask(b"DATA")
    client.send(MESSAGE + b".\r\n")
    assert (await client.line()).startswith(b"250")
    assert is_signed(leaving(office)[0])
    assert b"DKIM" not in office.house.store.sql("SELECT prefix FROM mailbox_messages")[0][0]


async def test_nobody_else_borrows_our_name_by_an_alias(office: PostOffice) -> None:
    """A stranger's From of ours, sent to an alias that leads elsewhere, would leave as if we had written it."""
    assert office.house.store.run(alias_add, AliasAdd("out@example.com", ["b@else.test"])).done
    assert (await send(await office.greeted(), "out@example.com", MESSAGE, ANNA)).startswith(b"250")
    assert [is_signed(octets) for octets in leaving(office)] == [False]


@pytest.mark.parametrize(
    "author, signed",
    [
        (b"anna@example.com", True),
        (b"Printer <root@printer.example.com>", True),
        (b"anna@EXAMPLE.com", True),
        (b"a@else.test", False),
        (b"a@example.com.else.test", False),
        (b"nobody", False),
        (b'"anna@example.com" <a@else.test>', False),
    ],
)
async def test_a_listed_network_is_signed_for_by_the_authors_domain(
    office: PostOffice, author: bytes, signed: bool
) -> None:
    message = MESSAGE.replace(b"Anna <anna@example.com>", author)
    client = await office.greeted(peer="10.1.2.3")
    assert (await send(client, "b@else.test", message, "x@else.test")).startswith(b"250")
    assert [is_signed(octets) for octets in leaving(office)] == [signed]


async def test_what_submission_completes_is_signed_complete(office: PostOffice) -> None:
    """A text without any header gets one in front of it; the text is the body then."""
    await send(await anna(office), "b@else.test", b"Just a text\r\nof two lines\r\n", ANNA)
    [octets] = leaving(office)
    assert is_signed(octets)
    assert b"From: anna@example.com\r\n" in octets


@pytest.mark.parametrize(
    "body", [b"Another body\r\n", b"x" * 900 + b"\r\n" + b"y \r\n" * 50_000], ids=["small", "large"]
)
async def test_what_policy_changed_is_signed_changed(office: PostOffice, body: bytes) -> None:
    changes = Changes(header=HEADER.replace(b"hello", b"other"), body=body)
    judged(office, message=accept(changes=changes))
    assert (await send(await anna(office), "b@else.test", LARGE, ANNA)).startswith(b"250")
    [octets] = leaving(office)
    assert b"Subject: other" in octets
    assert is_signed(octets)


async def test_keys_that_go_out_of_use_sign_no_more(office: PostOffice) -> None:
    client = await anna(office)
    await send(client, "b@else.test", MESSAGE, ANNA)
    for selector in SELECTORS.values():
        assert office.house.store.run(dkim_retire, DkimSelect("example.com", selector)).done
    signer = office.service.intake._signer
    assert signer is not None
    signer.forget()  # what the store's hint does
    await send(client, "c@else.test", MESSAGE.replace(b"one@", b"two@"), ANNA)
    assert [is_signed(octets) for octets in leaving(office)] == [True, False]


async def test_what_was_read_before_a_change_is_not_kept(office: PostOffice) -> None:
    """On PostgreSQL a read takes a while, and the hint may come meanwhile."""
    signer = office.service.intake._signer
    assert signer is not None
    keys_of = signer._keys_of

    async def overtaken(author: str) -> tuple[str, list[DkimKey]]:
        found = await keys_of(author)
        signer.forget()
        return found

    signer._keys_of = overtaken
    await send(await anna(office), "b@else.test", MESSAGE, ANNA)
    assert signer._known == {}


async def test_a_broken_key_leaves_mail_unsigned_and_says_so(
    office: PostOffice, caplog: pytest.LogCaptureFixture
) -> None:
    office.house.store.connection.begin()
    office.house.store.connection.execute("UPDATE dkim_keys SET private = ?", (b"secret junk",))
    office.house.store.connection.commit()
    assert (await send(await anna(office), "b@else.test", MESSAGE, ANNA)).startswith(b"250")
    assert [is_signed(octets) for octets in leaving(office)] == [False]
    assert "pr202611r of example.com cannot sign" in caplog.text
    assert "secret junk" not in caplog.text


async def test_no_secret_is_in_the_journal(office: PostOffice) -> None:
    await send(await anna(office), "b@else.test", MESSAGE, ANNA)
    told = repr(office.events())
    for algorithm in ALGORITHMS:
        assert repr(private(algorithm)[-16:])[2:-1] not in told
        assert private(algorithm).hex()[-32:] not in told


async def test_signing_may_be_switched_off(office: PostOffice) -> None:
    office.service.intake._signer = None
    client = await anna(office)
    await send(client, "b@else.test", MESSAGE, ANNA)
    assert [is_signed(octets) for octets in leaving(office)] == [False]
