"""The `Lookup` port made real: dnspython over UDP and TCP, with a cache and one question in flight per name and type.

Only a response that says so makes a fact (NXDOMAIN, NODATA); whatever else happens - timeout, SERVFAIL, REFUSED, a lame
or garbled answer - is "could not tell" and never bounces mail.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import dns.asyncquery
import dns.edns
import dns.exception
import dns.flags
import dns.inet
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import dns.reversename
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.TLSA import TLSA
from dns.rdtypes.ANY.TXT import TXT

from postroad.net.dns_guard import GuardedBackend
from postroad.values.clock import SystemClock
from postroad.values.ports import Answer, Clock, LookupStatus, MxRecord

EDNS_PAYLOAD: Final = 1232
"""Octets of a UDP answer we ask for: fits IPv6's least MTU without fragments (RFC 9715 section 3.2: at most 1400)."""
MAX_CNAMES: Final = 8
"""Aliases followed for one question (row D5): a longer chain or a loop is "could not tell"."""
ROUNDS: Final = 2
"""How often every nameserver is asked before we give up."""
TTL_MIN_S: Final = 5
"""A shorter TTL would ask again for every message of a burst."""
TTL_MAX_S: Final = 86_400
"""A longer TTL would keep a typing error of another administrator for days."""
NEGATIVE_MAX_S: Final = 3_600
"""RFC 2308 section 5 allows 1-3 hours for the memory that a name does not exist."""
FAILED_S: Final = 2
"""How long "could not tell" is remembered, so that an outage costs few questions (RFC 2308 section 7)."""
CACHE_MAX: Final = 50_000
"""Answers kept, about 500 octets each; the oldest goes first."""
DNS_PORT: Final = 53
RESOLV_CONF: Final = Path("/etc/resolv.conf")


@dataclass(frozen=True, slots=True)
class Nameserver:
    """One server to ask; `trusted`: it runs on this machine, so nobody sits between it and us."""

    host: str
    port: int = DNS_PORT
    trusted: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.host if self.port == DNS_PORT else f"{host}:{self.port}"


def parse_nameserver(text: str) -> Nameserver:
    """Reads "address", "address:port" or "[v6]:port"; raises ValueError with words for the administrator."""
    host, port = text, DNS_PORT
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        if rest:
            port = _port(rest.removeprefix(":"), text)
    elif text.count(":") == 1:
        host, _, digits = text.partition(":")
        port = _port(digits, text)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"nameserver {text!r} is not an IP address with an optional port") from None
    return Nameserver(host, port, address.is_loopback)


def _port(digits: str, text: str) -> int:
    if not digits.isdecimal() or not 0 < int(digits) < 65536:
        raise ValueError(f"nameserver {text!r} has no port between 1 and 65535")
    return int(digits)


def system_nameservers(path: Path = RESOLV_CONF) -> list[Nameserver]:
    """The nameservers of resolv.conf, in order; 127.0.0.1 when it names none (resolv.conf(5))."""
    found = []
    try:
        lines = path.read_text("utf-8", "replace").split("\n")
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver" and dns.inet.is_address(words[1].partition("%")[0]):
            host = words[1]
            found.append(Nameserver(host, DNS_PORT, ipaddress.ip_address(host.partition("%")[0]).is_loopback))
    return found or [Nameserver("127.0.0.1", DNS_PORT, True)]


class DnsLookup:
    """Answers questions from its cache or by asking the nameservers in order; implements `values.ports.Lookup`.

    Equal questions asked at the same time share one query. A question takes at most `timeout_s` seconds. No nameserver
    given means those of /etc/resolv.conf.

    With `trust_ad` the AD bit of a nameserver on this machine is believed, and no other one is asked: who would ask on
    after a SERVFAIL, which is what a validating resolver says of a forged answer, would take the forgery from the next.
    """

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        *,
        timeout_s: float = 5.0,
        clock: Clock | None = None,
        trust_ad: bool = False,
    ) -> None:
        """Raises ValueError when `trust_ad` is set and no nameserver runs on this machine."""
        self._servers = [parse_nameserver(text) for text in nameservers] or system_nameservers()
        self._trust_ad = trust_ad
        if trust_ad:
            self._servers = [server for server in self._servers if server.trusted]
            if not self._servers:
                raise ValueError("dns.trust_ad needs a nameserver on this machine, and none is named")
        self._timeout_s = timeout_s
        self._now: Callable[[], float] = (clock or SystemClock()).monotonic
        self._cache: dict[tuple[RdataType, str], tuple[float, Answer]] = {}
        self._asking: dict[tuple[RdataType, str], asyncio.Task[Answer]] = {}

    async def mx(self, domain: str) -> Answer:
        """Mail exchangers of a domain, in `Answer.mx`; a null MX is one record with host "."."""
        return await self._question(RdataType.MX, domain)

    async def addresses(self, host: str) -> Answer:
        """IPv6 and IPv4 addresses of a host as text, IPv6 first.

        "Could not tell" for one family hides nothing: it counts only when the other family has no address.
        """
        six, four = await asyncio.gather(self._question(RdataType.AAAA, host), self._question(RdataType.A, host))
        records = six.records + four.records
        if records:
            found = [answer for answer in (six, four) if answer.records]
            authentic = all(answer.authentic for answer in found)
            return Answer(LookupStatus.FOUND, records, authentic=authentic, alias=found[0].alias)
        for status in (LookupStatus.FAILED, LookupStatus.NODATA):
            for answer in (four, six):
                if answer.status is status:
                    return answer
        return four

    async def txt(self, name: str) -> Answer:
        """TXT strings of a name, each record's parts joined; octets that are no UTF-8 survive as surrogates."""
        return await self._question(RdataType.TXT, name)

    async def ptr(self, address: str) -> Answer:
        """Host names of an IP address; NXDOMAIN for text that is no address."""
        try:
            name = dns.reversename.from_address(address).to_text(omit_final_dot=True)
        except (dns.exception.DNSException, ValueError):
            return Answer(LookupStatus.NXDOMAIN, why=f"{address} is no IP address")
        return await self._question(RdataType.PTR, name)

    async def tlsa(self, name: str) -> Answer:
        """TLSA records of a name such as "_25._tcp.mx.example.org", in `Answer.tlsa`."""
        return await self._question(RdataType.TLSA, name)

    async def cname(self, name: str) -> Answer:
        """The alias that a name itself is, in `Answer.records`, without following it."""
        return await self._question(RdataType.CNAME, name)

    def forget(self) -> None:
        """Empties the cache, as after a change of the network."""
        self._cache.clear()

    async def close(self) -> None:
        """Ends the questions still open; who waits for one gets CancelledError."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- cache -------------------------------------------------------------------------------------------------------

    async def _question(self, kind: RdataType, name: str) -> Answer:
        key = (kind, name.lower().rstrip("."))
        kept = self._cache.get(key)
        if kept is not None and kept[0] > self._now():
            return kept[1]
        task = self._asking.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask_and_keep(key))
            self._asking[key] = task
        # One asker that is cancelled must not take the answer away from the others.
        return await asyncio.shield(task)

    async def _ask_and_keep(self, key: tuple[RdataType, str]) -> Answer:
        try:
            answer, ttl = await self._resolve(*key)
            self._cache.pop(key, None)
            if len(self._cache) >= CACHE_MAX:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = (self._now() + ttl, answer)
            return answer
        finally:
            del self._asking[key]

    # -- one question --------------------------------------------------------------------------------------------------

    async def _resolve(self, kind: RdataType, name: str) -> tuple[Answer, float]:
        """The answer and how long to keep it; follows aliases over several queries when one does not hold them all."""
        try:
            wanted = dns.name.from_text(name.encode("ascii").decode())
        except (dns.exception.DNSException, UnicodeError):
            # A name that no DNS message can hold can have no records.
            return Answer(LookupStatus.NXDOMAIN, why=f"{name!r} is not a domain name"), NEGATIVE_MAX_S
        deadline = self._now() + self._timeout_s
        ttl, aliases, authentic = float(TTL_MAX_S), 0, True
        while True:
            got = await self._ask_servers(wanted, kind, deadline)
            if isinstance(got, str):
                return Answer(LookupStatus.FAILED, why=got), FAILED_S
            response, server = got
            authentic &= self._trust_ad and server.trusted and bool(response.flags & dns.flags.AD)
            chain = _Chain(response, wanted, kind)
            aliases += chain.aliases
            ttl = min(ttl, chain.ttl)
            if aliases > MAX_CNAMES or chain.loops:
                why = f"more than {MAX_CNAMES} aliases (CNAME) from {name}"
                return Answer(LookupStatus.FAILED, why=why), max(TTL_MIN_S, min(ttl, NEGATIVE_MAX_S))
            if chain.records is not None:
                alias = _host(chain.end) if aliases else ""
                return replace(_found(kind, chain.records), authentic=authentic, alias=alias), max(TTL_MIN_S, ttl)
            if response.rcode() == dns.rcode.NOERROR and chain.aliases and not response.authority:
                wanted = chain.end
                continue
            if chain.strays:
                return Answer(LookupStatus.FAILED, why=f"an answer about something else from {server}"), FAILED_S
            status = LookupStatus.NXDOMAIN if response.rcode() == dns.rcode.NXDOMAIN else LookupStatus.NODATA
            keep = min(ttl, _negative_ttl(response))
            return Answer(status, authentic=authentic), max(TTL_MIN_S, min(keep, NEGATIVE_MAX_S))

    async def _ask_servers(
        self, name: dns.name.Name, kind: RdataType, deadline: float
    ) -> tuple[dns.message.Message, Nameserver] | str:
        """The first usable response, or in words why there was none."""
        why = f"timeout after {self._timeout_s:g} s"
        tries = ROUNDS * len(self._servers)
        for turn in range(tries):
            left = deadline - self._now()
            if left <= 0:
                break
            server = self._servers[turn % len(self._servers)]
            got = await ask_server(name, kind, server, left / (tries - turn))
            if not isinstance(got, str):
                return got, server
            why = got
        return why


async def ask_server(
    name: dns.name.Name, kind: RdataType, server: Nameserver, timeout: float, *, recursive: bool = True
) -> dns.message.Message | str:
    """One query to one server within `timeout` seconds; in words why there is no usable response."""
    use_edns = 0
    while True:
        query = dns.message.make_query(name, kind, use_edns=use_edns, payload=EDNS_PAYLOAD)
        if recursive:
            # RFC 6840 section 5.7: "setting the AD bit in a query" asks for it in the answer.
            query.flags |= dns.flags.AD
        else:
            query.flags &= ~dns.flags.RD
        try:
            async with asyncio.timeout(timeout):
                response, _ = await dns.asyncquery.udp_with_fallback(
                    query, server.host, timeout, server.port, ignore_unexpected=True, ignore_errors=True,
                    backend=_backend(),
                )  # fmt: skip
        except (dns.exception.Timeout, TimeoutError):
            return f"timeout after {round(timeout, 1):g} s from {server}"
        except (dns.exception.DNSException, OSError, EOFError, ValueError) as error:
            return f"{type(error).__name__} from {server}: {error}"[:200]
        code = response.rcode()
        # RFC 6891 section 7: a server that does not know EDNS answers FORMERR; ask again without.
        if code == dns.rcode.FORMERR and use_edns == 0:
            use_edns = -1
            continue
        if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return f"{dns.rcode.to_text(code)} from {server}"
        if response.flags & dns.flags.TC:
            # By TCP: whoever says so there has not said all, and what is missing is no fact.
            return f"truncated answer from {server}"
        if any(rrset.rdclass != RdataClass.IN for rrset in response.answer):
            return f"records of another class from {server}"
        if _is_referral(response):
            return f"lame answer (a referral) from {server}"
        return response


@functools.cache
def _backend() -> Any:
    return GuardedBackend()


class _Chain:
    """The walk from the name asked for through the aliases of one response to the records, if it has them."""

    def __init__(self, response: dns.message.Message, name: dns.name.Name, kind: RdataType) -> None:
        aliases: dict[dns.name.Name, dns.name.Name] = {}
        found: dict[dns.name.Name, list[Any]] = {}
        self.ttl = float(TTL_MAX_S)
        for rrset in response.answer:
            if rrset.rdtype in (kind, RdataType.CNAME):
                self.ttl = min(self.ttl, rrset.ttl)
            if rrset.rdtype == kind:
                found.setdefault(rrset.name, []).extend(rrset)
            elif rrset.rdtype == RdataType.CNAME:
                aliases[rrset.name] = rrset[0].target
        self.end = name
        self.aliases = 0
        seen = {name}
        self.loops = False
        while self.end not in found and self.end in aliases and not self.loops:
            self.end = aliases[self.end]
            self.aliases += 1
            self.loops = self.end in seen
            seen.add(self.end)
        self.records = found.get(self.end)
        self.strays = any(rrset.name not in seen and rrset.rdtype != RdataType.DNAME for rrset in response.answer)
        """There are records of names that nobody asked for: without the right ones this is no "no such record"."""


def _is_referral(response: dns.message.Message) -> bool:
    # RFC 2308 section 2.2: NS records without SOA in the authority section send us elsewhere: no fact about the name.
    if response.answer or response.flags & dns.flags.AA or response.rcode() != dns.rcode.NOERROR:
        return False
    kinds = {rrset.rdtype for rrset in response.authority}
    return RdataType.NS in kinds and RdataType.SOA not in kinds


def _negative_ttl(response: dns.message.Message) -> float:
    # RFC 2308 section 5: the minimum of the SOA's MINIMUM field and its own TTL
    for rrset in response.authority:
        if rrset.rdtype == RdataType.SOA:
            return float(min(rrset.ttl, rrset[0].minimum))
    return TTL_MIN_S


def _found(kind: RdataType, records: list[Any]) -> Answer:
    return _READERS[kind](records)


def _read_mx(records: list[MX]) -> Answer:
    mx = tuple(MxRecord(r.preference, _host(r.exchange)) for r in sorted(records, key=lambda r: r.preference))
    return Answer(LookupStatus.FOUND, mx=mx)


def _read_txt(records: list[TXT]) -> Answer:
    return Answer(LookupStatus.FOUND, tuple(b"".join(r.strings).decode("utf-8", "surrogateescape") for r in records))


def _read_addresses(records: list[Any]) -> Answer:
    return Answer(LookupStatus.FOUND, tuple(str(r.address) for r in records))


def _read_ptr(records: list[Any]) -> Answer:
    return Answer(LookupStatus.FOUND, tuple(_host(r.target) for r in records))


def _read_tlsa(records: list[dns.rdata.Rdata]) -> Answer:
    return Answer(LookupStatus.FOUND, tlsa=tuple(record.to_wire() or b"" for record in records))


def _host(name: dns.name.Name) -> str:
    """A host name in lower case without the final dot; "." stays for a null MX (RFC 7505)."""
    return name.to_text(omit_final_dot=True).lower() or "."


_READERS: Final[dict[RdataType, Callable[[list[Any]], Answer]]] = {
    RdataType.MX: _read_mx,
    RdataType.TXT: _read_txt,
    RdataType.A: _read_addresses,
    RdataType.AAAA: _read_addresses,
    RdataType.PTR: _read_ptr,
    RdataType.CNAME: _read_ptr,
    RdataType.TLSA: _read_tlsa,
}


class _AnyTlsa(TLSA):
    """TLSA records of any octets: one that is too short is an unusable record, not a garbled answer (row D9)."""

    @classmethod
    def from_wire_parser(cls, rdclass: Any, rdtype: Any, parser: Any, origin: Any = None) -> Any:
        """The octets as they are."""
        return dns.rdata.GenericRdata(rdclass, rdtype, parser.get_remaining())


# The library's own way to register a class refuses types that it knows.
dns.rdata._rdata_classes[dns.rdataclass.IN, RdataType.TLSA] = _AnyTlsa
