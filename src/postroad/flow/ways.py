"""The way of one delivery: which hosts, by gateway or DNS, and what must hold of TLS at each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from postroad.flow.parcels import Delivery
from postroad.flow.route import Plan, Signposts, plan, plan_gateway, plan_hop
from postroad.flow.tls_policy import TlsPolicies, policies_key
from postroad.store.records import TLS_BY_POLICY
from postroad.values.next_hop import parse_next_hop
from postroad.values.outcome import Outcome
from postroad.values.ports import Lookup

NextHopOf = Callable[[str], Awaitable[str]]
"""Where a gateway domain's mail is passed to, empty for other domains (`store.directory.Directory.next_hop`)."""


async def no_gateway(domain: str) -> str:
    """For a runner that knows no gateway domains."""
    return ""


async def plan_way(
    delivery: Delivery, next_hop_of: NextHopOf, signposts: Signposts, lookup: Lookup, policies: TlsPolicies
) -> Plan | Outcome:
    """The hosts to try for a delivery, or the outcome for all mail of its domain.

    The host of a gateway domain stands in the directory and nowhere else. A delivery that somebody moved goes where it
    was moved to.
    """
    domain = delivery.domain
    next_hop = "" if delivery.next_hop else await next_hop_of(domain)
    if delivery.next_hop:
        way = await plan_hop(parse_next_hop(delivery.next_hop, signposts.port), lookup)
    elif next_hop:
        way = await plan_gateway(domain, parse_next_hop(next_hop), signposts, lookup)
    else:
        way = await plan(domain, signposts, lookup)
    if isinstance(way, Outcome):
        return way
    wish = delivery.letter.tls if delivery.way != delivery.target else TLS_BY_POLICY
    found = await policies.for_plan(domain, way, wish)
    return replace(way, tls=found, tls_key=policies_key(found)) if found else way
