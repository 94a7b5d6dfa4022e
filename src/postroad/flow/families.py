"""IPv4 or IPv6 first: a memory of which addresses of a host could be reached, and of whole families that cannot. Pure.

Order inside one host is all it changes: the preference of hosts is their domain's word (RFC 5321 section 5.1), and no
address is ever left out, so what is remembered wrongly costs time and never mail.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from postroad.flow.route import Hop

HOST_S: Final = 3600.0
"""How long an address family of a host that failed comes behind the other: a round of retries of most mail."""

FAMILY_S: Final = 600.0
"""The same of a family by which no host at all could be reached; shorter, for it is one look at our own network."""

FAMILY_FAILURES: Final = 5
"""Hosts in a row that one family did not reach, and the other did or nobody did, before it is taken for broken here."""

HOSTS_KEPT: Final = 10_000
"""Hosts whose family is remembered: 2 MB."""


class FamilyMemory:
    """What is known of the two families; times are those of a monotonic clock.

    Invariant: at most HOSTS_KEPT hosts, the ones heard of longest ago are forgotten first.
    """

    __slots__ = ("_bad_until", "_failed_in_a_row", "_hosts")

    def __init__(self) -> None:
        self._hosts: OrderedDict[tuple[str, bool], float] = OrderedDict()
        self._failed_in_a_row = {False: 0, True: 0}
        self._bad_until = {False: 0.0, True: 0.0}

    def order(self, hops: Sequence[Hop], now: float) -> list[Hop]:
        """The same hops, of each host those first whose family is likely to work."""
        if not self._hosts and not any(self._bad_until.values()):
            return list(hops)
        ordered: list[Hop] = []
        for _, group in groupby(hops, key=lambda hop: hop.host):
            ordered += sorted(group, key=lambda hop: self.is_doubtful(hop, now))
        return ordered

    def is_doubtful(self, hop: Hop, now: float) -> bool:
        """Whether the family of this address failed lately, at this host or everywhere."""
        six = ":" in hop.address
        return self._bad_until[six] > now or self._hosts.get((hop.host, six), 0.0) > now

    def reached(self, hop: Hop) -> None:
        """A connection came to be."""
        if hop.address.startswith("/"):
            return
        six = ":" in hop.address
        self._hosts.pop((hop.host, six), None)
        self._failed_in_a_row[six] = 0
        self._bad_until[six] = 0.0

    def unreached(self, hop: Hop, now: float) -> None:
        """No connection came to be, for a reason of the network: refused, no route, silence."""
        if hop.address.startswith("/"):
            return
        six = ":" in hop.address
        key = (hop.host, six)
        if self._hosts.get(key, 0.0) <= now:
            # Ten connections to one dead host are one sign, not ten.
            self._failed_in_a_row[six] += 1
        self._hosts.pop(key, None)
        while len(self._hosts) >= HOSTS_KEPT:
            self._hosts.popitem(last=False)
        self._hosts[key] = now + HOST_S
        if self._failed_in_a_row[six] >= FAMILY_FAILURES:
            self._bad_until[six] = now + FAMILY_S
