"""DKIM keys through their units, on both engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from postroad.store import account_records as words
from postroad.store.account_records import DomainAdd, DomainRemove
from postroad.store.accounts import domain_add, domain_remove
from postroad.store.backup import backup
from postroad.store.dkim import MissingKeys, dkim_activate, dkim_add, dkim_remove, dkim_retire, month_of, new_pair
from postroad.store.dkim_reads import DkimKeys
from postroad.store.dkim_records import (
    ACTIVE,
    KEYS_MAX,
    PUBLISHED,
    RETIRED,
    DkimActivate,
    DkimAdd,
    DkimKey,
    DkimSelect,
)
from postroad.store.engine import Connection
from postroad.store.opening import OpenStore
from postroad.store.reader import Reader
from postroad.store.verify import verify
from postroad.trust.dkim.keys import ED25519, RSA
from tests.store.small_store import NOW_US, SmallStore
from tests.trust.dkim.pairs import private

DOMAIN = "example.com"


def key(selector: str, state: int = ACTIVE, algorithm: str = ED25519) -> DkimKey:
    return DkimKey(selector, algorithm, private(algorithm), state)


@pytest.fixture
def post(connect: Callable[[], Connection]) -> SmallStore:
    store = SmallStore(connect())
    store.run(domain_add, DomainAdd(DOMAIN))
    return store


async def states(post: SmallStore) -> dict[str, int]:
    return {found.selector: found.state for found in await DkimKeys(post).of(DOMAIN)}


async def test_a_pair_is_kept_and_signs(post: SmallStore) -> None:
    pair = new_pair("202611", set(), make=private)
    assert post.run(dkim_add, DkimAdd("Example.COM", pair)).selectors == ["pr202611r", "pr202611e"]
    domain, keys = await DkimKeys(post).signing(DOMAIN)
    assert (domain, [(found.selector, found.algorithm, found.private) for found in keys]) == (
        DOMAIN,
        [("pr202611r", RSA, private(RSA)), ("pr202611e", ED25519, private(ED25519))],
    )
    assert keys[0].created_us >= NOW_US


async def test_a_domain_signs_for_what_stands_below_it(post: SmallStore) -> None:
    """The nearest domain with keys signs (DMARC's relaxed alignment); a stranger whose name only ends so does not."""
    post.run(domain_add, DomainAdd("news.example.com"))
    post.run(dkim_add, DkimAdd(DOMAIN, [key("a")]))
    for author, signer in (
        ("mail.example.com", DOMAIN),
        ("news.example.com", DOMAIN),
        ("a.b.c.example.com", DOMAIN),
        ("badexample.com", ""),
        ("com", ""),
        ("example.com.evil.test", ""),
    ):
        assert (await DkimKeys(post).signing(author))[0] == signer, author
    post.run(dkim_add, DkimAdd("news.example.com", [key("n")]))
    assert (await DkimKeys(post).signing("x.news.example.com"))[0] == "news.example.com"
    assert (await DkimKeys(post).signing(".".join("a" * 200)))[0] == ""


@pytest.mark.parametrize(
    "args, word",
    [
        (DkimAdd("a b", []), words.NOT_A_DOMAIN),
        (DkimAdd("other.test", [key("s")]), words.NO_DOMAIN),
        (DkimAdd(DOMAIN, [key("S")]), words.NOT_A_SELECTOR),
        (DkimAdd(DOMAIN, [key("a..b")]), words.NOT_A_SELECTOR),
        (DkimAdd(DOMAIN, [key("-a")]), words.NOT_A_SELECTOR),
        (DkimAdd(DOMAIN, [key("a" * 64)]), words.NOT_A_SELECTOR),
        (DkimAdd(DOMAIN, [DkimKey("s", RSA, b"junk")]), words.KEY_UNUSABLE),
        (DkimAdd(DOMAIN, [DkimKey("s", RSA, private(ED25519))]), words.KEY_UNUSABLE),
        (DkimAdd(DOMAIN, [key("there")]), words.SELECTOR_IN_USE),
        (DkimAdd(DOMAIN, [key("fresh"), key("there")]), words.SELECTOR_IN_USE),
        (DkimAdd(DOMAIN, [key("fresh")], first=True), words.SELECTOR_IN_USE),
        (DkimAdd(DOMAIN, [key(f"k{number}") for number in range(KEYS_MAX)]), words.TOO_MANY_KEYS),
    ],
)
async def test_what_is_not_added(post: SmallStore, args: DkimAdd, word: str) -> None:
    post.run(dkim_add, DkimAdd(DOMAIN, [key("there")]))
    assert post.run(dkim_add, args).word == word
    assert await states(post) == {"there": ACTIVE}


async def test_keys_take_turns(post: SmallStore) -> None:
    post.run(dkim_add, DkimAdd(DOMAIN, [key("one")]))
    assert post.run(dkim_activate, DkimActivate(DOMAIN)).word == words.NO_KEY_WAITS
    post.run(dkim_add, DkimAdd(DOMAIN, [key("two", PUBLISHED)]))
    assert [found.selector for found in (await DkimKeys(post).signing(DOMAIN))[1]] == ["one"]
    assert post.run(dkim_activate, DkimActivate(DOMAIN)).selectors == ["two"]
    assert await states(post) == {"two": ACTIVE, "one": RETIRED}


async def test_a_key_is_removed_only_when_it_is_retired(post: SmallStore) -> None:
    post.run(dkim_add, DkimAdd(DOMAIN, [key("one")]))
    one = DkimSelect(DOMAIN, "ONE")
    assert post.run(dkim_remove, one).word == words.KEY_IN_USE
    assert post.run(dkim_retire, one).selectors == ["one"]
    changed = (await DkimKeys(post).of(DOMAIN))[0].changed_us
    assert post.run(dkim_retire, one).done
    assert (await DkimKeys(post).of(DOMAIN))[0].changed_us == changed
    assert await DkimKeys(post).signing(DOMAIN) == ("", [])
    assert post.run(dkim_remove, one).done
    assert await states(post) == {}
    for function in (dkim_retire, dkim_remove):
        assert post.run(function, one).word == words.NO_KEY
        assert post.run(function, DkimSelect("other.test", "one")).word == words.NO_DOMAIN


async def test_keys_go_with_their_domain(post: SmallStore) -> None:
    post.run(dkim_add, DkimAdd(DOMAIN, [key("one")]))
    assert post.run(domain_remove, DomainRemove(DOMAIN)).word == words.DONE
    assert post.sql("SELECT count(*) FROM dkim_keys") == [(0,)]


def test_changes_are_hinted(post: SmallStore) -> None:
    post.writer.hints.clear()
    post.run(dkim_add, DkimAdd(DOMAIN, [key("one", PUBLISHED)]))
    post.run(dkim_activate, DkimActivate(DOMAIN))
    post.run(dkim_retire, DkimSelect(DOMAIN, "one"))
    assert post.writer.hints == [("directory", 0)] * 3


def test_selectors_tell_the_month_and_never_repeat() -> None:
    taken: set[str] = set()
    for names in (["pr202611r", "pr202611e"], ["pr202611r2", "pr202611e2"], ["pr202611r3", "pr202611e3"]):
        found = [made.selector for made in new_pair(month_of(1_795_759_200_000_000), taken, make=private)]
        assert found == names
        taken |= set(found)


async def test_domains_without_a_key_get_their_first_pair(post: SmallStore) -> None:
    post.run(domain_add, DomainAdd("second.test"))
    post.run(dkim_add, DkimAdd("second.test", [key("own", RETIRED)]))
    chore = MissingKeys(post.connection, post.writer, post.clock, make=private)
    chore.step(10.0)
    assert chore.due == 10.0
    chore.step(11.0)
    assert chore.due > 11.0
    assert [found.state for found in await DkimKeys(post).of(DOMAIN)] == [ACTIVE, ACTIVE]
    assert len(await DkimKeys(post).of("second.test")) == 1


def test_nothing_of_a_key_is_shown() -> None:
    assert repr(DkimAdd(DOMAIN, [key("one")])).count("DkimKey(one, ed25519, active)") == 1
    assert private(ED25519)[-8:].hex() not in repr(key("one"))
    assert repr(private(ED25519)[-8:]) not in repr(DkimAdd(DOMAIN, [key("one")]))


# -- backup and verify: the embedded store -----------------------------------------------------------------------------


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder with one domain and a pair of keys, closed."""
    folder = tmp_path / "data"
    opened = OpenStore(folder)
    store = SmallStore(opened.connection)
    store.run(domain_add, DomainAdd(DOMAIN))
    store.run(dkim_add, DkimAdd(DOMAIN, new_pair("202611", set(), make=private)))
    opened.close()
    return folder


async def test_a_backup_signs_too(data_dir: Path, tmp_path: Path) -> None:
    backup(data_dir, tmp_path / "copy")
    assert verify(tmp_path / "copy") == []
    reader = Reader(tmp_path / "copy")
    rows = await reader.rows("SELECT selector, private FROM dkim_keys ORDER BY selector")
    reader.close()
    assert rows == [("pr202611e", private(ED25519)), ("pr202611r", private(RSA))]


def test_verify_finds_a_key_that_cannot_sign(data_dir: Path) -> None:
    opened = OpenStore(data_dir)
    opened.connection.begin()
    opened.connection.execute("UPDATE dkim_keys SET private = ? WHERE algorithm = 'rsa'", (private(ED25519),))
    opened.connection.execute("UPDATE dkim_keys SET state = 9 WHERE algorithm = 'ed25519'")
    opened.connection.commit()
    opened.close()
    found = {(finding.rule, finding.subject) for finding in verify(data_dir)}
    assert found == {("dkim key", f"pr202611{letter}._domainkey.{DOMAIN}") for letter in "re"}
