"""What would become of mail for an address: its whole way in words, and on request a rehearsal with the real host.

The plan is made by the functions that send mail, from the same configuration, directory and DNS; nothing is written and
no message is sent. A rehearsal goes as far as RCPT and takes it back with RSET.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from random import Random
from typing import Final, Protocol

from postroad.config import Config
from postroad.config.providers import load as load_providers
from postroad.flow.lanes import SiteName, site_of
from postroad.flow.local import Planner
from postroad.flow.outbound import Courier, NoCourier
from postroad.flow.outside import Outside
from postroad.flow.parcels import Delivery, Letter
from postroad.flow.providers import Providers
from postroad.flow.route import Hop, Plan
from postroad.flow.routing import Course
from postroad.flow.shaping import Limits
from postroad.flow.tls_policy import TlsPolicies, explain
from postroad.flow.ways import NextHopOf, plan_way
from postroad.store.records import Accept, Leg
from postroad.store.suspensions import Suspended
from postroad.values.address import Address
from postroad.values.outcome import Fate, Outcome

PATIENCE_S: Final = 60.0
"""Seconds that a rehearsal waits for one answer: longer than hosts that greet late on purpose need, and not the five
minutes of RFC 5321 section 4.5.3.2, because somebody sits in front of it."""


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
    detours: list[str] = field(default_factory=list)
    """Source addresses that are not welcome there now, and why."""
    sources: tuple[str, ...] = ()
    ehlo: str = ""
    login: str = ""
    site: str = ""
    provider: str = ""
    """Name in the provider file; empty for hosts it does not know."""
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


class Shut(Protocol):
    """Which sites take no mail now, or less (`store.suspensions`)."""

    def __call__(self, site: str) -> Suspended | None:
        """What is known of a site by its key; None when it takes mail as ever."""
        ...


def nothing_is_shut(site: str) -> Suspended | None:
    """For a machine that has sent nothing."""
    return None


def nothing_waits(domain: str) -> tuple[int, int]:
    """For a machine without a queue."""
    return 0, 0


class Tryout:
    """Answers `look` for addresses. `planner` is None where no data folder says who is served here.

    Raises ConfigError when it is made, for a provider file that cannot be used.
    """

    def __init__(
        self,
        config: Config,
        outside: Outside,
        policies: TlsPolicies,
        next_hop_of: NextHopOf,
        planner: Planner | None = None,
        waiting: Waiting = nothing_waits,
        shut: Shut = nothing_is_shut,
        slowed: Shut = nothing_is_shut,
    ) -> None:
        self._config = config
        self._outside = outside
        self._policies = policies
        self._next_hop_of = next_hop_of
        self._planner = planner
        self._waiting = waiting
        self._shut = shut
        self._slowed = slowed
        self._providers = Providers(load_providers(config.relay.providers_file))

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
        way = await self._way(delivery)
        while isinstance(way, Plan) and (turned := self._elsewhere(way, delivery)):
            trial.detours.append(turned)
            way = await self._way(delivery)
        if isinstance(way, Outcome):
            trial.prospect = Prospect.FAILS if way.fate is Fate.FAILED else Prospect.UNDECIDED
            trial.why = f"{way.reply}" if way.reply is not None else way.cause
            return
        self._describe(trial, way, delivery.course, delivery.domain)
        if connect:
            await self._rehearse(trial, way, address, sender)

    async def _way(self, delivery: Delivery) -> Plan | Outcome:
        return await plan_way(
            delivery, next_hop_of=self._next_hop_of, signposts=self._outside.signposts, lookup=self._outside.lookup,
            policies=self._policies,
        )  # fmt: skip

    def _elsewhere(self, way: Plan, delivery: Delivery) -> str:
        """Turns a delivery to its next source address where the first is not welcome; returns why, or nothing."""
        site, shut = self._site(way)
        course = delivery.course.following
        if shut is None or not shut.by_source or course is None:
            return ""
        refused = " and ".join(way.guise.sources)
        delivery.turn_aside(course, shut.cause, 0.0)
        return f"{site.name} takes nothing from {refused} until {_clock(shut.until_us)} ({shut.cause})"

    def _site(self, way: Plan) -> tuple[SiteName, Suspended | None]:
        site = site_of(way, self._providers, self._outside.routes.usual_source)
        return site, self._shut(site.key)

    def _describe(self, trial: Trial, way: Plan, course: Course, domain: str) -> None:
        manner = self._outside.manner
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
        trial.provider, trial.limits = self._limits(way)
        slowed = self._slowed(self._site(way)[0].key)
        if slowed is not None:
            trial.limits.append(f"slower until {_clock(slowed.until_us)} ({slowed.cause})")
        trial.when = self._when(way, domain)
        fallback = course.route.fallback if course.route is not None else None
        if fallback is not None and course.route is not None and not course.falls_back:
            trial.when += f"; after {_count(course.route.fallback_after, 'failed attempt')} to {fallback}"
        first_s = self._config.retry.delays_s[0]
        span = f"{first_s / 60:.3g} minutes" if first_s >= 120 else f"{first_s:.3g} seconds"
        trial.when += f"; if it must wait, again after {span}"

    def _when(self, way: Plan, domain: str) -> str:
        """When the first attempt would be made."""
        site, shut = self._site(way)
        if shut is not None:
            return f"at {_clock(shut.until_us)}: {site.name} takes nothing until then ({shut.cause})"
        count, next_us = self._waiting(domain)
        if count:
            until = _clock(next_us)
            return f"at once, unless its hosts are left alone: {count:,} to {domain} wait, the next until {until}"
        return "at once"

    def _limits(self, way: Plan) -> tuple[str, list[str]]:
        """The provider whose hosts these are, and what its site may get from all workers together."""
        relay, provider = self._config.relay, self._site(way)[0].provider
        limits = Limits(relay.connections_per_lane, relay.messages_per_connection)
        limits = limits.within(self._providers.get(provider))
        said = [
            f"at most {_count(limits.connections, 'connection')} at a time",
            f"at most {_count(limits.messages_per_connection, 'message')} over one connection",
        ]
        if limits.per_minute:
            said.append(f"at most {_count(limits.per_minute, 'message')} a minute")
        if limits.per_hour:
            said.append(f"at most {_count(limits.per_hour, 'message')} an hour")
        if provider:
            said[0] += f", shared by all domains of {provider} (provider file)"
        return provider, said

    # -- the rehearsal -----------------------------------------------------------------------------------------------

    async def _rehearse(self, trial: Trial, way: Plan, address: Address, sender: Address | None) -> None:
        """Asks the first host that takes a session whether it would take this recipient."""
        undecided, unsaid = True, ""
        for hop in way.hops(Random()):
            courier = await self._open(hop, way)
            if isinstance(courier, NoCourier):
                refusal = _refusal(courier.outcome, str(hop))
                unsaid = unsaid or refusal
                trial.dialog.append(f"{hop}: {refusal}")
                continue
            said = await courier.ask([address], sender)
            trial.dialog.append(f"{hop}: session as {self._outside.manner.name_of(way.guise, hop.address)}")
            trial.dialog.append(f"TLS: {courier.tls or 'none'}")
            if isinstance(said, Outcome):
                refused = said.reply
                unsaid = _refusal(said, str(hop))
                trial.dialog.append(f"MAIL FROM:<{sender or ''}>: {unsaid}")
            else:
                [refused] = said
                unsaid = str(refused)
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
            trial.why = f"no host said yes or no: {unsaid}" if unsaid else "no host said yes or no"

    async def _open(self, hop: Hop, way: Plan) -> Courier | NoCourier:
        policy, manner = way.tls_of(hop.host), replace(self._outside.manner, patience_s=PATIENCE_S)
        opened = await Courier.open(hop, manner, _NO_BODIES, policy=policy, guise=way.guise)
        if isinstance(opened, NoCourier) and opened.try_plain:
            opened = await Courier.open(hop, manner, _NO_BODIES, plain=True, policy=policy, guise=way.guise)
        return opened


_NO_BODIES: Final = _NoBodies()


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _clock(at_us: int) -> str:
    """A wall time as a clock on the wall shows it."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).astimezone().strftime("%H:%M")


def _refusal(outcome: Outcome, host: str) -> str:
    """What came in place of a yes, for a line that names the host already; our own replies are no words of his."""
    cause = outcome.cause.removesuffix(f" ({host})")
    return f"{cause} ({outcome.reply})" if outcome.where and outcome.reply is not None else cause


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
