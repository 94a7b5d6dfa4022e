"""The MTA-STS policies of other domains: fetched, kept in the store, renewed before they end.

    TXT record -> same id as the kept policy -> the kept policy
               -> another id, or nothing kept -> fetch -> keep it, or go on with what is kept
    no TXT record, or no answer               -> what is kept, until it expires

Invariant: nothing but the end of its own `max_age`, or a newer policy of the same domain, ends a kept policy
(RFC 8461 section 5: an attacker who blocks DNS or HTTPS must not be able to take it away).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from postroad.net.https import Fetched, Unfetched
from postroad.store.client import UnitFailed
from postroad.store.tls import KeptPolicy, StsPolicy, sts_keep
from postroad.trust import mta_sts
from postroad.trust.mta_sts import Policy
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.ports import Clock, Lookup, LookupStatus

log = logging.getLogger(__name__)

REFETCH_S: Final = 300.0
"""RFC 8461 section 3.3: after a failed fetch "Senders SHOULD wait" five minutes and more before the next."""
FAILURES_MAX: Final = 10_000
"""Domains whose failed fetch is remembered; the oldest goes first."""
FETCHES_MAX: Final = 50
"""Policies fetched at the same time by one worker; more wait: slow web servers must not cost all memory."""
RENEW_EVERY_S: Final = 3600.0
RENEW_BEFORE_S: Final = 12 * 3600.0
"""A policy is fetched anew when it has less than this to live: half a day is half the life of the short ones."""
RENEWALS_MAX: Final = 200
"""Policies renewed in one round."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a domain: its policy, or why there is none although it announces one."""

    policy: Policy | None = None
    fault: str = ""
    """A word of RFC 8460 section 4.3.2.2 when the newest policy could not be had."""
    why: str = ""


NOTHING: Final = Found()


class Memory(Protocol):
    """What is kept (`store.tls.TlsMemory`)."""

    async def sts(self, domain: str) -> KeptPolicy | None:
        """The policy kept for a domain, expired or not."""
        ...

    async def expiring(self, before_us: int, now_us: int, limit: int) -> list[str]:
        """Domains whose policies end before a time."""
        ...


class Store(Protocol):
    """Where it is kept (`store.client.StoreClient`)."""

    async def call(self, unit: Callable[..., Any], args: Any) -> Any:
        """Runs a unit."""
        ...


class Getting(Protocol):
    """Who fetches (`net.https.Https`)."""

    async def get(self, url: str) -> Fetched:
        """Fetches a URL; raises Unfetched."""
        ...


class StsPolicies:
    """The policies, by domain."""

    def __init__(self, *, lookup: Lookup, https: Getting, memory: Memory, store: Store | None, clock: Clock) -> None:
        """Without a store nothing that is fetched is kept: for a look ahead."""
        self._lookup = lookup
        self._https = https
        self._memory = memory
        self._store = store
        self._clock = clock
        self._failed: dict[str, tuple[float, str, Found]] = {}
        """Until when no new fetch is made, of which record, and what its failure was."""
        self._fetching: dict[tuple[str, str], asyncio.Task[Found]] = {}
        self._places = asyncio.Semaphore(FETCHES_MAX)
        self._renewing: asyncio.Task[None] | None = None

    async def of(self, domain: str) -> Found:
        """The policy that holds for a domain now."""
        record = await self._record(domain)
        kept = await self._kept(domain)
        if not record or (kept is not None and kept[0] == record):
            return Found(kept[1]) if kept else NOTHING
        fetched = await self._fetch(domain, record)
        if fetched.policy is None and kept is not None:
            return Found(kept[1], fetched.fault, fetched.why)
        return fetched

    async def _record(self, domain: str) -> str:
        answer = await self._lookup.txt(mta_sts.name_of_record(domain))
        return mta_sts.read_id(answer.records) if answer.status is LookupStatus.FOUND else ""

    async def _kept(self, domain: str) -> tuple[str, Policy] | None:
        """The id and the policy that is kept, while it lasts."""
        try:
            kept = await self._memory.sts(domain)
        except StoreBroken:
            log.exception("the MTA-STS policy of %s could not be read", domain)
            return None
        if kept is None or kept.expires_us <= self._clock.wall_us():
            return None
        policy = mta_sts.read_policy(kept.policy.encode())
        return (kept.record, policy) if isinstance(policy, Policy) else None

    async def _fetch(self, domain: str, record: str) -> Found:
        """Fetches a policy; those who ask at the same time share one fetch, and a failure is not tried again soon."""
        failed = self._failed.get(domain)
        if failed is not None and failed[0] > self._clock.monotonic() and failed[1] == record:
            return failed[2]
        task = self._fetching.get((domain, record))
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetch_and_keep(domain, record))
            self._fetching[domain, record] = task
            task.add_done_callback(lambda _: self._fetching.pop((domain, record), None))
        return await asyncio.shield(task)

    async def _fetch_and_keep(self, domain: str, record: str) -> Found:
        try:
            async with self._places:
                policy = await fetch_policy(self._https, domain)
        except Unfetched as error:
            found = Found(None, error.result, f"the MTA-STS policy of {domain} could not be fetched: {error}")
            if len(self._failed) >= FAILURES_MAX:
                del self._failed[next(iter(self._failed))]
            self._failed[domain] = (self._clock.monotonic() + REFETCH_S, record, found)
            return found
        self._failed.pop(domain, None)
        expires_us = self._clock.wall_us() + policy.max_age_s * 1_000_000
        try:
            if self._store is not None:
                await self._store.call(sts_keep, StsPolicy(domain, record, policy.text, expires_us))
        except (StoreBroken, StoreFull, UnitFailed) as error:
            # It holds for this attempt; the next one fetches it again.
            log.warning("the MTA-STS policy of %s could not be kept: %s", domain, error)
        return Found(policy)

    # -- renewal -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to renew policies in the background; one worker of a machine does it."""
        self._renewing = asyncio.get_running_loop().create_task(self._renew_for_ever())

    async def stop(self) -> None:
        """Ends that, and every fetch under way."""
        tasks: list[asyncio.Task[Any]] = [*self._fetching.values()]
        if self._renewing is not None:
            tasks.append(self._renewing)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            try:
                await self.renew()
            except Exception:
                log.exception("MTA-STS policies could not be renewed")

    async def renew(self) -> None:
        """Fetches policies anew that end soon and are still announced, one after the other."""
        now_us = self._clock.wall_us()
        for domain in await self._memory.expiring(now_us + int(RENEW_BEFORE_S * 1e6), now_us, RENEWALS_MAX):
            record = await self._record(domain)
            if record:
                await self._fetch(domain, record)


async def fetch_policy(https: Getting, domain: str) -> Policy:
    """The policy that a domain hands out now (RFC 8461 section 3.3); raises Unfetched."""
    answer = await https.get(mta_sts.url_of_policy(domain))
    # "HTTP 3xx redirects MUST NOT be followed"; only 200 is an answer.
    if answer.status != 200:
        raise Unfetched(f"the answer was {answer.status}", answered=True)
    # RFC 8461 section 3.2: "the media type [...] SHOULD be text/plain to guard against cases where web servers
    # allow untrusted users to host non-text content"
    if answer.media_type != "text/plain":
        raise Unfetched(f"it is {answer.media_type[:60]}, not text/plain", "sts-policy-invalid")
    policy = mta_sts.read_policy(answer.body)
    if isinstance(policy, str):
        raise Unfetched(policy, "sts-policy-invalid")
    return policy
