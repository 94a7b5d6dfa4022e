"""The journal's reading side: which messages are meant by a word, and what happened to one of them.

Looks through the live tables, the day files and the refusals. Blocks for as long as that takes (milliseconds, seconds
on a busy machine with months of journal): for the command line and for threads, never for a worker's loop.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, NamedTuple

import apsw
import msgspec

from postroad.store import folder
from postroad.store.dayfiles import day_files, day_of
from postroad.store.engine import Params, Row
from postroad.store.refusals import MINUTE_US
from postroad.store.sqlite import open_reader, translated
from postroad.values.event import Event, unpack
from postroad.values.ids import made_at_us, parse_id

log = logging.getLogger(__name__)

FOUND_MAX: Final = 100
"""Messages returned for one word, the newest."""
CLOCK_SLACK_US: Final = 600_000_000
"""How far the wall clock may have been set back without a story losing events."""


class OpenDelivery(NamedTuple):
    """A delivery that still has to end."""

    id: int
    recipient: str
    attempts: int
    due_us: int
    last_reply: str
    state: int = 0
    """A state of `store.records.STATES`."""
    held: str = ""
    suspended_us: int = 0
    """Until when nothing goes to its destination; 0 when mail goes there."""
    suspended: str = ""
    """Why."""


class Story(NamedTuple):
    """All that is known of a message or of a refusal."""

    id: int
    keys: list[str]
    events: list[Event]
    open: list[OpenDelivery]
    refused: bool
    """It was turned away: `events` tell why, and there never was a message."""


class Stories:
    """Reads the stories of one data folder; every call opens what it needs and closes it again."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def find(self, what: str) -> list[int]:
        """Ids of the messages and refusals that a queue id, reference, address or Message-ID names, newest first.

        A refusal is also found by the IP address of its source. The reference of one that was only counted
        (`refusals.PER_SOURCE`) finds the rows that stand for the refusals of its minute.
        """
        what = what.strip()
        ident = parse_id(what)
        if ident is not None and self.story(ident) is not None:
            return [ident]
        key = what.strip("<>").lower()
        if not key:
            return []
        found = {*self._live_ids(key), *self._moved_ids(key), *self._refused_ids(key)}
        if not found and ident is not None:
            found.update(self._counted_with(ident))
        return sorted(found, reverse=True)[:FOUND_MAX]

    def story(self, ident: int) -> Story | None:
        """The whole story of one id in order of time; None when nothing is known of it."""
        packed = self._live_journal(ident)
        keys: list[str] = []
        opened: list[OpenDelivery] = []
        with _Reading(self._data_dir / folder.DATABASE) as live:
            for (lines,) in live.rows("SELECT keys FROM history WHERE id = ?", (ident,)):
                keys = lines.split("\n")
            for row in live.rows(
                "SELECT d.id, d.recipient, d.attempts, d.due_us, d.last_reply, d.state, d.held,"
                " coalesce(max(s.until_us), 0), coalesce(max(s.cause), '')"
                # Mail need not wait for the end of a suspension where another source address may take it.
                " FROM deliveries d LEFT JOIN suspensions s ON s.domain = d.domain AND s.by_source = 0 AND s.lifted = 0"
                " WHERE d.message = ? GROUP BY d.id ORDER BY d.id",
                (ident,),
            ):
                opened.append(OpenDelivery(*row))
        first = day_of(max(made_at_us(ident) - CLOCK_SLACK_US, 0))
        for day, path in day_files(self._data_dir):
            if day >= first:
                with _Reading(path) as moved:
                    packed |= dict(moved.rows("SELECT position, events FROM journal WHERE message = ?", (ident,)))
                    for (lines,) in moved.rows("SELECT keys FROM history WHERE id = ?", (ident,)):
                        keys = lines.split("\n")
        events = [event for position in sorted(packed) for event in unpacked(packed[position], ident)]
        if events or opened or keys:
            return Story(ident, keys, sorted(events, key=lambda event: event.at_us), opened, refused=False)
        return self._refusal(ident)

    # -- the three places --------------------------------------------------------------------------------------------

    def _live_ids(self, key: str) -> list[int]:
        with _Reading(self._data_dir / folder.DATABASE) as live:
            rows = live.rows(
                "SELECT id, keys FROM history WHERE instr(keys, ?) > 0 ORDER BY id DESC LIMIT 10000", (key,)
            )
        return [ident for ident, keys in rows if key in keys.split("\n")][:FOUND_MAX]

    def _moved_ids(self, key: str) -> list[int]:
        found: list[int] = []
        for _, path in reversed(day_files(self._data_dir)):
            with _Reading(path) as moved:
                sql = "SELECT message FROM keys WHERE key = ? ORDER BY message DESC LIMIT ?"
                found += [ident for (ident,) in moved.rows(sql, (key, FOUND_MAX))]
            if len(found) >= FOUND_MAX:
                break
        return found

    def _refused_ids(self, key: str) -> list[int]:
        path = self._data_dir / folder.REFUSALS
        if not path.exists():
            return []
        with _Reading(path) as refusals:
            rows = refusals.rows(
                "SELECT reference, source, keys FROM refusals WHERE source = ? OR instr(keys, ?) > 0"
                " ORDER BY at_us DESC LIMIT 10000",
                (key, key),
            )
        return [ident for ident, source, keys in rows if key == source or key in keys.split("\n")][:FOUND_MAX]

    def _counted_with(self, ident: int) -> list[int]:
        """Rows among whose counted refusals this reference may be: nobody keeps each of a flood, but an id tells its
        time, and the row of a minute and source carries the last reference of that minute."""
        path = self._data_dir / folder.REFUSALS
        if not path.exists():
            return []
        minute = made_at_us(ident) // MINUTE_US * MINUTE_US
        with _Reading(path) as refusals:
            rows = refusals.rows(
                "SELECT reference FROM refusals WHERE at_us >= ? AND at_us < ? AND times > 1 AND reference > ? LIMIT ?",
                (minute, minute + MINUTE_US, ident, FOUND_MAX),
            )
        return [reference for (reference,) in rows]

    def _live_journal(self, ident: int) -> dict[int, bytes]:
        """Rows of one message that are still in the database, by position.

        There is no index by message. Positions rise with time, so halving finds where the message can begin, and only
        what was written since is read.
        """
        since_us = made_at_us(ident) - CLOCK_SLACK_US
        with _Reading(self._data_dir / folder.DATABASE) as live:
            [(low, high)] = live.rows("SELECT min(position), max(position) FROM journal")
            if low is None:
                return {}
            while low < high:
                middle = (low + high) // 2
                following = live.rows(
                    "SELECT position, at_us FROM journal WHERE position > ? ORDER BY position LIMIT 1", (middle,)
                )
                if not following or following[0][1] >= since_us:
                    high = middle
                else:
                    low = following[0][0]
            return dict(
                live.rows("SELECT position, events FROM journal WHERE position >= ? AND message = ?", (low, ident))
            )

    def _refusal(self, ident: int) -> Story | None:
        path = self._data_dir / folder.REFUSALS
        if not path.exists():
            return None
        with _Reading(path) as refusals:
            rows = refusals.rows("SELECT source, keys, events FROM refusals WHERE reference = ?", (ident,))
        for source, keys, events in rows:
            return Story(ident, [source, *keys.split("\n")], unpacked(events, ident), [], refused=True)
        return None


class _Reading:
    """One read-only connection for the length of a `with` block."""

    def __init__(self, path: Path) -> None:
        self._db = open_reader(path)

    def rows(self, sql: str, params: Params = ()) -> list[Row]:
        try:
            return self._db.execute(sql, params).fetchall()
        except apsw.Error as error:
            raise translated(error) from error

    def __enter__(self) -> _Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()


def unpacked(raw: bytes, ident: int) -> list[Event]:
    """The events of a row; a damaged row is logged and left out, so that the rest of the story can be told."""
    try:
        return unpack(raw)
    except msgspec.DecodeError as error:
        log.error("a journal row of message %d is damaged: %s", ident, error)
        return []
