"""The tree of mailboxes: names, making, removing, renaming, subscribing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from postroad.store.engine import Connection
from postroad.store.mailbox_names import mailbox_name, superiors
from postroad.store.mailbox_reads import Mailboxes
from postroad.store.mailbox_records import (
    BAD_NAME,
    DONE,
    EXISTS,
    NO_MAILBOX,
    NOT_INBOX,
    TOO_MANY,
    MailboxCreate,
    MailboxDelete,
    MailboxRename,
    MailboxSubscribe,
    Sweep,
)
from postroad.store.mailbox_sweep import sweep_mailboxes
from postroad.store.mailbox_tree import mailbox_create, mailbox_delete, mailbox_rename, mailbox_subscribe
from tests.store.small_store import SmallStore

FIRST = ["Archive", "Drafts", "INBOX", "Junk", "Sent", "Trash"]


@pytest.fixture
def post(connect: Callable[[], Connection]) -> SmallStore:
    return SmallStore(connect())


@pytest.fixture
def anna(post: SmallStore) -> int:
    return post.account("anna@example.com")


async def names(post: SmallStore, account: int) -> list[str]:
    """All names but those an account begins with."""
    return [box.name for box in await Mailboxes(post).mailboxes(account) if box.name not in FIRST]


@pytest.mark.parametrize(
    "text, name",
    [
        ("Work", "Work"),
        ("Work/2026/", "Work/2026"),
        ("inbox", "INBOX"),
        ("InBox/a", "INBOX/a"),
        ("a/inbox", "a/inbox"),
        ("Pru\u0308fung", "Prüfung"),
        ("..", ".."),
        ("", None),
        ("/", None),
        ("/a", None),
        ("a//b", None),
        ("a/ /b", None),
        ("a*", None),
        ("a%b", None),
        ("a\0", None),
        ("a\r\nb", None),
        ("a\u202eb", None),
        ("x" * 1001, None),
        ("/".join("d" * 33), None),
        ("/".join("d" * 32), "/".join("d" * 32)),
    ],
)
def test_names_have_one_spelling_or_none(text: str, name: str | None) -> None:
    assert mailbox_name(text) == name


def test_superiors_stand_from_the_top_down() -> None:
    assert superiors("a/b/c") == ["a", "a/b"]
    assert superiors("a") == []


async def test_a_mailbox_is_made_with_those_above_it(post: SmallStore, anna: int) -> None:
    made = post.run(mailbox_create, MailboxCreate(anna, "Work/2026/May"))
    assert made.word == DONE
    assert await names(post, anna) == ["Work", "Work/2026", "Work/2026/May"]
    status = await Mailboxes(post).status(anna, "Work/2026/May")
    assert status is not None
    assert (status.id, status.uidnext, status.messages) == (made.mailbox, 1, 0)


@pytest.mark.parametrize("name, word", [("Sent", EXISTS), ("inbox", EXISTS), ("a//b", BAD_NAME), ("*", BAD_NAME)])
def test_why_a_mailbox_is_not_made(post: SmallStore, anna: int, name: str, word: str) -> None:
    assert post.run(mailbox_create, MailboxCreate(anna, name)).word == word


def test_an_account_has_only_so_many_mailboxes(post: SmallStore, anna: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroad.store.mailbox_tree.MAILBOXES_MAX", 7)
    assert post.run(mailbox_create, MailboxCreate(anna, "a")).word == DONE
    assert post.run(mailbox_create, MailboxCreate(anna, "b")).word == TOO_MANY
    for number in range(7):
        assert post.run(mailbox_subscribe, MailboxSubscribe(anna, f"x{number}")).word == DONE
    assert post.run(mailbox_subscribe, MailboxSubscribe(anna, "one more")).word == TOO_MANY


def test_renaming_makes_no_more_mailboxes_either(post: SmallStore, anna: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert post.run(mailbox_create, MailboxCreate(anna, "a")).done
    count = post.sql("SELECT count(*) FROM mailboxes")[0][0]
    monkeypatch.setattr("postroad.store.mailbox_tree.MAILBOXES_MAX", count + 1)
    assert post.run(mailbox_rename, MailboxRename(anna, "a", "b/a")).done
    assert post.run(mailbox_rename, MailboxRename(anna, "b/a", "c/a")).word == TOO_MANY
    assert post.run(mailbox_rename, MailboxRename(anna, "INBOX", "old")).word == TOO_MANY
    assert post.run(mailbox_rename, MailboxRename(anna, "b/a", "c")).done, "nothing new is made"


def test_a_removed_account_has_no_tree(post: SmallStore, anna: int) -> None:
    assert post.run(mailbox_create, MailboxCreate(anna + 9, "a")).word == NO_MAILBOX
    assert post.run(mailbox_delete, MailboxDelete(anna + 9, "Sent")).word == NO_MAILBOX
    assert post.run(mailbox_rename, MailboxRename(anna + 9, "Sent", "x")).word == NO_MAILBOX
    assert post.run(mailbox_subscribe, MailboxSubscribe(anna + 9, "x")).word == NO_MAILBOX


# -- removing --------------------------------------------------------------------------------------------------------


async def test_a_removed_mailbox_frees_its_quota_at_once_and_its_rows_later(post: SmallStore, anna: int) -> None:
    made = post.run(mailbox_create, MailboxCreate(anna, "Work"))
    post.run(mailbox_create, MailboxCreate(anna, "Work/a"))
    post.deliver(anna, 3, mailbox="Work", size=100)
    post.deliver(anna, 1, mailbox="Work/a", size=100)
    assert post.run(mailbox_delete, MailboxDelete(anna, "Work")).word == DONE
    assert await names(post, anna) == ["Work/a"]
    assert await Mailboxes(post).status_of(made.mailbox) is None
    assert await Mailboxes(post).changes_since(made.mailbox, 1) is None
    assert post.sql("SELECT used_bytes, messages FROM accounts") == [(100, 1)]
    while post.run(sweep_mailboxes, Sweep()).more:
        pass
    assert post.sql("SELECT count(*) FROM messages") == [(1,)]
    assert post.sql("SELECT count(*) FROM mailboxes WHERE account IS NULL") == [(0,)]
    assert post.sql("SELECT count(*) FROM mailbox_jobs") == [(0,)]
    assert post.sql("SELECT used_bytes, messages FROM accounts") == [(100, 1)]


async def test_a_name_used_again_has_a_greater_uidvalidity(post: SmallStore, anna: int) -> None:
    seen = []
    for _ in range(3):
        post.run(mailbox_create, MailboxCreate(anna, "Work"))
        status = await Mailboxes(post).status(anna, "Work")
        assert status is not None
        seen.append(status.uidvalidity)
        post.run(mailbox_delete, MailboxDelete(anna, "Work"))
    assert seen == sorted(set(seen))


def test_uidvalidity_rises_though_the_clock_goes_back(post: SmallStore, anna: int) -> None:
    [(before,)] = post.sql("SELECT max(uidvalidity) FROM mailboxes")
    post.clock.now_us -= 10**15
    post.run(mailbox_create, MailboxCreate(anna, "Work"))
    assert post.sql("SELECT max(uidvalidity) FROM mailboxes") == [(before + 1,)]


def test_inbox_is_never_removed(post: SmallStore, anna: int) -> None:
    assert post.run(mailbox_delete, MailboxDelete(anna, "Inbox")).word == NOT_INBOX
    assert post.run(mailbox_delete, MailboxDelete(anna, "nowhere")).word == NO_MAILBOX
    assert post.run(mailbox_delete, MailboxDelete(anna, "a*")).word == NO_MAILBOX


# -- renaming --------------------------------------------------------------------------------------------------------


async def test_a_mailbox_takes_those_below_it_along(post: SmallStore, anna: int) -> None:
    for name in ("Work/a/b", "Workshop", "Work.x"):
        post.run(mailbox_create, MailboxCreate(anna, name))
    post.deliver(anna, mailbox="Work/a")
    before = await Mailboxes(post).status(anna, "Work/a")
    assert post.run(mailbox_rename, MailboxRename(anna, "Work", "Old/Work")).word == DONE
    assert await names(post, anna) == ["Old", "Old/Work", "Old/Work/a", "Old/Work/a/b", "Work.x", "Workshop"]
    after = await Mailboxes(post).status(anna, "Old/Work/a")
    assert before is not None
    assert after is not None
    assert (after.id, after.uidvalidity, after.messages) == (before.id, before.uidvalidity, 1)


@pytest.mark.parametrize(
    "name, new_name, word",
    [
        ("Work", "Sent", EXISTS),
        ("Work", "Work", EXISTS),
        ("Work", "Home", EXISTS),
        ("Work", "Work/a/c", BAD_NAME),
        ("Work", "a*", BAD_NAME),
        ("Work", "/".join("d" * 31), BAD_NAME),
        ("Nowhere", "x", NO_MAILBOX),
    ],
)
async def test_why_a_mailbox_is_not_renamed(post: SmallStore, anna: int, name: str, new_name: str, word: str) -> None:
    for made in ("Work/a/b", "Home/a"):
        post.run(mailbox_create, MailboxCreate(anna, made))
    post.run(mailbox_delete, MailboxDelete(anna, "Home"))
    before = await names(post, anna)
    assert post.run(mailbox_rename, MailboxRename(anna, name, new_name)).word == word
    assert await names(post, anna) == before


async def test_renaming_inbox_moves_its_messages_and_leaves_it_empty(post: SmallStore, anna: int) -> None:
    post.run(mailbox_create, MailboxCreate(anna, "INBOX/sub"))
    post.deliver(anna, 2)
    old = await Mailboxes(post).status(anna, "INBOX")
    assert post.run(mailbox_rename, MailboxRename(anna, "inbox", "2026")).word == DONE
    moved = await Mailboxes(post).status(anna, "2026")
    empty = await Mailboxes(post).status(anna, "INBOX")
    assert old is not None
    assert moved is not None
    assert empty is not None
    assert (moved.messages, empty.messages) == (2, 0)
    assert empty.uidvalidity > old.uidvalidity
    assert await names(post, anna) == ["2026", "INBOX/sub"]
    post.deliver(anna)
    status = await Mailboxes(post).status(anna, "INBOX")
    assert status is not None
    assert status.messages == 1


# -- subscribing -----------------------------------------------------------------------------------------------------


async def test_subscriptions_outlive_their_mailbox(post: SmallStore, anna: int) -> None:
    mailboxes = Mailboxes(post)
    assert await mailboxes.subscriptions(anna) == FIRST
    post.run(mailbox_create, MailboxCreate(anna, "Work"))
    assert await mailboxes.subscriptions(anna) == FIRST
    for name in ("Work", "Later/x"):
        assert post.run(mailbox_subscribe, MailboxSubscribe(anna, name)).word == DONE
    post.run(mailbox_delete, MailboxDelete(anna, "Work"))
    assert await mailboxes.subscriptions(anna) == sorted([*FIRST, "Later/x", "Work"])
    post.run(mailbox_create, MailboxCreate(anna, "Work"))
    assert {box.name: box.subscribed for box in await mailboxes.mailboxes(anna)}["Work"]
    for name in ("Work", "Later/x", "never there"):
        assert post.run(mailbox_subscribe, MailboxSubscribe(anna, name, subscribed=False)).word == DONE
    assert await mailboxes.subscriptions(anna) == FIRST
    assert post.run(mailbox_subscribe, MailboxSubscribe(anna, "a*")).word == BAD_NAME
