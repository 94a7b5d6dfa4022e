"""The Lookup port answered from dicts, for planners and checks that need no packets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from postroad.values.ports import Answer, LookupStatus, MxRecord

FAILED = Answer(LookupStatus.FAILED, why="SERVFAIL from 127.0.0.1")
NXDOMAIN = Answer(LookupStatus.NXDOMAIN)
NODATA = Answer(LookupStatus.NODATA)


class FakeLookup:
    """`mx` maps a domain to [(preference, host)], `addresses` a host to [address]; either may map to an Answer.

    What is in neither does not exist; a name with addresses only has no MX. `asked` lists the questions.
    """

    def __init__(
        self,
        mx: Mapping[str, Sequence[tuple[int, str]] | Answer] | None = None,
        addresses: Mapping[str, Sequence[str] | Answer] | None = None,
    ) -> None:
        self.mx_records = dict(mx or {})
        self.address_records = dict(addresses or {})
        self.asked: list[str] = []

    async def mx(self, domain: str) -> Answer:
        self.asked.append(f"{domain}/MX")
        found = self.mx_records.get(domain)
        if isinstance(found, Answer):
            return found
        if found is None:
            return NODATA if domain in self.address_records else NXDOMAIN
        return Answer(LookupStatus.FOUND, mx=tuple(MxRecord(preference, host) for preference, host in found))

    async def addresses(self, host: str) -> Answer:
        self.asked.append(f"{host}/A")
        found = self.address_records.get(host)
        if isinstance(found, Answer):
            return found
        if found is None:
            return NODATA if host in self.mx_records else NXDOMAIN
        return Answer(LookupStatus.FOUND, tuple(found))

    async def txt(self, name: str) -> Answer:
        return NXDOMAIN

    async def ptr(self, address: str) -> Answer:
        return NXDOMAIN
