"""Copies and moves: slices nobody sees before the last, and what is left when a copy never ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from postroad.store.engine import Connection
from postroad.store.mailbox import mailbox_flags
from postroad.store.mailbox_copy import mailbox_copy_abandon, mailbox_copy_slice, mailbox_move_slice
from postroad.store.mailbox_reads import Mailboxes
from postroad.store.mailbox_records import (
    ADD,
    DELETED,
    DONE,
    FLAGGED,
    INTERRUPTED,
    NO_MAILBOX,
    OVER_QUOTA,
    SEEN,
    CopyAbandon,
    CopySlice,
    FlagsStore,
    MailboxDelete,
    MoveSlice,
    Snapshot,
    Sweep,
)
from postroad.store.mailbox_sweep import MailboxSweep, sweep_mailboxes
from postroad.store.mailbox_tree import mailbox_delete
from postroad.store.pop import maildrop
from tests.store.small_store import SmallStore

MINUTE_US = 60_000_000


@pytest.fixture
def post(connect: Callable[[], Connection]) -> SmallStore:
    return SmallStore(connect())


class Folder:
    """One mailbox as a reader that keeps looking sees it."""

    def __init__(self, post: SmallStore, account: int, name: str) -> None:
        self.post = post
        self.account = account
        self.name = name
        self.known: set[int] = set()
        self.modseq = 0
        [(self.id,)] = post.sql("SELECT id FROM mailboxes WHERE account = ? AND name = ?", (account, name))

    async def snapshot(self) -> Snapshot:
        found = await Mailboxes(self.post).snapshot(self.account, self.name)
        assert found is not None
        return found

    async def uids(self) -> list[int]:
        """What a session that selects now would list."""
        return [entry[0] for entry in (await self.snapshot()).entries]

    async def look(self) -> list[int]:
        """What the changes tell a session that has looked before; new uids must stand above all known ones."""
        changes = await Mailboxes(self.post).changes_since(self.id, self.modseq)
        assert changes is not None
        assert changes.modseq >= self.modseq
        new = [entry[0] for entry in changes.changed if entry[0] not in self.known]
        assert not self.known or not new or min(new) > max(self.known)
        self.known |= set(new)
        self.known -= set(changes.expunged)
        self.modseq = changes.modseq
        return sorted(self.known)

    def copy(self, target: str, uids: list[int], **more: object) -> CopySlice:
        return CopySlice(self.account, self.id, target, uids, **more)  # type: ignore[arg-type]


@pytest.fixture
def inbox(post: SmallStore) -> Folder:
    """INBOX of anna with ten messages of 100 octets."""
    account = post.account("anna@example.com")
    post.deliver(account, 10, size=100)
    return Folder(post, account, "INBOX")


@pytest.fixture
def trash(post: SmallStore, inbox: Folder) -> Folder:
    return Folder(post, inbox.account, "Trash")


def use(post: SmallStore) -> tuple[int, int]:
    """What the account is charged with, after it was compared with what stands in its mailboxes."""
    [charged] = post.sql("SELECT used_bytes, messages FROM accounts")
    [(size, count)] = post.sql(
        "SELECT coalesce(sum(m.size), 0), count(*) FROM mailbox_messages m JOIN mailboxes b ON b.id = m.mailbox"
        " WHERE b.account IS NOT NULL"
    )
    assert charged == (size, count)
    return int(charged[0]), int(charged[1])


def sweep(post: SmallStore) -> None:
    while post.run(sweep_mailboxes, Sweep()).more:
        pass


# -- small ones ------------------------------------------------------------------------------------------------------


async def test_a_copy_keeps_flags_keywords_and_dates(post: SmallStore, inbox: Folder, trash: Folder) -> None:
    post.run(mailbox_flags, FlagsStore(inbox.id, [3], ADD, SEEN, "$Work"))
    done = post.run(mailbox_copy_slice, inbox.copy("Trash", [3, 1, 77]))
    snapshot = await trash.snapshot()
    assert (done.word, done.source_uids, done.target_uids) == (DONE, [1, 3], [1, 2])
    assert (done.mailbox, done.uidvalidity, done.job) == (trash.id, snapshot.status.uidvalidity, 0)
    assert [(uid, flags, words) for uid, _, flags, words in snapshot.entries] == [(1, 0, ""), (2, SEEN, "$Work")]
    status = snapshot.status
    assert (status.messages, status.unseen, status.recent, status.size, status.keywords) == (2, 1, 2, 200, "$Work")
    before = await Mailboxes(post).describe(inbox.id, [1, 3])
    after = await Mailboxes(post).describe(trash.id, [1, 2])
    assert [(row.message, row.internal_us) for row in before] == [(row.message, row.internal_us) for row in after]
    assert use(post) == (1200, 12)


async def test_a_move_takes_the_messages_out_of_their_mailbox(post: SmallStore, inbox: Folder, trash: Folder) -> None:
    seen = (await inbox.snapshot()).status.modseq
    post.run(mailbox_flags, FlagsStore(inbox.id, [2], ADD, SEEN))
    done = post.run(mailbox_move_slice, MoveSlice(inbox.account, inbox.id, "Trash", [2, 4]))
    assert (done.word, done.source_uids, done.target_uids) == (DONE, [2, 4], [1, 2])
    assert await inbox.uids() == [1, 3, 5, 6, 7, 8, 9, 10]
    status = (await inbox.snapshot()).status
    assert (status.messages, status.unseen, status.size) == (8, 8, 800)
    changes = await Mailboxes(post).changes_since(inbox.id, seen)
    assert changes is not None
    assert changes.expunged == [2, 4]
    status = (await trash.snapshot()).status
    assert (status.messages, status.unseen) == (2, 1)
    assert use(post) == (1000, 10)
    assert post.sql("SELECT count(*) FROM messages") == [(10,)]


async def test_a_move_into_the_same_mailbox_gives_new_uids(post: SmallStore, inbox: Folder) -> None:
    done = post.run(mailbox_move_slice, MoveSlice(inbox.account, inbox.id, "INBOX", [1, 2]))
    assert done.target_uids == [11, 12]
    assert await inbox.uids() == list(range(3, 13))
    assert (await inbox.snapshot()).status.messages == 10
    assert use(post) == (1000, 10)


def test_why_nothing_is_copied_or_moved(post: SmallStore, inbox: Folder) -> None:
    bob = post.account("bob@example.com")
    assert post.run(mailbox_copy_slice, inbox.copy("Nowhere", [1])).word == NO_MAILBOX
    assert post.run(mailbox_copy_slice, CopySlice(bob, inbox.id, "Trash", [1])).word == NO_MAILBOX
    assert post.run(mailbox_move_slice, MoveSlice(bob, inbox.id, "Trash", [1])).word == NO_MAILBOX
    assert post.run(mailbox_move_slice, MoveSlice(inbox.account, inbox.id, "Nowhere", [1])).word == NO_MAILBOX
    assert post.run(mailbox_copy_slice, inbox.copy("Trash", [1], job=12, last=True)).word == INTERRUPTED
    post.sql("UPDATE accounts SET quota_bytes = 1150 WHERE id = ?", (inbox.account,))
    assert post.run(mailbox_copy_slice, inbox.copy("Trash", [1, 2])).word == OVER_QUOTA
    assert post.run(mailbox_copy_slice, inbox.copy("Trash", [1])).word == DONE
    assert post.sql("SELECT used_bytes, messages FROM accounts ORDER BY id") == [(1100, 11), (0, 0)]


# -- slices ----------------------------------------------------------------------------------------------------------


async def test_slices_are_seen_together_with_the_last(post: SmallStore, inbox: Folder, trash: Folder) -> None:
    post.deliver(inbox.account, 1, mailbox="Trash", size=100)
    assert await trash.look() == [1]
    first = post.run(mailbox_copy_slice, inbox.copy("Trash", [1, 2, 3], last=False))
    assert (first.word, first.target_uids) == (DONE, [2, 3, 4])
    assert first.job
    assert await trash.uids() == [1]
    status = (await trash.snapshot()).status
    assert (status.uidnext, status.messages, status.unseen, status.recent, status.size) == (2, 1, 1, 1, 100)
    # New mail meanwhile is safe and waits: uids must appear in ascending order.
    post.deliver(inbox.account, 1, mailbox="Trash", size=100)
    assert await trash.uids() == await trash.look() == [1]
    # What is visible can be changed meanwhile, and is told.
    post.run(mailbox_flags, FlagsStore(trash.id, [1, 2, 5], ADD, FLAGGED))
    changes = await Mailboxes(post).changes_since(trash.id, trash.modseq)
    assert changes is not None
    assert [(uid, flags) for uid, _, flags, _ in changes.changed] == [(1, FLAGGED)]
    second = post.run(mailbox_copy_slice, inbox.copy("Trash", [4, 5], job=first.job, last=False))
    assert await trash.look() == [1]
    last = post.run(mailbox_copy_slice, inbox.copy("Trash", [6], job=second.job, last=True))
    assert (last.word, last.job, last.target_uids) == (DONE, 0, [8])
    assert await trash.look() == await trash.uids() == [1, 2, 3, 4, 5, 6, 7, 8]
    status = (await trash.snapshot()).status
    assert (status.uidnext, status.messages, status.unseen, status.size) == (9, 8, 8, 800)
    assert post.sql("SELECT count(*) FROM mailbox_jobs") == [(0,)]
    assert use(post) == (1800, 18)


async def test_two_copies_into_one_mailbox_hide_each_other(post: SmallStore, inbox: Folder, trash: Folder) -> None:
    await trash.look()
    one = post.run(mailbox_copy_slice, inbox.copy("Trash", [1], last=False))
    two = post.run(mailbox_copy_slice, inbox.copy("Trash", [2], last=False))
    post.run(mailbox_copy_slice, inbox.copy("Trash", [3], job=one.job, last=True))
    assert await trash.look() == await trash.uids() == [1]
    post.run(mailbox_copy_slice, inbox.copy("Trash", [4], job=two.job, last=True))
    assert await trash.look() == await trash.uids() == [1, 2, 3, 4]
    assert (await trash.snapshot()).status.messages == 4


async def test_pop3_sees_nothing_of_an_unfinished_copy(post: SmallStore, inbox: Folder, trash: Folder) -> None:
    post.run(mailbox_copy_slice, inbox.copy("INBOX", [1, 2], last=False))
    post.deliver(inbox.account)
    assert [drop.uid for drop in (await maildrop(post, inbox.account)).drops] == list(range(1, 11))


async def test_an_abandoned_copy_leaves_nothing(post: SmallStore, inbox: Folder, trash: Folder) -> None:
    await trash.look()
    first = post.run(mailbox_copy_slice, inbox.copy("Trash", [1, 2], last=False))
    post.run(mailbox_copy_slice, inbox.copy("Trash", [3], job=first.job, last=False))
    post.deliver(inbox.account, mailbox="Trash", size=100)
    post.run(mailbox_copy_abandon, CopyAbandon(first.job))
    assert post.run(mailbox_copy_slice, inbox.copy("Trash", [4], job=first.job)).word == INTERRUPTED
    sweep(post)
    assert await trash.look() == await trash.uids() == [4]
    status = (await trash.snapshot()).status
    assert (status.messages, status.unseen, status.size, status.uidnext) == (1, 1, 100, 5)
    assert use(post) == (1100, 11)
    assert post.sql("SELECT count(*) FROM mailbox_job_uids") == [(0,)]


async def test_a_copy_that_stands_still_is_given_up(post: SmallStore, inbox: Folder, trash: Folder) -> None:
    first = post.run(mailbox_copy_slice, inbox.copy("Trash", [1, 2], last=False))
    chore = MailboxSweep(post.writer)
    chore.step(100.0)
    assert chore.due > 100.0
    post.clock.now_us += MINUTE_US // 2
    post.run(mailbox_copy_slice, inbox.copy("Trash", [3], job=first.job, last=False))
    post.clock.now_us += MINUTE_US // 2 + 1
    chore.step(200.0)
    assert use(post) == (1300, 13)
    post.clock.now_us += MINUTE_US
    for _ in range(3):
        chore.step(300.0)
        assert chore.due == 300.0
    chore.step(300.0)
    assert chore.due > 300.0
    assert await trash.uids() == []
    assert post.run(mailbox_copy_slice, inbox.copy("Trash", [4], job=first.job)).word == INTERRUPTED
    assert use(post) == (1000, 10)
    assert post.sql("SELECT hidden_from FROM mailboxes WHERE name = 'Trash'") == [(0,)]


async def test_a_copy_over_quota_in_a_later_slice_leaves_nothing(
    post: SmallStore, inbox: Folder, trash: Folder
) -> None:
    post.sql("UPDATE accounts SET quota_bytes = 1250")
    first = post.run(mailbox_copy_slice, inbox.copy("Trash", [1, 2], last=False))
    refused = post.run(mailbox_copy_slice, inbox.copy("Trash", [3], job=first.job))
    assert refused.word == OVER_QUOTA
    sweep(post)
    assert await trash.uids() == []
    assert use(post) == (1000, 10)


async def test_a_target_removed_during_a_copy_takes_everything_with_it(
    post: SmallStore, inbox: Folder, trash: Folder
) -> None:
    first = post.run(mailbox_copy_slice, inbox.copy("Trash", [1, 2], last=False))
    post.run(mailbox_delete, MailboxDelete(inbox.account, "Trash"))
    assert use(post) == (1000, 10)
    assert post.run(mailbox_copy_slice, inbox.copy("Trash", [3], job=first.job)).word == INTERRUPTED
    sweep(post)
    assert use(post) == (1000, 10)
    for table in ("mailbox_jobs", "mailbox_job_uids"):
        assert post.sql(f"SELECT count(*) FROM {table}") == [(0,)]
    assert post.sql("SELECT count(*) FROM mailbox_messages") == [(10,)]


async def test_a_copy_of_nothing_is_done(post: SmallStore, inbox: Folder, trash: Folder) -> None:
    first = post.run(mailbox_copy_slice, inbox.copy("Trash", [99], last=False))
    assert (first.word, first.source_uids) == (DONE, [])
    assert post.run(mailbox_copy_slice, inbox.copy("Trash", [98], job=first.job)).word == DONE
    assert await trash.uids() == []
    post.deliver(inbox.account, mailbox="Trash")
    assert await trash.uids() == [1]


def test_more_than_a_unit_may_touch_is_a_bug_of_the_caller(post: SmallStore, inbox: Folder) -> None:
    with pytest.raises(AssertionError, match="501 uids in one call"):
        post.run(mailbox_copy_slice, inbox.copy("Trash", list(range(1, 502))))


def test_flags_of_hidden_messages_cannot_be_changed(post: SmallStore, inbox: Folder, trash: Folder) -> None:
    post.run(mailbox_copy_slice, inbox.copy("Trash", [1, 2], last=False))
    assert post.run(mailbox_flags, FlagsStore(trash.id, [1, 2], ADD, DELETED)).entries == []
