"""What the SMTP sessions of one worker share: whom they ask, where mail goes, and the limits of a session."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from postroad.flow.intake import Intake
from postroad.flow.local import Planner
from postroad.flow.submission import Submissions
from postroad.net.tls import ServerTls
from postroad.rules.gate import Gate
from postroad.serve.conversions import Conversions
from postroad.serve.counters import SessionCounters
from postroad.serve.greeting import EarlyTalkers
from postroad.serve.lifecycle import Lifecycle
from postroad.serve.logins import Logins
from postroad.serve.refusals import Refusals
from postroad.store.account_records import Account
from postroad.store.spool import Spool
from postroad.values.facts import Facts
from postroad.values.ports import Clock
from postroad.values.reply import Reply


@dataclass(slots=True)
class Gates:
    """Who is asked about mail: one list of rules for the world, one for our own users."""

    inbound: Gate
    submission: Gate
    ended: Callable[[int], None] = lambda session: None
    """Told the number of each session that is over."""
    refused: Callable[[Facts, Reply], Awaitable[None]] | None = None
    """Told of each recipient that was refused before anybody was asked; None: nobody wants to know."""


@dataclass(slots=True)
class Service:
    """Everything that the SMTP sessions of one worker share."""

    hostname: str
    intake: Intake
    planner: Planner
    logins: Logins
    spool: Spool
    refusals: Refusals
    counters: SessionCounters
    lifecycle: Lifecycle
    tls: ServerTls
    clock: Clock
    relay_networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]
    data_timeout_s: float
    data_rate_min: int
    session_s: float
    submissions: Submissions
    full: Callable[[int], Reply | None]
    """Says early that there is no room for a message of this size (disk, queue, drafts)."""
    gates: Gates
    conversions: Conversions = field(default_factory=Conversions)
    """Who makes binary content into ordinary mail."""
    hide_clients: bool = False
    """Received lines of users' mail do not name the address it came from."""
    account: Callable[[str], Awaitable[Account | None]] | None = None
    """Finds the account of a login that a trusted peer has checked; None: such logins are not taken."""
    early: EarlyTalkers | None = None
    """Who must wait for the greeting of the MX; None: nobody."""
    tarpit: bool = False
    """Whether errors of strangers cost them time."""
    relayers: dict[str, bool] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    """Numbers sessions for those who keep something for one."""

    def may_relay(self, peer: str) -> bool:
        """Whether an address may relay without a login; remembered per address."""
        known = self.relayers.get(peer)
        if known is None:
            if len(self.relayers) > 10_000:
                self.relayers.clear()
            known = self.relayers[peer] = self._in_networks(peer)
        return known

    def _in_networks(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self.relay_networks)
