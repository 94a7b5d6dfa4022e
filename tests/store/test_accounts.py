"""Domains, accounts, aliases and credentials through their units, on both engines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from postroad.store import account_records as words
from postroad.store.account_records import (
    AliasAdd,
    AliasEntry,
    AliasRemove,
    CatchAll,
    Credential,
    DomainAdd,
    DomainRemove,
    DomainRemoved,
    Postmaster,
    SetPassword,
    UserAdd,
    UserDisable,
    UserQuota,
    UserRemove,
)
from postroad.store.accounts import (
    alias_add,
    alias_remove,
    domain_add,
    domain_catch_all,
    domain_postmaster,
    domain_remove,
    set_password,
    user_add,
    user_disable,
    user_quota,
    user_remove,
)
from postroad.store.credentials import Credentials
from postroad.store.engine import Connection
from postroad.store.mailbox_records import Sweep
from postroad.store.mailbox_sweep import sweep_mailboxes
from postroad.store.records import FILED, NO_MAILBOX, OVER_QUOTA
from tests.store.small_store import SmallStore

SECRET = Credential("$argon2id$one", b"salt", 4096, b"stored", b"server")
OTHER = Credential("$argon2id$two", b"salt2", 4096, b"stored2", b"server2")


@pytest.fixture
def post(connect: Callable[[], Connection]) -> SmallStore:
    return SmallStore(connect())


# -- domains ---------------------------------------------------------------------------------------------------------


async def test_a_domain_is_known_by_its_a_labels(post: SmallStore) -> None:
    made = post.run(domain_add, DomainAdd("Bücher.Example"))
    assert made.done
    domain = await post.directory.domain("xn--bcher-kva.example")
    assert domain is not None
    assert (domain.id, domain.postmaster, domain.catch_all) == (made.id, "", "")


@pytest.mark.parametrize(
    "name, word",
    [("", words.NOT_A_DOMAIN), ("a b", words.NOT_A_DOMAIN), ("[192.0.2.1]", words.NOT_A_DOMAIN)],
)
def test_what_is_no_domain_is_not_added(post: SmallStore, name: str, word: str) -> None:
    assert post.run(domain_add, DomainAdd(name)).word == word


def test_a_domain_is_added_once(post: SmallStore) -> None:
    first = post.run(domain_add, DomainAdd("example.com"))
    again = post.run(domain_add, DomainAdd("EXAMPLE.com"))
    assert (again.word, again.id) == (words.DOMAIN_EXISTS, first.id)


def test_an_empty_domain_is_removed(post: SmallStore) -> None:
    post.run(domain_add, DomainAdd("example.com"))
    assert post.run(domain_remove, DomainRemove("example.com")).word == words.DONE
    assert post.run(domain_remove, DomainRemove("example.com")).word == words.NO_DOMAIN


def test_a_domain_in_use_stays_and_says_what_stands_below_it(post: SmallStore) -> None:
    post.account("anna@example.com")
    post.account("bob@example.com")
    post.run(alias_add, AliasAdd("team@example.com", ["anna@example.com", "bob@example.com"]))
    post.run(domain_add, DomainAdd("example.net"))
    post.run(alias_add, AliasAdd("anna@example.net", ["Anna@Example.COM"]))
    refused = post.run(domain_remove, DomainRemove("example.com"))
    assert refused == DomainRemoved(words.DOMAIN_IN_USE, accounts=2, aliases=1, pointing=1)


async def test_a_forced_removal_takes_accounts_aliases_and_their_mail(post: SmallStore) -> None:
    anna = post.account("anna@example.com")
    post.deliver(anna, 3)
    post.run(alias_add, AliasAdd("team@example.com", ["anna@example.com"]))
    assert post.run(domain_remove, DomainRemove("example.com", force=True)).word == words.DONE
    assert await post.directory.domains() == []
    assert await post.directory.accounts() == []
    while post.run(sweep_mailboxes, Sweep(10)).more:
        pass
    for table in ("accounts", "aliases", "mailboxes", "mailbox_messages", "messages", "mailbox_jobs"):
        assert post.sql(f"SELECT count(*) FROM {table}") == [(0,)], table


async def test_a_large_domain_is_removed_in_several_calls(post: SmallStore) -> None:
    post.run(domain_add, DomainAdd("example.com"))
    calls = [(user_add, UserAdd(f"u{number}@example.com")) for number in range(120)]
    assert all(made.done for made in post.run_all(*calls))
    first = post.run(domain_remove, DomainRemove("example.com", force=True))
    assert (first.word, first.more) == (words.DONE, True)
    second = post.run(domain_remove, DomainRemove("example.com", force=True))
    assert (second.word, second.accounts, second.more) == (words.DONE, 20, False)
    assert await post.directory.domain("example.com") is None


# -- accounts --------------------------------------------------------------------------------------------------------


async def test_an_account_begins_with_its_six_mailboxes(post: SmallStore) -> None:
    account = post.account("Anna@Example.com")
    rows = post.sql(
        "SELECT name, special_use, uidnext, subscribed FROM mailboxes WHERE account = ? ORDER BY id", (account,)
    )
    assert rows == [
        ("INBOX", "", 1, 1),
        ("Sent", "\\Sent", 1, 1),
        ("Drafts", "\\Drafts", 1, 1),
        ("Trash", "\\Trash", 1, 1),
        ("Junk", "\\Junk", 1, 1),
        ("Archive", "\\Archive", 1, 1),
    ]
    found = await post.directory.account("anna@example.com")
    assert found is not None
    assert (found.address, found.used_bytes, found.disabled) == ("Anna@example.com", 0, False)


@pytest.mark.parametrize(
    "args, word",
    [
        (UserAdd("anna"), words.NOT_AN_ADDRESS),
        (UserAdd("anna@elsewhere.example"), words.NO_DOMAIN),
        (UserAdd("ANNA@example.com"), words.ADDRESS_IN_USE),
        (UserAdd("team@example.com"), words.ADDRESS_IN_USE),
        (UserAdd("bob@example.com", -1), words.NOT_A_QUOTA),
    ],
)
def test_why_an_account_is_not_made(post: SmallStore, args: UserAdd, word: str) -> None:
    post.account("anna@example.com")
    post.run(alias_add, AliasAdd("team@example.com", ["anna@example.com"]))
    before = post.sql("SELECT count(*) FROM accounts")
    assert post.run(user_add, args).word == word
    assert post.sql("SELECT count(*) FROM accounts") == before


async def test_a_removed_address_is_free_at_once_and_its_mail_is_erased_in_slices(post: SmallStore) -> None:
    first = post.account("anna@example.com")
    post.deliver(first, 7)
    assert post.run(user_remove, UserRemove("anna@example.com")).word == words.DONE
    assert await post.directory.account("anna@example.com") is None
    assert await post.directory.account_by_id(first) is None
    second = post.account("anna@example.com")
    assert second != first
    post.deliver(second, 1)
    old = post.sql("SELECT max(uidvalidity) FROM mailboxes WHERE account = ?", (first,))[0][0]
    new = post.sql("SELECT min(uidvalidity) FROM mailboxes WHERE account = ?", (second,))[0][0]
    assert new > old
    while post.run(sweep_mailboxes, Sweep()).more:
        pass
    assert post.sql("SELECT count(*) FROM accounts") == [(1,)]
    assert post.sql("SELECT count(*) FROM messages") == [(1,)]
    assert post.deliver(first) == [NO_MAILBOX]


def test_a_quota_below_what_is_there_keeps_everything_and_takes_nothing(post: SmallStore) -> None:
    account = post.account("anna@example.com")
    assert post.deliver(account, 2, size=100) == [FILED, FILED]
    assert post.run(user_quota, UserQuota("anna@example.com", 150)).done
    assert post.deliver(account) == [OVER_QUOTA]
    assert post.sql("SELECT used_bytes, messages FROM accounts") == [(200, 2)]
    assert post.run(user_quota, UserQuota("anna@example.com", 300)).done
    assert post.deliver(account, 2) == [FILED, OVER_QUOTA]


async def test_a_disabled_account_takes_no_mail_until_it_is_enabled(post: SmallStore) -> None:
    account = post.account("anna@example.com")
    post.run(user_disable, UserDisable("anna@example.com"))
    assert post.deliver(account) == [NO_MAILBOX]
    found = await post.directory.account("anna@example.com")
    assert found is not None
    assert found.disabled
    post.run(user_disable, UserDisable("anna@example.com", disabled=False))
    assert post.deliver(account) == [FILED]


async def test_a_password_is_replaced_as_a_whole(post: SmallStore) -> None:
    post.account("anna@example.com")
    reads = Credentials(post)
    entry = await reads.login_entry("anna@example.com")
    assert entry is not None
    assert entry.credential is None
    post.run(set_password, SetPassword("anna@example.com", SECRET))
    post.run(set_password, SetPassword("Anna@example.com", OTHER))
    entry = await reads.login_entry("anna@example.com")
    assert entry is not None
    assert entry.credential == OTHER
    assert post.run(set_password, SetPassword("bob@example.com", SECRET)).word == words.NO_ACCOUNT


def test_a_credential_does_not_show_itself() -> None:
    assert "argon2" not in repr(SECRET)
    assert "argon2" not in repr(SetPassword("anna@example.com", SECRET))


# -- aliases and lists -----------------------------------------------------------------------------------------------


async def test_an_alias_gathers_targets_and_loses_them(post: SmallStore) -> None:
    post.account("anna@example.com")
    assert post.run(alias_add, AliasAdd("Team@example.com", ["anna@example.com", "x@other.example"])).done
    assert post.run(alias_add, AliasAdd("team@example.com", ["ANNA@example.com", "y@other.example"])).done
    entries = await post.directory.aliases()
    assert [entry.key for entry in entries] == ["team@example.com"]
    assert {target.lower() for target in entries[0].targets} == {
        "anna@example.com",
        "x@other.example",
        "y@other.example",
    }
    assert post.run(alias_remove, AliasRemove("team@example.com", ["z@other.example"])).word == words.NO_TARGET
    assert post.run(alias_remove, AliasRemove("team@example.com", ["X@OTHER.example"])).done
    assert post.run(alias_remove, AliasRemove("team@example.com")).done
    assert await post.directory.aliases() == []
    assert post.run(alias_remove, AliasRemove("team@example.com")).word == words.NO_ALIAS


@pytest.mark.parametrize(
    "args, word",
    [
        (AliasAdd("anna@example.com", ["bob@example.com"]), words.ADDRESS_IN_USE),
        (AliasAdd("team@elsewhere.example", ["anna@example.com"]), words.NO_DOMAIN),
        (AliasAdd("team@example.com", ["nobody"]), words.NOT_AN_ADDRESS),
        (AliasAdd("team@example.com", []), words.NOT_AN_ADDRESS),
        (AliasAdd("team@example.com", [f"u{n}@other.example" for n in range(501)]), words.TOO_MANY),
    ],
)
def test_why_an_alias_is_not_made(post: SmallStore, args: AliasAdd, word: str) -> None:
    post.account("anna@example.com")
    assert post.run(alias_add, args).word == word
    assert post.sql("SELECT count(*) FROM aliases") == [(0,)]


async def test_lists_are_by_domain(post: SmallStore) -> None:
    for address in ("b@example.com", "a@example.com", "c@example.net"):
        post.account(address)
    post.run(alias_add, AliasAdd("x@example.net", ["a@example.com"]))
    assert [domain.name for domain in await post.directory.domains()] == ["example.com", "example.net"]
    assert [found.address for found in await post.directory.accounts("example.com")] == [
        "a@example.com",
        "b@example.com",
    ]
    assert [found.address for found in await post.directory.accounts(after="b@example.com")] == ["c@example.net"]
    assert await post.directory.aliases("example.com") == []
    assert await post.directory.aliases("example.net") == [AliasEntry("x@example.net", ["a@example.com"])]


def test_targets_of_a_domain_are_set_and_taken(post: SmallStore) -> None:
    post.run(domain_add, DomainAdd("example.com"))
    assert post.run(domain_catch_all, CatchAll("example.com", "x@other.example")).done
    assert post.run(domain_postmaster, Postmaster("example.com", "nobody")).word == words.NOT_AN_ADDRESS
    assert post.run(domain_catch_all, CatchAll("example.net", "x@other.example")).word == words.NO_DOMAIN
    assert post.sql("SELECT postmaster, catch_all FROM domains") == [("", "x@other.example")]
    assert post.run(domain_catch_all, CatchAll("example.com", "")).done
    assert post.sql("SELECT catch_all FROM domains") == [("",)]


def test_every_word_has_its_sentence() -> None:
    named = {value for name, value in vars(words).items() if name.isupper() and isinstance(value, str)}
    assert named == set(words.WORDS)
