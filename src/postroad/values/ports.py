"""Ports: what the pure shelves ask of the world, so that a test can answer with a dict or a fake clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Clock(Protocol):
    """Two kinds of time: monotonic for intervals, wall time only for rows and headers; and what tells them apart."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start that never step back."""
        ...

    def uptime(self) -> float:
        """The same, counting on while the machine is suspended: wall time gains on it only when somebody sets it."""
        ...

    def wall_us(self) -> int:
        """Microseconds since 1970, as people and rows count them."""
        ...


class LookupStatus(Enum):
    """How a DNS question ended; only NXDOMAIN and NODATA are facts, the rest is "could not tell"."""

    FOUND = "found"
    NODATA = "no such record"
    NXDOMAIN = "no such domain"
    FAILED = "could not tell"


@dataclass(frozen=True, slots=True)
class MxRecord:
    """One mail exchanger as published: lower preference is tried first (RFC 5321 section 5.1)."""

    preference: int
    host: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Records of one question as text (addresses, host names, joined TXT strings), or why there are none."""

    status: LookupStatus
    records: tuple[str, ...] = ()
    mx: tuple[MxRecord, ...] = ()
    why: str = ""
    """For people, when the status is FAILED: "SERVFAIL from 127.0.0.1", "timeout after 5 s"."""
    authentic: bool = False
    """The AD bit from a resolver trusted to validate."""
    tlsa: tuple[bytes, ...] = ()
    """RDATA of TLSA records as it came, also of those that are none (`trust.dane.read`)."""
    alias: str = ""
    """Where aliases (CNAME) led to; empty when the name is none."""


class Lookup(Protocol):
    """DNS questions that planners and checks may ask; an answer never raises."""

    async def mx(self, domain: str) -> Answer:
        """Mail exchangers of a domain, in `Answer.mx`; a null MX is one record with host "."."""
        ...

    async def addresses(self, host: str) -> Answer:
        """IPv6 and IPv4 addresses of a host as text, in `Answer.records`."""
        ...

    async def txt(self, name: str) -> Answer:
        """TXT strings of a name, each record's parts joined."""
        ...

    async def ptr(self, address: str) -> Answer:
        """Host names of an IP address."""
        ...

    async def tlsa(self, name: str) -> Answer:
        """TLSA records of a name such as "_25._tcp.mx.example.org", in `Answer.tlsa`."""
        ...

    async def cname(self, name: str) -> Answer:
        """The alias that a name itself is, in `Answer.records`, without following it."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """What some servers of a zone say in the same words."""

    servers: tuple[str, ...]
    records: tuple[str, ...] = ()
    """As people write them: "10 mx.example.org", the joined text of a TXT record, "0 0 993 mail.example.org"."""
    exists: bool = True
    """False: there is no such name (NXDOMAIN)."""
    alias: str = ""
    """The name that the records stand at, when the one asked for is an alias (CNAME)."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the servers responsible for a name say of it: one view when they agree, none when `why` tells why not."""

    views: tuple[View, ...] = ()
    silent: tuple[str, ...] = ()
    """Why some servers said nothing: one sentence each."""
    why: str = ""
    """Why nothing could be told at all."""


class Authority(Protocol):
    """Questions to the servers that are responsible for a name; an answer never raises."""

    async def ask(self, name: str, kind: str) -> Told:
        """The records of a name and kind ("MX", "TXT", "A", ...) on each of its servers."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """A host to try and the addresses found for it, in the order to try them."""

    host: str
    addresses: Sequence[str]
    port: int
    lmtp: bool = False
    """It speaks LMTP (RFC 2033)."""
    tls_first: bool = False
    """TLS from the first octet instead of STARTTLS (RFC 8314)."""
