"""A small authoritative DNS server on loopback: real UDP and TCP packets over a dict of names.

The playground serves its private domains with it, and tests make it misbehave by name. It is authoritative for the
root, so every name it does not know is NXDOMAIN: nothing that asks it ever reaches the internet.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

Records = Mapping[str, Mapping[str, Sequence[str]]]
"""Absolute name without the final dot -> type -> rdata texts: {"dev.test": {"MX": ["10 mx.dev.test."]}}."""

PLAIN_UDP_MAX: Final = 512
"""RFC 1035 section 4.2.1: octets of a UDP answer when the question carries no EDNS."""
DEFAULT_TTL: Final = 60
_SOA: Final = ". hostmaster. 1 3600 600 86400 {ttl}"
_BIND_TRIES: Final = 20


class Fault(Enum):
    """Ways a name can be answered wrongly."""

    SERVFAIL = "servfail"
    REFUSED = "refused"
    SILENT = "silent"
    TRUNCATED = "truncated"
    """TC over UDP; the whole answer over TCP."""
    BAD_ID = "bad id"
    """A forged answer with another id first, then the true one."""
    WRONG_QUESTION = "wrong question"
    """A forged answer to another question first, then the true one."""
    JUNK = "junk"
    """Bytes behind the end of the message."""
    GARBAGE = "garbage"
    """Not a DNS message at all."""
    LAME = "lame"
    """The answer of somebody who is not responsible for the name: AA is not set."""


class DnsServer:
    """Answers questions from `records`; both dicts may be changed while it runs.

    `faults` names what to spoil: "name" for every type, "name/TYPE" for one. `queries` lists what was asked, as
    "name/TYPE".
    """

    def __init__(
        self,
        records: Records,
        *,
        faults: Mapping[str, Fault] | None = None,
        ttl: int = DEFAULT_TTL,
        authentic: bool = False,
    ) -> None:
        self.records: dict[str, Mapping[str, Sequence[str]]] = {k.lower().rstrip("."): v for k, v in records.items()}
        self.faults: dict[str, Fault] = dict(faults or {})
        self.ttl = ttl
        self.authentic = authentic
        """Whether answers carry the AD bit, as from a validating resolver."""
        self.queries: list[str] = []
        self.tcp_queries = 0
        self.address = ""
        """"host:port" once it listens."""
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listens on one port with UDP and TCP; returns "host:port". Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        for left in reversed(range(_BIND_TRIES)):
            udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), local_addr=(host, port))
            bound = int(udp.get_extra_info("sockname")[1])
            try:
                self._tcp = await loop.create_server(lambda: _Tcp(self), host, bound)
            except OSError:
                udp.close()
                if port or not left:
                    raise
                continue
            self._udp = udp
            self.address = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
            break
        return self.address

    async def close(self) -> None:
        """Stops listening."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
            await self._tcp.wait_closed()

    async def __aenter__(self) -> DnsServer:
        if not self.address:
            await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- answering ---------------------------------------------------------------------------------------------------

    def answers(self, wire: bytes, *, tcp: bool) -> list[bytes]:
        """The packets to send for one question; none for a question that is to stay unanswered or is no question."""
        try:
            query = dns.message.from_wire(wire)
        except (dns.exception.DNSException, struct.error):
            return []
        if query.flags & dns.flags.QR or len(query.question) != 1:
            return []
        asked = query.question[0]
        name = asked.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(asked.rdtype)
        self.queries.append(f"{name}/{kind}")
        self.tcp_queries += tcp
        fault = self.faults.get(f"{name}/{kind}") or self.faults.get(name)
        return self._spoil(fault, query, tcp) if fault else [self._fit(query, self._answer(query), tcp)]

    def _spoil(self, fault: Fault, query: dns.message.Message, tcp: bool) -> list[bytes]:
        """The packets that a faulty server would send."""
        true = self._answer(query)
        match fault:
            case Fault.SILENT:
                return []
            case Fault.GARBAGE:
                return [b"\xff" * 7]
            case Fault.JUNK:
                return [true.to_wire() + b"junk"]
            case Fault.SERVFAIL | Fault.REFUSED:
                refusal = dns.message.make_response(query)
                refusal.set_rcode(dns.rcode.SERVFAIL if fault is Fault.SERVFAIL else dns.rcode.REFUSED)
                return [refusal.to_wire()]
            case Fault.LAME:
                true.flags &= ~dns.flags.AA
                return [self._fit(query, true, tcp)]
            case Fault.TRUNCATED:
                if tcp:
                    return [true.to_wire(max_size=65535)]
                short = dns.message.make_response(query)
                short.flags |= dns.flags.TC
                return [short.to_wire()]
            case Fault.BAD_ID:
                forged = dns.message.make_response(query)
                forged.set_rcode(dns.rcode.NXDOMAIN)
                forged.id ^= 0x5555
                return [forged.to_wire(), true.to_wire()]
            case Fault.WRONG_QUESTION:
                other = dns.message.make_query("forged.invalid.", dns.rdatatype.A, id=query.id)
                forged = dns.message.make_response(other)
                forged.set_rcode(dns.rcode.NXDOMAIN)
                return [forged.to_wire(), true.to_wire()]

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        """The true answer: records and the CNAME chain within our data, or NXDOMAIN/NODATA with the SOA."""
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA | dns.flags.RA
        if self.authentic:
            response.flags |= dns.flags.AD
        asked = query.question[0]
        kind = dns.rdatatype.to_text(asked.rdtype)
        name, seen = asked.name, set[dns.name.Name]()
        while True:
            types = self.records.get(name.to_text(omit_final_dot=True).lower())
            texts = types.get(kind) if types else None
            if texts:
                response.answer.append(self._rrset(name, asked.rdtype, texts))
                return response
            alias = types.get("CNAME") if types else None
            if not alias or name in seen:
                break
            seen.add(name)
            response.answer.append(self._rrset(name, dns.rdatatype.CNAME, alias))
            name = dns.name.from_text(alias[0])
        if types is None and not self._has_children(name):
            response.set_rcode(dns.rcode.NXDOMAIN)
        response.authority.append(self._rrset(dns.name.root, dns.rdatatype.SOA, [_SOA.format(ttl=self.ttl)]))
        return response

    def _has_children(self, name: dns.name.Name) -> bool:
        # RFC 8020: a name below which others exist is there, though it has no records.
        end = "." + name.to_text(omit_final_dot=True).lower()
        return any(known.endswith(end) for known in self.records)

    def _rrset(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, texts: Sequence[str]) -> dns.rrset.RRset:
        found = dns.rrset.RRset(name, dns.rdataclass.IN, rdtype)
        for text in texts:
            found.add(dns.rdata.from_text(dns.rdataclass.IN, rdtype, text), self.ttl)
        return found

    @staticmethod
    def _fit(query: dns.message.Message, response: dns.message.Message, tcp: bool) -> bytes:
        """The answer as it fits the transport: cut down to a TC bit when it is too long for UDP."""
        wire = response.to_wire(max_size=65535)
        room = query.payload if query.edns >= 0 else PLAIN_UDP_MAX
        if tcp or len(wire) <= max(room, PLAIN_UDP_MAX):
            return wire
        short = dns.message.make_response(query)
        short.flags |= dns.flags.TC
        return short.to_wire()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self.server = server
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self.transport is not None
        for packet in self.server.answers(data, tcp=False):
            self.transport.sendto(packet, addr)


class _Tcp(asyncio.Protocol):
    def __init__(self, server: DnsServer) -> None:
        self.server = server
        self.pending = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.pending += data
        while len(self.pending) >= 2:
            # RFC 1035 section 4.2.2: "prefixed with a two byte length field"
            end = 2 + int.from_bytes(self.pending[:2])
            if len(self.pending) < end:
                return
            wire = bytes(self.pending[2:end])
            del self.pending[:end]
            for packet in self.server.answers(wire, tcp=True):
                self.transport.write(len(packet).to_bytes(2) + packet)
