"""Whose mail goes next in one lane: every user gets the same share, and small mail passes bulk. Pure.

Users (a login, else the domain of the sender) take turns by deficit round robin (Shreedhar and Varghese, "Efficient
Fair Queuing using Deficit Round Robin", 1995): each round gives each user who has mail waiting QUANTUM octets to
spend, a parcel costs its size and something for each recipient, and what was not enough is kept for the next round. So
a user with one small message waits for at most one round of the others, however much they have waiting. Where the
number of messages is limited, each user sends one in a round.

Within a user reports and small messages to one recipient go before the rest; after PASSES_MAX of them one of the rest
goes first.

Invariant: a parcel is in exactly one place; `len` counts all of them; a user is in the ring while it has mail waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from postroad.flow.parcels import Parcel
from postroad.flow.turns import Turns

QUANTUM: Final = 128 * 1024
"""Octets a user may send in one round: two of the largest messages that count as small."""

SMALL: Final = 64 * 1024
"""Octets of a message that a person waits for; attachments make more."""

FEW: Final = 1
"""Recipients of a message that goes with the small ones."""

COST_RECIPIENT: Final = 2 * 1024
"""Octets that a recipient counts: a message of no size still takes its round trips."""

COST_MAX: Final = 1024 * 1024
"""What the largest parcel costs: a round of more would let the others stand for minutes."""

PASSES_MAX: Final = 4
"""Small parcels of a user that pass one of its others."""


class _Share:
    """One user's parcels."""

    __slots__ = ("bulk", "credit", "passed", "small", "user")

    def __init__(self, user: str) -> None:
        self.user = user
        self.small: deque[Parcel] = deque()
        self.bulk: deque[Parcel] = deque()
        self.credit = 0
        self.passed = 0

    def queue(self) -> deque[Parcel]:
        """Where its next parcel stands."""
        if not self.bulk or (self.small and self.passed < PASSES_MAX):
            return self.small
        return self.bulk

    def take(self, queue: deque[Parcel]) -> Parcel:
        self.passed = self.passed + 1 if queue is self.small and self.bulk else 0
        return queue.popleft()

    @property
    def empty(self) -> bool:
        return not self.small and not self.bulk


class Waiting:
    """The parcels that wait in one lane. `append` puts one in, `take` gives the next, `put_back` returns it."""

    __slots__ = ("_back", "_count", "_ring", "_shares", "_turns")

    def __init__(self, turns: Turns | None = None) -> None:
        """`turns` counts what waits in all lanes of a site."""
        self._turns = turns or Turns()
        self._shares: dict[str, _Share] = {}
        self._ring: deque[_Share] = deque()
        self._back: list[Parcel] = []
        """Parcels that were taken and could not go: they had their turn, so they are next."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Parcel]:
        """All parcels: those put back first, then user by user."""
        yield from reversed(self._back)
        for share in self._ring:
            yield from share.small
            yield from share.bulk

    def append(self, parcel: Parcel) -> None:
        """Puts a parcel behind the others of its user."""
        user = parcel.letter.user
        share = self._shares.get(user)
        if share is None:
            share = self._shares[user] = _Share(user)
            self._ring.append(share)
        (share.small if is_small(parcel) else share.bulk).append(parcel)
        self._count += 1
        self._turns.entered(user)

    def put_back(self, parcel: Parcel) -> None:
        """Returns a parcel to the front."""
        self._back.append(parcel)
        self._count += 1
        self._turns.entered(parcel.letter.user)

    def peek(self) -> Parcel:
        """A parcel that goes soon, without taking it; the next one unless a turn ends."""
        if self._back:
            return self._back[-1]
        share = self._ring[0]
        return share.queue()[0]

    def take(self, *, paced: bool = False) -> Parcel:
        """The next parcel; there must be one. Where messages are `paced`, they and not octets are what is short: then
        users take turns message by message."""
        self._count -= 1
        parcel = self._back.pop() if self._back else self._take(paced)
        self._turns.left(parcel.letter.user)
        return parcel

    def _take(self, paced: bool) -> Parcel:
        ring = self._ring
        while len(ring) > 1 and not paced:
            share = ring[0]
            queue = share.queue()
            price = cost(queue[0])
            if share.credit >= price:
                share.credit -= price
                break
            share.credit += QUANTUM
            ring.rotate(-1)
        else:
            # Alone, or message by message, nobody owes anything.
            share = ring[0]
            queue = share.queue()
            share.credit = 0
        parcel = share.take(queue)
        if share.empty:
            # What is left of a turn is lost with it (the paper's rule), else waiting would be saved up.
            ring.popleft()
            del self._shares[share.user]
        elif paced:
            ring.rotate(-1)
        return parcel

    def take_all(self) -> list[Parcel]:
        """Empties it, in the order of `__iter__`."""
        every = list(self)
        for parcel in every:
            self._turns.left(parcel.letter.user)
        self._shares.clear()
        self._ring.clear()
        self._back.clear()
        self._count = 0
        return every

    @property
    def users(self) -> int:
        """How many users have mail waiting, not counting what was put back."""
        return len(self._ring)

    @property
    def logins(self) -> set[str]:
        """The logins of those users; empty text for mail without one."""
        return {share.queue()[0].letter.login for share in self._ring}


def is_small(parcel: Parcel) -> bool:
    """Whether somebody waits for it: a report, or a short message to one recipient."""
    letter = parcel.letter
    return not letter.sender or (letter.size <= SMALL and len(parcel.deliveries) <= FEW)


def cost(parcel: Parcel) -> int:
    """What a parcel takes of its user's share, in octets."""
    return min(parcel.letter.size + COST_RECIPIENT * len(parcel.deliveries), COST_MAX)
