"""Random operations on two accounts: whatever their order, the numbers that are kept equal what can be counted.

After every step: quota and counts are exact, uids and modseqs only rise, uids are never used twice below one
UIDVALIDITY, readers who follow the changes know what stands in the mailbox, and no message lives without a reason.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from postroad.store.account_records import UserQuota
from postroad.store.accounts import user_quota
from postroad.store.engine import Connection
from postroad.store.mailbox import mailbox_append, mailbox_expunge, mailbox_flags
from postroad.store.mailbox_copy import mailbox_copy_slice, mailbox_move_slice
from postroad.store.mailbox_reads import Mailboxes
from postroad.store.mailbox_records import (
    DONE,
    SEEN,
    Append,
    CopySlice,
    Expunge,
    FlagsStore,
    MailboxCreate,
    MailboxDelete,
    MailboxRename,
    MoveSlice,
    PopDelete,
    Sweep,
)
from postroad.store.mailbox_sweep import sweep_mailboxes
from postroad.store.mailbox_tree import mailbox_create, mailbox_delete, mailbox_rename
from postroad.store.migrate import migrate
from postroad.store.pop import pop_delete
from postroad.store.records import Copy
from postroad.store.sqlite import SqliteConnection
from tests.store.small_store import NOW_US, File, SmallStore, file_one

NAMES = st.sampled_from(["INBOX", "Sent", "Work"])
PLACES = st.lists(st.integers(0, 30), min_size=1, max_size=4)
"""Which of the messages that are there; past the last one, a uid that may be there or not."""
SIZES = st.integers(20, 200)
FIRST, SECOND = 0, 1
WHO = st.sampled_from([FIRST, FIRST, FIRST, SECOND])
"""Mostly one account: with everything in one place things meet."""


class Reader:
    """A session that follows one mailbox by its changes alone."""

    def __init__(self) -> None:
        self.modseq = 0
        self.known: dict[int, tuple[int, str]] = {}
        self.ever: set[int] = set()


class Machine(RuleBasedStateMachine):
    """Units in any order against what SQL can count."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.connection: Connection = SqliteConnection(Path(self.folder.name) / "store.db")
        migrate(self.connection, NOW_US)
        self.post = SmallStore(self.connection)
        self.readers: dict[int, Reader] = {}
        self.jobs: list[CopySlice] = []
        self.pops: list[PopDelete] = []

    @initialize()
    def people(self) -> None:
        self.accounts = [self.post.account("anna@example.com", quota=9000), self.post.account("bob@example.com", 1000)]
        for account in self.accounts:
            self.post.run(mailbox_create, MailboxCreate(account, "Work"))
            self.post.deliver(account, 5)

    def teardown(self) -> None:
        self.connection.close()
        self.folder.cleanup()

    def mailbox(self, account: int, name: str) -> int:
        rows = self.post.sql("SELECT id FROM mailboxes WHERE account = ? AND name = ?", (self.accounts[account], name))
        return int(rows[0][0]) if rows else 0

    def uids(self, mailbox: int, places: list[int]) -> list[int]:
        there = [uid for (uid,) in self.post.sql("SELECT uid FROM mailbox_messages WHERE mailbox = ?", (mailbox,))]
        return sorted({there[place] if place < len(there) else place for place in places})

    # -- what may happen ---------------------------------------------------------------------------------------------

    @rule(names=st.lists(st.tuples(WHO, NAMES), min_size=1, max_size=3), size=SIZES)
    def deliver(self, names: list[tuple[int, str]], size: int) -> None:
        copies = [Copy("", self.accounts[account], b"X: y\r\n", name) for account, name in names]
        self.post.run(file_one, File(self.post.message_id(), size, copies))

    @rule(account=WHO, name=NAMES, flags=st.integers(0, 31), size=SIZES)
    def append(self, account: int, name: str, flags: int, size: int) -> None:
        header = b"A: b\r\n\r\n"
        body = b"x" * (size - len(header))
        args = Append(self.post.message_id(), self.accounts[account], name, header, body, "", size, flags)
        self.post.run(mailbox_append, args)

    @rule(
        account=WHO,
        name=NAMES,
        places=PLACES,
        mode=st.integers(0, 2),
        flags=st.integers(0, 31),
        words=st.sampled_from(["", "a", "a b"]),
    )
    def flag(self, account: int, name: str, places: list[int], mode: int, flags: int, words: str) -> None:
        mailbox = self.mailbox(account, name)
        self.post.run(mailbox_flags, FlagsStore(mailbox, self.uids(mailbox, places), mode, flags, words))

    @rule(account=WHO, name=NAMES, places=st.none() | PLACES)
    def expunge(self, account: int, name: str, places: list[int] | None) -> None:
        mailbox = self.mailbox(account, name)
        self.post.run(mailbox_expunge, Expunge(mailbox, None if places is None else self.uids(mailbox, places)))

    @rule(account=WHO, name=NAMES, into=NAMES, places=PLACES, last=st.booleans())
    def copy(self, account: int, name: str, into: str, places: list[int], last: bool) -> None:
        source = self.mailbox(account, name)
        args = CopySlice(self.accounts[account], source, into, self.uids(source, places), 0, last)
        done = self.post.run(mailbox_copy_slice, args)
        if done.word == DONE and done.job:
            self.jobs.append(CopySlice(args.account, source, into, [], done.job))

    @rule(which=st.integers(0, 9), places=PLACES, last=st.booleans())
    def go_on_copying(self, which: int, places: list[int], last: bool) -> None:
        if self.jobs:
            job = self.jobs.pop(which % len(self.jobs))
            uids = self.uids(job.source, places)
            done = self.post.run(
                mailbox_copy_slice, CopySlice(job.account, job.source, job.target, uids, job.job, last)
            )
            if done.job:
                self.jobs.append(job)

    @rule(account=WHO, name=NAMES, into=NAMES, places=PLACES)
    def move(self, account: int, name: str, into: str, places: list[int]) -> None:
        source = self.mailbox(account, name)
        self.post.run(mailbox_move_slice, MoveSlice(self.accounts[account], source, into, self.uids(source, places)))

    @rule(account=WHO, places=PLACES, last=st.booleans())
    def pop(self, account: int, places: list[int], last: bool) -> None:
        mailbox = self.mailbox(account, "INBOX")
        done = self.post.run(pop_delete, PopDelete(mailbox, self.uids(mailbox, places), 0, last))
        if done.job:
            self.pops.append(PopDelete(mailbox, [], done.job))

    @rule()
    def decide_pop(self) -> None:
        if self.pops:
            self.post.run(pop_delete, self.pops.pop())

    @rule(account=WHO, name=NAMES, new_name=NAMES, what=st.integers(0, 2))
    def reshape(self, account: int, name: str, new_name: str, what: int) -> None:
        owner = self.accounts[account]
        if what == 0:
            self.post.run(mailbox_delete, MailboxDelete(owner, name))
        self.post.run(mailbox_rename, MailboxRename(owner, name, new_name))
        if what == 1:
            self.post.run(mailbox_create, MailboxCreate(owner, name))

    @rule(quota=st.sampled_from([0, 300, 2000]))
    def quota(self, quota: int) -> None:
        self.post.run(user_quota, UserQuota("bob@example.com", quota))

    @rule(wait=st.sampled_from([0, 0, 61_000_000]))
    def sweep(self, wait: int) -> None:
        self.post.clock.now_us += wait
        self.post.run(sweep_mailboxes, Sweep())

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def quota_is_what_stands_in_the_mailboxes(self) -> None:
        wrong = self.post.sql(
            "SELECT a.address, a.used_bytes, a.messages, coalesce(sum(m.size), 0), count(m.uid) FROM accounts a"
            " LEFT JOIN mailboxes b ON b.account = a.id LEFT JOIN mailbox_messages m ON m.mailbox = b.id"
            " GROUP BY a.id HAVING a.used_bytes <> coalesce(sum(m.size), 0) OR a.messages <> count(m.uid)"
        )
        assert wrong == []

    @invariant()
    def mailboxes_count_what_is_not_part_of_an_unfinished_copy(self) -> None:
        wrong = self.post.sql(
            "SELECT b.name, b.messages, b.unseen, b.bytes, count(m.uid) FROM mailboxes b"
            " LEFT JOIN mailbox_messages m ON m.mailbox = b.id AND NOT EXISTS (SELECT 1 FROM mailbox_jobs j"
            " JOIN mailbox_job_uids u ON u.job = j.id WHERE j.kind = 1 AND j.mailbox = b.id"
            " AND m.uid BETWEEN u.first_uid AND u.last_uid)"
            " WHERE b.account IS NOT NULL GROUP BY b.id HAVING b.messages <> count(m.uid)"
            " OR b.unseen <> coalesce(sum(m.flags & ? = 0), 0) OR b.bytes <> coalesce(sum(m.size), 0)",
            (SEEN,),
        )
        assert wrong == []

    @invariant()
    def no_message_lives_without_a_reason(self) -> None:
        assert (
            self.post.sql(
                "SELECT id FROM messages m WHERE NOT EXISTS (SELECT 1 FROM mailbox_messages WHERE message = m.id)"
            )
            == []
        )

    @invariant()
    def readers_who_follow_know_what_is_there(self) -> None:
        asyncio.run(self.follow())

    async def follow(self) -> None:
        mailboxes = Mailboxes(self.post)
        for (ident,) in self.post.sql("SELECT id FROM mailboxes WHERE account IS NOT NULL"):
            reader = self.readers.setdefault(ident, Reader())
            changes = await mailboxes.changes_since(ident, reader.modseq)
            assert changes is not None
            assert changes.modseq >= reader.modseq
            reader.modseq = changes.modseq
            for uid, _, flags, words in changes.changed:
                if uid not in reader.known:
                    assert uid not in reader.ever
                    assert uid > max(reader.ever, default=0)
                reader.known[uid] = (flags, words)
            reader.ever |= reader.known.keys()
            for uid in changes.expunged:
                reader.known.pop(uid, None)
            there = await self.there(mailboxes, ident)
            assert reader.known == there

    async def there(self, mailboxes: Mailboxes, ident: int) -> dict[int, tuple[int, str]]:
        status = await mailboxes.status_of(ident)
        assert status is not None
        [(account,)] = self.post.sql("SELECT account FROM mailboxes WHERE id = ?", (ident,))
        found = await mailboxes.snapshot(account, status.name)
        assert found is not None
        assert found.status == status
        assert status.messages == len(found.entries)
        assert status.unseen == sum(not flags & SEEN for _, _, flags, _ in found.entries)
        assert all(uid < status.uidnext for uid, *_ in found.entries)
        assert all(a[0] < b[0] for a, b in itertools.pairwise(found.entries))
        return {uid: (flags, words) for uid, _, flags, words in found.entries}


TestMachine: Any = pytest.mark.slow(Machine.TestCase)
TestMachine.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
