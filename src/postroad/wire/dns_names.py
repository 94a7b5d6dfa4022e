"""How much work the names of a DNS message are, before anything decodes them.

A pointer of two octets stands for a name of up to 127 labels (RFC 1035 section 4.1.4), so 64 kB can hold millions of
labels: a library that decodes them all is busy for seconds. Counted here is what it would walk, each name once.
"""

from __future__ import annotations

from typing import Final

HEADER_OCTETS: Final = 12
POINTER: Final = 0xC0

_SOLE_NAME: Final = {2: 0, 5: 0, 12: 0, 39: 0, 15: 2}
"""Types whose data is one name, by number, with the octets before it: NS, CNAME, PTR, DNAME, MX."""
_NO_NAMES: Final = frozenset({1, 16, 28, 41, 43, 48, 50, 51, 52, 99, 257})
"""Types without names: A, TXT, AAAA, OPT, DS, DNSKEY, NSEC3, NSEC3PARAM, TLSA, SPF, CAA."""


def labels(wire: bytes, enough: int) -> int:
    """Labels and pointers that decoding a message walks through; stops at `enough`, and where the message is broken.

    In data of types not known here every octet that can be a pointer counts as one: what is not asked for may be
    anything.
    """
    return _Count(wire, enough).run()


class _Count:
    __slots__ = ("enough", "far", "total", "wire")

    def __init__(self, wire: bytes, enough: int) -> None:
        self.wire = wire
        self.enough = enough
        self.far: dict[int, int] = {}
        """By place: what the name that begins there comes to."""
        self.total = 0

    def run(self) -> int:
        try:
            self._walk()
        except IndexError:
            pass
        return self.total

    def _walk(self) -> None:
        wire = self.wire
        questions = int.from_bytes(wire[4:6])
        records = sum(int.from_bytes(wire[at : at + 2]) for at in (6, 8, 10))
        at = HEADER_OCTETS
        for number in range(questions + records):
            at = self._name(at)
            if number < questions:
                at += 4
                continue
            kind = int.from_bytes(wire[at : at + 2])
            data = at + 10
            at = data + wire[at + 8] * 256 + wire[at + 9]
            self._record(kind, data, min(at, len(wire)))
            if self.total >= self.enough:
                return

    def _record(self, kind: int, data: int, end: int) -> None:
        if kind in _SOLE_NAME:
            self._name(data + _SOLE_NAME[kind])
        elif kind == 6:
            self._name(self._name(data))
        elif kind not in _NO_NAMES:
            for at in range(data, end):
                if self.wire[at] >= POINTER:
                    self._name(at)
                    if self.total >= self.enough:
                        return

    def _name(self, at: int) -> int:
        """Counts the name that begins here; returns where the octets behind it begin."""
        wire = self.wire
        start, own = at, 0
        while 0 < wire[at] < POINTER:
            own += 1
            at += 1 + wire[at]
        if wire[at] == 0:
            own += 1
            end = at + 1
        else:
            end = at + 2
            own += self._behind(start, (wire[at] & 0x3F) * 256 + wire[at + 1])
        self.far[start] = own
        self.total += own
        return end

    def _behind(self, start: int, target: int) -> int:
        """What a pointer leads to. A name is known by every place where one began, so no walk is done twice."""
        path: list[tuple[int, int]] = []
        wire = self.wire
        reached = 0
        while True:
            if target in self.far:
                reached = self.far[target]
                break
            if target >= start:
                # It must point backwards; a decoder refuses it.
                break
            at, own = target, 1
            while 0 < wire[at] < POINTER:
                own += 1
                at += 1 + wire[at]
            path.append((target, own))
            if wire[at] == 0:
                break
            start, target = target, (wire[at] & 0x3F) * 256 + wire[at + 1]
        for place, own in reversed(path):
            reached += own
            self.far[place] = reached
        return reached + 1
