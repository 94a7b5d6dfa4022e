"""The other organisations are real mail servers: spoken to by smtplib over sockets, with and without TLS."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from postroad.dev.dns import DnsServer
from postroad.dev.layout import ADDRESSES, FRIENDS, GRUMPY, Layout, Ports, certificate_names, zones
from postroad.dev.organisation import (
    FirstSayLater,
    Letter,
    Organisation,
    Posted,
    ToHost,
    answer_to,
    has_message_id,
    message_id_of,
    send_one,
    tls_version,
    wants_answer,
    welcoming,
    write_back,
)
from postroad.dev.playground import make_certificates
from postroad.dev.threads import in_thread
from postroad.net.tls import ServerTls

MAIL = b"Message-ID: <one@dev.test>\r\nSubject: hello\r\n\r\nHello\r\n.\r\nbye\r\n"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path, Ports())
    make_certificates(made)
    return made


@pytest.fixture
async def friends(layout: Layout) -> AsyncIterator[tuple[Organisation, int]]:
    organisation = Organisation(FRIENDS, ADDRESSES[FRIENDS], ca_file=str(layout.ca_file))
    organisation.tls = ServerTls(layout.certificate(FRIENDS), layout.key(FRIENDS))
    yield organisation, await organisation.start(0)
    await organisation.close()


def hand_over(port: int, recipient: str, *, ca_file: str = "", domain: str = FRIENDS) -> tuple[int, str, str]:
    """Sends MAIL as a stranger's server would; returns reply code, text and TLS version."""
    with ToHost(f"mx.{domain}", ADDRESSES[domain], port, "mx.dev.test", "127.0.0.1") as connection:
        connection.ehlo()
        if ca_file:
            connection.starttls(context=ssl.create_default_context(cafile=ca_file))
            connection.ehlo()
        tls = tls_version(connection.sock)
        return *send_one(connection, "dev@dev.test", recipient, MAIL), tls


async def test_a_letter_arrives_whole_over_verified_tls(friends: tuple[Organisation, int], layout: Layout) -> None:
    organisation, port = friends
    code, text, tls = await in_thread(hand_over, port, f"bob@{FRIENDS}", ca_file=str(layout.ca_file))
    assert (code, text) == (250, "2.0.0 Thank you, friends.test has it")
    assert tls.startswith("TLSv1.")
    [letter] = organisation.letters
    assert letter.message == MAIL
    assert (letter.sender, letter.recipient, letter.tls) == ("dev@dev.test", f"bob@{FRIENDS}", tls)
    assert letter.has("one@dev.test")


@pytest.mark.parametrize(
    "recipient, code, text",
    [
        (f"nobody@{FRIENDS}", 550, "5.1.1 No mailbox nobody@friends.test here"),
        (f"452@{FRIENDS}", 452, "4.0.0 452, as the address asks for"),
        ("anna@dev.test", 550, "5.7.1 We do not relay"),
    ],
)
async def test_refusals(friends: tuple[Organisation, int], recipient: str, code: int, text: str) -> None:
    organisation, port = friends
    assert await in_thread(hand_over, port, recipient) == (code, text, "")
    assert organisation.letters == []
    assert [(refused, reply.code) for refused, reply in organisation.refused] == [(recipient, code)]


async def test_first_later_then_accepted_again_and_again() -> None:
    organisation = Organisation(GRUMPY, ADDRESSES[GRUMPY], FirstSayLater())
    port = await organisation.start(0)
    codes = []
    for recipient in ("greta", "gustav", "greta", "greta", "gustav", "nobody"):
        codes.append((await in_thread(hand_over, port, f"{recipient}@{GRUMPY}", domain=GRUMPY))[0])
    await organisation.close()
    assert codes == [451, 451, 250, 451, 250, 550]
    assert len(organisation.letters) == 2


async def test_the_answer_finds_its_way_by_dns_and_over_tls(friends: tuple[Organisation, int], layout: Layout) -> None:
    """friends.test plays both ends: its answers go to the MX of its own domain."""
    organisation, port = friends
    async with DnsServer(zones()) as dns:
        organisation.nameserver_port = int(dns.address.rpartition(":")[2])
        organisation.world_port = port
        letter = Letter(f"bob@{FRIENDS}", f"carl@{FRIENDS}", MAIL, "TLSv1.3", "127.0.0.1", 0.0)
        await write_back(organisation, letter)
    [posted] = organisation.posted
    assert posted.reply == "250 2.0.0 Thank you, friends.test has it"
    assert (posted.host, posted.answers, posted.recipient) == ("mx.friends.test", "one@dev.test", f"bob@{FRIENDS}")
    assert posted.tls.startswith("TLSv1.")
    assert organisation.letters[0].has(posted.message_id)
    assert {"friends.test/MX", "mx.friends.test/A"} <= set(dns.queries)


def letter(head: str, sender: str = "dev@dev.test") -> Letter:
    return Letter(sender, f"bob@{FRIENDS}", head.encode() + b"\r\n\r\nbody\r\n", "", "127.0.0.1", 0.0)


def test_reports_and_automatic_answers_are_not_answered() -> None:
    assert wants_answer(letter("Subject: hello"))
    assert wants_answer(letter("Auto-Submitted: no"))
    assert not wants_answer(letter("Subject: failure notice", sender=""))
    assert not wants_answer(letter("Subject: away\r\nAuto-Submitted: auto-replied"))
    assert wants_answer(letter("Subject: quoting\r\n\r\nAuto-Submitted: auto-replied"))


async def test_a_report_stays_unanswered(friends: tuple[Organisation, int]) -> None:
    organisation, _ = friends
    await write_back(organisation, letter("Subject: failure notice", sender=""))
    assert organisation.posted == []


def test_an_answer_names_what_it_answers_and_is_itself_no_reason_to_answer() -> None:
    message_id, answer = answer_to(letter("Message-ID: <one@dev.test>"))
    assert message_id_of(answer) == message_id
    assert b"\r\nIn-Reply-To: <one@dev.test>\r\n" in answer
    assert not wants_answer(Letter(f"bob@{FRIENDS}", "dev@dev.test", answer, "", "", 0.0))


def test_a_message_id_in_the_body_is_none() -> None:
    assert message_id_of(b"Subject: x\r\n\r\nMessage-ID: <two@dev.test>\r\n") == ""
    assert not has_message_id(b"Subject: x\r\n\r\n", "")


async def test_a_server_that_is_away_is_a_failure_of_the_sender(tmp_path: Path) -> None:
    async with DnsServer(zones()) as dns:
        organisation = Organisation(FRIENDS, ADDRESSES[FRIENDS], welcoming)
        organisation.nameserver_port = int(dns.address.rpartition(":")[2])
        organisation.world_port = 1  # nobody listens on tcpmux
        with pytest.raises((OSError, smtplib.SMTPException)):
            await in_thread(organisation.post, f"bob@{FRIENDS}", f"dev@{GRUMPY}", MAIL, "one@dev.test")
    posted: list[Posted] = organisation.posted
    assert posted == []


def test_certificates_are_kept_and_cover_what_clients_ask_for(layout: Layout) -> None:
    before = layout.ca_file.read_bytes()
    make_certificates(layout)
    assert layout.ca_file.read_bytes() == before
    assert certificate_names(FRIENDS) == ["mx.friends.test", "127.0.0.2"]
