"""The maildrop of POP3: what a session lists, and removals at QUIT that happen as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from postroad.store.engine import Connection
from postroad.store.mailbox import mailbox_flags
from postroad.store.mailbox_reads import Mailboxes
from postroad.store.mailbox_records import (
    ADD,
    DELETED,
    DONE,
    INTERRUPTED,
    NO_MAILBOX,
    FlagsStore,
    MailboxRename,
    Maildrop,
    PopDelete,
    Sweep,
)
from postroad.store.mailbox_sweep import sweep_mailboxes
from postroad.store.mailbox_tree import mailbox_rename
from postroad.store.pop import maildrop, pop_delete, runs
from tests.store.small_store import SmallStore


@pytest.fixture
def post(connect: Callable[[], Connection]) -> SmallStore:
    return SmallStore(connect())


@pytest.fixture
def anna(post: SmallStore) -> int:
    """anna with ten messages of 100 octets and a prefix of 10."""
    account = post.account("anna@example.com")
    post.deliver(account, 10, size=100, prefix=b"To: anna\r\n")
    return account


async def listed(post: SmallStore, account: int) -> list[int]:
    return [drop.uid for drop in (await maildrop(post, account)).drops]


def sweep(post: SmallStore) -> None:
    while post.run(sweep_mailboxes, Sweep()).more:
        pass


@pytest.mark.parametrize(
    "uids, ranges",
    [
        ([], []),
        ([1], [(1, 1)]),
        ([3, 1, 2], [(1, 3)]),
        ([1, 2, 5, 7, 8, 8], [(1, 2), (5, 5), (7, 8)]),
    ],
)
def test_uids_are_kept_as_ranges(uids: list[int], ranges: list[tuple[int, int]]) -> None:
    assert list(runs(uids)) == ranges


async def test_a_maildrop_lists_uids_and_whole_sizes(post: SmallStore, anna: int) -> None:
    found = await maildrop(post, anna)
    status = await Mailboxes(post).status(anna, "INBOX")
    assert status is not None
    assert (found.mailbox, found.uidvalidity) == (status.id, status.uidvalidity)
    assert [(drop.uid, drop.size) for drop in found.drops] == [(uid, 110) for uid in range(1, 11)]


async def test_an_account_that_is_gone_has_an_empty_maildrop(post: SmallStore, anna: int) -> None:
    assert await maildrop(post, anna + 1) == Maildrop(0, 0, [])


async def test_a_large_maildrop_is_read_in_pages(post: SmallStore, anna: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroad.store.pop.PAGE", 3)
    assert await listed(post, anna) == list(range(1, 11))


async def test_removals_of_one_part_happen_at_once(post: SmallStore, anna: int) -> None:
    box = (await maildrop(post, anna)).mailbox
    done = post.run(pop_delete, PopDelete(box, [2, 3, 99]))
    assert (done.word, done.removed) == (DONE, 2)
    assert await listed(post, anna) == [1, 4, 5, 6, 7, 8, 9, 10]
    changes = await Mailboxes(post).changes_since(box, 11)
    assert changes is not None
    assert changes.expunged == [2, 3]
    assert post.sql("SELECT used_bytes, messages FROM accounts") == [(880, 8)]
    assert post.sql("SELECT count(*) FROM messages") == [(8,)]


async def test_the_deleted_flag_of_imap_means_nothing_here(post: SmallStore, anna: int) -> None:
    box = (await maildrop(post, anna)).mailbox
    post.run(mailbox_flags, FlagsStore(box, [1, 2], ADD, DELETED))
    assert await listed(post, anna) == list(range(1, 11))
    assert post.run(pop_delete, PopDelete(box, [5])).removed == 1
    assert await listed(post, anna) == [1, 2, 3, 4, 6, 7, 8, 9, 10]


async def test_removals_of_several_parts_are_decided_by_the_last(post: SmallStore, anna: int) -> None:
    box = (await maildrop(post, anna)).mailbox
    first = post.run(pop_delete, PopDelete(box, [1, 2, 3], last=False))
    assert first.job
    assert await listed(post, anna) == list(range(1, 11))
    second = post.run(pop_delete, PopDelete(box, [5], job=first.job, last=False))
    assert second.job == first.job
    assert await listed(post, anna) == list(range(1, 11))
    last = post.run(pop_delete, PopDelete(box, [7, 9], job=first.job, last=True))
    assert (last.word, last.job) == (DONE, 0)
    # Decided: gone for the next session even if we died here, and then taken out.
    assert await listed(post, anna) == [4, 6, 8, 10]
    sweep(post)
    assert await listed(post, anna) == [4, 6, 8, 10]
    assert post.sql("SELECT count(*) FROM mailbox_messages") == [(4,)]
    assert post.sql("SELECT used_bytes, messages FROM accounts") == [(440, 4)]
    for table in ("mailbox_jobs", "mailbox_job_uids"):
        assert post.sql(f"SELECT count(*) FROM {table}") == [(0,)]


async def test_a_large_removal_is_swept_in_slices(post: SmallStore, anna: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroad.store.mailbox_sweep.ROWS_PER_UNIT", 3)
    box = (await maildrop(post, anna)).mailbox
    first = post.run(pop_delete, PopDelete(box, [1, 2], last=False))
    post.run(pop_delete, PopDelete(box, [4, 5, 6, 8, 10], job=first.job))
    left = []
    while post.run(sweep_mailboxes, Sweep()).more:
        left.append(post.sql("SELECT count(*) FROM mailbox_messages")[0][0])
        assert await listed(post, anna) == [3, 7, 9]
    assert left == [8, 5, 3]
    assert post.sql("SELECT messages FROM accounts") == [(3,)]


async def test_a_session_that_never_sends_the_last_part_removes_nothing(post: SmallStore, anna: int) -> None:
    box = (await maildrop(post, anna)).mailbox
    first = post.run(pop_delete, PopDelete(box, [1, 2, 3], last=False))
    post.clock.now_us += 61_000_000
    sweep(post)
    assert post.run(pop_delete, PopDelete(box, [4], job=first.job)).word == INTERRUPTED
    assert await listed(post, anna) == list(range(1, 11))
    assert post.sql("SELECT count(*) FROM mailbox_job_uids") == [(0,)]


def test_a_decided_removal_takes_no_more_parts(post: SmallStore, anna: int) -> None:
    [(box,)] = post.sql("SELECT id FROM mailboxes WHERE name = 'INBOX'")
    first = post.run(pop_delete, PopDelete(box, [1], last=False))
    post.run(pop_delete, PopDelete(box, [2], job=first.job))
    assert post.run(pop_delete, PopDelete(box, [3], job=first.job)).word == INTERRUPTED


def test_a_maildrop_that_is_gone_is_told(post: SmallStore, anna: int) -> None:
    assert post.run(pop_delete, PopDelete(999, [1])).word == NO_MAILBOX


async def test_removals_follow_their_messages_when_inbox_is_renamed(post: SmallStore, anna: int) -> None:
    box = (await maildrop(post, anna)).mailbox
    post.run(mailbox_rename, MailboxRename(anna, "INBOX", "Old"))
    assert await listed(post, anna) == []
    assert post.run(pop_delete, PopDelete(box, [1])).removed == 1
    status = await Mailboxes(post).status(anna, "Old")
    assert status is not None
    assert status.messages == 9
