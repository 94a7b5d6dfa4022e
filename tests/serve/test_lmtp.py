"""LMTP sessions with the real planner, intake and store: an answer for every recipient (RFC 2033 section 4.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from postroad.app.gates import make_gates
from postroad.rules.ports import Ports
from postroad.store.migrate import migrate
from postroad.store.sqlite import SqliteConnection
from postroad.values.address import Address
from postroad.values.facts import Facts
from postroad.values.verdict import Changes, Verdict, accept, refuse
from tests.serve.harness import ANNA, Peer, open_house
from tests.serve.post_office import PostOffice, open_post_office
from tests.serve.test_smtp import MESSAGE

BEN = "ben@example.com"


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[PostOffice]:
    connection = SqliteConnection(tmp_path / "postroad.db")
    migrate(connection, 1_800_000_000_000_000)
    house = open_house(tmp_path, connection)
    house.store.account(BEN)
    try:
        yield open_post_office(house, tmp_path)
    finally:
        await house.close()


async def neighbour(office: PostOffice, peer: str = "192.0.2.9") -> Peer:
    client = await office.connect("lmtp", peer)
    assert (await client.line()).startswith(b"220 ")
    client.send(b"LHLO near.test\r\n")
    while (line := await client.line()).startswith(b"250-"):
        pass
    assert line.startswith(b"250 ")
    return client


async def deliver(client: Peer, *to: str, message: bytes = MESSAGE) -> list[bytes]:
    """One transaction; the replies behind the final dot."""
    assert (await client.ask(b"MAIL FROM:<a@sender.test>")).startswith(b"250 ")
    taken = 0
    for recipient in to:
        taken += (await client.ask(f"RCPT TO:<{recipient}>".encode())).startswith(b"250 ")
    assert (await client.ask(b"DATA")).startswith(b"354 ")
    client.send(message + b".\r\n")
    return [await client.line() for _ in range(taken)]


def fill_up(office: PostOffice, address: str) -> None:
    """A quota that is used up, seen by the store only after RCPT: set behind the planner's back."""
    connection = office.house.store.connection
    connection.begin()
    connection.execute("UPDATE accounts SET quota_bytes = 1, used_bytes = 1 WHERE address = ?", (address,))
    connection.commit()


async def test_every_recipient_has_an_answer_even_the_same_one_twice(office: PostOffice) -> None:
    replies = await deliver(await neighbour(office), ANNA, BEN, ANNA)
    assert [reply[:20] for reply in replies] == [b"250 2.0.0 Queued as "] * 3
    assert office.count("mailbox_messages") == 2
    [header] = [row[0] for row in office.house.store.sql("SELECT header FROM messages")]
    assert b" with LMTP id " in header


async def test_a_mailbox_that_fills_up_is_answered_alone_and_nothing_waits_here(office: PostOffice) -> None:
    client = await neighbour(office)
    assert (await client.ask(b"MAIL FROM:<a@sender.test>")).startswith(b"250 ")
    for recipient in (ANNA, BEN):
        assert (await client.ask(f"RCPT TO:<{recipient}>".encode())).startswith(b"250 ")
    assert (await client.ask(b"DATA")).startswith(b"354 ")
    fill_up(office, BEN)
    client.send(MESSAGE + b".\r\n")
    assert (await client.line()).startswith(b"250 2.0.0 Queued as ")
    assert (await client.line()).startswith(b"452 4.2.2 Mailbox is full.")
    assert (office.count("mailbox_messages"), office.count("deliveries")) == (1, 0)
    kinds = [(event.kind, event.recipient) for event in office.events()]
    assert ("refused", BEN) in kinds
    assert ("deferred", BEN) not in kinds


async def test_nobody_has_room_and_nothing_stays(office: PostOffice) -> None:
    client = await neighbour(office)
    assert (await client.ask(b"MAIL FROM:<a@sender.test>")).startswith(b"250 ")
    assert (await client.ask(f"RCPT TO:<{BEN}>".encode())).startswith(b"250 ")
    assert (await client.ask(b"DATA")).startswith(b"354 ")
    fill_up(office, BEN)
    client.send(MESSAGE + b".\r\n")
    assert (await client.line()).startswith(b"452 4.2.2 ")
    assert office.count("messages") == office.count("deliveries") == 0


async def test_mail_for_elsewhere_is_refused_even_from_a_listed_network(office: PostOffice) -> None:
    client = await neighbour(office, "10.0.0.7")
    assert (await client.ask(b"MAIL FROM:<a@sender.test>")).startswith(b"250 ")
    assert (await client.ask(b"RCPT TO:<x@else.test>")).startswith(b"550 5.7.1 ")


async def test_a_refused_message_is_refused_to_each(office: PostOffice) -> None:
    class No:
        async def ask(self, facts: Facts) -> Verdict | None:
            assert facts.door == "lmtp"
            return refuse("check failed", 550, "5.7.1", "No.") if facts.content is not None else None

        def ended(self, session: int) -> None: ...

    office.service.gates = make_gates(Ports(policy=No()))
    replies = await deliver(await neighbour(office), ANNA, BEN)
    assert [reply[:13] for reply in replies] == [b"550 5.7.1 No."] * 2
    assert office.count("messages") == 0


async def test_a_recipient_that_policy_takes_out_has_its_answer_all_the_same(office: PostOffice) -> None:
    class Without:
        async def ask(self, facts: Facts) -> Verdict | None:
            changes = Changes(recipients_removed=(Address.parse(BEN),))
            return accept(changes=changes) if facts.content is not None else None

        def ended(self, session: int) -> None: ...

    office.service.gates = make_gates(Ports(policy=Without()))
    replies = await deliver(await neighbour(office), ANNA, BEN)
    assert [reply[:4] for reply in replies] == [b"250 ", b"250 "]
    assert office.count("mailbox_messages") == 1


async def test_a_neighbour_at_the_socket_is_named_by_its_user(office: PostOffice) -> None:
    await deliver(await neighbour(office, "uid 1000"), ANNA)
    [header] = [row[0] for row in office.house.store.sql("SELECT header FROM messages")]
    assert header.startswith(b"Received: by mx.example.com with LMTP id ")
    assert b"(by uid 1000)" in header
