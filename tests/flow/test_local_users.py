"""In whose name a local user may send."""

from __future__ import annotations

import pytest

from postroad.flow.local_users import LocalUser, SenderRules, granted, local_user
from postroad.values.address import Address, AddressError

ANNA, WWW, ROOT, LIST = LocalUser(1000, "anna"), LocalUser(33, "www-data"), LocalUser(0, "root"), LocalUser(38, "list")
RULES = SenderRules("MX.h.test", ["list"], {"www-data": "shop@x.test, @shop.test"})

TABLE = [
    (ANNA, "anna@mx.h.test", True), (ANNA, "Anna@MX.h.test", True), (ANNA, "anna+tag@mx.h.test", True),
    (ANNA, "bob@mx.h.test", False), (ANNA, "anna@x.test", False), (ANNA, "shop@x.test", False),
    (ANNA, "anna@sub.mx.h.test", False), (ANNA, None, True),
    (WWW, "www-data@mx.h.test", True), (WWW, "SHOP@x.test", True), (WWW, "other@x.test", False),
    (WWW, "anything@shop.test", True), (WWW, "anything@sub.shop.test", False),
    (ROOT, "boss@bank.test", True), (LIST, "boss@bank.test", True),
]  # fmt: skip


@pytest.mark.parametrize("user, sender, allowed", TABLE)
def test_who_may_send_as_whom(user: LocalUser, sender: str | None, allowed: bool) -> None:
    assert RULES.allows(user, Address.parse(sender) if sender else None) is allowed


def test_the_refusal_names_user_sender_and_way_out() -> None:
    reply = RULES.refusal(ANNA, Address.parse("boss@bank.test"))
    assert (reply.code, reply.enhanced) == (553, "5.7.1")
    for word in ("anna", "boss@bank.test", "anna@mx.h.test", "local.senders"):
        assert word in reply.text


def test_a_user_nobody_knows_has_a_name_of_his_own() -> None:
    assert local_user(4_000_000_000 - 5) == LocalUser(3_999_999_995, "uid3999999995")


def test_an_odd_name_stays_harmless_in_a_header() -> None:
    assert str(LocalUser(5, "a) b\r\n(c")) == "uid 5 (a??b???c)"
    assert RULES.own_address(LocalUser(5, "DOM\\a b")) == '"DOM\\\\a b"@mx.h.test'


@pytest.mark.parametrize("text", ["", "anna", "@", "a@b c", "@-x"])
def test_grants_that_are_none(text: str) -> None:
    with pytest.raises(AddressError):
        granted(text)
