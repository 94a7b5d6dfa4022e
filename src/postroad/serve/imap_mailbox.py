"""A selected mailbox: its view, kept up with the store, and what a session does to its messages.

Everything here speaks of places in the view and of UIDs; sequence numbers, and what is sent when, belong to the
session. Work on many messages is cut into slices, so that nobody waits behind a client that marks a whole archive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from postroad.serve.imap_view import MailboxView
from postroad.store.mailbox import changed_flags, mailbox_expunge, mailbox_flags, mailbox_recent
from postroad.store.mailbox_copy import mailbox_copy_abandon, mailbox_copy_slice, mailbox_move_slice
from postroad.store.mailbox_reads import Mailboxes
from postroad.store.mailbox_records import (
    ALL_FLAGS,
    DONE,
    Changes,
    Copied,
    CopyAbandon,
    CopySlice,
    Expunge,
    FlagsStore,
    MoveSlice,
    RecentClaim,
    Snapshot,
    Status,
)
from postroad.store.units import ROWS_PER_UNIT, Tx

LOADED_AT_ONCE: Final = 5000
"""Messages put into a view before others get their turn: about 1 ms."""


class Store(Protocol):
    """The writing side of the store: `StoreClient.call`."""

    async def call(self, unit: Callable[[Tx, Any], Any], args: Any) -> Any: ...


class MailboxGone(Exception):
    """The selected mailbox was deleted by another session (RFC 2180 section 3.3): the session ends with BYE."""


@dataclass(slots=True)
class FlagsChanged:
    """What a STORE did."""

    word: str
    places: list[int] = field(default_factory=list)
    """Messages that now are as wanted, ascending."""
    told: list[int] = field(default_factory=list)
    """Those of them whose flags are not what the client expects, because another session changed them too."""
    missing: bool = False
    """Some were expunged by another session before the STORE."""


@dataclass(slots=True)
class Moved:
    """What COPY or MOVE did: pairs of UIDs in the order in which they were copied."""

    word: str
    uidvalidity: int = 0
    source_uids: list[int] = field(default_factory=list)
    target_uids: list[int] = field(default_factory=list)


class SelectedMailbox:
    """A mailbox from SELECT or EXAMINE to its close."""

    __slots__ = (
        "_mailboxes",
        "_recent_from",
        "_store",
        "account",
        "dirty",
        "id",
        "keywords",
        "name",
        "read_only",
        "status",
        "view",
    )

    def __init__(
        self, mailboxes: Mailboxes, store: Store, account: int, snapshot: Snapshot, recent_from: int, *, read_only: bool
    ) -> None:
        self._mailboxes = mailboxes
        self._store = store
        self.account = account
        self.status: Status = snapshot.status
        """Its numbers when it was selected; UIDVALIDITY among them never changes."""
        self.id = snapshot.status.id
        self.name = snapshot.status.name
        self.keywords = snapshot.status.keywords
        """All keywords the mailbox ever had, joined by spaces."""
        self.read_only = read_only
        self.dirty = False
        """Somebody said that the mailbox changed; the next command looks."""
        self._recent_from = recent_from
        self.view = MailboxView()
        self.view.modseq = snapshot.status.modseq

    @classmethod
    async def select(
        cls, mailboxes: Mailboxes, store: Store, account: int, name: str, *, read_only: bool
    ) -> SelectedMailbox | None:
        """Opens a mailbox by name; None when there is none. Raises `StoreBroken`."""
        snapshot = await mailboxes.snapshot(account, name)
        if snapshot is None:
            return None
        recent_from = snapshot.status.recent_from
        if not read_only and recent_from < snapshot.status.uidnext:
            recent_from = (await store.call(mailbox_recent, RecentClaim(snapshot.status.id))).first_recent
        selected = cls(mailboxes, store, account, snapshot, recent_from, read_only=read_only)
        for start in range(0, len(snapshot.entries), LOADED_AT_ONCE):
            selected.view.load(snapshot.entries[start : start + LOADED_AT_ONCE], recent_from)
            await asyncio.sleep(0)
        return selected

    # -- keeping up --------------------------------------------------------------------------------------------------

    async def catch_up(self) -> None:
        """Brings the view up to the store; what the client is told of it is up to `view.tell`. Raises `MailboxGone`."""
        self.dirty = False
        changes = await self._mailboxes.changes_since(self.id, self.view.modseq)
        if changes is None:
            raise MailboxGone(self.name)
        if not changes.complete:
            changes = await self._compare(changes)
        self.keywords = changes.keywords
        known = self.view.uids[-1] if self.view.uids else 0
        newest = max((entry[0] for entry in changes.changed), default=0)
        if newest > known:
            await self._claim_recent(changes, newest)
        self.view.learn(changes.changed, changes.expunged, changes.modseq, self._recent_from)

    async def _claim_recent(self, changes: Changes, newest: int) -> None:
        """Decides from which UID on new messages are recent to us: those that no other session has claimed."""
        self._recent_from = changes.recent_from
        if not self.read_only and changes.recent_from <= newest:
            self._recent_from = (await self._store.call(mailbox_recent, RecentClaim(self.id))).first_recent

    async def _compare(self, changes: Changes) -> Changes:
        """The changes found by comparing everything, for a view older than the log of removals."""
        status = await self._mailboxes.status_of(self.id)
        snapshot = None if status is None else await self._mailboxes.snapshot(self.account, status.name)
        if snapshot is None or snapshot.status.id != self.id:
            raise MailboxGone(self.name)
        there = {entry[0] for entry in snapshot.entries}
        gone = [uid for uid in self.view.uids if uid not in there]
        status = snapshot.status
        return Changes(status.modseq, status.uidnext, status.recent_from, status.keywords, snapshot.entries, gone)

    # -- flags -------------------------------------------------------------------------------------------------------

    async def store_flags(self, places: Sequence[int], mode: int, flags: int, keywords: str) -> FlagsChanged:
        """Changes flags; `mode` is REPLACE, ADD or REMOVE. A slice that was stored stays, whatever happens later."""
        view = self.view
        result = FlagsChanged(DONE)
        for slice_ in sliced([place for place in places if not view.is_gone(place)]):
            uids = [view.uids[place] for place in slice_]
            stored = await self._store.call(mailbox_flags, FlagsStore(self.id, uids, mode, flags, keywords))
            if stored.word != DONE:
                result.word = stored.word
                return result
            for uid, modseq, now, words in stored.entries:
                place = view.place_of(uid)
                expected = changed_flags(view.flags[place] & ALL_FLAGS, view.keywords_at(place), mode, flags, keywords)
                if expected != (now, words):
                    result.told.append(place)
                view.note_flags(place, modseq, now, words)
                result.places.append(place)
        result.missing = len(result.places) < len(places)
        return result

    async def set_seen(self, places: Sequence[int], seen: int, add: int) -> list[int]:
        """Sets \\Seen where it is not set, for a FETCH of a body; returns the places whose flags changed."""
        unseen = [place for place in places if not self.view.flags[place] & seen]
        if not unseen or self.read_only:
            return []
        return (await self.store_flags(unseen, add, seen, "")).places

    # -- removing ----------------------------------------------------------------------------------------------------

    async def expunge(self, uids: Sequence[int] | None = None) -> None:
        """Removes messages that carry \\Deleted, all or those among `uids`; the view learns that they are gone."""
        if uids is None:
            more = True
            while more:
                removed = await self._store.call(mailbox_expunge, Expunge(self.id))
                self.view.learn((), removed.uids, 0, 0)
                more = removed.more
            return
        for slice_ in sliced(uids):
            removed = await self._store.call(mailbox_expunge, Expunge(self.id, list(slice_)))
            self.view.learn((), removed.uids, 0, 0)

    # -- copying -----------------------------------------------------------------------------------------------------

    async def copy(self, places: Sequence[int], target: str) -> Moved:
        """Copies messages into a mailbox of the same account, all or none."""
        slices = sliced([self.view.uids[place] for place in places])
        result = Moved(DONE)
        job = 0
        try:
            for number, uids in enumerate(slices, 1):
                last = number == len(slices)
                args = CopySlice(self.account, self.id, target, list(uids), job, last)
                copied: Copied = await self._store.call(mailbox_copy_slice, args)
                if copied.word != DONE:
                    return Moved(copied.word)
                job = copied.job
                gather(result, copied)
        finally:
            if job:
                # Cut off in the middle: nobody has seen what was placed, and the sweep takes it away.
                await self._store.call(mailbox_copy_abandon, CopyAbandon(job))
        return result

    async def move(self, places: Sequence[int], target: str) -> Moved:
        """Moves messages into a mailbox of the same account, slice by slice (RFC 6851 section 3.3)."""
        result = Moved(DONE)
        for uids in sliced([self.view.uids[place] for place in places]):
            moved: Copied = await self._store.call(
                mailbox_move_slice, MoveSlice(self.account, self.id, target, list(uids))
            )
            if moved.word != DONE:
                result.word = moved.word
                return result
            gather(result, moved)
            self.view.learn((), moved.source_uids, 0, 0)
        return result


SLICE: Final = ROWS_PER_UNIT
"""Messages in one unit of work."""


def sliced(values: Sequence[int]) -> list[Sequence[int]]:
    """Values in slices that one unit may touch."""
    return [values[start : start + SLICE] for start in range(0, len(values), SLICE)]


def gather(result: Moved, copied: Copied) -> None:
    """Adds one slice's pairs of UIDs."""
    result.uidvalidity = copied.uidvalidity
    result.source_uids += copied.source_uids
    result.target_uids += copied.target_uids
