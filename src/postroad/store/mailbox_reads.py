"""Reads of mailboxes for IMAP, POP3 and whoever shows mail: lists, status, snapshots, changes, parts of messages.

Large answers are read in pages, and between two pages other sessions get their turn; on SQLite nothing else suspends.
The numbers of a mailbox are read before its messages, so a change that falls between the two is told again by
`changes_since`, and none is ever left out.

What is hidden: while a copy in slices is unfinished, messages from its first uid on are not shown (`hidden_from`), new
mail among them, because uids must appear in ascending order (RFC 3501 section 2.3.1.1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from postroad.store.directory import Rows
from postroad.store.engine import Params, Row
from postroad.store.mailbox_records import (
    SEEN,
    Changes,
    Described,
    Located,
    Mailbox,
    Snapshot,
    Status,
)
from postroad.store.mailbox_rows import marks

PAGE: Final = 1000
"""Rows read at once: at most 2 ms of the event loop on SQLite."""

_NUMBERS: Final = (
    "SELECT id, name, uidvalidity, CASE WHEN hidden_from > 0 THEN hidden_from ELSE uidnext END,"
    " CASE WHEN hidden_from > 0 THEN hidden_modseq ELSE modseq END, messages, unseen, recent_from, bytes, keywords,"
    " hidden_from, log_from FROM mailboxes WHERE account IS NOT NULL AND "
)
# The first modseq condition is what an index is searched by; the second passes over what the page before ended with.
_CHANGED: Final = (
    "SELECT uid, modseq, flags, keywords FROM mailbox_messages WHERE mailbox = ? AND uid < ?"
    f" AND modseq >= ? AND (modseq > ? OR uid > ?) ORDER BY modseq, uid LIMIT {PAGE}"
)
_REMOVED: Final = (
    "SELECT uid, modseq FROM expunged WHERE mailbox = ? AND uid < ?"
    f" AND modseq >= ? AND (modseq > ? OR uid > ?) ORDER BY modseq, uid LIMIT {PAGE}"
)
_LOCATED: Final = "b.uid, b.message, b.prefix, m.header, m.body, m.body_file, m.size"
_LOCATED_HEADER: Final = "b.uid, b.message, b.prefix, m.header, NULL, m.body_file, m.size"


class Mailboxes:
    """Every account's mailboxes, read through one connection."""

    __slots__ = ("_rows",)

    def __init__(self, reader: Rows) -> None:
        self._rows = reader.rows

    # -- the tree ----------------------------------------------------------------------------------------------------

    async def mailboxes(self, account: int) -> list[Mailbox]:
        """All mailboxes of an account by name, INBOX among them."""
        rows = await self._rows(
            "SELECT id, name, special_use, subscribed FROM mailboxes WHERE account = ? ORDER BY name", (account,)
        )
        return [Mailbox(ident, name, special, subscribed == 1) for ident, name, special, subscribed in rows]

    async def subscriptions(self, account: int) -> list[str]:
        """All subscribed names by name, of mailboxes and of what is none (any more)."""
        rows = await self._rows(
            "SELECT name FROM mailboxes WHERE account = ? AND subscribed = 1"
            " UNION SELECT name FROM subscriptions WHERE account = ? ORDER BY 1",
            (account, account),
        )
        return [name for (name,) in rows]

    async def status(self, account: int, name: str) -> Status | None:
        """The numbers of one mailbox by name; None when there is none."""
        return await self._status("account = ? AND name = ?", (account, name))

    async def status_of(self, mailbox: int) -> Status | None:
        """The numbers of one mailbox by id; None once it was deleted."""
        return await self._status("id = ?", (mailbox,))

    async def _status(self, where: str, params: Params) -> Status | None:
        rows = await self._rows(_NUMBERS + where, params)
        return await self._settled(rows[0]) if rows else None

    async def _settled(self, row: Row) -> Status:
        """The status of one row; what an unfinished copy hides is not counted."""
        ident, name, uidvalidity, uidnext, modseq, messages, unseen, recent_from, size, keywords, hidden, _ = row
        if hidden:
            messages, unseen, size = await self._count(ident, uidnext)
        recent = 0
        if recent_from < uidnext and messages:
            counted = await self._rows(
                "SELECT count(*) FROM mailbox_messages WHERE mailbox = ? AND uid >= ? AND uid < ?",
                (ident, recent_from, uidnext),
            )
            recent = counted[0][0]
        return Status(ident, name, uidvalidity, uidnext, modseq, messages, unseen, recent, size, keywords, recent_from)

    async def _count(self, mailbox: int, below: int) -> tuple[int, int, int]:
        rows = await self._rows(
            "SELECT count(*), coalesce(sum(CASE WHEN flags & ? = 0 THEN 1 ELSE 0 END), 0), coalesce(sum(size), 0)"
            " FROM mailbox_messages WHERE mailbox = ? AND uid < ?",
            (SEEN, mailbox, below),
        )
        messages, unseen, size = rows[0]
        return messages, int(unseen), int(size)

    # -- a selected mailbox ------------------------------------------------------------------------------------------

    async def snapshot(self, account: int, name: str) -> Snapshot | None:
        """A mailbox as SELECT begins with it; None when there is none."""
        status = await self.status(account, name)
        if status is None:
            return None
        rows: list[Row] = []
        last = 0
        while True:
            page = await self._rows(
                "SELECT uid, modseq, flags, keywords FROM mailbox_messages"
                f" WHERE mailbox = ? AND uid > ? AND uid < ? ORDER BY uid LIMIT {PAGE}",
                (status.id, last, status.uidnext),
            )
            rows += page
            if len(page) < PAGE:
                return Snapshot(status, rows)
            last = page[-1][0]
            await asyncio.sleep(0)

    async def modseqs(self, mailboxes: Iterable[int]) -> dict[int, int]:
        """The highest modseq of each of these mailboxes, to see which have changed; deleted ones are missing."""
        found: dict[int, int] = {}
        for question, part in marks(list(mailboxes)):
            rows = await self._rows(
                f"SELECT id, modseq FROM mailboxes WHERE id IN ({question}) AND account IS NOT NULL",
                part,
            )
            found.update((ident, modseq) for ident, modseq in rows)
        return found

    async def changes_since(self, mailbox: int, modseq: int) -> Changes | None:
        """What happened after a modseq that an earlier answer gave; None when the mailbox was deleted."""
        rows = await self._rows(_NUMBERS + "id = ?", (mailbox,))
        if not rows:
            return None
        _, _, _, uidnext, now, _, _, recent_from, _, keywords, hidden, log_from = rows[0]
        complete = modseq >= log_from
        # While a copy hides messages, everybody continues from the same modseq and is told again what came after it.
        if modseq >= now and not hidden:
            return Changes(now, uidnext, recent_from, keywords, [], [], complete)
        changed = await self._after(_CHANGED, mailbox, modseq, below=uidnext)
        removed = await self._after(_REMOVED, mailbox, modseq, below=uidnext)
        gone = sorted(uid for uid, _ in removed)
        return Changes(now, uidnext, recent_from, keywords, sorted(changed), gone, complete)

    async def _after(self, sql: str, mailbox: int, modseq: int, *, below: int) -> list[Row]:
        """All rows of `sql` after a modseq, read in pages by (modseq, uid)."""
        found: list[Row] = []
        last = 1 << 62
        while True:
            page = await self._rows(sql, (mailbox, below, modseq, modseq, last))
            found += page
            if len(page) < PAGE:
                return found
            last, modseq = page[-1][0], page[-1][1]
            await asyncio.sleep(0)

    # -- messages ----------------------------------------------------------------------------------------------------

    async def describe(self, mailbox: int, uids: Sequence[int]) -> list[Described]:
        """Sizes and dates of messages, ascending by uid; those that were removed are left out."""
        rows = await self._by_uid(
            "b.uid, b.message, b.size, b.internal_us, b.modseq, b.flags, b.keywords", mailbox, uids
        )
        return [Described(*row) for row in rows]

    async def locate(self, mailbox: int, uids: Sequence[int], *, body: bool = True) -> list[Located]:
        """Where the parts of messages are, ascending by uid; without `body` inline bodies are not read.

        Ask for few at a time: each answer holds whole headers, and bodies of up to 64 KiB.
        """
        rows = await self._by_uid(
            _LOCATED if body else _LOCATED_HEADER, mailbox, uids, " JOIN messages m ON m.id = b.message"
        )
        return [Located(*row) for row in rows]

    async def _by_uid(self, columns: str, mailbox: int, uids: Sequence[int], join: str = "") -> list[Row]:
        found: list[Row] = []
        for question, part in marks(sorted(set(uids))):
            if found:
                await asyncio.sleep(0)
            found += await self._rows(
                f"SELECT {columns} FROM mailbox_messages b{join} WHERE b.mailbox = ? AND b.uid IN ({question})"
                " ORDER BY b.uid",
                [mailbox, *part],
            )
        return found

    async def deleted(self, mailbox: int) -> list[int]:
        """Uids of the visible messages that carry \\Deleted, ascending."""
        rows = await self._rows(
            "SELECT m.uid FROM mailbox_messages m JOIN mailboxes b ON b.id = m.mailbox WHERE m.mailbox = ?"
            " AND m.flags & 8 <> 0 AND (b.hidden_from = 0 OR m.uid < b.hidden_from) ORDER BY m.uid",
            (mailbox,),
        )
        return [uid for (uid,) in rows]
