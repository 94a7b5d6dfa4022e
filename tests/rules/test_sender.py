"""In whose name a login may send: row S46."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from postroad.rules.checks.sender import authors_are_yours, envelope_sender_is_yours
from postroad.rules.ports import Ports
from postroad.values.address import Address
from postroad.values.facts import Content, Facts, Stage

ANNA = "anna@example.com"
OTHERS = "ben@example.com"


class Own:
    """Anna may send as herself and as sales@."""

    async def may_send_as(self, account: int, address: Address) -> bool:
        return account == 1 and str(address).lower() in (ANNA, "sales@example.com")


PORTS = Ports(senders=Own())


def facts(sender: str | None = ANNA, header: bytes = b"", account: int = 1) -> Facts:
    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    return Facts(
        Stage.MESSAGE,
        login=ANNA if account else "",
        account=account,
        sender=Address.parse(sender) if sender else None,
        content=Content(header, len(header), nothing),
    )


async def test_ones_own_sender_passes() -> None:
    assert await envelope_sender_is_yours(facts(), PORTS) is None
    assert await envelope_sender_is_yours(facts("Sales@example.com"), PORTS) is None


async def test_the_null_sender_is_everybodys() -> None:
    assert await envelope_sender_is_yours(facts(None), PORTS) is None


async def test_another_ones_sender_is_refused_with_the_way_out() -> None:
    verdict = await envelope_sender_is_yours(facts(OTHERS), PORTS)
    assert verdict is not None
    assert verdict.say is not None
    assert str(verdict.say).startswith("553 5.7.1 anna@example.com may not send as ben@example.com. Send as anna@")
    assert verdict.why == "sender not granted"


async def test_who_did_not_log_in_is_not_asked() -> None:
    assert await envelope_sender_is_yours(facts(OTHERS, account=0), PORTS) is None
    assert await authors_are_yours(facts(header=b"From: ben@example.com\r\n\r\n", account=0), PORTS) is None


@pytest.mark.parametrize(
    "header",
    [
        b"From: anna@example.com\r\n\r\n",
        b"From: Anna <ANNA@example.com>\r\nSender: sales@example.com\r\n\r\n",
        b'from: "Ben, ben@example.com" (ben@example.com)\r\n <sales@example.com>\r\n\r\n',
        b"From: anna@example.com, sales@example.com\r\n\r\n",
        b"Subject: no author yet\r\n\r\n",
        b"From: Anna M. Ernst <anna@example.com> (at work)\r\n\r\n",
        b"From: anna@example.com <anna@example.com>\r\n\r\n",
        b"From: anna@example.com,\r\n\tsales@example.com (,)\r\n\r\n",
        b"From: Anna @ work <anna@example.com>\r\n\r\n",
        b"From: Sales: sales@example.com, Anna <anna@example.com>;\r\n\r\n",
        b'From: "ben@example.com" <anna@example.com>\r\n\r\n',
    ],
)
async def test_ones_own_authors_pass(header: bytes) -> None:
    assert await authors_are_yours(facts(header=header), PORTS) is None


@pytest.mark.parametrize(
    ("header", "reply", "why"),
    [
        (
            b"From: ben@example.com\r\n\r\n",
            "550 5.7.1 anna@example.com may not send with From: ben@",
            "from not granted",
        ),
        (b"From: Anna <anna@example.com>, Ben <ben@example.com>\r\n\r\n", "550 5.7.1 ", "from not granted"),
        (b"From: anna@example.com <ben@example.com>\r\n\r\n", "550 5.7.1 ", "from not granted"),
        (b"From: x:anna@example.com,ben@example.com;\r\n\r\n", "550 5.7.1 ", "from not granted"),
        (b"From: anna@example.com\r\nSender: ben@example.com\r\n\r\n", "550 5.7.1 ", "from not granted"),
        (b"From: anna@example.com\r\nFrom: ben@example.com\r\n\r\n", "550 5.6.0 The message has two", "from twice"),
        (b"From : anna@example.com\r\nfrom: anna@example.com\r\n\r\n", "550 5.6.0 ", "from twice"),
        (b"From: Anna\r\n\r\n", "550 5.6.0 ", "from missing"),
        (b"From:\r\n\r\n", "550 5.6.0 ", "from missing"),
        (b"From: \xff@example.com\r\n\r\n", "550 5.6.0 ", "from missing"),
        (b"From: ben@example.com <anna@example.com>\r\n\r\n", "550 5.7.1 ", "from not granted"),
        (b"From: ben@example.com: anna@example.com;\r\n\r\n", "550 5.7.1 ", "from not granted"),
        (b"From: <anna@example.com><ben@example.com>\r\n\r\n", "550 5.6.0 ", "from unclear"),
        (b"From: <anna@example.com> <ben@example.com>\r\n\r\n", "550 5.6.0 ", "from unclear"),
        (b"From: <anna@example.com> ben@example.com\r\n\r\n", "550 5.6.0 ", "from unclear"),
        (b"From: <ben@example.com:anna@example.com>\r\n\r\n", "550 5.6.0 ", "from unclear"),
        (b"From: <@ben.example,@x.example:anna@example.com>\r\n\r\n", "550 5.6.0 ", "from unclear"),
        (b"From: anna@example.com (<ben@example.com>\r\n\r\n", "550 5.6.0 ", "from unclear"),
        (b'From: anna@example.com "<ben@example.com>\r\n\r\n', "550 5.6.0 ", "from unclear"),
        (b"From: <ben@example.com <anna@example.com>\r\n\r\n", "550 5.6.0 ", "from unclear"),
        (b"From: ben@example.com <anna@example.com\r\n\r\n", "550 5.6.0 ", "from unclear"),
        (b"From: " + b"anna@example.com, " * 1000 + b"anna@example.com\r\n\r\n", "550 5.6.0 ", "from unclear"),
    ],
)
async def test_forged_authors_are_refused(header: bytes, reply: str, why: str) -> None:
    verdict = await authors_are_yours(facts(header=header), PORTS)
    assert verdict is not None
    assert verdict.say is not None
    assert str(verdict.say).startswith(reply)
    assert verdict.why == why


async def test_a_header_too_large_to_be_read_is_nobodys_own() -> None:
    verdict = await authors_are_yours(facts(header=b"From: ben@example.com\r\n" + b"X:\r\n" * 2000 + b"\r\n"), PORTS)
    assert verdict is not None
    assert str(verdict.say).startswith("552 5.3.4 ")
