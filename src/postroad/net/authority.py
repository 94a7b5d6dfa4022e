"""Asks the servers that are responsible for a name, not what a resolver remembers of them.

Whoever has just changed a zone wants to know what it says now, on every one of its servers. So each of them is asked by
itself, and answers that differ stand beside each other as `View`s. Implements `values.ports.Authority`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
from dns.rdatatype import RdataType

from postroad.net.dns import DNS_PORT, MAX_CNAMES, Nameserver, ask_server, parse_nameserver, system_nameservers
from postroad.values.ports import Lookup, LookupStatus, Told, View

SERVERS_MAX: Final = 13
"""Servers of one zone that are asked: as many as the root has."""

ROUNDS: Final = 2
"""How often a server is asked before it counts as silent: one packet may be lost."""


class _Zone(NamedTuple):
    """A zone and the hosts that serve it."""

    apex: dns.name.Name
    servers: tuple[dns.name.Name, ...]


class _Reply(NamedTuple):
    """What one host said."""

    host: str
    records: tuple[str, ...] = ()
    alias: dns.name.Name | None = None
    exists: bool = True
    why: str = ""
    """Why it said nothing that counts."""


class AuthorityByDns:
    """Finds the servers of a zone through a resolver and asks each; `port` differs from 53 in private networks only.

    No nameserver given means those of /etc/resolv.conf. A question takes at most `timeout_s` for each server.
    """

    def __init__(
        self, lookup: Lookup, nameservers: Sequence[str] = (), *, timeout_s: float = 5.0, port: int = DNS_PORT
    ) -> None:
        self._lookup = lookup
        self._resolvers = [parse_nameserver(text) for text in nameservers] or system_nameservers()
        self._timeout_s = timeout_s
        self._port = port
        self._zones: dict[dns.name.Name, _Zone | str] = {}
        self._addresses: dict[dns.name.Name, list[str]] = {}

    async def ask(self, name: str, kind: str) -> Told:
        """What all servers responsible for a name say of it; never raises. `kind` is "MX", "TXT", ..."""
        try:
            wanted = dns.name.from_text(name.encode("ascii").decode())
        except (dns.exception.DNSException, UnicodeError):
            return Told(why=f"{name!r} is not a domain name")
        return await self._ask(wanted, dns.rdatatype.from_text(kind), 0)

    async def _ask(self, name: dns.name.Name, kind: RdataType, aliases: int) -> Told:
        zone = await self._zone_of(name)
        if isinstance(zone, str):
            return Told(why=zone)
        replies = await asyncio.gather(*(self._ask_host(host, zone, name, kind) for host in zone.servers))
        silent = tuple(reply.why for reply in replies if reply.why)
        groups: dict[tuple[Any, ...], list[_Reply]] = {}
        for reply in replies:
            if not reply.why:
                groups.setdefault((frozenset(reply.records), reply.alias, reply.exists), []).append(reply)
        views: list[View] = []
        for group in groups.values():
            hosts = tuple(reply.host for reply in group)
            alias = group[0].alias
            if alias is None:
                views.append(View(hosts, group[0].records, group[0].exists))
                continue
            if aliases >= MAX_CNAMES:
                return Told(silent=silent, why=f"more than {MAX_CNAMES} aliases (CNAME)")
            told = await self._ask(alias, kind, aliases + 1)
            if told.why:
                return Told(silent=silent, why=f"it is an alias of {_text(alias)}: {told.why}")
            views += [View(hosts, view.records, view.exists, _text(alias)) for view in told.views]
            silent += told.silent
        if not views:
            return Told(silent=silent, why=silent[0] if silent else f"{_text(zone.apex)} has no servers")
        return Told(tuple(views), silent)

    # -- the zone ----------------------------------------------------------------------------------------------------

    async def _zone_of(self, name: dns.name.Name) -> _Zone | str:
        """The nearest zone at or above a name, or in words why it was not found."""
        found = self._zones.get(name)
        if found is None:
            found = self._zones[name] = await self._find_zone(name)
        return found

    async def _find_zone(self, name: dns.name.Name) -> _Zone | str:
        if name == dns.name.root:
            return (
                "no zone was found that it belongs to: does the domain exist, and does its registrar know its servers?"
            )
        got = await self._resolve(name, RdataType.NS)
        if isinstance(got, str):
            return got
        for rrset in got.answer:
            # An alias is not followed here: the servers of its target know nothing of this name.
            if rrset.rdtype == RdataType.NS and rrset.name == name:
                return _Zone(name, tuple(sorted(record.target for record in rrset)[:SERVERS_MAX]))
        return await self._zone_of(name.parent())

    async def _resolve(self, name: dns.name.Name, kind: RdataType) -> dns.message.Message | str:
        why = ""
        for _ in range(ROUNDS):
            for resolver in self._resolvers:
                got = await ask_server(name, kind, resolver, self._timeout_s / ROUNDS)
                if not isinstance(got, str):
                    return got
                why = got
        return why

    # -- one host ----------------------------------------------------------------------------------------------------

    async def _ask_host(self, host: dns.name.Name, zone: _Zone, name: dns.name.Name, kind: RdataType) -> _Reply:
        label = _text(host)
        addresses = self._addresses.get(host)
        if addresses is None:
            answer = await self._lookup.addresses(label)
            if answer.status is not LookupStatus.FOUND:
                return _Reply(label, why=f"{label} has no address: {answer.why or answer.status.value}")
            addresses = self._addresses[host] = list(answer.records)
        why = ""
        for turn in range(ROUNDS):
            for address in addresses:
                server = Nameserver(address, self._port)
                timeout = self._timeout_s / (ROUNDS * len(addresses))
                got = await ask_server(name, kind, server, timeout, recursive=False)
                if isinstance(got, str):
                    why = got
                elif not got.flags & dns.flags.AA:
                    why = f"{server} is not responsible for {_text(zone.apex)} (lame)"
                else:
                    return _read(label, got, zone, name, kind)
            if turn == 0 and "timeout" not in why:
                break  # it has answered, and will not say anything else
        return _Reply(label, why=f"{label}: {why}")


def _read(host: str, response: dns.message.Message, zone: _Zone, name: dns.name.Name, kind: RdataType) -> _Reply:
    """The records of the name, or its alias where that leads out of the zone or to nothing in this response."""
    found: dict[dns.name.Name, list[Any]] = {}
    aliases: dict[dns.name.Name, dns.name.Name] = {}
    for rrset in response.answer:
        if rrset.rdtype == kind:
            found.setdefault(rrset.name, []).extend(rrset)
        elif rrset.rdtype == RdataType.CNAME:
            aliases[rrset.name] = rrset[0].target
    if name in found:
        return _Reply(host, tuple(sorted(_rdata(record) for record in found[name])))
    if name in aliases:
        return _Reply(host, alias=aliases[name])
    return _Reply(host, exists=response.rcode() != dns.rcode.NXDOMAIN)


def _rdata(record: Any) -> str:
    """A record as people write it, names in lower case without the final dot, TXT as its whole text."""
    match record.rdtype:
        case RdataType.TXT:
            return b"".join(record.strings).decode("utf-8", "surrogateescape")
        case RdataType.MX:
            return f"{record.preference} {_text(record.exchange)}"
        case RdataType.SRV:
            return f"{record.priority} {record.weight} {record.port} {_text(record.target)}"
        case RdataType.PTR | RdataType.CNAME | RdataType.NS:
            return _text(record.target)
        case _:
            return str(record.to_text())


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()
