"""Whose mail waits in memory for a site whose pace is limited, and when the rest of it comes back from the queue. Pure.

What may go within PATIENCE_S waits in memory, shared evenly by the users who have mail there; what comes later is put
off into the store until its turn. The turns of one user follow each other at the pace of the site times the number of
users, so a long backlog is fetched once, message by message as it can go, and never as a whole; and whoever has a
single message finds a place in memory however much others have waiting, while they are not hundreds.

Invariant: `users` counts the parcels in the queues of the site's lanes, and nobody stands there with none; `count` is
the sum.
"""

from __future__ import annotations

from typing import Final

PATIENCE_S: Final = 60.0
"""How long mail of a site whose pace is limited waits in memory for its turn; what would wait longer is put off."""

PUT_OFF_LONGEST_S: Final = 1800.0
"""A turn is at most so far away: the pace may become faster, or mail of others may end."""

TOGETHER_MAX: Final = 200
"""So many parcels of a site wait in memory at most, unless more may go within PATIENCE_S: else each of thousands of
users had one there, and the worker no room for what goes to other sites."""

COUNT_AGAIN_S: Final = 1.0
"""How old the number of users may be: counting them looks at all."""


class Turns:
    """The waiting mail of one site, by user."""

    __slots__ = ("_active", "_counted_at", "_next", "count", "users")

    def __init__(self) -> None:
        self.count = 0
        """Parcels in memory."""
        self.users: dict[str, int] = {}
        """Of these, those of each user."""
        self._next: dict[str, float] = {}
        """When the next parcel of a user that is put off gets its turn; those in the past mean nothing."""
        self._active = 1
        self._counted_at = float("-inf")

    def entered(self, user: str) -> None:
        """A parcel waits in memory."""
        self.count += 1
        self.users[user] = self.users.get(user, 0) + 1

    def left(self, user: str) -> None:
        """A parcel waits there no more."""
        self.count -= 1
        number = self.users[user] - 1
        if number:
            self.users[user] = number
        else:
            del self.users[user]

    def has_room(self, user: str, wait_s: float, pace_s: float, now: float, *, fresh: bool) -> bool:
        """Whether a parcel may wait in memory, where the next one goes in `wait_s` and the others `pace_s` apart.

        Fresh mail stands behind what its user has put off, unless one may go now and nobody is there; what comes back
        from the queue has had its turn.
        """
        if wait_s > PATIENCE_S:
            return False
        if fresh and self._next.get(user, 0.0) > now + PATIENCE_S and (self.count or wait_s > 0.0):
            return False
        if not pace_s:
            return True
        own = self.users.get(user, 0)
        room = 1 + int((PATIENCE_S - wait_s) / pace_s)
        return own < max(1, room // (len(self.users) + (not own))) and self.count < max(room, TOGETHER_MAX)

    def put_off(self, user: str, wait_s: float, pace_s: float, now: float) -> float:
        """The turn of a parcel that finds no room: when it comes back, on the clock of `now`."""
        self._count(now)
        first = now + max(wait_s, PATIENCE_S if pace_s else 0.0, pace_s * (self.count - 1))
        at = max(self._next.get(user, 0.0), first)
        last = now + max(wait_s, PUT_OFF_LONGEST_S)
        if at >= last:
            return last
        self._active += user not in self._next and user not in self.users
        self._next[user] = at + pace_s * self._active
        return at

    def _count(self, now: float) -> None:
        """Counts the users who share the pace, and forgets those whose turns are over."""
        if now - self._counted_at >= COUNT_AGAIN_S:
            self._counted_at = now
            self._next = {name: at for name, at in self._next.items() if at > now}
            self._active = len(self._next.keys() | self.users.keys())
