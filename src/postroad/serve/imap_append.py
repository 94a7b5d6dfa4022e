"""APPEND: a client's message, received into the spool and filed in one transaction.

Line ends are made CRLF on the way (RFC 3501 section 2.2 knows no others; row M38), and a NUL refuses the message.
"""

from __future__ import annotations

import re
from typing import Final

from postroad.serve.imap_change import REFUSALS
from postroad.serve.imap_flags import read_flags
from postroad.serve.imap_session import ImapSession
from postroad.store.mailbox import mailbox_append
from postroad.store.mailbox_records import DONE, NO_MAILBOX, OVER_QUOTA, Append, Appended
from postroad.store.spool import Draft
from postroad.values.errors import StoreBroken, StoreFull
from postroad.wire.imap import commands as on
from postroad.wire.mime.message_id import find_message_id

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")

NO_SPACE: Final = ("there is not enough space right now, please try again later", "UNAVAILABLE")


class LineEnds:
    """Makes every line end of a stream CRLF; a CR at the end of a chunk waits for the next."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = False

    def normalised(self, chunk: bytes) -> bytes:
        """The chunk with CRLF for every bare CR and bare LF."""
        if self._held:
            chunk = b"\r" + chunk
        self._held = chunk.endswith(b"\r")
        if self._held:
            chunk = chunk[:-1]
        pairs = chunk.count(b"\r\n")
        if chunk.count(b"\n") == pairs == chunk.count(b"\r"):
            return chunk
        return _LINE_END.sub(b"\r\n", chunk)

    def rest(self) -> bytes:
        """What was waiting at the end of the stream."""
        held, self._held = self._held, False
        return b"\r\n" if held else b""


class Incoming:
    """The message of one APPEND while it comes; after a failure its octets are swallowed."""

    __slots__ = ("_ends", "command", "draft", "why")

    def __init__(self, command: on.AppendStart, draft: Draft) -> None:
        self.command = command
        self.draft = draft
        self.why: tuple[str, str] | None = None
        """Text and code of the NO that it will end in."""
        self._ends = LineEnds()

    async def take(self, chunk: bytes) -> None:
        """Takes the next octets."""
        if self.why is not None:
            return
        if b"\0" in chunk:
            # RFC 3501 section 9: CHAR8 is "any OCTET except NUL"
            self.why = ("a message cannot hold NUL", "CANNOT")
            return
        await self._write(self._ends.normalised(chunk))

    async def _write(self, octets: bytes) -> None:
        draft = self.draft
        draft.write(octets)
        if draft.header_too_large:
            self.why = ("the header is larger than 256 kB", "LIMIT")
        elif draft.needs_flush:
            try:
                await draft.flush_to_disk()
            except (StoreFull, StoreBroken):
                self.why = NO_SPACE

    async def finish(self) -> None:
        """The message has come whole."""
        if self.why is None:
            await self._write(self._ends.rest())


async def append_start(session: ImapSession, command: on.AppendStart) -> None:
    """Before the message comes: is there a mailbox, and room."""
    service, machine = session.service, session.machine
    # An honest client asks before it sends 50 MB; the store decides again when the message is there.
    if await service.mailboxes.status(session.account, command.mailbox) is None:
        await session.finish()
        machine.no(*REFUSALS[NO_MAILBOX])
        return
    account = await service.directory.account_by_id(session.account)
    if account is None or not account.has_room(command.size):
        machine.no(*REFUSALS[OVER_QUOTA])
    elif command.size > service.message_size:
        # RFC 7889 section 4: TOOBIG
        machine.no(f"the largest message is {service.message_size} octets", "TOOBIG")
    elif not service.bodies.free_enough(command.size):
        machine.no(*NO_SPACE)
    else:
        session.incoming = Incoming(command, service.bodies.draft())
        machine.accept_append()


async def append_content(session: ImapSession, event: on.AppendContent) -> None:
    """A piece of the message."""
    assert session.incoming is not None
    await session.incoming.take(event.chunk)


async def append_failed(session: ImapSession, event: on.AppendFailed) -> None:
    """The command was wrong after all."""
    session.forget_incoming()


async def append_end(session: ImapSession, event: on.AppendEnd) -> None:
    """The message is here: file it."""
    # From here on the draft is ours: a connection that ends meanwhile must not take its file from under the message.
    incoming, session.incoming = session.incoming, None
    assert incoming is not None
    await incoming.finish()
    if incoming.why is not None:
        incoming.draft.discard()
        await session.finish()
        session.machine.no(*incoming.why)
        return
    with session.service.lifecycle.activity("commits"):
        appended = await _file(session, incoming)
    selected = session.selected
    await session.finish(look=selected is not None and selected.id == appended.mailbox)
    if appended.word == DONE:
        session.machine.ok(code=f"APPENDUID {appended.uidvalidity} {appended.uid}")
    else:
        session.machine.no(*REFUSALS[appended.word])


async def _file(session: ImapSession, incoming: Incoming) -> Appended:
    """Files the message; unless that is done nothing of it stays. Raises `StoreFull` or `StoreBroken`."""
    service, command, draft = session.service, incoming.command, incoming.draft
    try:
        header, body, body_file = await draft.settle()
        status = await service.mailboxes.status(session.account, command.mailbox)
    except BaseException:
        draft.discard()
        raise
    flags, keywords = read_flags(command.flags, status.keywords if status is not None else "")
    args = Append(
        id=service.ids.make(service.clock.wall_us()),
        account=session.account,
        mailbox=command.mailbox,
        header=header,
        body=body,
        body_file=body_file,
        size=draft.size,
        flags=flags,
        keywords=keywords,
        internal_us=command.moment_us or 0,
        message_id=find_message_id(header),
    )
    # From here on the message may be ours whatever is raised: a file of it is only removed when the store said no.
    try:
        appended: Appended = await service.store.call(mailbox_append, args)
    except StoreFull:
        draft.discard()
        raise
    if appended.word != DONE:
        draft.discard()
    return appended
