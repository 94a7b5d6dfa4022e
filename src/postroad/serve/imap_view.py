"""A selected mailbox as one IMAP client knows it: sequence numbers, UIDs and flags in flat arrays.

Invariant: the place of a message (its sequence number less one) changes only in `tell`, and only when the caller may
send EXPUNGE. Whatever the store says in between is noted beside the arrays, so that a number which the client uses
always means the message it has seen under that number (RFC 3501 section 7.4.1, RFC 2180 section 4).

A message costs 17 bytes: its UID, its modseq, its flags and the number of its keyword set, which most messages share.
Modseqs are kept although nobody can ask for them yet, because CONDSTORE answers from here.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from postroad.store.mailbox_records import SEEN, Entry

RECENT: Final = 0x80
"""Bit beside the stored flags: this session was the first to be told of the message."""

KEYWORD_SETS_MAX: Final = 10_000
"""Different sets of keywords that one view keeps; above it unused ones are forgotten."""


_SEEN_OR_NOT: Final = bytes(bits & SEEN for bits in range(256))


@dataclass(slots=True)
class News:
    """What a client has to be told, in the order of sending."""

    expunged: list[int] = field(default_factory=list)
    """Sequence numbers from the highest down, each valid after those before it were told."""
    exists: int = -1
    """The new number of messages, or -1 when the client knows it."""
    recent: int = -1
    changed: list[int] = field(default_factory=list)
    """Sequence numbers (as they are after all of the above) whose flags changed."""

    def __bool__(self) -> bool:
        return bool(self.expunged or self.changed or self.exists >= 0 or self.recent >= 0)


class MailboxView:
    """Everything a session keeps of its selected mailbox."""

    __slots__ = (
        "_changed",
        "_gone",
        "_keyword_numbers",
        "_keyword_sets",
        "_recent",
        "_recent_told",
        "_told",
        "flags",
        "keywords",
        "modseq",
        "modseqs",
        "uids",
    )

    def __init__(self) -> None:
        self.uids = array("I")
        self.modseqs = array("q")
        self.flags = array("B")
        self.keywords = array("I")
        """Per message the place of its keyword set."""
        self.modseq = 0
        """Everything up to this modseq of the mailbox is in the view."""
        self._keyword_sets: list[str] = [""]
        self._keyword_numbers: dict[str, int] = {"": 0}
        self._told = 0
        self._recent = 0
        self._recent_told = 0
        self._gone: set[int] = set()
        self._changed: set[int] = set()

    # -- what the client knows --------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Messages the client knows of: the highest sequence number it may use."""
        return self._told

    @property
    def last_uid(self) -> int:
        """UID of the last message the client knows, 0 in an empty mailbox: what `*` means in a set of UIDs."""
        return self.uids[self._told - 1] if self._told else 0

    @property
    def recent(self) -> int:
        """Number of messages with the recent flag."""
        return self._recent

    def place_of(self, uid: int) -> int:
        """Place of a UID among the messages that the client knows; -1 when there is none."""
        place = bisect_left(self.uids, uid, 0, self._told)
        return place if place < self._told and self.uids[place] == uid else -1

    def places_of_numbers(self, ranges: Iterable[tuple[int, int]]) -> list[int]:
        """Places of ranges of sequence numbers (both ends inclusive, sorted, apart from each other)."""
        places: list[int] = []
        for low, high in ranges:
            places.extend(range(low - 1, min(high, self._told)))
        return places

    def places_of_uids(self, ranges: Iterable[tuple[int, int]]) -> list[int]:
        """Places of ranges of UIDs; UIDs that do not exist are passed over (RFC 3501 section 6.4.8)."""
        places: list[int] = []
        for low, high in ranges:
            first = bisect_left(self.uids, low, 0, self._told)
            places.extend(range(first, bisect_right(self.uids, high, first, self._told)))
        return places

    def is_gone(self, place: int) -> bool:
        """Whether the message was expunged although the client has not been told."""
        return bool(self._gone) and self.uids[place] in self._gone

    def keywords_at(self, place: int) -> str:
        """Keywords of a message, joined by spaces."""
        return self._keyword_sets[self.keywords[place]]

    def first_unseen(self) -> int:
        """Sequence number of the first message without \\Seen, 0 when there is none."""
        return self.flags[: self._told].tobytes().translate(_SEEN_OR_NOT).find(0) + 1

    # -- what the store says ----------------------------------------------------------------------------------------

    def load(self, entries: Sequence[Entry], recent_from: int) -> None:
        """Adds messages in the order of their UIDs while the mailbox is being selected: the client is told at once."""
        self._append(entries, recent_from)
        self._told = len(self.uids)
        self._recent_told = self._recent

    def learn(self, entries: Iterable[Entry], gone: Iterable[int], modseq: int, recent_from: int) -> None:
        """Takes changes since `modseq`: changed and new messages in any order, UIDs that were expunged.

        Messages from the UID `recent_from` on are recent to this session (0: none are).
        """
        new: list[Entry] = []
        last = self.uids[-1] if self.uids else 0
        for row in entries:
            if row[0] > last:
                new.append(row)
            else:
                self._update(row)
        new.sort()
        self._append(new, recent_from)
        for uid in gone:
            place = bisect_left(self.uids, uid)
            if place < len(self.uids) and self.uids[place] == uid:
                self._gone.add(uid)
        self.modseq = max(self.modseq, modseq)

    def note_flags(self, place: int, modseq: int, flags: int, keywords: str) -> None:
        """Takes a change that this session made itself; the session says it to the client, not the next `tell`."""
        self.modseqs[place] = modseq
        self.flags[place] = flags | (self.flags[place] & RECENT)
        self.keywords[place] = self._keyword_number(keywords)

    def _append(self, entries: Sequence[Entry], recent_from: int) -> None:
        if not entries:
            return
        uids, modseqs, flags, keywords = zip(*entries, strict=True)
        self.uids.extend(uids)
        self.modseqs.extend(modseqs)
        if recent_from and uids[-1] >= recent_from:
            first = bisect_left(uids, recent_from)
            self._recent += len(uids) - first
            flags = (*flags[:first], *(bits | RECENT for bits in flags[first:]))
        self.flags.extend(flags)
        self.keywords.extend(map(self._keyword_number, keywords))

    def _update(self, row: Entry) -> None:
        uid, modseq, flags, keywords = row
        place = bisect_left(self.uids, uid)
        if place == len(self.uids) or self.uids[place] != uid or self.modseqs[place] >= modseq:
            return
        number = self._keyword_number(keywords)
        if self.flags[place] & ~RECENT != flags or self.keywords[place] != number:
            self._changed.add(uid)
        self.note_flags(place, modseq, flags, keywords)

    def _keyword_number(self, keywords: str) -> int:
        number = self._keyword_numbers.get(keywords)
        if number is None:
            number = self._keyword_numbers[keywords] = len(self._keyword_sets)
            self._keyword_sets.append(keywords)
        return number

    def _forget_unused_sets(self) -> None:
        """Bounds the memory of a session whose clients change keywords for hours; numbers change, so between uses."""
        if len(self._keyword_sets) <= KEYWORD_SETS_MAX:
            return
        used = sorted({*self.keywords, 0})
        renumbered = {old: new for new, old in enumerate(used)}
        self._keyword_sets = [self._keyword_sets[old] for old in used]
        self._keyword_numbers = {words: number for number, words in enumerate(self._keyword_sets)}
        self.keywords = array("I", [renumbered[number] for number in self.keywords])

    # -- what the client is told ------------------------------------------------------------------------------------

    def tell(self, *, expunges: bool) -> News:
        """Brings the client's knowledge up to the store's as far as allowed; returns what has to be sent for that.

        `expunges` is False while FETCH, STORE or SEARCH by sequence number are being answered: RFC 3501 section 7.4.1.
        """
        self._forget_unused_sets()
        news = News()
        if expunges and self._gone:
            news.expunged = self._drop_gone()
        if self._told != len(self.uids):
            self._told = news.exists = len(self.uids)
        if self._recent != self._recent_told or news.exists >= 0:
            self._recent_told = news.recent = self._recent
        if self._changed:
            places = (self.place_of(uid) for uid in sorted(self._changed))
            news.changed = [place + 1 for place in places if place >= 0 and not self.is_gone(place)]
            self._changed.clear()
        return news

    def _drop_gone(self) -> list[int]:
        """Takes what is gone out of the arrays; returns the sequence numbers the client has to be told."""
        places = [bisect_left(self.uids, uid) for uid in sorted(self._gone)]
        self._gone.clear()
        self._recent -= sum(1 for place in places if self.flags[place] & RECENT)
        numbers = [place + 1 for place in places if place < self._told]
        self._told -= len(numbers)
        self.uids = without(self.uids, places)
        self.modseqs = without(self.modseqs, places)
        self.flags = without(self.flags, places)
        self.keywords = without(self.keywords, places)
        # RFC 3501 section 7.4.1 decrements at once what follows: from the highest down no number needs adjusting.
        numbers.reverse()
        return numbers


def without(values: array[int], places: Sequence[int]) -> array[int]:
    """The values without those at some places (ascending), copied in stretches."""
    kept = array(values.typecode)
    start = 0
    for place in places:
        kept.extend(values[start:place])
        start = place + 1
    kept.extend(values[start:])
    return kept
