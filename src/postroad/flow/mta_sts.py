"""The MTA-STS policies of other domains: fetched, kept in the store, renewed before they end.

    TXT record -> same id as the kept policy -> the kept policy
               -> another id, or nothing kept -> fetch -> keep it, or go on with what is kept
    no TXT record, or no answer               -> what is kept, until it expires

Invariant: nothing but the end of its own `max_age`, or a newer policy of the same domain, ends a kept policy
(RFC 8461 sections 3.3 and 10.2: an attacker who blocks DNS or HTTPS must not be able to take it away).
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
"""RFC 8461 section 3.3: "limit further attempts to a period of five minutes or longer per version ID"."""
FAILURES_MAX: Final = 10_000
"""Domains whose failed fetch is remembered; the oldest goes first."""
FETCHES_MAX: Final = 50
"""Policies fetched at the same time by one worker; more wait: slow web servers must not cost all memory."""
RENEW_EVERY_S: Final = 3600.0
RENEW_AFTER_S: Final = 86_400.0
"""RFC 8461 section 3.3: "a suggested refresh frequency is once per day"."""
RENEW_BEFORE_S: Final = 12 * 3600.0
"""A policy with less than this to live is fetched anew too: half a day is half the life of the short ones."""
RENEW_AGAIN_S: Final = 6 * 3600.0
"""A renewal that failed is tried again after this, so that policies of dead hosts do not keep others from theirs."""
RENEWALS_MAX: Final = 200
"""Policies renewed in one round."""
STALE_MAX: Final = 2_000
"""Policies looked at in one round, those among them whose renewal failed not long ago."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a domain: its policy, or why there is none although it announces one."""

    policy: Policy | None = None
    fault: str = ""
    """A word of RFC 8460 section 4.3.2.2 when the newest policy could not be had."""
    why: str = ""
    """What was in doubt, in words; without a fault nobody knows whether there is a policy."""


NOTHING: Final = Found()


class Memory(Protocol):
    """What is kept (`store.tls.TlsMemory`)."""

    async def sts(self, domain: str) -> KeptPolicy | None:
        """The policy kept for a domain, expired or not."""
        ...

    async def stale(self, fetched_us: int, before_us: int, now_us: int, limit: int) -> list[str]:
        """Domains whose policies were fetched before one time or end before the other."""
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
        self._unrenewed: dict[str, float] = {}
        """Until when no renewal is tried, by domain."""
        self._fetching: dict[tuple[str, str], asyncio.Task[Found]] = {}
        self._places = asyncio.Semaphore(FETCHES_MAX)
        self._renewing: asyncio.Task[None] | None = None

    async def of(self, domain: str) -> Found:
        """The policy that holds for a domain now."""
        record, doubt = await self._record(domain)
        kept = await self._kept(domain)
        if not record or (kept is not None and kept[0] == record):
            return Found(kept[1] if kept else None, "", doubt)
        fetched = await self._fetch(domain, record)
        if fetched.policy is None and kept is not None:
            return Found(kept[1], fetched.fault, fetched.why)
        return fetched

    async def _record(self, domain: str) -> tuple[str, str]:
        """The id that the domain's record announces, or empty; and why nobody knows it."""
        answer = await self._lookup.txt(mta_sts.name_of_record(domain))
        if answer.status is LookupStatus.FAILED:
            return "", f"the MTA-STS record of {domain} could not be looked up: {answer.why or 'no answer'}"
        return mta_sts.read_id(answer.records) if answer.status is LookupStatus.FOUND else "", ""

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
        """Fetches policies anew that were not for a day, or that end soon, one after the other."""
        now_us, now = self._clock.wall_us(), self._clock.monotonic()
        self._unrenewed = {domain: until for domain, until in self._unrenewed.items() if until > now}
        fetched_us, before_us = now_us - int(RENEW_AFTER_S * 1e6), now_us + int(RENEW_BEFORE_S * 1e6)
        stale = await self._memory.stale(fetched_us, before_us, now_us, STALE_MAX)
        for domain in [domain for domain in stale if domain not in self._unrenewed][:RENEWALS_MAX]:
            await self._renew(domain)

    async def _renew(self, domain: str) -> None:
        kept = await self._kept(domain)
        if kept is None:
            return
        # RFC 8461 section 10.2: "regardless of the state of the "_mta-sts" TXT record", which an attacker can suppress.
        record = (await self._record(domain))[0] or kept[0]
        found = await self._fetch(domain, record)
        if found.policy is not None:
            return
        self._unrenewed[domain] = self._clock.monotonic() + RENEW_AGAIN_S
        # Section 3.3: administrators are alerted "unless the cached policy mode is "none"", a domain's way out.
        if kept[1].mode != mta_sts.NONE:
            log.warning("the MTA-STS policy of %s could not be renewed, and holds until it ends: %s", domain, found.why)


async def fetch_policy(https: Getting, domain: str) -> Policy:
    """The policy that a domain hands out now (RFC 8461 section 3.3); raises Unfetched."""
    answer = await https.get(mta_sts.url_of_policy(domain))
    # "HTTP 3xx redirects MUST NOT be followed"; only 200 is an answer.
    if answer.status != 200:
        raise Unfetched(f"the answer was {answer.status}", answered=True)
    # RFC 8461 section 3.2: "senders SHOULD validate that the media type is "text/plain" to guard against cases where
    # web servers allow untrusted users to host non-text content".
    if answer.media_type != "text/plain":
        raise Unfetched(f"it is {answer.media_type[:60]}, not text/plain", "sts-policy-invalid")
    policy = mta_sts.read_policy(answer.body)
    if isinstance(policy, str):
        raise Unfetched(policy, "sts-policy-invalid")
    return policy
