"""Messages in mailboxes: filing, flags, removal, appending, and what readers are told of each, on both engines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from postroad.store.engine import Connection
from postroad.store.mailbox import changed_flags, mailbox_append, mailbox_expunge, mailbox_flags, mailbox_recent
from postroad.store.mailbox_reads import Mailboxes
from postroad.store.mailbox_records import (
    ADD,
    ANSWERED,
    DELETED,
    DONE,
    FLAGGED,
    NO_MAILBOX,
    OVER_QUOTA,
    REMOVE,
    REPLACE,
    SEEN,
    TOO_MANY_KEYWORDS,
    Append,
    Expunge,
    FlagsStore,
    MailboxDelete,
    RecentClaim,
    Status,
)
from postroad.store.mailbox_tree import mailbox_delete
from postroad.store.records import FILED, Copy
from postroad.store.records import NO_MAILBOX as NOT_FILED
from postroad.store.records import OVER_QUOTA as NO_ROOM
from postroad.store.writer import Writer
from tests.store.small_store import File, SmallStore, file_one


@pytest.fixture
def post(connect: Callable[[], Connection]) -> SmallStore:
    return SmallStore(connect())


@pytest.fixture
def anna(post: SmallStore) -> int:
    return post.account("anna@example.com")


async def inbox(post: SmallStore, account: int) -> Status:
    found = await Mailboxes(post).status(account, "INBOX")
    assert found is not None
    return found


async def uids(post: SmallStore, account: int, name: str = "INBOX") -> list[int]:
    found = await Mailboxes(post).snapshot(account, name)
    assert found is not None
    return [entry[0] for entry in found.entries]


def append(post: SmallStore, account: int, mailbox: str = "INBOX", **changes: object) -> Append:
    fields: dict[str, object] = {
        "id": post.message_id(),
        "account": account,
        "mailbox": mailbox,
        "header": b"Subject: a\r\n\r\n",
        "body": b"text\r\n",
        "body_file": "",
        "size": 20,
    }
    return Append(**(fields | changes))  # type: ignore[arg-type]


# -- filing ----------------------------------------------------------------------------------------------------------


async def test_a_filed_copy_counts_its_prefix_for_size_and_quota(post: SmallStore, anna: int) -> None:
    post.deliver(anna, size=100, prefix=b"Delivered-To: anna@example.com\r\n")
    status = await inbox(post, anna)
    assert (status.messages, status.unseen, status.recent, status.size) == (1, 1, 1, 132)
    [described] = await Mailboxes(post).describe(status.id, [1])
    assert described.size == 132
    [located] = await Mailboxes(post).locate(status.id, [1])
    assert len(located.prefix) + len(located.header) + len(located.body or b"") == 132
    assert post.sql("SELECT used_bytes, messages FROM accounts") == [(132, 1)]


async def test_one_message_for_two_accounts_is_kept_until_both_let_it_go(post: SmallStore, anna: int) -> None:
    bob = post.account("bob@example.com")
    post.run(file_one, File(1, 100, [Copy("", anna), Copy("", bob)], body_file="aa/1-1"))
    for account in (anna, bob):
        assert post.removed == []
        mailbox = (await inbox(post, account)).id
        post.run(mailbox_flags, FlagsStore(mailbox, [1], ADD, DELETED))
        assert post.run(mailbox_expunge, Expunge(mailbox)).uids == [1]
    assert post.removed == ["aa/1-1"]
    assert post.sql("SELECT count(*) FROM messages") == [(0,)]


def test_a_full_mailbox_changes_nothing(post: SmallStore) -> None:
    account = post.account("bob@example.com", quota=250)
    assert post.deliver(account, 3, size=100) == [FILED, FILED, NO_ROOM]
    assert post.sql("SELECT used_bytes, messages FROM accounts") == [(200, 2)]
    assert post.sql("SELECT uidnext FROM mailboxes WHERE name = 'INBOX'") == [(3,)]


def test_a_missing_mailbox_changes_nothing(post: SmallStore, anna: int) -> None:
    assert post.deliver(anna, mailbox="Nowhere") == [NOT_FILED]
    assert post.deliver(anna + 1000) == [NOT_FILED]
    assert post.sql("SELECT used_bytes, messages FROM accounts") == [(0, 0)]
    assert post.sql("SELECT count(*) FROM messages") == [(0,)]


def test_what_is_filed_is_hinted(post: SmallStore, anna: int) -> None:
    post.writer.hints.clear()
    post.deliver(anna)
    [(mailbox,)] = post.sql("SELECT id FROM mailboxes WHERE name = 'INBOX'")
    assert ("mailbox", mailbox) in post.writer.hints


async def test_two_writers_never_give_one_uid_twice(connect: Callable[[], Connection]) -> None:
    first, second = SmallStore(connect()), SmallStore(connect())
    second._message = 5000
    anna = first.account("anna@example.com")
    for _ in range(10):
        first.deliver(anna)
        second.deliver(anna, 2)
    assert isinstance(second.writer, Writer)
    found = await Mailboxes(first).snapshot(anna, "INBOX")
    assert found is not None
    assert [entry[0] for entry in found.entries] == list(range(1, 31))
    assert len({entry[1] for entry in found.entries}) == 30
    assert found.status.messages == 30


# -- flags -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode, given, keywords, after",
    [
        (ADD, FLAGGED, "b", (SEEN | FLAGGED, "a b")),
        (ADD, SEEN, "", (SEEN, "a")),
        (REMOVE, SEEN | FLAGGED, "", (0, "a")),
        (REMOVE, 0, "a b", (SEEN, "")),
        (REPLACE, ANSWERED, "b", (ANSWERED, "b")),
        (REPLACE, 0, "", (0, "")),
    ],
)
def test_what_store_makes_of_flags(mode: int, given: int, keywords: str, after: tuple[int, str]) -> None:
    assert changed_flags(SEEN, "a", mode, given, keywords) == after


async def test_flags_are_changed_counted_and_told(post: SmallStore, anna: int) -> None:
    post.deliver(anna, 4)
    before = await inbox(post, anna)
    stored = post.run(mailbox_flags, FlagsStore(before.id, [2, 3, 99], ADD, SEEN, "$Work urgent $Work"))
    modseq = before.modseq + 1
    assert stored.word == DONE
    assert stored.entries == [(2, modseq, SEEN, "$Work urgent"), (3, modseq, SEEN, "$Work urgent")]
    after = await inbox(post, anna)
    assert (after.unseen, after.modseq, after.keywords) == (2, modseq, "$Work urgent")
    changes = await Mailboxes(post).changes_since(before.id, before.modseq)
    assert changes is not None
    assert changes.changed == stored.entries
    assert (changes.modseq, changes.expunged, changes.complete) == (modseq, [], True)


async def test_flags_that_were_so_already_change_nothing(post: SmallStore, anna: int) -> None:
    post.deliver(anna, 2)
    mailbox = (await inbox(post, anna)).id
    first = post.run(mailbox_flags, FlagsStore(mailbox, [1], ADD, SEEN))
    again = post.run(mailbox_flags, FlagsStore(mailbox, [1], ADD, SEEN))
    assert again.entries == first.entries
    assert (await inbox(post, anna)).modseq == first.entries[0][1]


async def test_unchanged_since_guards_each_message(post: SmallStore, anna: int) -> None:
    post.deliver(anna, 3)
    mailbox = (await inbox(post, anna)).id
    since = (await inbox(post, anna)).modseq
    post.run(mailbox_flags, FlagsStore(mailbox, [2], ADD, FLAGGED))
    stored = post.run(mailbox_flags, FlagsStore(mailbox, [1, 2, 3], ADD, SEEN, unchanged_since=since))
    assert [entry[0] for entry in stored.entries] == [1, 3]
    assert stored.modified == [2]
    assert post.run(mailbox_flags, FlagsStore(mailbox, [1], ADD, SEEN, unchanged_since=0)).modified == [1]


async def test_keywords_of_a_mailbox_are_limited(post: SmallStore, anna: int) -> None:
    post.deliver(anna)
    mailbox = (await inbox(post, anna)).id
    many = " ".join(f"k{number}" for number in range(100))
    assert post.run(mailbox_flags, FlagsStore(mailbox, [1], ADD, 0, many)).word == DONE
    assert post.run(mailbox_flags, FlagsStore(mailbox, [1], ADD, SEEN, "one-more")).word == TOO_MANY_KEYWORDS
    assert post.run(mailbox_flags, FlagsStore(mailbox, [1], REPLACE, 0, "k1")).word == DONE
    assert post.run(mailbox_append, append(post, anna, keywords="x" * 101)).word == TOO_MANY_KEYWORDS
    assert post.sql("SELECT messages FROM accounts") == [(1,)]


def test_flags_of_a_mailbox_that_is_gone(post: SmallStore, anna: int) -> None:
    [(trash,)] = post.sql("SELECT id FROM mailboxes WHERE name = 'Trash'")
    post.run(mailbox_delete, MailboxDelete(anna, "Trash"))
    assert post.run(mailbox_flags, FlagsStore(trash, [1], ADD, SEEN)).word == NO_MAILBOX
    assert post.run(mailbox_expunge, Expunge(trash)).uids == []
    assert post.run(mailbox_recent, RecentClaim(trash)).first_recent == 0


# -- removal ---------------------------------------------------------------------------------------------------------


async def test_expunge_takes_what_is_marked_and_logs_it(post: SmallStore, anna: int) -> None:
    post.deliver(anna, 5, size=100)
    mailbox = (await inbox(post, anna)).id
    post.run(mailbox_flags, FlagsStore(mailbox, [2, 4, 5], ADD, DELETED))
    seen = (await inbox(post, anna)).modseq
    assert await Mailboxes(post).deleted(mailbox) == [2, 4, 5]
    assert post.run(mailbox_expunge, Expunge(mailbox, [1, 4, 99])).uids == [4]
    gone = post.run(mailbox_expunge, Expunge(mailbox))
    assert (gone.uids, gone.more) == ([2, 5], False)
    status = await inbox(post, anna)
    assert (status.messages, status.unseen, status.size, status.uidnext) == (2, 2, 200, 6)
    assert post.sql("SELECT used_bytes, messages FROM accounts") == [(200, 2)]
    changes = await Mailboxes(post).changes_since(mailbox, seen)
    assert changes is not None
    assert changes.expunged == [2, 4, 5]
    assert changes.changed == []
    assert changes.modseq == gone.modseq


async def test_a_large_expunge_goes_on_in_slices(post: SmallStore, anna: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroad.store.mailbox.ROWS_PER_UNIT", 4)
    post.deliver(anna, 10)
    mailbox = (await inbox(post, anna)).id
    post.run(mailbox_flags, FlagsStore(mailbox, [1, 2, 3, 4], ADD, DELETED))
    for uid in range(5, 11):
        post.run(mailbox_flags, FlagsStore(mailbox, [uid], ADD, DELETED))
    slices = []
    more = True
    while more:
        gone = post.run(mailbox_expunge, Expunge(mailbox))
        more = gone.more
        slices.append(len(gone.uids))
    assert slices == [4, 4, 2]
    assert await uids(post, anna) == []


async def test_uids_are_not_used_again_after_everything_is_removed(post: SmallStore, anna: int) -> None:
    post.deliver(anna, 3)
    mailbox = (await inbox(post, anna)).id
    post.run(mailbox_flags, FlagsStore(mailbox, [1, 2, 3], ADD, DELETED))
    post.run(mailbox_expunge, Expunge(mailbox))
    post.deliver(anna)
    assert await uids(post, anna) == [4]


async def test_the_log_of_removals_is_bounded_and_says_how_far_it_reaches(
    post: SmallStore, anna: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroad.store.mailbox_rows.LOG_KEPT", 10)
    mailbox = (await inbox(post, anna)).id
    for uid in range(1, 21):
        post.deliver(anna)
        post.run(mailbox_flags, FlagsStore(mailbox, [uid], ADD, DELETED))
        post.run(mailbox_expunge, Expunge(mailbox))
    assert post.sql("SELECT count(*) FROM expunged")[0][0] < 8
    status = await inbox(post, anna)
    old = await Mailboxes(post).changes_since(mailbox, 5)
    recent = await Mailboxes(post).changes_since(mailbox, status.modseq - 4)
    assert old is not None
    assert recent is not None
    assert (old.complete, recent.complete) == (False, True)
    assert recent.expunged == [19, 20]


# -- appending and recent --------------------------------------------------------------------------------------------


async def test_an_appended_message_keeps_flags_and_date(post: SmallStore, anna: int) -> None:
    args = append(post, anna, "Sent", flags=SEEN | 64, keywords="$Sent", internal_us=77_000_000)
    done = post.run(mailbox_append, args)
    status = await Mailboxes(post).status(anna, "Sent")
    assert status is not None
    assert (done.word, done.uid, done.uidvalidity, done.mailbox) == (DONE, 1, status.uidvalidity, status.id)
    assert (status.messages, status.unseen, status.size, status.keywords) == (1, 0, 20, "$Sent")
    [described] = await Mailboxes(post).describe(status.id, [1])
    assert (described.flags, described.keywords, described.internal_us) == (SEEN, "$Sent", 77_000_000)
    [located] = await Mailboxes(post).locate(status.id, [1], body=False)
    assert (located.prefix, located.header, located.body) == (b"", args.header, None)


def test_why_nothing_is_appended(post: SmallStore, anna: int) -> None:
    bob = post.account("bob@example.com", quota=10)
    assert post.run(mailbox_append, append(post, anna, "Nowhere")).word == NO_MAILBOX
    assert post.run(mailbox_append, append(post, bob)).word == OVER_QUOTA
    assert post.sql("SELECT used_bytes, messages FROM accounts") == [(0, 0), (0, 0)]
    assert post.sql("SELECT count(*) FROM messages") == [(0,)]


async def test_recent_marks_go_to_one_session(post: SmallStore, anna: int) -> None:
    post.deliver(anna, 2)
    status = await inbox(post, anna)
    assert (status.recent, status.recent_from) == (2, 1)
    assert post.run(mailbox_recent, RecentClaim(status.id)).first_recent == 1
    post.deliver(anna)
    status = await inbox(post, anna)
    assert (status.recent, status.recent_from) == (1, 3)
    assert post.run(mailbox_recent, RecentClaim(status.id)).first_recent == 3
    assert (await inbox(post, anna)).recent == 0


# -- reading in pages ------------------------------------------------------------------------------------------------


async def test_large_answers_are_read_in_pages(post: SmallStore, anna: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroad.store.mailbox_reads.PAGE", 3)
    monkeypatch.setattr("postroad.store.mailbox_reads._CHANGED", paged("_CHANGED"))
    monkeypatch.setattr("postroad.store.mailbox_reads._REMOVED", paged("_REMOVED"))
    post.deliver(anna, 10)
    mailbox = (await inbox(post, anna)).id
    assert await uids(post, anna) == list(range(1, 11))
    since = (await inbox(post, anna)).modseq
    post.run(mailbox_flags, FlagsStore(mailbox, [8, 2, 9, 1, 3, 7, 5], ADD, DELETED))
    post.run(mailbox_flags, FlagsStore(mailbox, [4], ADD, SEEN))
    changes = await Mailboxes(post).changes_since(mailbox, since)
    assert changes is not None
    assert [entry[0] for entry in changes.changed] == [1, 2, 3, 4, 5, 7, 8, 9]
    post.run(mailbox_expunge, Expunge(mailbox))
    changes = await Mailboxes(post).changes_since(mailbox, since)
    assert changes is not None
    assert changes.expunged == [1, 2, 3, 5, 7, 8, 9]
    assert [entry[0] for entry in changes.changed] == [4]


def paged(name: str) -> str:
    from postroad.store import mailbox_reads

    statement: str = getattr(mailbox_reads, name)
    return statement.replace("LIMIT 1000", "LIMIT 3")


async def test_nothing_new_is_one_question(post: SmallStore, anna: int) -> None:
    post.deliver(anna)
    status = await inbox(post, anna)
    changes = await Mailboxes(post).changes_since(status.id, status.modseq)
    assert changes is not None
    assert (changes.changed, changes.expunged, changes.modseq) == ([], [], status.modseq)
    assert await Mailboxes(post).modseqs([status.id, 999]) == {status.id: status.modseq}
    assert await Mailboxes(post).changes_since(999, 1) is None
    assert await Mailboxes(post).snapshot(anna, "Nowhere") is None
