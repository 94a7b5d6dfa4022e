"""Gateway domains in the store: their settings, lists and memory, and what an address in one means; on both engines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from postroad.store import gateways
from postroad.store.account_records import (
    DONE,
    NO_DOMAIN,
    NOT_A_CHECK,
    NOT_A_DOMAIN,
    NOT_A_HOP,
    NOT_AN_ADDRESS,
    OTHER_DOMAIN,
    TOO_MANY_AT_ONCE,
    Alias,
    AliasAdd,
    CatchAll,
    DomainAdd,
    DomainGateway,
    DomainRemove,
    Gateway,
    GatewayKnown,
    GatewayRecipients,
    Local,
    Postmaster,
    Resolved,
    Unknown,
    UserAdd,
)
from postroad.store.accounts import (
    alias_add,
    domain_add,
    domain_catch_all,
    domain_postmaster,
    domain_remove,
    user_add,
)
from postroad.store.engine import Connection
from postroad.store.gateways import (
    FRESH_US,
    domain_gateway,
    gateway_known,
    gateway_recipient_add,
    gateway_recipient_remove,
)
from postroad.store.units import ROWS_PER_UNIT
from postroad.values.address import Address
from tests.store.small_store import SmallStore

HOP = "inner.test:25"


@pytest.fixture
def post(connect: Callable[[], Connection]) -> SmallStore:
    """gate.test is passed on; anna@ is an account in it, team@ an alias."""
    post = SmallStore(connect())
    post.account("anna@gate.test")
    post.run(alias_add, AliasAdd("team@gate.test", ["anna@gate.test"]))
    post.run(domain_add, DomainAdd("home.test"))
    assert post.run(domain_gateway, DomainGateway("gate.test", "Inner.Test")).done
    return post


async def ask(post: SmallStore, text: str) -> Resolved:
    return await post.directory.recipient(Address.parse(text, utf8=True))


async def gateway(post: SmallStore, text: str) -> Gateway:
    found = await ask(post, text)
    assert isinstance(found, Gateway)
    return found


async def test_whoever_is_nobody_here_is_the_hosts(post: SmallStore) -> None:
    assert await ask(post, "Carl+x@Gate.Test") == Gateway(
        "Carl+x@gate.test", "carl+x@gate.test", "gate.test", HOP, "callout", "known"
    )
    assert isinstance(await ask(post, "carl@home.test"), Unknown)


async def test_accounts_and_aliases_come_first(post: SmallStore) -> None:
    assert isinstance(await ask(post, "anna@gate.test"), Local)
    assert isinstance(await ask(post, "anna+tag@gate.test"), Local)
    assert isinstance(await ask(post, "team@gate.test"), Alias)


@pytest.mark.parametrize("user", ["postmaster", "abuse"])
async def test_required_addresses_are_the_hosts_unless_somebody_here_is_named(post: SmallStore, user: str) -> None:
    post.run(domain_gateway, DomainGateway("gate.test", HOP, "list"))
    assert (await gateway(post, f"{user}@gate.test")).unfailing
    post.run(domain_postmaster, Postmaster("gate.test", "anna@gate.test"))
    assert await ask(post, f"{user}@gate.test") == Alias(f"{user}@gate.test", ["anna@gate.test"], user, unfailing=True)
    post.run(user_add, UserAdd(f"{user}@gate.test"))
    assert isinstance(await ask(post, f"{user}@gate.test"), Local)


async def test_the_catch_all_of_a_gateway_domain_rests(post: SmallStore) -> None:
    post.run(domain_catch_all, CatchAll("gate.test", "anna@gate.test"))
    assert isinstance(await ask(post, "carl@gate.test"), Gateway)
    post.run(domain_gateway, DomainGateway("gate.test"))
    assert isinstance(await ask(post, "carl@gate.test"), Alias)


async def test_a_gateway_can_be_changed_and_ended(post: SmallStore) -> None:
    post.run(domain_gateway, DomainGateway("GATE.test", "lmtp:/run/lmtp", "all", "defer"))
    found = await gateway(post, "carl@gate.test")
    assert (found.next_hop, found.check, found.in_doubt) == ("lmtp:/run/lmtp", "all", "defer")
    assert await post.directory.next_hop("gate.test") == "lmtp:/run/lmtp"
    [domain, _] = await post.directory.domains()
    assert (domain.next_hop, domain.check, domain.in_doubt) == ("lmtp:/run/lmtp", "all", "defer")
    post.run(domain_gateway, DomainGateway("gate.test"))
    assert isinstance(await ask(post, "carl@gate.test"), Unknown)
    assert await post.directory.next_hop("gate.test") == ""
    assert await post.directory.next_hop("nowhere.test") == ""


@pytest.mark.parametrize(
    "args, word",
    [
        (DomainGateway("nowhere.test", HOP), NO_DOMAIN),
        (DomainGateway("no domain", HOP), NOT_A_DOMAIN),
        (DomainGateway("gate.test", "host:x"), NOT_A_HOP),
        (DomainGateway("gate.test", "lmtp:host:25"), NOT_A_HOP),
        (DomainGateway("gate.test", HOP, "guess"), NOT_A_CHECK),
        (DomainGateway("gate.test", HOP, "list", "hope"), NOT_A_CHECK),
    ],
)
async def test_what_is_no_gateway_changes_nothing(post: SmallStore, args: DomainGateway, word: str) -> None:
    assert post.run(domain_gateway, args).word == word
    assert (await gateway(post, "carl@gate.test")).next_hop == HOP


async def test_a_list_says_who_exists_with_and_without_tag(post: SmallStore) -> None:
    post.run(domain_gateway, DomainGateway("gate.test", HOP, "list"))
    add = GatewayRecipients("gate.test", ["Carl@Gate.test", "carl@gate.test", "dora@gate.test"])
    assert post.run(gateway_recipient_add, add).word == DONE
    assert post.run(gateway_recipient_add, add).word == DONE
    assert await post.directory.gateway_recipients("gate.test") == ["carl@gate.test", "dora@gate.test"]
    assert await post.directory.gateway_recipients("gate.test", "carl@gate.test") == ["dora@gate.test"]
    assert [(await gateway(post, f"{user}@gate.test")).listed for user in ("CARL", "carl+x", "eve")] == [
        True, True, False,
    ]  # fmt: skip
    gone = GatewayRecipients("gate.test", ["carl@gate.test", "eve@gate.test"])
    assert post.run(gateway_recipient_remove, gone).word == DONE
    assert await post.directory.gateway_recipients("gate.test") == ["dora@gate.test"]


@pytest.mark.parametrize(
    "args, word",
    [
        (GatewayRecipients("nowhere.test", ["a@nowhere.test"]), NO_DOMAIN),
        (GatewayRecipients("no domain", []), NOT_A_DOMAIN),
        (GatewayRecipients("gate.test", ["a@gate.test", "b"]), NOT_AN_ADDRESS),
        (GatewayRecipients("gate.test", ["a@gate.test", "b@home.test"]), OTHER_DOMAIN),
        (
            GatewayRecipients("gate.test", [f"u{n}@gate.test" for n in range(ROWS_PER_UNIT + 1)]),
            TOO_MANY_AT_ONCE,
        ),
    ],
)
async def test_a_wrong_list_is_added_nowhere(post: SmallStore, args: GatewayRecipients, word: str) -> None:
    assert post.run(gateway_recipient_add, args).word == word
    assert post.run(gateway_recipient_remove, args).word == word
    assert post.sql("SELECT count(*) FROM gateway_recipients") == [(0,)]


def learn(post: SmallStore, *taken: str, refused: tuple[str, ...] = (), hop: str = HOP) -> None:
    post.run(gateway_known, GatewayKnown("gate.test", hop, list(taken), list(refused)))


async def test_who_was_taken_is_known_until_the_host_says_no(post: SmallStore) -> None:
    learn(post, "carl@gate.test")
    carl, dora = await gateway(post, "carl@gate.test"), await gateway(post, "dora@gate.test")
    assert [await post.directory.was_taken(one) for one in (carl, dora)] == [True, False]
    learn(post, refused=("carl@gate.test", "dora@gate.test"))
    assert not await post.directory.was_taken(carl)


async def test_what_another_host_said_counts_for_nothing(post: SmallStore) -> None:
    """Class E11."""
    learn(post, "carl@gate.test")
    post.run(domain_gateway, DomainGateway("gate.test", "other.test:25"))
    assert not await post.directory.was_taken(await gateway(post, "carl@gate.test"))
    learn(post, "dora@gate.test")  # said by the old host, and told late
    assert not await post.directory.was_taken(await gateway(post, "dora@gate.test"))
    learn(post, "carl@gate.test", hop="other.test:25")
    assert await post.directory.was_taken(await gateway(post, "carl@gate.test"))


async def test_who_was_confirmed_today_is_not_written_again(post: SmallStore) -> None:
    learn(post, "carl@gate.test")
    first = post.sql("SELECT seen_us FROM gateway_known")
    learn(post, "carl@gate.test")
    assert post.sql("SELECT seen_us FROM gateway_known") == first
    post.clock.now_us += FRESH_US + 1
    learn(post, "carl@gate.test")
    assert post.sql("SELECT seen_us FROM gateway_known") > first


async def test_the_memory_of_a_domain_is_bounded(post: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways, "KNOWN_MAX", 3)
    for user in "abcde":
        learn(post, f"{user}@gate.test")
    assert post.sql("SELECT address_key FROM gateway_known ORDER BY 1") == [(f"{user}@gate.test",) for user in "cde"]


async def test_a_removed_domain_takes_its_lists_along_in_slices(
    post: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateways, "ROWS_PER_UNIT", 2)
    for user in "abcde":
        post.run(gateway_recipient_add, GatewayRecipients("gate.test", [f"{user}@gate.test"]))
        learn(post, f"{user}@gate.test")
    calls = 1
    while (removed := post.run(domain_remove, DomainRemove("gate.test", force=True))).more:
        calls += 1
    assert removed.word == DONE
    assert calls > 3
    assert post.sql("SELECT count(*) FROM gateway_recipients") == post.sql("SELECT count(*) FROM gateway_known")
    assert post.sql("SELECT count(*) FROM gateway_known") == [(0,)]


async def test_every_change_of_a_gateway_is_hinted(post: SmallStore) -> None:
    """Workers that plan ways and know addresses hear of it."""
    for change in (DomainGateway("gate.test", "other.test:25"), DomainGateway("gate.test")):
        post.writer.hints.clear()
        changed = post.run(domain_gateway, change)
        assert {("directory", 0), ("gateway", changed.id)} <= set(post.writer.hints)
    post.writer.hints.clear()
    post.run(domain_remove, DomainRemove("gate.test", force=True))
    assert ("gateway", changed.id) in post.writer.hints
