"""What must hold of TLS before mail goes to a host, and who says so: DANE, MTA-STS, the configuration, the sender.

    "none" or "may" of the configuration        as it says, whatever the domain publishes
    TLS-Required: No of the message             opportunistic, whatever the domain publishes (RFC 8689 section 3)
    TLSA records, securely found                DANE (RFC 7672); before MTA-STS (RFC 8461 section 2)
    an MTA-STS policy in mode enforce           the host is named by it, and proves its name by a certificate
    "encrypt" or "verify" of the configuration  at least that
    REQUIRETLS of the message                   DANE or a proved name, and a host that promises the same
    nothing                                     opportunistic: encrypted where it can be (RFC 7435)

Invariant: a doubt never lowers what must hold. A look-up of TLSA records that fails makes the host unusable for now; it
never becomes "there are none" (RFC 7672 section 2.1.2, row D8).
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, Protocol

from postroad.flow.judge import unrequired
from postroad.flow.mta_sts import NOTHING, Found
from postroad.store.records import TLS_BY_POLICY, TLS_OPTIONAL, TLS_REQUIRED
from postroad.store.tls import KeptLevel
from postroad.trust import dane, mta_sts
from postroad.trust.dane import Tlsa
from postroad.trust.tlsrpt import NO_POLICY, STS, TLSA, Published
from postroad.values.errors import StoreBroken
from postroad.values.outcome import About, Fate, Outcome
from postroad.values.ports import Lookup, LookupStatus
from postroad.values.reply import Reply

NOTED_MAX: Final = 20_000
"""Domains whose policies are remembered for the reports; the oldest goes first."""


class Level(IntEnum):
    """What must hold before mail is sent, the stronger the higher."""

    NONE = 0
    """No TLS at all."""
    MAY = 1
    """Whatever comes to be."""
    ENCRYPT = 2
    """TLS with whoever answers."""
    VERIFY = 3
    """A certificate from a known authority for the name of the host."""
    DANE = 4
    """A certificate that fits the TLSA records."""


WORDS: Final = {"none": Level.NONE, "may": Level.MAY, "encrypt": Level.ENCRYPT, "verify": Level.VERIFY}
"""What `relay.tls_policy` may say."""


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What must hold at one host for one domain's mail."""

    level: Level
    why: str
    """Who says so, in words: "opportunistic", "DANE", "MTA-STS", "relay.tls_policy"."""
    names: tuple[str, ...] = ()
    """Names that the host may go by: the first is the one it is asked for (SNI)."""
    tlsa: tuple[Tlsa, ...] = ()
    requiretls: bool = False
    """The host must offer REQUIRETLS."""
    hindrance: Outcome | None = None
    """Why no mail may go to this host now."""
    fault: str = ""
    """The same as a word of RFC 8460 section 4.3, where it is one."""

    @property
    def must(self) -> bool:
        """Whether mail never goes there in the clear."""
        return self.level >= Level.ENCRYPT

    @property
    def key(self) -> str:
        """Two hosts with equal keys ask the same of a connection."""
        said = self.hindrance.cause if self.hindrance is not None else ""
        return f"{int(self.level)} {','.join(self.names)} {self.tlsa} {self.requiretls} {said}"


OPPORTUNISTIC: Final = TlsPolicy(Level.MAY, "opportunistic")
UNPROTECTED: Final = TlsPolicy(Level.NONE, "relay.tls is off")
UNIX_SOCKET: Final = TlsPolicy(Level.NONE, "a socket of this machine")


@dataclass(frozen=True, slots=True)
class Noted:
    """What was found of a domain when its way was planned last, for the journal and the reports."""

    sts: Found = NOTHING
    tlsa: Mapping[str, Published] | None = None
    """By host whose TLSA records count: the usable ones as text; no text where there is none or they are in doubt."""
    level: KeptLevel | None = None
    """The best protection that was ever seen there."""
    hosts: Mapping[str, Noted] | None = None
    """Of hosts that the configuration names, each a domain of its own; None where the domain names them."""

    def counted_as(self, domain: str, host: str) -> tuple[str, Noted]:
        """The domain that a session with this host is counted for, and what was found of it.

        RFC 8460 section 1.1: "when mail is routed to a "smarthost" gateway by local policy, the "smarthost" domain name
        is used instead".
        """
        return (domain, self) if self.hosts is None else (host, self.hosts.get(host, NOT_NOTED))

    def published(self, host: str) -> Published:
        """The policy that a session with this host is counted under."""
        if self.tlsa is not None and host in self.tlsa:
            return self.tlsa[host]
        if self.sts.policy is not None and self.sts.policy.mode != mta_sts.NONE:
            return Published(STS, self.sts.policy.lines, self.sts.policy.mx)
        return Published(STS) if self.sts.fault and self.sts.policy is None else Published(NO_POLICY)


NOT_NOTED: Final = Noted()


class Sts(Protocol):
    """Policies by domain (`flow.mta_sts.StsPolicies`)."""

    async def of(self, domain: str) -> Found:
        """The policy that holds for a domain now."""
        ...


class Levels(Protocol):
    """Protection seen before (`store.tls.TlsMemory`)."""

    async def level(self, domain: str) -> KeptLevel | None:
        """What was seen at a domain."""
        ...


class HasHosts(Protocol):
    """A plan as far as it matters here (`flow.route.Plan`)."""

    @property
    def fixed(self) -> bool:
        """Somebody configured it."""
        ...

    @property
    def places(self) -> Iterable[tuple[str, int]]:
        """Host and port of everything it may lead to; port 0 is a unix socket."""
        ...


@dataclass(frozen=True, slots=True)
class _Demand:
    """What is known of a domain before any of its hosts is looked at."""

    domain: str
    configured: Level | None
    wish: int
    fixed: bool
    secure: bool
    """The names of its hosts can be believed: a signed MX answer, or the configuration."""
    sts: Found
    alias: str = ""
    """The name that the domain leads to when it is an alias."""
    doubt: str = ""
    """Why it is not known whether its MX answer is signed."""


class TlsPolicies:
    """Answers `for_host`; one for a worker."""

    def __init__(
        self,
        lookup: Lookup,
        *,
        enabled: bool = True,
        dane: bool = False,
        configured: Mapping[str, Level] | None = None,
        sts: Sts | None = None,
        levels: Levels | None = None,
    ) -> None:
        """`dane`: the resolver validates and is trusted; `configured` goes by domain, or by ".domain" for all below it;
        without `sts` MTA-STS is not used."""
        self._lookup = lookup
        self._enabled = enabled
        self._dane = dane
        self._configured = dict(configured or {})
        self._sts = sts
        self._levels = levels
        self._noted: OrderedDict[str, Noted] = OrderedDict()

    # -- what is asked -----------------------------------------------------------------------------------------------

    async def for_host(
        self, domain: str, host: str, *, port: int = 25, fixed: bool = False, wish: int = TLS_BY_POLICY
    ) -> TlsPolicy:
        """What must hold at one host for the mail of one domain."""
        if not self._enabled and wish != TLS_REQUIRED:
            return UNPROTECTED
        return await self._decide(await self._demand(domain, fixed, wish), host, port)

    async def for_plan(self, domain: str, plan: HasHosts, wish: int = TLS_BY_POLICY) -> dict[str, TlsPolicy]:
        """What must hold at each host of a plan; a host where nothing special does is left out."""
        if not self._enabled and wish != TLS_REQUIRED:
            return {host: UNPROTECTED for host, _ in plan.places}
        demand = await self._demand(domain, plan.fixed, wish)
        places = dict(plan.places)
        found = await asyncio.gather(*(self._decide(demand, host, port) for host, port in places.items()))
        policies = dict(zip(places, found, strict=True))
        if wish == TLS_BY_POLICY:
            await self._note(domain, demand, policies)
        return {host: policy for host, policy in policies.items() if policy != OPPORTUNISTIC}

    def noted(self, domain: str) -> Noted:
        """What was found of a domain when its way was planned last."""
        return self._noted.get(domain, NOT_NOTED)

    async def _note(self, domain: str, demand: _Demand, policies: Mapping[str, TlsPolicy]) -> None:
        tlsa = {
            host: Published(TLSA, tuple(record.whole for record in policy.tlsa), domain=(policy.names or (host,))[0])
            for host, policy in policies.items()
            if policy.why.startswith("DANE")
        }
        named = [host for host, policy in policies.items() if policy is not UNIX_SOCKET]
        hosts = {host: Noted(await self._sts_for(demand, host), tlsa) for host in named} if demand.fixed else None
        try:
            level = await self._levels.level(domain) if self._levels is not None else None
        except StoreBroken:
            level = None
        if domain not in self._noted and len(self._noted) >= NOTED_MAX:
            self._noted.popitem(last=False)
        self._noted[domain] = Noted(demand.sts, tlsa or None, level, hosts)

    # -- the domain --------------------------------------------------------------------------------------------------

    def _configured_for(self, domain: str) -> Level | None:
        """The level that the configuration names; a nearer name wins over a farther one."""
        configured = self._configured
        if not configured:
            return None
        if domain in configured:
            return configured[domain]
        at = domain.find(".")
        while at >= 0:
            if domain[at:] in configured:
                return configured[domain[at:]]
            at = domain.find(".", at + 1)
        return None

    async def _demand(self, domain: str, fixed: bool, wish: int) -> _Demand:
        configured = self._configured_for(domain)
        exact = configured in (Level.NONE, Level.MAY)
        if fixed or domain.startswith("["):
            return _Demand(domain, configured, wish, fixed, fixed, NOTHING)
        if (exact or wish == TLS_OPTIONAL) and wish != TLS_REQUIRED:
            return _Demand(domain, configured, wish, fixed, False, NOTHING)
        sts = await self._sts.of(domain) if self._sts is not None else NOTHING
        # RFC 7672 section 2.2.1: with an insecure MX answer the names of the hosts are anybody's; without any MX the
        # signed proof that there is none leads to the domain itself (section 2.2.2).
        answer = await self._lookup.mx(domain)
        secure = answer.authentic and answer.status in (LookupStatus.FOUND, LookupStatus.NODATA)
        failed = answer.status is LookupStatus.FAILED
        doubt = f"the MX records of {domain} could not be looked up: {answer.why or 'no answer'}" if failed else ""
        return _Demand(domain, configured, wish, fixed, secure, sts, answer.alias, doubt)

    # -- the host ----------------------------------------------------------------------------------------------------

    async def _decide(self, demand: _Demand, host: str, port: int) -> TlsPolicy:
        if not port:
            return UNIX_SOCKET
        policy = await self._by_policy(demand, host, port)
        return _required(demand, host, policy) if demand.wish == TLS_REQUIRED else policy

    async def _by_policy(self, demand: _Demand, host: str, port: int) -> TlsPolicy:
        configured = demand.configured
        if demand.wish != TLS_REQUIRED and configured in (Level.NONE, Level.MAY):
            return TlsPolicy(configured, "relay.tls_policy")
        published = OPPORTUNISTIC
        if demand.wish == TLS_OPTIONAL:
            published = TlsPolicy(Level.MAY, "TLS-Required: No")
        else:
            if self._dane and demand.doubt:
                # RFC 7672 section 2.1.2: a look-up that failed is no answer "not signed", which would let DANE go.
                hindrance = _deferred("4.4.3", demand.doubt)
                return TlsPolicy(Level.ENCRYPT, "DANE", hindrance=hindrance, fault="dnssec-invalid")
            by_dane = await self._by_dane(demand, host, port) if demand.secure else None
            if demand.fixed:
                demand = replace(demand, domain=host, sts=await self._sts_for(demand, host))
            if by_dane is not None and (by_dane.level is Level.DANE or by_dane.hindrance is not None):
                return by_dane
            published = _by_sts(demand, host) or by_dane or OPPORTUNISTIC
        if configured is not None and configured > published.level and published.hindrance is None:
            return TlsPolicy(configured, "relay.tls_policy", (host,))
        return published

    async def _sts_for(self, demand: _Demand, host: str) -> Found:
        """What holds for a host that the configuration names.

        RFC 8461 section 3.4: "compliant senders MUST treat the smart host domain as the Policy Domain".
        """
        exact = demand.configured in (Level.NONE, Level.MAY) and demand.wish != TLS_REQUIRED
        if self._sts is None or exact or host == "localhost" or is_address(host):
            return NOTHING
        return await self._sts.of(host)

    async def _by_dane(self, demand: _Demand, host: str, port: int) -> TlsPolicy | None:
        """What the host's TLSA records ask for; None where there are none that count."""
        if not self._dane or host == "localhost" or is_address(host):
            return None
        bases = await self._bases(host)
        if isinstance(bases, Outcome):
            return TlsPolicy(Level.ENCRYPT, "DANE", hindrance=bases, fault="dnssec-invalid")
        for base in bases:
            name = f"_{port}._tcp.{base}"
            answer = await self._lookup.tlsa(name)
            if answer.status is LookupStatus.FAILED:
                # RFC 7672 section 2.1.2: "the SMTP client MUST treat that server as unreachable and MUST NOT deliver
                # the message via that server".
                cause = f"the TLSA records of {name} could not be looked up: {answer.why or 'no answer'}"
                return TlsPolicy(Level.ENCRYPT, "DANE", hindrance=_deferred("4.7.5", cause), fault="dnssec-invalid")
            if answer.status is not LookupStatus.FOUND or not answer.authentic:
                continue
            records = dane.usable(answer.tlsa)
            if not records:
                # RFC 7672 section 2.2, where all records are unusable: "Any connection to the MTA MUST be made via TLS,
                # but authentication is not required."
                return TlsPolicy(Level.ENCRYPT, "DANE, no usable TLSA record", (base,))
            names = [base, host]
            if any(record.usage == dane.DANE_TA for record in records) and not demand.fixed:
                # RFC 7672 section 3.2.2: the next-hop domain is a reference identifier too, for DANE-TA(2) alone, and
                # so is the name that it leads to as an alias.
                names += [demand.domain, demand.alias]
            return TlsPolicy(Level.DANE, "DANE", tuple(dict.fromkeys(filter(None, names))), records)
        return None

    async def _bases(self, host: str) -> list[str] | Outcome:
        """The names below which TLSA records of a host count, the first to be asked first.

        RFC 7672 sections 2.2.2 and 2.2.3: where the host name is an alias, the name it leads to comes first if every
        step there is signed; the host name itself counts if at least its own alias is.
        """
        answer = await self._lookup.addresses(host)
        if answer.status is LookupStatus.FAILED:
            return _deferred("4.4.3", f"could not look up {host}: {answer.why or 'no answer'}")
        if answer.status is not LookupStatus.FOUND:
            return []
        if answer.authentic:
            return [answer.alias, host] if answer.alias else [host]
        if not answer.alias:
            return []
        itself = await self._lookup.cname(host)
        if itself.status is LookupStatus.FAILED:
            return _deferred("4.4.3", f"could not look up the alias {host}: {itself.why or 'no answer'}")
        return [host] if itself.authentic else []


def _by_sts(demand: _Demand, host: str) -> TlsPolicy | None:
    """What an MTA-STS policy in mode enforce asks for (RFC 8461 section 5)."""
    policy = demand.sts.policy
    if policy is None or policy.mode != mta_sts.ENFORCE:
        return None
    if policy.allows(host):
        return TlsPolicy(Level.VERIFY, "MTA-STS", (host,))
    cause = f"{host} is none of the hosts that the MTA-STS policy of {demand.domain} names"
    return TlsPolicy(Level.VERIFY, "MTA-STS", (host,), hindrance=_deferred("4.7.5", cause), fault="validation-failure")


def _required(demand: _Demand, host: str, policy: TlsPolicy) -> TlsPolicy:
    """What REQUIRETLS adds (RFC 8689 section 4.2.1)."""
    if policy.hindrance is not None:
        return policy
    sts = demand.sts.policy
    # Step 2: a certificate proves the name of a host, and not that the domain's mail belongs there.
    if not demand.secure and not (sts is not None and sts.mode != mta_sts.NONE and sts.allows(host)):
        cause = f"REQUIRETLS: neither DNSSEC nor MTA-STS confirms that {host} is a host of {demand.domain}"
        doubt = demand.doubt or demand.sts.why
        hindrance = _deferred("4.7.5", f"{cause}: {doubt}") if doubt else unrequired(cause)
        return TlsPolicy(Level.VERIFY, "REQUIRETLS", (host,), requiretls=True, hindrance=hindrance)
    if policy.level >= Level.VERIFY:
        return replace(policy, requiretls=True)
    return TlsPolicy(Level.VERIFY, "REQUIRETLS", (host,), requiretls=True)


def policies_key(policies: Mapping[str, TlsPolicy]) -> str:
    """A short text that is equal for equal demands: connections are shared by it; empty where nothing special holds.

    Begins with the highest level, for people.
    """
    if not policies:
        return ""
    said = "\n".join(f"{host} {policies[host].key}" for host in sorted(policies))
    highest = max(policy.level for policy in policies.values()).name.lower()
    return f"tls={highest}:{hashlib.sha256(said.encode()).hexdigest()[:32]}"


def describe(policy: TlsPolicy) -> str:
    """A policy in one line for people: "dane (DANE), 2 TLSA records"."""
    text = f"{policy.level.name.lower()} ({policy.why})"
    if policy.tlsa:
        text += f", {len(policy.tlsa)} TLSA record{'s' if len(policy.tlsa) > 1 else ''}"
    if policy.requiretls:
        text += ", REQUIRETLS"
    return f"{text}; not now: {policy.hindrance.cause}" if policy.hindrance is not None else text


def explain(plan: HasHosts, policies: Mapping[str, TlsPolicy], noted: Noted = NOT_NOTED) -> list[str]:
    """What must hold at each host of a plan, a line each, for people; then what could not be found out."""
    hosts = dict.fromkeys(host for host, _ in plan.places)
    lines = [f"{host}: {describe(policies.get(host, OPPORTUNISTIC))}" for host in hosts]
    sts = noted.sts
    if sts.policy is not None:
        lines.append(f"MTA-STS: mode {sts.policy.mode}, hosts {', '.join(sts.policy.mx) or 'none'}")
    return [*lines, sts.why] if sts.why else lines


def read_configured(table: Mapping[str, str]) -> dict[str, Level]:
    """`relay.tls_policy` as levels; raises ValueError for a word that is none."""
    levels = {}
    for domain, word in table.items():
        if word not in WORDS:
            raise ValueError(f'relay.tls_policy: "{word}" is none of {", ".join(WORDS)}')
        levels[domain.lower().rstrip(".")] = WORDS[word]
    return levels


def is_address(host: str) -> bool:
    """Whether a host goes by its address, as it is or as a literal."""
    try:
        ipaddress.ip_address(host.strip("[]").removeprefix("IPv6:"))
    except ValueError:
        return False
    return True


def _deferred(status: str, cause: str) -> Outcome:
    return Outcome(Fate.DEFERRED, About.HOST, cause, Reply(451, status, cause))
