"""IMAP commands about mailboxes: SELECT, CREATE, DELETE, RENAME, subscriptions, LIST, LSUB and STATUS."""

from __future__ import annotations

from typing import Final

from postroad.serve.imap_mailbox import SelectedMailbox
from postroad.serve.imap_session import ImapSession
from postroad.store.mailbox_records import (
    BAD_NAME,
    DONE,
    EXISTS,
    NO_MAILBOX,
    NOT_INBOX,
    TOO_MANY,
    MailboxCreate,
    MailboxDelete,
    MailboxDone,
    MailboxRename,
    MailboxSubscribe,
    Status,
)
from postroad.store.mailbox_tree import mailbox_create, mailbox_delete, mailbox_rename, mailbox_subscribe
from postroad.wire.imap import commands as on
from postroad.wire.imap.mailboxes import Listed, encode_name, list_names
from postroad.wire.imap.responses import astring

# Codes of RFC 5530 section 3.
REFUSALS: Final = {
    NO_MAILBOX: ("there is no such mailbox", "NONEXISTENT"),
    EXISTS: ("there is a mailbox of that name", "ALREADYEXISTS"),
    BAD_NAME: ("no mailbox can have that name", "CANNOT"),
    NOT_INBOX: ("INBOX cannot be removed", "CANNOT"),
    TOO_MANY: ("there are too many mailboxes", "LIMIT"),
}

NOT_OFFERED: Final = "CONDSTORE is not offered"


# -- SELECT and CLOSE ------------------------------------------------------------------------------------------------


async def select(session: ImapSession, command: on.Select) -> None:
    """SELECT and EXAMINE."""
    # RFC 3501 section 6.3.1: the mailbox selected before is deselected even when the new one cannot be.
    session.forget_mailbox()
    if command.condstore or command.qresync is not None:
        session.machine.bad(NOT_OFFERED)
        return
    service = session.service
    selected = await SelectedMailbox.select(
        service.mailboxes, service.store, session.account, command.mailbox, read_only=command.read_only
    )
    if selected is None:
        session.machine.no(*REFUSALS[NO_MAILBOX])
        return
    session.keep_mailbox(selected)
    _describe(session, selected)
    session.machine.selected(read_only=command.read_only)


def _describe(session: ImapSession, selected: SelectedMailbox) -> None:
    machine, view, status = session.machine, selected.view, selected.status
    session.tell_keywords()
    machine.untagged(b"%d EXISTS" % len(view))
    machine.untagged(b"%d RECENT" % view.recent)
    unseen = view.first_unseen()
    if unseen:
        machine.status("OK", "first unseen", f"UNSEEN {unseen}")
    machine.status("OK", "UIDs are valid", f"UIDVALIDITY {status.uidvalidity}")
    machine.status("OK", "next UID", f"UIDNEXT {status.uidnext}")


async def close(session: ImapSession, command: on.Close) -> None:
    """CLOSE removes what is marked \\Deleted without a word (RFC 3501 section 6.4.2), UNSELECT nothing (RFC 3691)."""
    if command.expunge and not session.mailbox.read_only:
        await session.mailbox.expunge()
    session.forget_mailbox()
    session.machine.ok()


# -- the tree --------------------------------------------------------------------------------------------------------


async def create(session: ImapSession, command: on.Create) -> None:
    """CREATE."""
    args = MailboxCreate(session.account, command.mailbox)
    await _answer(session, await session.service.store.call(mailbox_create, args))


async def delete(session: ImapSession, command: on.Delete) -> None:
    """DELETE; of the mailbox selected here it also deselects it."""
    done = await session.service.store.call(mailbox_delete, MailboxDelete(session.account, command.mailbox))
    if done.word == DONE and session.selected is not None and session.selected.id == done.mailbox:
        session.forget_mailbox()
    await _answer(session, done)


async def rename(session: ImapSession, command: on.Rename) -> None:
    """RENAME."""
    args = MailboxRename(session.account, command.mailbox, command.new_name)
    await _answer(session, await session.service.store.call(mailbox_rename, args))


async def subscribe(session: ImapSession, command: on.Subscribe) -> None:
    """SUBSCRIBE."""
    await _subscribe(session, command.mailbox, subscribed=True)


async def unsubscribe(session: ImapSession, command: on.Unsubscribe) -> None:
    """UNSUBSCRIBE."""
    await _subscribe(session, command.mailbox, subscribed=False)


async def _subscribe(session: ImapSession, name: str, *, subscribed: bool) -> None:
    args = MailboxSubscribe(session.account, name, subscribed)
    await _answer(session, await session.service.store.call(mailbox_subscribe, args))


async def _answer(session: ImapSession, done: MailboxDone) -> None:
    await session.finish()
    if done.word == DONE:
        session.machine.ok()
    else:
        session.machine.no(*REFUSALS[done.word])


# -- lists -----------------------------------------------------------------------------------------------------------


async def list_mailboxes(session: ImapSession, command: on.List) -> None:
    """LIST with the attributes of RFC 3348 (children) and RFC 6154 (special use)."""
    if command.subscribed:
        await _list_subscribed(session, command)
        return
    mailboxes = await session.service.mailboxes.mailboxes(session.account)
    special = {mailbox.name: mailbox.special_use for mailbox in mailboxes}
    for listed in list_names(special, command.reference, command.pattern):
        attributes = ["\\HasChildren" if listed.has_children else "\\HasNoChildren"]
        if not listed.exists:
            attributes.insert(0, "\\Noselect")
        elif special[listed.name]:
            attributes.append(special[listed.name])
        await _show(session, b"LIST", listed, " ".join(attributes))
    await session.finish()
    session.machine.ok()


async def _list_subscribed(session: ImapSession, command: on.List) -> None:
    names = await session.service.mailboxes.subscriptions(session.account)
    for listed in list_names(names, command.reference, command.pattern):
        if listed.exists:
            await _show(session, b"LSUB", listed, "")
        elif "%" in command.pattern:
            # RFC 3501 section 6.3.9: a level above a subscribed name is shown only where "%" stopped short of it.
            await _show(session, b"LSUB", listed, "\\Noselect")
    await session.finish()
    session.machine.ok()


async def _show(session: ImapSession, word: bytes, listed: Listed, attributes: str) -> None:
    name = astring(encode_name(listed.name))
    await session.send(b'* %b (%b) "/" %b\r\n' % (word, attributes.encode(), name))
    await session.breathe()


async def status(session: ImapSession, command: on.Status) -> None:
    """STATUS."""
    found = await session.service.mailboxes.status(session.account, command.mailbox)
    if found is None:
        await session.finish()
        session.machine.no(*REFUSALS[NO_MAILBOX])
        return
    deleted = 0
    if "DELETED" in command.items:
        deleted = len(await session.service.mailboxes.deleted(found.id))
    values = " ".join(f"{item} {_value(found, item, deleted)}" for item in command.items)
    session.machine.untagged(b"STATUS %b (%b)" % (astring(encode_name(command.mailbox)), values.encode()))
    await session.finish()
    session.machine.ok()


def _value(found: Status, item: str, deleted: int) -> int:
    return {
        "MESSAGES": found.messages,
        "RECENT": found.recent,
        "UIDNEXT": found.uidnext,
        "UIDVALIDITY": found.uidvalidity,
        "UNSEEN": found.unseen,
        "SIZE": found.size,
        "DELETED": deleted,
        "HIGHESTMODSEQ": found.modseq,
    }[item]
