"""Which hosts to try for a domain, and in which order: a pure plan from configuration and DNS.

    host of a gateway domain -> fixed next hop of the domain -> fixed next hop of all -> address literal
        -> MX -> implicit MX (A, AAAA)

Only a fact ends mail here (no such domain, null MX, a loop to ourselves, only addresses mail never goes to); a doubt of
the resolver defers it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from random import Random
from typing import Final

from postroad.flow.routing import PLAIN_GUISE, Guise
from postroad.flow.tls_policy import OPPORTUNISTIC, TlsPolicy
from postroad.values.next_hop import NextHop, parse_next_hop
from postroad.values.outcome import About, Fate, Outcome
from postroad.values.ports import Answer, Lookup, LookupStatus, MxRecord, Target
from postroad.values.reply import Reply

MAX_TRIES: Final = 20
"""Addresses tried in one attempt (row D6): at 30 s each they still fit the shortest usual retry time."""
MAX_HOSTS: Final = 20
"""Mail exchangers whose addresses are looked up for one plan."""
MAX_ADDRESSES: Final = 10
"""Addresses kept of one host, so that one host of many addresses does not hide the others."""

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052 section 2.1: an IPv4 address in IPv6 clothes."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One address of one host: what a connection goes to."""

    host: str
    address: str
    """An IP address, or the path of a unix socket."""
    port: int
    lmtp: bool = False
    fixed: bool = False
    """Somebody configured it."""
    tls_first: bool = False
    """TLS from the first octet (RFC 8314)."""

    def __str__(self) -> str:
        if self.address.startswith("/"):
            return f"unix:{self.address}"
        return f"{self.host} [{self.address}]:{self.port}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Hosts to try, best group first, and the site they make up.

    `site` is the same for every domain that is served by the same hosts: what connections are shared by.
    """

    site: str
    groups: tuple[tuple[Target, ...], ...]
    fixed: bool = False
    """Somebody configured this way; the hosts are no finding of DNS."""
    tls: Mapping[str, TlsPolicy] = field(default_factory=dict)
    """By host: what must hold of TLS there; what is not in it is opportunistic."""
    tls_key: str = ""
    """Short text of `tls`: equal for plans whose connections may be shared."""
    guise: Guise = PLAIN_GUISE
    """As whom we come there."""

    @property
    def key(self) -> str:
        """What a lane goes by: the site, the order of its hosts, what must hold of TLS and as whom we come, so that no
        mail travels to a host that its domain does not prefer, nor over a connection that was made under a weaker
        policy, from another address or with another login."""
        return " ".join(filter(None, (self.site, self.order, self.tls_key, self.guise.key)))

    @property
    def order(self) -> str:
        """The hosts by preference, "a.test>b.test,c.test"; empty where all are equal."""
        if len(self.groups) == 1:
            return ""
        return ">".join(",".join(sorted(target.host for target in group)) for group in self.groups)

    @property
    def places(self) -> list[tuple[str, int]]:
        """Host and port of every target; port 0 is a unix socket."""
        return [(target.host, target.port) for group in self.groups for target in group]

    def tls_of(self, host: str) -> TlsPolicy:
        """What must hold of TLS at one of the hosts."""
        return self.tls.get(host, OPPORTUNISTIC)

    def hops(self, rng: Random) -> list[Hop]:
        """At most MAX_TRIES addresses in the order of one attempt; hosts of equal preference in random order."""
        hops: list[Hop] = []
        for group in self.groups:
            # RFC 5321 section 5.1: "the sender-SMTP MUST randomize them to spread the load"
            for target in rng.sample(group, len(group)) if len(group) > 1 else group:
                hops += [
                    Hop(target.host, address, target.port, target.lmtp, self.fixed, target.tls_first)
                    for address in target.addresses
                ]
        return hops[:MAX_TRIES]


@dataclass(frozen=True, slots=True)
class Signposts:
    """What configuration says about ways out, read once."""

    port: int = 25
    next_hop: NextHop | None = None
    routes: Mapping[str, NextHop | None] = field(default_factory=dict)
    """By domain, or by ".domain" for all below it; None sends the domain by MX though there is a `next_hop`."""
    own_names: frozenset[str] = frozenset()
    own_addresses: frozenset[str] = frozenset()
    """Addresses that mail for the world reaches us by: an MX there is ourselves."""
    allow_private: tuple[IpNetwork, ...] = ()


def read_signposts(
    *,
    port: int = 25,
    next_hop: str = "",
    routes: Mapping[str, str] | None = None,
    own_names: Iterable[str] = (),
    own_addresses: Iterable[str] = (),
    allow_private: Iterable[str] = (),
) -> Signposts:
    """The configuration of the relay as the planner needs it; raises ValueError with words for the administrator."""
    return Signposts(
        port=port,
        next_hop=parse_next_hop(next_hop, port) if next_hop else None,
        routes={
            domain.lower().rstrip("."): parse_next_hop(hop, port) if hop else None
            for domain, hop in (routes or {}).items()
        },
        own_names=frozenset(name.lower().rstrip(".") for name in own_names),
        own_addresses=frozenset(str(ipaddress.ip_address(text)) for text in own_addresses),
        allow_private=tuple(ipaddress.ip_network(text, strict=False) for text in allow_private),
    )


async def plan(domain: str, signposts: Signposts, lookup: Lookup, *, by_mx: bool = False) -> Plan | Outcome:
    """The way to a domain (A-labels in lower case, or an address literal), or the outcome for all its mail.

    `by_mx`: next hops that are configured for it do not count.
    """
    hop = _fixed(domain, signposts) if not by_mx else None
    if hop is not None:
        return await _plan_fixed(hop, lookup)
    if domain.startswith("["):
        return _plan_literal(domain, signposts)
    answer = await lookup.mx(domain)
    if answer.status is LookupStatus.FOUND:
        return await _plan_mx(domain, answer.mx, signposts, lookup)
    if answer.status is LookupStatus.NODATA:
        # RFC 5321 section 5.1: "If an empty list of MXs is returned, the address is treated as if it was associated
        # with an implicit MX RR, with a preference of 0, pointing to that host."
        return await _plan_mx(domain, (MxRecord(0, domain),), signposts, lookup, implicit=True)
    if answer.status is LookupStatus.NXDOMAIN:
        return _failed("5.1.2", f"the domain {domain} does not exist", About.RECIPIENT)
    return _deferred("4.4.3", f"could not look up {domain}: {answer.why or 'no answer'}")


async def plan_hop(hop: NextHop, lookup: Lookup) -> Plan | Outcome:
    """The way of a delivery that somebody sent to this host: there and nowhere else."""
    return await _plan_fixed(hop, lookup)


async def plan_gateway(domain: str, hop: NextHop, signposts: Signposts, lookup: Lookup) -> Plan | Outcome:
    """The way to a gateway domain: its host, and never by MX, which is ourselves."""
    found = await _plan_fixed(hop, lookup)
    if isinstance(found, Plan) and hop.port == signposts.port and not hop.lmtp:
        for group in found.groups:
            for target in group:
                names = {target.host} & signposts.own_names
                if names or not signposts.own_addresses.isdisjoint(target.addresses):
                    # Whoever wrote it can mend it: the mail waits.
                    return _deferred("4.4.6", f"the host of {domain}, {hop}, is this server itself")
    return found


def _fixed(domain: str, signposts: Signposts) -> NextHop | None:
    """The configured next hop of a domain; a nearer name wins over a farther one."""
    routes = signposts.routes
    if routes:
        if domain in routes:
            return routes[domain]
        at = domain.find(".")
        while at >= 0:
            if domain[at:] in routes:
                return routes[domain[at:]]
            at = domain.find(".", at + 1)
    return signposts.next_hop


async def _plan_fixed(hop: NextHop, lookup: Lookup) -> Plan | Outcome:
    """A way somebody configured: its faults are ours, so they never end mail."""
    host = hop.host
    addresses: Sequence[str]
    if hop.is_socket or _ip(host) is not None:
        addresses = (host,)
    elif host == "localhost":
        # RFC 6761 section 6.3: names of localhost resolve to loopback without asking anybody.
        addresses = ("::1", "127.0.0.1")
    else:
        answer = await lookup.addresses(host)
        if answer.status is not LookupStatus.FOUND:
            why = answer.why or answer.status.value
            return _deferred("4.4.3", f"could not find the configured next hop {host}: {why}")
        addresses = _alternate(answer.records)
    return Plan(str(hop), ((Target(host, addresses, hop.port, hop.lmtp, hop.tls_first),),), fixed=True)


def _plan_literal(domain: str, signposts: Signposts) -> Plan | Outcome:
    """RFC 5321 section 4.1.3: [192.0.2.1] or [IPv6:2001:db8::1]."""
    text = domain[1:-1]
    address = _ip(text[5:] if text.lower().startswith("ipv6:") else text)
    if address is None:
        return _failed("5.1.2", f"{domain} is no address", About.RECIPIENT)
    if str(address) in signposts.own_addresses:
        return _failed("5.4.6", f"{domain} is this server itself", About.RECIPIENT)
    if not is_allowed(address, signposts.allow_private):
        return _failed("5.4.4", f"{domain} is a private address: no mail goes there", About.RECIPIENT)
    return Plan(f"{domain}:{signposts.port}", ((Target(domain, (str(address),), signposts.port),),))


async def _plan_mx(
    domain: str, records: Sequence[MxRecord], signposts: Signposts, lookup: Lookup, *, implicit: bool = False
) -> Plan | Outcome:
    # RFC 7505 section 3: a domain that takes no mail "advertises a single MX RR" with the root as its host.
    if len(records) == 1 and records[0].host in (".", ""):
        return _failed("5.1.10", f"the domain {domain} takes no mail (null MX)", About.RECIPIENT)
    found = _Findings()
    tried = 0
    for _, equals in groupby(sorted(records, key=lambda mx: mx.preference), key=lambda mx: mx.preference):
        # In one order always, so that the same hosts make the same site; chance comes in when they are tried.
        hosts = sorted({mx.host for mx in equals} - {".", ""})
        if not signposts.own_names.isdisjoint(hosts):
            found.ourselves = True
            break
        group: list[Target] = []
        for host in hosts[: MAX_HOSTS - tried]:
            tried += 1
            target = found.judge(host, await lookup.addresses(host), signposts)
            if target is not None:
                group.append(target)
        # RFC 5321 section 5.1: of a list with ourselves in it, "all records at that preference level and
        # higher-numbered ones MUST be discarded": whoever is not better than us would only send it back.
        if found.ourselves:
            break
        if group:
            found.groups.append(tuple(group))
        if tried >= MAX_HOSTS or found.addresses >= MAX_TRIES:
            break
    if found.groups:
        return Plan(_site(found.groups, signposts.port), tuple(found.groups))
    return found.nothing(domain, implicit)


@dataclass(slots=True)
class _Findings:
    """What the hosts looked up so far turned out to be."""

    groups: list[tuple[Target, ...]] = field(default_factory=list)
    addresses: int = 0
    ourselves: bool = False
    private: str = ""
    doubt: str = ""

    def judge(self, host: str, answer: Answer, signposts: Signposts) -> Target | None:
        """The host as a target when mail may go there."""
        if answer.status is LookupStatus.FAILED:
            self.doubt = self.doubt or f"could not look up {host}: {answer.why or 'no answer'}"
            return None
        own = signposts.own_addresses
        usable = []
        for text in answer.records:
            address = _ip(text)
            if address is None:
                continue
            if str(address) in own:
                self.ourselves = True
                return None
            if is_allowed(address, signposts.allow_private):
                usable.append(text)
            else:
                self.private = self.private or f"{host} [{text}]"
        if not usable:
            return None
        self.addresses += len(usable)
        return Target(host, _alternate(usable)[:MAX_ADDRESSES], signposts.port)

    def nothing(self, domain: str, implicit: bool) -> Outcome:
        """The outcome when there is no host to try: a doubt first, because it may hide one."""
        if self.doubt:
            return _deferred("4.4.3", self.doubt)
        if self.ourselves:
            return _failed("5.4.6", f"mail for {domain} loops back to this server", About.HOST)
        if self.private:
            return _failed("5.4.4", f"the mail exchanger of {domain} has a private address: {self.private}", About.HOST)
        what = "neither a mail exchanger nor an address" if implicit else "only mail exchangers without an address"
        return _failed("5.4.4", f"the domain {domain} has {what}", About.RECIPIENT)


def _site(groups: Iterable[Iterable[Target]], port: int) -> str:
    hosts = sorted({target.host for group in groups for target in group})
    return f"{','.join(hosts)}:{port}"


def _alternate(addresses: Sequence[str]) -> tuple[str, ...]:
    """IPv6 and IPv4 in turn, so that one broken family costs one try and not all of them."""
    six = [text for text in addresses if ":" in text]
    four = [text for text in addresses if ":" not in text]
    return tuple(text for pair in zip_longest(six, four) for text in pair if text is not None)


def is_allowed(address: IpAddress, allow_private: Iterable[IpNetwork] = ()) -> bool:
    """Whether mail for the world may go to an address: it is public, or configuration lists its network (row D4)."""
    if any(address.version == network.version and address in network for network in allow_private):
        return True
    hidden: IpAddress | None = None
    if isinstance(address, ipaddress.IPv6Address):
        hidden = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            hidden = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if hidden is not None:
        return is_allowed(hidden, allow_private)
    return address.is_global and not address.is_multicast


def _ip(text: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _failed(status: str, cause: str, about: About) -> Outcome:
    return Outcome(Fate.FAILED, about, cause, Reply(550, status, cause))


def _deferred(status: str, cause: str) -> Outcome:
    return Outcome(Fate.DEFERRED, About.HOST, cause, Reply(451, status, cause))
