"""The Lookup port answered from dicts, for planners and checks that need no packets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from postroad.values.ports import Answer, LookupStatus, MxRecord

FAILED = Answer(LookupStatus.FAILED, why="SERVFAIL from 127.0.0.1")
NXDOMAIN = Answer(LookupStatus.NXDOMAIN)
NODATA = Answer(LookupStatus.NODATA)


class FakeLookup:
    """`mx` maps a domain to [(preference, host)], `addresses` a host to [address]; either may map to an Answer.

    What is in neither does not exist; a name with addresses only has no MX. `asked` lists the questions.

    `txt` and `tlsa` go by the whole name, `aliases` (CNAME) are followed for addresses and TLSA. Answers about a name
    in one of the `secure` zones, and about whatever an alias there leads to in another one, carry the AD bit.
    """

    def __init__(
        self,
        mx: Mapping[str, Sequence[tuple[int, str]] | Answer] | None = None,
        addresses: Mapping[str, Sequence[str] | Answer] | None = None,
        txt: Mapping[str, Sequence[str] | Answer] | None = None,
        tlsa: Mapping[str, Sequence[bytes] | Answer] | None = None,
        aliases: Mapping[str, str] | None = None,
        secure: Collection[str] = (),
    ) -> None:
        self.mx_records = dict(mx or {})
        self.address_records = dict(addresses or {})
        self.txt_records = dict(txt or {})
        self.tlsa_records = dict(tlsa or {})
        self.aliases = dict(aliases or {})
        self.secure = set(secure)
        self.asked: list[str] = []

    async def mx(self, domain: str) -> Answer:
        self.asked.append(f"{domain}/MX")
        found = self.mx_records.get(domain)
        if isinstance(found, Answer):
            return found
        if found is None:
            return NODATA if domain in self.address_records else NXDOMAIN
        records = tuple(MxRecord(preference, host) for preference, host in found)
        return Answer(LookupStatus.FOUND, mx=records, authentic=self.is_secure(domain))

    async def addresses(self, host: str) -> Answer:
        self.asked.append(f"{host}/A")
        end, authentic = self.follow(host)
        found = self.address_records.get(end)
        if isinstance(found, Answer):
            return found
        if found is None:
            return replace(NODATA if end in self.mx_records else NXDOMAIN, authentic=authentic)
        alias = end if end != host else ""
        return Answer(LookupStatus.FOUND, tuple(found), authentic=authentic, alias=alias)

    async def txt(self, name: str) -> Answer:
        self.asked.append(f"{name}/TXT")
        found = self.txt_records.get(name, NXDOMAIN)
        return found if isinstance(found, Answer) else Answer(LookupStatus.FOUND, tuple(found))

    async def tlsa(self, name: str) -> Answer:
        self.asked.append(f"{name}/TLSA")
        end, authentic = self.follow(name)
        found = self.tlsa_records.get(end)
        if isinstance(found, Answer):
            return found
        if found is None:
            return replace(NXDOMAIN, authentic=authentic)
        return Answer(LookupStatus.FOUND, tlsa=tuple(found), authentic=authentic)

    async def cname(self, name: str) -> Answer:
        self.asked.append(f"{name}/CNAME")
        alias = self.aliases.get(name)
        if alias is None:
            return replace(NODATA, authentic=self.is_secure(name))
        return Answer(LookupStatus.FOUND, (alias,), authentic=self.is_secure(name))

    def is_secure(self, name: str) -> bool:
        """Whether a name lies in a signed zone."""
        return any(name == zone or name.endswith("." + zone) for zone in self.secure)

    def follow(self, name: str) -> tuple[str, bool]:
        """Where aliases lead to, and whether every step was signed."""
        authentic = self.is_secure(name)
        while name in self.aliases:
            name = self.aliases[name]
            authentic = authentic and self.is_secure(name)
        return name, authentic

    async def ptr(self, address: str) -> Answer:
        return NXDOMAIN
