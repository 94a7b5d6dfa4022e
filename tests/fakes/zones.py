"""A resolver and the servers of zones, each on a loopback address of its own and all on one port, as in the world."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from postroad.net.authority import AuthorityByDns
from postroad.net.dns import DnsLookup
from tests.fakes.dns import DnsServer

Zone = dict[str, dict[str, list[str]]]

HOSTS = {"ns1.example.net": "127.0.0.2", "ns2.example.net": "127.0.0.3"}
"""Who serves example.com and the zone of 192.0.2.0/24."""

APEXES = ("example.com", "2.0.192.in-addr.arpa")


class World:
    """`resolver` knows who is responsible for what and nothing else; `servers` are the two who are."""

    def __init__(self, zone: Mapping[str, Mapping[str, list[str]]]) -> None:
        delegations: Zone = {apex: {"NS": [f"{host}." for host in HOSTS]} for apex in APEXES}
        delegations |= {host: {"A": [address]} for host, address in HOSTS.items()}
        self.resolver = DnsServer(delegations)
        self.servers = [DnsServer(dict(zone)) for _ in HOSTS]
        self.lookup: DnsLookup | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> World:
        await self.resolver.start()
        self._stack.push_async_callback(self.resolver.close)
        port = int(self.resolver.address.rpartition(":")[2])
        for server, address in zip(self.servers, HOSTS.values(), strict=True):
            await server.start(address, port)
            self._stack.push_async_callback(server.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.lookup is not None:
            await self.lookup.close()
        await self._stack.aclose()

    @property
    def port(self) -> int:
        return int(self.resolver.address.rpartition(":")[2])

    def authority(self, **changes: Any) -> AuthorityByDns:
        """The real port over these servers."""
        self.lookup = DnsLookup([self.resolver.address], timeout_s=1.0)
        arguments: dict[str, Any] = {"timeout_s": 0.4, "port": self.port} | changes
        return AuthorityByDns(self.lookup, [self.resolver.address], **arguments)
