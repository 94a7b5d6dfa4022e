"""What becomes of a sender's wishes when recipients lead to mailboxes, to other hosts, and to the same place."""

from __future__ import annotations

import pytest

from postroad.flow.destinations import Destinations, Wish
from postroad.flow.dsn import without_success
from postroad.flow.local import Plan
from postroad.values.address import Address
from postroad.values.envelope import Recipient

ANNA, BOB = (1, "INBOX", "anna@x.test"), (2, "INBOX", "bob@x.test")
FAR = Address.parse("far@y.test")


def recipient(address: str, notify: str = "", orcpt: str = "") -> Recipient:
    return Recipient(Address.parse(address, utf8=True), notify, orcpt)


@pytest.mark.parametrize(
    "notify, rest",
    [
        ("", ""),
        ("NEVER", "NEVER"),
        ("SUCCESS", "NEVER"),
        ("SUCCESS,FAILURE", "FAILURE"),
        ("FAILURE,SUCCESS,DELAY", "FAILURE,DELAY"),
        ("DELAY", "DELAY"),
    ],
)
def test_rfc_3461_section_5_2_7_3_c(notify: str, rest: str) -> None:
    assert without_success(notify) == rest


def test_a_mailbox_keeps_the_wishes() -> None:
    there = Destinations()
    there.add(recipient("anna@x.test", "SUCCESS", "rfc822;a"), Plan([ANNA]))
    there.add(recipient("bob@x.test"), Plan([BOB]))
    assert there.wishes == {0: [Wish("anna@x.test", "SUCCESS", "rfc822;a")]}
    assert there.expanded == []


@pytest.mark.parametrize("plan", [Plan([ANNA]), Plan(remotes=[FAR])])
def test_an_alias_of_one_passes_them_on_and_says_nothing_itself(plan: Plan) -> None:
    """RFC 3461 section 5.2.7.2."""
    there = Destinations()
    there.add(recipient("info@x.test", "SUCCESS,FAILURE", "rfc822;info@x.test"), plan)
    assert there.expanded == []
    passed = [(notify, orcpt) for _, _, notify, orcpt in there.remotes]
    passed += [(wish.notify, wish.orcpt) for wishes in there.wishes.values() for wish in wishes]
    assert passed == [("SUCCESS,FAILURE", "rfc822;info@x.test")]


def test_an_alias_of_several_passes_them_on_without_success_and_is_reported_as_expanded() -> None:
    """RFC 3461 section 5.2.7.3 (c)."""
    there = Destinations()
    there.add(recipient("team@x.test", "SUCCESS,DELAY", "rfc822;team"), Plan([ANNA, BOB], [FAR]))
    assert there.expanded == [Wish("team@x.test", "SUCCESS,DELAY", "rfc822;team")]
    assert there.remotes == [("far@y.test", "y.test", "DELAY", "rfc822;team")]
    assert {wish.notify for wishes in there.wishes.values() for wish in wishes} == {"DELAY"}


@pytest.mark.parametrize(
    "alias, orcpt",
    [
        ("info@x.test", "rfc822;info@x.test"),
        ("a+b=c@x.test", "rfc822;a+2Bb+3Dc@x.test"),
        ("jörg+x@x.test", r"utf-8;j\x{F6}rg\x{2B}x@x.test"),
        ("=" * 64 + "@" + "d" * 60 + ".test", "rfc822;" + "+3D" * 64 + "@" + "d" * 60 + ".test"),
        ("=" * 62 + "ö@" + "ü" * 20 + "." + "ü" * 20 + ".test", ""),
    ],
)
def test_an_alias_of_somebody_elsewhere_says_whom_the_sender_wrote_to(alias: str, orcpt: str) -> None:
    """RFC 3461 section 5.2.1 (d); one that no host need take is left out."""
    there = Destinations()
    there.add(recipient(alias), Plan(remotes=[FAR]))
    assert there.remotes == [("far@y.test", "y.test", "", orcpt)]
    there = Destinations()
    there.add(recipient("far@y.test"), Plan(remotes=[FAR]))
    assert there.remotes == [("far@y.test", "y.test", "", "")]


def test_without_the_wish_an_alias_of_several_is_not_reported() -> None:
    there = Destinations()
    there.add(recipient("team@x.test", "FAILURE"), Plan([ANNA, BOB]))
    assert there.expanded == []
    assert [there.wish(at) for at in (0, 1)] == [
        Wish("anna@x.test", "FAILURE", ""),
        Wish("bob@x.test", "FAILURE", ""),
    ]


def test_two_recipients_of_one_mailbox_are_one_copy_with_both_wishes() -> None:
    there = Destinations()
    there.add(recipient("anna@x.test"), Plan([ANNA]))
    there.add(recipient("anna+tag@x.test", "SUCCESS", "rfc822;t"), Plan([(1, "INBOX", "anna+tag@x.test")]))
    there.add(recipient("anna+tag@x.test", "SUCCESS", "rfc822;t"), Plan([(1, "INBOX", "anna+tag@x.test")]))
    assert len(there.copies) == 1
    assert there.wishes == {0: [Wish("anna@x.test", "", ""), Wish("anna+tag@x.test", "SUCCESS", "rfc822;t")]}
    assert there.wish(0) == Wish("anna+tag@x.test", "SUCCESS", "rfc822;t")


def test_who_wants_nothing_does_not_silence_who_did_not_say() -> None:
    there = Destinations()
    there.add(recipient("anna@x.test"), Plan([ANNA]))
    there.add(recipient("info@x.test", "NEVER"), Plan([ANNA]))
    assert there.wish(0) == Wish("anna@x.test", "", "")


def test_of_two_recipients_that_are_one_address_success_counts() -> None:
    there = Destinations()
    there.add(recipient("info@x.test", "NEVER"), Plan(remotes=[FAR]))
    there.add(recipient("far@y.test", "SUCCESS", "rfc822;f"), Plan(remotes=[FAR]))
    there.add(recipient("far@y.test", "FAILURE"), Plan(remotes=[FAR]))
    assert there.remotes == [("far@y.test", "y.test", "SUCCESS", "rfc822;f")]
