"""A worker's reading side: its own read-only connection, used directly on the loop.

No transaction outlives a call: every statement is read to its end before the call returns, and each takes far less
than the 2 ms that a loop may be held up. Rows are those of the last commit, so a message just accepted can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import apsw

from postroad.store import folder
from postroad.store.engine import Params, Row
from postroad.store.records import HELD
from postroad.store.sqlite import open_reader, translated


class StoredMessage(NamedTuple):
    """A message as it is kept: `header + body`, the body inline or in a file of the spool, never both."""

    header: bytes
    """The header block as edited at acceptance, with its empty line."""
    body: bytes | None
    body_file: str
    size: int
    received_us: int
    sender: str
    eightbit: bool
    smtputf8: bool


class Reader:
    """Reads one store from one event loop; made while the store process runs, which has made the database."""

    def __init__(self, data_dir: Path, *, vfs: str | None = None) -> None:
        """Raises `StoreBroken` when there is no database to read."""
        self._db = open_reader(data_dir / folder.DATABASE, vfs=vfs)
        self._run = self._db.execute

    async def rows(self, sql: str, params: Params = ()) -> list[Row]:
        """The rows of one SELECT with `?` placeholders; raises `StoreBroken`. Slices its own size by LIMIT."""
        return self.rows_now(sql, params)

    def rows_now(self, sql: str, params: Params = ()) -> list[Row]:
        """The same for callers without a loop: the command line and checks."""
        try:
            return self._run(sql, params).fetchall()
        except apsw.Error as error:
            raise translated(error) from error

    async def message(self, ident: int) -> StoredMessage | None:
        """A message by its id; None when it is finished or never was."""
        rows = self.rows_now(
            "SELECT header, body, body_file, size, received_us, sender, eightbit, smtputf8 FROM messages WHERE id = ?",
            (ident,),
        )
        if not rows:
            return None
        header, body, body_file, size, received_us, sender, eightbit, smtputf8 = rows[0]
        return StoredMessage(header, body, body_file, size, received_us, sender, eightbit == 1, smtputf8 == 1)

    async def changed_by_hand(self, deliveries: Sequence[int]) -> list[tuple[int, bool, str]]:
        """Of these deliveries those that somebody held, dropped or moved: id, whether it must wait, and next hop."""
        marks = ", ".join("?" * len(deliveries))
        rows = self.rows_now(
            f"SELECT id, state, next_hop FROM deliveries WHERE id IN ({marks}) AND (state >= {HELD} OR next_hop <> '')",
            deliveries,
        )
        return [(ident, state >= HELD, next_hop) for ident, state, next_hop in rows]

    def close(self) -> None:
        """Ends the connection."""
        self._db.close()
