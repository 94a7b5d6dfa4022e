"""`postroad verify`: proves every rule of docs/internals/states.md on a data folder, and changes nothing.

It reads one snapshot, so it may run beside a live server. What it returns are findings, each with the rule it breaks;
an empty list is the proof. Takes about a second per 100,000 messages and as long as SQLite's own check of the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import apsw
import msgspec

from postroad.store import folder
from postroad.store.dayfiles import day_files
from postroad.store.dkim_records import STATES
from postroad.store.engine import Params, Row
from postroad.store.sqlite import open_reader
from postroad.store.units import HOLDERS, load_units
from postroad.trust.dkim.keys import KeyUnusable, load_key
from postroad.values.event import unpack
from postroad.values.ids import id_text

FINDINGS_MAX: Final = 1000
"""Findings returned; a store with more than that is not read one by one."""

_SPOOL_NAME: Final = re.compile(r"(\d+)-(\d+)")


class Finding(NamedTuple):
    """One broken rule: its stable word, what it is about, and the fact in plain words."""

    rule: str
    subject: str
    words: str


def verify(data_dir: Path) -> list[Finding]:
    """Everything wrong with a data folder, at most `FINDINGS_MAX`; raises `StoreBroken` when it cannot be opened."""
    load_units()
    db = open_reader(data_dir / folder.DATABASE)
    try:
        return Examination(data_dir, db).findings()
    finally:
        db.close()


class Examination:
    """The rules, each a method that yields what breaks it."""

    def __init__(self, data_dir: Path, db: apsw.Connection) -> None:
        self._data_dir = data_dir
        self._db = db

    def findings(self) -> list[Finding]:
        """Runs all rules on one snapshot. The file itself comes first: in a damaged one the rest means little."""
        found: list[Finding] = []
        self._db.execute("BEGIN")
        try:
            for rule in self._rules():
                for finding in rule():
                    found.append(finding)
                    if len(found) == FINDINGS_MAX:
                        return found
        except apsw.Error as error:
            found.append(Finding("database", folder.DATABASE, f"cannot be read to its end: {error}"))
        finally:
            self._db.execute("ROLLBACK")
        return found

    def _rules(self) -> list[Callable[[], Iterator[Finding]]]:
        return [
            self.database,
            self.references,
            self.reasons,
            self.bodies,
            self.strangers,
            self.numbers,
            self.accounts,
            self.mailboxes,
            self.dkim_keys,
            self.histories,
            self.stories,
        ]

    def _rows(self, sql: str, params: Params = ()) -> Iterator[Row]:
        yield from self._db.execute(sql, params)

    # -- the file ----------------------------------------------------------------------------------------------------

    def database(self) -> Iterator[Finding]:
        """The database file is sound."""
        for (words,) in self._rows("PRAGMA integrity_check(100)"):
            if words != "ok":
                yield Finding("database", folder.DATABASE, str(words))

    def references(self) -> Iterator[Finding]:
        """A delivery or a mailbox message has its message, a mailbox its account, and so on."""
        for table, row, parent, _ in self._rows("PRAGMA foreign_key_check"):
            yield Finding("reference", f"{table} row {row}", f"refers to a row of {parent} that does not exist")

    # -- messages ----------------------------------------------------------------------------------------------------

    def reasons(self) -> Iterator[Finding]:
        """A message has a reason to be kept (S3 or S3m): an open delivery or a place in a mailbox."""
        held = " AND ".join(
            f"NOT EXISTS (SELECT 1 FROM {table} WHERE {table}.{column} = messages.id)"
            for table, column in sorted(HOLDERS.items())
        )
        for (ident,) in self._rows(f"SELECT id FROM messages WHERE {held}"):
            yield Finding("reason", id_text(ident), "the message has neither an open delivery nor a place in a mailbox")

    def bodies(self) -> Iterator[Finding]:
        """A message has its body in exactly one place, of the size that was accepted."""
        for ident, size, header, inline, body_file in self._rows(
            "SELECT id, size, length(header), length(body), body_file FROM messages"
        ):
            words = self._wrong_body(size - header, inline, body_file)
            # While we look a message may end, and its file with it.
            if words and (not body_file or self._still_there(ident)):
                yield Finding("body", id_text(ident), words)

    def _wrong_body(self, expected: int, inline: int | None, body_file: str) -> str:
        if body_file and inline is not None:
            return "the body is in the database and in a file"
        if not body_file:
            if inline is None:
                return "the body is nowhere"
            return "" if inline == expected else f"the body has {inline} octets, accepted were {expected}"
        try:
            length = os.stat(self._data_dir / folder.SPOOL / body_file).st_size
        except FileNotFoundError:
            return f"the body file {body_file} does not exist"
        return "" if length == expected else f"the body file has {length} octets, accepted were {expected}"

    def _still_there(self, ident: int) -> bool:
        now = open_reader(self._data_dir / folder.DATABASE)
        try:
            return bool(now.execute("SELECT 1 FROM messages WHERE id = ?", (ident,)).fetchall())
        finally:
            now.close()

    def strangers(self) -> Iterator[Finding]:
        """The spool holds only drafts and bodies: named INC-N, of an incarnation that was given out."""
        [(highest,)] = self._rows("SELECT value FROM counters WHERE name = 'incarnation'")
        bodies = self._data_dir / folder.BODIES
        places = [self._data_dir / folder.DRAFTS, *sorted(path for path in bodies.iterdir() if path.is_dir())]
        for place in places:
            for name in sorted(os.listdir(place)):
                named = _SPOOL_NAME.fullmatch(name)
                subject = str((place / name).relative_to(self._data_dir))
                if named is None:
                    yield Finding("stranger", subject, "is no draft and no body")
                elif int(named[1]) > highest and not self._given_out(int(named[1])):
                    yield Finding("stranger", subject, f"names incarnation {named[1]}, which was never given out")

    def _given_out(self, incarnation: int) -> bool:
        """Asked outside the snapshot: a worker may have registered since."""
        now = open_reader(self._data_dir / folder.DATABASE)
        try:
            rows = now.execute("SELECT value FROM counters WHERE name = 'incarnation' AND value >= ?", (incarnation,))
            return bool(rows.fetchall())
        finally:
            now.close()

    # -- numbers -----------------------------------------------------------------------------------------------------

    def numbers(self) -> Iterator[Finding]:
        """No row names an incarnation that was never given out."""
        [(highest,)] = self._rows("SELECT value FROM counters WHERE name = 'incarnation'")
        for ident, owner in self._rows("SELECT id, owner FROM deliveries WHERE owner > ? OR owner < 0", (highest,)):
            yield Finding("number", id_text(ident), f"the delivery's owner {owner} was never given out")
        for (writer,) in self._rows("SELECT id FROM writers WHERE id > ?", (highest,)):
            yield Finding("number", f"writer {writer}", f"is above the last number given out, {highest}")

    def accounts(self) -> Iterator[Finding]:
        """An account's use is the sum of what stands in its mailboxes."""
        for address, used, messages, octets, count in self._rows(
            "SELECT a.address, a.used_bytes, a.messages, coalesce(sum(m.size), 0), count(m.uid) FROM accounts a"
            " LEFT JOIN mailboxes b ON b.account = a.id LEFT JOIN mailbox_messages m ON m.mailbox = b.id"
            " WHERE a.state <> 2 GROUP BY a.id"
        ):
            if (used, messages) != (octets, count):
                words = f"counts {messages} messages of {used} octets; there are {count} of {octets}"
                yield Finding("account", address, words)

    def mailboxes(self) -> Iterator[Finding]:
        """No uid and no modseq of a mailbox is above what the mailbox has given out."""
        for mailbox, name, uid, uidnext, modseq, last in self._rows(
            "SELECT b.id, b.name, max(m.uid), b.uidnext, max(m.modseq), b.modseq FROM mailboxes b"
            " JOIN mailbox_messages m ON m.mailbox = b.id GROUP BY b.id"
        ):
            if uid >= uidnext:
                yield Finding("mailbox", f"{name} ({mailbox})", f"holds uid {uid}, its next is {uidnext}")
            if modseq > last:
                yield Finding("mailbox", f"{name} ({mailbox})", f"holds modseq {modseq}, its last is {last}")

    def dkim_keys(self) -> Iterator[Finding]:
        """A domain's key is a private key of its algorithm, in a known state; nothing of it is shown."""
        for domain, selector, algorithm, state, private in self._rows(
            "SELECT d.name, k.selector, k.algorithm, k.state, k.private FROM dkim_keys k"
            " JOIN domains d ON d.id = k.domain"
        ):
            subject = f"{selector}._domainkey.{domain}"
            if state not in STATES:
                yield Finding("dkim key", subject, f"is in state {state}, which does not exist")
            try:
                load_key(algorithm, private)
            except KeyUnusable as error:
                yield Finding("dkim key", subject, f"cannot sign: {error}")

    # -- the journal -------------------------------------------------------------------------------------------------

    def histories(self) -> Iterator[Finding]:
        """Every message that is kept can be found by `why`."""
        missing = [
            ident
            for (ident,) in self._rows(
                "SELECT id FROM messages WHERE NOT EXISTS (SELECT 1 FROM history WHERE history.id = messages.id)"
            )
        ]
        for _, path in reversed(day_files(self._data_dir)):
            if not missing:
                return
            day = open_reader(path)
            missing = [
                ident for ident in missing if not day.execute("SELECT 1 FROM history WHERE id = ?", (ident,)).fetchall()
            ]
            day.close()
        for ident in missing:
            yield Finding("history", id_text(ident), "the message is kept, but nothing says where it came from")

    def stories(self) -> Iterator[Finding]:
        """Every row of the live journal can be read."""
        for position, message, events in self._rows("SELECT position, message, events FROM journal"):
            try:
                unpack(events)
            except msgspec.DecodeError as error:
                yield Finding("journal", id_text(message), f"row {position} cannot be read: {error}")
