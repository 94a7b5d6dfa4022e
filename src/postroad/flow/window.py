"""How much mail a worker holds in memory, and how much of it is each user's."""

from __future__ import annotations

from postroad.flow.parcels import Letter


class Window:
    """Counts of letters that are held; whoever asks names the limits."""

    __slots__ = ("deliveries", "octets", "users")

    def __init__(self) -> None:
        self.deliveries = 0
        self.octets = 0
        self.users: dict[str, int] = {}
        """Deliveries of each."""

    def has_room(self, legs: int, size: int, deliveries_max: int, octets_max: int) -> bool:
        """Whether a letter of `legs` deliveries and `size` octets stays within the limits."""
        return self.deliveries + legs <= deliveries_max and self.octets + size <= octets_max

    def add(self, letter: Letter) -> None:
        """A letter is held, with its open deliveries."""
        self.deliveries += letter.open
        self.octets += letter.weight
        self.users[letter.user] = self.users.get(letter.user, 0) + letter.open

    def remove(self, letter: Letter, count: int) -> None:
        """So many of its deliveries are not held any more; its octets go with the last."""
        self.deliveries -= count
        left = self.users.get(letter.user, 0) - count
        if left > 0:
            self.users[letter.user] = left
        else:
            self.users.pop(letter.user, None)
        if count and letter.open == 0:
            self.octets -= letter.weight
