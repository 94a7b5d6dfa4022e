"""SEARCH: each message is judged with as little of it read as decides.

A test that needs more than is loaded raises `Unread`; the message then waits for the next, dearer stage: its numbers,
its header, its body. So a search for unread mail asks nobody, and one for a subject reads headers only of messages
that the cheaper keys leave over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from postroad.serve.imap_fetch import BODIES_AT_ONCE, HEADERS_AT_ONCE, NUMBERS_AT_ONCE
from postroad.serve.imap_flags import searched_flags
from postroad.serve.imap_session import ImapSession
from postroad.serve.imap_view import MailboxView
from postroad.serve.logs import log_line
from postroad.serve.message_content import BodyUnreadable, MessageContent
from postroad.store.mailbox_records import Described, Located
from postroad.wire.imap import commands as on
from postroad.wire.imap.matching import Matcher, MessageText
from postroad.wire.mime.tree import Tree

MESSAGES_AT_ONCE: Final = 1000
"""Messages judged before their dearer stages are read."""

DAY_US: Final = 86_400_000_000

SEARCHED_BODY_MAX: Final = 16 * 1024 * 1024
"""Octets of one body that are searched, as in `wire.imap.matching`; text beyond is attachments."""


class Unread(Exception):
    """A test asked for what is not loaded yet."""


class Candidate:
    """One message as `Matcher` sees it (`wire.imap.matching.MessageView`)."""

    __slots__ = ("_described", "_place", "_text", "_view")

    def __init__(self, view: MailboxView, place: int) -> None:
        self._view = view
        self._place = place
        self._described: Described | None = None
        self._text: MessageText | None = None

    @property
    def sequence(self) -> int:
        """Its sequence number."""
        return self._place + 1

    @property
    def uid(self) -> int:
        """Its UID."""
        return self._view.uids[self._place]

    @property
    def flags(self) -> frozenset[bytes]:
        """Flags and keywords in lower case."""
        return searched_flags(self._view.flags[self._place], self._view.keywords_at(self._place))

    @property
    def modseq(self) -> int:
        """Its modification sequence."""
        return self._view.modseqs[self._place]

    @property
    def day(self) -> int:
        """INTERNALDATE in days; raises `Unread`."""
        return self._known().internal_us // DAY_US

    @property
    def size(self) -> int:
        """RFC822.SIZE; raises `Unread`."""
        return self._known().size

    @property
    def text(self) -> MessageText:
        """Its content; raises `Unread`."""
        if self._text is None:
            raise Unread
        return self._text

    def _known(self) -> Described:
        if self._described is None:
            raise Unread
        return self._described

    def describe(self, described: Described) -> None:
        """Takes size and date."""
        self._described = described

    def take_header(self, located: Located) -> None:
        """Takes the header; the body stays unread."""
        self._text = MessageText(located.prefix + located.header, _unread)

    def take_body(self, head: bytes, tree: Tree, body: bytes) -> None:
        """Takes everything."""
        self._text = MessageText(head, lambda: (tree, body))


def _unread() -> tuple[Tree, bytes]:
    raise Unread


async def search(session: ImapSession, command: on.Search) -> None:
    """SEARCH and UID SEARCH."""
    await session.look()
    view = session.mailbox.view
    matcher = Matcher(command.keys, largest_sequence=len(view), largest_uid=view.last_uid)
    found: list[int] = []
    for start in range(0, len(view), MESSAGES_AT_ONCE):
        places = range(start, min(start + MESSAGES_AT_ONCE, len(view)))
        found += sorted(await _judge(session, matcher, [place for place in places if not view.is_gone(place)]))
    await session.send(b"* SEARCH")
    for start in range(0, len(found), MESSAGES_AT_ONCE):
        shown = found[start : start + MESSAGES_AT_ONCE]
        numbers = (view.uids[place] if command.uid else place + 1 for place in shown)
        await session.send(b" " + b" ".join([b"%d" % number for number in numbers]))
        await session.breathe()
    await session.send(b"\r\n")
    # RFC 3501 section 7.4.1 allows EXPUNGE during UID SEARCH; numbers in the answer are UIDs then.
    await session.finish(expunges=command.uid, uid=command.uid)
    session.machine.ok()


async def _judge(session: ImapSession, matcher: Matcher, places: Sequence[int]) -> list[int]:
    """The places that match, in any order."""
    view = session.mailbox.view
    found: list[int] = []
    waiting: list[int] = []
    for count, place in enumerate(places):
        _sort_out(matcher, Candidate(view, place), place, found, waiting)
        if not count % 50:
            await session.breathe()
    left: list[int] = []
    for start in range(0, len(waiting), NUMBERS_AT_ONCE):
        left += await _judge_described(session, matcher, waiting[start : start + NUMBERS_AT_ONCE], found)
    waiting, left = left, []
    for start in range(0, len(waiting), HEADERS_AT_ONCE):
        left += await _judge_headers(session, matcher, waiting[start : start + HEADERS_AT_ONCE], found)
    for start in range(0, len(left), BODIES_AT_ONCE):
        await _judge_bodies(session, matcher, left[start : start + BODIES_AT_ONCE], found)
    return found


def _sort_out(matcher: Matcher, candidate: Candidate, place: int, found: list[int], waiting: list[int]) -> None:
    try:
        if matcher.matches(candidate):
            found.append(place)
    except Unread:
        waiting.append(place)


async def _candidates(session: ImapSession, places: Sequence[int]) -> dict[int, tuple[int, Candidate]]:
    """By UID: place and candidate with its numbers; expunged messages are missing."""
    selected = session.mailbox
    by_uid = {selected.view.uids[place]: place for place in places}
    made: dict[int, tuple[int, Candidate]] = {}
    for described in await session.service.mailboxes.describe(selected.id, list(by_uid)):
        candidate = Candidate(selected.view, by_uid[described.uid])
        candidate.describe(described)
        made[described.uid] = (by_uid[described.uid], candidate)
    return made


async def _judge_described(
    session: ImapSession, matcher: Matcher, places: Sequence[int], found: list[int]
) -> list[int]:
    """Judges by size and date; returns the places that need more."""
    waiting: list[int] = []
    for place, candidate in (await _candidates(session, places)).values():
        _sort_out(matcher, candidate, place, found, waiting)
        await session.breathe()
    return waiting


async def _judge_headers(session: ImapSession, matcher: Matcher, places: Sequence[int], found: list[int]) -> list[int]:
    """Judges by the header too; returns the places that need more."""
    waiting: list[int] = []
    candidates = await _candidates(session, places)
    for located in await session.service.mailboxes.locate(session.mailbox.id, list(candidates), body=False):
        place, candidate = candidates[located.uid]
        candidate.take_header(located)
        _sort_out(matcher, candidate, place, found, waiting)
        await session.breathe()
    return waiting


async def _judge_bodies(session: ImapSession, matcher: Matcher, places: Sequence[int], found: list[int]) -> None:
    """Judges by everything there is."""
    candidates = await _candidates(session, places)
    for located in await session.service.mailboxes.locate(session.mailbox.id, list(candidates)):
        place, candidate = candidates[located.uid]
        try:
            with MessageContent(located, session.service.bodies) as content:
                tree = await session.service.trees.of(content)
                candidate.take_body(content.head, tree, await content.body(0, SEARCHED_BODY_MAX))
        except BodyUnreadable as error:
            # It cannot be said to match; FETCH of it will tell the client what is wrong.
            log_line("error", f"IMAP: {error}")
            continue
        if matcher.matches(candidate):
            found.append(place)
        await session.breathe()
