"""What would become of mail for an address: its whole way in words, and on request a rehearsal with the real host.

The plan is made by the functions that send mail, from the same configuration, directory and DNS; nothing is written and
no message is sent. A rehearsal goes as far as RCPT and takes it back with RSET.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from random import Random
from typing import Final, Protocol

from postroad.config import Config
from postroad.flow.local import Planner
from postroad.flow.outbound import Courier, NoCourier
from postroad.flow.outside import Outside
from postroad.flow.parcels import Delivery, Letter
from postroad.flow.route import Hop, Plan
from postroad.flow.routing import Course
from postroad.flow.tls_policy import TlsPolicies, explain
from postroad.flow.ways import NextHopOf, plan_way
from postroad.store.records import Accept, Leg
from postroad.values.address import Address
from postroad.values.outcome import Fate, Outcome
from postroad.values.reply import Reply


class Prospect(Enum):
    """How sure it is that mail would leave."""

    ROUTABLE = "routable"
    UNDECIDED = "undecided"
    FAILS = "fails"


@dataclass(slots=True)
class Host:
    """One host that would be tried, in order."""

    name: str
    addresses: tuple[str, ...]
    port: int
    preference: int = 0
    """Place in the order of preference, from 1; hosts of equal place are tried in random order."""


@dataclass(slots=True)
class Trial:
    """What would become of mail for one address, before it is sent."""

    recipient: str
    prospect: Prospect = Prospect.ROUTABLE
    why: str = ""
    """What decides it when it is not routable."""
    mailboxes: list[str] = field(default_factory=list)
    """Addresses whose mailboxes here would get it."""
    expansions: list[str] = field(default_factory=list)
    """What aliases and gateways make of it."""
    route: str = ""
    """Route of the routes file; empty for none."""
    manner: str = ""
    """In words: "by MX", "to the next hop ...", "discarded: ..."."""
    sources: tuple[str, ...] = ()
    ehlo: str = ""
    login: str = ""
    site: str = ""
    hosts: list[Host] = field(default_factory=list)
    tls: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    when: str = ""
    dialog: list[str] = field(default_factory=list)
    """The rehearsal, a line each."""


class Waiting(Protocol):
    """What waits for a domain already (`store.waiting`)."""

    def __call__(self, domain: str) -> tuple[int, int]:
        """Deliveries, and the wall time of the next one; 0 when none waits."""
        ...


class _NoBodies:
    """A rehearsal sends no content."""

    def read(self, body_file: str) -> AsyncIterator[bytes]:
        raise AssertionError("nothing is sent in a rehearsal")


def nothing_waits(domain: str) -> tuple[int, int]:
    """For a machine without a queue."""
    return 0, 0


class Tryout:
    """Answers `look` for addresses. `planner` is None where no data folder says who is served here."""

    def __init__(
        self,
        config: Config,
        outside: Outside,
        policies: TlsPolicies,
        next_hop_of: NextHopOf,
        planner: Planner | None = None,
        waiting: Waiting = nothing_waits,
    ) -> None:
        self._config = config
        self._outside = outside
        self._policies = policies
        self._next_hop_of = next_hop_of
        self._planner = planner
        self._waiting = waiting

    async def look(
        self, address: Address, sender: Address | None = None, login: str = "", *, connect: bool = False
    ) -> list[Trial]:
        """The trial of an address: one for itself, or one for every address on other hosts that it leads to."""
        remotes, trial = [address], Trial(str(address))
        if self._planner is not None:
            plan = await self._planner.plan(address, may_relay=True)
            if plan.refusal is not None:
                trial.prospect = Prospect.FAILS if plan.refusal.permanent else Prospect.UNDECIDED
                trial.why = str(plan.refusal)
                return [trial]
            trial.expansions = [f"{was}: {into}" for was, into in plan.expansions]
            trial.mailboxes = [reached for _, _, reached in plan.copies]
            remotes = plan.remotes
        if trial.mailboxes:
            trial.when = "at once, as part of its acceptance"
        trials = [trial] if trial.mailboxes or not remotes else []
        for remote in remotes:
            one = Trial(str(remote), expansions=trial.expansions if not trials else [])
            await self._remote(one, remote, sender, login, connect)
            trials.append(one)
        return trials

    async def _remote(self, trial: Trial, address: Address, sender: Address | None, login: str, connect: bool) -> None:
        delivery = _delivery(address, sender, login)
        sender_text = str(sender) if sender is not None else ""
        course = self._outside.routes.course(str(address), address.domain_ascii, sender_text, login)
        delivery.steer(course)
        route = course.route
        trial.route = route.name if route is not None else ""
        if route is not None and (route.discard or route.hold):
            trial.manner = f"discarded ({route.reason})" if route.discard else f"held ({route.reason})"
            trial.when = "never" if route.discard else "when somebody releases it"
            return
        way = await plan_way(
            delivery, next_hop_of=self._next_hop_of, signposts=self._outside.signposts, lookup=self._outside.lookup,
            policies=self._policies,
        )  # fmt: skip
        if isinstance(way, Outcome):
            trial.prospect = Prospect.FAILS if way.fate is Fate.FAILED else Prospect.UNDECIDED
            trial.why = f"{way.reply}" if way.reply is not None else way.cause
            return
        self._describe(trial, way, course, delivery.domain)
        if connect:
            await self._rehearse(trial, way, address, sender)

    def _describe(self, trial: Trial, way: Plan, course: Course, domain: str) -> None:
        manner, relay = self._outside.manner, self._config.relay
        trial.site = way.site
        if course.hop is not None:
            trial.manner = f"to {course.hop}, as route {trial.route} says"
        else:
            trial.manner = f"to {way.site}, as configured" if way.fixed else "by MX"
        trial.sources = way.guise.sources or manner.bind
        trial.login = way.guise.login.user if way.guise.login is not None else ""
        for place, group in enumerate(way.groups, 1):
            trial.hosts += [Host(one.host, tuple(one.addresses), one.port, place) for one in group]
        names = dict.fromkeys(manner.name_of(way.guise, address) for one in trial.hosts for address in one.addresses)
        trial.ehlo = " or ".join(names)
        trial.tls = explain(way, way.tls, self._policies.noted(domain))
        trial.limits = [
            f"at most {relay.connections_per_lane} connections from each worker to this site",
            f"at most {relay.messages_per_connection} messages over one connection",
        ]
        count, next_us = self._waiting(domain)
        trial.when = "at once"
        if count:
            until = datetime.fromtimestamp(next_us / 1e6, UTC).astimezone().strftime("%H:%M")
            trial.when = f"at once, unless its hosts are left alone: {count:,} to {domain} wait, the next until {until}"
        fallback = course.route.fallback if course.route is not None else None
        if fallback is not None and course.route is not None and not course.falls_back:
            trial.when += f"; after {course.route.fallback_after} failed attempts to {fallback}"
        first_s = self._config.retry.delays_s[0]
        trial.when += f"; if it must wait, again after {first_s / 60:.3g} minutes"

    # -- the rehearsal -----------------------------------------------------------------------------------------------

    async def _rehearse(self, trial: Trial, way: Plan, address: Address, sender: Address | None) -> None:
        """Asks the first host that takes a session whether it would take this recipient."""
        undecided = True
        for hop in way.hops(Random()):
            courier = await self._open(hop, way)
            if isinstance(courier, NoCourier):
                trial.dialog.append(f"{hop}: {courier.outcome.cause}{_said(courier.outcome.reply)}")
                continue
            said = await courier.ask([address], sender)
            trial.dialog.append(f"{hop}: session as {self._outside.manner.name_of(way.guise, hop.address)}")
            trial.dialog.append(f"TLS: {courier.tls or 'none'}")
            if isinstance(said, Outcome):
                refused = said.reply
                trial.dialog.append(f"MAIL FROM:<{sender or ''}>: {said.cause}{_said(refused)}")
            else:
                [refused] = said
                trial.dialog.append(f"MAIL FROM:<{sender or ''}>: taken")
                trial.dialog.append(f"RCPT TO:<{address}>: {refused}")
            await courier.take_back()
            trial.dialog.append("RSET, QUIT: nothing was sent")
            undecided = refused is None or not (refused.positive or refused.permanent)
            if refused is not None and refused.permanent:
                trial.prospect, trial.why = Prospect.FAILS, str(refused)
            break
        if undecided:
            trial.prospect = Prospect.UNDECIDED
            trial.why = trial.why or "no host said yes or no"

    async def _open(self, hop: Hop, way: Plan) -> Courier | NoCourier:
        policy, manner = way.tls_of(hop.host), self._outside.manner
        opened = await Courier.open(hop, manner, _NO_BODIES, policy=policy, guise=way.guise)
        if isinstance(opened, NoCourier) and opened.try_plain:
            opened = await Courier.open(hop, manner, _NO_BODIES, plain=True, policy=policy, guise=way.guise)
        return opened


_NO_BODIES: Final = _NoBodies()


def _said(reply: Reply | None) -> str:
    return f" ({reply})" if reply is not None else ""


def _delivery(address: Address, sender: Address | None, login: str) -> Delivery:
    """A delivery as the queue would hold it, of a message that does not exist."""
    leg = Leg(0, str(address), address.domain_ascii, due_us=0)
    message = Accept(
        id=0, received_us=0, sender=str(sender) if sender is not None else "", header=b"", body=b"", body_file="",
        size=0, copies=[], legs=[leg], expires_us=0, keys="", events=b"", login=login,
    )  # fmt: skip
    return Delivery(Letter(message, 0, header=b"", body=b""), leg, 1)


def worst(trials: Sequence[Trial]) -> Prospect:
    """The prospect of all of them together."""
    found = {trial.prospect for trial in trials}
    if Prospect.FAILS in found:
        return Prospect.FAILS
    return Prospect.UNDECIDED if Prospect.UNDECIDED in found else Prospect.ROUTABLE
