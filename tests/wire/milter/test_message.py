"""A message as milters leave it: all changes of one milter, or none."""

from __future__ import annotations

import pytest

from postroad.values.address import Address
from postroad.wire.milter.message import EditedMessage, wire_body
from postroad.wire.milter.packets import (
    AddHeader,
    AddRecipient,
    Change,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    InsertHeader,
    MilterError,
    Quarantine,
    ReplaceBody,
)
from postroad.wire.mime.edit import EditedHeader

ANNA, BOB, CARL = (Address.parse(f"{name}@example.org") for name in ("anna", "bob", "carl"))


def fresh() -> EditedMessage:
    return EditedMessage(EditedHeader(b"Subject: hi\r\n\r\n"), ANNA, [BOB])


def test_header_values_get_the_blank_that_the_milter_leaves_to_us() -> None:
    changes: list[Change] = [AddHeader(b"A", b"1"), InsertHeader(0, b"B", b"2"), ChangeHeader(1, b"Subject", b"bye")]
    message = fresh().changed(changes, leading_space=False)
    assert (message.header.above, message.header.block) == (b"B: 2\r\n", b"Subject: bye\r\nA: 1\r\n\r\n")
    message = fresh().changed(changes, leading_space=True)
    assert message.header.block == b"Subject:bye\r\nA:1\r\n\r\n"


def test_empty_value_removes_a_field_either_way() -> None:
    for leading_space in (True, False):
        message = fresh().changed([ChangeHeader(1, b"subject", b"")], leading_space=leading_space)
        assert message.header.block == b"\r\n"


def test_envelope_changes_add_up() -> None:
    shouted = Address.parse("BOB@example.org")
    message = fresh().changed([ChangeSender(None), AddRecipient(CARL), DeleteRecipient(shouted)], leading_space=False)
    assert (message.sender, message.sender_changed) == (None, True)
    assert list(message.added.values()) == [CARL]
    assert list(message.removed.values()) == [BOB]
    back = message.changed([AddRecipient(BOB), DeleteRecipient(CARL), ChangeSender(ANNA)], leading_space=False)
    assert (back.added, back.removed, back.sender) == ({}, {}, ANNA)
    strange = fresh().changed([DeleteRecipient(CARL), AddRecipient(BOB)], leading_space=False)
    assert (strange.added, strange.removed) == ({}, {})


def test_first_reason_for_quarantine_stays() -> None:
    message = fresh().changed([Quarantine("odd"), Quarantine("other")], leading_space=False)
    assert message.quarantine == "odd"
    assert fresh().changed([Quarantine("")], leading_space=False).quarantine


def test_nothing_asked_for_is_the_same_message() -> None:
    message = fresh()
    assert message.changed([], leading_space=False) is message


@pytest.mark.parametrize(
    "impossible",
    [AddHeader(b"A", b"1\r\nBcc: x@y.test"), InsertHeader(1, b"A B", b"1"), ReplaceBody(b"a\rb"), ReplaceBody(b"\0")],
)
def test_of_a_milter_that_asks_for_the_impossible_nothing_stays(impossible: Change) -> None:
    """Class E12: the changes before the impossible one are not made either."""
    message = fresh()
    with pytest.raises(MilterError):
        message.changed([AddHeader(b"X", b"1"), AddRecipient(CARL), Quarantine("odd"), impossible], leading_space=False)
    assert message.header.block == b"Subject: hi\r\n\r\n"
    assert (message.added, message.quarantine, message.body) == ({}, "", None)


@pytest.mark.parametrize(
    "octets, wire",
    [(b"", b""), (b"a\r\n", b"a\r\n"), (b"a\nb\r\n", b"a\r\nb\r\n"), (b"a", b"a\r\n"), (b"\n\n", b"\r\n\r\n")],
)
def test_new_body_takes_wire_form(octets: bytes, wire: bytes) -> None:
    assert wire_body(octets) == wire


@pytest.mark.parametrize("octets", [b"a\rb\r\n", b"\r", b"a\r\r\n", b"a\0b", b"a\n\r"])
def test_new_body_with_a_bare_cr_is_refused(octets: bytes) -> None:
    """Class E1: no octet of it can end the message elsewhere."""
    with pytest.raises(MilterError):
        wire_body(octets)


@pytest.mark.parametrize("block", [b"A: 1\r\n", b"A: 1"])
def test_new_body_stands_behind_an_empty_line(block: bytes) -> None:
    message = EditedMessage(EditedHeader(block), ANNA, [BOB]).changed([ReplaceBody(b"x\r\n")], leading_space=False)
    assert message.header.block == b"A: 1\r\n\r\n"
