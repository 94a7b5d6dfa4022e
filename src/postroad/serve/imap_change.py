"""STORE, EXPUNGE, COPY and MOVE.

What happens to messages that another session expunged meanwhile (RFC 2180): STORE changes the others and ends in NO
(section 4.2.3) unless it was .SILENT; COPY and MOVE by sequence numbers do nothing and end in NO (section 4.4.1). The
UID forms pass over them, as over every UID that does not exist.
"""

from __future__ import annotations

from typing import Final

from postroad.serve.imap_fetch import GONE_TEXT
from postroad.serve.imap_flags import read_flags
from postroad.serve.imap_folders import NOT_OFFERED
from postroad.serve.imap_mailbox import MailboxGone, Moved
from postroad.serve.imap_session import ImapSession
from postroad.store.mailbox_records import (
    ADD,
    DELETED,
    DONE,
    INTERRUPTED,
    NO_MAILBOX,
    OVER_QUOTA,
    REMOVE,
    REPLACE,
    TOO_MANY_KEYWORDS,
)
from postroad.wire.imap import commands as on
from postroad.wire.imap.sets import format_numbers

MODES: Final = {"": REPLACE, "+": ADD, "-": REMOVE}

READ_ONLY: Final = ("the mailbox was opened read-only", "NOPERM")
# Codes of RFC 3501 section 7.1 and RFC 5530 section 3.
REFUSALS: Final = {
    NO_MAILBOX: ("there is no such mailbox", "TRYCREATE"),
    OVER_QUOTA: ("the account has no room for that", "OVERQUOTA"),
    INTERRUPTED: ("the copy was interrupted, nothing was copied", "UNAVAILABLE"),
    TOO_MANY_KEYWORDS: ("the mailbox has too many keywords, or one is too long", "LIMIT"),
}


async def store(session: ImapSession, command: on.Store) -> None:
    """STORE and UID STORE."""
    selected, machine = session.mailbox, session.machine
    if command.unchanged_since is not None:
        machine.bad(NOT_OFFERED)
        return
    if selected.read_only:
        machine.no(*READ_ONLY)
        return
    places = await session.places(command.numbers, uid=command.uid)
    flags, keywords = read_flags(command.flags, selected.keywords)
    result = await selected.store_flags(places, MODES[command.mode], flags, keywords)
    if result.word == NO_MAILBOX:
        raise MailboxGone(selected.name)
    if not set(keywords.split()) <= set(selected.keywords.split()):
        selected.dirty = True
    for place in result.told if command.silent else result.places:
        await session.send(b"* " + session.flags_response(place, uid=command.uid) + b"\r\n")
        await session.breathe()
    await session.finish(expunges=command.uid, uid=command.uid)
    if result.word != DONE:
        machine.no(*REFUSALS[result.word])
    elif result.missing and not command.uid and not command.silent:
        machine.no(GONE_TEXT, "EXPUNGEISSUED")
    else:
        machine.ok()


async def expunge(session: ImapSession, command: on.Expunge) -> None:
    """EXPUNGE and UID EXPUNGE."""
    selected = session.mailbox
    if selected.read_only:
        session.machine.no(*READ_ONLY)
        return
    if command.uids is None:
        await selected.expunge()
    else:
        await selected.catch_up()
        view = selected.view
        places = await session.places(command.uids, uid=True)
        await selected.expunge([view.uids[place] for place in places if view.flags[place] & DELETED])
    await session.finish(uid=command.uids is not None)
    session.machine.ok()


async def copy(session: ImapSession, command: on.Copy) -> None:
    """COPY and MOVE with their UID forms; COPYUID tells the pairs of UIDs (RFC 4315 section 3)."""
    selected, machine = session.mailbox, session.machine
    if command.move and selected.read_only:
        machine.no(*READ_ONLY)
        return
    places = await session.places(command.numbers, uid=command.uid)
    there = [place for place in places if not selected.view.is_gone(place)]
    if len(there) < len(places) and not command.uid:
        await session.finish()
        machine.no(GONE_TEXT, "EXPUNGEISSUED")
        return
    moved = await (selected.move if command.move else selected.copy)(there, command.mailbox)
    if command.move and moved.target_uids:
        # RFC 6851 section 4.3: COPYUID in an untagged OK, before the EXPUNGE responses.
        machine.status("OK", "moved", copyuid(moved))
    # The copies may stand in this very mailbox.
    await session.finish(look=True, uid=command.uid)
    if moved.word != DONE:
        machine.no(*REFUSALS[moved.word])
    else:
        machine.ok(code=copyuid(moved) if moved.target_uids and not command.move else "")


def copyuid(moved: Moved) -> str:
    """The COPYUID code."""
    pairs = format_numbers(moved.source_uids) + b" " + format_numbers(moved.target_uids)
    return f"COPYUID {moved.uidvalidity} {pairs.decode('ascii')}"
