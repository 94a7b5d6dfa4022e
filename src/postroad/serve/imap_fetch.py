"""FETCH: what is asked of each message, read in batches and sent in pieces.

A message that another session expunged is passed over, and FETCH by sequence numbers then ends in NO with
EXPUNGEISSUED (RFC 2180 section 4.1.3): no answer ever shows another message under its number.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from postroad.serve.imap_flags import flags_text
from postroad.serve.imap_folders import NOT_OFFERED
from postroad.serve.imap_session import ImapSession
from postroad.serve.imap_view import MailboxView
from postroad.serve.logs import log_line
from postroad.serve.message_content import PIECE, BodyUnreadable, MessageContent
from postroad.store.mailbox_records import ADD, SEEN, Described, Located
from postroad.wire.imap import commands as on
from postroad.wire.imap.fetch import Attribute, FetchItem, Kind, Section
from postroad.wire.imap.responses import Piece, Slice, fetch_response, internal_date, without_nul
from postroad.wire.imap.sections import section_pieces
from postroad.wire.imap.structure import body_structure, envelope_of
from postroad.wire.mime.tree import Part, Tree

NUMBERS_AT_ONCE: Final = 500
"""Messages described in one read: about 1 ms."""
LINES_AT_ONCE: Final = 50
"""Answers written before others may get their turn."""
HEADERS_AT_ONCE: Final = 50
BODIES_AT_ONCE: Final = 10
"""Messages read whole at once: at most 64 KiB of body each, larger ones are in files."""

TREES_KEPT: Final = 256
"""Trees of parts kept per worker: clients fetch the structure first and then part after part."""
TREE_PARTS_KEPT: Final = 50
"""Parts of the largest tree that is kept; with it the cache stays below 10 MB."""

_OF_DESCRIPTION: Final = frozenset((Attribute.INTERNALDATE, Attribute.SIZE))
_OF_TREE: Final = frozenset((Attribute.BODY, Attribute.BODYSTRUCTURE))

GONE_TEXT: Final = "some of these messages no longer exist"


class Trees:
    """The trees of parts read last, by message id: a message never changes, and all its copies share one tree."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: OrderedDict[int, Tree] = OrderedDict()

    async def of(self, content: MessageContent) -> Tree:
        """The tree of a message. Raises `BodyUnreadable`."""
        tree = self._kept.get(content.id)
        if tree is None:
            tree = await content.tree()
            if tree.parts <= TREE_PARTS_KEPT:
                self._kept[content.id] = tree
                if len(self._kept) > TREES_KEPT:
                    self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(content.id)
        return tree


class Wanted:
    """The items of one FETCH and what has to be read for them."""

    __slots__ = ("at_once", "body", "description", "header", "items", "sets_seen")

    def __init__(self, items: Sequence[FetchItem]) -> None:
        self.items = items
        sections = [item for item in items if isinstance(item, Section)]
        self.sets_seen = any(not section.peek for section in sections)
        self.description = not _OF_DESCRIPTION.isdisjoint(items)
        self.body = not _OF_TREE.isdisjoint(items) or any(not of_header(section) for section in sections)
        self.header = self.body or Attribute.ENVELOPE in items or bool(sections)
        self.at_once = BODIES_AT_ONCE if self.body else HEADERS_AT_ONCE if self.header else NUMBERS_AT_ONCE


def of_header(section: Section) -> bool:
    """Whether a section is cut from the message's own header alone."""
    return not section.path and section.kind in (Kind.HEADER, Kind.FIELDS, Kind.FIELDS_NOT)


async def fetch(session: ImapSession, command: on.Fetch) -> None:
    """FETCH and UID FETCH."""
    if command.changed_since is not None:
        session.machine.bad(NOT_OFFERED)
        return
    wanted = Wanted(command.items)
    places = await session.places(command.numbers, uid=command.uid)
    tally = Tally()
    for start in range(0, len(places), wanted.at_once):
        await _fetch_some(session, wanted, places[start : start + wanted.at_once], tally)
    await session.finish(expunges=command.uid, uid=command.uid)
    if tally.unreadable:
        session.machine.no("some of these messages cannot be read, the postmaster can tell why", "SERVERBUG")
    elif tally.there < len(places) and not command.uid:
        session.machine.no(GONE_TEXT, "EXPUNGEISSUED")
    else:
        session.machine.ok()


@dataclass(slots=True)
class Tally:
    """How a FETCH went."""

    there: int = 0
    unreadable: int = 0


async def _fetch_some(session: ImapSession, wanted: Wanted, places: Sequence[int], tally: Tally) -> None:
    """Answers for one batch of messages."""
    selected, mailboxes = session.mailbox, session.service.mailboxes
    view = selected.view
    uids = [view.uids[place] for place in places]
    described: dict[int, Described] = {}
    located: dict[int, Located] = {}
    if wanted.description:
        described = {found.uid: found for found in await mailboxes.describe(selected.id, uids)}
    if wanted.header:
        located = {found.uid: found for found in await mailboxes.locate(selected.id, uids, body=wanted.body)}
    there = [
        place
        for place, number in zip(places, uids, strict=True)
        if not view.is_gone(place)
        and (not wanted.description or number in described)
        and (not wanted.header or number in located)
    ]
    if not wanted.header:
        attributes = [item for item in wanted.items if isinstance(item, Attribute)]
        await _send_numbers(session, attributes, there, described)
        tally.there += len(there)
        return
    seen = set(await selected.set_seen(there, SEEN, ADD)) if wanted.sets_seen else set()
    for place in there:
        number = view.uids[place]
        one = OneMessage(session, place, described.get(number), located.get(number))
        items = wanted.items
        if place in seen and Attribute.FLAGS not in items:
            # RFC 3501 section 6.4.5: "if this causes the flags to change, they SHOULD be included"
            items = (*items, Attribute.FLAGS)
        unreadable = await one.send(items)
        if unreadable is None:
            tally.there += 1
        elif await mailboxes.describe(selected.id, [number]):
            log_line("error", f"IMAP: {unreadable}")
            tally.there += 1
            tally.unreadable += 1
        # else: another session removed it after we had found it, and its file with it.
        await session.breathe()


async def _send_numbers(
    session: ImapSession, items: Sequence[Attribute], places: Sequence[int], described: dict[int, Described]
) -> None:
    """Answers a FETCH of flags, UIDs, sizes and dates: what clients ask of a whole mailbox at once."""
    view = session.mailbox.view
    for start in range(0, len(places), LINES_AT_ONCE):
        lines = []
        for place in places[start : start + LINES_AT_ONCE]:
            known = described.get(view.uids[place])
            values = b" ".join([b"%b %b" % (item.value, number_value(view, place, known, item)) for item in items])
            lines.append(b"* %d FETCH (%b)\r\n" % (place + 1, values))
        await session.send(b"".join(lines))
        await session.breathe()


def number_value(view: MailboxView, place: int, described: Described | None, item: Attribute) -> bytes:
    """The value of an item that needs no header."""
    if item is Attribute.UID:
        return b"%d" % view.uids[place]
    if item is Attribute.FLAGS:
        return flags_text(view.flags[place], view.keywords_at(place))
    if item is Attribute.MODSEQ:
        return b"(%d)" % view.modseqs[place]
    assert described is not None
    return b"%d" % described.size if item is Attribute.SIZE else internal_date(described.internal_us)


class OneMessage:
    """One message while its items are sent; `_content` is open only inside `send`."""

    __slots__ = ("_content", "_described", "_located", "_place", "_session")

    def __init__(self, session: ImapSession, place: int, described: Described | None, located: Located | None) -> None:
        self._session = session
        self._place = place
        self._described = described
        self._located = located
        self._content: MessageContent | None = None

    async def send(self, items: Sequence[FetchItem]) -> Exception | None:
        """Sends one FETCH response; returns why, and nothing was sent, when the message cannot be read.

        A body that fails in the middle ends the connection: half a literal cannot be taken back, and clients keep
        what they get.
        """
        try:
            values = [await self._value(item) for item in items]
        except (BodyUnreadable, OSError) as error:
            self._close()
            return error
        try:
            for piece in fetch_response(self._place + 1, values):
                if isinstance(piece, Slice):
                    await self._send_slice(piece)
                else:
                    await self._session.send(piece)
        except BodyUnreadable as error:
            log_line("error", f"IMAP: {error}")
            raise ConnectionResetError("the body cannot be read") from None
        finally:
            self._close()
        return None

    def _close(self) -> None:
        if self._content is not None:
            self._content.close()
            self._content = None

    async def _send_slice(self, piece: Slice) -> None:
        content = self._opened()
        for start in range(piece.start, piece.end, PIECE):
            await self._session.send(without_nul(await content.body(start, min(start + PIECE, piece.end))))

    def _opened(self) -> MessageContent:
        if self._content is None:
            assert self._located is not None
            self._content = MessageContent(self._located, self._session.service.bodies)
        return self._content

    async def _value(self, item: FetchItem) -> tuple[bytes, bytes | list[Piece]]:
        if isinstance(item, Section):
            return item.label, await self._section(item)
        return item.value, await self._attribute(item)

    async def _attribute(self, item: Attribute) -> bytes:
        if item is Attribute.ENVELOPE:
            return envelope_of(self._head())
        if item in _OF_TREE:
            content = self._opened()
            tree = await self._session.service.trees.of(content)
            return body_structure(tree, content.sliceable(), extended=item is Attribute.BODYSTRUCTURE)
        return number_value(self._session.mailbox.view, self._place, self._described, item)

    def _head(self) -> bytes:
        assert self._located is not None
        return self._located.prefix + self._located.header

    async def _section(self, section: Section) -> bytes | list[Piece]:
        if of_header(section):
            tree, body = Tree(Part(0, 0, 0), 1, 0), b""
        else:
            content = self._opened()
            body = content.sliceable()
            tree = Tree(Part(0, 0, 0, content.body_size), 1, 0)
            if section.needs_tree:
                tree = await self._session.service.trees.of(content)
        pieces = section_pieces(section, self._head(), tree, body)
        return b"NIL" if pieces is None else pieces
