"""One watcher per worker for all selected mailboxes: who has to look again, told by hints and by one query for all.

A session never asks on its own whether its mailbox changed while it idles. A hint of the store marks the mailbox; a
hint that was lost is made up for by the sweep, which reads the modseqs of all watched mailboxes together.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from postroad.serve.logs import log_line
from postroad.store.mailbox_reads import Mailboxes
from postroad.values.errors import StoreBroken

SWEEP_S: Final = 10.0
"""How late news of a mailbox may be when its hint was lost; also the pace on engines that give no hints."""


class Watcher(Protocol):
    """A session with a selected mailbox."""

    @property
    def seen_modseq(self) -> int:
        """Up to where it knows its mailbox."""
        ...

    def mailbox_changed(self) -> None:
        """Its mailbox is not what it was; called from the loop, must not wait."""
        ...


class MailboxWatch:
    """Who watches which mailbox; `hint` is the listener for the store's "mailbox" hints."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes
        self._watchers: dict[int, set[Watcher]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin sweeping; the worker calls it once."""
        self._task = asyncio.get_running_loop().create_task(self._sweep_for_ever())

    def stop(self) -> None:
        """End sweeping."""
        if self._task is not None:
            self._task.cancel()

    def add(self, mailbox: int, watcher: Watcher) -> None:
        """From now on `watcher` hears of changes."""
        self._watchers.setdefault(mailbox, set()).add(watcher)

    def remove(self, mailbox: int, watcher: Watcher) -> None:
        """`watcher` has closed the mailbox."""
        watchers = self._watchers.get(mailbox)
        if watchers is not None:
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[mailbox]

    def hint(self, mailbox: int) -> None:
        """The store says that a mailbox changed."""
        for watcher in tuple(self._watchers.get(mailbox, ())):
            watcher.mailbox_changed()

    async def sweep(self) -> None:
        """Ask once for all watched mailboxes what their modseq is, and wake whoever is behind."""
        watched = list(self._watchers)
        if not watched:
            return
        modseqs = await self._mailboxes.modseqs(watched)
        for mailbox in watched:
            now = modseqs.get(mailbox)
            for watcher in tuple(self._watchers.get(mailbox, ())):
                if now is None or watcher.seen_modseq < now:
                    watcher.mailbox_changed()

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self.sweep()
            except StoreBroken as error:
                log_line("error", f"IMAP: mailboxes cannot be watched: {error}")
