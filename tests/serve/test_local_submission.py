"""The session at the unix socket: relay without a login, but only in one's own name."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from postroad.flow.local_users import SenderRules, local_user
from postroad.serve.conversation import Conversation
from postroad.serve.local_submission import SERVICE, local_sessions, name_peer
from postroad.store.migrate import migrate
from postroad.store.sqlite import SqliteConnection
from tests.serve.harness import ANNA, Peer, open_house
from tests.serve.post_office import PostOffice, ehlo, open_post_office

ME = local_user(os.getuid())
OWN = f"{ME.name}@mx.example.com"
MESSAGE = b"From: me\r\nSubject: hello\r\n\r\nA line\r\n"


@pytest.fixture
async def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PostOffice]:
    # Who runs the tests may be root, who may send as anybody.
    monkeypatch.setattr("postroad.flow.local_users.ROOT", -1)
    connection = SqliteConnection(tmp_path / "postroad.db")
    migrate(connection, 1_800_000_000_000_000)
    house = open_house(tmp_path, connection)
    try:
        yield open_post_office(house, tmp_path)
    finally:
        await house.close()


async def greeted(office: PostOffice, grants: dict[str, str] | None = None) -> Peer:
    """A program of ours at the socket that has said EHLO."""
    make = local_sessions(office.service, limits=office.limits, rules=SenderRules("mx.example.com", (), grants))

    def local(conversation: Conversation) -> Any:
        name_peer(conversation)
        return make[SERVICE](conversation)

    client = await office.house.connect(local)
    assert (await client.line()).startswith(b"220 mx.example.com ")
    words = await ehlo(client)
    assert not any(word.startswith((b"AUTH", b"STARTTLS")) for word in words)
    return client


async def send(client: Peer, sender: str, to: str) -> bytes:
    for command in (f"MAIL FROM:<{sender}>", f"RCPT TO:<{to}>", "DATA"):
        reply = await client.ask(command.encode())
        if reply[:1] not in (b"2", b"3"):
            return reply
    client.send(MESSAGE + b".\r\n")
    return await client.line()


async def test_the_received_line_names_the_user(office: PostOffice) -> None:
    client = await greeted(office)
    assert (await send(client, OWN, ANNA)).startswith(b"250 2.0.0 Queued as ")
    [(header,)] = office.house.store.sql("SELECT header FROM messages")
    received = header.partition(b"From: me")[0].decode()
    assert received.startswith("Received: by mx.example.com with LOCAL id ")
    assert f"\r\n\t(by uid {ME.uid} ({ME.name}))\r\n\tfor <{ANNA}>;" in received
    first = office.events()[0]
    assert (first.by, first.where) == (f"login {OWN}", f"uid {ME.uid} ({ME.name})")


async def test_mail_for_elsewhere_is_relayed(office: PostOffice) -> None:
    client = await greeted(office)
    assert (await send(client, OWN, "bob@elsewhere.test")).startswith(b"250 2.0.0")
    assert office.count("deliveries") == 1


@pytest.mark.parametrize("sender", ["boss@bank.test", "other@mx.example.com", ANNA])
async def test_nobody_sends_in_another_s_name(office: PostOffice, sender: str) -> None:
    client = await greeted(office)
    reply = await send(client, sender, "bob@elsewhere.test")
    assert reply.startswith(b"553 5.7.1 uid ")
    assert b"local.senders" in reply
    assert office.count("messages") == 0
    [event] = office.refused()
    assert event.cause.startswith("sender not granted")
    # Nothing of the refused transaction is left.
    assert (await client.ask(b"RCPT TO:<bob@elsewhere.test>")).startswith(b"503 ")
    assert (await send(client, OWN, ANNA)).startswith(b"250 ")


@pytest.mark.parametrize("sender", ["", "shop@example.net", f"{ME.name}+tag@mx.example.com"])
async def test_what_is_granted_may_be_used(office: PostOffice, sender: str) -> None:
    client = await greeted(office, {ME.name: "shop@example.net"})
    assert (await send(client, sender, ANNA)).startswith(b"250 ")


async def test_an_unknown_mailbox_is_refused_at_once(office: PostOffice) -> None:
    client = await greeted(office)
    assert (await send(client, OWN, "nobody@example.com")).startswith(b"550 5.1.1 ")
