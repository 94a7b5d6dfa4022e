"""Packets of the milter protocol: every word read, every octet that is none refused by the one error."""

from __future__ import annotations

import pytest

from postroad.values.address import Address
from postroad.values.reply import Reply
from postroad.wire.milter.packets import (
    AddHeader,
    AddRecipient,
    Answer,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    InsertHeader,
    MilterError,
    Negotiated,
    Quarantine,
    ReplaceBody,
    Said,
    Unpacketer,
    macros,
    packet,
    read_packet,
    texts,
)
from postroad.wire.milter.words import MAX_PACKET, Actions, Command, MacroStage, Steps, Word

ANNA = Address.parse("anna@example.org")


@pytest.mark.parametrize(
    "octets, meaning",
    [
        (b"c", Answer(Word.CONTINUE)),
        (b"a", Answer(Word.ACCEPT)),
        (b"d", Answer(Word.DISCARD)),
        (b"r", Answer(Word.REJECT)),
        (b"t", Answer(Word.TEMPFAIL)),
        (b"s", Answer(Word.SKIP)),
        (b"p", Answer(Word.PROGRESS)),
        (b"f", Answer(Word.CONNECTION_FAILED)),
        (b"4", Answer(Word.SHUTDOWN)),
        (b"y550 5.1.1 No such user\0", Answer(Word.REPLY_CODE, Reply(550, "5.1.1", "No such user"))),
        (b"+<anna@example.org>\0", AddRecipient(ANNA)),
        (b"+anna@example.org\0", AddRecipient(ANNA)),
        (b"2<anna@example.org>\0NOTIFY=NEVER\0", AddRecipient(ANNA)),
        (b"2<anna@example.org>\0", AddRecipient(ANNA)),
        (b"-<anna@example.org>\0", DeleteRecipient(ANNA)),
        (b"e<anna@example.org>\0", ChangeSender(ANNA)),
        (b"e<anna@example.org>\0RET=HDRS\0", ChangeSender(ANNA)),
        (b"e<>\0", ChangeSender(None)),
        ("e<ä@example.org>\0".encode(), ChangeSender(Address.parse("ä@example.org", utf8=True))),
        (b"hX-A\0 1\0", AddHeader(b"X-A", b" 1")),
        (b"hX-A\0\0", AddHeader(b"X-A", b"")),
        (b"i\0\0\0\x02X-A\0one\n two\0", InsertHeader(2, b"X-A", b"one\n two")),
        (b"m\0\0\0\x01X-A\0\0", ChangeHeader(1, b"X-A", b"")),
        (b"bnew\r\n", ReplaceBody(b"new\r\n")),
        (b"b", ReplaceBody(b"")),
        (b"qlooks\r\nodd\0", Quarantine("looks  odd")),
        (
            b"O\0\0\0\x06\0\0\0\x11\0\0\0\x03",
            Negotiated(6, Actions(0x11), Steps.NO_CONNECT | Steps.NO_HELO, {}),
        ),
        (
            b"O\0\0\0\x06\0\0\x01\0\0\0\0\0\0\0\0\x03{rcpt_addr}, i auth_type\0\0\0\0\x63ignored\0",
            Negotiated(6, Actions.SET_MACROS, Steps(0), {MacroStage.RCPT: ("{rcpt_addr}", "i", "{auth_type}")}),
        ),
    ],
)
def test_every_word_has_its_meaning(octets: bytes, meaning: Said) -> None:
    assert read_packet(octets) == meaning


@pytest.mark.parametrize(
    "octets",
    [
        b"", b"?", b"cx", b"t\0", b"y", b"y550", b"y250 2.0.0 fine\0", b"y550 5.1.1 a\0b\0", b"+\0", b"+<>\0",
        b"+<anna>\0", b"-anna@example.org", b"+<a@b.test>\0x\0", b"2a@b.test\0x\0y\0", b"hX-A\0", b"hX-A\0b",
        b"hX-A\0b\0c\0", b"i\0\0\0", b"m\0\0\0\x01X-A\0", b"q", b"qa\0b\0", b"O", b"O" + bytes(11),
        b"O" + bytes(12) + b"\0\0\0\x01i", b"O" + bytes(12) + b"\0\0\0\x01" + b"i " * 201 + b"\0",
        b"e<a@b.test\r\nRCPT TO:<c@d.test>>\0", b"\xff\xff", b"e\xff\xfe\0",
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_one_error(octets: bytes) -> None:
    """Classes E10 and E12: a packet that is broken anywhere decides nothing."""
    with pytest.raises(MilterError):
        read_packet(octets)


def test_stream_is_cut_alike_at_every_split() -> None:
    stream = b"\0\0\0\x01c\0\0\0\x05bnew\n\0\0\0\x01p"
    for at in range(len(stream) + 1):
        cutter = Unpacketer()
        assert cutter.feed(stream[:at]) + cutter.feed(stream[at:]) == [b"c", b"bnew\n", b"p"]
        assert cutter.empty


@pytest.mark.parametrize("length", [b"\0\0\0\0", (MAX_PACKET + 1).to_bytes(4, "big"), b"\xff\xff\xff\xff"])
def test_impossible_length_is_refused_before_anything_is_kept(length: bytes) -> None:
    with pytest.raises(MilterError):
        Unpacketer().feed(length)


def test_largest_packet_is_read() -> None:
    octets = b"b" + bytes(MAX_PACKET - 1)
    assert Unpacketer().feed(MAX_PACKET.to_bytes(4, "big") + octets) == [octets]


def test_what_we_say_cannot_hold_more_than_it_says() -> None:
    assert packet(Command.HELO, texts(b"x")) == b"\0\0\0\x03Hx\0"
    assert macros(Command.MAIL, {"i": "1", "{auth_type}": "PLAIN"}) == b"\0\0\0\x18DMi\x001\0{auth_type}\0PLAIN\0"
    with pytest.raises(MilterError):
        texts(b"a\0b")
    with pytest.raises(MilterError):
        packet(Command.BODY, bytes(MAX_PACKET))
