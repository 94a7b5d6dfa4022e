"""What an envelope address means here: one step, in a fixed order, from one statement."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from postroad.store.account_records import (
    Alias,
    AliasAdd,
    CatchAll,
    DomainAdd,
    Empty,
    Local,
    NotOurs,
    Postmaster,
    Resolved,
    Unknown,
    UserAdd,
    UserDisable,
)
from postroad.store.accounts import alias_add, domain_add, domain_catch_all, domain_postmaster, user_add, user_disable
from postroad.store.directory import ELSEWHERE_S, Directory
from postroad.store.engine import Connection
from postroad.values.address import Address
from tests.fakes.clock import FakeClock
from tests.store.small_store import SmallStore


@pytest.fixture
def post(connect: Callable[[], Connection]) -> SmallStore:
    """anna@ is an account, team@ an alias, anna+sale@ an alias of its own."""
    post = SmallStore(connect())
    post.account("anna@example.com")
    post.run(alias_add, AliasAdd("team@example.com", ["anna@example.com", "x@other.example"]))
    post.run(alias_add, AliasAdd("anna+sale@example.com", ["x@other.example"]))
    return post


async def ask(post: SmallStore, text: str, delimiter: str = "+") -> Resolved:
    return await post.directory.recipient(Address.parse(text, utf8=True), delimiter)


@pytest.mark.parametrize(
    "text, tag",
    [
        ("anna@example.com", ""),
        ("ANNA@Example.COM", ""),
        ('"anna"@example.com', ""),
        ("anna+news@example.com", "news"),
        ("Anna+A+B@example.com", "a+b"),
    ],
)
async def test_an_account_is_met_in_any_case_with_and_without_tag(post: SmallStore, text: str, tag: str) -> None:
    found = await ask(post, text)
    assert isinstance(found, Local)
    assert (found.key, found.tag) == ("anna@example.com", tag)


async def test_the_whole_address_comes_before_the_one_without_its_tag(post: SmallStore) -> None:
    found = await ask(post, "anna+sale@example.com")
    assert found == Alias("anna+sale@example.com", ["x@other.example"])


async def test_an_alias_is_met_with_a_tag_too(post: SmallStore) -> None:
    found = await ask(post, "team+x@example.com")
    assert isinstance(found, Alias)
    assert sorted(found.targets) == ["anna@example.com", "x@other.example"]


async def test_without_delimiter_a_tag_is_part_of_the_name(post: SmallStore) -> None:
    assert await ask(post, "anna+news@example.com", "") == Unknown("anna+news@example.com")
    assert isinstance(await ask(post, "anna-news@example.com", "-"), Local)


async def test_nobody_and_not_ours_are_told_apart(post: SmallStore) -> None:
    assert await ask(post, "nobody@example.com") == Unknown("nobody@example.com")
    assert await ask(post, "+x@example.com") == Unknown("+x@example.com")
    assert await ask(post, "anna@elsewhere.example") == NotOurs("elsewhere.example")
    assert await ask(post, "anna@[192.0.2.1]") == NotOurs("[192.0.2.1]")


async def test_an_alias_can_stand_in_a_domain_without_accounts(post: SmallStore) -> None:
    post.run(domain_add, DomainAdd("example.net"))
    post.run(alias_add, AliasAdd("sales@example.net", ["anna@example.com"]))
    assert await ask(post, "sales@example.net") == Alias("sales@example.net", ["anna@example.com"])


async def test_a_catch_all_takes_what_nobody_has(post: SmallStore) -> None:
    post.run(domain_catch_all, CatchAll("example.com", "anna@example.com"))
    assert await ask(post, "typo@example.com") == Alias("typo@example.com", ["anna@example.com"], "catch-all")
    assert isinstance(await ask(post, "anna@example.com"), Local)


@pytest.mark.parametrize("user", ["postmaster", "Postmaster", "abuse"])
async def test_required_addresses_lead_to_the_first_account(post: SmallStore, user: str) -> None:
    post.run(domain_catch_all, CatchAll("example.com", "x@other.example"))
    found = await ask(post, f"{user}@example.com")
    assert found == Alias(f"{user.lower()}@example.com", ["anna@example.com"], user.lower(), unfailing=True)


async def test_an_admin_takes_required_mail_before_the_first_account(post: SmallStore) -> None:
    post.run(domain_postmaster, Postmaster("example.com", "admin@other.example"))
    found = await ask(post, "postmaster@example.com")
    assert found == Alias("postmaster@example.com", ["admin@other.example"], "postmaster", unfailing=True)


async def test_a_required_address_can_be_an_account_or_alias_and_still_is_never_refused(post: SmallStore) -> None:
    post.run(user_add, UserAdd("postmaster@example.com"))
    post.run(alias_add, AliasAdd("abuse@example.com", ["anna@example.com"]))
    postmaster, abuse = await ask(post, "postmaster@example.com"), await ask(post, "abuse@example.com")
    assert isinstance(postmaster, Local)
    assert isinstance(abuse, Alias)
    assert postmaster.unfailing
    assert abuse.unfailing


async def test_a_domain_without_accounts_borrows_the_first_account_of_the_server(post: SmallStore) -> None:
    post.run(domain_add, DomainAdd("example.net"))
    found = await ask(post, "abuse@example.net")
    assert found == Alias("abuse@example.net", ["anna@example.com"], "abuse", unfailing=True)


async def test_a_disabled_first_account_is_passed_over(post: SmallStore) -> None:
    post.run(user_add, UserAdd("bob@example.com"))
    post.run(user_disable, UserDisable("anna@example.com"))
    found = await ask(post, "postmaster@example.com")
    assert isinstance(found, Alias)
    assert found.targets == ["bob@example.com"]
    local = await ask(post, "anna@example.com")
    assert isinstance(local, Local)
    assert local.disabled


async def test_postmaster_without_domain_is_that_of_the_first_domain(post: SmallStore) -> None:
    post.run(domain_add, DomainAdd("aaa.example"))
    found = await post.directory.bare_postmaster()
    assert isinstance(found, Alias)
    assert found.key == "postmaster@example.com"


async def test_a_server_with_nobody_on_it_says_so(connect: Callable[[], Connection]) -> None:
    post = SmallStore(connect())
    assert await post.directory.bare_postmaster() == Empty("postmaster")
    post.run(domain_add, DomainAdd("example.com"))
    assert await ask(post, "postmaster@example.com") == Empty("postmaster@example.com")
    assert await ask(post, "anna@example.com") == Unknown("anna@example.com")


async def test_international_addresses_meet_their_account(post: SmallStore) -> None:
    post.account("jürgen@bücher.example")
    found = await ask(post, "JÜRGEN+x@xn--bcher-kva.example")
    assert isinstance(found, Local)
    assert found.tag == "x"


async def test_a_domain_elsewhere_is_asked_for_once_until_something_changes(post: SmallStore) -> None:
    clock = FakeClock()
    directory = Directory(post, clock)
    address = Address.parse("anna@new.example")
    assert await directory.recipient(address) == NotOurs("new.example")
    post.run(domain_add, DomainAdd("new.example"))
    assert await directory.recipient(address) == NotOurs("new.example")
    directory.forget()
    assert isinstance(await directory.recipient(address), Unknown)


async def test_a_lost_hint_about_the_directory_costs_seconds(post: SmallStore) -> None:
    clock = FakeClock()
    directory = Directory(post, clock)
    address = Address.parse("anna@new.example")
    await directory.recipient(address)
    post.run(domain_add, DomainAdd("new.example"))
    clock.advance(ELSEWHERE_S)
    assert isinstance(await directory.recipient(address), Unknown)
