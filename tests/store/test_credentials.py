"""App passwords, grants, known networks and the secret through their units, on both engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from postroad.store import account_records as words
from postroad.store.account_records import AliasAdd, Credential, SetPassword, UserAdd, UserDisable, UserRemove
from postroad.store.accounts import alias_add, set_password, user_add, user_disable, user_remove
from postroad.store.credential_records import (
    APP_PASSWORDS_MAX,
    DAY_US,
    GRANTS_MAX,
    HOUR_US,
    KNOWN_NETWORKS_MAX,
    KNOWN_US,
    NETWORKS_MAX,
    AppOnly,
    AppPassword,
    AppPasswordAdd,
    AppPasswordRemove,
    AppPasswordUsed,
    Grant,
    NetworkKnown,
    Revoke,
    Secret,
)
from postroad.store.credentials import (
    Credentials,
    app_password_add,
    app_password_remove,
    app_password_used,
    grant,
    network_known,
    pattern_of,
    revoke,
    secret,
    user_app_only,
)
from postroad.store.directory import SENDERS_S, Directory
from postroad.store.engine import Connection
from postroad.store.mailbox_records import Sweep
from postroad.store.mailbox_sweep import sweep_mailboxes
from postroad.values.address import Address
from tests.fakes.clock import FakeClock
from tests.store.small_store import NOW_US, SmallStore

ANNA, BOB = "anna@example.com", "bob@example.com"
PHONE = AppPasswordAdd(ANNA, "phone", b"digest", b"salt", 4096, b"stored", b"server", ["imap", "smtp"])


@pytest.fixture
def post(connect: Callable[[], Connection]) -> SmallStore:
    post = SmallStore(connect())
    post.account(ANNA)
    post.run(user_add, UserAdd(BOB))
    return post


def phone(**changes: Any) -> AppPasswordAdd:
    return msgspec.structs.replace(PHONE, **changes)


async def app_passwords(post: SmallStore, key: str = ANNA) -> tuple[AppPassword, ...]:
    entry = await Credentials(post).login_entry(key)
    assert entry is not None
    return entry.app_passwords


# -- app passwords ---------------------------------------------------------------------------------------------------


async def test_an_app_password_is_read_as_it_was_given(post: SmallStore) -> None:
    made = post.run(app_password_add, phone(networks=["192.0.2.0/24", "2001:db8::/32"], expires_us=NOW_US + 5))
    assert made.done
    (found,) = await app_passwords(post)
    assert (found.id, found.label, found.digest) == (made.id, "phone", b"digest")
    assert (found.scram_salt, found.scram_iterations) == (b"salt", 4096)
    assert (found.scram_stored_key, found.scram_server_key) == (b"stored", b"server")
    assert found.scopes == {"smtp", "imap"}
    assert found.networks == ("192.0.2.0/24", "2001:db8::/32")
    assert (found.expires_us, found.used_us, found.used_from) == (NOW_US + 5, 0, "")
    assert found.created_us >= NOW_US
    assert "digest" not in repr(found) + repr(PHONE)


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"address": "nobody@example.com"}, words.NO_ACCOUNT),
        ({"address": "no address"}, words.NO_ACCOUNT),
        ({"label": ""}, words.NOT_A_LABEL),
        ({"label": "Phone"}, words.NOT_A_LABEL),
        ({"label": "a b"}, words.NOT_A_LABEL),
        ({"label": "a@b"}, words.NOT_A_LABEL),
        ({"label": "a#b"}, words.NOT_A_LABEL),
        ({"label": "x" * 33}, words.NOT_A_LABEL),
        ({"scopes": []}, words.NOT_A_SCOPE),
        ({"scopes": ["smtp", "http"]}, words.NOT_A_SCOPE),
        ({"networks": ["192.0.2.1/24"]}, words.NOT_A_NETWORK),
        ({"networks": ["home"]}, words.NOT_A_NETWORK),
        ({"networks": ["10.0.0.0/8"] * (NETWORKS_MAX + 1)}, words.NOT_A_NETWORK),
    ],
)
async def test_what_is_no_app_password(post: SmallStore, changes: dict[str, Any], word: str) -> None:
    assert post.run(app_password_add, phone(**changes)).word == word
    assert await app_passwords(post) == ()


async def test_labels_are_one_accounts_own_and_bounded_in_number(post: SmallStore) -> None:
    assert post.run(app_password_add, PHONE).done
    assert post.run(app_password_add, PHONE).word == words.LABEL_IN_USE
    assert post.run(app_password_add, phone(address=BOB)).done
    for number in range(APP_PASSWORDS_MAX - 1):
        assert post.run(app_password_add, phone(label=f"n{number}")).done
    assert post.run(app_password_add, phone(label="one-more")).word == words.TOO_MANY


async def test_a_removed_app_password_is_gone_and_only_that(post: SmallStore) -> None:
    post.run(app_password_add, PHONE)
    post.run(app_password_add, phone(label="laptop"))
    assert post.run(app_password_remove, AppPasswordRemove(ANNA, "phone")).done
    assert [found.label for found in await app_passwords(post)] == ["laptop"]
    assert post.run(app_password_remove, AppPasswordRemove(ANNA, "phone")).word == words.NO_APP_PASSWORD
    assert post.run(app_password_remove, AppPasswordRemove("x@example.com", "phone")).word == words.NO_ACCOUNT


async def test_the_last_use_moves_at_most_once_an_hour(post: SmallStore) -> None:
    number = post.run(app_password_add, PHONE).id
    seen = []
    for at_us, source in [(NOW_US, "a"), (NOW_US + HOUR_US - 1, "b"), (NOW_US + HOUR_US, "c"), (NOW_US, "d")]:
        post.run(app_password_used, AppPasswordUsed(number, at_us, source))
        (found,) = await app_passwords(post)
        seen.append((found.used_us - NOW_US, found.used_from))
    assert seen == [(0, "a"), (0, "a"), (HOUR_US, "c"), (HOUR_US, "c")]


async def test_an_entry_tells_all_that_proves_a_login(post: SmallStore) -> None:
    reads = Credentials(post)
    assert await reads.login_entry("nobody@example.com") is None
    entry = await reads.login_entry(ANNA)
    assert entry is not None
    assert (entry.credential, entry.app_only, entry.app_passwords) == (None, False, ())
    own = Credential("$argon2id$one", b"salt", 4096, b"stored", b"server")
    post.run(set_password, SetPassword(ANNA, own))
    post.run(app_password_add, PHONE)
    post.run(app_password_add, phone(label="laptop"))
    assert post.run(user_app_only, AppOnly(ANNA, True)).done
    post.run(user_disable, UserDisable(ANNA))
    entry = await reads.login_entry(ANNA)
    assert entry is not None
    assert (entry.credential, entry.app_only, entry.account.disabled) == (own, True, True)
    assert [found.label for found in entry.app_passwords] == ["laptop", "phone"]
    post.run(user_app_only, AppOnly(ANNA, False))
    again = await reads.login_entry(ANNA)
    assert again is not None
    assert not again.app_only
    assert post.run(user_app_only, AppOnly("x@example.com", True)).word == words.NO_ACCOUNT


async def test_all_of_an_account_goes_with_it(post: SmallStore) -> None:
    assert post.run(app_password_add, PHONE).done
    account = post.run(grant, Grant(ANNA, ["@example.org"])).id
    post.run(network_known, NetworkKnown(account, "192.0.2.0/24", NOW_US))
    post.run(user_remove, UserRemove(ANNA))
    for table in ("app_passwords", "grants", "known_networks"):
        assert post.sql(f"SELECT count(*) FROM {table}") == [(0,)]
    post.run(network_known, NetworkKnown(account, "192.0.2.0/24", NOW_US + DAY_US))
    while post.run(sweep_mailboxes, Sweep()).more:
        pass
    post.run(network_known, NetworkKnown(account, "192.0.2.0/24", NOW_US + DAY_US))
    assert not await Credentials(post).knows_network(account, "192.0.2.0/24", NOW_US)


# -- grants ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, pattern",
    [
        ("Sales@Example.ORG", "sales@example.org"),
        ("@Bücher.example", "@xn--bcher-kva.example"),
        ("@", ""),
        ("@[192.0.2.1]", ""),
        ("example.org", ""),
        ("a b@example.org", ""),
        ("@a@b", ""),
        ("", ""),
    ],
)
def test_a_sender_is_an_address_or_a_domain(text: str, pattern: str) -> None:
    assert pattern_of(text) == pattern


async def test_grants_come_and_go(post: SmallStore) -> None:
    account = post.run(grant, Grant(ANNA, ["Sales@Example.org", "@example.net", "sales@example.org"])).id
    assert post.run(grant, Grant(ANNA, ["sales@EXAMPLE.org"])).done
    reads = Credentials(post)
    assert [pattern for pattern, _ in await reads.grants(account)] == ["@example.net", "sales@example.org"]
    assert post.run(revoke, Revoke(ANNA, ["@example.net", "other@example.org"])).word == words.NO_GRANT
    assert len(await reads.grants(account)) == 2
    assert post.run(revoke, Revoke(ANNA, ["@EXAMPLE.net"])).done
    assert post.run(revoke, Revoke(ANNA)).done
    assert await reads.grants(account) == []
    assert post.run(revoke, Revoke(ANNA)).word == words.NO_GRANT


def test_what_is_not_granted(post: SmallStore) -> None:
    assert post.run(grant, Grant("x@example.com", ["@example.net"])).word == words.NO_ACCOUNT
    assert post.run(revoke, Revoke("x@example.com")).word == words.NO_ACCOUNT
    assert post.run(grant, Grant(ANNA, ["fine@example.net", "not fine"])).word == words.NOT_A_SENDER
    assert post.run(grant, Grant(ANNA, [])).word == words.NOT_A_SENDER
    assert post.run(grant, Grant(ANNA, [f"a{n}@example.net" for n in range(GRANTS_MAX + 1)])).word == words.TOO_MANY
    assert post.sql("SELECT count(*) FROM grants") == [(0,)]


SENDERS = [
    # address, anna, bob
    ("anna@example.com", True, False),
    ("Anna@EXAMPLE.com", True, False),
    ("anna+news@example.com", True, False),
    ("anna+sale@example.com", False, False),  # an alias of its own that leads elsewhere
    ("anna+bob@example.com", False, True),  # an alias of its own that leads to bob
    ("team@example.com", False, False),  # leads to anna and to somebody else
    ("sales@example.com", True, False),  # leads to anna alone
    ("sales+x@example.com", True, False),
    ("chain@example.com", False, False),  # leads to an alias
    ("bob@example.com", False, True),
    ("bob+x@example.com", False, True),
    ("nobody@example.com", False, False),
    ("press@example.org", True, False),  # granted
    ("press+x@example.org", True, False),
    ("Info@example.org", False, False),
    ("anybody@Example.net", True, True),  # the domain is granted
    ("a@sub.example.net", False, False),
    ("bob@xn--bcher-kva.example", False, True),
    ("bob@bücher.example", False, True),
]


@pytest.fixture
def names(post: SmallStore) -> SmallStore:
    for alias, targets in [
        ("team@example.com", [ANNA, BOB]),
        ("sales@example.com", ["Anna@example.com"]),
        ("chain@example.com", ["sales@example.com"]),
        ("anna+sale@example.com", ["x@other.example"]),
        ("anna+bob@example.com", [BOB]),
    ]:
        assert post.run(alias_add, AliasAdd(alias, targets)).done
    post.run(grant, Grant(ANNA, ["press@example.org", "@example.net"]))
    post.run(grant, Grant(BOB, ["@example.net", "@bücher.example"]))
    return post


async def account(post: SmallStore, key: str) -> int:
    found = await post.directory.account(key)
    assert found is not None
    return found.id


@pytest.mark.parametrize("text, anna, bob", SENDERS)
async def test_in_whose_name_an_account_may_send(names: SmallStore, text: str, anna: bool, bob: bool) -> None:
    """Class E14: one function decides, and this is its matrix."""
    address = Address.parse(text, utf8=True)
    assert await names.directory.may_send_as(await account(names, ANNA), address, "+") is anna
    assert await names.directory.may_send_as(await account(names, BOB), address, "+") is bob
    assert not await names.directory.may_send_as(0, address, "+")


async def test_without_a_delimiter_there_are_no_tags(names: SmallStore) -> None:
    anna = await account(names, ANNA)
    assert not await names.directory.may_send_as(anna, Address.parse("anna+news@example.com"), "")


async def test_a_removed_account_may_send_as_nobody(names: SmallStore) -> None:
    anna = await account(names, ANNA)
    names.run(user_remove, UserRemove(ANNA))
    for text in (ANNA, "press@example.org", "sales@example.com"):
        assert not await names.directory.may_send_as(anna, Address.parse(text), "+")


async def test_answers_are_kept_until_something_changes(names: SmallStore) -> None:
    clock = FakeClock()
    directory = Directory(names, clock)
    anna, press = await account(names, ANNA), Address.parse("press@example.org")
    assert await directory.may_send_as(anna, press)
    names.run(revoke, Revoke(ANNA, ["press@example.org"]))
    assert await directory.may_send_as(anna, press), "a hint has not come yet"
    directory.forget()
    assert not await directory.may_send_as(anna, press)
    names.run(grant, Grant(ANNA, ["press@example.org"]))
    clock.advance(SENDERS_S)
    assert await directory.may_send_as(anna, press), "a lost hint costs seconds"


# -- known networks and the secret -----------------------------------------------------------------------------------


async def test_a_network_is_known_for_a_year_and_written_once_a_day(post: SmallStore) -> None:
    anna, reads = await account(post, ANNA), Credentials(post)
    network = "192.0.2.0/24"
    assert not await reads.knows_network(anna, network, NOW_US)
    for at_us, written in [(NOW_US, 0), (NOW_US + DAY_US - 1, 0), (NOW_US + DAY_US, DAY_US)]:
        post.run(network_known, NetworkKnown(anna, network, at_us))
        assert post.sql("SELECT at_us FROM known_networks") == [(NOW_US + written,)]
    assert await reads.knows_network(anna, network, NOW_US + KNOWN_US)
    assert not await reads.knows_network(anna, network, NOW_US + DAY_US + KNOWN_US)
    assert not await reads.knows_network(await account(post, BOB), network, NOW_US)


async def test_the_latest_networks_of_an_account_are_kept(post: SmallStore) -> None:
    anna, bob = await account(post, ANNA), await account(post, BOB)
    post.run(network_known, NetworkKnown(bob, "192.0.2.0/24", 1))
    for number in range(KNOWN_NETWORKS_MAX + 3):
        post.run(network_known, NetworkKnown(anna, f"10.0.{number}.0/24", NOW_US + number))
    kept = [network for (network,) in post.sql("SELECT network FROM known_networks WHERE account = ?", (anna,))]
    assert len(kept) == KNOWN_NETWORKS_MAX
    assert not {"10.0.0.0/24", "10.0.2.0/24"} & set(kept)
    assert post.sql("SELECT count(*) FROM known_networks WHERE account = ?", (bob,)) == [(1,)]


def test_the_secret_is_the_first_that_was_proposed(post: SmallStore) -> None:
    assert post.run(secret, Secret("scram", b"\0one")) == b"\0one"
    assert post.run(secret, Secret("scram", b"two")) == b"\0one"
    assert post.run(secret, Secret("other", b"two")) == b"two"
    assert "one" not in repr(Secret("scram", b"one"))
