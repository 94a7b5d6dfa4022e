"""How much mail a worker holds in memory. Pure."""

from __future__ import annotations

from postroad.flow.parcels import Letter


class Window:
    """How much mail is held, and how much of it is each user's."""

    __slots__ = ("deliveries", "octets", "users")

    def __init__(self) -> None:
        self.deliveries = 0
        self.octets = 0
        self.users: dict[str, int] = {}

    def has_room(self, legs: int, size: int, deliveries_max: int, octets_max: int) -> bool:
        """Whether so much more stays within these limits."""
        return self.deliveries + legs <= deliveries_max and self.octets + size <= octets_max

    def add(self, letter: Letter) -> None:
        """Counts a letter with its open deliveries."""
        self.deliveries += letter.open
        self.octets += letter.weight
        self.users[letter.user] = self.users.get(letter.user, 0) + letter.open

    def remove(self, letter: Letter, count: int) -> None:
        """Takes off so many deliveries, and the octets of a letter that has none left."""
        self.deliveries -= count
        left = self.users.get(letter.user, 0) - count
        if left > 0:
            self.users[letter.user] = left
        else:
            self.users.pop(letter.user, None)
        if count and letter.open == 0:
            self.octets -= letter.weight
