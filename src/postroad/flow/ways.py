"""The way of one delivery: which hosts, by route, gateway or DNS, and what must hold of TLS at each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from postroad.flow.fates import Tale
from postroad.flow.parcels import Delivery, Letter
from postroad.flow.route import Plan, Signposts, plan, plan_gateway, plan_hop
from postroad.flow.routing import Course, Routes
from postroad.flow.tls_policy import OPPORTUNISTIC, WORDS, Level, TlsPolicies, TlsPolicy, policies_key
from postroad.store.records import TLS_BY_POLICY
from postroad.values.event import Event
from postroad.values.next_hop import parse_next_hop
from postroad.values.outcome import Outcome
from postroad.values.ports import Lookup

NextHopOf = Callable[[str], Awaitable[str]]
"""Where a gateway domain's mail is passed to, empty for other domains (`store.directory.Directory.next_hop`)."""


async def no_gateway(domain: str) -> str:
    """For a runner that knows no gateway domains."""
    return ""


def steer(
    routes: Routes, letter: Letter, deliveries: Sequence[Delivery], now_us: int
) -> tuple[list[Delivery], Tale | None]:
    """Chooses the course of each delivery; returns those that are to be sent, and the end of those that are not."""
    sent: list[Delivery] = []
    end = Tale()
    for delivery in deliveries:
        course = routes.course(
            delivery.recipient, delivery.domain, letter.sender, letter.login, attempt=delivery.attempt
        )
        delivery.steer(course)
        if course.route is None or not course.route.discard:
            sent.append(delivery)
            continue
        end.done.append(delivery.id)
        end.events.append(
            Event(
                kind="discarded",
                at_us=now_us,
                recipient=delivery.recipient,
                cause=course.route.reason,
                by="routes file",
            )
        )
    return sent, end if end.done else None


async def plan_way(
    delivery: Delivery, next_hop_of: NextHopOf, signposts: Signposts, lookup: Lookup, policies: TlsPolicies
) -> Plan | Outcome:
    """The hosts to try for a delivery, or the outcome for all mail of its domain that takes the same course.

    The host of a gateway domain stands in the directory and nowhere else, so no route leads elsewhere. A delivery that
    somebody moved goes where it was moved to, without the login of a route.
    """
    domain, course = delivery.domain, delivery.course
    next_hop = "" if delivery.next_hop else await next_hop_of(domain)
    if delivery.next_hop:
        way = await plan_hop(parse_next_hop(delivery.next_hop, signposts.port), lookup)
    elif next_hop:
        way = await plan_gateway(domain, parse_next_hop(next_hop), signposts, lookup)
    elif course.hop is not None:
        way = await plan_hop(course.hop, lookup)
    else:
        way = await plan(domain, signposts, lookup, by_mx=course.route is not None and course.route.by_mx)
    if isinstance(way, Outcome):
        return way
    found = await policies.for_plan(domain, way, delivery.letter.tls if delivery.wishes else TLS_BY_POLICY)
    elsewhere = bool(next_hop or delivery.next_hop)
    if course.route is not None and not elsewhere:
        found = at_least(found, way, course)
    # A login belongs to the host of its route and to no other.
    guise = replace(course.guise, login=None, ehlo="") if elsewhere else course.guise
    return replace(way, tls=found, tls_key=policies_key(found) if found else "", guise=guise)


def at_least(found: Mapping[str, TlsPolicy], way: Plan, course: Course) -> dict[str, TlsPolicy]:
    """Policies by host, raised to what the route asks for: a login is for a host that has proved its name only."""
    route = course.route
    assert route is not None
    level = Level.VERIFY if course.guise.login is not None else WORDS.get(route.tls, Level.NONE)
    raised = dict(found)
    for host, port in way.places:
        policy = raised.get(host, OPPORTUNISTIC)
        if port and level > policy.level and policy.hindrance is None:
            raised[host] = TlsPolicy(level, f"route {route.name}", (host,))
    return raised
